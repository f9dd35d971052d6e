//! A home file: plaintext bytes at any offset over authenticated blocks in one backing file.
//!
//! Blocks of 4096 bytes are sealed each on its own; what is not authentic is an error, never wrong bytes. A block that a
//! sync made durable is not overwritten before its next version is durable as well, so a power cut in the midst of a
//! write leaves the block as it was. docs/FORMAT.md, section 9, says why this holds at any moment.

mod blocks;
mod keys;
mod known_lengths;
mod piece;
mod reread;
mod space;
mod state;
mod successors;
mod unsynced;
mod value;

pub use keys::HomeKeys;
pub use reread::stale;
pub use value::{
    MAX_TARGET_LEN, MAX_XATTR_LEN, VALUE_OVERHEAD, Value, looks_like_sealed_target, open_target, open_value,
    seal_target, seal_value, sealed_target_len, target_len, value_len,
};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Context, Error, Kind, Result};
use crate::format::home_file::{
    self, BLOCK, BLOCK_LEN, FileId, GROUP_BLOCKS, HEADER_LEN, Known, MAX_PLAIN_LEN, block_end, cipher_len,
};
use crate::sector::{ceil, floor};
use crate::storage::Storage;
use crate::store::buffer::RequestBuffer;
use crate::store::home_file::blocks::{Change, Versions};
use crate::store::home_file::keys::FileCipher;
use crate::store::home_file::known_lengths::KnownLengths;
use crate::store::home_file::unsynced::Unsynced;
use crate::store::plain_file::{HEADROOM, PlainFile, index, range_end, too_far};
use crate::store::range_lock::{RangeGuard, RangeLock};
use crate::store::transfer::{Begun, Transfer};

/// An unlocked home file. All positions are of the plain side, in bytes.
pub struct HomeFile<S> {
    storage: S,
    cipher: FileCipher,
    /// Without one the file is a hole: it is empty, or its header was lost in a crash before any sync.
    has_header: AtomicBool,
    /// Whether the file was not empty when it was opened without a header.
    lost_header: bool,
    /// Changed only while all from the old or new end on is locked; made smaller only with the gate of syncs held.
    plain_len: AtomicU64,
    known_lengths: KnownLengths,
    locks: RangeLock,
    unsynced: Unsynced,
    /// Whether something may lie past the end that must not show when the file grows.
    tail_unclean: AtomicBool,
    /// Whether others may write it at the same time.
    follows: AtomicBool,
}

impl<S: Storage> PlainFile for HomeFile<S> {
    fn plain_len(&self) -> u64 {
        self.plain_len.load(Ordering::Acquire)
    }

    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let len = self.read_following(plain_offset, len, buffer)?;
        Ok(&buffer[HEADROOM..][..len])
    }

    /// A thread that has a range of a home file locked waits for nothing.
    fn begin_read(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        self.read_at(plain_offset, len, buffer).map(|data| Begun::Done(data.len()))
    }

    fn begin_write(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<Begun<Transfer>> {
        self.write_in_place(plain_offset, len, buffer).map(|()| Begun::Done(len))
    }

    fn write_in_place(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        let end = range_end(plain_offset, len, MAX_PLAIN_LEN)?;
        if len == 0 {
            return Ok(());
        }
        let data = &buffer[HEADROOM..][..len];
        let buffer: &mut [u8] = &mut RequestBuffer::take(); // blocks are sealed beside their plaintext
        let _guard = self.lock_for_change(plain_offset, end);
        self.refuse_cut_off()?;
        if self.lost_header || plain_offset >= BLOCK {
            self.make_header()?;
        } // else it is written together with the entries beside it
        let old_len = self.plain_len();
        if end <= old_len {
            self.write_within(plain_offset, data, buffer)?;
            return if self.known_lengths.fill(plain_offset, end) { self.record_unsynced(old_len) } else { Ok(()) };
        }
        self.clean_tail(buffer)?;
        // First, even where the write would set the same length: a part of it could leave one that says less than before.
        self.set_backing_len(end)?;
        let written = self.write_within(plain_offset, data, buffer).and_then(|()| {
            self.plain_len.store(end, Ordering::Release);
            self.known_lengths.fill(plain_offset, end);
            self.record_unsynced(end)
        });
        if written.is_err() {
            self.tail_unclean.store(true, Ordering::Release);
            self.cut_off(old_len).context(|| "restoring the length after a failed write".into())?;
        }
        written
    }

    fn set_len(&self, plain_len: u64) -> Result<()> {
        if plain_len > MAX_PLAIN_LEN {
            return Err(too_far(plain_len, MAX_PLAIN_LEN));
        }
        let _guard = self.locks.exclusive(0..u64::MAX);
        let old_len = self.plain_len();
        if plain_len > old_len {
            self.refuse_cut_off()?;
            self.make_header()?;
            return self.grow(plain_len);
        }
        // What was cut off already is so on purpose from now on.
        if plain_len < old_len || self.is_cut_off() {
            self.settle_known_len(plain_len)?;
            self.tail_unclean.store(true, Ordering::Release);
            self.cut_off(plain_len)?;
        }
        Ok(())
    }

    /// What a crash left past the end is mended when the file first grows.
    fn prepare_writes(&self) -> Result<()> {
        self.reread() // another mount or host may have had it
    }

    fn punch(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.clear(plain_offset, len, buffer, true)
    }

    fn zero(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.clear(plain_offset, len, buffer, false)
    }

    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        self.reserve(plain_offset, len, grow)
    }

    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.next_data(plain_offset)
    }

    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.next_hole(plain_offset)
    }

    fn sync(&self) -> Result<()> {
        let _gate = self.unsynced.syncing();
        if self.unsynced.has_failed() {
            return Err(Error::new(Kind::Io, "an earlier sync failed: data written before it may be lost"));
        }
        let plain_len = self.plain_len();
        self.storage
            .sync()
            .inspect_err(|_| self.unsynced.fail())
            .context(|| "making the file's data durable".into())?;
        self.known_lengths.synced();
        self.record_synced(plain_len);
        for (group, blocks) in self.unsynced.settle() {
            drop(self.retire(group, blocks));
        }
        Ok(())
    }
}

