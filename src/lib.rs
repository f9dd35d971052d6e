//! VM encryption for QEMU/KVM hosts: encrypted disks and homes, seen decrypted through a FUSE mount.
//!
//! The modules in layer order; each uses only those above it (`tests/layering.rs` proves it). docs/ARCHITECTURE.md
//! says how they work together, docs/FORMAT.md what they write.

#[cfg(test)]
extern crate self as vmcryptfs; // files that unit tests share with tests of the program name it so

pub mod text;
pub mod timestamp;

pub mod error;
pub mod progress;
pub mod sys;

pub mod key;
pub mod sector;

pub mod crypto;
pub mod format;
pub mod storage;

pub mod provider;

pub mod cluster;
pub mod dump;
pub mod seen;

pub mod event;
pub mod gate;

pub mod store;
pub mod vm;
pub mod work;

pub mod serve;

pub mod fs;

pub mod fuse;

pub mod metrics;

pub mod control;

pub mod operations;

pub mod cli;
