//! Damaged and hostile images: each defect is named, with its place.

use vmdk_layout::{
    Chain, DiskFile, Error, Kind, Layout, Marker, MarkerKind, Position, Result, Role, Source, Sparse, inflate_grain,
};

use crate::images::{Cell, FORMATS, Format, Image, data, put, small, zlib_stored};
use crate::reader::read_chain;

/// Opens an extent and reads all of it.
fn read(bytes: Vec<u8>) -> Result<Vec<u8>> {
    let chain = Chain::new(vec![Layout::of_extent(Sparse::open(&bytes)?)])?;
    read_chain(&chain, &[vec![bytes]], 1 << 20)
}

fn refusal(bytes: Vec<u8>) -> Error {
    read(bytes).map(|found| found.len()).unwrap_err()
}

fn offset(error: &Error) -> u64 {
    match error.position() {
        Some(Position::Offset(offset)) => offset,
        other => panic!("{error}: {other:?}"),
    }
}

#[test]
fn a_wrong_header_field_is_named_with_its_offset() {
    let far = u64::MAX.to_le_bytes();
    for (format, at, field, kind, part) in [
        (Format::Hosted, 4, &[9, 0, 0, 0][..], Kind::Unsupported, "version 9"),
        (Format::Hosted, 8, &[7, 0, 0x80, 0], Kind::Unsupported, "flags"),
        (Format::Hosted, 12, &far, Kind::Corrupt, "capacity"),
        (Format::Hosted, 20, &[3], Kind::Corrupt, "power of two"),
        (Format::Hosted, 20, &[0], Kind::Corrupt, "power of two"),
        (Format::Hosted, 20, &[0, 0, 0, 1], Kind::Corrupt, "expected 1 to"),
        (Format::Hosted, 44, &[0, 0], Kind::Corrupt, "0 entries"),
        (Format::Hosted, 44, &[1, 2], Kind::Corrupt, "513 entries"),
        (Format::Hosted, 73, b"\n \n\0", Kind::Corrupt, "text mode"),
        (Format::Hosted, 77, &[1, 0], Kind::Unsupported, "compression"),
        (Format::Stream, 8, &[1, 0, 1], Kind::Corrupt, ""),
        (Format::Cowd, 4, &[2], Kind::Unsupported, "version 2"),
        (Format::Cowd, 16, &[0], Kind::Corrupt, "cover 0"),
        (Format::Cowd, 20, &[0xff, 0xff], Kind::Corrupt, "grain directory"),
        (Format::Cowd, 24, &[0], Kind::Corrupt, "0 tables"),
        (Format::SeSparse, 8, &[2], Kind::Unsupported, "version"),
        (Format::SeSparse, 16, &far, Kind::Corrupt, "capacity"),
        (Format::SeSparse, 24, &[16], Kind::Unsupported, "grain size"),
        (Format::SeSparse, 32, &[1], Kind::Unsupported, "table size"),
        (Format::SeSparse, 40, &[1], Kind::Unsupported, "flags"),
        (Format::SeSparse, 72, &[1], Kind::Unsupported, "reserved"),
        (Format::SeSparse, 80, &far, Kind::Corrupt, "volatile header"),
        (Format::SeSparse, 128, &far, Kind::Corrupt, "grain directory"),
        (Format::SeSparse, 136, &[0], Kind::Corrupt, "covers 0"),
        (Format::SeSparse, 512, &[0], Kind::Corrupt, "magic of the volatile header"),
        (Format::SeSparse, 512 + 24, &[1], Kind::Unsupported, "journal"),
    ] {
        let mut bytes = small(format);
        put(&mut bytes, at, field);
        if format == Format::Stream {
            assert!(read(bytes).is_ok(), "the footer rules, not the header");
            continue;
        }
        let error = refusal(bytes);
        assert_eq!(error.kind(), kind, "{format:?} {at}: {error}");
        assert!(error.message().contains(part), "{format:?} {at}: {error}");
    }
}

#[test]
fn versions_and_unclean_files_are_told_without_refusing_them() {
    for (format, at) in [(Format::Hosted, 72), (Format::Cowd, 1648)] {
        let mut bytes = small(format);
        assert!(!Sparse::open(&bytes).unwrap().is_unclean());
        put(&mut bytes, at, &[1]);
        let sparse = Sparse::open(&bytes).unwrap();
        assert!(sparse.is_unclean());
        assert_eq!(sparse.grain_sectors(), if format == Format::Cowd { 1 } else { 16 });
    }
    let mut bytes = small(Format::Hosted);
    for version in 1..=3 {
        put(&mut bytes, 4, &[version]);
        assert_eq!(Sparse::open(&bytes).unwrap().version(), u32::from(version));
    }
}

