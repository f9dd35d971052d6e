//! VM folders that come in and go out: encrypting what is there in the clear, decrypting it again, cloning.
//!
//! Every file is replaced on its own, and at any moment is its old form or its whole new one (`replace`). The home's state
//! is in the name of its header; a disk needs no state, since an encrypted home may have clear disks. So whatever stops a
//! conversion, a second run finds out by content what is left to do. docs/FORMAT.md, section 11.

mod attributes;
mod choice;
mod copy;
mod decrypt;
mod encrypt;
mod form;
mod home_files;
mod opened;
mod overwrite;
mod pace;
mod plan;
mod replace;
mod tree;

pub use decrypt::{Decryption, What};
pub use encrypt::{Encryption, Options};
pub use plan::{Action, Plan, PlannedFile};
