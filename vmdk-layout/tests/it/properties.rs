//! Properties that hold for all inputs: round trips, a layout against a byte-by-byte map, and no panics.

use proptest::prelude::*;
use vmdk_layout::{
    Cache, Chain, Cid, Descriptor, DiskFile, Encoding, FileName, KeyLocator, Layout, Meant, Sparse, Target, Vmx,
};

use crate::images::{Cell, FORMATS, Format, Image};
use crate::reader::read_chain;

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![3 => Just(Cell::Absent), 1 => Just(Cell::Zero), 3 => any::<u8>().prop_map(Cell::Data)]
}

pub(crate) fn image() -> impl Strategy<Value = Image> {
    let format = prop::sample::select(FORMATS.to_vec());
    (format, prop::collection::vec(cell(), 1..40), any::<u64>(), 1_u64..=3).prop_map(|(format, cells, tail, tables)| {
        let image = Image::new(format, cells, tail);
        // Small tables, so that a few grains need several.
        Image { table_entries: 1 << (2 * tables), ..image }
    })
}

/// An extent line and the file it needs, with the bytes that it adds to the disk (`None`: no access).
#[derive(Clone, Debug)]
enum Piece {
    Flat { sectors: u64, offset: u64 },
    Zero(u64),
    NoAccess(u64),
    Sparse(Image),
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        (1_u64..20, 0_u64..5).prop_map(|(sectors, offset)| Piece::Flat { sectors, offset }),
        (1_u64..20).prop_map(Piece::Zero),
        (1_u64..20).prop_map(Piece::NoAccess),
        image().prop_map(Piece::Sparse),
    ]
}

/// The disk's descriptor and files, and for every byte what it must be.
fn assemble(pieces: &[Piece]) -> (Descriptor, Vec<Vec<u8>>, Vec<Option<u8>>) {
    let mut text = "version=1\nCID=1\ncreateType=\"custom\"\n".to_owned();
    let (mut files, mut map) = (Vec::new(), Vec::new());
    for (index, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Flat { sectors, offset } => {
                text += &format!("RW {sectors} FLAT \"file {index}\" {offset}\n");
                let bytes = crate::images::data(index as u8, ((sectors + offset) * 512) as usize);
                map.extend(bytes[(offset * 512) as usize..].iter().map(|byte| Some(*byte)));
                files.push(bytes);
            }
            Piece::Zero(sectors) => {
                text += &format!("RDONLY {sectors} ZERO\n");
                map.extend(vec![Some(0); (sectors * 512) as usize]);
            }
            Piece::NoAccess(sectors) => {
                text += &format!("NOACCESS {sectors} FLAT \"/dev/sdx\" 0\n");
                map.extend(vec![None; (sectors * 512) as usize]);
            }
            Piece::Sparse(image) => {
                text += &format!("RW {} {} \"file {index}\"\n", image.sectors, image.extent_type());
                map.extend(image.expected(None).into_iter().map(Some));
                files.push(image.bytes());
            }
        }
    }
    (Descriptor::parse(text.as_bytes()).unwrap(), files, map)
}

