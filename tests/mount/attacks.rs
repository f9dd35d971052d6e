//! Attacks on a mount, tried as an attacker does: with write access to the backing folder, or to the control socket. The table in
//! docs/THREAT-MODEL.md, "Attacks that were tried", names the test of each.

mod control;
mod disks;
mod headers;
mod home_files;
mod manifest;
mod members;
mod misplaced;
mod replaced;

use std::fs;
use std::io;

/// The errno of what was refused.
fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

/// Changes the bytes of a backing file.
fn edit(path: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut image = fs::read(path).unwrap();
    change(&mut image);
    fs::write(path, image).unwrap();
}
