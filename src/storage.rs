//! Where a component's bytes lie: a flat file with holes.
//!
//! The one seam under the stores. [`FileStorage`] is a backing file; the memory variants are for tests of crashes and
//! faults. Offsets and lengths here are of the cipher side, in bytes.

pub mod claims;
mod direct;
mod file;
pub mod memory;
pub mod sharing;

pub use claims::Access;
pub use file::{BackingIo, FileStorage};

use std::fs::File;
use std::sync::Arc;

use crate::error::{Error, Result};

/// A flat file with holes, shared between threads. Reads of a hole give zeros.
#[allow(clippy::len_without_is_empty, reason = "whether a backing file is empty says nothing")]
pub trait Storage: Send + Sync {
    /// Length in bytes.
    ///
    /// # Errors
    /// `Io`.
    fn len(&self) -> Result<u64>;

    /// Cuts off, or appends a hole.
    ///
    /// # Errors
    /// `Io`.
    fn set_len(&self, len: u64) -> Result<()>;

    /// Fills `buffer` from `offset` on and returns how much there was before the end of the file.
    ///
    /// # Errors
    /// `Io`.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Writes all of `data` at `offset`; the file grows when needed.
    ///
    /// # Errors
    /// `Io`; then any part of `data` may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// As [`write_at`](Self::write_at), for a change that users of the file must not notice: mtime is preserved, unless it is set at
    /// the same moment.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    fn write_preserving_mtime(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_at(offset, data)
    }

    /// Returns once all that was written, and the length, are durable.
    ///
    /// # Errors
    /// `Io`; then anything written since the last sync may be lost.
    fn sync(&self) -> Result<()>;

    /// Device and inode number of the file, if it is one.
    fn inode(&self) -> Option<(u64, u64)> {
        None
    }

    /// Whether another opener, on whichever host, has the file claimed to write it, or so that nobody may.
    fn is_claimed_elsewhere(&self) -> bool {
        false
    }

    /// Turns a range into a hole; the length stays.
    ///
    /// # Errors
    /// `Io`.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;

    /// Makes a range read as zeros and keeps its space; the length stays.
    ///
    /// # Errors
    /// `Io`.
    fn zero(&self, offset: u64, len: u64) -> Result<()>;

    /// Reserves space for a range, which must not end past the file.
    ///
    /// # Errors
    /// `Io`; `ENOSPC` when there is none.
    fn allocate(&self, offset: u64, len: u64) -> Result<()>;

    /// Start of the first data at or after `offset`, if there is any.
    ///
    /// # Errors
    /// `Io`.
    fn seek_data(&self, offset: u64) -> Result<Option<u64>>;

    /// Start of the first hole at or after `offset` (the end of the file is one), if `offset` is within the file.
    ///
    /// # Errors
    /// `Io`.
    fn seek_hole(&self, offset: u64) -> Result<Option<u64>>;

    /// A file at whose `offset` the caller may read into this memory, or write from it, instead of
    /// [`read_at`](Self::read_at) and [`write_at`](Self::write_at), if there is such a way.
    fn raw_io_target(&self, _offset: u64, _memory: &[u8]) -> Option<Arc<File>> {
        None
    }

    /// What a failure there means.
    fn raw_io_failed(&self, error: Error) -> Error {
        error
    }

    /// How many bytes should be read by one call, a multiple of 4096: what works on them then finds them in the CPU's cache.
    fn read_piece_len(&self) -> usize {
        4096
    }

    /// Bytes that are changed as a whole below, a power of two: within the same multiple of it only one change may be under way
    /// at a time.
    fn write_atom(&self) -> u64 {
        1
    }
}

/// A storage that is borrowed.
impl<S: Storage> Storage for &S {
    fn len(&self) -> Result<u64> {
        (**self).len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        (**self).set_len(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        (**self).read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        (**self).write_at(offset, data)
    }

    fn write_preserving_mtime(&self, offset: u64, data: &[u8]) -> Result<()> {
        (**self).write_preserving_mtime(offset, data)
    }

    fn sync(&self) -> Result<()> {
        (**self).sync()
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        (**self).punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        (**self).zero(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        (**self).allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        (**self).seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        (**self).seek_hole(offset)
    }

    fn raw_io_target(&self, offset: u64, memory: &[u8]) -> Option<Arc<File>> {
        (**self).raw_io_target(offset, memory)
    }

    fn raw_io_failed(&self, error: Error) -> Error {
        (**self).raw_io_failed(error)
    }

    fn read_piece_len(&self) -> usize {
        (**self).read_piece_len()
    }

    fn write_atom(&self) -> u64 {
        (**self).write_atom()
    }
}
