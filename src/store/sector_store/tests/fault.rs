//! Every operation of a disk, failed at each of its storage calls in each way that storage fails.

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

/// An error that says why, the old length or the new, nothing outside the operation changed, and a retry succeeds.
fn every_storage_call_may_fail(sector_size: SectorSize) {
    let keys = keys(sector_size);
    let (base, start) = prepared(&keys, &[Op::Write(0, 4996, 1), Op::Punch(2048, 512)]);
    let mut buffer = request_buffer();
    for op in ops_of_every_alignment(start.len() as u64) {
        let mut done = start.clone();
        apply_to_model(&mut done, &op);
        for (fault, calls) in FAULTS.into_iter().flat_map(|fault| (0..20).map(move |calls| (fault, calls))) {
            let what = format!("{op:?}, {fault:?} after {calls} calls");
            let disk = open(FaultStorage::with(MemoryStorage::new(base.clone()), fault), &keys);
            disk.storage.fail_after(calls);
            let result = apply(&disk, &op, &mut buffer);
            if !disk.storage.disarm() {
                assert!(result.is_ok() && contents(&disk) == done, "{what}: nothing failed");
                continue;
            }
            let error = result.expect_err(&what);
            assert!(is_said(&error, fault), "{what}: {}", error.chain());
            check_after_failure(&contents(&disk), &op, &start, &done, &what);
            let stored = open(MemoryStorage::new(disk.storage.inner().snapshot()), &keys);
            check_after_failure(&contents(&stored), &op, &start, &done, &format!("{what}, reopened"));
            // A sync that failed is not forgotten until the disk is opened again.
            let disk = match disk.sync() {
                Ok(()) => disk,
                Err(_) => open(FaultStorage::with(MemoryStorage::new(disk.storage.inner().snapshot()), fault), &keys),
            };
            apply(&disk, &op, &mut buffer).unwrap();
            assert!(contents(&disk) == done, "{what}: not done by a retry");
            let reopened = open(MemoryStorage::new(disk.storage.inner().snapshot()), &keys);
            assert!(contents(&reopened) == done, "{what}: not there after reopening");
        }
    }
}

fn check_after_failure(seen: &[u8], op: &Op, start: &[u8], done: &[u8], what: &str) {
    let lengths = [start.len(), done.len(), done.len().next_multiple_of(BLOCK_LEN)];
    assert!(lengths.contains(&seen.len()), "{what}: length {}", seen.len());
    let changed = units_of(op, start);
    for (at, &byte) in seen.iter().enumerate() {
        let old = start.get(at).copied().unwrap_or(0);
        let new = done.get(at).copied().unwrap_or(0);
        let inside = changed.contains(&(at as u64));
        assert!(byte == old || (inside && byte == new), "{what}: byte {at} is {byte}, was {old}, would be {new}");
    }
}

#[test]
fn every_storage_call_may_fail_in_sectors_of_4096() {
    every_storage_call_may_fail(SectorSize::DEFAULT);
}

#[test]
fn every_storage_call_may_fail_in_sectors_of_512() {
    every_storage_call_may_fail(SectorSize::SMALL);
}

/// What only reads: opening, reading, looking for data and holes.
#[test]
fn every_failed_read_is_said_and_can_be_repeated() {
    let keys = keys(SectorSize::DEFAULT);
    let (base, start) = prepared(&keys, &[Op::Write(0, 4996, 1)]);
    type Use = fn(FaultStorage<MemoryStorage>, &Keys) -> Result<FaultStorage<MemoryStorage>>;
    let uses: [(&str, Use); 2] = [
        ("opening", |storage, keys| {
            let disk = unlock(storage, &keys.dek)?;
            disk.prepare_writes()?;
            Ok(disk.storage)
        }),
        ("seeking", |storage, keys| {
            storage.fail_after(i64::MAX);
            let disk = open(storage, keys);
            disk.storage.fail_after(0);
            assert!(disk.seek_data(0).is_err());
            disk.storage.fail_after(0);
            assert!(disk.seek_hole(0).is_err());
            assert_eq!((disk.seek_data(0)?, disk.seek_hole(0)?), (Some(0), Some(4996)));
            Ok(disk.storage)
        }),
    ];
    for (what, use_it) in uses {
        for (fault, calls) in FAULTS[..5].iter().flat_map(|&fault| (0..10).map(move |calls| (fault, calls))) {
            let storage = FaultStorage::with(MemoryStorage::new(base.clone()), fault);
            storage.fail_after(calls);
            match use_it(storage, &keys) {
                Ok(storage) => assert!(what == "seeking" || !storage.has_failed(), "{what}: {fault:?} was swallowed"),
                Err(error) => assert!(is_said(&error, fault), "{what}: {}", error.chain()),
            }
        }
    }
    let disk = open(FaultStorage::with(MemoryStorage::new(base), Fault::ShortRead), &keys);
    disk.storage.fail_after(0);
    let mut buffer = request_buffer();
    assert_eq!(disk.read_at(0, 4996, &mut buffer).unwrap_err().kind(), Kind::Corrupt);
    assert!(contents(&disk) == start);
}

/// The header is read twice, since there are two copies: one short or failed read is an error or is made good by the other.
#[test]
fn a_short_read_of_a_header_copy_is_damage_of_that_copy() {
    let keys = keys(SectorSize::DEFAULT);
    let (base, _) = prepared(&keys, &[]);
    for calls in 0..2 {
        let storage = FaultStorage::with(MemoryStorage::new(base.clone()), Fault::ShortRead);
        storage.fail_after(calls);
        let stored = header_area::load(&storage, ComponentKind::Disk).unwrap();
        assert!(matches!(stored.other, header_area::OtherCopy::Damaged(_)));
    }
}

#[test]
fn a_creation_that_fails_can_be_repeated() {
    let keys = keys(SectorSize::DEFAULT);
    for (fault, calls) in FAULTS[..5].iter().flat_map(|&fault| (0..10).map(move |calls| (fault, calls))) {
        let storage = FaultStorage::with(MemoryStorage::default(), fault);
        storage.fail_after(calls);
        let created = create(&storage, &keys.header, &keys.dek);
        assert_eq!(created.is_err(), storage.disarm(), "{fault:?} after {calls} calls");
        create(&storage, &keys.header, &keys.dek).unwrap();
        assert_eq!(open(storage, &keys).plain_len(), 0);
    }
}

/// A file that became shorter while its end was looked at is damage: what cannot be read is not zeros.
#[test]
fn a_mark_of_the_length_that_is_cut_off_is_damage() {
    let keys = keys(SectorSize::DEFAULT);
    let (base, _) = prepared(&keys, &[Op::Write(0, 1000, 1)]);
    let mut said = Vec::new();
    for calls in 0..20 {
        let storage = FaultStorage::with(MemoryStorage::new(base.clone()), Fault::ShortRead);
        let disk = unlock(storage, &keys.dek).unwrap();
        disk.storage.fail_after(calls);
        let prepared = disk.prepare_writes();
        if !disk.storage.disarm() {
            prepared.unwrap();
            break;
        }
        let error = prepared.unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "after {calls} reads");
        said.push(error.to_string());
    }
    assert!(said.contains(&"the mark of the disk's length has 4 bytes of 8".to_owned()), "{said:?}");
}
