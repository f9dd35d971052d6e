//! Where everything lies in a home file: arithmetic, and nothing else (docs/FORMAT.md, section 9, "Layout").
//!
//! A file is a row of groups. A group holds the entries of its 64 blocks and their successors, then a spare place for each block,
//! then each block's main place. The file ends after the main place of its last block, so its length implies the plaintext's.

use std::ops::Range;

use super::HEADER_LEN;

/// Plaintext bytes of a block.
pub const BLOCK: u64 = 4096;
/// [`BLOCK`] as a length of memory.
pub const BLOCK_LEN: usize = 4096;
/// Blocks of a group.
pub const GROUP_BLOCKS: u64 = 64;
/// [`GROUP_BLOCKS`] as a count in memory.
pub const GROUP_BLOCKS_LEN: usize = 64;
/// Bytes of the two entries of a block. Divides 512, so a pair is never torn.
pub const PAIR_LEN: usize = 128;
/// Bytes of a block's successor. Those of a group lie within one page, so a process that is killed leaves each old or new.
pub const SUCCESSOR_LEN: usize = 56;
/// Largest plaintext length of a home file, in bytes (2^61): the backing file is little more than twice as long.
pub const MAX_PLAIN_LEN: u64 = 1 << 61;

/// The first group's entries follow the header at once, so that a small file has them in one block. In all others a block
/// is left free: the file's end may lie there, and entries must not move it to where it would imply a smaller length.
const FIRST_ENTRIES_START: u64 = HEADER_LEN as u64;
const ENTRIES_START: u64 = BLOCK;
const FIRST_SUCCESSORS_START: u64 = FIRST_ENTRIES_START + GROUP_BLOCKS * PAIR_LEN as u64;
const SUCCESSORS_START: u64 = 0;
const SPARE_START: u64 = 3 * BLOCK;
const MAIN_START: u64 = SPARE_START + GROUP_BLOCKS * BLOCK;
const GROUP_LEN: u64 = MAIN_START + GROUP_BLOCKS * BLOCK;

/// Number of a block within its file.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BlockIndex(pub u64);

/// Number of a group within its file.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupIndex(pub u64);

/// Where a version of a block lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Where a block is first written.
    Main,
    /// Where it is written while its main place holds a version that must survive.
    Spare,
}

impl Place {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Main => Self::Spare,
            Self::Spare => Self::Main,
        }
    }
}

impl BlockIndex {
    /// The group that holds the block.
    pub fn group(self) -> GroupIndex {
        GroupIndex(self.0 / GROUP_BLOCKS)
    }

    /// Its number within the group.
    pub fn in_group(self) -> u64 {
        self.0 % GROUP_BLOCKS
    }

    /// Where its plaintext starts.
    pub fn plain_start(self) -> u64 {
        self.0 * BLOCK
    }

    /// Where its ciphertext lies.
    pub fn cipher_offset(self, place: Place) -> u64 {
        let area = match place {
            Place::Main => MAIN_START,
            Place::Spare => SPARE_START,
        };
        self.group().cipher_start() + area + self.in_group() * BLOCK
    }

    /// Where its pair of entries lies.
    pub fn pair_offset(self) -> u64 {
        let start = if self.group() == GroupIndex(0) { FIRST_ENTRIES_START } else { ENTRIES_START };
        self.group().cipher_start() + start + self.in_group() * PAIR_LEN as u64
    }

    /// Where its successor lies.
    pub fn successor_offset(self) -> u64 {
        let start = if self.group() == GroupIndex(0) { FIRST_SUCCESSORS_START } else { SUCCESSORS_START };
        self.group().cipher_start() + start + self.in_group() * SUCCESSOR_LEN as u64
    }
}

impl GroupIndex {
    /// Its blocks.
    pub fn blocks(self) -> Range<u64> {
        self.0 * GROUP_BLOCKS..(self.0 + 1) * GROUP_BLOCKS
    }

    /// Where the group starts in the backing file.
    pub fn cipher_start(self) -> u64 {
        self.0 * GROUP_LEN
    }
}

/// The group that holds a position of the backing file.
pub fn group_at(cipher_offset: u64) -> GroupIndex {
    GroupIndex(cipher_offset / GROUP_LEN)
}

/// Number of blocks that `plain_len` bytes take.
pub fn block_end(plain_len: u64) -> u64 {
    plain_len.div_ceil(BLOCK)
}

