//! The kinds of key provider.

pub mod kmip;
pub mod native;
