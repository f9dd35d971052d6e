//! Markers and compressed grains of streamed files (Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse
//! Extents").
//!
//! The specification names RFC 1951, but all writers frame the deflate stream as RFC 1950 (zlib).

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

use crate::error::{Error, Kind, Result};
use crate::field::Reader;
use crate::source::{Source, array_at, check_within};

/// Bytes of a grain marker before the compressed data.
pub(crate) const GRAIN_MARKER_LEN: usize = 12;
/// Bytes that decide what a marker is.
pub(super) const MARKER_LEN: usize = 16;

/// What a metadata marker announces.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum MarkerKind {
    /// Nothing more.
    EndOfStream,
    /// A grain table.
    GrainTable,
    /// The grain directory.
    GrainDirectory,
    /// The footer.
    Footer,
    /// A note of the writer's progress; some writers use it to fill gaps.
    Progress,
    /// Something that this crate does not know.
    Other(u32),
}

impl MarkerKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::EndOfStream => "end-of-stream marker",
            Self::GrainTable => "grain table marker",
            Self::GrainDirectory => "grain directory marker",
            Self::Footer => "footer marker",
            Self::Progress => "progress marker",
            Self::Other(_) => "marker of an unknown kind",
        }
    }
}

/// What precedes a compressed grain.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GrainMarker {
    /// The first disk sector of the grain, counted within the extent.
    pub sector: u64,
    /// Bytes of compressed data that follow the marker's own 12.
    pub len: u32,
}

/// The start of a block in a streamed file.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Marker {
    /// A compressed grain.
    Grain(GrainMarker),
    /// A block of metadata.
    Metadata(MarkerKind),
}

impl Marker {
    /// Reads a marker from the first 16 bytes of a sector.
    pub fn decode(bytes: &[u8; 16]) -> Self {
        let mut reader = Reader(bytes);
        let sector = reader.u64();
        let len = reader.u32();
        if len != 0 {
            return Self::Grain(GrainMarker { sector, len });
        }
        Self::Metadata(match reader.u32() {
            0 => MarkerKind::EndOfStream,
            1 => MarkerKind::GrainTable,
            2 => MarkerKind::GrainDirectory,
            3 => MarkerKind::Footer,
            4 => MarkerKind::Progress,
            other => MarkerKind::Other(other),
        })
    }
}

/// Inflates one grain's zlib stream into `grain`, which tells how many bytes it has. A stream may end early where the
/// rest of `grain` is beyond the extent; `needed` says how many bytes it must give at least.
///
/// # Errors
/// `Corrupt` if the stream is damaged or gives fewer than `needed` bytes or more than `grain` holds.
pub fn inflate_grain(stream: &[u8], grain: &mut [u8], needed: usize) -> Result<()> {
    let corrupt = |message: String| Err(Error::new(Kind::Corrupt, message));
    let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_COMPUTE_ADLER32
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (status, _, inflated) = decompress(&mut DecompressorOxide::new(), stream, grain, 0, flags);
    match status {
        TINFLStatus::Done if inflated >= needed => {
            grain.get_mut(inflated..).unwrap_or_default().fill(0);
            Ok(())
        }
        TINFLStatus::Done => corrupt(format!("the grain inflates to {inflated} bytes, expected {needed}")),
        TINFLStatus::HasMoreOutput => corrupt(format!("the grain inflates to more than its {} bytes", grain.len())),
        TINFLStatus::FailedCannotMakeProgress | TINFLStatus::NeedsMoreInput => {
            corrupt(format!("the grain's zlib stream ends in its middle, after {} bytes", stream.len()))
        }
        TINFLStatus::Adler32Mismatch => corrupt("the grain's zlib checksum does not match".to_owned()),
        TINFLStatus::BadParam | TINFLStatus::Failed | _ => corrupt("the grain's zlib stream is damaged".to_owned()),
    }
}

/// Reads and inflates the grain whose marker is at `offset` of a file of `file_len` bytes.
pub(super) fn read_grain<S: Source + ?Sized>(
    source: &S,
    file_len: u64,
    offset: u64,
    sector: u64,
    grain: &mut [u8],
    needed: usize,
) -> Result<()> {
    let len = stream_len(source, file_len, offset, sector, grain.len())?;
    let start = offset + GRAIN_MARKER_LEN as u64;
    let mut stream = vec![0; len];
    source.read_at(start, &mut stream).map_err(|error| Error::io(start, error))?;
    inflate_grain(&stream, grain, needed).map_err(|error| error.at_offset(start))
}

/// Bytes of the compressed data after the grain marker at `offset`, which must be that of `sector`.
pub(super) fn stream_len<S: Source + ?Sized>(
    source: &S,
    file_len: u64,
    offset: u64,
    sector: u64,
    grain_len: usize,
) -> Result<usize> {
    let head: [u8; GRAIN_MARKER_LEN] = array_at(source, file_len, offset, "grain marker")?;
    let mut reader = Reader(&head);
    let marker = GrainMarker { sector: reader.u64(), len: reader.u32() };
    if marker.sector != sector {
        let found = marker.sector;
        let message = format!("the grain marker names sector {found}, expected {sector}, by which the table found it");
        return Err(Error::new(Kind::Corrupt, message).at_offset(offset));
    }
    let most = longest_stream(grain_len);
    let len = usize::try_from(marker.len).ok().filter(|len| *len > 0 && *len <= most).ok_or_else(|| {
        let message = format!("the compressed grain has {} bytes, expected 1 to {most}", marker.len);
        Error::new(Kind::Corrupt, message).at_offset(offset + 8)
    })?;
    check_within(file_len, offset + GRAIN_MARKER_LEN as u64, len as u64, "compressed grain")?;
    Ok(len)
}

/// The most that a sensible compressor makes of `len` bytes. Stored blocks cost some bytes in every 16 KiB, but tiny
/// grains may more than double; QEMU allows a grain to double.
fn longest_stream(len: usize) -> usize {
    len.saturating_mul(2).saturating_add(64)
}
