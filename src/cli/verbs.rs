//! That every verb passes the gate, or is known to change and open nothing.

use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};

use crate::cli::CommandLine;
use crate::event::EventName;

/// Verbs, and the operations that they do. What is below a verb does the same.
const OPERATIONS: &[(&str, &[EventName])] = &[
    ("provider add", &[EventName::ProviderAdd]),
    ("provider test", &[EventName::ProviderTest]),
    ("provider default", &[EventName::ProviderDefault]),
    ("provider retire", &[EventName::ProviderRetire]),
    ("provider backup", &[EventName::ProviderBackup]),
    ("provider restore", &[EventName::ProviderRestore]),
    ("create", &[EventName::Create]),
    ("create-disk", &[EventName::CreateDisk]),
    ("disk-names", &[EventName::DiskNames]),
    ("mount", &[EventName::Mount]),
    ("umount", &[EventName::Unmount]),
    ("unlock", &[EventName::Unlock]),
    ("lock", &[EventName::Lock]),
    ("check", &[EventName::Check]),
    ("rekey", &[EventName::RekeyShallow, EventName::RekeyDeep]),
    ("encrypt", &[EventName::Encrypt]),
    ("decrypt", &[EventName::Decrypt]),
    ("convert", &[EventName::Convert]),
    ("clone", &[EventName::Clone]),
    ("key add", &[EventName::KeyAdd]),
    ("key remove", &[EventName::KeyRemove]),
    ("header backup", &[EventName::HeaderBackup]),
    ("header restore", &[EventName::HeaderRestore]),
    ("header repair", &[EventName::HeaderRepair]),
    ("erase", &[EventName::Erase]),
    ("events verify", &[EventName::EventsVerify]),
];

/// Verbs that only read, and what.
const READERS: &[(&str, &str)] = &[
    ("provider list", "the configuration of this host"),
    ("status", "what a mount says of itself"),
    ("metrics", "what a mount has counted"),
    ("events", "the event log of this user"),
    ("info", "headers; and from a home, if its key is to be had, which files belong to a VMDK"),
    ("key list", "headers, and states of keys at their providers"),
    ("key in-use", "headers"),
    ("speed", "nothing"),
    ("manual pages", "the definition of the command line"),
    ("manual completions", "the definition of the command line"),
];

/// The names of all verbs that have none below them, or do something without.
fn verbs(command: &Command, name: &str) -> Vec<String> {
    let below: Vec<&Command> = command.get_subcommands().filter(|verb| verb.get_name() != "help").collect();
    if below.is_empty() {
        return vec![name.to_owned()];
    }
    let own = Some(name.to_owned()).filter(|_| !command.is_subcommand_required_set());
    let below = below.iter().flat_map(|verb| verbs(verb, format!("{name} {}", verb.get_name()).trim_start()));
    own.into_iter().chain(below).collect()
}

#[test]
fn every_verb_has_an_operation_or_a_reason_to_have_none() {
    let verbs = verbs(&CommandLine::command(), "");
    let entries = || OPERATIONS.iter().map(|(verb, _)| *verb).chain(READERS.iter().map(|(verb, _)| *verb));
    let is_of = |verb: &str, entry: &str| {
        let is_below = || verb.strip_prefix(entry).is_some_and(|rest| rest.starts_with(' '));
        verb == entry || (is_below() && !entries().any(|own| own == verb))
    };
    for verb in &verbs {
        let found = entries().filter(|entry| is_of(verb, entry)).count();
        assert_eq!(found, 1, "{verb}: it stands once, in OPERATIONS or in READERS");
    }
    for entry in entries() {
        assert!(verbs.iter().any(|verb| is_of(verb, entry)), "{entry} is not a verb");
    }
}

fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = |path: std::path::PathBuf| match path.is_dir() {
        true => sources(&path),
        false => fs::read_to_string(&path).unwrap_or_default(),
    };
    entries.map(text).collect()
}

#[test]
fn operations_of_verbs_are_there() {
    let sources = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    for name in OPERATIONS.iter().flat_map(|(_, names)| *names) {
        let implemented = format!("const NAME: EventName = EventName::{name:?};");
        assert!(sources.contains(&implemented), "no operation has the name {name:?}");
    }
}
