//! seSparse extents. The format is not published; what is here is common knowledge of QEMU and dissect.
//!
//! All fields are 64 bits. The constant header at 0 has magic, version, capacity, sectors in a grain, sectors in a
//! grain table, flags, four reserved fields, and then first sector and length of: volatile header, journal header,
//! journal, grain directory, grain tables, free bitmap, back map, grains. The volatile header says whether the journal
//! must be replayed. A grain of kind 1 was unmapped by the guest and reads as zeros, as in QEMU; dissect takes it for
//! the parent's.

use super::{Grain, Sparse, SparseFormat, bytes};
use crate::error::{Error, Kind, Result};
use crate::field::Reader;
use crate::limits::SECTOR_LEN;
use crate::source::{Source, array_at};

const VOLATILE_MAGIC: u64 = 0xcafe_cafe;
const VERSION: u64 = 0x0000_0002_0000_0001;
const GRAIN_SECTORS: u64 = 8;
const TABLE_SECTORS: u64 = 64;
const ENTRIES_PER_TABLE: u64 = TABLE_SECTORS * SECTOR_LEN / 8;
const HEADER_LEN: usize = 512;

pub(super) fn open<S: Source + ?Sized>(source: &S, file_len: u64) -> Result<Sparse> {
    let header: [u8; HEADER_LEN] = array_at(source, file_len, 0, "constant header of a seSparse extent")?;
    let mut reader = Reader(&header);
    let _magic = reader.u64();
    let mut expect = |at: u64, field: &str, expected: u64| {
        let found = reader.u64();
        if found == expected {
            return Ok(());
        }
        let message = format!("seSparse {field} is {found:#x}, expected {expected:#x}");
        Err(Error::new(Kind::Unsupported, message).at_offset(at))
    };
    expect(8, "version", VERSION)?;
    let capacity = Reader(header.get(16..).unwrap_or_default()).u64();
    expect(16, "capacity", capacity)?;
    expect(24, "grain size", GRAIN_SECTORS)?;
    expect(32, "grain table size", TABLE_SECTORS)?;
    for (at, field) in
        [(40, "flags"), (48, "reserved field"), (56, "reserved field"), (64, "reserved field"), (72, "reserved field")]
    {
        expect(at, field, 0)?;
    }
    let mut area = || (reader.u64(), reader.u64());
    let (volatile, _) = area();
    let _journal_header = area();
    let _journal = area();
    let (directory, directory_sectors) = area();
    let (tables, _) = area();
    let _free_bitmap = area();
    let _back_map = area();
    let (grains, _) = area();
    check_volatile(source, file_len, volatile)?;
    let covered = bytes(directory_sectors).saturating_div(8).saturating_mul(ENTRIES_PER_TABLE * GRAIN_SECTORS);
    if covered < capacity {
        let message = format!(
            "a directory of {directory_sectors} sectors covers {covered} sectors, expected the \
             capacity of {capacity}"
        );
        return Err(Error::new(Kind::Corrupt, message).at_offset(136));
    }
    Ok(Sparse {
        format: SparseFormat::SeSparse,
        version: 2,
        capacity,
        grain_sectors: GRAIN_SECTORS,
        entries_per_table: ENTRIES_PER_TABLE,
        directory: bytes(directory),
        redundant: None,
        zero_grains: false,
        compressed: false,
        unclean: false,
        descriptor: None,
        bases: (tables, grains),
        file_len,
    })
}

/// A journal that was not replayed would leave tables and grains of different times.
fn check_volatile<S: Source + ?Sized>(source: &S, file_len: u64, sector: u64) -> Result<()> {
    let at = bytes(sector);
    let header: [u8; HEADER_LEN] = array_at(source, file_len, at, "volatile header of a seSparse extent")?;
    let mut reader = Reader(&header);
    let magic = reader.u64();
    if magic != VOLATILE_MAGIC {
        let message = format!("magic of the volatile header is {magic:#x}, expected {VOLATILE_MAGIC:#x}");
        return Err(Error::new(Kind::Corrupt, message).at_offset(at));
    }
    let _free_table = reader.u64();
    let _transaction = reader.u64();
    if reader.u64() != 0 {
        let message = "the extent was not closed properly and its journal must be replayed: open it once with ESXi";
        return Err(Error::new(Kind::Unsupported, message).at_offset(at.saturating_add(24)));
    }
    Ok(())
}

/// First sector of the table that a directory entry names, 0 for none. The upper half is 0x10000000 for an allocated
/// table, the lower half its index.
pub(super) fn table_sector(entry: u64, tables: u64) -> Result<u64> {
    const ALLOCATED: u64 = 0x1000_0000;
    match (entry >> 32, entry & 0xffff_ffff) {
        (0, 0) => Ok(0),
        (ALLOCATED, index) => Ok(tables.saturating_add(index * TABLE_SECTORS)),
        _ => Err(Error::new(
            Kind::Corrupt,
            format!("grain directory entry is {entry:#018x}, expected 0 or 0x10000000 and an index"),
        )),
    }
}

/// The grain that a table entry names: its kind in the top 4 bits, then the 12 low bits of its index, then 48 high
/// ones.
pub(super) fn grain(entry: u64, grains: u64, grain_sectors: u64) -> Result<Grain> {
    let index = entry >> 48 & 0xfff | (entry & 0xffff_ffff_ffff) << 12;
    match entry >> 60 {
        0 if entry == 0 => Ok(Grain::Unallocated),
        1 | 2 => Ok(Grain::Zero),
        3 => Ok(Grain::Data(bytes(index.saturating_mul(grain_sectors).saturating_add(grains)))),
        _ => Err(Error::new(Kind::Corrupt, format!("grain table entry is {entry:#018x}, of no known kind"))),
    }
}
