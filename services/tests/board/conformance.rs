//! What every kind of board does.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;
use vmcryptfs::cluster::board::folder::FolderBoard;
use vmcryptfs::cluster::board::{Board, Change, Key, MAX_RECORD, Watch};
use vmcryptfs::error::Kind;

use crate::etcd::Etcd;

/// How long what must come may take: a folder is looked at every two seconds, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes one more handle of the same board, as another host has.
type Open<'a> = &'a (dyn Fn() -> Box<dyn Board> + Sync);

fn conforms(open: Open<'_>) {
    a_record_changes_only_from_what_its_writer_has_seen(open);
    of_two_writers_one_wins(open);
    names_are_listed_in_order(open);
    a_watch_sees_each_change(open);
    a_lease_ends_and_its_records_with_it(open);
    a_record_of_the_greatest_length_comes_back(open);
    assert!(open().health().iter().all(|member| member.trouble.is_none()), "{:?}", open().health());
}

fn a_record_changes_only_from_what_its_writer_has_seen(open: Open<'_>) {
    let (board, key) = (open(), Key::ack(Uuid::nil()));
    assert_eq!(board.read(&key).unwrap(), None);
    assert!(!board.write_if_unchanged(&key, Some(b"x"), b"a").unwrap());
    assert!(board.write_if_unchanged(&key, None, b"a").unwrap());
    assert!(!board.write_if_unchanged(&key, None, b"b").unwrap());
    assert!(board.write_if_unchanged(&key, Some(b"a"), b"").unwrap());
    assert_eq!(open().read(&key).unwrap().as_deref(), Some(&b""[..]));
    assert!(board.write_if_unchanged(&key, Some(b""), b"b").unwrap());
    board.remove(&key).unwrap();
    board.remove(&key).unwrap();
    assert_eq!(open().read(&key).unwrap(), None);
    assert!(!board.write_if_unchanged(&key, Some(b"b"), b"c").unwrap());
}

fn of_two_writers_one_wins(open: Open<'_>) {
    const NUMBERS: u64 = 20;
    let wins = |writer: u8| {
        let board = open();
        let keys = (1..=NUMBERS).map(Key::document);
        keys.filter(|key| board.write_if_unchanged(key, None, &[writer]).unwrap()).collect::<Vec<_>>()
    };
    let [first, second] = thread::scope(|scope| {
        [0, 1].map(|writer| scope.spawn(move || wins(writer))).map(|writer| writer.join().unwrap())
    });
    assert_eq!((first.len() + second.len()) as u64, NUMBERS);
    for (writer, won) in [(0, first), (1, second)] {
        won.iter().for_each(|key| assert_eq!(open().read(key).unwrap(), Some(vec![writer])));
    }
}

fn names_are_listed_in_order(open: Open<'_>) {
    let board = open();
    let documents = board.list("document", 100).unwrap();
    assert_eq!(documents, (1..=20).map(Key::document).collect::<Vec<_>>());
    let key = Key::parse("documents/1").unwrap();
    board.write_if_unchanged(&key, None, b"of another part").unwrap();
    assert_eq!(board.list("document", 100).unwrap(), documents);
    assert_eq!(board.list("", 100).unwrap().len(), 21);
    assert_eq!(board.list("nothing", 100).unwrap(), []);
    assert_eq!(board.list("document", 0).unwrap(), []);
    assert!(board.list("document", 7).unwrap().len() <= 7);
    board.remove(&key).unwrap();
}

/// Waits until all of these records have been reported.
pub(crate) fn await_changes(watch: &mut dyn Watch, keys: &[Key]) {
    let mut wanted: BTreeSet<&Key> = keys.iter().collect();
    let begun = Instant::now();
    while !wanted.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{wanted:?} not seen");
        match watch.wait(Duration::from_secs(1)).unwrap() {
            Change::Records(seen) => wanted.retain(|key| !seen.contains(*key)),
            Change::Nothing => {}
            Change::Unknown => panic!("nothing was missed"),
        }
    }
}

fn a_watch_sees_each_change(open: Open<'_>) {
    let (board, mut watch) = (open(), open().watch().unwrap());
    assert_eq!(watch.wait(Duration::from_millis(1)).unwrap(), Change::Nothing);
    let keys = [Key::document(21), Key::ack(Uuid::max())];
    keys.iter().for_each(|key| assert!(board.write_if_unchanged(key, None, b"a").unwrap()));
    await_changes(watch.as_mut(), &keys);
    assert!(board.write_if_unchanged(&keys[0], Some(b"a"), b"b").unwrap());
    board.remove(&keys[1]).unwrap();
    await_changes(watch.as_mut(), &keys);
    board.remove(&keys[0]).unwrap();
    await_changes(watch.as_mut(), &keys[..1]);
}

fn a_lease_ends_and_its_records_with_it(open: Open<'_>) {
    let (board, key) = (open(), Key::alive(Uuid::nil()));
    let mut kept = board.lease(Duration::from_secs(1)).unwrap();
    let mut left = board.lease(Duration::from_secs(1)).unwrap();
    let other = Key::alive(Uuid::max());
    kept.write(&key, b"kept").unwrap();
    left.write(&other, b"left").unwrap();
    left.write(&other, b"left again").unwrap();
    let reader = open();
    assert_eq!(reader.read(&other).unwrap().as_deref(), Some(&b"left again"[..]));
    let begun = Instant::now();
    while reader.read(&other).unwrap().is_some() {
        assert!(begun.elapsed() < PATIENCE, "it never ends");
        assert!(kept.keep_alive().unwrap());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() > Duration::from_millis(900));
    assert!(!left.keep_alive().unwrap());
    assert_eq!(left.write(&other, b"too late").unwrap_err().kind(), Kind::NotFound);
    assert_eq!(reader.read(&key).unwrap().as_deref(), Some(&b"kept"[..]));
    assert!(!board.write_if_unchanged(&key, None, b"free").unwrap());
    kept.end().unwrap();
    assert_eq!(reader.read(&key).unwrap(), None);
    assert!(reader.list("host", 100).unwrap().is_empty());
}

fn a_record_of_the_greatest_length_comes_back(open: Open<'_>) {
    let (board, key) = (open(), Key::document(30));
    let long: Vec<u8> = (0..MAX_RECORD).map(|at| u8::try_from(at % 251).unwrap()).collect();
    assert!(board.write_if_unchanged(&key, None, &long).unwrap());
    assert!(open().read(&key).unwrap() == Some(long.clone()));
    assert!(board.write_if_unchanged(&key, Some(&long), b"short").unwrap());
    board.remove(&key).unwrap();
}

#[test]
fn a_folder_is_a_board() {
    let dir = tempfile::tempdir().unwrap();
    FolderBoard::create(dir.path(), Uuid::nil()).unwrap();
    conforms(&|| Box::new(FolderBoard::open(dir.path(), Uuid::nil()).unwrap()));
    assert_eq!(FolderBoard::create(dir.path(), Uuid::nil()).unwrap_err().kind(), Kind::Exists);
    assert_eq!(FolderBoard::open(dir.path(), Uuid::max()).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(FolderBoard::open(Path::new("/does/not/exist"), Uuid::nil()).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn an_etcd_is_a_board_and_its_users_may_do_what_they_may() {
    let etcd = Etcd::start().with_users();
    let all = etcd.all();
    conforms(&|| etcd.reach(&all, "host1"));
    crate::faults::users_may_do_what_they_may(&etcd);
}