/// Splits a range of blocks where groups end.
pub fn groups(blocks: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = blocks.start;
    std::iter::from_fn(move || {
        let piece = at..blocks.end.min(BlockIndex(at).group().blocks().end);
        at = piece.end;
        (piece.start < piece.end).then_some(piece)
    })
}

/// Length of a backing file that stands for a plaintext length: the end of the last block's main place and, if that
/// block is not full, as many bytes more as it has. Of an empty file it is the header's, or 0.
pub fn cipher_len(plain_len: u64) -> u64 {
    let Some(last) = block_end(plain_len).checked_sub(1) else { return HEADER_LEN as u64 };
    BlockIndex(last).cipher_offset(Place::Main) + BLOCK + plain_len % BLOCK
}

/// The inverse of [`cipher_len`], for any length that a backing file can have.
pub fn plain_len(cipher_len: u64) -> u64 {
    let rest = cipher_len % BLOCK;
    let whole = cipher_len - rest;
    let Some(last_byte) = whole.checked_sub(1) else { return 0 };
    let group = group_at(last_byte);
    let main = (whole - group.cipher_start()).saturating_sub(MAIN_START);
    let full = group.blocks().start * BLOCK + main;
    if main == 0 || rest == 0 { full } else { full - BLOCK + rest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_survives_the_backing_length() {
        let groups = GROUP_BLOCKS * BLOCK;
        let edges = [0, BLOCK, 2 * BLOCK, groups - BLOCK, groups, groups + BLOCK, 7 * groups, MAX_PLAIN_LEN - 5000];
        for len in edges.iter().flat_map(|edge| edge.saturating_sub(300)..edge + 300).chain([MAX_PLAIN_LEN]) {
            assert_eq!(plain_len(cipher_len(len)), len);
        }
        for len in (0..3 * groups).step_by(777) {
            assert_eq!(plain_len(cipher_len(len)), len);
            assert!(cipher_len(len) < cipher_len(len + BLOCK));
        }
        assert!(i64::try_from(cipher_len(MAX_PLAIN_LEN)).is_ok(), "a file can be that long");
    }

    #[test]
    fn any_backing_length_has_a_plaintext_length_that_never_falls() {
        let mut former = 0;
        for cipher in (0..3 * GROUP_LEN).step_by(512) {
            let plain = plain_len(cipher);
            assert!(plain + BLOCK > former, "{cipher}");
            former = former.max(plain);
            let backed =
                block_end(plain).checked_sub(1).map(|last| BlockIndex(last).cipher_offset(Place::Main) + BLOCK);
            assert!(backed.is_none_or(|end| end <= cipher), "the last block is within the file");
        }
    }

    /// Marks what each block takes, and finds no byte taken twice.
    #[test]
    fn nothing_overlaps() {
        let mut taken = vec![(0, HEADER_LEN as u64)];
        for block in (0..3 * GROUP_BLOCKS).map(BlockIndex) {
            taken.push((block.pair_offset(), block.pair_offset() + PAIR_LEN as u64));
            let successor = (block.successor_offset(), block.successor_offset() + SUCCESSOR_LEN as u64);
            assert_eq!(successor.0 / BLOCK, (successor.1 - 1) / BLOCK, "a page has all of it");
            taken.push(successor);
            for place in [Place::Main, Place::Spare] {
                assert!(block.cipher_offset(place).is_multiple_of(BLOCK));
                taken.push((block.cipher_offset(place), block.cipher_offset(place) + BLOCK));
            }
        }
        taken.sort_unstable();
        assert!(taken.windows(2).all(|two| two[0].1 <= two[1].0));
        assert!((0..2 * GROUP_BLOCKS).all(|block| BlockIndex(block).pair_offset() / 512
            == (BlockIndex(block).pair_offset() + PAIR_LEN as u64 - 1) / 512));
    }

    #[test]
    fn entries_of_a_new_group_tell_no_smaller_length() {
        let full = GROUP_BLOCKS * BLOCK;
        for block in (GROUP_BLOCKS..2 * GROUP_BLOCKS).map(BlockIndex) {
            assert_eq!(plain_len(block.pair_offset() + PAIR_LEN as u64), full);
        }
    }

    #[test]
    fn pieces_end_where_groups_do() {
        assert_eq!(groups(58..193).collect::<Vec<_>>(), [58..64, 64..128, 128..192, 192..193]);
        assert_eq!(groups(5..5).count(), 0);
    }
}
