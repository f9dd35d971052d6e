//! Which VMs below a datastore have keys of a former generation of their provider's primary key. Headers say it, so none is opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::{Context, Kind, Result};
use crate::format::names::DiskNames;
use crate::key::KeyId;
use crate::operations::whole;
use crate::progress::GoOn;
use crate::provider::Providers;
use crate::text::Show;
use crate::vm::folder;
use crate::vm::inventory::Inventory;

/// What a search found.
#[derive(Debug, Default)]
pub struct OldGenerations {
    /// VM folders, and disks that are in none.
    pub found: BTreeSet<PathBuf>,
    /// What cannot be read, and why: it may need such a key.
    pub unreadable: Vec<(PathBuf, Kind, String)>,
}

/// Looks below a datastore or VM folder.
///
/// # Errors
/// `Io`, that of `go_on`, which is asked before each name, and those of a provider's files.
pub fn search(datastore: &Path, providers: &Providers, go_on: &GoOn<'_>) -> Result<OldGenerations> {
    let inventory = Inventory::take_with_links(&folder::open_dir(datastore)?, &DiskNames::default(), go_on)
        .context(|| datastore.shown().to_string())?;
    let mut old = OldGenerations::default();
    for (entry, _, headers) in inventory.components() {
        if is_old(providers, headers.keys.iter())? {
            let path = entry.vm.as_deref().unwrap_or_else(|| entry.component_path());
            old.found.insert(whole(datastore, path));
        }
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
        let Ok(provider) = providers.provider(key.provider()) else { continue };
        if provider.is_superseded(key)? {
            return Ok(true);
        }
    }
    Ok(false)
}
