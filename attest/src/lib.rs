//! What a TPM says of a host, judged without any I/O of its own.
//!
//! Bytes from outside are refused with an [`Error`] that names what was found and what was expected. Nothing panics, and
//! memory is bounded by constants or by the bytes that were handed in, never by a number in them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

mod authority_key;
pub mod credential;
mod error;
pub mod event_log;
pub mod identity;
pub mod pcr;
pub mod policy;
pub mod predict;
pub mod quote;
pub mod replay;
pub mod tpm;
pub mod userspace_log;
pub mod verdict;

pub use authority_key::AuthorityKey;
pub use error::{Error, Kind, Result};