proptest! {
    #[test]
    fn a_layout_agrees_with_a_byte_by_byte_map(
        pieces in prop::collection::vec(piece(), 1..6),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..12),
    ) {
        let (descriptor, files, map) = assemble(&pieces);
        let layout = Layout::open(&descriptor, &files).unwrap();
        prop_assert_eq!(layout.len(), map.len() as u64);
        let chain = Chain::new(vec![layout.clone()]).unwrap();
        let sources = [files.clone()];
        let mut cache = Cache::new(2);
        for (one, other) in ranges {
            let (one, other) = (one.index(map.len()), other.index(map.len()));
            let range = one.min(other) as u64..one.max(other) as u64 + 1;
            let mut next = range.start;
            let runs: Vec<_> = layout.runs(range.clone(), &files, &mut cache).collect();
            for run in runs {
                let run = run.unwrap();
                prop_assert_eq!(run.start, next);
                prop_assert!(run.len > 0 && run.start + run.len <= range.end);
                next += run.len;
                let expected = &map[run.start as usize..next as usize];
                if run.target == Target::NoAccess {
                    prop_assert!(expected.iter().all(Option::is_none));
                    continue;
                }
                let mut bytes = vec![0xee; run.len as usize];
                chain.read_at(run.start, &mut bytes, &sources, &mut cache).unwrap();
                prop_assert!(bytes.iter().map(|byte| Some(*byte)).eq(expected.iter().copied()));
            }
            prop_assert_eq!(next, range.end);
        }
    }

    #[test]
    fn chains_agree_with_laying_images_over_each_other(
        images in prop::collection::vec(image(), 1..4),
        step in 1_usize..5000,
    ) {
        let mut expected: Option<Vec<u8>> = None;
        let (mut links, mut sources) = (Vec::new(), Vec::new());
        for (index, image) in images.iter().enumerate() {
            expected = Some(image.expected(expected.as_deref()));
            let parent = if index > 0 { "parentCID=1\n" } else { "" };
            let text = format!(
                "version=1\nCID=1\ncreateType=\"custom\"\n{parent}RW {} {} \"x\"\n", image.sectors, image.extent_type()
            );
            let files = vec![image.bytes()];
            links.insert(0, Layout::open(&Descriptor::parse(text.as_bytes()).unwrap(), &files).unwrap());
            sources.insert(0, files);
        }
        let found = read_chain(&Chain::new(links).unwrap(), &sources, step).unwrap();
        prop_assert!(Some(found) == expected);
    }

    #[test]
    fn a_check_accepts_every_good_image_and_counts_its_grains(image in image()) {
        let bytes = image.bytes();
        let usage = Sparse::open(&bytes).unwrap().check(&bytes).unwrap();
        let count = |wanted: fn(&Cell) -> bool| image.cells.iter().filter(|cell| wanted(cell)).count() as u64;
        prop_assert_eq!(usage.allocated, count(|cell| matches!(cell, Cell::Data(_))));
        prop_assert_eq!(usage.zero, count(|cell| *cell == Cell::Zero));
        prop_assert_eq!(usage.unallocated, count(|cell| *cell == Cell::Absent));
    }

    #[test]
    fn descriptors_print_as_they_were_read(
        lines in prop::collection::vec(descriptor_line(), 0..20),
        crlf in any::<bool>(),
        key in "[a-zA-Z.]{1,12}",
        value in "[ -~äé仮]{0,20}",
    ) {
        let ending = if crlf { "\r\n" } else { "\n" };
        let mut all = vec!["version=1".to_owned(), "CID=00c0ffee".into(), "createType=\"vmfs\"".into()];
        all.extend(lines);
        let text = all.join(ending);
        let mut descriptor = Descriptor::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(descriptor.to_bytes(), text.as_bytes());
        let before = descriptor.clone();
        if descriptor.set(&key, &value).is_ok() {
            prop_assert_eq!(descriptor.value(&key), Some(value.as_str()));
            prop_assert_eq!(Descriptor::parse(&descriptor.to_bytes()).unwrap(), descriptor);
        } else {
            prop_assert_eq!(&descriptor, &before);
        }
        let mut changed = before;
        changed.set_cid(Cid(9)).unwrap();
        prop_assert_eq!(changed.cid(), Cid(9));
    }

    #[test]
    fn vmx_values_read_back_as_they_were_set(
        settings in prop::collection::vec(("[a-z][a-z0-9:.]{0,10}", "[^\\x00]{0,20}"), 0..10),
        junk in prop::collection::vec("[^\\x00\"=]{0,20}", 0..5),
    ) {
        let text = junk.join("\n");
        let mut vmx = Vmx::parse(text.as_bytes()).unwrap();
        prop_assert_eq!(vmx.to_bytes(), text.as_bytes());
        for (key, value) in &settings {
            vmx.set(key, value).unwrap();
            prop_assert_eq!(vmx.value(key), Some(value.as_str()));
            prop_assert_eq!(Vmx::parse(&vmx.to_bytes()).unwrap(), vmx.clone());
        }
    }

    #[test]
    fn names_read_back_in_every_encoding(
        label in prop::sample::select(LABELS.to_vec()),
        bytes in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let quoted: Vec<u8> = bytes.into_iter().filter(|byte| !matches!(byte, b'"' | b'\n' | b'\r' | 0)).collect();
        let text = [
            format!("encoding=\"{label}\"\nversion=1\nCID=1\nparentCID=2\ncreateType=\"vmfs\"\nparentFileNameHint=\"").as_bytes(),
            &quoted, b"\"\nRW 1 VMFS \"", &quoted, b"\"\n",
        ].concat();
        text_properties(&text);
        let vmx = [format!(".encoding=\"{label}\"\nscsi0:0.fileName=\"").as_bytes(), &quoted, b".vmdk\"\n"].concat();
        text_properties(&vmx);
        let descriptor = Descriptor::parse(&text).unwrap();
        let extent = &descriptor.extents()[0];
        let kept = extent.written.as_deref().unwrap_or(extent.file.as_deref().unwrap().as_bytes());
        prop_assert_eq!(kept, quoted);
    }

    #[test]
    fn whatever_text_parses_prints_the_same(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        text_properties(&bytes);
    }

    #[test]
    fn whatever_name_is_accepted_is_one_component(text in "\\PC{0,40}") {
        if let Ok(name) = FileName::new(&text) {
            let path = std::path::Path::new(name.as_str());
            prop_assert_eq!(path.components().count(), 1);
            prop_assert!(matches!(path.components().next(), Some(std::path::Component::Normal(_))));
        }
        let _ = KeyLocator::parse(&text);
        let _ = KeyLocator::parse(&format!("vmware:key/{text}"));
    }

    #[test]
    fn arbitrary_bytes_behind_a_magic_never_panic(
        magic in prop::sample::select(vec![&b"KDMV"[..], b"COWD", b"\xbe\xba\xfe\xca\0\0\0\0", b"# Disk DescriptorFile\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..4096),
    ) {
        image_properties(&[magic, &bytes].concat());
    }

    #[test]
    fn damaged_images_never_panic(
        image in image(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        near_start in any::<bool>(),
    ) {
        let mut bytes = image.bytes();
        let len = if near_start { bytes.len().min(2048) } else { bytes.len() };
        for (place, byte) in damage {
            bytes[place.index(len)] = byte;
        }
        image_properties(&bytes);
    }
}

const LABELS: [&str; 9] =
    ["UTF-8", "windows-1252", "windows-1251", "Shift_JIS", "GBK", "Big5", "windows-949-2000", "ibm-33722", "cp437"];

fn descriptor_line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "# [ -~]{0,30}",
        "ddb\\.[a-z]{1,8} ?= ?\"[ -!#-~]{0,20}\"",
        "[a-m]{9}=\"[ -!#-~é]{0,20}\"",
        "what[a-z ]{0,20}",
        "(RW|RDONLY|NOACCESS) [1-9][0-9]{0,5} (FLAT|VMFS) \"[a-z .-]{1,20}\"( [0-9]{1,3})?",
        "RW [0-9] ZERO( # [a-z \"]{0,9})?",
        "(CID|createType|version) ?= ?\"?[ -~]{0,9}\"?( #.{0,5})?",
        "RW 16 (SPARSE|VMFSSPARSE|SESPARSE) \"[a-z é]{1,9}\"",
    ]
}

