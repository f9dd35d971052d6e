//! What a VM folder holds: its home, its disks, and which of them are unlocked.
//!
//! A component's DEK is kept by its UUID, not by its name: renaming a disk, or reading it through another handle, needs no
//! provider. This layer reads and makes backing files; it knows nothing of inodes or of FUSE.

pub mod acl;
mod attributes;
pub mod check;
pub mod clear;
pub mod convert;
pub mod deep_rekey;
pub mod disk;
pub mod disk_names;
pub mod erase;
pub mod folder;
pub mod home;
pub mod in_use;
pub mod inventory;
pub mod keyed;
pub mod keyring;
pub mod outer;
pub mod references;
pub mod rekey;
pub mod repair;
pub mod restore;
#[cfg(test)]
mod rig;
pub mod scan;
pub mod slots;
pub mod vmdk;
pub mod workplace;
