//! What a power cut leaves: every synced block is whole, with its synced content or a later one.

use super::*;
use crate::storage::memory::{CrashStorage, Image};

/// A backing file that may lose power; file systems keep the order of its lengths.
pub(super) fn may_lose_power(image: impl Into<Image>) -> CrashStorage {
    CrashStorage::new(image).with_lengths_in_order()
}

/// Contents since the last sync, the synced one first.
pub(super) type History = Vec<Vec<u8>>;

/// Adds the content after one more operation.
pub(super) fn add_state(history: &mut History, op: &Op) {
    let mut model = history.last().cloned().unwrap_or_default();
    apply_to_model(&mut model, op);
    history.push(model);
}

/// A block of one state of a file, with zeros past its end.
fn block_of(model: &[u8], number: usize) -> Vec<u8> {
    let mut block = model.get(number * BLOCK_LEN..).unwrap_or_default().to_vec();
    block.resize(BLOCK_LEN, 0);
    block
}

/// The promise. Growing shows whatever a crash might have left past the end.
pub(super) fn keeps_what_was_synced(image: Image, history: &History, keys: &HomeKeys) {
    let Ok(file) = HomeFile::open(MemoryStorage::new(image), keys) else {
        return assert!(history[0].is_empty(), "what was synced does not open");
    };
    if file.is_cut_off() {
        assert!(history[0].is_empty(), "something was synced, and the file is said to have been longer");
        file.set_len(file.plain_len()).unwrap();
    }
    let len = index(file.plain_len());
    let lengths = history.iter().flat_map(|model| [model.len(), model.len().next_multiple_of(BLOCK_LEN)]);
    assert!(lengths.clone().any(|allowed| allowed == len), "length {len} of {:?}", lengths.collect::<Vec<_>>());
    let mut buffer = request_buffer();
    file.set_len(ceil(file.plain_len(), BLOCK) + BLOCK).unwrap();
    for number in 0..len.div_ceil(BLOCK_LEN) + 1 {
        match file.read_at(number as u64 * BLOCK, BLOCK_LEN, &mut buffer) {
            Ok(seen) => {
                // Cut where the file ended: a growing write that was lost may have left its length, or the reverse.
                let cut = |model: &Vec<u8>, end: usize| block_of(&model[..model.len().min(end)], number);
                let ends = || history.iter().map(Vec::len).chain([len]);
                let known = history.iter().any(|model| ends().any(|end| cut(model, end) == seen));
                assert!(known || seen.iter().all(|&byte| byte == 0), "block {number} is none that it ever was");
                let freed = history.iter().any(|model| block_of(model, number) == [0; BLOCK_LEN]);
                assert!(known || freed, "block {number} lost what was synced");
            }
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt);
                let is_hole = |model: &Vec<u8>| block_of(model, number) == [0; BLOCK_LEN];
                assert!(history.iter().any(is_hole), "block {number} was synced and is damaged");
                assert!(!history.iter().all(is_hole), "block {number} is a hole and said to be damaged");
            }
        }
    }
}

/// Each operation, with every subset of its sectors.
#[test]
fn every_crash_of_one_operation_leaves_the_synced_block_or_the_new_one() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    let mut synced = Vec::new();
    let seed = Op::Write(0, 2 * BLOCK_LEN + 900, 1);
    apply(&base, &seed, &mut buffer).unwrap();
    apply_to_model(&mut synced, &seed);
    base.sync().unwrap();
    let end = 2 * BLOCK + 900;
    let ops = [
        Op::Write(0, BLOCK_LEN, 9),
        Op::Write(BLOCK + 100, 1500, 9),
        Op::Write(2 * BLOCK + 100, 500, 9),
        Op::Write(end - 1, 1, 9),
        Op::Write(end - 100, 1000, 9),
        Op::Write(end, 1, 9),
        Op::Write(end + 5000, 700, 9),
        Op::Write(3 * BLOCK, BLOCK_LEN, 9),
        Op::SetLen(0),
        Op::BeginAnew,
        Op::SetLen(1003),
        Op::SetLen(BLOCK),
        Op::SetLen(end - 1),
        Op::SetLen(20_000),
        Op::Punch(BLOCK, BLOCK),
        Op::Punch(100, 3000),
        Op::Punch(end - 10, 10),
        Op::Zero(BLOCK, BLOCK),
        Op::Zero(100, 3000),
        Op::Allocate(0, 6000, false),
        Op::Allocate(end, 9000, true),
    ];
    for op in &ops {
        let file = open(may_lose_power(base.storage.snapshot()), &keys);
        apply(&file, op, &mut buffer).unwrap();
        let mut done = synced.clone();
        apply_to_model(&mut done, op);
        let history = vec![synced.clone(), done];
        for image in file.storage.crash_images() {
            keeps_what_was_synced(image, &history, &keys);
        }
        file.sync().unwrap();
        file.storage.forget_past();
        for image in file.storage.crash_images() {
            let seen = contents(&open(MemoryStorage::new(image), &keys));
            assert_same(&seen, history.last().unwrap(), &op);
        }
    }
}