impl<S: Storage> HomeFile<S> {
    /// Opens a backing file; an empty one is an empty home file. Writes nothing.
    ///
    /// # Errors
    /// `Corrupt` for a file that this home did not write or that was cut to nothing, `Unsupported` for a later version's, or `Io`.
    pub fn open(storage: S, keys: &HomeKeys) -> Result<Self> {
        let backing_len = storage.len()?;
        let mut header = [0; HEADER_LEN];
        if backing_len > 0 {
            storage.read_at(0, &mut header)?;
        }
        let header = home_file::decode_header(&header)?;
        let has_header = header.is_some();
        let (cipher, known) = match header {
            Some(header) => keys.file(header)?,
            None => (keys.new_file()?, Some(Known::NOTHING)),
        };
        let file = Self {
            storage,
            cipher,
            has_header: AtomicBool::new(has_header),
            lost_header: !has_header && backing_len > 0,
            plain_len: AtomicU64::new(home_file::plain_len(backing_len).min(MAX_PLAIN_LEN)),
            known_lengths: KnownLengths::new(known),
            locks: RangeLock::default(),
            unsynced: Unsynced::of_opening(has_content(backing_len)),
            tail_unclean: AtomicBool::new(has_header),
            follows: AtomicBool::new(false),
        };
        if file.plain_len() == 0 {
            file.refuse_cut_off()?; // there is no block that could tell it
        }
        Ok(file)
    }

    /// Opens an empty backing file as the empty home file `id`; the id is written with the first byte.
    ///
    /// # Errors
    /// `Exists` when it is not empty, or `Io`.
    pub fn with_id(storage: S, keys: &HomeKeys, id: FileId) -> Result<Self> {
        let len = storage.len()?;
        if len > 0 {
            return Err(Error::new(Kind::Exists, format!("a file of {len} bytes, expected an empty one")));
        }
        let cipher = keys.new_file_of(id)?;
        Ok(Self { cipher, ..Self::open(storage, keys)? })
    }

    /// The storage below, for attributes; its bytes are ciphertext.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// Whether the file was not empty when it was opened, but had zeros in place of a header: its first write clears it.
    pub fn has_lost_header(&self) -> bool {
        self.lost_header
    }

    /// The file's id, if it has one yet.
    pub fn id(&self) -> Option<FileId> {
        self.has_header().then_some(self.cipher.id)
    }

    /// The file's id, which it keeps from then on.
    ///
    /// # Errors
    /// `Io`.
    pub fn ensure_id(&self) -> Result<FileId> {
        if !self.has_header() {
            let _guard = self.locks.exclusive(0..u64::MAX);
            self.make_header()?;
        }
        Ok(self.cipher.id)
    }

