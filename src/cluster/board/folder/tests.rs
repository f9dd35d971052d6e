//! What a folder is, that others can write to, and writers at once.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use super::*;
use crate::cluster::board::Change;

fn board() -> (tempfile::TempDir, FolderBoard) {
    let dir = tempfile::tempdir().unwrap();
    let board = FolderBoard::create(dir.path(), Uuid::nil()).unwrap();
    (dir, board)
}

#[test]
fn a_record_changes_only_from_what_its_writer_has_seen() {
    let (_dir, board) = board();
    let key = Key::ack(Uuid::nil());
    assert_eq!(board.read(&key).unwrap(), None);
    assert!(!board.write_if_unchanged(&key, Some(b"x"), b"a").unwrap());
    assert!(board.write_if_unchanged(&key, None, b"a").unwrap());
    assert!(!board.write_if_unchanged(&key, None, b"b").unwrap());
    assert!(board.write_if_unchanged(&key, Some(b"a"), b"b").unwrap());
    assert_eq!(board.read(&key).unwrap().unwrap(), b"b");
    board.remove(&key).unwrap();
    board.remove(&key).unwrap();
    assert_eq!(board.read(&key).unwrap(), None);
}

/// The lock is one of open files, so threads with a board each are to each other what processes are.
#[test]
fn of_writers_at_once_each_number_has_one() {
    const WRITERS: u8 = 4;
    const NUMBERS: u64 = 20;
    let (dir, _) = board();
    let wins = |writer: u8| {
        let board = FolderBoard::open(dir.path(), Uuid::nil()).unwrap();
        (1..=NUMBERS)
            .filter(|number| board.write_if_unchanged(&Key::document(*number), None, &[writer]).unwrap())
            .count()
    };
    let won: usize = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || wins(writer))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    });
    assert_eq!(won as u64, NUMBERS);
}

#[test]
fn a_lock_that_is_never_released_is_not_waited_for_for_ever() {
    let (_dir, board) = board();
    let held = board.lock().unwrap();
    let path = board.folder.join(".lock");
    let second = File::options().write(true).open(&path).unwrap();
    assert_eq!(lock_within(Duration::ZERO, &second).unwrap_err().kind(), Kind::Busy);
    drop(held);
    lock_within(Duration::ZERO, &second).unwrap();
}