/// What holds for any bytes taken as text.
pub(crate) fn text_properties(bytes: &[u8]) {
    if let Ok(descriptor) = Descriptor::parse(bytes) {
        assert_eq!(descriptor.to_bytes(), bytes);
        assert_eq!(descriptor.len(), descriptor.extents().iter().map(|extent| extent.sectors * 512).sum::<u64>());
        for extent in descriptor.extents() {
            if *descriptor.encoding() == Encoding::utf8() {
                let text = format!("version=1\nCID=1\ncreateType=\"custom\"\n{extent}\n");
                let again = Descriptor::parse(text.as_bytes()).unwrap();
                assert_eq!(again.extents()[0].to_string(), extent.to_string());
            }
        }
        let _ = (descriptor.files(), descriptor.encryption().map(ToString::to_string));
        let parents = descriptor.parent().and_then(|parent| parent.base_name().ok());
        let extents = descriptor.extents().iter().filter_map(|extent| extent.file_name().ok().flatten());
        parents.into_iter().chain(extents).for_each(|name| name_properties(&name));
        let _ = Layout::open::<Vec<u8>>(&descriptor, &[]);
    }
    if let Ok(vmx) = Vmx::parse(bytes) {
        assert_eq!(vmx.to_bytes(), bytes);
        let _ = vmx.encryption();
        vmx.disks().iter().filter_map(|disk| disk.base_name().ok().flatten()).for_each(|name| name_properties(&name));
    }
}

