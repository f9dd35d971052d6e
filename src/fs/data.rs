//! Operations on open files: the data path. None of them touches the node table.

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fs::handle::HandleNumber;
use crate::fs::{Caller, FileSystem};
use crate::store::buffer::RequestBuffer;
use crate::store::plain_file::HEADROOM;

/// What `fallocate` should do with a range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Space {
    /// Reserve it; the file grows to hold the range unless `keep_size`.
    Allocate {
        /// Whether the length stays.
        keep_size: bool,
    },
    /// Give it back; the range reads as zeros.
    Punch,
    /// Make the range read as zeros and keep its space; the file grows unless `keep_size`.
    Zero {
        /// Whether the length stays.
        keep_size: bool,
    },
}

/// What `lseek` looks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Seek {
    /// Data.
    Data,
    /// A hole.
    Hole,
}

impl FileSystem {
    /// Up to `size` bytes at `offset`, fewer at the end, in place in `buffer`.
    ///
    /// # Errors
    /// Those of [`PlainFile::read_at`](crate::store::plain_file::PlainFile::read_at).
    pub fn read<'b>(&self, handle: HandleNumber, offset: u64, size: u32, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let handle = self.handles.get(handle)?;
        handle.note_read();
        handle.file()?.read_at(offset, size as usize, buffer)
    }

    /// Writes `size` bytes, which lie at [`HEADROOM`] of `buffer`, at `offset`. The
    /// buffer's content is of no use afterwards.
    ///
    /// # Errors
    /// Those of [`PlainFile::write_in_place`](crate::store::plain_file::PlainFile::write_in_place).
    pub fn write(&self, handle: HandleNumber, offset: u64, size: u32, buffer: &mut [u8]) -> Result<()> {
        let handle = self.handles.get(handle)?;
        self.heed_first_write(&handle, offset, buffer[HEADROOM..].get(..size as usize).unwrap_or_default())?;
        handle.file()?.write_in_place(offset, size as usize, buffer)
    }

    /// Returns once everything written to the file is durable.
    ///
    /// # Errors
    /// Those of [`PlainFile::sync`](crate::store::plain_file::PlainFile::sync).
    pub fn sync(&self, handle: HandleNumber) -> Result<()> {
        self.handles.get(handle)?.file()?.sync()
    }

    /// Reserves, gives back or zeroes a range.
    ///
    /// # Errors
    /// `Io`, with `ENOSPC` when there is no room.
    pub fn allocate(&self, handle: HandleNumber, offset: u64, len: u64, what: Space, caller: &Caller) -> Result<()> {
        if !caller.is_root() {
            self.drop_privileges(handle, caller)?;
        }
        let handle = self.handles.get(handle)?;
        let file = handle.file()?;
        match what {
            Space::Allocate { keep_size } => file.allocate(offset, len, !keep_size)?,
            Space::Punch => file.punch(offset, len, &mut RequestBuffer::take())?,
            Space::Zero { keep_size } => {
                file.zero(offset, len, &mut RequestBuffer::take())?;
                file.allocate(offset, len, !keep_size)?;
            }
        }
        if self.syncs_change(&handle) { file.sync() } else { Ok(()) }
    }

    /// Start of the next data or hole at or after `offset`.
    ///
    /// # Errors
    /// `ENXIO` when there is none.
    pub fn seek(&self, handle: HandleNumber, offset: u64, what: Seek) -> Result<u64> {
        let handle = self.handles.get(handle)?;
        let file = handle.file()?;
        let found = match what {
            Seek::Data => file.seek_data(offset)?,
            Seek::Hole => file.seek_hole(offset)?,
        };
        found.ok_or_else(|| Error::errno("no data past this offset", Errno::NXIO))
    }
}
