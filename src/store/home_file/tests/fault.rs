//! Every operation of a home file, failed at each of its storage calls in each way that storage fails.

use super::*;
use crate::storage::memory::Fault;

const FAULTS: [Fault; 6] = [
    Fault::Refused(libc::EIO),
    Fault::Refused(libc::ENOSPC),
    Fault::Torn(libc::EIO),
    Fault::Torn(libc::ENOSPC),
    Fault::Late(libc::EIO),
    Fault::ShortRead,
];

fn is_said(error: &Error, fault: Fault) -> bool {
    match fault {
        Fault::Refused(errno) | Fault::Torn(errno) | Fault::Late(errno) => error.os_error() == Some(errno),
        Fault::ShortRead => error.kind() == Kind::Corrupt,
    }
}

/// Bytes that an operation may change in a file that holds `start`.
fn changed_by(op: &Op, start: &[u8]) -> std::ops::Range<usize> {
    match *op {
        Op::Write(offset, len, _) => index(offset)..index(offset) + len,
        Op::SetLen(len) => index(len).min(start.len())..usize::MAX,
        Op::BeginAnew => 0..usize::MAX,
        Op::Punch(offset, len) | Op::Zero(offset, len) => index(offset)..index(offset + len),
        Op::Allocate(..) | Op::Sync | Op::Reopen => 0..0,
    }
}

fn check_after_failure(seen: &[u8], op: &Op, old: &[u8], done: &[u8], what: &str) {
    assert!([old.len(), done.len()].contains(&seen.len()), "{what}: length {}", seen.len());
    let changed = changed_by(op, old);
    for (at, byte) in seen.iter().enumerate() {
        let (old, new) = (old.get(at).unwrap_or(&0), done.get(at).unwrap_or(&0));
        assert!(byte == old || (changed.contains(&at) && byte == new), "{what}: byte {at}");
    }
}

/// An error that says why, the old length or the new, nothing outside the operation changed, and a retry succeeds. Before
/// it, the file is as it was opened, or synced, or written to since.
#[test]
fn every_storage_call_may_fail() {
    let keys = keys();
    let mut buffer = request_buffer();
    let base = new_file(&keys);
    let mut start = Vec::new();
    for op in [Op::Write(0, 9000, 1), Op::Sync, Op::Write(4096, 100, 2)] {
        apply(&base, &op, &mut buffer).unwrap();
        apply_to_model(&mut start, &op);
    }
    let before: [&[Op]; 3] = [&[], &[Op::Sync], &[Op::Sync, Op::Write(0, 9000, 3)]];
    let ops = [
        Op::Write(100, 50, 9),
        Op::Write(4000, 600, 9),
        Op::Write(0, 8192, 9),
        Op::Write(8999, 3000, 9),
        Op::Write(20_000, 100, 9),
        Op::Write(GROUP - 100, 200, 9),
        Op::SetLen(0),
        Op::BeginAnew,
        Op::SetLen(5003),
        Op::SetLen(30_000),
        Op::Punch(100, 8000),
        Op::Zero(100, 8000),
        Op::Allocate(0, 20_000, true),
        Op::Sync,
    ];
    for (before, op) in before.iter().flat_map(|before| ops.iter().map(move |op| (before, op))) {
        for (fault, calls) in FAULTS.into_iter().flat_map(|fault| (0..24).map(move |calls| (fault, calls))) {
            let what = format!("{op:?} after {before:?}, {fault:?} after {calls} calls");
            let file = open(FaultStorage::with(MemoryStorage::new(base.storage.snapshot()), fault), &keys);
            let mut old = start.clone();
            for op in *before {
                apply(&file, op, &mut buffer).unwrap();
                apply_to_model(&mut old, op);
            }
            let mut done = old.clone();
            apply_to_model(&mut done, op);
            file.storage.fail_after(calls);
            let result = apply(&file, op, &mut buffer);
            file.storage.disarm();
            let Err(error) = &result else {
                // Nothing failed, or it costs nothing, as in a sync's housekeeping.
                assert_same(&contents(&file), &done, &what);
                continue;
            };
            assert!(is_said(error, fault), "{what}: {}", error.chain());
            check_after_failure(&contents(&file), op, &old, &done, &what);
            // A sync that failed is not forgotten until the file is opened again.
            let file = match file.sync() {
                Ok(()) => file,
                Err(_) => open(FaultStorage::with(MemoryStorage::new(file.storage.inner().snapshot()), fault), &keys),
            };
            apply(&file, op, &mut buffer).unwrap();
            assert_same(&contents(&file), &done, &what);
            let reopened = open(MemoryStorage::new(file.storage.inner().snapshot()), &keys);
            assert_same(&contents(&reopened), &done, &what);
        }
    }
}

/// What only reads: opening, reading, looking for data and holes.
#[test]
fn every_failed_read_is_said_and_can_be_repeated() {
    let keys = keys();
    let base = new_file(&keys);
    let model = pattern(9000, 1);
    base.write_at(0, &model, &mut request_buffer()).unwrap();
    base.set_len(20_000).unwrap();
    for fault in FAULTS {
        for calls in 0..6 {
            let storage = FaultStorage::with(MemoryStorage::new(base.storage.snapshot()), fault);
            storage.fail_after(calls);
            let file = match HomeFile::open(storage, &keys) {
                Err(error) => {
                    assert!(is_said(&error, fault), "opening, {fault:?}: {}", error.chain());
                    continue;
                }
                Ok(file) => file,
            };
            let mut buffer = request_buffer();
            let read = |buffer: &mut [u8]| file.read_at(0, 9000, buffer).map(<[u8]>::to_vec);
            file.storage.fail_after(calls);
            match read(&mut buffer) {
                Ok(seen) => assert_same(&seen, &model, &(fault, calls)),
                Err(error) => assert!(is_said(&error, fault), "reading, {fault:?}: {}", error.chain()),
            }
            for seek in [HomeFile::seek_data, HomeFile::seek_hole] {
                file.storage.disarm();
                let right = seek(&file, 0).unwrap();
                file.storage.fail_after(calls);
                match seek(&file, 0) {
                    Ok(found) => assert_eq!(found, right, "{fault:?} after {calls} calls"),
                    Err(error) => assert!(is_said(&error, fault), "seeking, {fault:?}: {}", error.chain()),
                }
            }
            file.storage.disarm();
            assert_same(&read(&mut buffer).unwrap(), &model, &"again");
        }
    }
}
