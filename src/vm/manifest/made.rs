//! From a manifest that is whole to one that is durable and in its place: one by one, or for many homes together, with one sync of
//! the file system for all of them.

use std::ffi::OsStr;
use std::fs::File;
use std::sync::Arc;

use crate::error::{Context, Result};
use crate::format::manifest::MANIFEST_FILE;
use crate::seen::{Memory, Point};
use crate::storage::FileStorage;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;
use crate::sys::file::readable;
use crate::vm::draft::Draft;

/// A manifest that is whole, under a temporary name. Nobody else makes one of the home as long as this lives.
pub struct Made<'d> {
    draft: Draft<'d>,
    file: HomeFile<FileStorage>,
    /// Dropped last: who has the lock removes drafts.
    placed: Placed<'d>,
}

impl<'d> Made<'d> {
    pub(super) fn new(draft: Draft<'d>, file: HomeFile<FileStorage>, placed: Placed<'d>) -> Self {
        Self { draft, file, placed }
    }

    /// Does all that is left to do.
    ///
    /// # Errors
    /// `Io`; then the manifest is what it was.
    pub fn finish(self, memory: &Arc<Memory>) -> Result<()> {
        self.sync()?;
        let placed = self.place()?;
        placed.sync()?;
        placed.remember(memory);
        Ok(())
    }

    /// Makes it durable.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.file.sync().context(sealing)
    }

    /// Puts it in the place of the one before. It is durable by now.
    ///
    /// # Errors
    /// `Io`.
    pub fn place(self) -> Result<Placed<'d>> {
        self.draft.replace(self.placed.dir, OsStr::new(MANIFEST_FILE)).context(sealing)?;
        Ok(self.placed)
    }
}

/// A manifest in its place. That it is there is to be made durable.
pub struct Placed<'d> {
    dir: &'d File,
    point: Point,
    _locked: File,
}

impl<'d> Placed<'d> {
    pub(super) fn new(dir: &'d File, point: Point, locked: File) -> Self {
        Self { dir, point, _locked: locked }
    }

    /// Makes its name durable.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        sync_names(self.dir)
    }

    /// Has this host remember it, once its name is durable.
    pub fn remember(self, memory: &Arc<Memory>) {
        memory.meet(self.point);
    }
}

pub(super) fn sealing() -> String {
    format!("sealing {MANIFEST_FILE}")
}

pub(super) fn sync_names(dir: &File) -> Result<()> {
    let dir = readable(dir).context(|| "opening the VM folder".into())?;
    rustix::fs::fsync(dir).context(|| "making the VM folder's names durable".into())
}
