//! Tasks on the keys of a VM folder's components, as a verb states them, to itself or to the mount that serves the folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::work::deep_rekey::DeepRekey;
use crate::work::disk_names::ChangeDiskNames;
use crate::work::erase::Erase;
use crate::work::rekey::Rekey;
use crate::work::repair::RepairHeader;
use crate::work::restore::RestoreHeader;
use crate::work::slots::{AddKey, RemoveKey};

/// What can be done, and to what: a VM folder or a component. A mount's process gets its path below the mount. The names
/// are part of the control socket's protocol.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub enum VmTask {
    /// A new KEK.
    Rekey {
        /// The VM folder, or a disk in it.
        #[serde(with = "crate::text::path")]
        folder: PathBuf,
        /// What in it.
        task: Rekey,
    },
    /// A new KEK and new DEKs.
    DeepRekey {
        /// The VM folder.
        #[serde(with = "crate::text::path")]
        folder: PathBuf,
        /// What in it.
        task: DeepRekey,
    },
    /// Key slots more.
    AddKey {
        /// The VM folder, or a component in it.
        #[serde(with = "crate::text::path")]
        at: PathBuf,
        /// Its component, if it has one, is the one at `at`.
        task: AddKey,
    },
    /// Key slots less.
    RemoveKey {
        /// As of `AddKey`.
        #[serde(with = "crate::text::path")]
        at: PathBuf,
        /// As of `AddKey`.
        task: RemoveKey,
    },
    /// A saved header put back.
    RestoreHeader {
        /// As of `AddKey`.
        #[serde(with = "crate::text::path")]
        at: PathBuf,
        /// As of `AddKey`.
        task: RestoreHeader,
    },
    /// Which new files become disks.
    DiskNames {
        /// The VM folder.
        #[serde(with = "crate::text::path")]
        folder: PathBuf,
        /// How the list changes.
        task: ChangeDiskNames,
    },
    /// Repair of a damaged header copy.
    RepairHeader {
        /// As of `AddKey`.
        #[serde(with = "crate::text::path")]
        at: PathBuf,
        /// As of `AddKey`.
        task: RepairHeader,
    },
    /// All wrapped DEKs destroyed.
    Erase {
        /// As of `AddKey`.
        #[serde(with = "crate::text::path")]
        at: PathBuf,
        /// As of `AddKey`.
        task: Erase,
    },
}

impl VmTask {
    /// What it is to be done to.
    pub fn at(&self) -> &Path {
        match self {
            Self::Rekey { folder: at, .. }
            | Self::DeepRekey { folder: at, .. }
            | Self::DiskNames { folder: at, .. }
            | Self::AddKey { at, .. }
            | Self::RemoveKey { at, .. }
            | Self::RestoreHeader { at, .. }
            | Self::RepairHeader { at, .. }
            | Self::Erase { at, .. } => at,
        }
    }

    /// The same, to be done to what lies at another path.
    pub fn moved(mut self, to: PathBuf) -> Self {
        match &mut self {
            Self::Rekey { folder: at, .. }
            | Self::DeepRekey { folder: at, .. }
            | Self::DiskNames { folder: at, .. }
            | Self::AddKey { at, .. }
            | Self::RemoveKey { at, .. }
            | Self::RestoreHeader { at, .. }
            | Self::RepairHeader { at, .. }
            | Self::Erase { at, .. } => *at = to,
        }
        self
    }
}