    /// Reads to the headroom of `buffer`, and returns how much there is, and of which versions.
    fn read_once(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<(usize, Versions)> {
        let end = range_end(plain_offset, len, MAX_PLAIN_LEN)?;
        let _guard = self.locks.shared(floor(plain_offset, BLOCK)..ceil(end, BLOCK));
        self.refuse_end_of_cut_off(end)?;
        let end = end.min(self.plain_len());
        if plain_offset >= end {
            return Ok((0, Versions::Newest));
        }
        let blocks = plain_offset / BLOCK..block_end(end);
        let front = HEADROOM - index(plain_offset % BLOCK);
        let out = &mut buffer[front..][..index((blocks.end - blocks.start) * BLOCK)];
        let versions = if self.has_header() {
            self.read_blocks(blocks, out)?
        } else {
            out.fill(0);
            Versions::Newest
        };
        Ok((index(end - plain_offset), versions))
    }

    /// Writes a range that is locked, in a file whose backing file is long enough.
    fn write_within(&self, plain_offset: u64, data: &[u8], buffer: &mut [u8]) -> Result<()> {
        let change = Change { plain_offset, data, old_len: self.plain_len() };
        let mut sealer = self.cipher.blocks.sealer()?;
        home_file::groups(change.blocks()).try_for_each(|blocks| self.write_piece(&mut sealer, change, blocks, buffer))
    }

    /// Cuts the file off, while no sync tidies up what is cut off, nor records the former length.
    fn cut_off(&self, plain_len: u64) -> Result<()> {
        let _gate = self.unsynced.writing();
        self.lower_known_len(plain_len)?;
        self.set_backing_len(plain_len)?;
        self.unsynced.cut_off(block_end(plain_len));
        self.plain_len.store(plain_len, Ordering::Release);
        Ok(())
    }

    /// Where setting the length fails it may have been set all the same: what the file then says counts.
    fn set_backing_len(&self, plain_len: u64) -> Result<()> {
        self.storage.set_len(cipher_len(plain_len)).inspect_err(|_| {
            self.tail_unclean.store(true, Ordering::Release);
            if let Ok(found) = self.storage.len() {
                self.plain_len.store(home_file::plain_len(found).min(MAX_PLAIN_LEN), Ordering::Release);
            }
        })
    }

    fn grow(&self, plain_len: u64) -> Result<()> {
        self.clean_tail(&mut [0; BLOCK_LEN])?;
        self.set_backing_len(plain_len)?;
        self.plain_len.store(plain_len, Ordering::Release);
        self.record_unsynced(plain_len)
    }

    /// Makes sure that nothing shows past the end when the file grows: neither the rest of the last block nor blocks of
    /// its group that were cut off. What had to be cleaned is durable before the file may grow.
    fn clean_tail(&self, buffer: &mut [u8]) -> Result<()> {
        if !self.tail_unclean.load(Ordering::Acquire) {
            return Ok(());
        }
        let plain_len = self.plain_len();
        let end = block_end(plain_len);
        if !plain_len.is_multiple_of(BLOCK) {
            self.clean_last_block(plain_len, buffer)?;
        }
        self.forget(end, end.next_multiple_of(GROUP_BLOCKS), true)?;
        if !plain_len.is_multiple_of(GROUP_BLOCKS * BLOCK) {
            self.settle()?; // another process may have cleaned it and been killed before its sync
        }
        self.tail_unclean.store(false, Ordering::Release);
        Ok(())
    }

    fn clean_last_block(&self, plain_len: u64, buffer: &mut [u8]) -> Result<()> {
        let block = plain_len / BLOCK;
        let kept = index(plain_len % BLOCK);
        let mut plain = [0; BLOCK_LEN];
        match self.read_blocks(block..block + 1, &mut plain) {
            Err(error) if error.kind() == Kind::Corrupt => return Ok(()), // it shows nothing, however long the file is
            read => _ = read?,
        }
        if plain[kept..].iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        self.write_zeros(plain_len, BLOCK_LEN - kept, buffer)?;
        self.sync()
    }

    /// Makes durable what another process left, unless a sync of this opening did: one that was killed between a change and its sync
    /// left a file that looks as if both had been done.
    fn settle(&self) -> Result<()> {
        if self.unsynced.is_settled() { Ok(()) } else { self.sync() }
    }

    fn has_header(&self) -> bool {
        self.has_header.load(Ordering::Acquire)
    }

    /// Gives the file its header, while all of it is locked. What lies after a lost one can no longer be opened.
    fn make_header(&self) -> Result<()> {
        if self.has_header() {
            return Ok(());
        }
        if self.lost_header {
            self.storage.punch(0, self.storage.len()?)?;
        }
        self.storage.write_at(0, &self.cipher.header(Known::NOTHING))?;
        self.has_header.store(true, Ordering::Release);
        self.known_lengths.begin();
        Ok(())
    }

    /// Locks what a change of `start..end` touches: its blocks, everything past the end when the file grows, and all of
    /// a file that needs a header first.
    fn lock_for_change(&self, start: u64, end: u64) -> RangeGuard<'_> {
        loop {
            let needed = || match (self.has_header(), self.plain_len()) {
                (false, _) => 0..u64::MAX,
                (true, len) if end <= len => floor(start, BLOCK)..ceil(end, BLOCK),
                (true, len) => floor(start.min(len), BLOCK)..u64::MAX,
            };
            let range = needed();
            let guard = self.locks.exclusive(range.clone());
            if needed() == range {
                return guard;
            }
        }
    }
}

/// Whether a backing file of this length has more than a header, so that there is something that may not be durable.
fn has_content(backing_len: u64) -> bool {
    backing_len > HEADER_LEN as u64
}

#[cfg(test)]
mod tests;
