use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use vmdk_layout::{Descriptor, DiskFile, Layout};

use super::*;
use crate::crypto::random;
use crate::storage::memory::{FaultStorage, MemoryStorage};
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::store::plain_file::MAX_REQUEST;

/// A file that is open, whose storage can be made to fail.
struct Open {
    file: HomeFile<FaultStorage<MemoryStorage>>,
    may_change: AtomicBool,
}

impl AsPlainFile for Open {
    fn plain_file(&self) -> &dyn PlainFile {
        &self.file
    }

    fn may_change(&self) -> bool {
        self.may_change.load(Ordering::Relaxed)
    }

    fn is_disk(&self) -> bool {
        false
    }
}

fn file(bytes: &[u8]) -> Arc<Open> {
    let keys = HomeKeys::new(&random::home_dek().unwrap()).unwrap();
    let file = HomeFile::open(FaultStorage::new(MemoryStorage::default(), libc::EIO), &keys).unwrap();
    bytes.chunks(MAX_REQUEST).enumerate().for_each(|(number, chunk)| {
        file.write_at((number * MAX_REQUEST) as u64, chunk, &mut request_buffer()).unwrap();
    });
    Arc::new(Open { file, may_change: AtomicBool::new(false) })
}

fn image(extents: &str, files: &[&Arc<Open>]) -> RawImage<Open> {
    let text = format!("version=1\nCID=1\ncreateType=\"custom\"\n{extents}");
    let descriptor = Descriptor::parse(text.as_bytes()).unwrap();
    let files: Vec<_> = files.iter().map(|file| ImageFile::new(Arc::clone(file))).collect();
    let layout = Layout::open(&descriptor, &files).unwrap();
    RawImage::new(Chain::new(vec![layout]).unwrap(), vec![files], Vec::new()).unwrap()
}

fn contents(file: &dyn PlainFile) -> Vec<u8> {
    let len = usize::try_from(file.plain_len()).unwrap();
    file.read_at(0, len, &mut request_buffer()).unwrap().to_vec()
}

/// Three extents in two files; the second file has 512 bytes before its own.
const EXTENTS: &str = "RW 7 FLAT \"a\" 2\nRW 20 FLAT \"b\" 1\nRW 2 FLAT \"a\" 0\n";
const LEN: u64 = 29 * 512;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, usize, u8),
    Punch(u64, u64),
    Zero(u64, u64),
    Read(u64, usize),
}

