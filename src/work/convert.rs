//! VM folders that come in and go out: encrypting what is there in the clear, decrypting it again, cloning.
//!
//! Every file is replaced on its own, and at any moment is its old form or its whole new one (`replace`). The home's state
//! is in the name of its header; a disk needs no state, since an encrypted home may have clear disks. So whatever stops a
//! conversion, a second run finds out by content what is left to do. docs/FORMAT.md, section 11.

mod attributes;
mod choice;
mod clone;
mod clone_file;
mod copy;
mod decrypt;
mod encrypt;
mod feasible;
mod form;
mod home_files;
mod nested;
mod one_file;
mod opened;
mod overwrite;
mod parted;
mod places;
mod plan;
mod progress_counter;
mod rekey_home;
mod replace;
mod several_vms;
mod survey;
mod tree;

pub use clone::{CloneOptions, ClonePlan, Cloned, clone, plan_clone};
pub use decrypt::{Believed, DecryptScope, Decryption};
pub use encrypt::Encryption;
pub use one_file::{ConvertedFile, FilePlan, StoredAs, convert_file, plan_file};
pub use plan::{Action, Plan, PlannedFile};
pub(in crate::work) use rekey_home::{refuse_unfit_home, rekey_home};
pub use survey::Options;

use std::path::Path;

use uuid::Uuid;

use crate::key::KeyId;

/// A component that has just got its other form, for a record of it.
#[derive(Clone, Copy, Debug)]
pub struct Converted<'a> {
    /// On the backing side; a home's is its VM folder's.
    pub path: &'a Path,
    /// Whether it is a disk.
    pub is_disk: bool,
    /// Of the encrypted form.
    pub uuid: Uuid,
    /// The KEK that wraps, or wrapped, its DEK.
    pub key_id: &'a KeyId,
}

#[cfg(test)]
pub(super) mod planning_tests;
