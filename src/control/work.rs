//! Work that a mount's process does for another process of the same user, and tells about as it goes.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::{Answer, send, tasks};
use crate::error::{Context, Error, Kind, Result};
use crate::fs::FileSystem;
use crate::progress::Progress;
use crate::work::deep_rekey::DeepRekey;
use crate::work::disk_names::ChangeDiskNames;
use crate::work::erase::Erase;
use crate::work::rekey::{Rekey, disks_of};
use crate::work::repair::RepairHeader;
use crate::work::restore::RestoreHeader;
use crate::work::slots::{AddKey, RemoveKey};

/// What can be done, and to what: a VM folder or a component, below the mount.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub enum Work {
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
    /// A damaged header copy mended.
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

/// Does work and answers with what came of it. Progress goes before, a line each.
pub(super) fn serve(fs: &FileSystem, work: Work, stream: &mut UnixStream) -> Result<Answer> {
    stream.set_nonblocking(false).context(|| "preparing the control socket".into())?;
    let mut on_progress = |progress: &Progress| {
        let told = send(stream, &Answer::Progress { progress: progress.clone() });
        if told.is_err() || has_ended(stream)? {
            return Err(Error::new(Kind::Stopped, "stopped, as whoever asked for it did; running it again goes on"));
        }
        Ok(())
    };
    let outcome = match work {
        Work::Rekey { folder, mut task } => {
            let (vm, component) = fs.vm_at(&folder)?;
            task.disks = disks_of(component, &task.disks)?;
            to_json(&tasks::rekey(&vm, &task, &mut on_progress)?)
        }
        Work::DeepRekey { folder, mut task } => {
            let (vm, component) = fs.vm_at(&folder)?;
            task.disks = disks_of(component, &task.disks)?;
            to_json(&tasks::deep_rekey(&vm, &task, &mut on_progress)?)
        }
        Work::AddKey { at, mut task } => {
            let (vm, component) = fs.vm_at(&at)?;
            task.component = task.component.map(|_| component);
            to_json(&tasks::add_key(&vm, &task)?)
        }
        Work::RemoveKey { at, mut task } => {
            let (vm, component) = fs.vm_at(&at)?;
            task.component = task.component.map(|_| component);
            to_json(&tasks::remove_key(&vm, &task)?)
        }
        Work::RestoreHeader { at, mut task } => {
            let (vm, component) = fs.vm_at(&at)?;
            task.component = component;
            to_json(&tasks::restore_header(&vm, &task)?)
        }
        Work::DiskNames { folder, task } => to_json(&task.run(&fs.vm_at(&folder)?.0)?),
        Work::RepairHeader { at, mut task } => {
            let (vm, component) = fs.vm_at(&at)?;
            task.component = component;
            to_json(&tasks::repair_header(&vm, &task)?)
        }
        Work::Erase { at, mut task } => {
            let (vm, component) = fs.vm_at(&at)?;
            task.component = task.component.map(|_| component);
            to_json(&tasks::erase(&vm, &task)?)
        }
    }?;
    Ok(Answer::Done { outcome })
}

/// Whether the other side will send no more: who wants work to stop closes its sending half.
fn has_ended(stream: &mut UnixStream) -> Result<bool> {
    let doing = || "looking at the control socket".into();
    stream.set_nonblocking(true).context(doing)?;
    let ended = matches!(stream.read(&mut [0; 1]), Ok(0));
    stream.set_nonblocking(false).context(doing)?;
    Ok(ended)
}

fn to_json(outcome: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(outcome)
        .map_err(|error| Error::with_source(Kind::Invalid, "a result without JSON form", error))
}

/// Tells a mount's process which folder a path is of.
pub(super) fn identity(fs: &FileSystem, mountpoint: &Path) -> Result<Answer> {
    let (device, inode) = fs.root_id()?;
    Ok(Answer::Serving {
        pid: std::process::id(),
        mountpoint: mountpoint.to_path_buf(),
        device,
        inode,
        read_only: fs.is_read_only(),
    })
}
