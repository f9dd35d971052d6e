//! Kinds of disks: what of them a header says, and how their data lies in a backing file.
//!
//! A new kind is a file below `disk_kind`, a line here, a section of docs/FORMAT.md, and a store with its line in `store::disk`.

mod xts;

use crate::error::{Error, Kind, Result};
use crate::sector::{self, SectorSize};

/// Where a disk's ciphertext begins, unless its header says otherwise.
pub const DEFAULT_DATA_OFFSET: u64 = 8 << 20;

/// A kind of disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DiskKind {
    /// A sector store: AES-256-XTS, whose data has no integrity check.
    Xts,
}

impl DiskKind {
    const ALL: [Self; 1] = [Self::Xts];

    /// What the kinds differ in.
    pub fn layout(self) -> &'static dyn Layout {
        match self {
            Self::Xts => &xts::Xts,
        }
    }

    /// The kind with this code in a header.
    pub(super) fn of_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.layout().code() == code)
    }
}

/// What kinds of disks differ in, beside their stores.
pub trait Layout {
    /// The code of the cipher in a header.
    fn code(&self) -> u8;

    /// What people call the cipher.
    fn cipher(&self) -> &'static str;

    /// Length of what stands for a plaintext length, in bytes.
    fn cipher_len(&self, plain_len: u64) -> u64;

    /// The inverse of [`cipher_len`](Self::cipher_len), for any length that a crash may leave.
    fn plain_len(&self, cipher_len: u64) -> u64;

    /// Why a check does not read the data, for a cipher that does not authenticate it.
    fn why_unchecked(&self) -> Option<&'static str>;
}

/// Kind and geometry of a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DiskShape {
    /// What is at `data_offset`.
    pub kind: DiskKind,
    /// Unit of encryption.
    pub sector_size: SectorSize,
    /// Where the data begin in the backing file, in bytes.
    pub data_offset: u64,
}

impl DiskShape {
    /// That of a new disk.
    pub const fn new(sector_size: SectorSize) -> Self {
        Self { kind: DiskKind::Xts, sector_size, data_offset: DEFAULT_DATA_OFFSET }
    }

    /// Plaintext length of a disk whose backing file has this length; 0 for one that is cut off.
    pub fn plain_len(self, backing_len: u64) -> u64 {
        self.kind.layout().plain_len(backing_len.saturating_sub(self.data_offset))
    }

    /// Length of the backing file for a plaintext length.
    pub fn backing_len(self, plain_len: u64) -> u64 {
        self.data_offset + self.kind.layout().cipher_len(plain_len)
    }

    /// Refuses a backing file of a length that no disk has.
    ///
    /// # Errors
    /// `Corrupt` for a file that ends before its data, `Unsupported` for one that is longer than one key may encrypt.
    pub fn refuse_wrong_len(self, backing_len: u64) -> Result<()> {
        if backing_len >= self.data_offset {
            return sector::refuse_too_long(self.plain_len(backing_len));
        }
        Err(Error::new(
            Kind::Corrupt,
            format!("the file ends at byte {backing_len}, but its data begins at {}: it was cut off", self.data_offset),
        ))
    }
}
