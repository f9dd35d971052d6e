//! Directories that are open for listing.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::fs::attr::FileKind;
use crate::fs::node::Node;
use crate::serve::Place;

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Its kind.
    pub kind: FileKind,
    /// The backing inode's number; a hint, since the node may not be known yet.
    pub number: u64,
    /// The position after it, never 0.
    pub next: u64,
}

/// A directory that is open for listing.
pub(super) enum Listing {
    /// One on disk.
    Stored(Mutex<Stored>),
    /// The raw images of a VM folder, as they were when the listing was begun.
    Images(Arc<Node>, Mutex<Vec<DirEntry>>),
}

/// An open directory, read ahead.
pub(super) struct Stored {
    pub(super) node: Arc<Node>,
    pub(super) dir: File,
    /// Entries that follow `position`.
    pub(super) ahead: VecDeque<DirEntry>,
    pub(super) position: u64,
    pub(super) _place: Place,
}
