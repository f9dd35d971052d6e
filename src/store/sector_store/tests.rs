mod crash;
mod edges;
mod fault;
mod transfer;

use proptest::prelude::*;

use super::*;
use crate::crypto::{random, wrap::LocalKek};
use crate::format::disk_kind::DiskShape;
use crate::format::header::{ComponentKind, DEFAULT_DATA_OFFSET, Shape, Slot};
use crate::key::{Kek, KeyId, ProviderName};
use crate::storage::memory::{FaultStorage, Image, MemoryStorage};
use crate::store::buffer::request_buffer;
use crate::store::disk::{create, create_in_place};
use crate::store::header_area;
use crate::store::linearizable;
use crate::store::plain_file::MAX_REQUEST;
use crate::sys::not_run::not_run;

/// Lengths of the models: several sectors of either size, and a last one that is not full.
pub(super) const LIMIT: u64 = 20_000;

pub(super) struct Keys {
    pub(super) dek: Dek,
    pub(super) header: Header,
}

pub(super) fn keys(sector_size: SectorSize) -> Keys {
    let kek = LocalKek::random().unwrap();
    let dek = random::disk_dek().unwrap();
    let slot = Slot {
        key_id: KeyId::new(ProviderName::new("test").unwrap(), "1").unwrap(),
        check: kek.check().unwrap(),
        wrapped: kek.wrap(&dek).unwrap(),
    };
    let header = Header::new(random::uuid().unwrap(), Shape::Disk(DiskShape::new(sector_size)), String::new(), slot);
    Keys { dek, header }
}

pub(super) fn unlock<S: Storage>(storage: S, dek: &Dek) -> Result<SectorStore<S>> {
    let header = header_area::load(&storage, ComponentKind::Disk)?.header.verify(dek)?;
    let shape = header.shape.disk().unwrap();
    SectorStore::open(storage, &header, shape, dek, Engine::AwsLc)
}

pub(super) fn open<S: Storage>(storage: S, keys: &Keys) -> SectorStore<S> {
    let disk = unlock(storage, &keys.dek).unwrap();
    disk.prepare_writes().unwrap();
    disk
}

fn empty_image(keys: &Keys) -> Image {
    let storage = MemoryStorage::default();
    create(&storage, &keys.header, &keys.dek).unwrap();
    storage.snapshot()
}

fn new_disk(keys: &Keys) -> SectorStore<MemoryStorage> {
    open(MemoryStorage::new(empty_image(keys)), keys)
}

pub(super) fn contents<S: Storage>(disk: &SectorStore<S>) -> Vec<u8> {
    let len = usize::try_from(disk.plain_len()).unwrap();
    let mut buffer = request_buffer();
    disk.read_at(0, len, &mut buffer).unwrap().to_vec()
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Write(u64, usize, u8),
    SetLen(u64),
    Punch(u64, u64),
    Zero(u64, u64),
    Allocate(u64, u64, bool),
    Reopen,
}

fn position() -> impl Strategy<Value = u64> {
    prop_oneof![(0..LIMIT), (0..LIMIT / 512).prop_map(|unit| unit * 512), (0..LIMIT / 4096).prop_map(|n| n * 4096)]
}

pub(super) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (position(), 0..9000_usize, any::<u8>()).prop_map(|(at, len, fill)| Op::Write(at, len, fill)),
        2 => position().prop_map(Op::SetLen),
        2 => (position(), position()).prop_map(|(at, len)| Op::Punch(at, len)),
        1 => (position(), position()).prop_map(|(at, len)| Op::Zero(at, len)),
        1 => (position(), position(), any::<bool>()).prop_map(|(at, len, grow)| Op::Allocate(at, len, grow)),
        1 => Just(Op::Reopen),
    ]
}

/// Bytes without long runs of equal ones, so that a shifted copy is noticed; some are zero.
pub(super) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=255).cycle().step_by(7).take(len).map(|byte: u8| byte.wrapping_add(seed)).collect()
}

pub(super) fn apply_to_model(model: &mut Vec<u8>, op: &Op) {
    let range = |offset: u64, len: u64, model: &Vec<u8>| {
        let end = index(offset + len).min(model.len());
        index(offset).min(end)..end
    };
    match op {
        Op::Write(offset, len, seed) => {
            let end = index(*offset) + len;
            if *len > 0 && model.len() < end {
                model.resize(end, 0);
            }
            if *len > 0 {
                model[index(*offset)..end].copy_from_slice(&pattern(*len, *seed));
            }
        }
        Op::SetLen(len) => model.resize(index(*len), 0),
        Op::Punch(offset, len) | Op::Zero(offset, len) => {
            let range = range(*offset, *len, model);
            model[range].fill(0);
        }
        Op::Allocate(offset, len, true) if index(offset + len) > model.len() => model.resize(index(offset + len), 0),
        Op::Allocate(..) | Op::Reopen => {}
    }
}

