//! What a home's manifest says of files that a verb is about to replace: each is compared as it is opened.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::crypto::derive::sha256;
use crate::error::{Error, Kind, Result};
use crate::format::manifest::{Entry, EntryKind, Manifest, ManifestVersion};
use crate::storage::FileStorage;
use crate::store::home_file::HomeFile;
use crate::vm::manifest::tree::{is_hole_with_header, values};

/// The entries of a closed manifest: what has its path is that, or was exchanged in the meantime.
pub struct Expected {
    version: ManifestVersion,
    entries: HashMap<Vec<u8>, Entry>,
}

impl Expected {
    pub(super) fn of(manifest: Manifest) -> Self {
        let entries = manifest.entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        Self { version: manifest.version, entries }
    }

    /// Refuses a home file that is not the one with this path, or not the version of it.
    ///
    /// # Errors
    /// `Corrupt`, or `Io`.
    pub fn check_file(&self, path: &Path, file: &HomeFile<FileStorage>) -> Result<()> {
        let Some(id) = file.id() else { return Ok(()) };
        let entry = self.entries.get(path.as_os_str().as_bytes());
        let (state, backing) = (file.state_digest(self.version)?, file.storage().file());
        let is_it = match entry {
            Some(entry) if entry.values != values(backing)? => false,
            Some(entry) if entry.kind == EntryKind::File => entry.id == id.0 && entry.content == state,
            // One that lost its header in a crash got another one just now.
            Some(entry) => is_hole_with_header(entry, backing, &state, self.version)?,
            None => false,
        };
        if is_it { Ok(()) } else { Err(changed()) }
    }

    /// Refuses another symbolic link than that with this path, by its text.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check_link(&self, path: &Path, text: &OsStr) -> Result<()> {
        let link = self.entries.get(path.as_os_str().as_bytes()).filter(|entry| entry.kind == EntryKind::Link);
        let is_it = link.is_some_and(|entry| entry.content == sha256(text.as_bytes()));
        if is_it { Ok(()) } else { Err(changed()) }
    }

    /// Refuses what is not replaced and has other extended attributes than what had this path, if the manifest says which.
    ///
    /// # Errors
    /// `Corrupt`, or `Io`.
    pub fn check_values(&self, path: &Path, file: &File) -> Result<()> {
        let expected = match self.entries.get(path.as_os_str().as_bytes()) {
            Some(Entry { kind: EntryKind::Link | EntryKind::Other, .. }) => return Ok(()), // of which it says none
            Some(entry) => entry.values,
            None => [0; 32], // what was put in and has none is not the home's
        };
        if values(file)? == expected { Ok(()) } else { Err(changed()) }
    }
}

fn changed() -> Error {
    Error::new(
        Kind::Corrupt,
        "it is not what the home's manifest says: others than vmcryptfs changed it while this ran. Run it again, which compares all of it",
    )
}
