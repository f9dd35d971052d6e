//! Mounts of this host whose keys are gone from its cluster: what is closed is locked, what a guest has open goes on until it is closed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use vmcryptfs::control::{self, ComponentStatus, Request};
use vmcryptfs::error::{Kind, Result};
use vmcryptfs::key::ProviderName;
use vmcryptfs::text::Show;

/// The mounts that are being asked. One that hangs is waited for by its own thread.
#[derive(Default)]
pub(super) struct Mounts {
    asked: Arc<Mutex<BTreeSet<PathBuf>>>,
}

impl Mounts {
    /// Has each mount of this user lock what is closed and opens by keys of these providers only. Returns without waiting for the mounts.
    pub(super) fn lock(&self, providers: &[ProviderName]) {
        let mountpoints = match control::own_mountpoints() {
            Ok(mountpoints) => mountpoints,
            Err(error) => {
                tracing::warn!("looking for mounts to lock: {}", error.chain());
                return;
            }
        };
        for mountpoint in mountpoints {
            if !self.asked.lock().insert(mountpoint.clone()) {
                continue;
            }
            let (asked, providers) = (Arc::clone(&self.asked), providers.to_vec());
            let at = mountpoint.clone();
            let work = move || {
                if let Err(error) = lock_one(&at, &providers) {
                    tracing::warn!("locking what is closed in {}: {}", at.shown(), error.chain());
                }
                asked.lock().remove(&at);
            };
            if let Err(error) = thread::Builder::new().name("lock".into()).spawn(work) {
                tracing::warn!("starting a thread for the mount on {}: {error}", mountpoint.shown());
                self.asked.lock().remove(&mountpoint);
            }
        }
    }
}

fn lock_one(mountpoint: &Path, providers: &[ProviderName]) -> Result<()> {
    let status = control::ask(mountpoint, &Request::Status)?;
    let is_of_these = |component: &&ComponentStatus| {
        let name_of = |name: &str| providers.iter().any(|provider| provider.as_str() == name);
        component.unlocked && !component.keys.is_empty() && component.keys.iter().all(|key| name_of(&key.provider))
    };
    let mut found: Vec<&ComponentStatus> = status.components.iter().filter(is_of_these).collect();
    // Disks first: a home that one of its disks needs stays, and the other disks are locked nevertheless.
    found.sort_by_key(|component| component.kind == "home");
    for component in found {
        match control::ask(mountpoint, &Request::Lock { path: Some(component.path.clone()) }) {
            Ok(_) => tracing::info!("locked {} in {}", component.path.shown(), mountpoint.shown()),
            Err(error) if error.kind() == Kind::Busy => {} // a guest has it open, and goes on
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
