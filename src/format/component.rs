//! Components: what a VM folder is encrypted in.

use serde::{Deserialize, Serialize};

use crate::key::{DISK_DEK_LEN, HOME_DEK_LEN};

/// What is encrypted and unlocked on its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ComponentKind {
    /// All files of a VM folder that are not disks.
    Home,
    /// One disk image.
    Disk,
}

impl ComponentKind {
    /// Offsets of the two header copies in the backing file.
    pub fn copy_offsets(self) -> [u64; 2] {
        match self {
            Self::Home => [0, 64 << 10],
            Self::Disk => [0, 4 << 20],
        }
    }

    /// Length of the component's DEK in bytes.
    pub fn dek_len(self) -> usize {
        match self {
            Self::Home => HOME_DEK_LEN,
            Self::Disk => DISK_DEK_LEN,
        }
    }

    /// Our word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Disk => "disk",
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Self::Home => 1,
            Self::Disk => 2,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        [Self::Home, Self::Disk].into_iter().find(|kind| kind.code() == code)
    }
}
