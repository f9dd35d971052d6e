//! What a folder is, that others can write to, and writers at once.

use std::os::unix::fs::symlink;

use super::*;

fn board() -> (tempfile::TempDir, Board) {
    let dir = tempfile::tempdir().unwrap();
    let board = Board::create(&format!("folder:{}", dir.path().to_str().unwrap()), Uuid::nil()).unwrap();
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
    let place = format!("folder:{}", dir.path().to_str().unwrap());
    let wins = |writer: u8| {
        let board = Board::open(&place, Uuid::nil()).unwrap();
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
    for place in ["/board", "folder:board", "etcd:https://a:2379", "folder:/does/not/exist"] {
        assert!(folder(place).is_err(), "{place}");
    }
}