/// What holds for any name that was accepted: whatever is looked for lies in the folder itself, and is found there.
fn name_properties(name: &FileName) {
    use std::os::unix::ffi::OsStrExt;
    let mut spellings = name.spellings().peekable();
    assert!(spellings.peek().is_some());
    for spelling in spellings {
        let path = std::path::Path::new(std::ffi::OsStr::from_bytes(spelling));
        let mut components = path.components();
        assert!(matches!(components.next(), Some(std::path::Component::Normal(_))), "{name:?}");
        assert!(components.next().is_none(), "{name:?}");
        assert_eq!(name.find([spelling, b"other.vmdk"], |file| *file), Meant::One(spelling));
    }
}

/// What holds for any bytes taken as a file of a disk: no panic, and reads that end.
pub(crate) fn image_properties(bytes: &[u8]) {
    const MOST: u64 = 1 << 20;
    let bytes = bytes.to_vec();
    let layout = match DiskFile::read(&bytes) {
        Ok(DiskFile::Extent(sparse)) => Layout::of_extent(sparse),
        Ok(DiskFile::Monolithic { descriptor, sparse }) => match Layout::open_monolithic(&descriptor, sparse) {
            Ok(layout) => layout,
            Err(_) => return,
        },
        Ok(DiskFile::Descriptor(_)) | Err(_) => return,
    };
    let Ok(chain) = Chain::new(vec![layout]) else { return };
    let files = [vec![bytes]];
    let mut cache = Cache::new(3);
    // The start, the end, and something between.
    let len = chain.len();
    for start in [0, len / 2, len.saturating_sub(MOST)] {
        let mut part = vec![0; usize::try_from((len - start).min(MOST)).unwrap()];
        let _ = chain.read_at(start, &mut part, &files, &mut cache);
    }
    for (file, sparse) in chain.links()[0].sparse_extents() {
        if sparse.capacity() < 1 << 20 {
            let _ = sparse.check(&files[0][file]);
        }
    }
}

#[test]
fn hosted_tables_of_every_size_are_walked_to_their_end() {
    for entries in [1, 4, 511, 512] {
        let cells = (0..1500_u32).map(|index| if index % 3 == 0 { Cell::Data(index as u8) } else { Cell::Absent });
        let image = Image { table_entries: entries, ..Image::new(Format::Hosted, cells.collect(), 5) };
        let bytes = image.bytes();
        let chain = Chain::new(vec![Layout::of_extent(Sparse::open(&bytes).unwrap())]).unwrap();
        assert!(read_chain(&chain, &[vec![bytes]], 1 << 16).unwrap() == image.expected(None));
    }
}
