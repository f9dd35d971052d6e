//! A disk: plaintext bytes at any offset over encrypted sectors in one backing file.
//!
//! Ciphertext of sector *n* lies at `data_offset + n * sector_size`; a write touches no byte outside its own 512-byte
//! units; what was never written is a hole. docs/FORMAT.md, section 4, says why each of these holds at any moment.

mod journal;
mod rekey;
mod sectors;
mod transfer;
mod two_keys;

pub use rekey::{MAX_CHUNK_LEN, Progress, RekeyInPlace, claimed_progress, genuine_progress};

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::crypto::xts::{Engine, SectorCipher};
use crate::error::{Context, Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::header::Header;
use crate::key::Dek;
use crate::sector::{self, BLOCK, BLOCK_LEN, MAX_OFFSET, MAX_PLAIN_LEN, SectorSize, Span, UNIT, UNIT_LEN};
use crate::storage::Storage;
use crate::store::plain_file::{HEADROOM, PlainFile, index, range_end, too_far};
use crate::store::range_lock::{RangeGuard, RangeLock};
use crate::store::transfer::{Begun, Transfer};
use rekey::InTransition;
use two_keys::TwoKeys;

/// An unlocked disk of AES-256-XTS. All positions are of the plain side, in bytes.
pub(super) struct SectorStore<S> {
    pub(super) uuid: Uuid,
    pub(super) storage: S,
    engine: Engine,
    /// Exchanged only while all of the disk is locked, or for one that encrypts the same.
    cipher: ArcSwap<Cipher>,
    /// Held by the thread that advances a deep rekey; taken before any range lock.
    transition: Mutex<Option<InTransition>>,
    sector_size: SectorSize,
    data_offset: u64,
    /// Changed only while all from the old or new end on is locked.
    plain_len: AtomicU64,
    locks: RangeLock,
    sync_failed: AtomicBool,
}

/// What the sectors are encrypted with.
enum Cipher {
    One(Box<dyn SectorCipher>),
    /// During a deep rekey.
    Two(Arc<TwoKeys>),
}

impl Cipher {
    fn sectors(&self) -> &dyn SectorCipher {
        match self {
            Self::One(cipher) => cipher.as_ref(),
            Self::Two(keys) => keys.as_ref(),
        }
    }
}

impl<S: Storage> PlainFile for SectorStore<S> {
    fn plain_len(&self) -> u64 {
        self.plain_len.load(Ordering::Acquire)
    }

    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let end = range_end(plain_offset, len, MAX_OFFSET)?;
        let _guard = self.locks.shared(plain_offset..end);
        let len = self.len_within(plain_offset..end);
        if len == 0 {
            return Ok(&[]);
        }
        let span = Span::covering(plain_offset, len, self.sector_size);
        self.read_span(span, &mut buffer[HEADROOM - span.skip..])?;
        Ok(&buffer[HEADROOM..][..len])
    }

    fn write_in_place(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        let end = range_end(plain_offset, len, MAX_PLAIN_LEN)?;
        if len == 0 {
            return Ok(());
        }
        let _guard = self.lock_for_change(plain_offset, end);
        self.write_locked(plain_offset, len, buffer)
    }

    fn begin_read(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        self.begin_reading(plain_offset, len, buffer)
    }

    fn begin_write(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        self.begin_writing(plain_offset, len, buffer)
    }

    fn end_transfer(&self, transfer: Transfer, moved: io::Result<usize>, buffer: &mut [u8]) -> Result<usize> {
        self.end(transfer, moved, buffer)
    }

    fn set_len(&self, plain_len: u64) -> Result<()> {
        if plain_len > MAX_PLAIN_LEN {
            return Err(too_far(plain_len, MAX_PLAIN_LEN));
        }
        let _guard = self.locks.exclusive(0..u64::MAX);
        let old_len = self.plain_len();
        if plain_len < old_len {
            return self.cut_off(plain_len);
        }
        self.set_backing_len(self.cipher_end(plain_len))?;
        self.plain_len.store(plain_len, Ordering::Release);
        Ok(())
    }

    fn prepare_writes(&self) -> Result<()> {
        self.complete_chunk()?;
        let _guard = self.locks.exclusive(0..u64::MAX);
        self.read_len()?; // another mount or host may have had it
        let plain_len = self.plain_len();
        let past_end = index(plain_len % BLOCK);
        if past_end == 0 {
            return Ok(());
        }
        let span = Span::covering(plain_len, BLOCK_LEN - past_end, self.sector_size);
        let mut sector = [0; 4096];
        self.read_span(span, &mut sector)?;
        let mut mark = [0; BLOCK_LEN];
        let marked = self.storage.read_at(self.cipher_offset(sector::ceil(plain_len, BLOCK)), &mut mark[..past_end])?;
        if marked < past_end {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the mark of the disk's length has {marked} bytes of {past_end}"),
            ));
        }
        let clean = sector[span.wanted()].iter().chain(&mark).all(|&byte| byte == 0);
        if clean { Ok(()) } else { self.pad_last_block(plain_len) }
    }

    fn punch(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.clear(plain_offset, len, buffer, |offset, len| self.storage.punch(offset, len))
    }

    fn zero(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.clear(plain_offset, len, buffer, |offset, len| self.storage.zero(offset, len))
    }

    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        let end = plain_offset
            .checked_add(len)
            .filter(|&end| end <= MAX_PLAIN_LEN)
            .ok_or_else(|| too_far(plain_offset, MAX_PLAIN_LEN))?;
        self.storage.allocate(self.cipher_offset(plain_offset), len)?;
        let _guard = self.locks.exclusive(0..u64::MAX);
        if grow && end > self.plain_len() {
            self.set_backing_len(self.cipher_end(end))?;
            self.plain_len.store(end, Ordering::Release);
        }
        Ok(())
    }

    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        let plain_len = self.plain_len();
        if plain_offset >= plain_len {
            return Ok(None);
        }
        let found = self.storage.seek_data(self.cipher_offset(plain_offset))?;
        Ok(found.map(|at| at.saturating_sub(self.data_offset)).filter(|&at| at < plain_len))
    }

    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        let plain_len = self.plain_len();
        if plain_offset >= plain_len {
            return Ok(None);
        }
        let found = self.storage.seek_hole(self.cipher_offset(plain_offset))?;
        Ok(Some(found.map_or(plain_len, |at| at.saturating_sub(self.data_offset).min(plain_len))))
    }

    fn sync(&self) -> Result<()> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Io, "an earlier sync failed: data written before it may be lost"));
        }
        self.storage
            .sync()
            .inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
            .context(|| "making the disk's data durable".into())
    }
}