pub(super) fn apply<S: Storage>(disk: &SectorStore<S>, op: &Op, buffer: &mut [u8]) -> Result<()> {
    match op {
        Op::Write(offset, len, seed) => disk.write_at(*offset, &pattern(*len, *seed), buffer),
        Op::SetLen(len) => disk.set_len(*len),
        Op::Punch(offset, len) => disk.punch(*offset, *len, buffer),
        Op::Zero(offset, len) => disk.zero(*offset, *len, buffer),
        Op::Allocate(offset, len, grow) => disk.allocate(*offset, *len, *grow),
        Op::Reopen => Ok(()),
    }
}

/// A disk on which `ops` were done, and what it then holds.
fn prepared(keys: &Keys, ops: &[Op]) -> (Image, Vec<u8>) {
    let disk = new_disk(keys);
    let mut model = Vec::new();
    for op in ops {
        apply(&disk, op, &mut request_buffer()).unwrap();
        apply_to_model(&mut model, op);
    }
    (disk.storage.snapshot(), model)
}

/// The units that hold a range.
fn unit_range(start: u64, end: u64) -> Range<u64> {
    sector::floor(start, UNIT)..sector::ceil(end, UNIT)
}

/// Units that an operation may change on a disk that holds `start`.
fn units_of(op: &Op, start: &[u8]) -> Range<u64> {
    match *op {
        Op::Write(offset, len, _) => unit_range(offset, offset + len as u64),
        Op::SetLen(len) => sector::floor(len.min(start.len() as u64), UNIT)..u64::MAX,
        Op::Punch(offset, len) | Op::Zero(offset, len) => unit_range(offset, offset + len),
        Op::Allocate(..) | Op::Reopen => 0..0,
    }
}

/// One of each kind, at every alignment to units, sectors and blocks, within the disk, over its end and beyond it.
fn ops_of_every_alignment(len: u64) -> Vec<Op> {
    let mut ops = Vec::new();
    for (at, len) in [
        (512, 512),
        (512, 4000),
        (0, 4096),
        (100, 50),
        (100, 1500),
        (1023, 2),
        (4090, 600),
        (4095, 1),
        (len - 1, 1),
        (len - 100, 3000),
        (len, 1),
        (len, 2000),
        (len + 1004, 700),
        (len + 3004, 1096),
        (len - 50, len.next_multiple_of(16) - len + 50),
    ] {
        ops.push(Op::Write(at, usize::try_from(len).unwrap(), 9));
    }
    ops.extend([0, 1003, 1008, 1024, 4096, len - 1, len + 1, len + 100, 8192].map(Op::SetLen));
    for (at, len) in [(512, 1024), (100, 3000), (100, 50), (1000, 100), (len - 10, 10), (len - 600, 9000)] {
        ops.extend([Op::Punch(at, len), Op::Zero(at, len)]);
    }
    ops.extend([Op::Allocate(0, 3000, false), Op::Allocate(len - 10, 3000, true), Op::Allocate(len, 3000, false)]);
    ops
}

fn behaves_like_a_byte_vector(sector_size: SectorSize, ops: &[Op]) {
    let keys = keys(sector_size);
    let mut disk = new_disk(&keys);
    let mut model = Vec::new();
    let mut buffer = request_buffer();
    for op in ops {
        if let Op::Reopen = op {
            disk = open(MemoryStorage::new(disk.storage.snapshot()), &keys);
        }
        apply(&disk, op, &mut buffer).unwrap();
        apply_to_model(&mut model, op);
        assert_eq!(disk.plain_len(), model.len() as u64, "{op:?}");
        let seen = contents(&disk);
        let differs = seen.iter().zip(&model).position(|(a, b)| a != b);
        assert_eq!(differs, None, "first wrong byte after {op:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn sectors_of_4096_behave_like_a_byte_vector(ops in prop::collection::vec(op(), 1..30)) {
        behaves_like_a_byte_vector(SectorSize::DEFAULT, &ops);
    }

    #[test]
    fn sectors_of_512_behave_like_a_byte_vector(ops in prop::collection::vec(op(), 1..30)) {
        behaves_like_a_byte_vector(SectorSize::SMALL, &ops);
    }

    #[test]
    fn any_part_reads_as_it_was_written(at in 0..LIMIT, len in 0..9000_usize) {
        let disk = new_disk(&keys(SectorSize::DEFAULT));
        let mut buffer = request_buffer();
        disk.write_at(0, &pattern(index(LIMIT), 9), &mut buffer).unwrap();
        let end = (index(at) + len).min(index(LIMIT));
        prop_assert_eq!(disk.read_at(at, len, &mut buffer).unwrap(), &pattern(index(LIMIT), 9)[index(at)..end]);
    }
}

/// The mark of the former length lies where the new one has none.
#[test]
fn a_write_that_fills_the_last_block_is_there_after_reopening() {
    for (old_len, new_len) in (0..16).flat_map(|old| (old + 1..=33).map(move |new| (4096 + old, 4096 + new))) {
        for sector_size in [SectorSize::SMALL, SectorSize::DEFAULT] {
            let old = usize::try_from(old_len).unwrap();
            let added = usize::try_from(new_len - old_len).unwrap();
            behaves_like_a_byte_vector(sector_size, &[Op::Write(0, old, 1), Op::Write(old_len, added, 2), Op::Reopen]);
        }
    }
}

#[test]
fn a_write_changes_no_byte_outside_its_units() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = new_disk(&keys);
    let mut buffer = request_buffer();
    disk.write_at(0, &pattern(16_384, 3), &mut buffer).unwrap();
    for (offset, len) in [(0, 512), (512, 512), (1000, 1), (1023, 2), (4095, 2), (8192, 4096), (3584, 1024)] {
        let before = disk.storage.image();
        disk.write_at(offset, &pattern(len, 77), &mut buffer).unwrap();
        let after = disk.storage.image();
        let units = unit_range(offset, offset + len as u64);
        for (at, (old, new)) in before.iter().zip(&after).enumerate() {
            let inside = (at as u64).checked_sub(DEFAULT_DATA_OFFSET).is_some_and(|plain| units.contains(&plain));
            assert!(inside || old == new, "byte {at} changed by a write of {len} at {offset}");
        }
    }
}

