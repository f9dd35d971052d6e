//! Successors of entries: what is said of a block before its place is overwritten, so that a process may be killed at any moment.

use std::ops::Range;

use crate::crypto::xaes::Opener;
use crate::error::Result;
use crate::format::home_file::{BLOCK_LEN, BlockIndex, Entry, GROUP_BLOCKS_LEN, Pair, Place, SUCCESSOR_LEN, Successor};
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::home_file::piece::Piece;
use crate::store::home_file::unsynced::Blocks;
use crate::store::plain_file::index;

type Bytes = [[u8; SUCCESSOR_LEN]; GROUP_BLOCKS_LEN];

/// What a change says before it overwrites blocks of one piece, numbered within that.
pub(super) struct Successors {
    bytes: Bytes,
    are_needed: bool,
}

impl Default for Successors {
    fn default() -> Self {
        Self { bytes: [[0; SUCCESSOR_LEN]; GROUP_BLOCKS_LEN], are_needed: false }
    }
}

impl Successors {
    /// Adds a block in whose place one entry is to follow another one, if they are of the same version. Only where that is so does
    /// nothing else hold what the block was.
    pub(super) fn add(&mut self, number: usize, former: Option<Entry>, entry: Option<Entry>) {
        let (Some(former), Some(entry)) = (former, entry) else { return };
        if former.version == entry.version {
            self.bytes[number] = Successor::new(&former, entry.seal).encode();
            self.are_needed = true;
        }
    }
}

impl<S: Storage> HomeFile<S> {
    /// Writes those of a piece, if any of its blocks needs one. The others' are free: what they said was taken over.
    pub(super) fn write_successors(&self, blocks: &Range<u64>, successors: &Successors) -> Result<()> {
        if !successors.are_needed {
            return Ok(());
        }
        let bytes = &successors.bytes[..index(blocks.end - blocks.start)];
        self.storage.write_at(BlockIndex(blocks.start).successor_offset(), bytes.as_flattened())
    }

    fn read_successors(&self, blocks: &Range<u64>) -> Result<Bytes> {
        let mut bytes = [[0; SUCCESSOR_LEN]; GROUP_BLOCKS_LEN];
        let wanted = bytes[..index(blocks.end - blocks.start)].as_flattened_mut();
        let filled = self.storage.read_at(BlockIndex(blocks.start).successor_offset(), wanted)?;
        wanted[filled..].fill(0);
        Ok(bytes)
    }

    /// Plaintext of a place that its entry did not open, if the entry's successor does; tells which that is.
    pub(super) fn open_following(
        &self,
        opener: &mut Opener<'_>,
        (block, place): (BlockIndex, Place),
        entry: &Entry,
        data: &mut [u8],
    ) -> Result<Option<Entry>> {
        let bytes = self.read_successors(&(block.0..block.0 + 1))?;
        let Some(following) = Successor::decode(&bytes[0]).following(entry) else { return Ok(None) };
        let opened = self.storage.read_at(block.cipher_offset(place), data)? == data.len()
            && self.cipher.open(opener, block, &following, data)?;
        Ok(opened.then_some(following))
    }

    /// Puts into the file's pairs, before their blocks are written, what a killed process or a failed write left to be said by
    /// successors. Returns whether there was any: then it has to be durable before the blocks get other successors.
    pub(super) fn take_over_successors(&self, piece: &mut Piece, unsynced: Blocks) -> Result<bool> {
        let found = self.follow_successors(piece, unsynced)?;
        if found {
            self.write_pairs(piece)?;
        }
        Ok(found)
    }

    /// Puts them into a piece alone, except those of pending blocks: of those the pairs say all.
    pub(super) fn follow_successors(&self, piece: &mut Piece, unsynced: Blocks) -> Result<bool> {
        let may_follow = |block, pair: &Pair| !pair.is_hole() && !unsynced.contains(block);
        if !piece.iter().any(|(block, pair)| may_follow(block, &pair)) {
            return Ok(false);
        }
        let bytes = self.read_successors(&piece.blocks)?;
        let mut found = false;
        for ((block, pair), bytes) in piece.pairs_mut().zip(&bytes) {
            if !may_follow(block, pair) {
                continue;
            }
            let successor = Successor::decode(bytes);
            for place in [Place::Main, Place::Spare] {
                let Some(entry) = pair.at(place).filter(|entry| successor.following(entry).is_some()) else { continue };
                let (opener, data) = (&mut self.cipher.blocks.opener(), &mut [0; BLOCK_LEN]);
                if let Some(following) = self.open_following(opener, (block, place), &entry, data)? {
                    pair.put(place, Some(following));
                    found = true;
                }
            }
        }
        Ok(found)
    }
}
