//! Work on what VM folders hold: changing the keys of components, exchanging their DEKs, encrypting and decrypting what is
//! there, cloning, erasing.
//!
//! Work on keys is written once, against [`VmAccess`](crate::vm::access::VmAccess): the files may be in use by a mount.

pub mod bind;
mod component_result;
pub mod convert;
pub mod deep_rekey;
pub mod disk_names;
pub mod erase;
pub mod listing;
#[cfg(test)]
mod looking_tests;
mod passed_over;
pub mod rekey;
pub mod repair;
pub mod restore;
pub mod slots;
pub mod space;
#[cfg(test)]
mod test_vm;
pub mod unlocked_component;

pub use component_result::ComponentResult;
pub use passed_over::PassedOver;