#[test]
fn content_tells_what_a_vmdk_is() {
    let with = |role: Role, bytes: Vec<u8>| role.with_content(&DiskFile::read(&bytes).unwrap());
    assert_eq!(with(Role::Disk, small(Format::Hosted)), Role::SparseExtent);
    assert_eq!(with(Role::SnapshotExtent, small(Format::SeSparse)), Role::SnapshotExtent);
    let text = "version=1\nCID=1\ncreateType=\"streamOptimized\"\nRW 5 SPARSE \"x\"\n";
    assert_eq!(with(Role::SparseExtent, text.as_bytes().to_vec()), Role::Disk);
    let image = Image::new(Format::Stream, vec![Cell::Data(1)], 4);
    let whole = Image { descriptor: text.as_bytes().to_vec(), ..image }.bytes();
    assert_eq!(with(Role::Disk, whole), Role::MonolithicDisk);
}

#[test]
fn a_file_cut_short_anywhere_is_refused_or_reads_right() {
    for format in FORMATS {
        let bytes = small(format);
        let whole = read(bytes.clone()).unwrap();
        for len in (0..bytes.len()).step_by(61) {
            if let Ok(found) = read(bytes[..len].to_vec()) {
                // Only unused bytes after the last grain's end were cut off.
                assert_eq!(found, whole, "{format:?} cut to {len}");
            }
        }
    }
}

#[test]
fn a_stream_without_its_footer_says_that_it_is_cut_short() {
    let mut bytes = small(Format::Stream);
    bytes.truncate(bytes.len() - 512);
    let error = refusal(bytes.clone());
    assert!(error.message().contains("cut short"), "{error}");
    let mut again = small(Format::Stream);
    let footer = again.len() - 1024;
    put(&mut again, footer + 56, &u64::MAX.to_le_bytes());
    assert!(refusal(again).message().contains("another footer"));
    bytes.truncate(600);
    assert!(refusal(bytes).message().contains("only 600 bytes"));
}

#[test]
fn entries_that_point_out_of_the_file_are_refused_at_their_place() {
    // Hosted: directory at sector 1, tables from sector 2, their copies from sectors 6 and 7.
    let mut bytes = small(Format::Hosted);
    put(&mut bytes, 1024, &0x00ff_ffff_u32.to_le_bytes());
    let error = refusal(bytes);
    assert_eq!((error.kind(), offset(&error)), (Kind::Corrupt, 1024), "{error}");
    let mut bytes = small(Format::Hosted);
    put(&mut bytes, 512, &u32::MAX.to_le_bytes());
    assert!(read(bytes.clone()).is_ok(), "the redundant directory serves");
    let redundant = 512 * usize::from(bytes[48]);
    put(&mut bytes, redundant, &u32::MAX.to_le_bytes());
    let error = refusal(bytes);
    assert_eq!((error.kind(), offset(&error)), (Kind::Corrupt, 512), "{error}");
    let mut bytes = small(Format::SeSparse);
    put(&mut bytes, 1024 + 7, &[0x20]);
    assert!(refusal(bytes).message().contains("directory entry"));
    let mut bytes = small(Format::SeSparse);
    put(&mut bytes, 1536 + 7, &[0x40]);
    assert!(refusal(bytes).message().contains("no known kind"));
    let mut bytes = small(Format::SeSparse);
    put(&mut bytes, 1536, &[0xff; 6]);
    assert!(refusal(bytes).message().contains("points to byte"));
}

#[test]
fn seeing_an_unmapped_grain_of_sesparse_gives_zeros() {
    let mut bytes = small(Format::SeSparse);
    put(&mut bytes, 1536, &0x1000_0000_0000_0000_u64.to_le_bytes());
    assert!(read(bytes).unwrap()[..4096].iter().all(|byte| *byte == 0));
}

#[test]
fn overlapping_grains_are_found_by_a_check() {
    for (format, first, second) in [(Format::Hosted, 1024, 1024 + 12), (Format::Cowd, 2560, 2560 + 12)] {
        let mut bytes = small(format);
        let sparse = Sparse::open(&bytes).unwrap();
        let usage = sparse.check(&bytes).unwrap();
        assert_eq!((usage.allocated, usage.allocated + usage.zero + usage.unallocated), (2, 4));
        let entry = bytes[first..first + 4].to_vec();
        put(&mut bytes, second, &entry);
        let error = sparse.check(&bytes).unwrap_err();
        assert!(error.message().contains("grain 3 overlaps"), "{error}");
        put(&mut bytes, second, &[(first / 512) as u8, 0, 0, 0]); // the table itself
        assert!(sparse.check(&bytes).unwrap_err().message().contains("overlaps"));
    }
}

/// A long file of which only the start is not zeros.
struct Long(Vec<u8>, u64);

impl Source for Long {
    fn byte_len(&self) -> std::io::Result<u64> {
        Ok(self.1)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.fill(0);
        let known = self.0.get(offset as usize..).unwrap_or_default();
        let shared = known.len().min(buf.len());
        buf[..shared].copy_from_slice(&known[..shared]);
        Ok(())
    }
}