#[test]
fn what_is_stored_is_not_the_plaintext() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = new_disk(&keys);
    let mut buffer = request_buffer();
    let marker = b"a marker text that must not be stored";
    disk.write_at(5000, &marker.repeat(40), &mut buffer).unwrap();
    let image = disk.storage.image();
    assert!(!image.windows(16).any(|window| window == &marker[..16]));
    assert!(!image.windows(16).any(|window| window == &keys.dek.bytes()[..16]));
}

#[test]
fn never_written_space_is_a_hole_and_reads_as_zeros() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = new_disk(&keys);
    disk.set_len(1 << 20).unwrap();
    let mut buffer = request_buffer();
    disk.write_at(4096, &[1; 512], &mut buffer).unwrap();
    assert_eq!(disk.seek_data(0).unwrap(), Some(4096));
    assert_eq!(disk.seek_hole(4096).unwrap(), Some(4608));
    assert_eq!(disk.seek_data(4608).unwrap(), None);
    assert_eq!(disk.seek_hole(1 << 20).unwrap(), None);
    disk.punch(4096, 512, &mut buffer).unwrap();
    assert_eq!(disk.seek_data(0).unwrap(), None, "a discarded unit is a hole again");
    assert!(contents(&disk).iter().all(|&byte| byte == 0));
}

#[test]
fn zeros_in_a_part_of_a_hole_leave_it_a_hole() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = new_disk(&keys);
    disk.set_len(1 << 20).unwrap();
    let mut buffer = request_buffer();
    for (offset, len) in [(100, 50), (600, 5000), (0, 511), (8191, 2)] {
        disk.punch(offset, len, &mut buffer).unwrap();
        disk.zero(offset, len, &mut buffer).unwrap();
    }
    assert_eq!(disk.seek_data(0).unwrap(), None);
    disk.write_at(100, &[1; 50], &mut buffer).unwrap();
    disk.punch(600, 5000, &mut buffer).unwrap();
    disk.punch(120, 10, &mut buffer).unwrap();
    assert_eq!(disk.seek_hole(0).unwrap(), Some(512), "data beside a hole");
    assert_eq!(contents(&disk)[100..150], [[1; 20].as_slice(), &[0; 10], &[1; 20]].concat());
}

#[test]
fn a_failed_sync_is_not_forgotten() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = open(FaultStorage::new(MemoryStorage::new(empty_image(&keys)), libc::EIO), &keys);
    disk.sync().unwrap();
    disk.storage.fail_after(0);
    assert_eq!(disk.sync().unwrap_err().os_error(), Some(libc::EIO));
    assert!(disk.sync().is_err(), "the storage works again, but what was lost stays lost");
}

#[test]
fn a_backing_file_that_was_cut_off_is_damage() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = new_disk(&keys);
    disk.set_len(8192).unwrap();
    disk.storage.set_len(DEFAULT_DATA_OFFSET + 4096).unwrap();
    let mut buffer = request_buffer();
    assert_eq!(disk.read_at(4000, 200, &mut buffer).unwrap_err().kind(), Kind::Corrupt);
    disk.storage.set_len(DEFAULT_DATA_OFFSET - 1).unwrap();
    let error = unlock(MemoryStorage::new(disk.storage.snapshot()), &keys.dek);
    assert_eq!(error.err().map(|error| error.kind()), Some(Kind::Corrupt));
}