/// What says that there are no holes is gone before there is one, and comes back after what it is said of.
#[test]
fn no_crash_makes_damage_of_a_hole() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    base.write_at(0, &pattern(4 * BLOCK_LEN, 1), &mut buffer).unwrap();
    base.sync().unwrap();
    for ops in [
        vec![Op::Punch(BLOCK, BLOCK)],
        vec![Op::Zero(0, 3 * BLOCK)],
        vec![Op::Punch(2 * BLOCK, BLOCK), Op::Punch(0, BLOCK)],
        vec![Op::SetLen(BLOCK), Op::SetLen(4 * BLOCK)],
        vec![Op::SetLen(100), Op::Write(3 * BLOCK, 10, 2), Op::Sync],
        vec![Op::SetLen(0), Op::Write(2 * BLOCK, 10, 2)],
        vec![Op::Punch(BLOCK, BLOCK), Op::Write(BLOCK, BLOCK_LEN, 2), Op::Sync, Op::Punch(BLOCK, BLOCK)],
    ] {
        let file = open(may_lose_power(base.storage.snapshot()), &keys);
        let mut history = vec![contents(&base)];
        // A block that is written is damage after a crash in the midst of that.
        let writes = ops.iter().any(|op| matches!(op, Op::Write(..)));
        for op in &ops {
            apply(&file, op, &mut buffer).unwrap();
            add_state(&mut history, op);
            for image in (0..20).flat_map(|seed| file.storage.sampled_crash_images(seed)) {
                keeps_what_was_synced(image.clone(), &history, &keys);
                let left = open(MemoryStorage::new(image), &keys);
                let len = index(left.plain_len());
                let read = left.read_at(0, len, &mut buffer).map(drop);
                assert!(read.is_ok() || writes, "{:?} after {ops:?}", read.map_err(|error| error.chain()));
            }
        }
    }
}

/// A backing file that ends within a main place shows a length that is shorter than what was there.
#[test]
fn a_torn_write_of_new_blocks_never_makes_the_file_shorter() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    base.write_at(0, &pattern(2 * BLOCK_LEN, 1), &mut buffer).unwrap();
    let file = open(may_lose_power(base.storage.snapshot()), &keys);
    file.write_at(2 * BLOCK, &pattern(BLOCK_LEN, 2), &mut buffer).unwrap();
    for image in file.storage.crash_images() {
        let reopened = open(MemoryStorage::new(image), &keys);
        assert!([2 * BLOCK, 3 * BLOCK].contains(&reopened.plain_len()), "{} bytes", reopened.plain_len());
        assert_eq!(reopened.read_at(0, 2 * BLOCK_LEN, &mut buffer).unwrap(), pattern(2 * BLOCK_LEN, 1));
    }
}

/// What is recorded without a sync must be true of every length that a crash brings back, also where the file system lets later
/// writes overtake a change of length.
#[test]
fn a_write_without_a_sync_never_says_that_a_synced_file_was_cut_off() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    base.write_at(0, &pattern(600, 1), &mut buffer).unwrap();
    base.sync().unwrap();
    for ops in [
        vec![Op::Write(600, 9000, 2)],
        vec![Op::SetLen(0), Op::Write(0, 9000, 2)],
        vec![Op::SetLen(0), Op::Write(0, 50, 2)],
        vec![Op::SetLen(0), Op::Write(0, 9000, 2), Op::SetLen(0), Op::Write(0, 5000, 3)],
        vec![Op::SetLen(50), Op::Write(50, 9000, 2)],
    ] {
        let file = open(CrashStorage::new(base.storage.snapshot()), &keys);
        for op in &ops {
            apply(&file, op, &mut buffer).unwrap();
        }
        for image in (0..40).flat_map(|seed| file.storage.sampled_crash_images(seed)) {
            let left = HomeFile::open(MemoryStorage::new(image), &keys).map(|file| file.is_cut_off());
            assert!(left.is_ok_and(|cut_off| !cut_off), "after {ops:?}");
        }
    }
}

