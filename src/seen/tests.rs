//! What is taken for older, and what becomes of a memory that is shared, damaged or full.

use std::fs;

use super::file::MAX_RECORDS;
use super::*;
use crate::crypto::random;
use crate::format::header::{Header, Shape, Slot, TRANSITION_ID_LEN, Transition, TransitionId};
use crate::key::{Dek, KeyCheck, KeyId, ProviderName, WrappedDek};

/// A host's memory in a folder of its own.
fn memory_in(folder: &Path) -> Arc<Memory> {
    let place = Place { file: folder.join("state/seen"), key: folder.join("memory.key") };
    Arc::new(Memory { place: Some(place), servers: Servers::default(), state: Mutex::default() })
}

fn home(dek: &Dek) -> Header {
    let key_id = KeyId::new(ProviderName::new("local").unwrap(), "1").unwrap();
    let slot = Slot {
        key_id,
        check: KeyCheck([1; 8]),
        wrapped: WrappedDek(dek.bytes().iter().chain(&[0; 8]).copied().collect()),
    };
    Header::new(random::uuid().unwrap(), Shape::Home, String::new(), slot)
}

fn point(header: &Header, dek: &Dek) -> Point {
    Point::written(header, dek).unwrap()
}

fn updated(header: &Header, label: &str) -> Header {
    Header { sequence: header.sequence + 1, label: label.to_owned(), ..header.clone() }
}

fn deep_rekeyed(header: &Header, old: &Dek, new: &Dek) -> Header {
    let id = TransitionId([7; TRANSITION_ID_LEN]);
    let transition = Some(Transition::new(id, old, new).unwrap());
    let dek_generation = header.dek_generation + 1;
    Header { dek_generation, transition, sequence: header.sequence + 2, slots: home(new).slots, ..header.clone() }
}

#[test]
fn what_is_older_has_gone_back_and_what_says_the_same_has_not() {
    let memory: Arc<Memory> = Arc::default();
    let may_change = |there: Point| memory.meet(there).allow_changes().is_ok();
    let dek = random::home_dek().unwrap();
    let first = home(&dek);
    let second = updated(&first, "b");
    let third = updated(&second, "b");
    for header in [&first, &second, &third, &second, &third] {
        assert!(may_change(point(header, &dek)), "sequence {}", header.sequence);
    }
    assert!(!may_change(point(&first, &dek)), "the header before the update");
    assert!(
        !may_change(point(&Header { label: "c".into(), ..third.clone() }, &dek)),
        "another one of the same sequence"
    );
    let fourth = updated(&third, "d");
    assert!(may_change(point(&fourth, &dek)));
    assert!(!may_change(point(&third, &dek)));
    // The copy in use is lost, and the other one, which says the same, is updated.
    let fifth = updated(&fourth, "d");
    for header in [&fifth, &fourth, &updated(&fourth, "e")] {
        assert!(may_change(point(header, &dek)), "label {}, sequence {}", header.label, header.sequence);
    }
    assert!(!may_change(point(&fourth, &dek)));
}

/// What was taken back is not brought back by way of a header that says what the newest one says.
#[test]
fn headers_between_two_that_say_the_same_stay_older() {
    let memory: Arc<Memory> = Arc::default();
    let may_change = |there: Point| memory.meet(there).allow_changes().is_ok();
    let dek = random::home_dek().unwrap();
    let first = updated(&home(&dek), "a");
    let added = updated(&updated(&first, "b"), "b");
    let removed = updated(&updated(&added, "a"), "a");
    for header in [&first, &added, &removed] {
        assert!(may_change(point(header, &dek)));
    }
    assert!(!may_change(point(&first, &dek)));
    assert!(may_change(point(&Header { sequence: removed.sequence - 1, ..removed.clone() }, &dek)));
    assert!(!may_change(point(&added, &dek)));
}

/// Also where another host took a header of before for the newest, and counted on.
#[test]
fn what_upgrade_has_added_does_not_vanish() {
    let memory: Arc<Memory> = Arc::default();
    let dek = random::home_dek().unwrap();
    let old = Header { state: None, binds_disks: false, lists_disks: false, ..home(&dek) };
    let bound = Header { binds_disks: true, ..updated(&updated(&old, ""), "") };
    assert!(memory.meet(point(&bound, &dek)).allow_changes().is_ok());
    let of_old = Header { sequence: bound.sequence + 10, ..updated(&old, "counted on") };
    let there = point(&of_old, &dek);
    let error = memory.allow(there.clone()).unwrap_err().chain();
    assert!(error.contains("without what `upgrade` added"), "{error}");
    let compared = |header: &Header| {
        let header = UnverifiedHeader::decode(&header.encode(&dek).unwrap()).unwrap();
        memory.recall(&header).unwrap().comparison
    };
    let next = Header { sequence: bound.sequence + 1, label: "c".into(), ..bound.clone() };
    let other_key = Header { dek_generation: 1, ..next.clone() };
    for (header, expected) in [
        (&of_old, Comparison::Older),
        (&old, Comparison::Older),
        (&bound, Comparison::Same),
        (&next, Comparison::Newer),
        (&other_key, Comparison::Newer),
    ] {
        assert_eq!(compared(header), expected, "sequence {}", header.sequence);
    }
    memory.accept(&memory.gone_back(&there).unwrap()).unwrap();
    assert!(memory.allow(there).is_ok());
}