#[test]
fn a_check_finds_overlaps_in_every_part_of_a_long_file() {
    const WINDOW: u32 = 1 << 27; // sectors that are looked at in one pass
    for sector in [WINDOW - 4, WINDOW, WINDOW + 10, 2 * WINDOW + 10] {
        let mut bytes = small(Format::Hosted);
        put(&mut bytes, 1024, &sector.to_le_bytes());
        put(&mut bytes, 1024 + 12, &(sector + 20).to_le_bytes());
        let source = Long(bytes, 200 << 30);
        assert_eq!(Sparse::open(&source).unwrap().check(&source).unwrap().allocated, 2);
        let mut bytes = source.0;
        put(&mut bytes, 1024 + 12, &(sector + 8).to_le_bytes());
        let source = Long(bytes, 200 << 30);
        let error = Sparse::open(&source).unwrap().check(&source).unwrap_err();
        assert_eq!(offset(&error), u64::from(sector + 8) * 512, "{error}");
    }
    let endless = Long(small(Format::Hosted), 1 << 60);
    assert_eq!(Sparse::open(&endless).unwrap().check(&endless).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn a_last_grain_may_end_with_the_disk() {
    let image = Image::new(Format::Hosted, vec![Cell::Data(1)], 4);
    let mut bytes = image.bytes();
    bytes.truncate(bytes.len() - 11 * 512); // 5 of 16 sectors belong to the disk
    assert_eq!(read(bytes.clone()).unwrap(), image.expected(None));
    bytes.pop();
    assert!(refusal(bytes).message().contains("2560 bytes between"));
    let stream = Image::new(Format::Stream, vec![Cell::Data(1)], 4);
    let (short, mut bytes) = (zlib_stored(&data(1, 5 * 512)), stream.bytes());
    put(&mut bytes, 512 + 8, &(short.len() as u32).to_le_bytes());
    put(&mut bytes, 512 + 12, &short);
    assert_eq!(read(bytes).unwrap(), stream.expected(None));
}

#[test]
fn no_grain_lies_in_a_header() {
    let mut bytes = small(Format::Cowd);
    put(&mut bytes, 2560, &[3]);
    let error = refusal(bytes);
    assert_eq!((error.kind(), offset(&error)), (Kind::Corrupt, 2560), "{error}");
}

#[test]
fn newlines_are_tested_only_where_the_header_has_them() {
    let mut bytes = small(Format::Hosted);
    put(&mut bytes, 8, &[6]);
    put(&mut bytes, 73, &[0; 4]);
    assert!(read(bytes).is_ok());
}

#[test]
fn a_wrong_grain_of_a_stream_is_refused() {
    let good = small(Format::Stream);
    for (at, field, part) in [
        (512, &[9][..], "names sector 9"),
        (512 + 8, &[0xff, 0xff, 0xff, 0x7f], "bytes, expected 1 to"),
        (512 + 8, &[0, 0, 0, 0], "0 bytes"),
        (512 + 8, &[9, 0, 0, 0], "ends in its middle"),
        (512 + 12, &[0xff, 0xff], "damaged"),
        (512 + 30, &[0xff, 0xfe], "checksum"),
    ] {
        let mut bytes = good.clone();
        put(&mut bytes, at, field);
        let error = refusal(bytes);
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(error.message().contains(part), "{at}: {error}");
    }
}

#[test]
fn a_grain_inflates_to_its_own_length_and_no_more() {
    let bytes = data(1, 1000);
    let stream = zlib_stored(&bytes);
    let mut grain = vec![7; 1000];
    inflate_grain(&stream, &mut grain, 1000).unwrap();
    assert_eq!(grain, bytes);
    let mut longer = vec![7; 1500];
    inflate_grain(&stream, &mut longer, 900).unwrap();
    assert_eq!((&longer[..1000], &longer[1000..]), (&bytes[..], &[0; 500][..]));
    assert!(inflate_grain(&stream, &mut longer, 1001).unwrap_err().message().contains("expected 1001"));
    assert!(inflate_grain(&stream, &mut [0; 999], 0).unwrap_err().message().contains("more than its 999"));
    assert!(inflate_grain(&[], &mut grain, 0).is_err());
}

#[test]
fn markers_are_told_apart() {
    let mut block = [0; 16];
    let kinds = [MarkerKind::EndOfStream, MarkerKind::GrainTable, MarkerKind::GrainDirectory, MarkerKind::Footer];
    for (number, kind) in kinds.into_iter().chain([MarkerKind::Progress, MarkerKind::Other(5)]).enumerate() {
        block[12] = number as u8;
        assert_eq!(Marker::decode(&block), Marker::Metadata(kind));
    }
    block[8] = 1;
    assert!(matches!(Marker::decode(&block), Marker::Grain(grain) if grain.len == 1));
}
