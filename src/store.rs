//! Plaintext bytes over encrypted storage.
//!
//! `LockedDisk -> Disk`: what is locked has no `read_at`. Concurrent calls are safe: overlapping requests happen in some
//! order, never interleaved. This layer knows nothing of inodes, file names or providers' protocols.

pub mod buffer;
pub mod clear_file;
pub mod disk;
pub mod header_area;
pub mod home_file;
pub mod plain_file;
pub mod range_lock;
pub mod raw_image;
pub mod transfer;

mod holes;
#[cfg(test)]
mod linearizable;
#[cfg(test)]
mod range_lock_tests;
mod sector_store;

/// What range locks are made of; tests/range_lock.rs has a model checker's in its place.
mod sync {
    pub(super) use parking_lot::{Condvar, Mutex};
}
