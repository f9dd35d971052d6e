//! Work on what VM folders hold: changing the keys of components, exchanging their DEKs, encrypting and decrypting what is
//! there, cloning, erasing.
//!
//! Work on keys is written once, against [`Workplace`](crate::vm::access::Workplace): the files may be in use by a mount.

mod component_result;
pub mod convert;
pub mod deep_rekey;
pub mod disk_names;
pub mod erase;
pub mod keyed;
pub mod rekey;
pub mod repair;
pub mod restore;
#[cfg(test)]
mod rig;
pub mod slots;

pub use component_result::ComponentResult;