impl<S: Storage> SectorStore<S> {
    /// Takes over a disk with this verified header.
    ///
    /// # Errors
    /// `Corrupt` when the file ends before its data, or the state of a deep rekey is damaged or was changed; `Io`.
    pub(super) fn open(storage: S, header: &Header, shape: DiskShape, dek: &Dek, engine: Engine) -> Result<Self> {
        let backing_len = storage.len()?;
        shape.refuse_wrong_len(backing_len)?;
        let transition = match &header.transition {
            Some(transition) => InTransition::load(&storage, header, transition, dek, engine)?,
            None => None,
        };
        let cipher = match &transition {
            Some(transition) => transition.cipher(),
            None => Cipher::One(engine.cipher(dek)?),
        };
        Ok(Self {
            uuid: header.uuid,
            engine,
            cipher: ArcSwap::from_pointee(cipher),
            transition: Mutex::new(transition),
            storage,
            sector_size: shape.sector_size,
            data_offset: shape.data_offset,
            plain_len: AtomicU64::new(shape.plain_len(backing_len)),
            locks: RangeLock::default(),
            sync_failed: AtomicBool::new(false),
        })
    }

    pub(super) fn read_len(&self) -> Result<()> {
        let backing_len = self.storage.len()?;
        let plain_len = sector::plain_len(backing_len.saturating_sub(self.data_offset)).min(MAX_PLAIN_LEN);
        self.plain_len.store(plain_len, Ordering::Release);
        Ok(())
    }

    pub(super) fn rekeyed_up_to(&self) -> Option<u64> {
        self.transition.lock().as_ref().map(InTransition::cursor)
    }

    pub(super) fn is_in_transition(&self) -> bool {
        matches!(**self.cipher.load(), Cipher::Two(_))
    }

    /// Bytes of a range that are within the disk.
    fn len_within(&self, range: Range<u64>) -> usize {
        index(range.end.min(self.plain_len()).saturating_sub(range.start))
    }

    /// A growing write has changed the length, or must not have: a part of it may be in the file.
    fn finish_write(&self, written: Result<()>, old_len: u64, new_len: u64) -> Result<()> {
        if new_len <= old_len {
            return written;
        }
        // A last block that is full now still has the mark of its former length after it.
        let is_marked = sector::cipher_len(new_len) < sector::cipher_len(old_len);
        let unmark = || if is_marked { self.set_backing_len(self.cipher_end(new_len)) } else { Ok(()) };
        let written = written.and_then(|()| unmark());
        match &written {
            Ok(()) => self.plain_len.store(new_len, Ordering::Release),
            Err(_) => self.cut_off(old_len).context(|| "restoring the length after a failed write".into())?,
        }
        written
    }

