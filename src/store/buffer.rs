//! Memory for requests: one buffer a request, used again by the same thread.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use crate::store::plain_file::{HEADROOM, MAX_REQUEST};
use crate::sys::AlignedBuffer;

/// A request widened to whole sectors or blocks on both sides, with all that is stored beside the data.
const BUFFER_LEN: usize = HEADROOM + MAX_REQUEST + (64 << 10);

/// Memory that any request of a [`PlainFile`](super::plain_file::PlainFile) fits into. Costs only what is touched.
pub fn request_buffer() -> AlignedBuffer {
    AlignedBuffer::zeroed(BUFFER_LEN)
}

thread_local! {
    /// The buffer that this thread's last request gave back. Each thread comes to own one, so that no two of them touch
    /// the same queue, and the memory stays in the cache of its CPU.
    static SPARE: Cell<Option<AlignedBuffer>> = const { Cell::new(None) };
}

/// A [`request_buffer`] that is kept, when dropped, for the next request of the same thread.
pub struct RequestBuffer(Option<AlignedBuffer>);

impl RequestBuffer {
    /// This thread's buffer, or a new one.
    pub fn take() -> Self {
        Self(Some(SPARE.take().unwrap_or_else(request_buffer)))
    }
}

impl Deref for RequestBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for RequestBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for RequestBuffer {
    fn drop(&mut self) {
        SPARE.set(self.0.take());
    }
}
