//! What people and other processes write: the configuration, and lines on the control socket.

use std::fs;

use vmcryptfs::control::{Answer, Request};
use vmcryptfs::provider::config::{self, Config};

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
            // Written anew, the same is read.
            if config::update(&path, |_| Ok(())).is_ok() {
                let again = Config::load(&path).unwrap();
                assert_eq!(read.providers(), again.providers());
                assert_eq!(read.default_name(), again.default_name());
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
