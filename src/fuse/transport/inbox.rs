//! Messages of other threads to the thread of a ring.

use parking_lot::Mutex;

use crate::fuse::transport::data_requests::Answer;
use crate::sys::fuse_ring::{DetachedEntry, Waker};

/// The thread's ring has the same [`Waker`].
pub(super) struct Inbox {
    messages: Mutex<Vec<Message>>,
    pub(super) waker: Waker,
}

pub(super) enum Message {
    /// fuser's reply to the request of an entry.
    Reply(usize, Vec<u8>),
    /// An entry that belongs to this thread from now on, the numbers of the thread on its queue's CPU and of the one that it comes from,
    /// and the answer to its request.
    Entry { detached: DetachedEntry, home: usize, from: usize, answer: Answer },
}

impl Inbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self { messages: Mutex::default(), waker }
    }

    /// Adds a message and wakes the thread.
    pub(super) fn post(&self, message: Message) {
        self.messages.lock().push(message);
        self.waker.wake();
    }

    /// Takes all messages.
    pub(super) fn empty(&self) -> Vec<Message> {
        std::mem::take(&mut *self.messages.lock())
    }
}
