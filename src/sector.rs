//! All offset arithmetic of a disk, and nothing else.
//!
//! `plain_` names a position in the disk as the guest sees it, `cipher_` one in the backing file. Sizes are bytes.

use std::ops::Range;

use crate::error::{Error, Kind, Result};

/// Smallest range that is written, punched or a hole on its own, in bytes.
pub const UNIT: u64 = 512;
/// [`UNIT`] as a length of memory.
pub const UNIT_LEN: usize = 512;
/// AES block: the granule of XTS, in bytes.
pub const BLOCK: u64 = 16;
/// [`BLOCK`] as a length of memory.
pub const BLOCK_LEN: usize = 16;
/// Largest plaintext length of a disk, in bytes (256 TiB): IEEE 1619-2018 allows one XTS key to encrypt 2^44 blocks.
pub const MAX_PLAIN_LEN: u64 = BLOCK << 44;
/// Largest offset in any file, in bytes (2^62): no sum of offsets below it can overflow.
pub const MAX_OFFSET: u64 = 1 << 62;

/// Number of a sector; also its XTS tweak, as 128-bit little-endian ("plain64").
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SectorIndex(pub u64);

/// Size of a sector in bytes: 512 or 4096.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SectorSize(u32);

impl SectorSize {
    /// 4096 bytes, unless asked otherwise.
    pub const DEFAULT: Self = Self(4096);
    /// 512 bytes.
    pub const SMALL: Self = Self(512);

    /// Accepts the sizes that the format knows.
    ///
    /// # Errors
    /// `Unsupported` for any other number.
    pub fn new(bytes: u32) -> Result<Self> {
        match bytes {
            512 | 4096 => Ok(Self(bytes)),
            _ => Err(Error::new(Kind::Unsupported, format!("sector size {bytes}, expected 512 or 4096"))),
        }
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The size in bytes, as a length of memory.
    pub fn in_memory(self) -> usize {
        self.0 as usize
    }

    /// The header's field.
    pub fn to_u32(self) -> u32 {
        self.0
    }
}

/// `value` rounded down to a multiple of `granule`.
pub fn floor(value: u64, granule: u64) -> u64 {
    value - value % granule
}

/// `value` rounded up to a multiple of `granule`. `value` is at most [`MAX_OFFSET`].
pub fn ceil(value: u64, granule: u64) -> u64 {
    value.div_ceil(granule) * granule
}

/// Length of the backing file, beyond `data_offset`, that stands for a plaintext length (docs/FORMAT.md, "Length").
pub fn cipher_len(plain_len: u64) -> u64 {
    if plain_len.is_multiple_of(BLOCK) { plain_len } else { plain_len + BLOCK }
}

/// The inverse of [`cipher_len`]. Lengths that no writer leaves (1 to 15 bytes) stand for an empty disk.
pub fn plain_len(cipher_len: u64) -> u64 {
    if cipher_len.is_multiple_of(BLOCK) { cipher_len } else { cipher_len.saturating_sub(BLOCK) }
}

/// Refuses a disk that is longer than one key may encrypt.
///
/// # Errors
/// `Unsupported` past [`MAX_PLAIN_LEN`].
pub fn refuse_too_long(plain_len: u64) -> Result<()> {
    if plain_len <= MAX_PLAIN_LEN {
        return Ok(());
    }
    Err(Error::new(
        Kind::Unsupported,
        format!("a disk of {plain_len} bytes, expected at most {MAX_PLAIN_LEN} (256 TiB): one key encrypts no more"),
    ))
}

/// A plaintext range, and the whole sectors and units around it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// First byte wanted.
    pub plain_offset: u64,
    /// Bytes wanted.
    pub len: usize,
    /// The sector that holds the first byte.
    pub first: SectorIndex,
    /// Bytes of that sector before the first byte wanted.
    pub skip: usize,
    sector_size: SectorSize,
}

