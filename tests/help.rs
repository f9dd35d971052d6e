//! The help of every verb, as tests/snapshots/help has it. `scripts/snapshots` accepts changes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod testkit;

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};

use testkit::snapshot;

/// Columns of the terminal.
const WIDTH: usize = 100;

/// What `vmcryptfs VERB --help` prints. No terminal says how wide it is, so the lines have the same width everywhere.
fn help(verb: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs"));
    command.args(verb).arg("--help").env("COLUMNS", WIDTH.to_string()).stdin(Stdio::null());
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

/// Prose is as wide as the terminal: a line ends where the next word has no room. Examples and lists are indented.
fn refuse_short_lines(verb: &str, help: &str) {
    let lines: Vec<&str> = help.lines().collect();
    for pair in lines.windows(2) {
        let [line, next] = pair else { continue };
        let is_prose = |line: &str| line.starts_with(|first: char| !first.is_whitespace()) && !line.ends_with(':');
        let word = next.split(' ').next().unwrap_or_default();
        let has_room = line.chars().count() + 1 + word.chars().count() <= WIDTH;
        assert!(!(is_prose(line) && is_prose(next) && has_room), "{verb}: {line:?} ends before {word:?}");
    }
}

#[test]
fn the_help_of_every_verb_is_its_snapshot() {
    let mut texts = BTreeMap::new();
    collect(&[], &mut texts);
    assert!(texts.len() >= 40, "only {} verbs were found", texts.len());
    texts.iter().for_each(|(name, text)| refuse_short_lines(name, text));
    texts.iter().for_each(|(name, text)| snapshot::assert_snapshot("help", name, text));
    for entry in fs::read_dir(snapshot::folder("help")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(texts.contains_key(name.trim_end_matches(".txt")), "there is no verb of the snapshot {name}");
    }
}
