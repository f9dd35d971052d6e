//! The seam to the caller's I/O.

use std::io;
use std::ops::Deref;

use crate::error::{Error, Kind, Result};

/// The bytes of one file, as its owner reads them. This crate opens nothing: it says what it needs, and from where.
pub trait Source {
    /// Bytes in the file.
    ///
    /// # Errors
    /// Whatever the owner meets; it becomes the source of an [`Error`] of [`Kind::Io`].
    fn byte_len(&self) -> io::Result<u64>;

    /// Fills all of `buf` from `offset` on. Only ranges within [`byte_len`](Self::byte_len) are asked for, of at most
    /// [`PIECE_LEN`](crate::limits::PIECE_LEN) bytes for tables and one grain for compressed data.
    ///
    /// # Errors
    /// Whatever the owner meets, a file that became shorter included.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// References, boxes, [`Arc`](std::sync::Arc)s and vectors of sources are sources.
impl<P: Deref> Source for P
where
    P::Target: Source,
{
    fn byte_len(&self) -> io::Result<u64> {
        (**self).byte_len()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buf)
    }
}

/// A file that is in memory already.
impl Source for [u8] {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// The length of `source`, as this crate's error.
pub(crate) fn len_of<S: Source + ?Sized>(source: &S) -> Result<u64> {
    source.byte_len().map_err(|error| Error::io(0, error))
}

/// `N` bytes of a file of `file_len` bytes; `what` they are goes into the error if they are not all there.
pub(crate) fn array_at<const N: usize, S: Source + ?Sized>(
    source: &S,
    file_len: u64,
    offset: u64,
    what: &str,
) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    check_within(file_len, offset, N as u64, what)?;
    source.read_at(offset, &mut bytes).map_err(|error| Error::io(offset, error))?;
    Ok(bytes)
}

/// Refuses a range that does not lie within a file of `file_len` bytes.
pub(crate) fn check_within(file_len: u64, offset: u64, len: u64, what: &str) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= file_len) {
        return Ok(());
    }
    let message =
        format!("{what}: {len} bytes at byte {offset} lie beyond the end of the file, which is {file_len} bytes");
    Err(Error::new(Kind::Corrupt, message).at_offset(offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_a_source_that_refuses_what_it_does_not_hold() {
        let bytes = vec![1_u8, 2, 3];
        assert_eq!(array_at::<2, _>(&bytes, 3, 1, "x").unwrap(), [2, 3]);
        assert_eq!(array_at::<2, _>(&bytes, 3, 2, "x").unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(array_at::<2, _>(&bytes, 3, u64::MAX, "x").unwrap_err().kind(), Kind::Corrupt);
        let shrunk = array_at::<2, _>(&&bytes, 9, 2, "x").unwrap_err();
        assert_eq!(shrunk.kind(), Kind::Io);
        assert!(std::error::Error::source(&shrunk).is_some());
    }
}
