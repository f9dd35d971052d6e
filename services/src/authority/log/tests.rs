use std::fs;

use super::tree::{extends, includes};
use super::*;

fn key() -> SigningKey {
    let mut seed = vmcryptfs::sys::SecretBytes::zeroed(32);
    seed.fill(7);
    SigningKey::new(seed).unwrap()
}

fn open(folder: &Path) -> Result<Log> {
    Log::open(folder, Uuid::nil(), &key())
}

fn entry(number: usize) -> Vec<u8> {
    format!("{{\"entry\":{number}}}").into_bytes()
}

fn all(log: &Log) -> Vec<Vec<u8>> {
    log.entries(0, usize::MAX, usize::MAX).unwrap()
}

#[test]
fn entries_come_back_after_a_restart_with_proofs_for_the_signed_root() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    assert_eq!(log.append(&[entry(0)]).unwrap(), 0);
    let early = log.checkpoint(&key()).unwrap();
    assert_eq!(log.append(&[entry(1), entry(2)]).unwrap(), 1);
    assert_eq!(log.append(&[]).unwrap(), 3);
    drop(log);
    let log = open(dir.path()).unwrap();
    assert_eq!(all(&log), [entry(0), entry(1), entry(2)]);
    assert_eq!(log.entries(1, 1, 0).unwrap(), [entry(1)], "one comes although it does not fit");
    assert_eq!(log.entries(0, 9, 2 * entry(0).len()).unwrap().len(), 2);
    let verify = |text: &str| Checkpoint::verify(text, &Checkpoint::origin_of(Uuid::nil()), &key().public()).unwrap();
    let (early, late) = (verify(&early), verify(&log.checkpoint(&key()).unwrap()));
    assert_eq!((early.size, late.size), (1, 3));
    let path = log.inclusion(2, 3).unwrap();
    assert!(includes(&late.root, 3, 2, leaf_hash(&entry(2)), &path));
    let path = log.consistency(1, 3).unwrap();
    assert!(extends((&early.root, 1), (&late.root, 3), &path));
}

/// Every state that a crash in one write can leave: it ends early, or pages of it are not there yet.
#[test]
fn a_log_that_was_torn_at_any_byte_opens_with_what_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    log.append(&[entry(0), entry(1)]).unwrap();
    let before = fs::read(dir.path().join("entries")).unwrap().len();
    log.append(&[entry(2), entry(3), entry(4)]).unwrap();
    log.checkpoint(&key()).unwrap();
    drop(log);
    fs::remove_file(dir.path().join("checkpoint")).unwrap(); // those two were not signed yet
    let whole = fs::read(dir.path().join("entries")).unwrap();
    for len in before..whole.len() {
        let mut with_hole = whole.clone();
        with_hole[before..=len].fill(0);
        for torn in [&whole[..len], &with_hole] {
            fs::write(dir.path().join("entries"), torn).unwrap();
            let log = open(dir.path()).unwrap();
            assert_eq!(all(&log), [entry(0), entry(1)], "{len} bytes");
            if torn.len() > before {
                let kept = fs::read(dir.path().join(format!("cut-off-at-{before}"))).unwrap();
                assert_eq!(kept, torn[before..], "{len} bytes");
            }
            assert_eq!(log.append(&[entry(9)]).unwrap(), 2);
            drop(log);
            assert_eq!(all(&open(dir.path()).unwrap()), [entry(0), entry(1), entry(9)], "{len} bytes");
        }
    }
}

#[test]
fn a_log_that_was_damaged_or_put_back_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for number in 0..3 {
        assert_eq!(log.append(&[entry(number)]).unwrap(), number);
    }
    log.checkpoint(&key()).unwrap();
    drop(log);
    let path = dir.path().join("entries");
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut wrong = whole.clone();
        wrong[at] ^= 4;
        fs::write(&path, &wrong).unwrap();
        let error = open(dir.path()).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "byte {at}: {}", error.chain());
        // It may have cut off what it took for a torn line: never what was signed.
        fs::write(&path, &whole[..at]).unwrap();
        assert_eq!(open(dir.path()).map(drop).unwrap_err().kind(), Kind::Corrupt, "{at} bytes");
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(all(&open(dir.path()).unwrap()).len(), 3);
    let other = SigningKey::generate().unwrap();
    assert_eq!(Log::open(dir.path(), Uuid::nil(), &other).map(drop).unwrap_err().kind(), Kind::Denied);
}

/// The whole folder is put back, so its own checkpoint agrees with it. Who has seen a later one notices.
#[test]
fn a_log_that_was_put_back_with_its_checkpoint_does_not_extend_what_a_host_has_seen() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot");
    let log = open(&snapshot).unwrap();
    log.append(&[entry(0), entry(1)]).unwrap();
    log.checkpoint(&key()).unwrap();
    drop(log);
    let after = dir.path().join("after");
    private_file::create_folder(&after).unwrap();
    for name in ["entries", "checkpoint"] {
        fs::copy(snapshot.join(name), after.join(name)).unwrap();
    }
    let verify = |text: &str| Checkpoint::verify(text, &Checkpoint::origin_of(Uuid::nil()), &key().public()).unwrap();
    let log = open(&after).unwrap();
    log.append(&[entry(2), entry(3)]).unwrap();
    let seen = verify(&log.checkpoint(&key()).unwrap());

    let restored = open(&snapshot).unwrap();
    assert!(verify(&restored.checkpoint(&key()).unwrap()).size < seen.size, "it is shorter at first");
    assert_eq!(restored.consistency(seen.size, 2), None);
    restored.append(&[entry(7), entry(8), entry(9)]).unwrap();
    let now = verify(&restored.checkpoint(&key()).unwrap());
    let path = restored.consistency(seen.size, now.size).unwrap();
    assert!(!extends((&seen.root, seen.size), (&now.root, now.size), &path), "and another one later");
    log.append(&[entry(4)]).unwrap();
    let next = verify(&log.checkpoint(&key()).unwrap());
    let path = log.consistency(seen.size, next.size).unwrap();
    assert!(extends((&seen.root, seen.size), (&next.root, next.size), &path));
}

#[test]
fn a_damaged_line_with_another_after_it_is_not_taken_for_a_torn_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    log.append(&[entry(0)]).unwrap();
    log.append(&[entry(1)]).unwrap();
    drop(log);
    let path = dir.path().join("entries");
    let mut wrong = fs::read(&path).unwrap();
    wrong[3] ^= 1;
    fs::write(&path, &wrong).unwrap();
    assert_eq!(open(dir.path()).map(drop).unwrap_err().kind(), Kind::Corrupt, "nothing was signed yet");
    assert_eq!(fs::read(&path).unwrap(), wrong, "and nothing was cut off");
}

#[test]
fn what_could_be_taken_for_two_entries_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).unwrap();
    for wrong in [&b""[..], b"a\tb", b"a\nb", b"\0", &[b'a'; MAX_ENTRY + 1]] {
        assert_eq!(log.append(&[entry(0), wrong.to_vec()]).unwrap_err().kind(), Kind::Invalid);
    }
    assert!(log.is_empty());
}
