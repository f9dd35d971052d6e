//! What can happen to a board.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use uuid::Uuid;
use vmcryptfs::cluster::board::folder::FolderBoard;
use vmcryptfs::cluster::board::{Board, Change, Key, MAX_RECORD};
use vmcryptfs::error::{Kind, Result};

use crate::conformance::await_changes;
use crate::etcd::{Etcd, MEMBERS, run};
use crate::not_run::not_run;

/// What a call may take at most: seven seconds, and what a busy machine adds.
const LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn refused<T>(result: Result<T>, kind: Kind, words: &str) {
    let Err(error) = result else { panic!("not refused, expected {words:?}") };
    assert_eq!(error.kind(), kind, "{}", error.chain());
    assert!(error.chain().contains(words), "{}, expected {words:?}", error.chain());
}

fn write(board: &dyn Board, key: &Key, value: &[u8]) {
    let before = board.read(key).unwrap();
    assert!(board.write_if_unchanged(key, before.as_deref(), value).unwrap());
}

pub(crate) fn users_may_do_what_they_may(etcd: &Etcd) {
    let (board, key) = (etcd.reach(&etcd.all(), "host1"), Key::document(1));
    let reader = etcd.reach(&etcd.all(), "reader");
    assert!(reader.read(&key).unwrap().is_some());
    refused(reader.write_if_unchanged(&Key::document(99), None, b"x"), Kind::Denied, "a role for /vmcryptfs/");
    refused(reader.remove(&key), Kind::Denied, "permission denied");
    let nobody = etcd.reach(&etcd.all(), "nobody");
    refused(nobody.read(&key), Kind::Denied, "a role for /vmcryptfs/");
    refused(nobody.watch().map(drop), Kind::Denied, "permission denied");
    // What others put there: too long for a record, or not a record's name.
    let prefix = format!("/vmcryptfs/{}", Uuid::nil());
    let long = etcd.path("long");
    std::fs::write(&long, vec![b'x'; MAX_RECORD + 1]).unwrap();
    let put = |name: &str| {
        let value = std::fs::File::open(&long).unwrap();
        run(etcd.etcdctl(&etcd.client(0)).args(["put", &format!("{prefix}/{name}")]).stdin(value));
    };
    put(Key::document(50).as_str());
    refused(board.read(&Key::document(50)), Kind::Corrupt, "it has 1048577 bytes, expected at most 1048576");
    board.remove(&Key::document(50)).unwrap();
    etcd.control(&format!("put {prefix}/document/../x y"));
    assert_eq!(board.list("document", 100).unwrap().len(), 20);
}

#[test]
fn a_board_outlives_members_that_are_killed_stopped_or_far_behind() {
    let mut etcd = Etcd::start();
    let (board, key) = (etcd.reach(&[0, 1, 2], "host1"), Key::document(1));
    let mut watch = board.watch().unwrap();
    write(board.as_ref(), &key, b"all");
    await_changes(watch.as_mut(), std::slice::from_ref(&key));
    // Stopped: it takes connections and says nothing.
    etcd.signal(0, Signal::STOP);
    let begun = Instant::now();
    let health = thread::scope(|scope| {
        let health = scope.spawn(|| board.health());
        scope.spawn(|| write(board.as_ref(), &key, b"two of three"));
        await_changes(watch.as_mut(), std::slice::from_ref(&key));
        health.join().unwrap()
    });
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(health[0].trouble.is_some() && health[1].trouble.is_none() && health[2].trouble.is_none(), "{health:?}");
    etcd.signal(0, Signal::CONT);
    etcd.await_health();
    // Killed: the connection ends, and others take over at once.
    for member in [1, 2] {
        etcd.kill(member);
        write(board.as_ref(), &key, format!("without {member}").as_bytes());
        await_changes(watch.as_mut(), std::slice::from_ref(&key));
        etcd.start_member(member);
        etcd.await_health();
    }
    // One of three: it must not say what it last knew. Nothing waits longer than it may.
    etcd.kill(1);
    etcd.kill(2);
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| refused(board.read(&key), Kind::Io, "no member of the board's etcd answers"));
        while watch.wait(Duration::from_millis(10)).is_ok() {
            assert!(begun.elapsed() < LIMIT, "a watch that nobody serves says that nothing changes");
        }
    });
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    assert!(board.health().iter().all(|member| member.trouble.is_some()), "{:?}", board.health());
    etcd.start_member(1);
    etcd.start_member(2);
    etcd.await_health();
    assert_eq!(board.read(&key).unwrap().as_deref(), Some(&b"without 2"[..]));
    write(board.as_ref(), &key, b"all again");
    await_changes(watch.as_mut(), &[key]);
}

