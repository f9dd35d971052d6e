//! How far a conversion is, counted by whoever moves bytes, told by the thread that began it.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Result;
use crate::progress::{OnProgress, Progress, Unit};

/// Counts bytes and tells of them.
pub(super) struct Pace<'a> {
    told: RefCell<(OnProgress<'a>, String)>,
    done: AtomicU64,
    total: u64,
}

impl<'a> Pace<'a> {
    /// Of `total` bytes none is done.
    pub(super) fn new(total: u64, on_progress: OnProgress<'a>) -> Self {
        Self { told: RefCell::new((on_progress, String::new())), done: AtomicU64::new(0), total }
    }

    /// What is worked on from now on.
    pub(super) fn turn_to(&self, what: impl Into<String>) {
        self.told.borrow_mut().1 = what.into();
    }

    /// The count of bytes that are done, for other threads to add to.
    pub(super) fn done(&self) -> &AtomicU64 {
        &self.done
    }

    /// Tells how far it is: a safe point. To be called a few times a second at least.
    ///
    /// # Errors
    /// `Stopped` when someone asked for it.
    pub(super) fn tell(&self) -> Result<()> {
        let (on_progress, what) = &mut *self.told.borrow_mut();
        let done = self.done.load(Ordering::Relaxed).min(self.total);
        on_progress(&Progress { what: what.clone(), done, total: self.total, unit: Unit::Bytes })
    }
}