    /// Cuts the backing file off at a block, durably, and only then pads the last block: the other way round a crash could
    /// leave the mark in the midst of data. In between, the disk is up to 15 bytes longer than asked for.
    fn cut_off(&self, plain_len: u64) -> Result<()> {
        let kept = sector::ceil(plain_len, BLOCK);
        self.set_backing_len(self.cipher_offset(kept))?;
        self.plain_len.store(kept, Ordering::Release);
        if kept != plain_len {
            self.sync()?;
            self.pad_last_block(plain_len)?;
            self.plain_len.store(plain_len, Ordering::Release);
        }
        Ok(())
    }

    /// Where setting the length fails it may have been set all the same: what the file then says counts.
    fn set_backing_len(&self, len: u64) -> Result<()> {
        self.storage.set_len(len).inspect_err(|_| {
            let _ = self.read_len(); // the error at hand says more
        })
    }

    /// Writes the disk's last block again, with zeros past its end, and the mark that keeps the length.
    fn pad_last_block(&self, plain_len: u64) -> Result<()> {
        let unit_start = sector::floor(plain_len, UNIT);
        let mut unit = [0; UNIT_LEN];
        self.read_unit(unit_start, plain_len, &mut unit)?;
        let mut sector = [0; 4096 + BLOCK_LEN];
        let span = Span::covering(unit_start, index(plain_len - unit_start), self.sector_size);
        let kept = span.wanted();
        sector[kept.clone()].copy_from_slice(&unit[..kept.len()]);
        let end = kept.end.next_multiple_of(BLOCK_LEN);
        self.cipher.load().sectors().encrypt_in_place(span.first, self.sector_size, &mut sector[..end])?;
        let marked = index(sector::cipher_len(plain_len) - span.start());
        sector[end..marked].fill(0);
        self.storage.write_at(self.cipher_offset(unit_start), &sector[kept.start..marked])
    }

    fn clear(
        &self,
        plain_offset: u64,
        len: u64,
        buffer: &mut [u8],
        units: impl Fn(u64, u64) -> Result<()>,
    ) -> Result<()> {
        let end = plain_offset.saturating_add(len).min(MAX_PLAIN_LEN);
        let _guard = self.lock_for_change(plain_offset, end);
        let plain_len = self.plain_len();
        let end = end.min(plain_len);
        if plain_offset >= end {
            return Ok(());
        }
        // Where the disk ends inside a unit, the unit goes as a whole.
        let last = if end == plain_len { sector::ceil(end, UNIT) } else { sector::floor(end, UNIT) };
        let first = sector::ceil(plain_offset, UNIT).min(end.max(last));
        if first < last {
            let cipher_end = self.cipher_end(plain_len).min(self.cipher_offset(last));
            units(self.cipher_offset(first), cipher_end - self.cipher_offset(first))?;
        }
        let head = plain_offset..end.min(first);
        let tail = last.max(head.end)..end;
        for edge in [head, tail] {
            if edge.start < edge.end {
                self.write_zeros(edge.start, index(edge.end - edge.start), buffer)?;
            }
        }
        Ok(())
    }

    /// Zeros within one unit. What is zeros already stays as it is stored: a hole stays one.
    fn write_zeros(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        let mut unit = [0; UNIT_LEN];
        self.read_unit(sector::floor(plain_offset, UNIT), self.plain_len(), &mut unit)?;
        if unit[index(plain_offset % UNIT)..][..len].iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        buffer[HEADROOM..][..len].fill(0);
        self.write_locked(plain_offset, len, buffer)
    }

    /// Locks what a change of `start..end` touches: its units, and everything past the end when the disk grows.
    fn lock_for_change(&self, start: u64, end: u64) -> RangeGuard<'_> {
        if end <= self.plain_len() {
            let guard = self.locks.exclusive(self.changed_with(start..end));
            if end <= self.plain_len() {
                return guard;
            }
        }
        self.locks.exclusive(self.changed_with(start.min(self.plain_len())..u64::MAX))
    }

    /// What nobody else may change during a change of `range`: whole units, and what the storage changes with them.
    fn changed_with(&self, range: Range<u64>) -> Range<u64> {
        let grain = self.storage.write_atom().max(UNIT);
        sector::floor(range.start, grain)..range.end.checked_next_multiple_of(grain).unwrap_or(u64::MAX)
    }

    fn cipher_offset(&self, plain_offset: u64) -> u64 {
        self.data_offset + plain_offset
    }

    /// Length of the backing file for a plaintext length.
    fn cipher_end(&self, plain_len: u64) -> u64 {
        self.data_offset + sector::cipher_len(plain_len)
    }
}

#[cfg(test)]
mod tests;
