use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::log::{KEPT, Log, numbered};
use super::*;
use crate::error::Kind;
use crate::timestamp::Timestamp;

/// A record of now with nothing in it but the words.
pub(super) fn record(operation: &str, result: &str) -> Record {
    Record {
        operation: operation.into(),
        result: result.into(),
        ..Event::of(EventName::Lock).recorded(None, Timestamp::now())
    }
}

#[test]
fn a_record_says_all_that_is_known() {
    let key = KeyId::new(ProviderName::new("corp").unwrap(), "4711").unwrap();
    let uuid = Uuid::from_u128(7);
    let error = Error::new(Kind::KeyUnavailable, "key corp/4711 cannot\nbe had");
    let mut event = Event::of(EventName::Unlock);
    event.disk(Path::new("/vms/web01/root.raw/")).uuid(uuid).key(&key).by(0);
    let record = event.recorded(Some(&error), Timestamp::parse("2025-11-25T19:04:05.123Z").unwrap());
    assert_eq!(record.time, "2025-11-25T19:04:05.123Z");
    assert_eq!((record.user.as_str(), record.operation.as_str(), record.result.as_str()), ("root", "unlock", "failed"));
    assert_eq!((record.provider.as_deref(), record.key_id.as_deref()), (Some("corp"), Some("4711")));
    assert_eq!((record.component.as_deref(), record.uuid), (Some("/vms/web01/root.raw"), Some(uuid)));
    assert_eq!(record.reason.as_deref(), Some(r"key corp/4711 cannot\x0abe had"));
}

#[test]
fn reasons_are_one_line_of_bounded_length() {
    assert_eq!(bounded("a\r\n\x1b[2Jb".into()), r"a\x0d\x0a\x1b[2Jb");
    let long = bounded("\u{e4}".repeat(5_000));
    assert!(long.len() <= MAX_REASON && long.chars().all(|c| c == '\u{e4}'));
}

#[test]
fn the_file_is_its_owners_and_has_a_line_for_each_event() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/vmcryptfs/events.jsonl");
    let log = Log::at(path.clone(), 1 << 20);
    for operation in ["lock", "unlock"] {
        log.append(record(operation, "ok"), Class::Verbs).unwrap();
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o027, 0, "nothing for others");
    let text = fs::read_to_string(&path).unwrap();
    let records: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), records[1].operation.as_str()), (2, "unlock"));
}

#[test]
fn writers_side_by_side_lose_no_line_while_files_are_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let linked = Record { sequence: Some(100), previous: Some("0".repeat(64)), ..record("lock", "ok") };
    let line_len = serde_json::to_vec(&linked).unwrap().len() as u64;
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = path.clone();
            // Room for 3 of 4 times 25 lines in all: the oldest lines may go, whole files at a time.
            scope.spawn(move || {
                let log = Log::at(path, 25 * line_len);
                for number in 0..25 {
                    let reason = Some(format!("{writer}/{number}"));
                    log.append(Record { reason, ..record("lock", "ok") }, Class::Verbs).unwrap();
                }
            });
        }
    });
    let files = std::iter::once(path.clone()).chain((1..=KEPT).map(|number| numbered(&path, number)));
    let text: String = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    let mut reasons: Vec<String> =
        text.lines().map(|line| serde_json::from_str::<Record>(line).unwrap().reason.unwrap()).collect();
    reasons.sort();
    reasons.dedup();
    assert_eq!(reasons.len(), 100, "every line is there, once and whole");
    assert!(!numbered(&path, KEPT + 1).exists());
}

#[test]
fn old_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("events.jsonl");
    let log = Log::at(path.clone(), 1); // full with each line
    for number in 0..10 {
        log.append(Record { reason: Some(number.to_string()), ..record("lock", "ok") }, Class::Verbs).unwrap();
    }
    let reason =
        |path: &Path| serde_json::from_str::<Record>(&fs::read_to_string(path).unwrap()).unwrap().reason.unwrap();
    assert_eq!(
        (reason(&path), reason(&numbered(&path, 1)), reason(&numbered(&path, KEPT))),
        ("9".into(), "8".into(), "5".into())
    );
    assert!(!numbered(&path, KEPT + 1).exists());
}

#[test]
fn what_is_no_regular_file_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "mine").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(Log::at(link, 1 << 20).append(record("lock", "ok"), Class::Verbs).is_err());
    assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    assert!(Log::at(dir.path().to_path_buf(), 1 << 20).append(record("lock", "ok"), Class::Verbs).is_err());
}
