mod beside;
mod crash;
mod fault;
mod forgery;
mod killed;
mod killed_then_crash;
mod known_lengths;
mod reread;

use proptest::prelude::*;

use super::*;
use crate::crypto::random;
use crate::format::home_file::{BlockIndex, PAIR_LEN, Place};
use crate::storage::memory::{FaultStorage, MemoryStorage};
use crate::store::buffer::request_buffer;
use crate::store::linearizable;
use crate::store::plain_file::MAX_REQUEST;

/// Plaintext of one group.
const GROUP: u64 = GROUP_BLOCKS * BLOCK;

fn keys() -> HomeKeys {
    HomeKeys::new(&random::home_dek().unwrap()).unwrap()
}

fn open<S: Storage>(storage: S, keys: &HomeKeys) -> HomeFile<S> {
    HomeFile::open(storage, keys).unwrap()
}

fn new_file(keys: &HomeKeys) -> HomeFile<MemoryStorage> {
    open(MemoryStorage::default(), keys)
}

fn contents<S: Storage>(file: &HomeFile<S>) -> Vec<u8> {
    let len = usize::try_from(file.plain_len()).unwrap();
    file.read_at(0, len, &mut request_buffer()).unwrap().to_vec()
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, usize, u8),
    SetLen(u64),
    BeginAnew,
    Punch(u64, u64),
    Zero(u64, u64),
    Allocate(u64, u64, bool),
    Sync,
    Reopen,
}

/// Positions around the start, or around the end of the first group.
fn position() -> impl Strategy<Value = u64> {
    let near = prop_oneof![(0..20_000_u64), (0..5_u64).prop_map(|block| block * BLOCK)];
    (near, prop::bool::weighted(0.2)).prop_map(|(at, far)| if far { GROUP - 2 * BLOCK + at % (4 * BLOCK) } else { at })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (position(), 0..9000_usize, any::<u8>()).prop_map(|(at, len, fill)| Op::Write(at, len, fill)),
        2 => position().prop_map(Op::SetLen),
        1 => Just(Op::BeginAnew),
        2 => (position(), 0..20_000_u64).prop_map(|(at, len)| Op::Punch(at, len)),
        1 => (position(), 0..20_000_u64).prop_map(|(at, len)| Op::Zero(at, len)),
        1 => (position(), 0..20_000_u64, any::<bool>()).prop_map(|(at, len, grow)| Op::Allocate(at, len, grow)),
        2 => Just(Op::Sync),
        1 => Just(Op::Reopen),
    ]
}

/// Bytes without long runs of equal ones, so that a shifted copy is noticed; some are zero.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=255).cycle().step_by(7).take(len).map(|byte: u8| byte.wrapping_add(seed)).collect()
}

fn apply_to_model(model: &mut Vec<u8>, op: &Op) {
    match op {
        Op::Write(offset, len, seed) if *len > 0 => {
            let end = index(*offset) + len;
            model.resize(model.len().max(end), 0);
            model[index(*offset)..end].copy_from_slice(&pattern(*len, *seed));
        }
        Op::SetLen(len) => model.resize(index(*len), 0),
        Op::BeginAnew => model.clear(),
        Op::Punch(offset, len) | Op::Zero(offset, len) => {
            let end = index(offset + len).min(model.len());
            model[index(*offset).min(end)..end].fill(0);
        }
        Op::Allocate(offset, len, true) if *len > 0 && index(offset + len) > model.len() => {
            model.resize(index(offset + len), 0);
        }
        Op::Write(..) | Op::Allocate(..) | Op::Sync | Op::Reopen => {}
    }
}

fn apply<S: Storage>(file: &HomeFile<S>, op: &Op, buffer: &mut [u8]) -> Result<()> {
    match op {
        Op::Write(offset, len, seed) => file.write_at(*offset, &pattern(*len, *seed), buffer),
        Op::SetLen(len) => file.set_len(*len),
        Op::BeginAnew => file.reset_to_empty(),
        Op::Punch(offset, len) => file.punch(*offset, *len, buffer),
        Op::Zero(offset, len) => file.zero(*offset, *len, buffer),
        Op::Allocate(offset, len, grow) => file.allocate(*offset, *len, *grow),
        Op::Sync => file.sync(),
        Op::Reopen => Ok(()),
    }
}

