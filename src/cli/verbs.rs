//! That every verb passes the gate, or is known to change and open nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory, Parser};

use crate::cli::progress::perform;
use crate::cli::{CommandLine, run_verb};
use crate::control::mounts::Mounted;
use crate::error::{Kind, Result};
use crate::event::EventName;
use crate::format::header::HOME_FILE;
use crate::gate::refusing::refusing;
use crate::operations::keys_in_memory::{Lock, Unlock};
use crate::operations::unmount::UnmountFolder;
use crate::provider::Providers;
use crate::serve::{Options, ServedFolder};

/// No example: what such a verb does is refused in `operations_on_a_mount_that_are_refused_change_nothing`.
const NEEDS_A_MOUNT: &str = "";

/// Verbs, the operations that they do, and an example of each. In that `@` is a folder that [`prepare`] has filled. What is
/// below a verb does the same.
const OPERATIONS: &[(&str, &[(EventName, &str)])] = &[
    ("provider add", &[(EventName::ProviderAdd, "provider add native other")]),
    ("provider test", &[(EventName::ProviderTest, "provider test local")]),
    ("provider default", &[(EventName::ProviderDefault, "provider default local")]),
    ("provider rename", &[(EventName::ProviderRename, "provider rename local mine")]),
    ("provider seal", &[(EventName::ProviderSeal, "provider seal local --share @/passphrase")]),
    ("provider retire", &[(EventName::ProviderRetire, "provider retire local KEY --datastore @/vms")]),
    ("provider backup", &[(EventName::ProviderBackup, "provider backup local @/new --passphrase-file @/passphrase")]),
    (
        "provider restore",
        &[(EventName::ProviderRestore, "provider restore local @/local.backup --passphrase-file @/passphrase")],
    ),
    (
        "cluster init",
        &[(
            EventName::ClusterInit,
            "cluster init prod --board folder:@/vms --admin-key @/new --name h1 --passphrase-file @/passphrase",
        )],
    ),
    ("cluster token", &[(EventName::ClusterToken, "cluster token --admin-key @/admin --passphrase-file @/passphrase")]),
    ("cluster join", &[(EventName::ClusterJoin, "cluster join --token-file @/passphrase --name h2")]),
    (
        "cluster approve",
        &[(EventName::ClusterApprove, "cluster approve h2 --admin-key @/admin --passphrase-file @/passphrase")],
    ),
    (
        "cluster share",
        &[(EventName::ClusterShare, "cluster share local --admin-key @/admin --passphrase-file @/passphrase")],
    ),
    ("cluster sync", &[(EventName::ClusterSync, "cluster sync")]),
    (
        "cluster remove",
        &[(EventName::ClusterRemove, "cluster remove h2 --admin-key @/admin --passphrase-file @/passphrase")],
    ),
    ("cluster admin new", &[(EventName::ClusterAdminKey, "cluster admin new @/new --passphrase-file @/passphrase")]),
    (
        "cluster admin add",
        &[(
            EventName::ClusterAdmins,
            "cluster admin add 0000000000000000000000000000000000000000000000000000000000000000 --admin-key @/admin \
             --passphrase-file @/passphrase",
        )],
    ),
    (
        "cluster admin remove",
        &[(
            EventName::ClusterAdmins,
            "cluster admin remove 0000000000000000000000000000000000000000000000000000000000000000 --admin-key @/admin \
             --passphrase-file @/passphrase",
        )],
    ),
    (
        "cluster admin threshold",
        &[(EventName::ClusterAdmins, "cluster admin threshold 1 --admin-key @/admin --passphrase-file @/passphrase")],
    ),
    (
        "cluster accept-board",
        &[(EventName::ClusterAcceptBoard, "cluster accept-board --admin-key @/admin --passphrase-file @/passphrase")],
    ),
    (
        "cluster rotate",
        &[(EventName::ClusterRotate, "cluster rotate local --admin-key @/admin --passphrase-file @/passphrase")],
    ),
    (
        "cluster retire",
        &[(
            EventName::ClusterRetire,
            "cluster retire local --datastore @/vms --admin-key @/admin --passphrase-file @/passphrase",
        )],
    ),
    ("trust enrol", &[(EventName::TrustEnrol, "trust enrol --token-file @/passphrase --name kvm1")]),
    ("trust attest", &[(EventName::TrustAttest, "trust attest")]),
    ("trust propose", &[(EventName::TrustPropose, "trust propose @/passphrase")]),
    ("create", &[(EventName::Create, "create @/vms/new")]),
    ("create-disk", &[(EventName::CreateDisk, "create-disk @/vms/web01/new.raw --size 1M")]),
    ("disk-names", &[(EventName::DiskNames, "disk-names @/vms/web01 --add x*")]),
    ("mount", &[(EventName::Mount, "mount --foreground @/vms/web01 @/mnt --metrics unix:@/metrics")]),
    ("umount", &[(EventName::Unmount, NEEDS_A_MOUNT)]),
    ("unlock", &[(EventName::Unlock, NEEDS_A_MOUNT)]),
    ("lock", &[(EventName::Lock, NEEDS_A_MOUNT)]),
    ("check", &[(EventName::Check, "check @/vms/web01")]),
    ("accept-rollback", &[(EventName::AcceptRollback, "accept-rollback @/vms/web01")]),
    // Headers need no key. What of its other output takes the home's key is the operation.
    ("info", &[(EventName::Info, "info @/vms/web01")]),
    ("key list", &[(EventName::KeyList, "key list @/vms/web01")]),
    ("rekey", &[(EventName::RekeyShallow, "rekey @/vms/web01"), (EventName::RekeyDeep, "rekey --deep @/vms/web01")]),
    ("encrypt", &[(EventName::Encrypt, "encrypt @/clear")]),
    ("decrypt", &[(EventName::Decrypt, "decrypt @/vms/web01 --all")]),
    ("convert", &[(EventName::Convert, "convert @/vms/web01/notes")]),
    ("upgrade", &[(EventName::Upgrade, "upgrade @/vms/web01")]),
    ("adopt", &[(EventName::Adopt, "adopt @/vms/web01/root-flat.vmdk")]),
    ("clone", &[(EventName::Clone, "clone @/vms/web01 @/vms/copy")]),
    ("key add", &[(EventName::KeyAdd, "key add @/vms/web01 --provider local")]),
    ("key remove", &[(EventName::KeyRemove, "key remove @/vms/web01 --provider local")]),
    ("header backup", &[(EventName::HeaderBackup, "header backup @/vms/web01 @/new")]),
    ("header restore", &[(EventName::HeaderRestore, "header restore @/lost @/home.header --force")]),
    ("header repair", &[(EventName::HeaderRepair, "header repair @/vms/web01")]),
    ("erase", &[(EventName::Erase, "erase @/vms/web01 --yes")]),
    ("dump setup", &[(EventName::DumpSetup, "dump setup"), (EventName::DumpRenew, "dump setup --renew")]),
    ("dump take", &[(EventName::DumpTake, "dump take 1 0 0 11 1 4096 kvm1 !bin!true")]),
    ("dump decrypt", &[(EventName::DumpDecrypt, "dump decrypt @/vms/web01/root.vmdk @/new")]),
    (
        "dump recrypt",
        &[(EventName::DumpRecrypt, "dump recrypt @/vms/web01/root.vmdk @/new --passphrase-file @/passphrase")],
    ),
    ("dump remove", &[(EventName::DumpRemove, "dump remove @/vms/web01/root.vmdk")]),
    ("events verify", &[(EventName::EventsVerify, "events verify")]),
];

