//! Headers of COWD extents (Virtual Disk Format 5.0, "ESXi Host Sparse Extents").
//!
//! Eight 32-bit fields - magic, version, flags, capacity, sectors in a grain, first sector of the grain directory,
//! entries in it, next free sector - of 2048 bytes; at 1648 a 32-bit flag: not closed properly. Tables have 4096
//! entries.

use super::{Sparse, SparseFormat, bytes};
use crate::error::{Error, Kind, Result};
use crate::field::Reader;
use crate::source::{Source, array_at};

const HEADER_LEN: usize = 2048;
const UNCLEAN_AT: usize = 1648;
const ENTRIES_PER_TABLE: u64 = 4096;

pub(super) fn open<S: Source + ?Sized>(source: &S, file_len: u64) -> Result<Sparse> {
    let header: [u8; HEADER_LEN] = array_at(source, file_len, 0, "header of a COWD extent")?;
    let mut reader = Reader(&header);
    let _magic: [u8; 4] = reader.take();
    let version = reader.u32();
    let _flags = reader.u32();
    let capacity = u64::from(reader.u32());
    let grain_sectors = u64::from(reader.u32());
    let directory = u64::from(reader.u32());
    let directory_entries = u64::from(reader.u32());
    if version != 1 {
        return Err(Error::new(Kind::Unsupported, format!("COWD version {version}, expected 1")).at_offset(4));
    }
    let covered = directory_entries.saturating_mul(ENTRIES_PER_TABLE).saturating_mul(grain_sectors);
    if covered < capacity {
        let message = format!(
            "{directory_entries} tables of {ENTRIES_PER_TABLE} grains of {grain_sectors} sectors cover {covered}, expected \
             the capacity of {capacity}"
        );
        return Err(Error::new(Kind::Corrupt, message).at_offset(24));
    }
    let unclean = Reader(header.get(UNCLEAN_AT..).unwrap_or_default()).u32() != 0;
    Ok(Sparse {
        format: SparseFormat::Cowd,
        version,
        capacity,
        grain_sectors,
        entries_per_table: ENTRIES_PER_TABLE,
        directory: bytes(directory),
        redundant: None,
        zero_grains: false,
        compressed: false,
        unclean,
        descriptor: None,
        bases: (0, 0),
        file_len,
    })
}
