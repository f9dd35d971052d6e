//! A file kept in the clear: the operations of a disk or home file, without a cipher.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Context, Error, Kind, Result};
use crate::sector::MAX_OFFSET;
use crate::storage::Storage;
use crate::store::plain_file::{HEADROOM, PlainFile, index, range_end, too_far};
use crate::store::range_lock::RangeLock;

/// A file whose backing file holds its bytes as they are.
pub struct ClearFile<S> {
    storage: S,
    /// Changed only while all from the old or new end on is locked.
    plain_len: AtomicU64,
    locks: RangeLock,
    sync_failed: AtomicBool,
}

impl<S: Storage> ClearFile<S> {
    /// Takes over a backing file.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(storage: S) -> Result<Self> {
        let plain_len = AtomicU64::new(storage.len()?);
        Ok(Self { storage, plain_len, locks: RangeLock::default(), sync_failed: AtomicBool::new(false) })
    }

    /// The storage below.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Does something with a range, of which only what lies within the file is touched.
    fn within(&self, plain_offset: u64, len: u64, work: impl FnOnce(u64) -> Result<()>) -> Result<()> {
        let end = plain_offset.saturating_add(len);
        let _guard = self.locks.exclusive(plain_offset..end);
        let end = end.min(self.plain_len());
        if plain_offset < end { work(end - plain_offset) } else { Ok(()) }
    }
}

impl<S: Storage> PlainFile for ClearFile<S> {
    fn plain_len(&self) -> u64 {
        self.plain_len.load(Ordering::Acquire)
    }

    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let end = range_end(plain_offset, len, MAX_OFFSET)?;
        let _guard = self.locks.shared(plain_offset..end);
        let wanted = &mut buffer[HEADROOM..][..index(end.min(self.plain_len()).saturating_sub(plain_offset))];
        let filled = self.storage.read_at(plain_offset, wanted)?;
        Ok(&buffer[HEADROOM..][..filled])
    }

    fn write_in_place(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        let end = range_end(plain_offset, len, MAX_OFFSET)?;
        let _guard = match end <= self.plain_len() {
            true => self.locks.exclusive(plain_offset..end),
            false => self.locks.exclusive(plain_offset.min(self.plain_len())..u64::MAX),
        };
        self.storage.write_at(plain_offset, &buffer[HEADROOM..][..len])?;
        self.plain_len.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    fn set_len(&self, plain_len: u64) -> Result<()> {
        if plain_len > MAX_OFFSET {
            return Err(too_far(plain_len, MAX_OFFSET));
        }
        let _guard = self.locks.exclusive(0..u64::MAX);
        self.storage.set_len(plain_len)?;
        self.plain_len.store(plain_len, Ordering::Release);
        Ok(())
    }

    fn prepare_writes(&self) -> Result<()> {
        Ok(()) // nothing lies past the end of a file
    }

    fn punch(&self, plain_offset: u64, len: u64, _buffer: &mut [u8]) -> Result<()> {
        self.within(plain_offset, len, |len| self.storage.punch(plain_offset, len))
    }

    fn zero(&self, plain_offset: u64, len: u64, _buffer: &mut [u8]) -> Result<()> {
        self.within(plain_offset, len, |len| self.storage.zero(plain_offset, len))
    }

    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        let end = plain_offset.checked_add(len).filter(|&end| end <= MAX_OFFSET);
        let end = end.ok_or_else(|| too_far(plain_offset, MAX_OFFSET))?;
        self.storage.allocate(plain_offset, len)?;
        if grow && end > self.plain_len() { self.set_len(end) } else { Ok(()) }
    }

    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.storage.seek_data(plain_offset)
    }

    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.storage.seek_hole(plain_offset)
    }

    fn sync(&self) -> Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Io, "an earlier sync failed: data written before it may be lost"));
        }
        self.storage
            .sync()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
            .context(|| "making the file's data durable".into())
    }
}
