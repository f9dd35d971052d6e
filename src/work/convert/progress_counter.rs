//! Progress of a conversion: bytes are counted by any thread that moves them, and reported by the thread that began it.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::progress::{OnProgress, Progress, Unit};

/// Counts bytes, or files, and reports how many are done.
pub(super) struct ProgressCounter<'a> {
    sink: RefCell<(OnProgress<'a>, String)>,
    bytes: AtomicU64,
    files: Cell<u64>,
    total: u64,
    unit: Unit,
}

impl<'a> ProgressCounter<'a> {
    /// Of `total` bytes none is done.
    pub(super) fn new(total: u64, on_progress: OnProgress<'a>) -> Self {
        Self::of(Unit::Bytes, total, String::new(), on_progress)
    }

    /// Of `total` files of a thing none is done.
    pub(super) fn of_files(what: &str, total: u64, on_progress: OnProgress<'a>) -> Self {
        Self::of(Unit::Files, total, what.to_owned(), on_progress)
    }

    /// Before it is known what there is to do. Nothing is changed then.
    pub(super) fn looking(on_progress: OnProgress<'a>) -> Self {
        let Progress { what, total, unit, .. } = Progress::looking();
        Self::of(unit, total, what, on_progress)
    }

    fn of(unit: Unit, total: u64, what: String, on_progress: OnProgress<'a>) -> Self {
        Self { sink: RefCell::new((on_progress, what)), bytes: AtomicU64::new(0), files: Cell::new(0), total, unit }
    }

    /// What is worked on from now on.
    pub(super) fn turn_to(&self, what: impl Into<String>) {
        self.sink.borrow_mut().1 = what.into();
    }

    /// The count of bytes that are done, for other threads to add to.
    pub(super) fn bytes(&self) -> &AtomicU64 {
        &self.bytes
    }

    /// A file is done.
    pub(super) fn count_file(&self) {
        self.files.set(self.files.get() + 1);
    }

    /// Reports progress: a safe point. To be called a few times a second at least.
    ///
    /// # Errors
    /// `Stopped` when someone asked for it.
    pub(super) fn tell(&self) -> Result<()> {
        let (on_progress, what) = &mut *self.sink.borrow_mut();
        let done = match self.unit {
            Unit::Files => self.files.get(),
            Unit::Bytes | Unit::Components => self.bytes.load(Ordering::Relaxed),
        };
        on_progress(&Progress { what: what.clone(), done: done.min(self.total), total: self.total, unit: self.unit })
    }
}
