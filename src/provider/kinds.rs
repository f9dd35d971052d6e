//! The table of all kinds of key provider.
//!
//! A kind is one file below `kinds`, with what that needs, and its line here. No other code names a kind: the configuration
//! file, the verbs and their help ask this table.

pub mod kmip;
pub mod managed;
pub mod native;
pub mod trusted;

use super::kind::ProviderKind;
use crate::error::{Error, Kind, Result};

/// All kinds. The first one needs nothing but this host, and is what a host without a provider is advised to add.
pub static KINDS: [&dyn ProviderKind; 4] = [&native::Native, &kmip::Kmip, &managed::Managed, &trusted::Trusted];

/// The kind of this name.
///
/// # Errors
/// `Invalid`, with the names of all kinds.
pub fn named(name: &str) -> Result<&'static dyn ProviderKind> {
    let found = KINDS.into_iter().find(|kind| kind.name() == name);
    let expected = || one_of(KINDS.iter().map(|kind| format!("{:?}", kind.name())));
    found
        .ok_or_else(|| Error::new(Kind::Invalid, format!("unknown kind of provider {name:?}, expected {}", expected())))
}

/// Alternatives, as a sentence names them.
pub(super) fn one_of(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}
