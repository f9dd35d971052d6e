//! Raw images that are open.

use std::sync::Weak;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::fs::number::NodeNumber;
use crate::serve::{FileUse, OpenFile};
use crate::store::raw_image::RawImage;

/// A raw image, as far as it is remembered between opens: the one that was opened last.
#[derive(Default)]
pub(super) struct ImageNode(pub(super) Mutex<Weak<OpenImage>>);

/// A raw image that a handle uses.
pub(super) struct OpenImage {
    pub(super) image: RawImage<OpenFile>,
    /// Whether it was opened with `O_DSYNC` or `O_SYNC`.
    pub(super) durable: AtomicBool,
    /// What its files are used for.
    pub(super) _uses: Vec<FileUse>,
    /// The nodes of its files, which are kept known, so that all handles on them share one open file.
    pub(super) nodes: Vec<NodeNumber>,
}
