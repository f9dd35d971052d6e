//! What a power cut leaves after a process was killed before its sync, and another one went on: what the one had changed looked to
//! the other as if it were durable.

use super::crash::{History, add_state, keeps_what_was_synced, may_lose_power};
use super::*;
use crate::storage::memory::{CrashStorage, Image, StopStorage};

/// Kills a process that does `killed` after each number of calls, lets the next one do `then`, and cuts the power at any moment.
fn whenever_killed(durable: &Image, killed: &Op, then: &[Op], samples: u64, keys: &HomeKeys) {
    let mut buffer = request_buffer();
    let synced = contents(&open(MemoryStorage::new(durable.clone()), keys));
    let mut last = None;
    for calls in 0.. {
        let file = open(FaultStorage::new(may_lose_power(durable.clone()), libc::EIO), keys);
        file.storage.fail_some_after(calls, i64::MAX);
        let was_killed = apply(&file, killed, &mut buffer).is_err();
        file.storage.disarm();
        // Most calls only read.
        let left = Some((file.storage.inner().snapshot().bytes(), file.storage.inner().syncs()));
        if was_killed && left == last {
            continue;
        }
        last = left;
        let mut history = vec![synced.clone()];
        add_state(&mut history, killed);
        let file = open(file.storage, keys);
        history.push(contents(&file));
        for op in then {
            apply(&file, op, &mut buffer).unwrap();
            add_state(&mut history, op);
        }
        let storage = file.storage.inner();
        let seeds = || (0..samples).map(|sample| 1000 * sample);
        seeds().flat_map(|seed| storage.sampled_crash_images(seed)).for_each(|image| {
            keeps_what_was_synced(image, &history, keys);
        });
        seeds().flat_map(|seed| storage.sampled_crash_images_before_sync(seed)).for_each(|image| {
            keeps_each_block(image, &history, keys);
        });
        if !was_killed {
            return;
        }
    }
}

/// As long as nothing was synced again, no block of what was synced may be damaged, whatever was to become of it.
fn keeps_each_block(image: Image, history: &History, keys: &HomeKeys) {
    let file = open(MemoryStorage::new(image), keys);
    let len = history.iter().map(Vec::len).min().unwrap_or_default().min(index(file.plain_len()));
    for (number, block) in history[0][..len].chunks(BLOCK_LEN).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            let read = file.read_at(number as u64 * BLOCK, block.len(), &mut request_buffer()).map(drop);
            read.unwrap_or_else(|error| panic!("what was synced: {}", error.chain()));
        }
    }
}

/// A file that holds this, all of it durable.
fn durable(ops: &[Op], keys: &HomeKeys) -> Image {
    let file = new_file(keys);
    ops.iter().for_each(|op| apply(&file, op, &mut request_buffer()).unwrap());
    file.storage.snapshot()
}

/// The medium still has the entries of the block that looks like a hole.
#[test]
fn a_block_that_a_killed_process_discarded_is_not_damaged() {
    let keys = keys();
    let base = durable(&[Op::Write(0, 3 * BLOCK_LEN, 1), Op::Sync], &keys);
    for killed in [Op::Punch(BLOCK, BLOCK), Op::Zero(BLOCK, 2 * BLOCK)] {
        whenever_killed(&base, &killed, &[Op::Write(BLOCK, BLOCK_LEN, 2)], 1, &keys);
        whenever_killed(&base, &killed, &[Op::Write(BLOCK + 9, 90, 2), Op::Write(BLOCK, BLOCK_LEN, 3)], 1, &keys);
        whenever_killed(&base, &killed, std::slice::from_ref(&killed), 1, &keys);
    }
}

/// The medium still has what lay past the end.
#[test]
fn what_a_killed_process_cleaned_does_not_come_back() {
    let keys = keys();
    for kept in [100, BLOCK] {
        let base = durable(&[Op::Write(0, 3 * BLOCK_LEN, 1), Op::Sync, Op::SetLen(kept), Op::Sync], &keys);
        for killed in [Op::SetLen(4 * BLOCK), Op::Write(3 * BLOCK, 10, 2)] {
            for then in [Op::SetLen(4 * BLOCK), Op::Write(3 * BLOCK, 10, 3)] {
                whenever_killed(&base, &killed, &[then], 1, &keys);
            }
        }
    }
}