impl Span {
    /// The span of `len` bytes at `plain_offset`. The range ends at or below [`MAX_PLAIN_LEN`].
    pub fn covering(plain_offset: u64, len: usize, sector_size: SectorSize) -> Self {
        let first = plain_offset / sector_size.bytes();
        // Below the sector size, so it fits any usize.
        let skip = usize::try_from(plain_offset % sector_size.bytes()).unwrap_or(0);
        Self { plain_offset, len, first: SectorIndex(first), skip, sector_size }
    }

    /// Where the first sector starts, in plaintext.
    pub fn start(self) -> u64 {
        self.first.0 * self.sector_size.bytes()
    }

    /// Past the last byte wanted, in plaintext.
    pub fn end(self) -> u64 {
        self.plain_offset + self.len as u64
    }

    /// Where the wanted bytes lie once the span is in memory from [`start`](Self::start) on.
    pub fn wanted(self) -> Range<usize> {
        self.skip..self.skip + self.len
    }

    /// Bytes from [`start`](Self::start) to the end of the unit that holds the last byte wanted.
    pub fn unit_len(self) -> usize {
        (self.skip + self.len).next_multiple_of(UNIT_LEN)
    }

    /// The whole units that hold the range, in plaintext.
    pub fn units(self) -> Range<u64> {
        floor(self.plain_offset, UNIT)..ceil(self.end(), UNIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [u64; 14] = [0, 1, 15, 16, 17, 511, 512, 513, 4095, 4096, 4097, 8191, 8192, 12_800];

    #[test]
    fn span_agrees_with_counting_bytes_one_by_one() {
        for size in [SectorSize::SMALL, SectorSize::DEFAULT] {
            for offset in EDGES {
                for len in EDGES.map(|len| usize::try_from(len).unwrap()) {
                    let span = Span::covering(offset, len, size);
                    let first_byte = (0..=offset).rev().find(|byte| byte.is_multiple_of(size.bytes())).unwrap();
                    assert_eq!(span.start(), first_byte);
                    assert_eq!(span.wanted().start as u64, offset - first_byte);
                    assert_eq!(span.wanted().len(), len);
                    let touched: Vec<u64> = (offset..offset + len as u64).map(|byte| byte / UNIT).collect();
                    if let (Some(low), Some(high)) = (touched.first(), touched.last()) {
                        assert_eq!(span.units(), low * UNIT..(high + 1) * UNIT);
                        assert_eq!(span.start() + span.unit_len() as u64, (high + 1) * UNIT);
                    }
                }
            }
        }
    }

    #[test]
    fn every_length_survives_the_backing_length() {
        for len in (0..5000).chain([MAX_PLAIN_LEN - 1, MAX_PLAIN_LEN]) {
            assert_eq!(plain_len(cipher_len(len)), len);
            assert!(cipher_len(len) >= ceil(len, BLOCK), "the padded last block fits");
        }
    }

    #[test]
    fn one_key_encrypts_at_most_2_44_blocks() {
        assert_eq!((MAX_PLAIN_LEN / BLOCK, MAX_OFFSET), (1 << 44, 4_611_686_018_427_387_904));
        refuse_too_long(256 << 40).unwrap();
        let error = refuse_too_long((256 << 40) + 1).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().starts_with("a disk of 281474976710657 bytes, expected at most 281474976710656"));
    }

    #[test]
    fn backing_lengths_that_no_writer_leaves_read_as_empty() {
        assert!((1..16).all(|len| plain_len(len) == 0));
    }

    #[test]
    fn only_known_sector_sizes_are_accepted() {
        let accepted: Vec<u32> = (0..70_000).filter(|&size| SectorSize::new(size).is_ok()).collect();
        assert_eq!(accepted, [512, 4096]);
        let forms = |size: SectorSize| (size.bytes(), size.in_memory(), size.to_u32());
        assert_eq!([SectorSize::SMALL, SectorSize::DEFAULT].map(forms), [(512, 512, 512), (4096, 4096, 4096)]);
    }
}
