//! Which VMs below a datastore have keys of a former generation of their provider's primary key. Headers say it, so none is opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cluster::Session;
use crate::cluster::host::HostFiles;
use crate::error::{Context, Kind, Result};
use crate::format::names::DiskNames;
use crate::key::{KeyId, ProviderName};
use crate::operations::whole;
use crate::progress::GoOn;
use crate::provider::Providers;
use crate::text::Show;
use crate::vm::folder;
use crate::vm::in_use::primary_of;
use crate::vm::inventory::Inventory;

/// What a search found.
#[derive(Debug, Default)]
pub struct OldGenerations {
    /// VM folders, and disks that are in none.
    pub found: BTreeSet<PathBuf>,
    /// What cannot be read, and why: it may need such a key.
    pub unreadable: Vec<(PathBuf, Kind, String)>,
    /// Why keys that are in use and that the cluster has replaced are the present ones of this host still.
    pub awaited: BTreeSet<String>,
}

/// Shared providers whose newest primary key is not in effect on this host.
pub struct Rotations {
    /// The newest primary key of each, and why no keys are made by it here.
    awaited: Vec<(ProviderName, Uuid, String)>,
}

impl Rotations {
    /// Those of the cluster of this host, if it is in one.
    ///
    /// # Errors
    /// Those of the board: without it nobody knows which primary keys are former ones.
    pub fn of(config: &Path) -> Result<Self> {
        if HostFiles::of(config).membership()?.is_none() {
            return Ok(Self { awaited: Vec::new() });
        }
        let session = Session::open(config)?;
        let awaited = session.document().providers.iter().filter_map(|shared| {
            Some((shared.name.clone(), shared.newest().primary, session.why_newest_is_awaited(shared)?))
        });
        Ok(Self { awaited: awaited.collect() })
    }

    /// Why a key cannot be replaced yet by one of the newest primary key, where that is so.
    fn why_kept(&self, key: &KeyId) -> Option<&str> {
        let of_it = self.awaited.iter().find(|(provider, newest, _)| {
            provider == key.provider() && primary_of(key).is_some_and(|primary| primary != *newest)
        });
        of_it.map(|(_, _, why)| why.as_str())
    }
}

/// Looks below a datastore or VM folder.
///
/// # Errors
/// `Io`, that of `go_on`, which is asked before each name, and those of a provider's files.
pub fn search(
    datastore: &Path,
    providers: &Providers,
    rotations: &Rotations,
    go_on: &GoOn<'_>,
) -> Result<OldGenerations> {
    let inventory = Inventory::take_with_links(&folder::open_dir(datastore)?, &DiskNames::default(), go_on)
        .context(|| datastore.shown().to_string())?;
    let mut old = OldGenerations::default();
    for (entry, _, headers) in inventory.components() {
        if is_old(providers, headers.keys.iter())? {
            let path = entry.vm.as_deref().unwrap_or_else(|| entry.component_path());
            old.found.insert(whole(datastore, path));
        }
        old.awaited.extend(headers.keys.iter().filter_map(|key| rotations.why_kept(key)).map(str::to_owned));
    }
    let unreadable = inventory.unreadable();
    old.unreadable = unreadable
        .map(|(entry, error)| (whole(datastore, entry.component_path()), error.kind(), error.chain()))
        .collect();
    Ok(old)
}

/// A provider that this host does not have says nothing of its keys.
fn is_old<'k>(providers: &Providers, keys: impl Iterator<Item = &'k KeyId>) -> Result<bool> {
    for key in keys {
        let Ok((key, provider)) = providers.provider_of(key) else { continue };
        if provider.is_superseded(&key)? {
            return Ok(true);
        }
    }
    Ok(false)
}
