//! Blocks of a home file: which of their versions counts, and where the next one goes.
//!
//! A version that a sync may have made durable is never overwritten: the next one goes to the block's other place, and
//! only a sync makes the older one dispensable. So a torn write costs nothing that was synced. Any other is overwritten where it
//! lies, once its successor is said, so that a killed process costs nothing either.

use std::ops::Range;
use std::sync::atomic::Ordering;

use parking_lot::RwLockReadGuard;

use crate::crypto::xaes::{Opener, Sealer};
use crate::error::{Error, Kind, Result};
use crate::format::home_file::{
    BLOCK, BLOCK_LEN, BlockIndex, GROUP_BLOCKS_LEN, GroupIndex, HEADER_LEN, Known, PAIR_LEN, Pair, Place, block_end,
    groups,
};
use crate::storage::Storage;
use crate::store::home_file::piece::Piece;
use crate::store::home_file::successors::Successors;
use crate::store::home_file::unsynced::{Blocks, Written};
use crate::store::home_file::{HomeFile, index};
use crate::store::plain_file::PlainFile;

/// What a change goes by: the gate of syncs, which blocks are pending, and what the file holds of those that it is of.
type Ready<'a> = (RwLockReadGuard<'a, ()>, Blocks, Piece);

/// Which versions of blocks were read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Versions {
    /// The newest of each.
    Newest,
    /// Of at least one an older one, or none: the newest did not open.
    SomeOlder,
}

/// A request to write: where, what, and how long the file was before.
#[derive(Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) plain_offset: u64,
    pub(super) data: &'a [u8],
    pub(super) old_len: u64,
}

impl Change<'_> {
    pub(super) fn blocks(&self) -> Range<u64> {
        let end = self.plain_offset + self.data.len() as u64;
        self.plain_offset / BLOCK..end.div_ceil(BLOCK)
    }

    /// What of a block is written, and with which bytes.
    fn within(&self, block: BlockIndex) -> (Range<usize>, &[u8]) {
        let start = self.plain_offset.max(block.plain_start());
        let end = (self.plain_offset + self.data.len() as u64).min(block.plain_start() + BLOCK);
        let data = &self.data[index(start - self.plain_offset)..index(end - self.plain_offset)];
        (index(start - block.plain_start())..index(end - block.plain_start()), data)
    }
}

impl<S: Storage> HomeFile<S> {
    pub(super) fn read_pairs(&self, blocks: Range<u64>) -> Result<Piece> {
        let mut bytes = [[0; PAIR_LEN]; GROUP_BLOCKS_LEN];
        let len = index(blocks.end - blocks.start);
        let wanted = bytes[..len].as_flattened_mut();
        let offset = BlockIndex(blocks.start).pair_offset();
        let filled = self.storage.read_at(offset, wanted)?;
        if filled < wanted.len() {
            // Behind the last block there need not be any; otherwise missing ones would make holes of what they describe.
            let end = offset + filled as u64;
            if blocks.start < block_end(self.plain_len()) || end < self.storage.len()? {
                return Err(cut_off(BlockIndex(blocks.start), end));
            }
        }
        let mut piece = Piece::of_holes(blocks);
        piece.pairs.iter_mut().zip(&bytes[..len]).for_each(|(pair, bytes)| *pair = Pair::decode(bytes));
        Ok(piece)
    }

    /// Without a header yet the piece is the file's first: what lies side by side is written at once.
    pub(super) fn write_pairs(&self, piece: &Piece) -> Result<()> {
        let mut bytes = [0; HEADER_LEN + GROUP_BLOCKS_LEN * PAIR_LEN];
        let (header, pairs) = bytes.split_at_mut(HEADER_LEN);
        let pairs = piece.encode(pairs);
        if self.has_header() {
            return self.storage.write_at(BlockIndex(piece.blocks.start).pair_offset(), pairs);
        }
        let end = HEADER_LEN + pairs.len();
        header.copy_from_slice(&self.cipher.header(Known::NOTHING));
        self.storage.write_at(0, &bytes[..end])?;
        self.has_header.store(true, Ordering::Release);
        self.known_lengths.begin();
        Ok(())
    }

    /// Plaintext of whole blocks.
    pub(super) fn read_blocks(&self, blocks: Range<u64>, out: &mut [u8]) -> Result<Versions> {
        let mut opener = self.cipher.blocks.opener();
        let mut rest = out;
        let mut versions = Versions::Newest;
        for blocks in groups(blocks) {
            let (out, after) = rest.split_at_mut(index((blocks.end - blocks.start) * BLOCK));
            rest = after;
            if self.read_piece(&mut opener, &self.read_pairs(blocks)?, out)? == Versions::SomeOlder {
                versions = Versions::SomeOlder;
            }
        }
        Ok(versions)
    }

