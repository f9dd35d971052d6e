//! How much a host has to prove.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Trust levels; each demands all that the ones before it do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The host is the one that was enrolled: its TPM signs.
    Identity,
    /// Secure Boot is on, with approved keys and authorities: PCR 7.
    SecureBoot,
    /// What was booted is approved: PCR 4, 7 and 12, and 9 or 11.
    Measured,
    /// The firmware is approved as well: PCR 0 and 2.
    Pinned,
}

impl Level {
    /// Groups of registers. Of each group, an approved set that matches has to have at least one.
    pub fn demanded(self) -> &'static [&'static [u8]] {
        match self {
            Self::Identity => &[],
            Self::SecureBoot => &[&[7]],
            Self::Measured => &[&[7], &[4], &[11, 9], &[12]],
            Self::Pinned => &[&[7], &[0], &[2], &[4], &[11, 9], &[12]],
        }
    }

    /// Its name in policies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::SecureBoot => "secureboot",
            Self::Measured => "measured",
            Self::Pinned => "pinned",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A group in words.
pub(super) fn registers(group: &[u8]) -> String {
    let numbers: Vec<String> = group.iter().map(|number| format!("PCR {number}")).collect();
    numbers.join(" or ")
}