#[test]
fn a_watch_says_when_it_may_have_missed_something() {
    let mut etcd = Etcd::start();
    let (board, key) = (etcd.reach(&[0, 1, 2], "host1"), Key::document(1));
    let mut watch = board.watch().unwrap();
    write(board.as_ref(), &key, b"seen");
    await_changes(watch.as_mut(), std::slice::from_ref(&key));
    let backup = etcd.path("backup").to_str().unwrap().to_owned();
    etcd.control_at(&etcd.client(0), &format!("snapshot save {backup}"));
    // Compacted while nobody watched.
    (0..MEMBERS).for_each(|member| etcd.kill(member));
    let begun = Instant::now();
    while watch.wait(Duration::from_millis(10)).is_ok() {
        assert!(begun.elapsed() < LIMIT, "a watch that nobody serves says that nothing changes");
    }
    (0..MEMBERS).for_each(|member| etcd.start_member(member));
    etcd.await_health();
    write(board.as_ref(), &key, b"missed");
    write(board.as_ref(), &key, b"missed as well");
    let revision = etcd.revision();
    etcd.control(&format!("compaction {revision}"));
    assert_eq!(watch.wait(LIMIT).unwrap(), Change::Unknown);
    write(board.as_ref(), &key, b"seen again");
    await_changes(watch.as_mut(), std::slice::from_ref(&key));
    // Restored from a backup: the numbers of changes begin again, and records are older than they were.
    (0..MEMBERS).for_each(|member| etcd.kill(member));
    etcd.restore(&backup);
    (0..MEMBERS).for_each(|member| etcd.start_member(member));
    etcd.await_health();
    assert_eq!(watch.wait(LIMIT).unwrap(), Change::Unknown);
    assert_eq!(board.read(&key).unwrap().as_deref(), Some(&b"seen"[..]));
    write(board.as_ref(), &key, b"after it");
    await_changes(watch.as_mut(), &[key]);
}

#[test]
fn a_full_etcd_says_so_and_keeps_what_it_has() {
    let etcd = Etcd::with_quota(8 << 20);
    let board = etcd.reach(&etcd.all(), "host1");
    let big = vec![7; MAX_RECORD];
    let written = (1..40).find_map(|number| match board.write_if_unchanged(&Key::document(number), None, &big) {
        Ok(true) => None,
        Ok(false) => panic!("document {number} was there"),
        Err(error) => Some((number, error)),
    });
    let (number, error) = written.expect("a database of 8 MiB takes 40 MiB");
    assert!(error.kind() == Kind::Io && error.chain().contains("the board is full"), "{}", error.chain());
    assert!(error.chain().contains("etcdctl alarm disarm"), "{}", error.chain());
    assert!(board.read(&Key::document(number - 1)).unwrap() == Some(big), "what was written is there");
    assert!(board.read(&Key::document(number)).unwrap().is_none(), "what was refused is not");
    let begun = Instant::now();
    while !board
        .health()
        .iter()
        .any(|member| member.trouble.as_ref().is_some_and(|trouble| trouble.contains("NOSPACE")))
    {
        assert!(begun.elapsed() < LIMIT, "{:?}", board.health());
        thread::sleep(Duration::from_millis(50));
    }
    board.remove(&Key::document(1)).unwrap();
    assert_eq!(board.read(&Key::document(1)).unwrap(), None);
}

/// A file system of its own, which ends with this.
struct Mounted(tempfile::TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().ok(); // the test has failed already where this does
    }
}

#[test]
fn a_folder_that_is_full_or_read_only_says_so_and_keeps_what_it_has() {
    if !rustix::process::getuid().is_root() {
        return not_run("only root mounts a tmpfs");
    }
    let dir = Mounted(tempfile::tempdir().unwrap());
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=128k", "none"]).arg(dir.0.path()));
    let (board, key) = (FolderBoard::create(dir.0.path(), Uuid::nil()).unwrap(), Key::document(1));
    write(&board, &key, b"small");
    let before = board.read(&key).unwrap();
    refused(board.write_if_unchanged(&key, before.as_deref(), &[7; 256 << 10]), Kind::Io, "No space left on device");
    assert_eq!(board.read(&key).unwrap(), before);
    write(&board, &key, b"no part of the large one takes the space");
    run(Command::new("mount").args(["-o", "remount,ro"]).arg(dir.0.path()));
    refused(board.write_if_unchanged(&Key::document(2), None, b"x"), Kind::ReadOnly, "Read-only file system");
    assert!(board.read(&key).unwrap().is_some() && board.list("document", 9).unwrap() == [key]);
}
