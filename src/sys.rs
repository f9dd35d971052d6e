//! Functions of Linux that std has no safe form of. Besides the binding to AWS-LC, the only unsafe code.
//!
//! Each function here is safe to call with any argument; each block says why.

pub mod file;
pub mod fuse_ring;
pub mod memory;
pub mod mount_table;
#[cfg(test)]
#[path = "../tests/testkit/not_run.rs"]
pub(crate) mod not_run;
#[cfg(test)]
#[path = "../tests/testkit/page_cache.rs"]
pub(crate) mod page_cache;
pub mod process;
pub mod socket;
pub mod thread;

pub use memory::{AlignedBuffer, SecretBytes};

use std::io;

/// Turns the `-1` convention of libc into a result.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
