//! Tasks on the keys of a VM folder's components, as a verb states them: done here, or by the mount that serves the folder.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};
use crate::gate::{self, Principal};
use crate::operations::keys::{OnVm, Task};
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::vm::access::{Located, OfflineVm, VmAccess};
use crate::vm::component::Component;
use crate::work::deep_rekey::DeepRekey;
use crate::work::disk_names::ChangeDiskNames;
use crate::work::erase::Erase;
use crate::work::rekey::{Rekey, disks_of};
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

    /// Does it in this process, to a VM folder that no mount of this user serves.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn perform_offline(self, config: &Path, on_progress: OnProgress<'_>) -> Result<serde_json::Value> {
        let located = Located::find(self.at())?;
        let vm = OfflineVm::open(&located.folder, Providers::load(config)?)?;
        self.perform(&vm, located.component, Principal::Process, on_progress)
    }

    /// Does it to a component of a VM folder, or to all of them. The outcome is that of its operation.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn perform(
        self,
        vm: &dyn VmAccess,
        component: Component,
        principal: Principal,
        on_progress: OnProgress<'_>,
    ) -> Result<serde_json::Value> {
        let on = On { vm, principal, on_progress };
        match self {
            Self::Rekey { mut task, .. } => {
                task.disks = disks_of(component, &task.disks)?;
                on.perform(task, None)
            }
            Self::DeepRekey { mut task, .. } => {
                task.disks = disks_of(component, &task.disks)?;
                on.perform(task, None)
            }
            Self::AddKey { mut task, .. } => {
                task.component = task.component.map(|_| component);
                on.perform(task.clone(), task.component)
            }
            Self::RemoveKey { mut task, .. } => {
                task.component = task.component.map(|_| component);
                on.perform(task.clone(), task.component)
            }
            Self::Erase { mut task, .. } => {
                task.component = task.component.map(|_| component);
                on.perform(task.clone(), task.component)
            }
            Self::RestoreHeader { task, .. } => {
                on.perform(RestoreHeader { component: component.clone(), ..task }, Some(component))
            }
            Self::RepairHeader { .. } => on.perform(RepairHeader { component: component.clone() }, Some(component)),
            Self::DiskNames { task, .. } => on.perform(task, None),
        }
    }
}

/// Where a task is done, and for which user.
struct On<'a> {
    vm: &'a dyn VmAccess,
    principal: Principal,
    on_progress: OnProgress<'a>,
}

impl On<'_> {
    fn perform<T: Task>(self, task: T, component: Option<Component>) -> Result<serde_json::Value> {
        let task = OnVm { vm: self.vm, task, component: component.unwrap_or(Component::Home) };
        let outcome = gate::perform(task, self.principal, self.on_progress)?;
        serde_json::to_value(outcome)
            .map_err(|error| Error::with_source(Kind::Invalid, "a result without JSON form", error))
    }
}
