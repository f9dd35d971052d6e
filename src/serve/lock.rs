//! Locking and unlocking components while the folder is in use.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::{ComponentKind, UnverifiedHeader};
use crate::serve::{CLOSE_RACE_TIMEOUT, OpenFile, ServedFolder};
use crate::storage::Storage;
use crate::storage::claims::wait_for_claim;
use crate::sys::file;
use crate::text::Show;
use crate::vm::keyring::LockState;
use crate::vm::scan::FoundComponent;

impl ServedFolder {
    /// Tries to unlock what is locked at or below a path (of a VM folder or a disk; everything without one), with the
    /// providers as they are configured now. What could not be unlocked is not an error here: its state says why.
    ///
    /// # Errors
    /// `NotFound` when no component is there, or those of the configuration.
    pub fn unlock(&self, below: Option<&Path>) -> Result<Vec<FoundComponent>> {
        let found = self.components_below(below)?;
        self.keyring.reload_providers()?;
        let locked = self.in_state(&found, |state| !matches!(state, Some(LockState::Unlocked(_))));
        self.keyring.unlock_again(locked.iter().copied());
        Ok(found)
    }

    /// Forgets the keys of the components at or below a path.
    ///
    /// # Errors
    /// `NotFound` when no component is there, `Busy` when a file of it is open.
    pub fn lock(&self, below: Option<&Path>) -> Result<Vec<FoundComponent>> {
        let found = self.components_below(below)?;
        let headers = || found.iter().filter_map(FoundComponent::unverified);
        let uuids: HashSet<Uuid> = headers().map(|header| header.claims().uuid).collect();
        wait_for_claim(CLOSE_RACE_TIMEOUT, || self.refuse_open(&found))?;
        self.close_manifests(|home| uuids.contains(&home));
        headers().for_each(|header| self.keyring.lock(header));
        self.homes.forget();
        Ok(found)
    }

    fn refuse_open(&self, found: &[FoundComponent]) -> Result<()> {
        match self.open_files.all().into_iter().find(|open| found.iter().any(|one| self.is_of(open, one))) {
            Some(open) => Err(Error::new(Kind::Busy, format!("{} is open", self.name_of(&open).shown()))),
            None => Ok(()),
        }
    }

    /// Whether an open file is a component's. One with its UUID may be another's, which is a copy of it.
    fn is_of(&self, open: &OpenFile, found: &FoundComponent) -> bool {
        let uuid = found.unverified().map(|header| header.claims().uuid);
        uuid.is_some()
            && open.component() == uuid
            && match found.kind {
                ComponentKind::Disk => found.inode.is_none() || found.inode == open.storage().inode(),
                ComponentKind::Home => self.name_of(open).starts_with(&found.path),
            }
    }

    /// What a message calls an open file: its path below the folder, as the system has it now.
    fn name_of(&self, open: &OpenFile) -> PathBuf {
        let path = file::path_of(open.storage().file());
        path.strip_prefix(file::path_of(&self.root)).map_or_else(|_| path.clone(), Path::to_path_buf)
    }

    /// Tries again what waits for its provider. Returns how many components were unlocked.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn retry_locked(&self) -> Result<usize> {
        let is_first = !self.was_tried.swap(true, Ordering::Relaxed);
        if !self.keyring.waits_for_provider() {
            return Ok(0);
        }
        let first_found = self.first_found.lock().clone().filter(|_| is_first);
        let found = first_found.map_or_else(|| self.components().map(Arc::new), Ok)?;
        let waits = |state: Option<LockState>| state.is_some_and(|state| state.waits_for_provider());
        let waiting = self.in_state(&found, waits);
        self.keyring.unlock_all(waiting.iter().copied());
        Ok(waiting.len() - self.in_state(&found, waits).len())
    }

    fn in_state<'f>(
        &self,
        found: &'f [FoundComponent],
        wanted: impl Fn(Option<LockState>) -> bool,
    ) -> Vec<&'f UnverifiedHeader> {
        let headers = found.iter().filter_map(FoundComponent::unverified);
        headers.filter(|header| wanted(self.keyring.state(header))).collect()
    }

    fn components_below(&self, below: Option<&Path>) -> Result<Vec<FoundComponent>> {
        let mut found = self.all_components()?;
        if let Some(below) = below {
            found.retain(|component| component.path.starts_with(below));
            if found.is_empty() {
                return Err(Error::new(
                    Kind::NotFound,
                    format!("no VM folder or disk {} in this mount", below.shown()),
                ));
            }
        }
        Ok(self.bounded(found))
    }
}

#[cfg(test)]
mod tests;
