//! Headers of hosted sparse extents (Virtual Disk Format 5.0, "Hosted Sparse Extents").
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `KDMV` |
//! | 4 | 4 | version: 1; 2 with zeroed grains; 3 with changed-block tracking |
//! | 8 | 4 | flags |
//! | 12 | 8 | capacity in sectors |
//! | 20 | 8 | sectors in a grain, a power of two |
//! | 28 | 8 | first sector of the embedded descriptor |
//! | 36 | 8 | its length in sectors; 0 for none |
//! | 44 | 4 | entries in a grain table |
//! | 48 | 8 | first sector of the redundant grain directory |
//! | 56 | 8 | first sector of the grain directory, or all ones: see the footer |
//! | 64 | 8 | sectors before the first grain |
//! | 72 | 1 | not closed properly |
//! | 73 | 4 | `\n`, space, `\r`, `\n` |
//! | 77 | 2 | compression: 0 none, 1 deflate |

use super::marker::{MARKER_LEN, Marker, MarkerKind};
use super::{Sparse, SparseFormat, bytes};
use crate::error::{Error, Kind, Result};
use crate::field::Reader;
use crate::limits::{MAX_TABLE_ENTRIES, SECTOR_LEN};
use crate::source::{Source, array_at};

const FLAG_NEWLINE_TEST: u32 = 1 << 0;
const FLAG_REDUNDANT_DIRECTORY: u32 = 1 << 1;
const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_COMPRESSED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
/// By the specification, a reader must refuse what it does not know of the upper half and may ignore the lower.
const KNOWN_INCOMPATIBLE: u32 = FLAG_COMPRESSED | FLAG_MARKERS;
const INCOMPATIBLE: u32 = 0xffff_0000;

const DIRECTORY_AT_END: u64 = u64::MAX;
const NEWLINES: [u8; 4] = *b"\n \r\n";
const HEADER_LEN: usize = 512;

pub(super) fn open<S: Source + ?Sized>(source: &S, file_len: u64) -> Result<Sparse> {
    let header = Header::decode(&array_at(source, file_len, 0, "header of a hosted sparse extent")?, 0)?;
    if header.directory != DIRECTORY_AT_END {
        return header.sparse(file_len);
    }
    // The footer takes precedence, but the descriptor comes before the stream: not all writers repeat its place.
    let (descriptor, descriptor_sectors) = (header.descriptor, header.descriptor_sectors);
    Header { descriptor, descriptor_sectors, ..footer(source, file_len)? }.sparse(file_len)
}

struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain_sectors: u64,
    descriptor: u64,
    descriptor_sectors: u64,
    entries_per_table: u64,
    redundant: u64,
    directory: u64,
    unclean: bool,
    compression: u16,
    /// Byte offset of the header itself, for errors.
    at: u64,
}

impl Header {
    /// Identity first, then integrity: a file damaged by a text transfer has wrong fields everywhere.
    fn decode(header: &[u8; HEADER_LEN], at: u64) -> Result<Self> {
        let mut reader = Reader(header);
        let magic: [u8; 4] = reader.take();
        if magic != *b"KDMV" {
            let message = format!("magic is {magic:02x?}, expected \"KDMV\"");
            return Err(Error::new(Kind::Corrupt, message).at_offset(at));
        }
        let version = reader.u32();
        let flags = reader.u32();
        let capacity = reader.u64();
        let grain_sectors = reader.u64();
        let descriptor = reader.u64();
        let descriptor_sectors = reader.u64();
        let entries_per_table = u64::from(reader.u32());
        let redundant = reader.u64();
        let directory = reader.u64();
        let _overhead = reader.u64();
        let [unclean] = reader.take();
        let newlines: [u8; 4] = reader.take();
        let compression = reader.u16();
        if flags & FLAG_NEWLINE_TEST != 0 && newlines != NEWLINES {
            let message = format!(
                "the newline test bytes are {newlines:02x?}, expected {NEWLINES:02x?}: the file was damaged by a \
                 transfer in text mode"
            );
            return Err(Error::new(Kind::Corrupt, message).at_offset(at + 73));
        }
        Ok(Self {
            version,
            flags,
            capacity,
            grain_sectors,
            descriptor,
            descriptor_sectors,
            entries_per_table,
            redundant,
            directory,
            unclean: unclean != 0,
            compression,
            at,
        })
    }