#[test]
fn the_owner_of_the_board_leads_no_host_to_other_files() {
    let (dir, board) = board();
    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join(Key::document(1).as_str().rsplit('/').next().unwrap()), "secret").unwrap();
    symlink(&other, dir.path().join(Uuid::nil().to_string()).join("document")).unwrap();
    assert!(board.read(&Key::document(1)).is_err());
    assert!(board.write_if_unchanged(&Key::document(2), None, b"x").is_err());
    assert_eq!(fs::read_dir(&other).unwrap().count(), 1);
    let key = Key::ack(Uuid::nil());
    board.write_if_unchanged(&key, None, b"a").unwrap();
    let path = dir.path().join(Uuid::nil().to_string()).join(key.as_str());
    fs::remove_file(&path).unwrap();
    symlink(other.join("file"), &path).unwrap();
    assert_eq!(board.read(&key).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn the_folder_of_a_cluster_is_not_a_link_to_another_one() {
    let (dir, board) = board();
    let (key, other) = (Key::ack(Uuid::nil()), dir.path().join("other"));
    assert!(board.write_if_unchanged(&key, None, b"a").unwrap());
    fs::rename(&board.folder, &other).unwrap();
    symlink(&other, &board.folder).unwrap();
    let is_refused = |error: Error| assert!(error.chain().contains("symbolic link"), "{}", error.chain());
    is_refused(FolderBoard::open(dir.path(), Uuid::nil()).unwrap_err());
    is_refused(board.read(&key).unwrap_err());
    is_refused(board.list("", 100).unwrap_err());
    is_refused(board.lock().unwrap_err());
    is_refused(board.remove(&key).unwrap_err());
    is_refused(board.stamp(&key).unwrap_err());
    assert!(board.health()[0].trouble.as_deref().unwrap().contains("symbolic link"));
    assert!(other.join(key.as_str()).is_file());
}

#[test]
fn what_is_no_record_is_refused_without_waiting_or_reading_all_of_it() {
    let (dir, board) = board();
    let key = Key::ack(Uuid::nil());
    board.write_if_unchanged(&key, None, b"a").unwrap();
    let path = dir.path().join(Uuid::nil().to_string()).join(key.as_str());
    File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
    assert!(board.read(&key).unwrap_err().chain().contains("longer than 1048576 bytes"));
    fs::remove_file(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::from_raw_mode(0o600)).unwrap();
    assert!(board.read(&key).unwrap_err().chain().contains("not a regular file"));
    fs::remove_file(board.folder.join(".lock")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, board.folder.join(".lock"), Mode::from_raw_mode(0o600)).unwrap();
    assert!(board.remove(&key).unwrap_err().chain().contains("locking the board"), "it waits for ever");
    assert_eq!(check(Path::new("/does/not/exist")).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn records_are_listed_and_nothing_else() {
    let (dir, board) = board();
    let keys = [Key::ack(Uuid::nil()), Key::document(1), Key::document(2)];
    keys.iter().for_each(|key| assert!(board.write_if_unchanged(key, None, b"a").unwrap()));
    let folder = dir.path().join(Uuid::nil().to_string());
    fs::write(folder.join("document/not a name"), "x").unwrap();
    fs::write(folder.join("document/.hidden"), "x").unwrap();
    symlink(folder.join("document"), folder.join("link")).unwrap();
    fs::create_dir(folder.join("document/folder")).unwrap();
    assert_eq!(board.list("", 100).unwrap(), [keys[1].clone(), keys[2].clone(), keys[0].clone()]);
    assert_eq!(board.list("document", 100).unwrap(), keys[1..]);
    assert_eq!(board.list("join", 100).unwrap(), []);
    assert!(board.list("", 2).unwrap().len() <= 2);
}

#[test]
fn a_record_that_no_host_may_read_names_what_is_there_instead() {
    let (dir, board) = board();
    fs::create_dir_all(dir.path().join(Uuid::nil().to_string()).join(Key::ack(Uuid::nil()).as_str())).unwrap();
    assert!(board.read(&Key::ack(Uuid::nil())).unwrap_err().chain().contains("not a regular file"));
}

#[test]
fn the_end_of_a_lease_is_judged_by_the_file_system_s_clock() {
    let (dir, board) = board();
    let key = Key::alive(Uuid::nil());
    let mut lease = board.lease(Duration::from_secs(15)).unwrap();
    lease.write(&key, b"here").unwrap();
    assert_eq!(board.read(&key).unwrap().as_deref(), Some(b"here".as_slice()));
    let renewed = dir.path().join(Uuid::nil().to_string()).join(format!("host/{}/.lease-alive", Uuid::nil()));
    let age = |seconds| {
        let file = File::options().write(true).open(&renewed).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    age(14);
    assert!(board.read(&key).unwrap().is_some() && lease.keep_alive().unwrap());
    age(16);
    assert_eq!((board.read(&key).unwrap(), board.list("host", 9).unwrap()), (None, vec![]));
    assert!(!lease.keep_alive().unwrap());
    assert_eq!(lease.write(&key, b"late").unwrap_err().kind(), Kind::NotFound);
    // What comes after it is another record, and not under the lease that has ended.
    assert!(board.write_if_unchanged(&key, None, b"other").unwrap());
    assert_eq!(board.read(&key).unwrap().as_deref(), Some(b"other".as_slice()));
    assert!(!renewed.exists());
}

#[test]
fn what_has_ended_goes_from_the_folder_with_its_lease_when_it_is_listed() {
    let (dir, board) = board();
    let folder = dir.path().join(Uuid::nil().to_string()).join("host").join(Uuid::nil().to_string());
    let mut lease = board.lease(Duration::from_secs(15)).unwrap();
    let (ended, lives) = (Key::alive(Uuid::nil()), Key::ack(Uuid::nil()));
    [&ended, &lives].into_iter().for_each(|key| lease.write(key, b"here").unwrap());
    let age = |name: &str| {
        let file = File::options().write(true).open(folder.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(16)).unwrap();
    };
    // Its writer was killed before it wrote the record.
    fs::copy(folder.join(".lease-ack"), folder.join(".lease-only")).unwrap();
    [".lease-alive", ".lease-only"].into_iter().for_each(age);
    let held = board.lock().unwrap();
    assert_eq!(board.list("host", 9).unwrap(), std::slice::from_ref(&lives), "another writer is not waited for");
    assert!(folder.join("alive").exists());
    drop(held);
    assert_eq!(board.list("host", 9).unwrap(), [lives]);
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".lease-ack", "ack"]);
}

#[test]
fn a_watch_sees_what_changes_and_not_that_a_lease_is_kept_alive() {
    let (_dir, board) = board();
    let keys = [Key::document(1), Key::alive(Uuid::nil())];
    let mut lease = board.lease(Duration::from_secs(15)).unwrap();
    lease.write(&keys[1], b"a").unwrap();
    let mut watch = FolderWatch::begin(board.clone()).unwrap();
    assert_eq!(watch.look_again().unwrap(), Change::Nothing);
    board.write_if_unchanged(&keys[0], None, b"a").unwrap();
    let seen = |keys: &[Key]| Change::Records(keys.iter().cloned().collect::<BTreeSet<_>>());
    assert_eq!(watch.look_again().unwrap(), seen(&keys[..1]));
    assert!(lease.keep_alive().unwrap());
    assert_eq!(watch.look_again().unwrap(), Change::Nothing);
    board.write_if_unchanged(&keys[0], Some(b"a"), b"b").unwrap();
    lease.end().unwrap();
    assert_eq!(watch.look_again().unwrap(), seen(&keys));
    assert_eq!(watch.wait(Duration::from_millis(1)).unwrap(), Change::Nothing);
}

#[test]
fn a_lease_of_many_records_is_not_looked_through_for_each_that_is_written() {
    let (dir, board) = board();
    let keys: Vec<Key> = (0..3).map(|number| Key::alive(Uuid::from_bytes([number; 16]))).collect();
    let path = |key: &Key| dir.path().join(Uuid::nil().to_string()).join(key.as_str());
    let mut lease = board.lease(Duration::from_secs(15)).unwrap();
    keys[..2].iter().for_each(|key| lease.write(key, b"a").unwrap());
    // Its host took one. That ends no other, and writing the next does not look for it.
    fs::remove_file(path(&keys[1])).unwrap();
    lease.write(&keys[2], b"a").unwrap();
    assert!(!lease.keep_alive().unwrap(), "keeping a lease alive looks at all");
    fs::remove_file(path(&keys[0])).unwrap();
    assert_eq!(lease.write(&keys[2], b"b").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn what_a_dead_writer_left_is_removed_and_never_the_file_of_one_that_lives() {
    let (dir, board) = board();
    let key = Key::document(1);
    board.write_if_unchanged(&key, None, b"a").unwrap();
    let folder = dir.path().join(Uuid::nil().to_string()).join("document");
    let leave = |name: &str, age: u64| {
        let file = File::create_new(folder.join(name)).unwrap();
        file.set_modified(std::time::SystemTime::now() - Duration::from_secs(age)).unwrap();
    };
    for (name, age) in [(".new-dead", 700), (".new-young", 60), (".now-dead", 700), (".newer", 700)] {
        leave(name, age);
    }
    fs::create_dir(folder.join(".new-folder")).unwrap();
    symlink(&folder, folder.join(".new-link")).unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let all = names();
    let writer = board.lock().unwrap();
    board.clean().unwrap();
    assert_eq!(names(), all, "a writer is at work");
    drop(writer);
    board.clean().unwrap();
    assert_eq!(names(), [".new-folder", ".new-link", ".new-young", ".newer", key.as_str().rsplit('/').next().unwrap()]);
}