    fn read_piece(&self, opener: &mut Opener<'_>, piece: &Piece, out: &mut [u8]) -> Result<Versions> {
        let mut versions = Versions::Newest;
        for (run, place) in piece.runs(|number| piece.pairs[number].newest().map(|(place, _)| place)) {
            let out = &mut out[run.start * BLOCK_LEN..run.end * BLOCK_LEN];
            let Some(place) = place else {
                if self.known_lengths.is_filled(piece.block(run.start)) {
                    return Err(missing(piece.block(run.start)));
                }
                out.fill(0);
                continue;
            };
            let first = piece.block(run.start);
            let filled = self.storage.read_at(first.cipher_offset(place), out)?;
            if filled < out.len() {
                let block = BlockIndex(first.0 + filled as u64 / BLOCK);
                return Err(cut_off(block, first.cipher_offset(place) + filled as u64));
            }
            for (number, data) in run.zip(out.chunks_exact_mut(BLOCK_LEN)) {
                let (block, pair) = (piece.block(number), &piece.pairs[number]);
                let opened = match pair.at(place) {
                    Some(entry) => self.cipher.open(opener, block, &entry, data)?,
                    None => false,
                };
                if !opened && self.read_block(opener, block, pair, data)? != Some(place) {
                    versions = Versions::SomeOlder;
                }
            }
        }
        Ok(versions)
    }

    /// Plaintext of one block, from the newest of its versions that is whole; tells where that lies.
    ///
    /// Only a crash leaves an older version beside a torn one, or a place that was overwritten without its entry. Where no version authenticates and the places hold
    /// nothing but zeros, neither did their data reach the medium nor was any of it ever synced: that is a hole, unless
    /// the file is known to have none there.
    pub(super) fn read_block(
        &self,
        opener: &mut Opener<'_>,
        block: BlockIndex,
        pair: &Pair,
        data: &mut [u8],
    ) -> Result<Option<Place>> {
        let newest = pair.newest().map(|(place, _)| place);
        let mut empty = true;
        for place in newest.into_iter().chain(newest.map(Place::other)) {
            let Some(entry) = pair.at(place) else { continue };
            let filled = self.storage.read_at(block.cipher_offset(place), data)?;
            if filled < data.len() {
                return Err(cut_off(block, block.cipher_offset(place) + filled as u64));
            }
            let zeros = data.iter().all(|&byte| byte == 0);
            empty &= zeros;
            if !zeros
                && (self.cipher.open(opener, block, &entry, data)?
                    || self.open_following(opener, (block, place), &entry, data)?.is_some())
            {
                return Ok(Some(place));
            }
        }
        data.fill(0);
        match empty {
            true if self.known_lengths.is_filled(block) => Err(missing(block)),
            true => Ok(None),
            false => Err(damaged(block)),
        }
    }

    /// Seals and writes the part of a change that lies in one group, through the front of `buffer`.
    pub(super) fn write_piece(
        &self,
        sealer: &mut Sealer,
        change: Change<'_>,
        blocks: Range<u64>,
        buffer: &mut [u8],
    ) -> Result<()> {
        let group = BlockIndex(blocks.start).group();
        let (_gate, unsynced, mut piece) = self.ready_for_change(change, &blocks)?;
        let mut places = [Place::Main; GROUP_BLOCKS_LEN];
        let mut written = Written::default();
        let mut successors = Successors::default();
        for (number, cipher) in (0..index(blocks.end - blocks.start)).zip(buffer.chunks_exact_mut(BLOCK_LEN)) {
            let block = piece.block(number);
            let pair = &mut piece.pairs[number];
            let former = *pair;
            places[number] = self.seal_block(sealer, change, (block, pair, unsynced), cipher)?;
            successors.add(number, former.at(places[number]), pair.at(places[number]));
            written.all.insert(block);
            if pair.is_double() {
                written.double.insert(block);
            }
        }
        let write = || {
            self.write_successors(&blocks, &successors)?;
            for (run, place) in piece.runs(|number| Some(places[number])) {
                let offset = piece.block(run.start).cipher_offset(place.unwrap_or(Place::Main));
                self.storage.write_at(offset, &buffer[run.start * BLOCK_LEN..run.end * BLOCK_LEN])?;
            }
            self.write_pairs(&piece)
        };
        if let Err(error) = write() {
            // A block that was overwritten where it lies may be half old, half new: a second try makes it new.
            drop(write());
            self.unsynced.failed_to_write(group, written.all);
            return Err(error);
        }
        self.unsynced.add(group, written);
        Ok(())
    }

