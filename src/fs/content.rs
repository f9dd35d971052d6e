//! How regular files keep their content, as far as that is remembered between opens.

use std::fs::File;
use std::sync::Weak;

use parking_lot::Mutex;

use crate::error::Result;
use crate::format::disk_kind::DiskShape;
use crate::fs::stat::Stat;
use crate::sector::SectorSize;
use crate::serve::OpenFile;
use crate::vm::disk;

/// A regular file, as far as it is remembered between opens.
pub(super) struct FileNode {
    content: Mutex<(ContentKind, Version)>,
    /// Shared by all handles on it.
    pub(super) open: Mutex<Weak<OpenFile>>,
}

/// What differs once a file was written: its length, and the time of that.
type Version = (i64, i64, u64);

/// How a regular file keeps its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ContentKind {
    /// As a disk of this shape, or of the usual one when its header cannot be read.
    Disk(DiskShape),
    /// As a home file.
    Home,
}

impl FileNode {
    /// A file with this content when it had these attributes. Nothing is open on it.
    pub(super) fn new(content: ContentKind, stat: &Stat) -> Self {
        Self { content: Mutex::new((content, version(stat))), open: Mutex::default() }
    }

    pub(super) fn content(&self) -> ContentKind {
        self.content.lock().0
    }

    /// The file was made this while it was open, and had these attributes after that.
    pub(super) fn became(&self, content: ContentKind, stat: &Stat) {
        *self.content.lock() = (content, version(stat));
    }

    /// Looks at the content again if the file was written since that was done: something else than this mount may have put another
    /// file's content in the place of this one's. Not for a file that is open, which nobody else writes.
    pub(super) fn look_again(&self, stat: &Stat, open: impl FnOnce() -> Result<File>) {
        if self.content.lock().1 == version(stat) {
            return;
        }
        // What this process may not read stays what it was.
        if let Ok(content) = open().and_then(ContentKind::of) {
            *self.content.lock() = (content, version(stat));
        }
    }
}

fn version(stat: &Stat) -> Version {
    (stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
}

impl ContentKind {
    /// What becomes a disk through a mount.
    pub(super) const NEW_DISK: Self = Self::Disk(DiskShape::new(SectorSize::DEFAULT));

    /// What an open backing file holds.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn of(file: File) -> Result<Self> {
        if !disk::is_disk(&file)? {
            return Ok(Self::Home);
        }
        let shape = disk::read_header(file).ok().and_then(|(_, stored)| stored.header.claims().shape.disk());
        Ok(shape.map_or(Self::NEW_DISK, Self::Disk))
    }
}
