//! Disks of all kinds: from a locked one to its plaintext.
//!
//! A kind is a store that implements [`Disk`], and its line in [`LockedDisk::unlock`]. Nothing else knows which kind a disk is of.

use uuid::Uuid;

use crate::crypto::xts::Engine;
use crate::error::{Error, Kind, Result};
use crate::format::disk_kind::{DiskKind, DiskShape};
use crate::format::header::{ComponentKind, Header};
use crate::key::Dek;
use crate::sector::{UNIT, UNIT_LEN};
use crate::storage::Storage;
use crate::store::header_area::{self, StoredHeader};
use crate::store::plain_file::PlainFile;
use crate::store::sector_store::SectorStore;

pub use crate::store::sector_store::{MAX_CHUNK_LEN, Progress, RekeyInPlace, claimed_progress, genuine_progress};

/// An unlocked disk.
pub trait Disk<S>: PlainFile + RekeyInPlace {
    /// Identity of the disk.
    fn uuid(&self) -> Uuid;

    /// The storage below, for attributes and claims; its bytes are ciphertext.
    fn storage(&self) -> &S;

    /// Takes over the length that the backing file has, which others may have changed while nobody wrote through this.
    ///
    /// # Errors
    /// `Io`.
    fn read_len(&self) -> Result<()>;

    /// Whether a deep rekey of the disk is not finished.
    fn is_in_transition(&self) -> bool;

    /// Progress of its deep rekey in bytes, while data of it is under the former key.
    fn rekeyed_up_to(&self) -> Option<u64>;
}

impl<S: Storage> Disk<S> for SectorStore<S> {
    fn uuid(&self) -> Uuid {
        self.uuid
    }

    fn storage(&self) -> &S {
        &self.storage
    }

    fn read_len(&self) -> Result<()> {
        self.read_len()
    }

    fn is_in_transition(&self) -> bool {
        self.is_in_transition()
    }

    fn rekeyed_up_to(&self) -> Option<u64> {
        self.rekeyed_up_to()
    }
}

/// A disk whose header was read, and nothing more: there is no way to its data from here but [`unlock`](Self::unlock).
pub struct LockedDisk<S> {
    storage: S,
    stored: StoredHeader,
}

impl<S: Storage> LockedDisk<S> {
    /// Reads the header of a backing file.
    ///
    /// # Errors
    /// As [`header_area::load`]; `Corrupt` for a file that ends before its data.
    pub fn open(storage: S) -> Result<Self> {
        let stored = header_area::load(&storage, ComponentKind::Disk)?;
        Ok(Self { storage, stored })
    }

    /// What the header claims, and which copy says so.
    pub fn stored(&self) -> &StoredHeader {
        &self.stored
    }

    /// Verifies the header with the disk's DEK and makes its data reachable, through a cipher engine.
    ///
    /// # Errors
    /// `Corrupt` when the header was not written by the owner of `dek`, or the file ends before its data.
    pub fn unlock<'s>(self, dek: &Dek, engine: Engine) -> Result<Box<dyn Disk<S> + 's>>
    where
        S: 's,
    {
        let header = self.stored.header.verify(dek)?;
        let shape = header.shape.disk().ok_or_else(|| Error::new(Kind::Invalid, "a home, expected a disk"))?;
        match shape.kind {
            DiskKind::Xts => SectorStore::open(self.storage, &header, shape, dek, engine).map(boxed),
        }
    }
}

fn boxed<'s, S: 's>(disk: impl Disk<S> + 's) -> Box<dyn Disk<S> + 's> {
    Box::new(disk)
}

/// Writes the header of a new, empty disk; then the storage holds a disk of length 0.
///
/// # Errors
/// `Invalid` for fields outside their limits, or `Io`.
pub fn create(storage: &dyn Storage, header: &Header, dek: &Dek) -> Result<()> {
    header_area::create(storage, header, dek)?;
    storage.set_len(shape_of(header)?.data_offset)
}

/// Makes a disk of length 0 in an empty file that has its name already. Its length and all of a header copy but the first sector
/// are durable before that sector, which is all that shows that this is a disk, and the other copy follows: whenever the power fails
/// there is a disk, or a file that begins with a sector of zeros.
///
/// # Errors
/// `Invalid` for fields outside their limits, or `Io`.
pub fn create_in_place(storage: &dyn Storage, header: &Header, dek: &Dek) -> Result<()> {
    let data_offset = shape_of(header)?.data_offset;
    let bytes = header.encode(dek)?;
    let (mark, rest) = bytes.split_at(UNIT_LEN);
    let [first, second] = ComponentKind::Disk.copy_offsets();
    storage.set_len(data_offset)?;
    storage.write_at(first + UNIT, rest)?;
    storage.sync()?;
    storage.write_at(first, mark)?;
    storage.sync()?;
    storage.write_at(second, &bytes)
}

fn shape_of(header: &Header) -> Result<DiskShape> {
    header.shape.disk().ok_or_else(|| Error::new(Kind::Invalid, "a home's header for a disk"))
}
