//! Sparse extents: files that hold only the grains of a disk that were written.
//!
//! Three formats share one shape: a header, a directory of grain tables, and tables of grains. A [`Sparse`] holds what
//! the header says, checked against the file; directory and tables are read entry by entry, as lookups ask for them.

mod check;
mod cowd;
mod hosted;
mod marker;
mod sesparse;

use std::ops::Range;

pub use check::Usage;
pub use marker::{GrainMarker, Marker, MarkerKind, inflate_grain};

use crate::cache::{Cache, FileId};
use crate::descriptor::Descriptor;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_DISK_SECTORS, MAX_GRAIN_SECTORS, MAX_TEXT_LEN, SECTOR_LEN};
use crate::source::{Source, array_at, check_within, len_of};

/// Format of a sparse extent's file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum SparseFormat {
    /// Hosted sparse, magic `KDMV`: Workstation, Fusion, QEMU, and all exports (Virtual Disk Format 5.0, "Hosted Sparse
    /// Extents" and "Stream-Optimized Compressed Sparse Extents").
    Hosted,
    /// `COWD`: snapshots of ESXi on VMFS 5 and before ("ESXi Host Sparse Extents").
    Cowd,
    /// seSparse: snapshots of ESXi on VMFS 6.
    SeSparse,
}

/// What a sparse extent's header says, checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sparse {
    format: SparseFormat,
    version: u32,
    /// Disk sectors that the extent covers.
    capacity: u64,
    grain_sectors: u64,
    entries_per_table: u64,
    /// Byte offset of the grain directory.
    directory: u64,
    /// Byte offset of the second directory, if it is said to be usable.
    redundant: Option<u64>,
    /// An entry of 1 stands for a grain of zeros.
    zero_grains: bool,
    compressed: bool,
    unclean: bool,
    /// Where the embedded descriptor is, in bytes.
    descriptor: Option<Range<u64>>,
    /// First sectors of all grain tables and of all grains; seSparse counts from them.
    bases: (u64, u64),
    file_len: u64,
}

/// What a sparse extent knows of one grain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Grain {
    /// Never written: the parent's, or zeros.
    Unallocated,
    Zero,
    /// Its bytes lie at this byte offset.
    Data(u64),
    /// Its marker lies at this byte offset.
    Compressed(u64),
}

impl Sparse {
    /// The format of a file that begins with `head`, of at least 8 bytes, if it is a sparse extent.
    pub fn detect(head: &[u8]) -> Option<SparseFormat> {
        match head {
            [b'K', b'D', b'M', b'V', ..] => Some(SparseFormat::Hosted),
            [b'C', b'O', b'W', b'D', ..] => Some(SparseFormat::Cowd),
            [0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0, ..] => Some(SparseFormat::SeSparse),
            _ => None,
        }
    }