/// Two crashes one after the other: what the first one left readable survives the second one.
#[test]
fn a_block_survives_a_second_crash_after_a_torn_write() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    apply(&base, &Op::Write(0, BLOCK_LEN, 1), &mut buffer).unwrap();
    let first = open(CrashStorage::new(base.storage.snapshot()), &keys);
    apply(&first, &Op::Write(0, BLOCK_LEN, 2), &mut buffer).unwrap();
    for image in first.storage.crash_images().step_by(7) {
        let left = contents(&open(MemoryStorage::new(image.clone()), &keys));
        for (number, len) in [BLOCK_LEN, 700].into_iter().enumerate() {
            let second = open(may_lose_power(image.clone()), &keys);
            let op = Op::Write(0, len, 3);
            apply(&second, &op, &mut buffer).unwrap();
            let mut done = left.clone();
            apply_to_model(&mut done, &op);
            for image in second.storage.sampled_crash_images(number as u64) {
                keeps_what_was_synced(image, &vec![left.clone(), done.clone()], &keys);
            }
        }
    }
}

/// The daemon was killed after an unsynced write: what it left is not durable, so the synced version must stay.
#[test]
fn a_write_after_a_restart_spares_the_synced_version() {
    let keys = keys();
    let mut buffer = request_buffer();
    let file = open(may_lose_power(Image::default()), &keys);
    let mut history = vec![Vec::new()];
    let ops = [Op::Write(0, BLOCK_LEN, 1), Op::Sync, Op::Write(0, BLOCK_LEN, 2), Op::Write(0, BLOCK_LEN, 3)];
    for op in &ops[..3] {
        apply(&file, op, &mut buffer).unwrap();
        if let Op::Sync = op {
            file.storage.forget_past();
        }
    }
    let file = open(file.storage, &keys);
    apply(&file, &ops[3], &mut buffer).unwrap();
    ops.iter().for_each(|op| add_state(&mut history, op));
    history.drain(..2);
    for image in file.storage.sampled_crash_images(1) {
        keeps_what_was_synced(image, &history, &keys);
    }
}

/// As above, where the write that left something unsynced failed half-way.
#[test]
fn a_write_after_a_failed_one_spares_the_synced_version() {
    let keys = keys();
    let mut buffer = request_buffer();
    let states: History = (1..4).map(|seed| pattern(BLOCK_LEN, seed)).collect();
    for fault in 0..3 {
        let file = open(FaultStorage::new(may_lose_power(Image::default()), libc::EIO), &keys);
        file.write_at(0, &states[0], &mut buffer).unwrap();
        file.sync().unwrap();
        file.storage.inner().forget_past();
        file.storage.fail_after(fault);
        file.write_at(0, &states[1], &mut buffer).unwrap_err();
        file.write_at(0, &states[2], &mut buffer).unwrap();
        for image in file.storage.inner().sampled_crash_images(fault.unsigned_abs()) {
            keeps_what_was_synced(image, &states, &keys);
        }
    }
}

#[test]
fn what_was_cut_off_does_not_come_back_in_a_crash() {
    let keys = keys();
    let mut buffer = request_buffer();
    for (blocks, kept) in [(1, 100), (3, 100), (3, BLOCK), (3, BLOCK + 100)] {
        let base = new_file(&keys);
        base.write_at(0, &vec![7; blocks * BLOCK_LEN], &mut buffer).unwrap();
        let file = open(may_lose_power(base.storage.snapshot()), &keys);
        file.set_len(kept).unwrap();
        file.set_len(4 * BLOCK).unwrap();
        for image in file.storage.sampled_crash_images(kept) {
            let reopened = open(MemoryStorage::new(image), &keys);
            let seen = contents(&reopened);
            let came_back = seen.len() == 4 * BLOCK_LEN && seen[index(kept)..].iter().any(|&byte| byte != 0);
            assert!(!came_back, "the file grew before what was cut off was gone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_happened_synced_blocks_are_whole(ops in prop::collection::vec(op(), 1..12), seed in any::<u64>()) {
        let keys = keys();
        let mut buffer = request_buffer();
        let mut file = open(may_lose_power(Image::default()), &keys);
        let mut history = vec![Vec::new()];
        for op in &ops {
            if let Op::Reopen = op {
                // The daemon was killed; the host keeps running.
                let HomeFile { storage, .. } = file;
                file = open(storage, &keys);
            }
            apply(&file, op, &mut buffer).unwrap();
            add_state(&mut history, op);
            for image in file.storage.sampled_crash_images(seed) {
                keeps_what_was_synced(image, &history, &keys);
            }
            file.storage.forget_past();
            if let Op::Sync = op {
                history.drain(..history.len() - 1);
                for image in file.storage.sampled_crash_images(seed) {
                    keeps_what_was_synced(image, &history, &keys);
                }
            }
        }
    }
}