    fn sparse(self, file_len: u64) -> Result<Sparse> {
        let at = self.at;
        let unsupported = |field: u64, message| Err(Error::new(Kind::Unsupported, message).at_offset(at + field));
        let corrupt = |field: u64, message| Err(Error::new(Kind::Corrupt, message).at_offset(at + field));
        if !(1..=3).contains(&self.version) {
            return unsupported(4, format!("hosted sparse version {}, expected 1, 2 or 3", self.version));
        }
        if self.flags & INCOMPATIBLE & !KNOWN_INCOMPATIBLE != 0 {
            return unsupported(8, format!("flags are {:#010x}, of which the upper half is not all known", self.flags));
        }
        let compressed = self.flags & FLAG_COMPRESSED != 0;
        match (compressed, self.compression) {
            (false, 0) | (true, 1) => {}
            (_, other) => {
                let message = format!(
                    "compression is {other} with flags {:#010x}, expected 1 with bit 16 or 0 without",
                    self.flags
                );
                return unsupported(77, message);
            }
        }
        if compressed && self.flags & FLAG_MARKERS == 0 {
            return unsupported(8, "compressed grains without markers".to_owned());
        }
        if !self.grain_sectors.is_power_of_two() {
            return corrupt(20, format!("a grain has {} sectors, expected a power of two", self.grain_sectors));
        }
        if self.entries_per_table == 0 || self.entries_per_table > MAX_TABLE_ENTRIES {
            let found = self.entries_per_table;
            return corrupt(44, format!("a grain table has {found} entries, expected 1 to {MAX_TABLE_ENTRIES}"));
        }
        let use_redundant = self.flags & FLAG_REDUNDANT_DIRECTORY != 0 && self.redundant != 0;
        let text = bytes(self.descriptor)..bytes(self.descriptor.saturating_add(self.descriptor_sectors));
        Ok(Sparse {
            format: SparseFormat::Hosted,
            version: self.version,
            capacity: self.capacity,
            grain_sectors: self.grain_sectors,
            entries_per_table: self.entries_per_table,
            directory: bytes(self.directory),
            redundant: use_redundant.then(|| bytes(self.redundant)),
            zero_grains: self.flags & FLAG_ZERO_GRAINS != 0,
            compressed,
            unclean: self.unclean,
            descriptor: (self.descriptor != 0 && self.descriptor_sectors != 0).then_some(text),
            bases: (0, 0),
            file_len,
        })
    }
}

/// The header that a streamed file ends with, between a footer marker and the end-of-stream marker.
fn footer<S: Source + ?Sized>(source: &S, file_len: u64) -> Result<Header> {
    const PARTS: u64 = 3;
    let start = file_len.checked_sub(PARTS * SECTOR_LEN).filter(|start| *start >= SECTOR_LEN).ok_or_else(|| {
        let message = format!("the header refers to a footer, but the file has only {file_len} bytes");
        Error::new(Kind::Corrupt, message).at_offset(56)
    })?;
    let expect = |offset: u64, kind: MarkerKind| {
        let marker: [u8; MARKER_LEN] = array_at(source, file_len, offset, "marker around the footer")?;
        if Marker::decode(&marker) == Marker::Metadata(kind) {
            return Ok(());
        }
        let message =
            format!("expected the {} of a streamed file: the file is cut short, or has been added to", kind.name());
        Err(Error::new(Kind::Corrupt, message).at_offset(offset))
    };
    expect(start, MarkerKind::Footer)?;
    expect(file_len - SECTOR_LEN, MarkerKind::EndOfStream)?;
    let at = start + SECTOR_LEN;
    let header = Header::decode(&array_at(source, file_len, at, "footer")?, at)?;
    if header.directory == DIRECTORY_AT_END {
        let message = "the footer refers to another footer, expected the place of the grain directory";
        return Err(Error::new(Kind::Corrupt, message).at_offset(at + 56));
    }
    Ok(header)
}
