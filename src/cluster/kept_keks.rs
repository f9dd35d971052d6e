//! The file of KEKs that keepers gave and a host keeps over a restart, sealed by its TPM.

use std::path::{Path, PathBuf};

use super::host::folder;
use crate::error::{Context, Result};
use crate::format::cluster::{KeptKeks, MAX_KEPT_LEN};
use crate::provider::private_file;
use crate::text::Show;

/// The file of a host.
#[derive(Debug)]
pub struct KeptKeksFile {
    path: PathBuf,
}

impl KeptKeksFile {
    /// That of a host with this configuration.
    pub fn of(config: &Path) -> Self {
        Self { path: folder(config).join("kept-keks") }
    }

    /// What is kept, still sealed; `None` if that is nothing.
    ///
    /// # Errors
    /// `Denied` when others can read or change the file, `Corrupt`, `Unsupported` for a later version, `Io`.
    pub fn load(&self) -> Result<Option<KeptKeks>> {
        let Some(bytes) = private_file::read_if_there(MAX_KEPT_LEN as u64, &self.path)? else { return Ok(None) };
        KeptKeks::decode(&bytes).context(|| format!("reading {}", self.path.shown())).map(Some)
    }

    /// Keeps these, and no others: what was there is overwritten.
    ///
    /// # Errors
    /// `Io`, and those of [`KeptKeks::encode`].
    pub fn store(&self, keks: &KeptKeks) -> Result<()> {
        private_file::replace_and_wipe(&self.path, &[&keks.encode()?])
    }

    /// Overwrites and removes what is kept. Returns whether there was something.
    ///
    /// # Errors
    /// `Io`.
    pub fn wipe(&self) -> Result<bool> {
        private_file::wipe(&self.path)
    }
}
