//! Damaged and hostile images: each defect is named, with its place.

use vmdk_layout::{
    Access, Ancestry, Cache, Chain, Descriptor, DiskFile, Error, Kind, Layout, Marker, MarkerKind, Position, Result,
    Role, Source, Sparse, SparseFormat, Target, inflate_grain,
};

use crate::images::{Cell, FORMATS, Format, Image, data, zlib_stored};
use crate::reader::read_chain;

fn small(format: Format) -> Vec<u8> {
    Image::new(format, vec![Cell::Data(1), Cell::Absent, Cell::Zero, Cell::Data(2)], 100).bytes()
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

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

fn descriptor(rest: &str) -> Descriptor {
    Descriptor::parse(format!("version=1\nCID=1\ncreateType=\"custom\"\n{rest}").as_bytes()).unwrap()
}

#[test]
fn mixed_extents_of_every_access_keep_their_place() {
    let sparse = small(Format::Hosted);
    let text =
        "RW 2 FLAT \"a\" 1\nRDONLY 3 ZERO\nNOACCESS 4 FLAT \"/dev/sda\" 0\nRDONLY 50 SPARSE \"b\"\nRW 1 FLAT \"a\" 0\n";
    let descriptor = descriptor(text);
    assert_eq!(descriptor.extents()[2].access, Access::None);
    let names: Vec<_> = descriptor.files().unwrap().into_iter().map(|name| name.to_string()).collect();
    assert_eq!(names, ["a", "b"]);
    let flat = data(5, 1536);
    let files = [flat.clone(), sparse.clone()];
    let layout = Layout::open(&descriptor, &files).unwrap();
    assert_eq!((layout.len(), layout.is_writable()), (60 * 512, false));
    let mut cache = Cache::default();
    let runs: Vec<_> = layout.runs(0..layout.len(), &files, &mut cache).map(|run| run.unwrap()).collect();
    assert_eq!(runs[0].target, Target::Data { file: 0, offset: 512 });
    assert_eq!((runs[1].start, runs[1].len, runs[1].target), (1024, 1536, Target::Zero));
    assert_eq!((runs[2].start, runs[2].len, runs[2].target), (2560, 2048, Target::NoAccess));
    assert_eq!(runs.last().unwrap().target, Target::Data { file: 0, offset: 0 });
    assert_eq!(runs.iter().map(|run| run.len).sum::<u64>(), layout.len());
    let chain = Chain::new(vec![layout]).unwrap();
    let files = [files.to_vec()];
    let mut part = vec![0; 512];
    chain.read_at(59 * 512, &mut part, &files, &mut cache).unwrap();
    assert_eq!(part, flat[..512]);
    assert_eq!(chain.read_at(2560, &mut part, &files, &mut cache).unwrap_err().kind(), Kind::Denied);
    assert_eq!(chain.read_at(60 * 512 - 1, &mut part, &files, &mut cache).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn files_that_do_not_fit_their_extent_lines_are_refused() {
    let sparse = small(Format::Hosted);
    for (text, files, kind, part) in [
        ("RW 3 FLAT \"a\" 0\n", vec![vec![0; 1024]], Kind::Corrupt, "expected at least 1536"),
        ("RW 2 FLAT \"a\" 1\n", vec![vec![0; 1024]], Kind::Corrupt, "expected at least 1536"),
        ("RW 2 VMFSRDM \"a\"\n", vec![vec![0; 512]], Kind::Unsupported, "mapped device"),
        ("RW 999 SPARSE \"a\"\n", vec![sparse.clone()], Kind::Corrupt, "999 sectors"),
        ("RW 8 SESPARSE \"a\"\n", vec![sparse.clone()], Kind::Corrupt, "SESPARSE"),
        ("RW 8 SPARSE \"a\"\n", vec![small(Format::SeSparse)], Kind::Corrupt, "SeSparse"),
        ("RW 8 SPARSE \"a\"\n", vec![vec![0; 4096]], Kind::Invalid, "magic"),
        ("RW 2 FLAT \"a\" 0\nRW 2 FLAT \"a\" 1\n", vec![vec![0; 2048]], Kind::Corrupt, "same bytes"),
        ("RW 2 SPARSE \"a\"\nRW 2 SPARSE \"a\"\n", vec![sparse], Kind::Corrupt, "same bytes"),
        ("RW 2 FLAT \"../a\" 0\n", vec![vec![0; 2048]], Kind::Denied, ".."),
        ("RW 2 FLAT \"/etc/shadow\" 0\n", vec![vec![0; 2048]], Kind::Denied, "absolute"),
        ("RW 2 FLAT \"a\" 0\n", vec![], Kind::Invalid, "0 files for a disk of 1"),
        ("keyID=\"k\"\nRW 2 FLAT \"a\" 0\n", vec![vec![0; 2048]], Kind::Encrypted, "\"k\""),
    ] {
        let error = Layout::open(&descriptor(text), &files).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(error.message().contains(part), "{text}: {error}");
    }
    let future = Descriptor::parse(b"version=7\nCID=1\ncreateType=\"custom\"\n").unwrap();
    assert_eq!(Layout::open::<Vec<u8>>(&future, &[]).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn loops_strangers_and_endless_chains_are_refused() {
    let child = |name: &str| descriptor(&format!("parentCID=1\nparentFileNameHint=\"{name}\"\n"));
    let mut ancestry = Ancestry::new("a", &child("b"));
    ancestry.add("b", &child("a")).unwrap();
    assert!(ancestry.add("a", &child("b")).unwrap_err().message().contains("loop"));
    let stranger = Descriptor::parse(b"version=1\nCID=2\ncreateType=\"custom\"\n").unwrap();
    assert!(ancestry.add("c", &stranger).unwrap_err().message().contains("expected the parentCID 00000001"));
    ancestry.add("c", &descriptor("")).unwrap();
    assert!(ancestry.parent().is_none());
    assert_eq!(ancestry.add("d", &descriptor("")).unwrap_err().kind(), Kind::Invalid);
    let mut ancestry = Ancestry::new("0", &child("x"));
    let error = (1..10_000).find_map(|number| ancestry.add(&number.to_string(), &child("x")).err()).unwrap();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(Chain::new(vec![]).is_err());
}

#[test]
fn errors_deep_in_a_table_name_the_file() {
    let mut bytes = small(Format::Hosted);
    put(&mut bytes, 1024, &0x00ff_ffff_u32.to_le_bytes());
    let files = [vec![bytes]];
    let layout = Layout::open(&descriptor("RW 50 SPARSE \"a b-s001.vmdk\"\n"), &files[0]).unwrap();
    let chain = Chain::new(vec![layout]).unwrap();
    let error = chain.read_at(0, &mut [0; 512], &files, &mut Cache::default()).unwrap_err();
    assert!(error.to_string().starts_with("a b-s001.vmdk: byte 1024: "), "{error}");
}

#[test]
fn maps_can_be_shared_between_threads_and_sources_behind_pointers() {
    fn shared<T: Send + Sync>() {}
    fn source<T: Source + ?Sized>() {}
    shared::<Chain>();
    shared::<Cache>();
    shared::<Error>();
    source::<std::sync::Arc<dyn Source>>();
    source::<Box<dyn Source + Send>>();
    source::<&[u8]>();
}

#[test]
fn a_disk_that_was_grown_reads_zeros_beyond_its_parent() {
    let parent = Layout::open(&descriptor("RW 8 FLAT \"p\" 0\n"), &[vec![9; 4096]]).unwrap();
    let image = Image::new(Format::Hosted, vec![Cell::Absent, Cell::Data(3)], 100);
    let text = format!("parentCID=1\nRW {} SPARSE \"c\"\n", image.sectors);
    let files = vec![vec![image.bytes()], vec![vec![9; 4096]]];
    let child = Layout::open(&descriptor(&text), &files[0]).unwrap();
    assert!(child.has_parent() && !child.is_writable());
    assert!(Chain::new(vec![child.clone()]).is_err());
    let chain = Chain::new(vec![child, parent]).unwrap();
    assert_eq!(read_chain(&chain, &files, 1000).unwrap(), image.expected(Some(&[9; 4096])));
    let mut cache = Cache::default();
    let runs: Vec<_> = chain.runs(0..chain.len(), &files, &mut cache).map(|found| found.unwrap()).collect();
    let listed: Vec<_> = runs.iter().map(|found| (found.link, found.run.start, found.run.len)).collect();
    assert_eq!(listed[..2], [(1, 0, 4096), (1, 4096, 4096)]);
}

#[test]
fn an_embedded_descriptor_must_lie_in_the_file_and_describe_one_extent() {
    let text = "version=1\nCID=1\ncreateType=\"monolithicSparse\"\nRW 50 SPARSE \"gone.vmdk\"\n";
    let mut bytes = small(Format::Hosted);
    let end = bytes.len() as u64 / 512;
    put(&mut bytes, 28, &end.to_le_bytes());
    put(&mut bytes, 36, &1_u64.to_le_bytes());
    assert_eq!(DiskFile::read(&bytes).unwrap_err().kind(), Kind::Corrupt);
    bytes.extend(text.as_bytes());
    bytes.resize((end as usize + 1) * 512, 0);
    let DiskFile::Monolithic { descriptor, sparse } = DiskFile::read(&bytes).unwrap() else { panic!() };
    assert_eq!(sparse.format(), SparseFormat::Hosted);
    assert_eq!((sparse.version(), sparse.is_unclean(), sparse.is_compressed()), (2, false, false));
    assert_eq!(Layout::open_monolithic(&descriptor, sparse.clone()).unwrap().len(), 50 * 512);
    let two = self::descriptor("RW 8 SPARSE \"a\"\nRW 8 ZERO\n");
    assert!(Layout::open_monolithic(&two, sparse.clone()).is_err());
    let long = self::descriptor("RW 999 SPARSE \"a\"\n");
    assert!(Layout::open_monolithic(&long, sparse).is_err());
    put(&mut bytes, 36, &u64::MAX.to_le_bytes());
    assert!(DiskFile::read(&bytes).unwrap_err().message().contains("embedded descriptor"));
}
