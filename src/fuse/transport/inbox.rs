//! What other threads leave for the thread of a ring.

use parking_lot::Mutex;

use crate::fuse::transport::data_requests::Answer;
use crate::sys::fuse_ring::{LooseEntry, Waker};

/// Where it is left; the thread's ring has the same [`Waker`].
pub(super) struct Inbox {
    left: Mutex<Vec<Left>>,
    pub(super) waker: Waker,
}

pub(super) enum Left {
    /// fuser's reply to the request of an entry.
    Reply(usize, Vec<u8>),
    /// An entry that is this thread's from now on, the numbers of the thread on its queue's CPU and of the one that gives it,
    /// and the reply to give.
    Entry { loose: LooseEntry, home: usize, giver: usize, answer: Answer },
}

impl Inbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self { left: Mutex::default(), waker }
    }

    /// Leaves something and wakes the thread.
    pub(super) fn leave(&self, left: Left) {
        self.left.lock().push(left);
        self.waker.wake();
    }

    /// Takes all that was left.
    pub(super) fn empty(&self) -> Vec<Left> {
        std::mem::take(&mut *self.left.lock())
    }
}