/// Verbs that only read, and what.
const READERS: &[(&str, &str)] = &[
    ("provider list", "the configuration of this host"),
    ("cluster admin list", "the board of this host's cluster"),
    ("cluster status", "the board of this host's cluster"),
    ("trust status", "what the agent knows of authorities"),
    ("trust predict", "the boot files and logs of this host, which the agent reads"),
    ("status", "what a mount says of itself"),
    ("metrics", "what a mount has counted"),
    ("events", "the event log of this user"),
    ("dump list", "headers of dumps"),
    ("dump status", "what this host has for its dumps"),
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
    for (name, _) in OPERATIONS.iter().flat_map(|(_, operations)| *operations) {
        let implemented = format!("const NAME: EventName = EventName::{name:?};");
        assert!(sources.contains(&implemented), "no operation has the name {name:?}");
    }
}

/// Runs a verb; its `@` is `dir`.
fn run(dir: &Path, words: &str) -> Result<()> {
    let dir = dir.to_str().unwrap();
    let line = format!("vmcryptfs --config @/config.toml {words}").replace('@', dir);
    run_verb(CommandLine::try_parse_from(line.split_whitespace()).unwrap())
}

/// Makes what the examples of [`OPERATIONS`] work on.
fn prepare(dir: &Path) {
    fs::write(dir.join("passphrase"), "correct horse\n").unwrap();
    for folder in ["vms", "clear", "mnt"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    fs::write(dir.join("clear/root.raw"), [7; 8192]).unwrap();
    for words in [
        "provider add native local",
        "create @/vms/web01",
        "create-disk @/vms/web01/root.vmdk --size 1M",
        "create @/lost",
        "header backup @/lost @/home.header",
    ] {
        run(dir, words).unwrap();
    }
    fs::write(dir.join("vms/web01/notes"), "").unwrap();
    fs::write(dir.join("local.backup"), "").unwrap();
    fs::remove_file(dir.join("lost").join(HOME_FILE)).unwrap();
}

/// All that lies below a folder, with what would show that it was touched.
fn all_below(folder: &Path) -> BTreeMap<PathBuf, (i64, i64, u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        let content = if found.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if found.is_dir() {
            all.extend(all_below(&path));
        }
        all.insert(path, (found.ctime(), found.ctime_nsec(), found.mode(), content));
    }
    all
}

