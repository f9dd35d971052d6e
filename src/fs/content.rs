//! How regular files keep their content, as far as that is remembered between opens.

use std::fs::File;
use std::sync::Weak;

use parking_lot::Mutex;

use crate::error::Result;
use crate::format::header::{DEFAULT_DATA_OFFSET, Shape};
use crate::fs::stat::Stat;
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
    /// As a sector store. Where its header says that data begin; 8 MiB when it cannot be read.
    Disk {
        /// Bytes.
        data_offset: u64,
    },
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
    /// What an open backing file holds.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn of(file: File) -> Result<Self> {
        if !disk::is_disk(&file)? {
            return Ok(Self::Home);
        }
        let data_offset = match disk::read_header(file).map(|(_, stored)| stored.header.claims().shape) {
            Ok(Shape::Disk { data_offset, .. }) => data_offset,
            Ok(Shape::Home) | Err(_) => DEFAULT_DATA_OFFSET,
        };
        Ok(Self::Disk { data_offset })
    }
}
