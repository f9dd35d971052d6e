//! What an operation has made is what this host has seen of it: an older copy that is put back is noticed.

use std::path::Path;

use crate::format::header::UnverifiedHeader;
use crate::key::KeyId;
use crate::provider::{FetchedKeks, Providers};
use crate::seen::{Memory, Point};
use crate::vm::scan::FoundComponent;
use crate::vm::{folder, keyring, scan};

/// Remembers the components of a VM folder as they are, by keys that are fetched. Where a key is unavailable, the next process that opens
/// the component does it.
pub(super) fn remember(folder: &Path, providers: &Providers) {
    remember_by(folder, providers, |ids| providers.fetch_all(ids));
}

/// The same by keys that `keks` gives.
pub(super) fn remember_by(folder: &Path, providers: &Providers, keks: impl FnOnce(Vec<KeyId>) -> FetchedKeks) {
    let Ok(found) = folder::open_dir(folder).and_then(|dir| scan::scan(&dir)) else { return };
    let headers: Vec<&UnverifiedHeader> = found.iter().filter_map(FoundComponent::unverified).collect();
    let keks = keks(headers.iter().flat_map(|header| header.claims().slots.key_ids().cloned()).collect());
    let memory = Memory::of(providers);
    for header in headers {
        if let Ok(there) = keyring::unlock(header, &keks).and_then(|dek| Point::of(header, &dek)) {
            memory.meet(there);
        }
    }
}