#[test]
fn a_verb_that_is_refused_has_changed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepare(dir);
    let before = all_below(dir);
    for (name, words) in OPERATIONS.iter().flat_map(|(_, operations)| *operations) {
        if *words == NEEDS_A_MOUNT {
            continue;
        }
        let (done, asked) = refusing(|| run(dir, words));
        let said = done.err().map_or_else(String::new, |error| error.chain());
        assert_eq!(asked, [*name], "{words}: {said}");
        // Of a home that cannot be opened, `info` tells the rest.
        assert!(*name == EventName::Info || said.contains("refused by a test"), "{words}: {said}");
        assert_eq!(all_below(dir), before, "{words}");
    }
}

#[test]
fn operations_on_a_mount_that_are_refused_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    prepare(dir);
    let (folder, config) = (dir.join("vms/web01"), dir.join("config.toml"));
    let served = ServedFolder::open(&folder, Providers::load(&config).unwrap(), Options::default()).unwrap();
    served.unlock(None).unwrap();
    let lock = || perform(Lock { served: &served, below: None }).map(drop);
    let unlock = || perform(Unlock { served: &served, below: None }).map(drop);
    let refused = |operation: &dyn Fn() -> Result<()>, name| {
        let (done, asked) = refusing(operation);
        assert_eq!((done.unwrap_err().kind(), asked), (Kind::Denied, vec![name]));
    };
    refused(&lock, EventName::Lock);
    assert!(served.is_all_unlocked());
    lock().unwrap();
    refused(&unlock, EventName::Unlock);
    assert!(!served.is_all_unlocked());
    let mount = Mounted {
        mountpoint: dir.join("mnt"),
        device: (0, 0),
        source: folder.clone(),
        root: "/".into(),
        read_only: false,
    };
    refused(&|| perform(UnmountFolder { mount: mount.clone(), lazy: false }).map(drop), EventName::Unmount);
}