    /// Waits until each block is durable that must be before a change, and returns what is there then.
    fn ready_for_change(&self, change: Change<'_>, blocks: &Range<u64>) -> Result<Ready<'_>> {
        loop {
            let gate = self.unsynced.writing();
            let unsynced = self.unsynced.of(BlockIndex(blocks.start).group());
            // What lies past the old end was cleaned before the file grew.
            let is_new = blocks.start >= block_end(change.old_len);
            let mut piece = if is_new { Piece::of_holes(blocks.clone()) } else { self.read_pairs(blocks.clone())? };
            // A pair, or zeros in place of one, may be what a killed process left: the medium may have another one.
            let is_pending = |(block, _): (BlockIndex, Pair)| unsynced.contains(block);
            let is_settled = is_new || self.unsynced.is_settled() || piece.iter().all(is_pending);
            let taken_over = self.take_over_successors(&mut piece, unsynced)?;
            if is_settled && !taken_over {
                return Ok((gate, unsynced, piece));
            }
            drop(gate);
            self.sync()?;
        }
    }

    /// Seals a block's next version, records it in the pair, and tells where it belongs.
    fn seal_block(
        &self,
        sealer: &mut Sealer,
        change: Change<'_>,
        (block, pair, unsynced): (BlockIndex, &mut Pair, Blocks),
        cipher: &mut [u8],
    ) -> Result<Place> {
        let (within, data) = change.within(block);
        let unsynced = unsynced.contains(block);
        let newest = pair.newest();
        let mut readable = newest.map(|(place, _)| place);
        let mut merged = None;
        if within.len() < BLOCK_LEN {
            let mut plain = [0; BLOCK_LEN];
            readable = self.read_block(&mut self.cipher.blocks.opener(), block, pair, &mut plain)?;
            let kept = change.old_len.saturating_sub(block.plain_start()).min(BLOCK);
            plain[index(kept)..].fill(0);
            plain[within].copy_from_slice(data);
            merged = Some(plain);
        } else if pair.is_double() && !unsynced {
            readable = self.readable(block, pair)?;
        }
        let (place, version) = match (newest, readable) {
            (None, _) => (Place::Main, 1),
            (Some((place, entry)), _) if unsynced => (place, entry.version),
            (Some((_, entry)), Some(kept)) => (kept.other(), next(block, entry.version)?),
            (Some((place, entry)), None) if pair.is_double() => (place, next(block, entry.version)?),
            (Some((place, entry)), None) => (place.other(), next(block, entry.version)?),
        };
        let plain = merged.as_ref().map_or(data, |plain| plain.as_slice());
        let entry = self.cipher.seal(sealer, block, version, plain, cipher)?;
        pair.put(place, Some(entry));
        Ok(place)
    }

    /// The place of the newest version that is whole, if one is.
    pub(super) fn readable(&self, block: BlockIndex, pair: &Pair) -> Result<Option<Place>> {
        match self.read_block(&mut self.cipher.blocks.opener(), block, pair, &mut [0; BLOCK_LEN]) {
            Err(error) if error.kind() == Kind::Corrupt => Ok(None),
            other => other,
        }
    }

    /// Forgets older versions, once newer ones are durable. Failing costs nothing: they are looked at again then.
    pub(super) fn retire(&self, group: GroupIndex, blocks: Blocks) -> Result<()> {
        let mut numbers = group.blocks().filter(|&number| blocks.contains(BlockIndex(number)));
        let Some(first) = numbers.next() else { return Ok(()) };
        let mut piece = self.read_pairs(first..numbers.next_back().unwrap_or(first) + 1)?;
        for (block, pair) in piece.pairs_mut() {
            if let Some((place, _)) = pair.newest().filter(|_| blocks.contains(block)) {
                pair.put(place.other(), None);
            }
        }
        // The file was not changed by this: a program that set its times and then synced it finds them as they were.
        let mut bytes = [0; GROUP_BLOCKS_LEN * PAIR_LEN];
        self.storage.write_preserving_mtime(BlockIndex(first).pair_offset(), piece.encode(&mut bytes))
    }
}

fn next(block: BlockIndex, version: u64) -> Result<u64> {
    version.checked_add(1).ok_or_else(|| damaged(block))
}

fn cut_off(block: BlockIndex, cipher_end: u64) -> Error {
    let message = format!("block {} is cut off: the backing file ends at byte {cipher_end}", block.0);
    Error::new(Kind::Corrupt, message)
}

fn missing(block: BlockIndex) -> Error {
    let message = format!("block {} is missing: there are zeros where data was written", block.0);
    Error::new(Kind::Corrupt, message)
}

fn damaged(block: BlockIndex) -> Error {
    Error::new(Kind::Corrupt, format!("block {} does not authenticate: damaged, forged or moved", block.0))
}
