//! Names are any bytes: of VM folders, disks, home files, mountpoints, and of other people's mounts. Every verb works with them,
//! and what it prints neither fails nor controls a terminal.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use vmcryptfs::text::path;

use crate::events::forge_disk;
use crate::host::{Host, root_is_a_mount};

/// Bytes that every name of a test has in it: no UTF-8; a screen that is cleared, a line that is forged, a text that is turned.
const NAMES: [&[u8]; 2] = [b"\xe9", FORGED.as_bytes()];
const FORGED: &str =
    "\x1b[2J\n2026-01-01T00:00:00Z ERROR forged\u{202e}\u{9b}\x7f\u{61c}\u{200e}\u{200f}\u{2028}\u{2066}\u{2069}";

/// A host whose every name has the same bytes in it.
struct Named {
    host: Host,
    name: &'static [u8],
}

impl Named {
    fn new(name: &'static [u8]) -> Self {
        let named = Self { host: Host::new(), name };
        named.host.run(&["provider", "add", "native", "escrow"]);
        named
    }

    /// Below the host's directory; each `@` is the name.
    fn path(&self, below: &str) -> PathBuf {
        let bytes: Vec<u8> = self
            .host
            .path(below)
            .bytes()
            .flat_map(|byte| if byte == b'@' { self.name.to_vec() } else { vec![byte] })
            .collect();
        PathBuf::from(OsString::from_vec(bytes))
    }

    /// A verb and its arguments; those with an `@` are paths.
    fn args(&self, words: &str) -> Vec<OsString> {
        let word = |word: &str| if word.contains('@') { self.path(word).into_os_string() } else { word.into() };
        words.split(' ').map(word).collect()
    }

