//! The documents say what is so: tests that they name exist, examples are safe to copy.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod citations;

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, Subcommand};
use vmcryptfs::cli::provider::ProviderCommand;
use vmcryptfs::provider::kind::ProviderKind;
use vmcryptfs::provider::kinds::KINDS;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder whose names end so.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_str().unwrap().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found
}

fn texts(folder: &str, endings: &[&str]) -> Vec<(PathBuf, String)> {
    files(folder, endings).into_iter().map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let sources = ["src", "attest", "services", "tests", "vmdk-layout"].map(|folder| texts(folder, &[".rs"])).concat();
    let scripts = files("scripts/tests", &[".sh"]);
    let document = fs::read_to_string(root().join("docs/THREAT-MODEL.md")).unwrap();
    let (_, table) = document.split_once("## What went wrong elsewhere").unwrap();
    let mut named = 0;
    for row in table.lines().filter(|line| line.starts_with("| ") && !line.contains("| here |")) {
        let here = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let tests: Vec<&str> = here.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty() || here.starts_with("Cannot happen"), "neither a test nor a reason: {row}");
        for test in tests {
            let function = format!("fn {test}(");
            let is_function = sources.iter().any(|(_, source)| source.contains(&function));
            let is_script = scripts.iter().any(|script| script.file_stem().unwrap() == test);
            assert!(is_function || is_script, "there is no test {test}: {row}");
            named += 1;
        }
    }
    assert!(named > 90, "only {named} tests are named");
}

/// QEMU guesses the format of a disk that is given without one, and a guest could choose what it finds.
#[test]
fn every_example_names_the_format_of_its_disk() {
    let readme = (root().join("README.md"), fs::read_to_string(root().join("README.md")).unwrap());
    let documents = [vec![readme], texts("docs", &[".md"]), texts("scripts", &["demo", "boot", ".sh"])].concat();
    let mut examples = 0;
    for (path, text) in documents {
        for line in text.lines().filter(|line| line.contains("-drive") || line.contains("<driver name=")) {
            let says = ["format=raw", "format=qcow2", "type='raw'", "type=\"raw\"", "type='qcow2'"];
            assert!(says.iter().any(|format| line.contains(format)), "{}: {line}", path.display());
            examples += 1;
        }
    }
    assert!(examples >= 3, "only {examples} examples were found");
}

/// The table of kinds of provider is what the help and the documents are made of, or agree with.
#[test]
fn help_and_documents_say_what_the_table_of_provider_kinds_says() {
    let command = ProviderCommand::augment_subcommands(Command::new("provider"));
    let add = command.find_subcommand("add").unwrap();
    let helped: Vec<&str> = add.get_subcommands().map(Command::get_name).collect();
    assert_eq!(helped, KINDS.map(ProviderKind::name));
    let manual = fs::read_to_string(root().join("docs/CLI.md")).unwrap();
    for kind in KINDS {
        let (name, usage) = (kind.name(), kind.usage());
        let help = add.find_subcommand(name).unwrap().clone().render_long_help().to_string();
        let mut synopsis = format!("`provider add {name} NAME");
        for argument in usage.arguments {
            let option = format!("--{} <{}>", argument.name, argument.value_name);
            assert!(help.contains(&option), "{option} is not in the help of {name}:\n{help}");
            let given = format!("--{} {}", argument.name, argument.value_name);
            synopsis += &if argument.required { format!(" {given}") } else { format!(" [{given}]") };
        }
        assert!(manual.contains(&format!("{synopsis}`")), "docs/CLI.md has no {synopsis}`");
        assert!(root().join(format!("src/provider/kinds/{name}.rs")).exists(), "{name} has no file of its own");
    }
}

/// A kind of provider is added in at most three files, and the row that says so names them.
#[test]
fn adding_a_provider_takes_at_most_three_files_that_exist() {
    let document = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let row = document.lines().find(|line| line.starts_with("| add a kind of provider |")).unwrap();
    let files: Vec<&str> = row.split('`').skip(1).step_by(2).filter(|name| name.contains('.')).collect();
    assert!((1..=3).contains(&files.len()), "{files:?}");
    for file in files {
        assert!(root().join(file).exists(), "{row}: there is no {file}");
    }
}

/// Where the time of day is read, and what for. Everything else measures with a clock that never jumps.
#[test]
fn the_wall_clock_decides_nothing() {
    let allowed = [
        // When something happened, for people.
        "src/cluster/exchange.rs",
        // That a host's clock is wrong, for people.
        "src/cluster/status/problems.rs",
        "src/control/status.rs",
        "src/cli/dump.rs",
        "src/dump/key_file.rs",
        "src/event.rs",
        "src/event/tests.rs",
        "src/operations/header.rs",
        "src/timestamp.rs",
        "src/provider.rs",
        "src/storage/claims/holder.rs",
        "src/work/erase.rs",
        "src/vm/keyring/states.rs",
        "src/vm/manifest.rs",
        "src/work/restore.rs",
        // That a file was re-encrypted, for copies by size and time: later than its former time in any case.
        "src/vm/attributes.rs",
        "src/work/deep_rekey/home_tests.rs",
        // How long a token lets a host ask to join a cluster.
        "src/cluster/join.rs",
        // Whether a lease has ended, by the clock of the file system, or of the host where nothing can be written; its tests
        // make files old.
        "src/cluster/board/folder/lease.rs",
        "src/cluster/board/folder/tests.rs",
        "src/cluster/tests.rs",
        "src/cluster/tests/attacks.rs",
        "src/cluster/tests/push.rs",
        "src/operations/cluster.rs",
        // Which dumps that were refused have events of their own, of processes that share no other clock over a restart.
        "src/operations/dump.rs",
        // Which events are shown.
        "src/cli/events.rs",
        // Validity of certificates, of which a host warns in time.
        "src/provider/kinds/kmip/certificate.rs",
        // Since when a key counts as compromised, for the key server.
        "src/provider/kinds/kmip/operation.rs",
    ];
    for (path, source) in texts("src", &[".rs"]) {
        let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        let reads_it = ["SystemTime::now", "Timestamp::now", "Utc::now", "clock_gettime", "gettimeofday"]
            .iter()
            .any(|call| source.contains(call));
        assert!(!reads_it || allowed.contains(&path.as_str()), "{path} reads the wall clock: what for?");
    }
}

/// A file says by its first bytes what it is: none of another kind has the same ones.
#[test]
fn each_kind_of_file_has_a_magic_of_its_own() {
    let mut kinds = std::collections::BTreeMap::new();
    for (path, source) in texts("src", &[".rs"]) {
        for declared in source.lines().filter(|line| line.contains("magic") || line.contains("MAGIC: [u8; 8]")) {
            if let Some(magic) = declared.split("*b\"").nth(1).and_then(|rest| rest.split('"').next()) {
                let other = kinds.insert(magic.to_owned(), path.clone());
                assert!(other.is_none(), "{magic} is that of {} and of {}", path.display(), other.unwrap().display());
            }
        }
    }
    assert!(kinds.len() >= 15, "{kinds:?}");
}
