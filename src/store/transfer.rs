//! Requests whose I/O the caller performs asynchronously, together with that of other requests.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use crate::sector::Span;
use crate::store::range_lock::Ticket;

/// State of a started request.
pub enum Begun<T> {
    /// It is done, and had this many bytes: fewer than asked for at the end of a file that is read.
    Done(usize),
    /// This continues elsewhere.
    UnderWay(T),
    /// Nothing was done, since it would have to wait for others. A caller with nothing in flight may block instead.
    MustWait,
}

/// Which way data goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the backing file into the request's buffer.
    Read,
    /// From the buffer into the backing file.
    Write,
}

/// The I/O of one request. Its range of the file stays locked until it is given back, which it must be.
#[must_use]
pub struct Transfer {
    pub(super) direction: Direction,
    pub(super) file: Arc<File>,
    pub(super) cipher_offset: u64,
    pub(super) memory: Range<usize>,
    /// The sectors that the memory holds, or begins in.
    pub(super) span: Span,
    /// Bytes of plaintext that the request has.
    pub(super) len: usize,
    pub(super) ticket: Ticket,
}

impl Transfer {
    /// Which way.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// From or to which file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Where in the file.
    pub fn offset(&self) -> u64 {
        self.cipher_offset
    }

    /// Which part of the request's buffer.
    pub fn memory(&self) -> Range<usize> {
        self.memory.clone()
    }
}