    /// Runs a verb, expects an exit code, and that whatever it says could be anyone's terminal.
    fn said(&self, args: &[OsString], code: i32) -> String {
        let output = self.host.try_run(args);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap_or_else(|error| panic!("{args:?}: {error}"));
        let (out, err) = (text(output.stdout), text(output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
        for said in [&out, &err] {
            self.is_harmless(said);
        }
        out + &err
    }

    /// Runs a verb that may fail, and expects the same of what it says.
    fn tried(&self, words: &str) -> String {
        let output = self.host.try_run(&self.args(words));
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        self.is_harmless(&said);
        said
    }

    fn is_harmless(&self, said: &str) {
        let turns =
            |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let controls = |c: char| (c.is_control() && c != '\n') || turns(c);
        assert!(!said.contains(controls), "{:?}: {said:?}", self.name);
        assert!(!said.lines().any(|line| line.starts_with("2026-01-01")), "{said}");
    }

    /// Runs a verb as people do.
    fn run(&self, words: &str) -> String {
        self.said(&self.args(words), 0)
    }

    /// Runs a verb as programs do, and returns the last value that it prints.
    fn json(&self, words: &str) -> Value {
        let args = [self.args(words), vec!["--json".into()]].concat();
        let output = self.host.try_run(&args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {said}");
        self.is_harmless(&said);
        let out = String::from_utf8(output.stdout).unwrap();
        self.is_harmless(&out);
        serde_json::from_str(out.lines().last().unwrap()).unwrap_or_else(|error| panic!("{args:?}: {error}: {out}"))
    }

    fn make_clear_vm(&self, folder: &str) {
        fs::create_dir(self.path(folder)).unwrap();
        fs::write(self.path(&format!("{folder}/d@.raw")), vec![7; 1 << 20]).unwrap();
        fs::write(self.path(&format!("{folder}/h@.nvram")), "settings").unwrap();
    }
}

/// Whether some `path` in a value is this one.
fn names(value: &Value, wanted: &Path) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, value)| {
            let text = value.as_str().filter(|_| ["path", "folder", "source", "destination"].contains(&name.as_str()));
            text.is_some_and(|text| path::from_text(text) == wanted) || names(value, wanted)
        }),
        Value::Array(values) => values.iter().any(|value| names(value, wanted)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Other tests of this machine do not see this one's mounts, nor it theirs; in a chroot they do.
#[allow(deprecated, reason = "its successor is unsafe for flags that this is not called with")]
fn have_own_mounts() {
    if root_is_a_mount() && rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).is_ok() {
        assert!(Command::new("mount").args(["--make-rprivate", "/"]).status().unwrap().success());
    }
}

#[test]
fn every_verb_works_without_a_mount() {
    for name in NAMES {
        let it = Named::new(name);
        it.make_clear_vm("v@");
        let (vm, disk, file) = (it.path("v@"), it.path("v@/d@.raw"), it.path("h@.nvram"));
        let (below, file) = (disk.strip_prefix(&vm).unwrap(), file.file_name().map(Path::new).unwrap());
        it.run("encrypt v@ --dry-run");
        assert!(names(&it.json("encrypt v@ --dry-run"), below));
        assert!(names(&it.json("encrypt v@"), file));
        it.run("encrypt v@");
        it.run("info v@");
        let info = it.json("info v@");
        assert!(names(&info, &disk) && names(&info, file), "{info}");
        it.run("info v@/d@.raw");
        it.run("check v@");
        assert!(names(&it.json("check v@"), &disk));
        it.run("key add v@ --all --provider escrow");
        it.run("key list v@");
        assert!(names(&it.json("key list v@/d@.raw"), &disk));
        it.run("key in-use v@ --provider escrow");
        assert!(names(&it.json("key in-use v@ --provider escrow"), below));
        it.run("key remove v@/d@.raw --provider escrow");
        assert!(names(&it.json("key add v@/d@.raw --provider escrow"), below));
        it.run("header backup v@/d@.raw s@");
        it.run("header restore v@/d@.raw s@");
        it.json("header restore v@/d@.raw s@");
        let before = fs::read(&disk).unwrap();
        it.run("rekey v@");
        assert!(names(&it.json("rekey v@"), below));
        fs::write(&disk, &before).unwrap();
        assert!(names(&it.json("accept-rollback v@"), &disk));
        it.run("accept-rollback v@/d@.raw");
        it.run("rekey --deep v@");
        assert!(names(&it.json("rekey --deep v@"), below));
        it.run("clone v@ c@");
        assert!(names(&it.json("clone v@ e@"), &it.path("e@")));
        it.run("decrypt c@ --all --dry-run");
        it.json("decrypt c@ --all");
        assert_eq!(fs::read(it.path("c@/d@.raw")).unwrap(), vec![7; 1 << 20]);
        it.run("create n@");
        it.run("create-disk n@/d@.raw --size 1M");
        it.said(&it.args("create-disk n@/d@.raw --size 1M"), 9);
        fs::rename(it.path("n@/d@.raw"), it.path("e@/n@.raw")).unwrap();
        it.run("adopt e@/n@.raw");
        it.json("upgrade e@");
        it.said(&it.args("info missing@"), 8);
        it.said(&it.args("mount missing@ m@"), 8);
        it.said(&it.args("erase v@"), 2);
        it.run("erase v@/d@.raw --yes");
        it.json("erase e@ --yes");
        it.run("events");
        it.run("events --failed");
        it.run("events verify");
        let of_disk = it.host.try_run(&[&it.args("events v@/d@.raw")[..], &["--json".into()]].concat());
        let operations = String::from_utf8(of_disk.stdout).unwrap();
        assert!(operations.contains("\"key-add\"") && operations.contains("\"erase\""), "{operations}");
    }
}

#[test]
fn every_verb_works_with_a_mount() {
    have_own_mounts();
    for name in NAMES {
        let it = Named::new(name);
        it.make_clear_vm("v@");
        it.run("encrypt v@");
        for folder in ["m@", "z@"] {
            fs::create_dir(it.path(folder)).unwrap();
        }
        // A mount that is none of ours, as any user can make one.
        let of_others =
            Command::new("mount").args(["-t", "tmpfs"]).arg(OsStr::from_bytes(name)).arg(it.path("z@")).status();
        it.run("mount v@ m@ --log-file l@ -v");
        let at = it.path("m@");
        let below = it.path("d@.raw").file_name().map(PathBuf::from).unwrap();
        let worked = std::panic::catch_unwind(|| {
            assert_eq!(fs::read(at.join(&below)).unwrap(), vec![7; 1 << 20]);
            it.run("status m@");
            assert!(names(&it.json("status m@"), &below));
            for verb in ["lock", "unlock"] {
                let args = [it.args(&format!("{verb} m@")), vec![below.clone().into(), "--json".into()]].concat();
                let said = it.said(&args, 0);
                assert!(names(&serde_json::from_str(&said).unwrap(), &below), "{said}");
                it.run(&format!("{verb} m@"));
            }
            // By the process of the mount.
            let open = fs::File::open(at.join(&below)).unwrap();
            assert!(names(&it.json("rekey v@"), &below));
            let disk_only = [it.args("rekey v@ --json --disk"), vec![below.clone().into()]].concat();
            assert!(names(&serde_json::from_str(&it.said(&disk_only, 0)).unwrap(), &below));
            assert!(names(&it.json("key add v@/d@.raw --provider escrow"), &below));
            it.run("key remove v@/d@.raw --provider escrow");
            drop(open);
            it.said(&it.args("decrypt v@ --all"), 6);
            it.run("encrypt m@");
            // What its name says is a disk, whatever else is in the name.
            let new = it.path("n@.raw").file_name().map(PathBuf::from).unwrap();
            fs::write(at.join(&new), "data").unwrap();
            assert!(fs::read(it.path("v@").join(&new)).unwrap().starts_with(b"VMCRYPTF"));
            assert!(fs::set_permissions(at.join("missing"), fs::metadata(&at).unwrap().permissions()).is_err());
            let _ =
                Command::new("setfattr").args(["-n", "user.x", "-v"]).arg("v".repeat(5000)).arg(at.join(&new)).status();
        });
        it.run("umount m@");
        if of_others.is_ok_and(|status| status.success()) {
            assert!(Command::new("umount").arg(it.path("z@")).status().unwrap().success());
        }
        worked.unwrap();
        it.is_harmless(&fs::read_to_string(it.path("l@")).unwrap());
    }
}

/// Verbs that take no name which someone else may have chosen.
const WITHOUT_NAMES: [&str; 6] =
    ["provider add", "provider list", "provider test", "provider default", "speed", "manual"];

/// The verbs that the help of a verb lists.
fn verbs_below(host: &Host, verb: &str) -> Vec<String> {
    let words: Vec<&str> = verb.split_whitespace().chain(["--help"]).collect();
    let help = host.run(&words);
    let Some((_, after)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let lines = after.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    names.filter(|name| *name != "help").map(|name| format!("{verb} {name}").trim().to_owned()).collect()
}

#[test]
fn no_verb_is_forgotten_here() {
    let host = Host::new();
    let mut verbs = verbs_below(&host, "");
    while let Some(verb) = verbs.pop() {
        let below = verbs_below(&host, &verb);
        let is_left_out = WITHOUT_NAMES.iter().any(|without| verb.starts_with(without));
        let is_run = [' ', '"'].iter().any(|end| include_str!("bytes.rs").contains(&format!("\"{verb}{end}")));
        assert!(is_run || is_left_out || !below.is_empty(), "{verb} is not run with names that control a terminal");
        verbs.extend(below);
    }
}

#[test]
fn boards_and_files_of_a_cluster_with_such_names_control_no_terminal() {
    let it = Named::new(NAMES[1]);
    fs::create_dir(it.path("b@")).unwrap();
    for (file, content) in [("p@", "a passphrase for a test"), ("t@", "no token")] {
        fs::write(it.path(file), content).unwrap();
        fs::set_permissions(it.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let board = format!("folder:{}", it.path("b@").to_str().unwrap());
    let admin = "--admin-key a@ --passphrase-file p@";
    let init = [it.args(&format!("cluster init prod {admin} --board")), vec![board.into()]].concat();
    it.said(&init, 0);
    assert!(!it.tried("cluster admin new n@ --passphrase-file p@").is_empty());
    for words in [
        "cluster approve kvm2",
        "cluster share local",
        "cluster rotate local",
        "cluster retire local --datastore v@",
        "cluster remove kvm2",
        "cluster token",
        "cluster accept-board",
        "cluster admin add 00",
        "cluster admin remove 00",
        "cluster admin threshold 2",
    ] {
        it.tried(&format!("{words} {admin}"));
        it.tried(&format!("{words} --admin-key t@ --passphrase-file p@"));
    }
    fs::rename(it.path("b@"), it.path("c@")).unwrap();
    for words in [
        "cluster status",
        "cluster status --json",
        "cluster admin list",
        "cluster sync",
        "cluster join --token-file t@",
        "trust enrol --token-file t@",
        "trust attest",
        "trust status",
        "trust propose s@",
        "trust predict s@ --running-uki t@ --uki t@",
    ] {
        assert!(!it.tried(words).is_empty(), "{words}");
    }
}

#[test]
fn dumps_of_programs_and_hosts_with_such_names_control_no_terminal() {
    let it = Named::new(NAMES[1]);
    fs::write(it.path("p@"), "a passphrase for a test").unwrap();
    fs::set_permissions(it.path("p@"), fs::Permissions::from_mode(0o600)).unwrap();
    it.said(&it.args("dump setup"), 0);
    let limit = u64::MAX.to_string();
    let words = ["dump", "take", "4242", "0", "0", "11", "1795980246", limit.as_str(), FORGED, FORGED];
    it.host.command(&words).stdin(fs::File::open("/proc/self/exe").unwrap()).output().unwrap();
    let dumps: Value = serde_json::from_str(&it.host.run(&["dump", "list", "--json"])).unwrap();
    let dump = dumps[0]["file"].as_str().unwrap();
    assert_eq!(dumps[0]["program"].as_str().unwrap(), FORGED);
    let named = it.path("x@.dump");
    fs::copy(Path::new(it.host.config().as_os_str()).with_file_name("dumps").join(dump), &named).unwrap();
    assert!(it.said(&it.args("dump list"), 0).contains("4242"));
    it.said(&it.args("dump status"), 0);
    it.said(&it.args("dump decrypt x@.dump o@"), 0);
    it.said(&it.args("dump recrypt x@.dump r@ --passphrase-file p@"), 0);
    for words in [
        "dump decrypt p@ q@",
        "dump recrypt p@ q@ --passphrase-file p@",
        "dump remove x@.dump",
        "dump setup --provider local",
    ] {
        assert!(!it.tried(words).is_empty(), "{words}");
    }
}

#[test]
fn ids_labels_and_names_that_someone_chose_control_no_terminal() {
    have_own_mounts();
    let it = Named::new(NAMES[1]);
    let turned = "\u{202e}\u{2066}\u{2028}\u{200f}";
    it.run("create v@");
    it.said(&[it.args("create-disk v@/d@.raw --size 1M --label"), vec![turned.into()]].concat(), 0);
    let key_id = it.host.events().pop().unwrap()["key_id"].as_str().unwrap().to_owned();
    let forged = it.path("v@/f@.raw");
    forge_disk(&it.path("v@/d@.raw"), &key_id, turned.as_bytes(), &forged);
    fs::write(it.path("p@"), "a passphrase for a test").unwrap();
    fs::set_permissions(it.path("p@"), fs::Permissions::from_mode(0o600)).unwrap();
    for words in
        ["info v@", "info v@/f@.raw", "check v@", "key list v@", "key in-use v@ --provider local", "key add v@ --all"]
    {
        it.tried(words);
        it.tried(&format!("{words} --json"));
    }
    assert!(it.tried("info v@/f@.raw").contains("\\u{202e}\\u{2066}"), "the id is shown");
    it.tried("disk-names v@");
    it.tried("header repair v@/f@.raw");
    it.tried("convert v@/f@.raw --to home-file");
    it.tried("provider seal local --share p@ --tpm t@");
    it.tried("provider backup local b@ --passphrase-file p@");
    it.tried("provider rename local r@");
    it.tried("provider restore local b@ --passphrase-file p@");
    it.tried(&format!("provider retire local {key_id} --datastore v@"));
    fs::create_dir(it.path("m@")).unwrap();
    it.tried("mount v@ m@ --log-file l@ -v");
    let worked = std::panic::catch_unwind(|| {
        assert!(fs::read(it.path("m@").join(forged.file_name().unwrap())).is_err());
        assert!(it.tried("status m@").contains("\\u{202e}"), "the id is shown");
        it.tried("status m@ --json");
        it.tried("unlock m@");
        it.tried("metrics m@");
        it.tried("rekey v@");
    });
    it.run("umount m@");
    worked.unwrap();
    for words in ["events", "events --json", "events verify"] {
        it.tried(words);
    }
    it.is_harmless(&fs::read_to_string(it.path("l@")).unwrap());
}
