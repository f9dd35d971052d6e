//! What a VM folder holds: its home, its disks, and which of them are unlocked.
//!
//! A component's DEK is kept by its UUID, not by its name: renaming a disk, or reading it through another handle, needs no
//! provider. This layer reads and makes backing files; it knows nothing of inodes or of FUSE. What changes components that are
//! there already is `work`.

pub mod access;
pub mod acl;
pub(crate) mod attributes;
pub mod check;
pub mod clear;
pub mod component;
#[cfg(test)]
#[path = "../tests/testkit/datastore.rs"]
pub(crate) mod datastore;
pub mod disk;
pub(crate) mod draft;
pub mod folder;
pub mod home;
pub mod home_state;
pub mod in_use;
pub mod inventory;
pub mod key_copies;
pub mod keyring;
pub mod manifest;
pub mod members;
pub(crate) mod open_form;
pub mod outer;
pub mod owner;
pub mod references;
pub mod scan;
pub mod settling;
pub mod under_way;
pub mod vmdk;