fn assert_same(seen: &[u8], model: &[u8], after: &dyn std::fmt::Debug) {
    assert_eq!(seen.len(), model.len(), "length after {after:?}");
    let differs = seen.iter().zip(model).position(|(a, b)| a != b);
    assert_eq!(differs, None, "first wrong byte after {after:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_home_file_behaves_like_a_byte_vector(ops in prop::collection::vec(op(), 1..30)) {
        let keys = keys();
        let mut file = new_file(&keys);
        let mut model = Vec::new();
        let mut buffer = request_buffer();
        for op in &ops {
            if let Op::Reopen = op {
                file = open(MemoryStorage::new(file.storage.image()), &keys);
            }
            apply(&file, op, &mut buffer).unwrap();
            apply_to_model(&mut model, op);
            assert_same(&contents(&file), &model, op);
            let backing_len = file.storage.len().unwrap();
            assert_eq!(home_file::plain_len(backing_len), model.len() as u64, "the length, without a key");
        }
    }

    #[test]
    fn any_part_reads_as_it_was_written(at in 0..2 * GROUP, len in 0..300_000_usize) {
        let file = new_file(&keys());
        let mut buffer = request_buffer();
        let all = pattern(index(2 * GROUP), 9);
        file.write_at(0, &all, &mut buffer).unwrap();
        let end = (index(at) + len).min(all.len());
        prop_assert!(file.read_at(at, len, &mut buffer).unwrap() == &all[index(at)..end]);
    }
}

#[test]
fn what_is_stored_is_not_the_plaintext() {
    let file = new_file(&keys());
    let marker = b"a marker text that must not be stored";
    file.write_at(5000, &marker.repeat(40), &mut request_buffer()).unwrap();
    assert!(!file.storage.image().windows(16).any(|window| window == &marker[..16]));
}

#[test]
fn equal_contents_have_different_ciphertext_in_every_file_block_and_rewrite() {
    let keys = keys();
    let mut buffer = request_buffer();
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let file = new_file(&keys);
        for _ in 0..3 {
            file.write_at(0, &[7; 3 * BLOCK_LEN], &mut buffer).unwrap();
            let image = file.storage.image();
            for block in (0..3).map(BlockIndex) {
                let at = index(block.cipher_offset(Place::Main));
                assert!(seen.insert(image[at..at + BLOCK_LEN].to_vec()));
            }
        }
    }
}

#[test]
fn never_written_space_is_a_hole_and_reads_as_zeros() {
    let file = new_file(&keys());
    file.set_len(4 * GROUP).unwrap();
    let mut buffer = request_buffer();
    file.write_at(2 * GROUP + 5000, &[1; 5000], &mut buffer).unwrap();
    let block = 2 * GROUP + BLOCK;
    assert_eq!(file.seek_data(0).unwrap(), Some(block));
    assert_eq!(file.seek_data(block + 9).unwrap(), Some(block + 9));
    assert_eq!(file.seek_hole(0).unwrap(), Some(0));
    assert_eq!(file.seek_hole(block).unwrap(), Some(block + 2 * BLOCK));
    assert_eq!(file.seek_data(block + 2 * BLOCK).unwrap(), None);
    assert_eq!(file.seek_hole(4 * GROUP).unwrap(), None);
    file.punch(block, 2 * BLOCK, &mut buffer).unwrap();
    assert_eq!(file.seek_data(0).unwrap(), None, "a discarded block is a hole again");
    let start = index(BlockIndex(block / BLOCK).cipher_offset(Place::Main));
    assert!(
        file.storage.image()[start..start + 2 * BLOCK_LEN].iter().all(|&byte| byte == 0),
        "its space is given back"
    );
    file.write_at(4 * GROUP - 1, &[1], &mut buffer).unwrap();
    assert_eq!(file.seek_hole(4 * GROUP - 5).unwrap(), Some(4 * GROUP), "the end is a hole");
}

