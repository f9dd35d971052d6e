//! What a test does that this machine cannot run.

#![allow(clippy::print_stderr, reason = "a test that could not run must say so")]

use std::fs::File;
use std::io::Write;

/// Says that the calling test, or a part of it, was not run, and why. It goes into the file that the variable
/// `VMCRYPTFS_NOT_RUN` names, so that a run of many tests can count: a test that did nothing has passed for the runner.
pub(crate) fn not_run(why: &str) {
    let current = std::thread::current();
    let line = format!("NOT RUN {}: {why}\n", current.name().unwrap_or("a test"));
    eprint!("{line}");
    if let Some(path) = std::env::var_os("VMCRYPTFS_NOT_RUN") {
        let file = File::options().append(true).create(true).open(path);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("VMCRYPTFS_NOT_RUN names a file");
    }
}