#[test]
fn absurd_positions_are_refused() {
    let disk = new_disk(&keys(SectorSize::DEFAULT));
    let mut buffer = request_buffer();
    for offset in [MAX_PLAIN_LEN, MAX_OFFSET, u64::MAX - 5, u64::MAX] {
        assert_eq!(disk.write_at(offset, &[1; 10], &mut buffer).unwrap_err().os_error(), Some(libc::EFBIG));
        assert_eq!(disk.read_at(offset, 10, &mut buffer).is_err(), offset > MAX_PLAIN_LEN);
        assert!(disk.allocate(offset, 10, true).is_err());
        disk.punch(offset, u64::MAX, &mut buffer).unwrap();
    }
    assert!(disk.set_len(MAX_PLAIN_LEN + 1).is_err());
    assert!(disk.read_at(0, MAX_REQUEST + 1, &mut buffer).is_err());
}

/// More than 2^44 blocks under one key (IEEE 1619-2018).
#[test]
fn a_disk_grows_to_what_its_key_may_encrypt_and_no_longer_one_opens() {
    let keys = keys(SectorSize::DEFAULT);
    let disk = new_disk(&keys);
    let mut buffer = request_buffer();
    disk.write_at(MAX_PLAIN_LEN - 3, &[7; 3], &mut buffer).unwrap();
    assert_eq!(disk.plain_len(), MAX_PLAIN_LEN);
    assert_eq!(disk.write_at(MAX_PLAIN_LEN - 2, &[7; 3], &mut buffer).unwrap_err().os_error(), Some(libc::EFBIG));
    for refused in [disk.set_len(MAX_PLAIN_LEN + 1), disk.allocate(MAX_PLAIN_LEN - 1, 2, true)] {
        assert_eq!(refused.unwrap_err().os_error(), Some(libc::EFBIG));
    }
    let storage = MemoryStorage::new(disk.storage.snapshot());
    assert_eq!(open(&storage, &keys).read_at(MAX_PLAIN_LEN - 4, 9, &mut buffer).unwrap(), [0, 7, 7, 7]);
    storage.set_len(DEFAULT_DATA_OFFSET + MAX_PLAIN_LEN + BLOCK).unwrap();
    let refused = unlock(&storage, &keys.dek);
    assert_eq!(refused.err().map(|error| error.kind()), Some(Kind::Unsupported));
}

/// Threads write whole ranges of one byte value each; a reader never sees two values within a range that one write made.
#[test]
fn overlapping_writes_and_reads_never_mix_within_a_request() {
    const LEN: usize = 3000;
    let disk = new_disk(&keys(SectorSize::DEFAULT));
    disk.set_len(64 << 10).unwrap();
    std::thread::scope(|scope| {
        for value in 1..=4_u8 {
            let disk = &disk;
            scope.spawn(move || {
                let mut buffer = request_buffer();
                for _ in 0..300 {
                    disk.write_at(777, &[value; LEN], &mut buffer).unwrap();
                    let seen = disk.read_at(777, LEN, &mut buffer).unwrap();
                    assert!(seen.iter().all(|&byte| byte == seen[0]), "a mixture of two writes");
                }
            });
        }
    });
}

#[test]
fn a_change_keeps_out_all_that_the_storage_changes_with_it() {
    let keys = keys(SectorSize::DEFAULT);
    assert_eq!(new_disk(&keys).changed_with(600..1100), 512..1536);
    let file = tempfile::tempfile().unwrap();
    let mut storage = crate::storage::FileStorage::new(file);
    create(&storage, &keys.header, &keys.dek).unwrap();
    storage.bypass_cache();
    if let Some(why) = storage.why_cached() {
        return not_run(&format!("no way past the page cache: {why}"));
    }
    let disk = unlock(storage, &keys.dek).unwrap();
    let grain = disk.storage.write_atom();
    assert_eq!(disk.changed_with(600..1100), 0..grain, "a whole page");
    assert_eq!(disk.changed_with(grain - 1..grain + 1), 0..2 * grain);
    assert_eq!(disk.changed_with(5..u64::MAX), 0..u64::MAX);
}

#[test]
fn requests_take_effect_one_after_the_other() {
    for sector_size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        let disk = new_disk(&keys(sector_size));
        disk.set_len(linearizable::FILE_LEN).unwrap();
        let read = |offset, bytes: &mut [u8]| {
            bytes.copy_from_slice(disk.read_at(offset, bytes.len(), &mut request_buffer()).unwrap());
        };
        let write = |offset, bytes: &[u8]| disk.write_at(offset, bytes, &mut request_buffer()).unwrap();
        let contradictions = linearizable::contradictions_of(read, write, 3000);
        assert!(contradictions.is_empty(), "{contradictions:#?}");
    }
}