/// The states between `create` and the first header: all of them are empty files, or holes.
#[test]
fn a_file_without_its_header_is_empty_or_a_hole() {
    let keys = keys();
    let mut buffer = request_buffer();
    for len in [0, 1, 511, 512, 4096, 5000] {
        let file = open(MemoryStorage::new(vec![0; len]), &keys);
        assert!(file.plain_len() == 0 && file.id().is_none(), "{len}");
    }
    let file = open(FaultStorage::new(MemoryStorage::default(), libc::ENOSPC), &keys);
    for fault in 0..8 {
        file.storage.fail_after(fault);
        let written = file.write_at(0, b"text", &mut buffer);
        assert!(written.is_err() == file.storage.has_failed());
        let reopened = open(MemoryStorage::new(file.storage.inner().image()), &keys);
        assert_same(&contents(&reopened), if written.is_ok() { b"text" } else { b"" }, &fault);
        file.storage.fail_after(i64::MAX);
        file.set_len(0).unwrap();
    }
    let written = new_file(&keys);
    written.write_at(0, &pattern(9000, 1), &mut buffer).unwrap();
    let mut image = written.storage.image();
    image[..HEADER_LEN].fill(0);
    let lost = open(MemoryStorage::new(image), &keys);
    assert!(contents(&lost) == vec![0; 9000], "its header never reached the medium, so neither did a sync");
    lost.write_at(5000, b"text", &mut buffer).unwrap();
    let mut model = vec![0; 9000];
    model[5000..5004].copy_from_slice(b"text");
    assert_same(&contents(&lost), &model, &"a write gives it a new header");
    assert_same(&contents(&open(MemoryStorage::new(lost.storage.image()), &keys)), &model, &"reopening");
}

#[test]
fn an_id_stays_for_ever() {
    let keys = keys();
    let file = new_file(&keys);
    assert_eq!(file.id(), None);
    let id = file.ensure_id().unwrap();
    file.write_at(0, b"text", &mut request_buffer()).unwrap();
    file.set_len(0).unwrap();
    let reopened = open(MemoryStorage::new(file.storage.image()), &keys);
    assert_eq!((reopened.id(), reopened.plain_len()), (Some(id), 0));
    assert_ne!(new_file(&keys).ensure_id().unwrap(), id);
}

#[test]
fn a_failed_sync_is_not_forgotten() {
    let file = open(FaultStorage::new(MemoryStorage::default(), libc::EIO), &keys());
    file.sync().unwrap();
    file.storage.fail_after(0);
    assert_eq!(file.sync().unwrap_err().os_error(), Some(libc::EIO));
    assert!(file.sync().is_err(), "the storage works again, but what was lost stays lost");
}

#[test]
fn absurd_positions_are_refused() {
    let file = new_file(&keys());
    let mut buffer = request_buffer();
    for offset in [MAX_PLAIN_LEN, u64::MAX - 5, u64::MAX] {
        assert_eq!(file.write_at(offset, &[1; 10], &mut buffer).unwrap_err().os_error(), Some(libc::EFBIG));
        assert!(file.read_at(offset, 10, &mut buffer).is_err());
        assert!(file.allocate(offset, 10, true).is_err());
        file.punch(offset, u64::MAX, &mut buffer).unwrap();
    }
    assert!(file.set_len(MAX_PLAIN_LEN + 1).is_err());
    assert!(file.read_at(0, MAX_REQUEST + 1, &mut buffer).is_err());
}

/// Threads write whole ranges of one byte value each; a reader never sees two values within a range that one write made.
#[test]
fn overlapping_writes_reads_and_syncs_never_mix_within_a_request() {
    const LEN: usize = 9000;
    let file = new_file(&keys());
    file.set_len(64 << 10).unwrap();
    std::thread::scope(|scope| {
        for value in 1..=4_u8 {
            let file = &file;
            scope.spawn(move || {
                let mut buffer = request_buffer();
                for round in 0..200 {
                    file.write_at(777, &[value; LEN], &mut buffer).unwrap();
                    let seen = file.read_at(777, LEN, &mut buffer).unwrap();
                    assert!(seen.iter().all(|&byte| byte == seen[0]), "a mixture of two writes");
                    if round % 16 == 0 {
                        file.sync().unwrap();
                    }
                }
            });
        }
    });
}

/// A file that shrinks and grows while others write never shows what was cut off.
#[test]
fn what_was_cut_off_never_comes_back() {
    let file = new_file(&keys());
    std::thread::scope(|scope| {
        for start in [0, 3000, 3 * BLOCK] {
            let file = &file;
            scope.spawn(move || {
                let mut buffer = request_buffer();
                for _ in 0..100 {
                    file.write_at(start, &[1; 2000], &mut buffer).unwrap();
                    file.set_len(start).unwrap();
                    let seen = file.read_at(2500, 500, &mut buffer).unwrap();
                    assert!(seen.iter().all(|&byte| byte == 0), "nobody writes there");
                }
            });
        }
    });
}

