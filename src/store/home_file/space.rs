//! Holes of a home file: making them, filling them, finding them.

use crate::error::Result;
use crate::format::home_file::{
    BLOCK, BLOCK_LEN, BlockIndex, MAX_PLAIN_LEN, PAIR_LEN, Pair, Place, SUCCESSOR_LEN, block_end, group_at, groups,
};
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::{PlainFile, index, too_far};

impl<S: Storage> HomeFile<S> {
    /// Makes a range read as zeros; with `give_back` its whole blocks give their space back. The length stays.
    pub(super) fn clear(&self, plain_offset: u64, len: u64, buffer: &mut [u8], give_back: bool) -> Result<()> {
        let end = plain_offset.saturating_add(len).min(MAX_PLAIN_LEN);
        let _guard = self.lock_for_change(plain_offset, end);
        self.refuse_cut_off()?;
        let plain_len = self.plain_len();
        let end = end.min(plain_len);
        if plain_offset >= end || !self.has_header() {
            return Ok(());
        }
        // Where the file ends inside a block, the block goes as a whole.
        let last = if end == plain_len { block_end(end) } else { end / BLOCK };
        let first = block_end(plain_offset).min(last);
        let head = plain_offset..end.min(block_end(plain_offset) * BLOCK);
        let tail = (last * BLOCK).max(head.end)..end;
        for edge in [head, tail] {
            if edge.start < edge.end {
                self.write_zeros(edge.start, index(edge.end - edge.start), buffer)?;
            }
        }
        self.forget(first, last, give_back)
    }

    /// Zeros within one block. A hole stays one.
    pub(super) fn write_zeros(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        let block = plain_offset / BLOCK;
        if self.read_pairs(block..block + 1)?.is_hole() && !self.known_lengths.is_filled(BlockIndex(block)) {
            return Ok(());
        }
        self.write_within(plain_offset, &ZEROS[..len], buffer)
    }

    /// Makes holes of whole blocks. Only when nothing can bring their entries back may their places change: a torn block
    /// must not take the place of one that was synced. So this syncs if there was anything.
    pub(super) fn forget(&self, first: u64, last: u64, give_back: bool) -> Result<()> {
        // What lies past the end was said to be no longer there before the file was cut off.
        if first < last && first < block_end(self.plain_len()) {
            let _gate = self.unsynced.writing();
            self.record_lower_fill(BlockIndex(first).plain_start())?;
        }
        let mut forgotten = false;
        let mut at = first;
        while let Some(blocks) = self.next_piece(at, last)? {
            at = blocks.end;
            let _gate = self.unsynced.writing();
            let mut piece = self.read_pairs(blocks)?;
            if !piece.is_hole() {
                piece.pairs_mut().for_each(|(_, pair)| *pair = Pair::default());
                self.write_pairs(&piece)?;
                forgotten = true;
            }
        }
        if !forgotten {
            return Ok(());
        }
        self.sync()?;
        let mut at = first;
        while let Some(blocks) = self.next_piece(at, last)?.filter(|_| give_back) {
            at = blocks.end;
            for place in [Place::Main, Place::Spare] {
                let start = BlockIndex(blocks.start).cipher_offset(place);
                self.storage.punch(start, (blocks.end - blocks.start) * BLOCK)?;
            }
        }
        Ok(())
    }

    /// The next blocks of one group, from `at` on and before `end`, whose group is not a hole as a whole.
    pub(super) fn next_piece(&self, at: u64, end: u64) -> Result<Option<std::ops::Range<u64>>> {
        if at >= end {
            return Ok(None);
        }
        let group = BlockIndex(at).group();
        let Some(found) = self.storage.seek_data(group.cipher_start())? else { return Ok(None) };
        let start = at.max(group_at(found).blocks().start);
        Ok(groups(start..end.max(start)).next())
    }

    /// Reserves space for a range, so that first writes into it find room; with `grow` the file becomes long enough for
    /// it. What is overwritten after a sync takes room of its own.
    ///
    /// # Errors
    /// `Io` (`ENOSPC`), or `Invalid` beyond [`MAX_PLAIN_LEN`].
    pub(super) fn reserve(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        let end = plain_offset
            .checked_add(len)
            .filter(|&end| end <= MAX_PLAIN_LEN)
            .ok_or_else(|| too_far(plain_offset, MAX_PLAIN_LEN))?;
        let _guard = self.locks.exclusive(0..u64::MAX);
        self.refuse_cut_off()?;
        let kept = if grow { end } else { end.min(self.plain_len()) };
        if plain_offset >= kept {
            return Ok(());
        }
        self.make_header()?;
        for blocks in groups(plain_offset / BLOCK..block_end(kept)) {
            let (first, count) = (BlockIndex(blocks.start), blocks.end - blocks.start);
            self.storage.allocate(first.pair_offset(), count * PAIR_LEN as u64)?;
            self.storage.allocate(first.successor_offset(), count * SUCCESSOR_LEN as u64)?;
            self.storage.allocate(first.cipher_offset(Place::Main), count * BLOCK)?;
        }
        if kept > self.plain_len() { self.grow(kept) } else { Ok(()) }
    }

    /// Start of the first data at or after `plain_offset`, if there is any.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn next_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        let plain_len = self.plain_len();
        if plain_offset >= plain_len || !self.has_header() {
            return Ok(None);
        }
        if plain_offset < self.known_lengths.filled() {
            return Ok(Some(plain_offset));
        }
        let mut at = plain_offset / BLOCK;
        while let Some(blocks) = self.next_piece(at, block_end(plain_len))? {
            at = blocks.end;
            if let Some((block, _)) = self.read_pairs(blocks)?.iter().find(|(_, pair)| !pair.is_hole()) {
                return Ok(Some(plain_offset.max(block.plain_start())));
            }
        }
        Ok(None)
    }

    /// Start of the first hole at or after `plain_offset` (the end of the file is one), if `plain_offset` is within it.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn next_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        let plain_len = self.plain_len();
        if plain_offset >= plain_len {
            return Ok(None);
        }
        if !self.has_header() {
            return Ok(Some(plain_offset));
        }
        let filled = block_end(self.known_lengths.filled().min(plain_len));
        for blocks in groups(filled.max(plain_offset / BLOCK)..block_end(plain_len)) {
            if let Some((block, _)) = self.read_pairs(blocks)?.iter().find(|(_, pair)| pair.is_hole()) {
                return Ok(Some(plain_offset.max(block.plain_start())));
            }
        }
        Ok(Some(plain_len))
    }
}
