//! VM encryption for QEMU/KVM hosts: encrypted disks and homes, seen decrypted through a FUSE mount.
//!
//! The modules in layer order; each uses only those above it (`tests/layering.rs` proves it). docs/ARCHITECTURE.md
//! says how they work together, docs/FORMAT.md what they write.

pub mod error;
pub mod sys;

pub mod key;
pub mod sector;

pub mod crypto;

pub mod provider;

/// The command line, one verb a file.
pub mod cli {
    pub mod provider;
}