/// Threads make holes and fill them, each in blocks of its own between those of the others: no hole is taken for damage.
#[test]
fn holes_that_are_made_side_by_side_are_holes() {
    const THREADS: u64 = 4;
    let keys = keys();
    let file = new_file(&keys);
    file.write_at(0, &pattern(16 * BLOCK_LEN, 1), &mut request_buffer()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let file = &file;
            scope.spawn(move || {
                let mut buffer = request_buffer();
                for round in 0..300 {
                    let start = (thread + THREADS * (round * 7 % 4)) * BLOCK;
                    let filled = (round + thread) % 3 > 0;
                    match filled {
                        true => file.write_at(start, &[9; BLOCK_LEN], &mut buffer).unwrap(),
                        false => file.punch(start, BLOCK, &mut buffer).unwrap(),
                    }
                    let seen = file.read_at(start, BLOCK_LEN, &mut buffer).unwrap();
                    assert!(seen == [9 * u8::from(filled); BLOCK_LEN]);
                }
            });
        }
    });
    let seen = contents(&file);
    assert_same(&contents(&open(MemoryStorage::new(file.storage.image()), &keys)), &seen, &"reopening");
}

/// Also where the file ends inside a block.
#[test]
fn a_hole_to_the_end_of_a_file_keeps_no_block() {
    for len in [BLOCK + 900, 2 * BLOCK] {
        let file = new_file(&keys());
        let mut buffer = request_buffer();
        file.write_at(0, &pattern(index(len), 1), &mut buffer).unwrap();
        file.punch(0, len, &mut buffer).unwrap();
        assert_eq!((file.plain_len(), file.seek_data(0).unwrap()), (len, None), "{len} bytes");
        assert_same(&contents(&file), &vec![0; index(len)], &"a hole");
    }
}

/// A change that waited for its range looks again whether that is still the one that it needs.
#[test]
fn a_change_that_waited_while_the_file_was_cut_locks_all_past_the_new_end() {
    let keys = keys();
    let file = new_file(&keys);
    file.write_at(0, &pattern(10 * BLOCK_LEN, 1), &mut request_buffer()).unwrap();
    let is_free =
        |blocks: std::ops::Range<u64>| file.locks.try_exclusive(blocks.start * BLOCK..blocks.end * BLOCK).is_some();
    let (locked, on_locked) = std::sync::mpsc::channel();
    let (done, on_done) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let cut = file.locks.exclusive(7 * BLOCK..8 * BLOCK);
        let file = &file;
        scope.spawn(move || {
            let guard = file.lock_for_change(7 * BLOCK, 9 * BLOCK);
            locked.send(()).unwrap();
            let _ = on_done.recv();
            drop(guard);
        });
        while is_free(8..9) {
            std::thread::yield_now(); // it does not wait yet
        }
        assert!(is_free(3..4) && is_free(9..10));
        file.plain_len.store(2 * BLOCK, Ordering::Release);
        drop(cut);
        on_locked.recv().unwrap();
        assert!(is_free(0..2) && !is_free(3..4) && !is_free(9..10));
        drop(done);
    });
}

#[test]
fn requests_take_effect_one_after_the_other() {
    let file = new_file(&keys());
    file.set_len(linearizable::FILE_LEN).unwrap();
    let read = |offset, bytes: &mut [u8]| {
        bytes.copy_from_slice(file.read_at(offset, bytes.len(), &mut request_buffer()).unwrap());
    };
    let write = |offset: u64, bytes: &[u8]| {
        file.write_at(offset, bytes, &mut request_buffer()).unwrap();
        if bytes[0].is_multiple_of(16) {
            file.sync().unwrap();
        }
    };
    let contradictions = linearizable::contradictions_of(read, write, 3000);
    assert!(contradictions.is_empty(), "{contradictions:#?}");
}

#[test]
fn what_was_cut_off_gives_its_spare_places_back_when_the_file_grows_again() {
    let file = new_file(&keys());
    let buffer = &mut request_buffer();
    for seed in [1, 2] {
        file.write_at(0, &pattern(8 * BLOCK_LEN, seed), buffer).unwrap();
        file.sync().unwrap();
    }
    let spare_is_hole = |block: u64| {
        let mut place = [0; BLOCK_LEN];
        file.storage().read_at(BlockIndex(block).cipher_offset(Place::Spare), &mut place).unwrap();
        place == [0; BLOCK_LEN]
    };
    file.set_len(3 * BLOCK).unwrap();
    file.set_len(4 * BLOCK).unwrap();
    assert!((0..8).all(|block| spare_is_hole(block) == (block >= 3)));
    assert_same(&contents(&file), &[pattern(3 * BLOCK_LEN, 2), vec![0; BLOCK_LEN]].concat(), &"cut off");
}
