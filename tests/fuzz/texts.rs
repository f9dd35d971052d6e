//! What people and other programs write: the configuration, lines on the control socket, and names of files in disk images.

use std::fs;
use std::process::Command;

use vmcryptfs::control::{Answer, Request};
use vmcryptfs::provider::config::{self, Config};
use vmcryptfs::vm::references;

use crate::mutation::{corpus_of, fuzz};
use crate::{SECONDS, bound_memory, corpus};

#[test]
fn configurations() {
    const WORDS: [&[u8]; 10] = [
        b"[provider.local]\n",
        b"kind = \"native\"\n",
        b"kind = \"kmip\"\n",
        b"default = \"local\"\n",
        b"servers = [\"a:1\"]\n",
        b"\"",
        b"\n",
        b" = ",
        b"[[",
        b"\xff",
    ];
    bound_memory();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    fuzz(
        "config",
        SECONDS,
        &corpus_of(&corpus("config")),
        &WORDS,
        |_, _| {},
        |input| {
            fs::write(&path, input).unwrap();
            let Ok(read) = Config::load(&path) else { return };
            // Written again, the same is read.
            if config::update(&path, |_| Ok(())).is_ok() {
                let again = Config::load(&path).unwrap();
                assert_eq!(read.providers(), again.providers());
                assert_eq!(read.default_name(), again.default_name());
            }
        },
    );
}

/// What `qemu-img` makes, up to its last byte that is not zero: images that name others, and one of each other format.
fn images() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    let json = r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/vms/c.qcow2"}}"#;
    let makes: [&[&str]; 6] = [
        &["-u", "-f", "qcow2", "-F", "raw", "-b", "/vms/base.raw"],
        &["-u", "-f", "qcow2", "-F", "qcow2", "-b", json],
        &["-u", "-f", "qed", "-F", "raw", "-b", "/vms/base.raw"],
        &["-f", "vmdk", "-o", "subformat=monolithicFlat"],
        &["-f", "vhdx"],
        &["-f", "vpc"],
    ];
    let make = |args: &[&str]| {
        let made = Command::new("qemu-img").arg("create").arg("-q").args(args).arg(&path).arg("1M").status().unwrap();
        assert!(made.success(), "qemu-img {args:?}");
        let mut image = fs::read(&path).unwrap();
        image.truncate(image.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        image
    };
    makes.into_iter().map(make).collect()
}

#[test]
fn names_in_images() {
    const WORDS: [&[u8]; 9] = [
        b"json:{",
        b"\"file\":",
        b"\"filename\":\"/a\"",
        b"file:",
        b"/",
        b"parentFileNameHint=\"",
        b"\nRW 2048 FLAT \"a\" 0\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
    ];
    let corpus = images(); // before there is a bound, which would be that of qemu-img too
    bound_memory();
    fuzz(
        "references",
        SECONDS,
        &corpus,
        &WORDS,
        |_, _| {},
        |input| {
            for reference in references::of(input).unwrap_or_default() {
                assert!(!reference.path.as_os_str().is_empty());
            }
        },
    );
}

#[test]
fn control_lines() {
    const WORDS: [&[u8]; 10] =
        [b"{", b"}", b"[", b"\"ask\":", b"\"answer\":", b"\"path\":", b"null", b"1e999", b"\\ud800", b"\xff"];
    bound_memory();
    fuzz(
        "control",
        SECONDS,
        &corpus_of(&corpus("control")),
        &WORDS,
        |_, _| {},
        |input| {
            if let Ok(request) = serde_json::from_slice::<Request>(input) {
                let printed = serde_json::to_string(&request).unwrap();
                let again: Request = serde_json::from_str(&printed).unwrap();
                assert_eq!(serde_json::to_string(&again).unwrap(), printed);
            }
            if let Ok(answer) = serde_json::from_slice::<Answer>(input) {
                let printed = serde_json::to_string(&answer).unwrap();
                let again: Answer = serde_json::from_str(&printed).unwrap();
                assert_eq!(serde_json::to_string(&again).unwrap(), printed);
            }
        },
    );
}
