//! Bytes on disk <-> values, as docs/FORMAT.md says. Nothing else in the program knows an on-disk offset.

pub mod cluster;
pub mod component;
pub mod disk_kind;
pub mod dump;
pub mod erasure;
mod field;
pub mod header;
pub mod home_file;
pub mod journal;
pub mod manifest;
pub mod members;
pub mod names;
pub mod saved_header;
pub mod secret_file;

pub use field::{Reader, Writer};
