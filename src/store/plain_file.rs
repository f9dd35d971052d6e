//! What an unlocked file offers, be it a disk or a home file: plaintext bytes at any offset.

use std::io;

use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::progress::GoOn;
use crate::store::transfer::{Begun, Transfer};

/// Most bytes that one call reads or writes: what FUSE asks for at once.
pub const MAX_REQUEST: usize = 1 << 20;
/// Where a request's plaintext lies in its buffer: what comes before it in its sector or block has room in front.
pub const HEADROOM: usize = 4096;
/// Where a request ends.
///
/// # Errors
/// `Invalid` for one over [`MAX_REQUEST`], `EFBIG` beyond `max_len`.
pub(super) fn range_end(plain_offset: u64, len: usize, max_len: u64) -> Result<u64> {
    if len > MAX_REQUEST {
        return Err(too_long(len));
    }
    let end = plain_offset.checked_add(len as u64).filter(|&end| end <= max_len);
    end.ok_or_else(|| too_far(plain_offset, max_len))
}

fn too_long(len: usize) -> Error {
    Error::new(Kind::Invalid, format!("a request of {len} bytes, at most {MAX_REQUEST}"))
}

pub(super) fn too_far(plain_offset: u64, max_len: u64) -> Error {
    Error::errno(format!("position {plain_offset}: the file ends at {max_len} at the latest"), Errno::FBIG)
}

/// A distance within one request; it fits a length of memory.
pub(super) fn index(distance: u64) -> usize {
    usize::try_from(distance).unwrap_or(usize::MAX)
}

/// Reads all of a file but its holes, which anyone can make as long as they like, and returns its length. `go_on` is asked before each
/// request.
///
/// # Errors
/// Those of [`PlainFile::read_at`], and that of `go_on`.
pub fn read_all(file: &dyn PlainFile, buffer: &mut [u8], go_on: &GoOn<'_>) -> Result<u64> {
    let len = file.plain_len();
    let mut at = 0;
    while let Some(start) = file.seek_data(at)? {
        go_on()?;
        match file.read_at(start, MAX_REQUEST, buffer)?.len() {
            0 => break,
            read => at = start + read as u64,
        }
    }
    // The last block says, if it is so, that there was more.
    file.read_at(len.saturating_sub(1), 1, buffer)?;
    Ok(len)
}

/// Plaintext bytes at any offset, for many threads at once: overlapping requests happen in some order, never interleaved.
/// All positions are of the plain side, in bytes.
pub trait PlainFile: Send + Sync {
    /// Length in bytes.
    fn plain_len(&self) -> u64;

    /// Reads up to `len` bytes, fewer at the end of the file, into a [`request_buffer`](super::buffer::request_buffer):
    /// they lie at its [`HEADROOM`] then, wherever in a sector or block they come from.
    ///
    /// # Errors
    /// `Invalid` for a request over [`MAX_REQUEST`], `Corrupt` for damage, or `Io`.
    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]>;

    /// Writes the `len` bytes that lie at [`HEADROOM`] of a [`request_buffer`](super::buffer::request_buffer), whose content
    /// is of no use afterwards. Past the end the file grows, with a hole in between.
    ///
    /// # Errors
    /// `Invalid` for a request over [`MAX_REQUEST`], or `Io`, with `EFBIG` past the largest length. Then parts of the range
    /// may hold old or new data; the length is what it was.
    fn write_in_place(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()>;

    /// As [`read_at`](Self::read_at), but never waits for another request, and may leave the I/O to somebody else.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at).
    fn begin_read(&self, _plain_offset: u64, _len: usize, _buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        Ok(Begun::MustWait)
    }

    /// As [`write_in_place`](Self::write_in_place), but never waits for another request, and may leave the I/O to somebody
    /// else. After [`Begun::MustWait`] the buffer is as it was.
    ///
    /// # Errors
    /// Those of [`write_in_place`](Self::write_in_place).
    fn begin_write(&self, _plain_offset: u64, _len: usize, _buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        Ok(Begun::MustWait)
    }

    /// Ends a request that was begun with the same buffer, when its I/O is done, and returns its length in bytes. Where less was
    /// transferred than asked for it does the rest. After an error no byte of the buffer is touched.
    ///
    /// # Errors
    /// Those of [`read_at`](Self::read_at) and [`write_in_place`](Self::write_in_place); `moved`, if that is one.
    fn end_transfer(&self, _transfer: Transfer, _moved: io::Result<usize>, _buffer: &mut [u8]) -> Result<usize> {
        Err(Error::new(Kind::Invalid, "nothing of this file was begun"))
    }

    /// Writes all of `data`, through a [`request_buffer`](super::buffer::request_buffer).
    ///
    /// # Errors
    /// Those of [`write_in_place`](Self::write_in_place).
    fn write_at(&self, plain_offset: u64, data: &[u8], buffer: &mut [u8]) -> Result<()> {
        if data.len() > MAX_REQUEST {
            return Err(too_long(data.len()));
        }
        buffer[HEADROOM..][..data.len()].copy_from_slice(data);
        self.write_in_place(plain_offset, data.len(), buffer)
    }

    /// Grows by a hole, or cuts off.
    ///
    /// # Errors
    /// `Io`, with `EFBIG` past the largest length.
    fn set_len(&self, plain_len: u64) -> Result<()>;

    /// Call once before the first write after unlocking: mends what a crash may have left past the file's end.
    ///
    /// # Errors
    /// `Io`.
    fn prepare_writes(&self) -> Result<()>;

    /// Discards a range: it reads as zeros, and gives its space back where whole units or blocks lie in it. The length stays.
    ///
    /// # Errors
    /// `Io`.
    fn punch(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()>;

    /// Makes a range read as zeros and keeps its space. The length stays.
    ///
    /// # Errors
    /// `Io`.
    fn zero(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()>;

    /// Reserves space for a range, so that writes into it find room; with `grow` the file becomes long enough for it.
    ///
    /// # Errors
    /// `Io`, with `ENOSPC` when there is no room.
    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()>;

    /// Start of the first data at or after `plain_offset`, if there is any.
    ///
    /// # Errors
    /// `Io`.
    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>>;

    /// Start of the first hole at or after `plain_offset` (the end of the file is one), if `plain_offset` is within it.
    ///
    /// # Errors
    /// `Io`.
    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>>;

    /// Returns once everything written is durable.
    ///
    /// # Errors
    /// `Io`. After one failed sync all later ones fail too: the kernel reports lost writes once, and which ones were lost is
    /// not known. Closing and opening the file starts afresh.
    fn sync(&self) -> Result<()>;
}
