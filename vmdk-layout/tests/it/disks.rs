//! Disks of several extents and links: what keeps its place, and what is refused.

use vmdk_layout::{
    Access, Ancestry, Cache, Chain, Descriptor, DiskFile, Error, Kind, Layout, Source, SparseFormat, Target,
};

use crate::images::{Cell, Format, Image, data, put, small};
use crate::reader::read_chain;

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
    let empty = [&bytes[..], &[0; 512]].concat();
    assert!(matches!(DiskFile::read(&empty).unwrap(), DiskFile::Extent(_)), "QEMU leaves it empty in extents");
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