/// The medium still has the entry before the one that was its successor.
#[test]
fn a_block_whose_successor_was_taken_over_is_not_damaged() {
    let keys = keys();
    let first = open(StopStorage::new(durable(&[], &keys)), &keys);
    let mut buffer = request_buffer();
    apply(&first, &Op::Write(0, BLOCK_LEN, 1), &mut buffer).unwrap();
    first.storage.take_stops();
    apply(&first, &Op::Write(0, BLOCK_LEN, 2), &mut buffer).unwrap();
    for left in first.storage.take_stops() {
        let then = [Op::Write(0, BLOCK_LEN, 4), Op::Write(0, BLOCK_LEN, 5)];
        whenever_killed(&left, &Op::Write(0, BLOCK_LEN, 3), &then, 12, &keys);
    }
}

/// The medium still says how long the file was, and that it has no holes.
#[test]
fn what_a_killed_process_said_of_the_file_as_a_whole_is_not_taken_for_durable() {
    let keys = keys();
    let base = durable(&[Op::Write(0, 3 * BLOCK_LEN, 1), Op::Sync], &keys);
    for len in [0, 700] {
        for then in [Op::SetLen(len), Op::SetLen(BLOCK + 5), Op::BeginAnew] {
            whenever_killed(&base, &Op::SetLen(len), &[then], 1, &keys);
        }
    }
}

/// How many syncs it takes to open a file, to do this, and to close it.
fn syncs_of(storage: CrashStorage, ops: &[Op], keys: &HomeKeys) -> (usize, CrashStorage) {
    storage.forget_past();
    let file = open(storage, keys);
    ops.iter().for_each(|op| apply(&file, op, &mut request_buffer()).unwrap());
    (file.storage.syncs(), file.storage)
}

#[test]
fn only_a_change_of_what_others_left_takes_a_sync() {
    let keys = keys();
    let start = |ops: &[Op]| may_lose_power(durable(ops, &keys));
    let synced = [Op::Write(0, 9000, 1), Op::Sync];
    let whole_group = [Op::Write(0, index(GROUP), 1), Op::Sync];
    for (what, storage, ops, expected) in [
        ("a new file", may_lose_power(Image::default()), vec![Op::Write(0, 9000, 1), Op::Write(5, 9000, 1)], 0),
        ("a new sparse file", may_lose_power(Image::default()), vec![Op::SetLen(9000), Op::Write(5000, 9, 1)], 0),
        ("an empty one", start(&[Op::SetLen(1), Op::SetLen(0)]), vec![Op::Write(0, 9000, 1), Op::Write(5, 90, 1)], 0),
        ("one that is written anew", start(&synced), vec![Op::BeginAnew, Op::Write(0, 9000, 1), Op::Write(0, 9, 1)], 0),
        ("whole groups", start(&whole_group), vec![Op::Write(GROUP, 9000, 1), Op::Write(GROUP, 9, 1)], 0),
        ("appending", start(&synced), vec![Op::Write(9000, 100, 2), Op::Write(9100, 100, 2)], 1),
        ("overwriting", start(&synced), vec![Op::Write(0, 100, 2), Op::Write(5000, 100, 2)], 1),
        ("cutting off", start(&synced), vec![Op::SetLen(100)], 1),
        ("cutting off what was never synced", start(&synced[..1]), vec![Op::SetLen(100)], 1),
        ("reading and syncing", start(&synced), vec![Op::Sync], 1),
    ] {
        assert_eq!(syncs_of(storage, &ops, &keys).0, expected, "{what}");
    }
}

/// What a line leaves that was not synced took one for the next line before, too.
#[test]
fn a_log_that_is_opened_for_each_line_takes_a_sync_for_each() {
    let keys = keys();
    let mut storage = may_lose_power(Image::default());
    for line in 0..60 {
        let (syncs, written) = syncs_of(storage, &[Op::Write(line * 100, 100, 1)], &keys);
        assert_eq!(syncs, usize::from(line > 0), "line {line}");
        storage = written;
    }
}