#[test]
fn a_deep_rekey_is_not_undone_by_any_header_of_the_former_key() {
    let memory: Arc<Memory> = Arc::default();
    let (old, new) = (random::home_dek().unwrap(), random::home_dek().unwrap());
    let before = home(&old);
    let begun = deep_rekeyed(&before, &old, &new);
    let ended = Header { transition: None, sequence: begun.sequence + 4, ..begun.clone() };
    // A host that saw only the transition knows the former key by it.
    for header in [&begun, &ended] {
        assert!(memory.meet(point(header, &new)).allow_changes().is_ok());
    }
    assert!(memory.allow(point(&begun, &new)).is_err(), "the transition, after its end");
    for (dek_generation, sequence) in [(0, 1), (0, 1 << 40), (1, 1 << 40), (2, 1), (u32::MAX, u64::MAX)] {
        let forged = Header { dek_generation, sequence, ..before.clone() };
        let error = memory.allow(point(&forged, &old)).unwrap_err();
        assert_eq!(error.kind(), Kind::ReadOnly, "{}", error.chain());
    }
    assert!(
        memory.allow(point(&Header { dek_generation: 2, ..ended.clone() }, &new)).is_err(),
        "a rekey to the same key"
    );
    let third = random::home_dek().unwrap();
    assert!(memory.meet(point(&deep_rekeyed(&ended, &new, &third), &third)).allow_changes().is_ok(), "another host's");
    assert!(memory.allow(point(&ended, &new)).is_err());
}

#[test]
fn a_cursor_does_not_go_back_within_its_transition() {
    let memory: Arc<Memory> = Arc::default();
    let (old, new) = (random::home_dek().unwrap(), random::home_dek().unwrap());
    let begun = deep_rekeyed(&home(&old), &old, &new);
    let resumed = Header { sequence: begun.sequence + 2, ..begun.clone() };
    let ended = Header { transition: None, sequence: begun.sequence + 6, ..begun.clone() };
    assert!(memory.meet(point(&begun, &new).at(Some(1 << 20))).allow_changes().is_ok());
    assert!(memory.meet(point(&resumed, &new)).allow_changes().is_ok(), "how far it is was not looked at");
    let other_copy = Header { sequence: resumed.sequence - 1, ..resumed.clone() };
    for header in [&other_copy, &resumed] {
        assert!(memory.allow(point(header, &new).at(Some(4096))).is_err());
        assert!(memory.allow(point(header, &new).at(Some(1 << 20))).is_ok());
    }
    assert!(memory.meet(point(&ended, &new)).allow_changes().is_ok());
}

#[test]
fn what_is_accepted_is_the_newest_and_what_is_forgotten_was_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (random::home_dek().unwrap(), random::home_dek().unwrap());
    let before = home(&old);
    let begun = deep_rekeyed(&before, &old, &new);
    let (memory, other) = (memory_in(dir.path()), memory_in(dir.path()));
    memory.meet(point(&begun, &new));
    let past = memory.meet(point(&before, &old));
    memory.accept(past.gone_back().unwrap()).unwrap();
    assert!(past.allow_changes().is_ok(), "also for what has it open already");
    assert!(other.allow(point(&before, &old)).is_ok(), "and for other processes");
    assert!(memory.meet(point(&begun, &new)).allow_changes().is_ok());
    assert!(other.allow(point(&before, &old)).is_ok(), "what was met is not kept yet");
    memory.keep();
    assert!(other.allow(point(&before, &old)).is_err());
    memory.forget(before.uuid).unwrap();
    assert_eq!(other.describe(before.uuid), None);
    assert!(other.allow(point(&before, &old)).is_ok());
}

