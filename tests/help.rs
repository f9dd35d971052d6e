//! The help of every verb, as tests/snapshots/help has it. `scripts/snapshots` accepts changes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod testkit;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use testkit::snapshot;

/// What `vmcryptfs VERB --help` prints. No terminal says how wide it is, so the lines have the same width everywhere.
fn help(verb: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs"));
    command.args(verb).arg("--help").env("COLUMNS", "100").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{verb:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The verbs that a help text lists.
fn verbs_in(help: &str) -> Vec<String> {
    let Some((_, after)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = after.lines().take_while(|line| !line.is_empty());
    // A verb stands two columns in; what is said of it goes on further in.
    let verbs = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|verb| !verb.is_empty()));
    verbs.filter(|verb| *verb != "help").map(str::to_owned).collect()
}

/// The help of a verb and of all verbs below it.
fn collect(verb: &[String], texts: &mut BTreeMap<String, String>) {
    let text = help(verb);
    for below in verbs_in(&text) {
        collect(&[verb, &[below]].concat(), texts);
    }
    let name = if verb.is_empty() { "vmcryptfs".to_owned() } else { verb.join("-") };
    texts.insert(name, text);
}

#[test]
fn the_help_of_every_verb_is_its_snapshot() {
    let mut texts = BTreeMap::new();
    collect(&[], &mut texts);
    assert!(texts.len() >= 40, "only {} verbs were found", texts.len());
    texts.iter().for_each(|(name, text)| snapshot::assert_snapshot("help", name, text));
    for entry in fs::read_dir(snapshot::folder("help")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(texts.contains_key(name.trim_end_matches(".txt")), "there is no verb of the snapshot {name}");
    }
}
