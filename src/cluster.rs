//! Hosts that share providers: a signed document says which hosts and which providers, a board carries it and the primary keys, or
//! the KEKs of a key server, each sealed to one host (docs/FORMAT.md, section 18).
//!
//! The board is not trusted. `view` takes a document only if it continues what this host has seen and the admins have
//! signed it; a key is taken only if the document has its check value. So the owner of the board can delay, and can neither
//! read, forge nor roll back unnoticed.

pub mod admin_key;
mod admins;
pub mod board;
mod change;
mod exchange;
pub mod exposed;
pub mod host;
pub mod join;
pub mod kept;
pub mod kept_keks;
pub mod push;
mod removal;
mod resume;
mod rotation;
mod session;
mod share_push;
pub mod status;
mod tidy;
mod told;
mod view;

pub use admins::{AdminChange, public_key};
pub use exchange::{Exchanged, KeyFiles, SharedKeys, Standing};
pub use removal::RemovedHost;
pub use resume::accept_board;
pub use rotation::Rotated;
pub use session::Session;
pub use share_push::PushOptions;

#[cfg(test)]
mod tests;