fn op() -> impl Strategy<Value = Op> {
    let at = || 0..LEN;
    prop_oneof![
        4 => (at(), 0..9000_usize, any::<u8>()).prop_map(|(at, len, fill)| Op::Write(at, len, fill)),
        1 => (at(), 0..9000_u64).prop_map(|(at, len)| Op::Punch(at, len)),
        1 => (at(), 0..9000_u64).prop_map(|(at, len)| Op::Zero(at, len)),
        3 => (0..LEN + 600, 0..20_000_usize).prop_map(|(at, len)| Op::Read(at, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn several_extents_are_one_row_of_bytes(ops in prop::collection::vec(op(), 1..30)) {
        let files = [file(&[1; 5000]), file(&[2; 12_000])];
        let image = image(EXTENTS, &[&files[0], &files[1]]);
        prop_assert!(image.is_writable());
        let mut model = contents(&image);
        prop_assert_eq!(model.len() as u64, LEN);
        let mut buffer = request_buffer();
        for op in ops {
            match op {
                Op::Write(at, len, fill) => {
                    let written = image.write_at(at, &vec![fill; len], &mut buffer);
                    let range = model.get_mut(index(at)..index(at) + len);
                    prop_assert_eq!(written.is_ok(), range.is_some());
                    range.into_iter().for_each(|range| range.fill(fill));
                }
                Op::Punch(at, len) => {
                    image.punch(at, len, &mut buffer).unwrap();
                    model[index(at)..index((at + len).min(LEN))].fill(0);
                }
                Op::Zero(at, len) => {
                    image.zero(at, len, &mut buffer).unwrap();
                    model[index(at)..index((at + len).min(LEN))].fill(0);
                }
                Op::Read(at, len) => {
                    let start = model.len().min(index(at));
                    let end = model.len().min(index(at) + len);
                    prop_assert_eq!(image.read_at(at, len, &mut buffer).unwrap(), &model[start..end]);
                }
            }
        }
        prop_assert_eq!(contents(&image), model);
        let around = contents(&files[1].file);
        prop_assert_eq!((&around[..512], &around[512 + 20 * 512..]), (&[2; 512][..], &[2; 1248][..]));
    }
}

#[test]
fn holes_of_flat_extents_show_and_zero_extents_are_holes() {
    const BLOCK: u64 = 4096;
    let flat = file(&[]);
    flat.file.set_len(4 * BLOCK).unwrap();
    flat.file.write_at(BLOCK, &[1; 4096], &mut request_buffer()).unwrap();
    let image = image("RDONLY 8 ZERO\nRW 32 FLAT \"a\" 0\nNOACCESS 8 FLAT \"x\" 0\nRDONLY 8 ZERO\n", &[&flat]);
    assert!(!image.is_writable());
    assert_eq!(image.seek_data(0).unwrap(), Some(2 * BLOCK));
    assert_eq!(image.seek_hole(2 * BLOCK).unwrap(), Some(3 * BLOCK));
    assert_eq!(image.seek_data(3 * BLOCK).unwrap(), Some(5 * BLOCK)); // what nobody may read is no hole
    assert_eq!(image.seek_hole(5 * BLOCK).unwrap(), Some(6 * BLOCK));
    assert_eq!((image.seek_data(6 * BLOCK).unwrap(), image.seek_hole(7 * BLOCK).unwrap()), (None, None));
    let refused = image.read_at(5 * BLOCK - 1, 2, &mut request_buffer()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Denied, "{}", refused.chain());
    assert_eq!(image.write_at(4096, &[1], &mut request_buffer()).unwrap_err().kind(), Kind::ReadOnly);
    assert_eq!(image.punch(4096, 1, &mut request_buffer()).unwrap_err().kind(), Kind::ReadOnly);
}

#[test]
fn a_disk_keeps_the_length_of_its_descriptor() {
    let flat = file(&[1; 8192]);
    let image = image("RW 8 FLAT \"a\" 0\n", &[&flat]);
    image.set_len(4096).unwrap();
    assert_eq!(image.set_len(4097).unwrap_err().kind(), Kind::Denied);
    for refused in [image.write_at(4000, &[9; 97], &mut request_buffer()), image.allocate(4000, 97, true)] {
        assert_eq!(refused.unwrap_err().os_error(), Some(libc::EFBIG));
    }
    image.allocate(4000, 9000, false).unwrap();
    assert_eq!(contents(&flat.file), [1; 8192]);
}

#[test]
fn an_extent_that_was_cut_off_while_open_is_damage() {
    let flat = file(&[1; 4096]);
    let image = image("RW 8 FLAT \"a\" 0\n", &[&flat]);
    flat.file.set_len(1000).unwrap();
    assert_eq!(image.read_at(0, 1000, &mut request_buffer()).unwrap(), [1; 1000]);
    let refused = image.read_at(0, 1001, &mut request_buffer()).unwrap_err();
    assert_eq!((refused.kind(), refused.to_string().contains("1000")), (Kind::Corrupt, true));
}

#[test]
fn a_sync_reaches_every_extent_and_reports_the_one_that_fails() {
    let files = [file(&[1; 4096]), file(&[2; 4096]), file(&[3; 4096])];
    let text = "RW 8 FLAT \"a\" 0\nRW 8 FLAT \"b\" 0\nRW 8 FLAT \"c\" 0\n";
    let image = image(text, &[&files[0], &files[1], &files[2]]);
    image.write_at(4000, &[9; 4200], &mut request_buffer()).unwrap();
    image.sync().unwrap();
    files[1].file.storage().fail_after(0);
    assert_eq!(image.sync().unwrap_err().os_error(), Some(libc::EIO));
    assert!(files[1].file.storage().has_failed());
}

/// A hosted sparse extent of 16 grains of 8 KiB, of which the first is there; the second has its place already.
fn sparse_extent() -> Vec<u8> {
    let mut bytes = b"KDMV".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for field in [256_u64, 16, 0, 0] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.extend(512_u32.to_le_bytes());
    for field in [0_u64, 1, 1] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.push(0);
    bytes.extend(b"\n \r\n");
    bytes.resize(512, 0);
    bytes.extend(2_u32.to_le_bytes());
    bytes.resize(1024, 0);
    bytes.extend(6_u32.to_le_bytes());
    bytes.resize(6 * 512, 0);
    bytes.extend([7; 8192]);
    bytes.extend([8; 8192]);
    bytes
}

#[test]
fn tables_that_somebody_writes_to_are_read_anew() {
    let bytes = sparse_extent();
    assert!(matches!(DiskFile::read(&bytes).unwrap(), DiskFile::Extent(_)));
    let sparse = file(&bytes);
    let image = image("RW 256 SPARSE \"a\"\n", &[&sparse]);
    let read = |at| image.read_at(at, 1, &mut request_buffer()).unwrap()[0];
    assert_eq!((read(0), read(8192), read(8191)), (7, 0, 7));
    assert_eq!((image.seek_hole(0).unwrap(), image.seek_data(8192).unwrap()), (Some(8192), None));
    let second_entry = 22_u32.to_le_bytes();
    sparse.may_change.store(true, Ordering::Relaxed);
    sparse.file.write_at(1028, &second_entry, &mut request_buffer()).unwrap();
    assert_eq!((read(8192), read(16384)), (8, 0));
    assert_eq!((image.seek_hole(0).unwrap(), image.sync().is_ok()), (Some(16384), true));
}

#[test]
fn an_entry_that_points_nowhere_is_damage() {
    let sparse = file(&sparse_extent());
    sparse.file.write_at(1028, &0x00ff_ffff_u32.to_le_bytes(), &mut request_buffer()).unwrap();
    let image = image("RW 256 SPARSE \"a b.vmdk\"\n", &[&sparse]);
    assert_eq!(image.read_at(0, 8192, &mut request_buffer()).unwrap(), [7; 8192]);
    let refused = image.read_at(8192, 1, &mut request_buffer()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Corrupt);
    assert!(refused.chain().contains("a b.vmdk: byte 1028"), "{}", refused.chain());
}

#[test]
fn a_file_that_cannot_be_read_gives_its_own_kind() {
    let flat = file(&[1; 8192]);
    let image = image("RW 3 FLAT \"a\" 0\nRW 3 FLAT \"a\" 4\n", &[&flat]);
    flat.file.storage().fail_after(0);
    let refused = image.read_at(0, 3000, &mut request_buffer()).unwrap_err();
    assert_eq!(refused.kind(), Kind::Io, "{}", refused.chain());
}