#[test]
fn processes_that_keep_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dek = random::home_dek().unwrap();
    let headers: Vec<Header> = (0..64).map(|_| updated(&home(&dek), "x")).collect();
    std::thread::scope(|scope| {
        for some in headers.chunks(8) {
            let (memory, dek) = (memory_in(dir.path()), &dek);
            scope.spawn(move || {
                for header in some {
                    memory.meet(point(header, dek));
                    memory.keep();
                }
            });
        }
    });
    let memory = memory_in(dir.path());
    assert!(headers.iter().all(|header| memory.describe(header.uuid).is_some()));
    use std::os::unix::fs::MetadataExt;
    for file in ["state/seen", "memory.key"] {
        assert_eq!(fs::metadata(dir.path().join(file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
}

/// What one process saw later is not taken back by one that saw less and keeps it later.
#[test]
fn a_later_keep_of_an_older_sight_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dek = random::home_dek().unwrap();
    let first = home(&dek);
    let third = updated(&updated(&first, "b"), "b");
    let (early, late) = (memory_in(dir.path()), memory_in(dir.path()));
    early.meet(point(&first, &dek));
    late.meet(point(&third, &dek));
    late.keep();
    early.keep();
    assert!(memory_in(dir.path()).allow(point(&first, &dek)).is_err());
    assert!(early.allow(point(&first, &dek)).is_err());
}

#[test]
fn each_damage_is_noticed_set_aside_and_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dek = random::home_dek().unwrap();
    let (first, file) = (home(&dek), dir.path().join("state/seen"));
    let second = updated(&updated(&first, "b"), "c");
    memory_in(dir.path()).meet(point(&second, &dek));
    let good = fs::read(&file).unwrap();
    let place = Place { file: file.clone(), key: dir.path().join("memory.key") };
    let lost = || place.load().unwrap().1;
    assert_eq!(lost(), None);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&file, &bad).unwrap();
        assert!(lost().is_some(), "byte {at}");
        fs::write(&file, &good[..at]).unwrap();
        assert!(lost().is_some(), "cut to {at}");
    }
    let memory = memory_in(dir.path());
    assert!(memory.meet(point(&first, &dek)).allow_changes().is_ok(), "a damaged memory shuts nothing out");
    memory.keep();
    assert!(lost().is_none() && dir.path().join("state/.seen.damaged").exists());
    fs::remove_file(&file).unwrap();
    assert!(lost().is_some_and(|lost| lost.contains("is gone")));
    crate::provider::private_file::create(&file, &[&good]).unwrap();
    fs::remove_file(&place.key).unwrap();
    assert!(lost().is_some_and(|lost| lost.contains("its key")));
}

#[test]
fn a_full_memory_forgets_first_what_was_never_changed() {
    let dek = random::home_dek().unwrap();
    let (new, changed) = (point(&home(&dek), &dek), point(&updated(&home(&dek), "b"), &dek));
    let mut table = Table::default();
    let with = |point: &Point, number: usize| Point { uuid: Uuid::from_u128(number as u128 + 1), ..point.clone() };
    for number in 0..MAX_RECORDS {
        table.follow(&with(if number == 9 { &new } else { &changed }, number));
    }
    table.follow(&with(&new, MAX_RECORDS));
    let has = |table: &Table, number: usize| table.get(Uuid::from_u128(number as u128 + 1)).is_some();
    assert!(!has(&table, 9) && has(&table, 0) && has(&table, MAX_RECORDS));
    table.follow_all(&[with(&Point { sequence: 3, state: [9; 16], ..changed.clone() }, 0)]);
    table.follow(&with(&changed, MAX_RECORDS + 1));
    table.follow(&with(&changed, MAX_RECORDS + 2));
    assert!(has(&table, 0) && !has(&table, 1), "what changed last goes last");
}

#[test]
fn of_a_list_of_disks_only_what_is_durable_is_remembered() {
    let memory: Arc<Memory> = Arc::default();
    let home = home(&random::home_dek().unwrap());
    let list = |sequence, mark| Point::of_list(&home, sequence, [mark; 16]);
    let may_change = |there: Point, durable| memory.meet_list(&there, durable).allow_changes().is_ok();
    assert!(may_change(list(1, 1), Some(list(1, 1))));
    assert_eq!(memory.list_sequence(&list(1, 1)), 0, "nothing was before it");
    assert!(may_change(list(3, 3), Some(list(2, 2))));
    assert!(may_change(list(2, 2), Some(list(2, 2))), "a power cut took the newer one");
    assert!(may_change(list(4, 4), None));
    assert_eq!(memory.list_sequence(&list(1, 1)), 2);
    assert!(!may_change(list(1, 1), None));
    assert!(!may_change(list(2, 9), None), "another one of the same sequence");
    assert!(may_change(list(5, 5), Some(list(5, 5))));
    assert!(may_change(list(6, 6), Some(list(4, 4))), "one copy is of before");
    assert!(!may_change(list(4, 4), Some(list(4, 4))));
}
