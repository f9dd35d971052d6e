use std::path::PathBuf;

use super::stored::write;
use super::*;
use crate::crypto::random;
use crate::format::members::Member;
use crate::storage::memory::{Countdown, CrashStorage, FaultStorage, MemoryStorage};
use crate::vm::datastore::Datastore;
use crate::vm::{folder, keyring};

fn list(sequence: u64) -> MemberList {
    let names = [(PathBuf::from(format!("{sequence}.raw")), true)].into();
    let member = Member { dek_generation: 0, sequence: 1, names };
    MemberList { sequence, disks: [(Uuid::from_u128(7), member)].into() }
}

/// Changes in a row, cut off at any call: what counts after that is the last durable list or one that was written after it.
#[test]
fn a_change_that_is_cut_off_anywhere_leaves_the_list_before_it_or_after_it() {
    let keys = [MembersKey::new(Uuid::from_u128(1), &random::home_dek().unwrap()).unwrap()];
    let bytes = |sequence| keys[0].encode(&list(sequence)).unwrap();
    let image = MemoryStorage::default();
    COPY_OFFSETS.iter().for_each(|offset| image.write_at(*offset, &bytes(1)).unwrap());
    for stop in 0.. {
        let calls = Countdown::end_after(stop);
        let storage = FaultStorage::sharing(CrashStorage::new(image.image()), libc::EIO, calls);
        let (mut copy, mut durable, mut written) = (1, 1, 1);
        let mut was_ended = false;
        for (sequence, durably) in [(2, true), (3, false), (4, true), (5, true), (6, false), (7, false), (8, true)] {
            written = sequence;
            // What a host remembers, the smaller of both copies, is durable when it is read: no power cut leaves less.
            if let Ok(Copies { other: Some(other), .. }) = read(&storage, &keys) {
                assert!(other.sequence <= durable, "{} is remembered, {durable} is durable", other.sequence);
            }
            let Ok(now) = write(&storage, &bytes(sequence), copy, durably) else {
                was_ended = true;
                break;
            };
            copy = now;
            durable = if durably { sequence } else { durable };
        }
        let crashed = storage.inner();
        crashed.forget_past();
        for survivor in crashed.crash_images() {
            let left = read(&MemoryStorage::new(survivor), &keys).unwrap().list;
            assert!((durable..=written).contains(&left.sequence), "{} at {stop}", left.sequence);
            assert_eq!(left, list(left.sequence));
        }
        if !was_ended {
            assert!(stop > 10);
            break;
        }
    }
}

#[test]
fn what_was_removed_durably_is_in_no_copy() {
    let keys = [MembersKey::new(Uuid::from_u128(1), &random::home_dek().unwrap()).unwrap()];
    let storage = MemoryStorage::default();
    let bytes = |sequence| keys[0].encode(&list(sequence)).unwrap();
    COPY_OFFSETS.iter().for_each(|offset| storage.write_at(*offset, &bytes(1)).unwrap());
    write(&storage, &bytes(2), 0, true).unwrap();
    for damaged in COPY_OFFSETS {
        let image = MemoryStorage::new(storage.snapshot());
        image.write_at(damaged + 20, b"damage").unwrap();
        assert_eq!(read(&image, &keys).unwrap().list, list(2));
    }
}

#[test]
fn a_list_under_the_former_key_of_a_home_opens_and_without_any_copy_there_is_none() {
    let key = || MembersKey::new(Uuid::from_u128(1), &random::home_dek().unwrap()).unwrap();
    let both = [key(), key()];
    let storage = MemoryStorage::default();
    storage.write_at(COPY_OFFSETS[1], &both[1].encode(&list(3)).unwrap()).unwrap();
    let kind = |storage: &MemoryStorage, keys| read(storage, keys).err().unwrap().kind();
    assert_eq!(read(&storage, &both).unwrap().list, list(3));
    assert_eq!(kind(&storage, &both[..1]), Kind::Corrupt);
    assert_eq!(kind(&MemoryStorage::default(), &both), Kind::Corrupt);
}

/// What was read before another thread changed the list is not taken for one that was put back.
#[test]
fn what_was_read_before_a_change_does_not_replace_what_is_known_since() {
    let store = Datastore::new(&["web01"]);
    let dir = folder::open_dir(&store.path("web01")).unwrap();
    let header = folder::read_home(&dir).unwrap().unwrap().header;
    let providers = store.providers();
    let dek = keyring::unlock(&header, &providers.fetch_all(header.claims().slots.key_ids().cloned())).unwrap();
    let home = header.verify(&dek).unwrap();
    let members = Members::open(&dir, (&home, &dek), &FileLocks, &Memory::of(&providers)).unwrap().unwrap();
    let stamp_now = || members.known.lock().as_ref().unwrap().stamp;
    let change = |number| members.begin().unwrap().make(list(number)).unwrap();
    change(1);
    let (before, read_by_it) = (stamp_now(), members.read(&members.file(OFlags::RDONLY).unwrap()).unwrap());
    let learn = |before, is_last| {
        members.learn(before, read_by_it.0.list.clone(), read_by_it.0.other.as_ref(), (read_by_it.1, is_last)).unwrap()
    };
    change(2);
    let newest = members.list().unwrap();
    assert!(learn(Some(before), false).is_none(), "to be read again");
    assert_eq!(learn(Some(before), true), Some(newest));
    assert!(learn(Some(stamp_now()), false).is_none(), "a change of which only the memory knows");
    assert!(members.past().unwrap().gone_back().is_none());
    learn(Some(stamp_now()), true).unwrap();
    assert!(members.past().unwrap().gone_back().is_some());
    members.allow_changes().unwrap(); // by another look
    assert!(members.past().unwrap().gone_back().is_none());
}