    /// Reads the header of a sparse extent, and the footer where the header refers to it.
    ///
    /// # Errors
    /// `Corrupt` with the offset of a field that contradicts the file; `Unsupported` for versions and flags of the
    /// future and for a seSparse file whose journal must be replayed; `Invalid` if it is not a sparse extent at all.
    pub fn open<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let file_len = len_of(source)?;
        let head: [u8; 8] = array_at(source, file_len, 0, "magic of a sparse extent")?;
        let sparse = match Self::detect(&head) {
            Some(SparseFormat::Hosted) => hosted::open(source, file_len)?,
            Some(SparseFormat::Cowd) => cowd::open(source, file_len)?,
            Some(SparseFormat::SeSparse) => sesparse::open(source, file_len)?,
            None => {
                let message = format!("magic is {head:02x?}, expected KDMV, COWD or that of a seSparse extent");
                return Err(Error::new(Kind::Invalid, message).at_offset(0));
            }
        };
        sparse.checked()
    }

    /// The file's format.
    pub fn format(&self) -> SparseFormat {
        self.format
    }

    /// The format's version: 1 to 3 for hosted, 1 for COWD, 2 for seSparse.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Disk sectors that the extent covers.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Disk sectors in a grain.
    pub fn grain_sectors(&self) -> u64 {
        self.grain_sectors
    }

    /// Whether grains are zlib streams, as in streamOptimized disks.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// Whether the file was not closed properly, so that its last writes may be missing.
    pub fn is_unclean(&self) -> bool {
        self.unclean
    }

    /// The descriptor within the file, if it has one. QEMU reserves space for one in each extent of a split disk, and leaves it
    /// empty.
    ///
    /// # Errors
    /// `Corrupt` if it lies beyond the file, `Invalid` or `Unsupported` as by [`Descriptor::parse`].
    pub fn embedded_descriptor<S: Source + ?Sized>(&self, source: &S) -> Result<Option<Descriptor>> {
        let Some(range) = &self.descriptor else { return Ok(None) };
        check_within(self.file_len, range.start, range.end - range.start, "embedded descriptor")?;
        let len = usize::try_from(range.end - range.start).expect("at most MAX_TEXT_LEN, see hosted");
        let mut text = vec![0; len];
        source.read_at(range.start, &mut text).map_err(|error| Error::io(range.start, error))?;
        if text.iter().all(|byte| *byte == 0) { Ok(None) } else { Descriptor::parse(&text).map(Some) }
    }

    /// The bytes of the compressed grain whose marker is at `offset` and must name `sector`.
    pub(crate) fn inflate<S: Source + ?Sized>(&self, source: &S, offset: u64, sector: u64) -> Result<Vec<u8>> {
        let len = |bytes: u64| usize::try_from(bytes).expect("at most MAX_GRAIN_SECTORS");
        let mut grain = vec![0; len(self.grain_len())];
        let needed = len(self.len_of_grain(sector / self.grain_sectors));
        marker::read_grain(source, self.file_len, offset, sector, &mut grain, needed)?;
        Ok(grain)
    }

    /// Grains that the extent covers, the last one perhaps in part.
    pub(crate) fn grains(&self) -> u64 {
        self.capacity.div_ceil(self.grain_sectors)
    }

    pub(crate) fn grain_len(&self) -> u64 {
        self.grain_sectors * SECTOR_LEN
    }

    /// Bytes of `grain` that belong to the extent: fewer than a grain for the last one.
    pub(crate) fn len_of_grain(&self, grain: u64) -> u64 {
        self.grain_len().min((self.capacity * SECTOR_LEN).saturating_sub(grain * self.grain_len()))
    }

    /// The table that has `grain`.
    pub(crate) fn table_of(&self, grain: u64) -> u64 {
        grain / self.entries_per_table
    }

    /// The first grain that is not in table `index` or one before it.
    pub(crate) fn end_of_table(&self, index: u64) -> u64 {
        self.grains().min((index + 1) * self.entries_per_table)
    }

    /// Looks up one grain, below [`grains`](Self::grains), in its table at byte offset `table`.
    pub(crate) fn grain<S: Source + ?Sized>(
        &self,
        id: FileId,
        source: &S,
        cache: &mut Cache,
        table: u64,
        grain: u64,
    ) -> Result<Grain> {
        let at = table + grain % self.entries_per_table * self.entry_len();
        let found = match self.format {
            SparseFormat::SeSparse => {
                let entry =
                    u64::from_le_bytes(cache.entry(id, source, self.len_up_to(source, at + self.entry_len())?, at)?);
                sesparse::grain(entry, self.bases.1, self.grain_sectors).map_err(|error| error.at_offset(at))?
            }
            SparseFormat::Hosted | SparseFormat::Cowd => {
                match u32::from_le_bytes(cache.entry(id, source, self.len_up_to(source, at + self.entry_len())?, at)?) {
                    0 => Grain::Unallocated,
                    1 if self.zero_grains => Grain::Zero,
                    sector if self.compressed => Grain::Compressed(u64::from(sector) * SECTOR_LEN),
                    sector => Grain::Data(u64::from(sector) * SECTOR_LEN),
                }
            }
        };
        let (offset, len) = match found {
            Grain::Unallocated | Grain::Zero => return Ok(found),
            Grain::Data(offset) => (offset, self.len_of_grain(grain)),
            Grain::Compressed(offset) => (offset, marker::GRAIN_MARKER_LEN as u64),
        };
        let end = offset.saturating_add(len);
        let file_len = self.len_up_to(source, end)?;
        if end > file_len || offset < self.header_len() {
            let message = format!(
                "the table entry of grain {grain} points to byte {offset}, expected {len} bytes between the header and \
                 the end of the file at byte {file_len}"
            );
            return Err(Error::new(Kind::Corrupt, message).at_offset(at));
        }
        Ok(found)
    }

    /// Byte offset of grain table `index`; `None` if none of its grains were ever written.
    pub(crate) fn table<S: Source + ?Sized>(
        &self,
        id: FileId,
        source: &S,
        cache: &mut Cache,
        index: u64,
    ) -> Result<Option<u64>> {
        match (self.table_by(self.directory, id, source, cache, index), self.redundant) {
            (Err(error), Some(redundant)) if error.kind() == Kind::Corrupt => {
                // What the second directory is for. If it is no better, the first one's error is the one to report.
                self.table_by(redundant, id, source, cache, index).map_err(|_| error)
            }
            (found, _) => found,
        }
    }

    fn table_by<S: Source + ?Sized>(
        &self,
        directory: u64,
        id: FileId,
        source: &S,
        cache: &mut Cache,
        index: u64,
    ) -> Result<Option<u64>> {
        let at = directory + index * self.entry_len();
        let sector = match self.format {
            SparseFormat::SeSparse => {
                let entry =
                    u64::from_le_bytes(cache.entry(id, source, self.len_up_to(source, at + self.entry_len())?, at)?);
                sesparse::table_sector(entry, self.bases.0).map_err(|error| error.at_offset(at))?
            }
            SparseFormat::Hosted | SparseFormat::Cowd => u64::from(u32::from_le_bytes(cache.entry(
                id,
                source,
                self.len_up_to(source, at + self.entry_len())?,
                at,
            )?)),
        };
        if sector == 0 {
            return Ok(None);
        }
        // A table is as long as it needs to be for the grains that the extent has.
        let entries = self.end_of_table(index) - index * self.entries_per_table;
        let offset = bytes(sector);
        let table_len = entries * self.entry_len();
        let file_len = self.len_up_to(source, offset.saturating_add(table_len))?;
        check_within(file_len, offset, table_len, &format!("grain table {index}"))
            .map_err(|error| Error::new(Kind::Corrupt, error.message().to_owned()).at_offset(at))?;
        Ok(Some(offset))
    }

    /// Bytes of the file, asked for again where something lies beyond its former end: a file that is in use grows.
    fn len_up_to<S: Source + ?Sized>(&self, source: &S, end: u64) -> Result<u64> {
        if end <= self.file_len { Ok(self.file_len) } else { len_of(source) }
    }

    fn entry_len(&self) -> u64 {
        match self.format {
            SparseFormat::SeSparse => 8,
            SparseFormat::Hosted | SparseFormat::Cowd => 4,
        }
    }

    fn header_len(&self) -> u64 {
        match self.format {
            SparseFormat::Cowd => 4 * SECTOR_LEN,
            SparseFormat::Hosted | SparseFormat::SeSparse => SECTOR_LEN,
        }
    }

    fn tables(&self) -> u64 {
        self.grains().div_ceil(self.entries_per_table)
    }

    /// What all formats promise: sizes that fit, and a directory within the file.
    fn checked(mut self) -> Result<Self> {
        let corrupt = |message: String| Err(Error::new(Kind::Corrupt, message));
        if self.capacity > MAX_DISK_SECTORS {
            return corrupt(format!("capacity is {} sectors, expected at most {MAX_DISK_SECTORS}", self.capacity));
        }
        if self.grain_sectors == 0 || self.grain_sectors > MAX_GRAIN_SECTORS {
            let found = self.grain_sectors;
            return corrupt(format!("a grain has {found} sectors, expected 1 to {MAX_GRAIN_SECTORS}"));
        }
        if let Some(range) = &self.descriptor
            && range.end - range.start > MAX_TEXT_LEN as u64
        {
            let found = range.end - range.start;
            return corrupt(format!("the embedded descriptor has {found} bytes, expected at most {MAX_TEXT_LEN}"));
        }
        let len = self.tables() * self.entry_len();
        let within = |offset| check_within(self.file_len, offset, len, "grain directory");
        self.redundant = self.redundant.filter(|redundant| within(*redundant).is_ok());
        match (within(self.directory), self.redundant) {
            (Err(_), Some(redundant)) => self.directory = redundant,
            (primary, _) => primary?,
        }
        Ok(self)
    }
}

/// Sectors to bytes; what does not fit is beyond any file, which the checks against its length will say.
fn bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR_LEN)
}
