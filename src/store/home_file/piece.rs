//! Blocks of a home file that lie side by side, with their pairs.

use std::ops::Range;

use crate::format::home_file::{BlockIndex, GROUP_BLOCKS_LEN, PAIR_LEN, Pair, Place};
use crate::store::plain_file::index;

/// Consecutive blocks of one group, and what their file holds of them.
pub(super) struct Piece {
    pub(super) blocks: Range<u64>,
    pub(super) pairs: [Pair; GROUP_BLOCKS_LEN],
}

impl Piece {
    pub(super) fn of_holes(blocks: Range<u64>) -> Self {
        Self { blocks, pairs: [Pair::default(); GROUP_BLOCKS_LEN] }
    }

    /// Blocks with their pairs.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockIndex, Pair)> {
        self.blocks.clone().map(BlockIndex).zip(self.pairs)
    }

    pub(super) fn pairs_mut(&mut self) -> impl Iterator<Item = (BlockIndex, &mut Pair)> {
        self.blocks.clone().map(BlockIndex).zip(&mut self.pairs)
    }

    pub(super) fn is_hole(&self) -> bool {
        self.iter().all(|(_, pair)| pair.is_hole())
    }

    /// Splits the blocks, numbered within the piece, into runs that lie side by side.
    pub(super) fn runs(
        &self,
        place: impl Fn(usize) -> Option<Place>,
    ) -> impl Iterator<Item = (Range<usize>, Option<Place>)> {
        let len = index(self.blocks.end - self.blocks.start);
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = at;
            let here = (start < len).then(|| place(start))?;
            at = (start..len).find(|&number| place(number) != here).unwrap_or(len);
            Some((start..at, here))
        })
    }

    /// Puts the pairs into `bytes`, one after the other, and returns their part of it.
    pub(super) fn encode<'b>(&self, bytes: &'b mut [u8]) -> &'b [u8] {
        let pairs = &mut bytes[..index(self.blocks.end - self.blocks.start) * PAIR_LEN];
        pairs
            .chunks_exact_mut(PAIR_LEN)
            .zip(&self.pairs)
            .for_each(|(bytes, pair)| bytes.copy_from_slice(&pair.encode()));
        pairs
    }

    pub(super) fn block(&self, number: usize) -> BlockIndex {
        BlockIndex(self.blocks.start + number as u64)
    }
}
