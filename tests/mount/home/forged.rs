//! What was done to the backing folder without a key: never wrong bytes, one error, one line in the log that names the file.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use crate::host::{Host, Mount};

const BLOCK: usize = 4096;
/// Where the main place of block 0 lies: docs/FORMAT.md section 9.
const MAIN: u64 = 274_432;

/// A VM with files `a` and `b` of 16 blocks each, unmounted.
fn host_with_files() -> Host {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for name in ["a", "b"] {
        fs::write(mount.path(name), content(name)).unwrap();
    }
    mount.unmount();
    host
}

fn content(name: &str) -> Vec<u8> {
    (0..16 * BLOCK).map(|at| name.as_bytes()[0] ^ u8::try_from(at / BLOCK).unwrap()).collect()
}

fn backing(host: &Host, name: &str) -> File {
    File::options().read(true).write(true).open(host.path(&format!("web01/{name}"))).unwrap()
}

fn bytes(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// Which blocks of a file give EIO; all others must be what was written.
fn damaged_blocks(mount: &Mount<'_>, name: &str) -> Vec<u64> {
    let file = File::open(mount.path(name)).unwrap();
    // One block at a time: readahead must not make neighbours fail.
    let mut damaged = Vec::new();
    for block in 0..16 {
        let mut seen = vec![0; BLOCK];
        match file.read_exact_at(&mut seen, block * BLOCK as u64) {
            Ok(()) => {
                assert!(seen == content(name)[usize::try_from(block).unwrap() * BLOCK..][..BLOCK], "block {block}")
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO));
                damaged.push(block);
            }
        }
    }
    damaged
}

fn open_says(path: &Path) -> Option<i32> {
    fs::read(path).unwrap_err().raw_os_error()
}

#[test]
fn a_changed_byte_costs_its_block_and_no_other() {
    let host = host_with_files();
    let file = backing(&host, "a");
    let place = MAIN + 5 * BLOCK as u64 + 1234;
    let byte = bytes(&file, place, 1)[0];
    file.write_all_at(&[byte ^ 1], place).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(damaged_blocks(&mount, "a"), [5]);
    assert_eq!(damaged_blocks(&mount, "b"), [0; 0]);
    // What is written again is whole again.
    fs::OpenOptions::new()
        .write(true)
        .open(mount.path("a"))
        .unwrap()
        .write_all_at(&[b'a' ^ 5; BLOCK], 5 * 4096)
        .unwrap();
    assert_eq!(damaged_blocks(&mount, "a"), [0; 0]);
    mount.unmount();
    let log = host.log();
    assert!(log.lines().any(|line| line.contains("read a: block 5")), "{log}");
}

#[test]
fn blocks_open_only_where_they_were_written() {
    let host = host_with_files();
    let (a, b) = (backing(&host, "a"), backing(&host, "b"));
    // Ciphertext and entry of block 3, once to another file and once to another place of the same one.
    let pair = |block: u64| 512 + block * 128;
    let main = |block: u64| MAIN + block * BLOCK as u64;
    let (entry, cipher) = (bytes(&a, pair(3), 128), bytes(&a, main(3), BLOCK));
    b.write_all_at(&entry, pair(3)).unwrap();
    b.write_all_at(&cipher, main(3)).unwrap();
    a.write_all_at(&entry, pair(7)).unwrap();
    a.write_all_at(&cipher, main(7)).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(damaged_blocks(&mount, "a"), [7]);
    assert_eq!(damaged_blocks(&mount, "b"), [3]);
    mount.unmount();
}

/// The content of a file does not depend on its name: a rename in the backing folder is a rename in the mount.
#[test]
fn files_that_swapped_names_below_swapped_names() {
    let host = host_with_files();
    fs::rename(host.path("web01/a"), host.path("web01/tmp")).unwrap();
    fs::rename(host.path("web01/b"), host.path("web01/a")).unwrap();
    fs::rename(host.path("web01/tmp"), host.path("web01/b")).unwrap();
    let mount = host.mount("web01", &[]);
    assert!(fs::read(mount.path("a")).unwrap() == content("b"));
    assert!(fs::read(mount.path("b")).unwrap() == content("a"));
    mount.unmount();
}

#[test]
fn foreign_files_do_not_open() {
    let host = host_with_files();
    host.run(&["create", host.path("other")]);
    let theirs = host.mount("other", &[]);
    fs::write(theirs.path("theirs"), "x").unwrap();
    theirs.unmount();
    fs::copy(host.path("other/theirs"), host.path("web01/theirs")).unwrap();
    fs::write(host.path("web01/plain"), "not encrypted ".repeat(1000)).unwrap();
    fs::write(host.path("web01/short"), "s").unwrap();
    let mount = host.mount("web01", &[]);
    for name in ["plain", "short", "theirs"] {
        assert!(fs::metadata(mount.path(name)).is_ok(), "{name} is listed");
        assert_eq!(open_says(&mount.path(name)), Some(libc::EIO), "{name}");
        assert!(host.log().contains(name), "{name}: {}", host.log());
    }
    assert!(fs::read(mount.path("a")).unwrap() == content("a"));
    fs::remove_file(mount.path("plain")).unwrap();
    mount.unmount();
}

/// As a disk does that lost a write, or a hole that was punched in the backing file: a file that has none there is not read as zeros.
#[test]
fn zeros_in_place_of_what_was_written_are_no_hole() {
    let host = host_with_files();
    backing(&host, "a").write_all_at(&[0; 128], 512 + 3 * 128).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(backing(&host, "b"), hole, MAIN + 7 * BLOCK as u64, 2 * BLOCK as u64).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(damaged_blocks(&mount, "a"), [3]);
    assert_eq!(damaged_blocks(&mount, "b"), [7, 8]);
    let copied = Command::new("cp").arg("--sparse=auto").arg(mount.path("a")).arg(host.path("copy")).output().unwrap();
    assert!(!copied.status.success(), "a copy would have zeros there");
    // A hole that is made through the mount is one, also right after.
    let file = File::options().write(true).open(mount.path("b")).unwrap();
    fallocate(&file, hole, 5 * BLOCK as u64, 4 * BLOCK as u64).unwrap();
    let seen = fs::read(mount.path("b")).unwrap();
    assert!(seen[5 * BLOCK..9 * BLOCK].iter().all(|&byte| byte == 0) && seen[9 * BLOCK..] == content("b")[9 * BLOCK..]);
    drop(file);
    mount.unmount();
    let mount = host.mount("web01", &[]);
    assert!(fs::read(mount.path("b")).unwrap() == seen);
    mount.unmount();
    let log = host.log();
    assert!(log.lines().any(|line| line.contains("read a: block 3 is missing")), "{log}");
}

/// Written by `fs::write`, which syncs nothing: the mount knows the length all the same.
#[test]
fn a_file_that_was_cut_off_says_eio_at_its_end() {
    let host = host_with_files();
    // In the midst of block 9, at the end of block 2, within the entries, within the header's tag, and one byte.
    for (len, left) in [(MAIN + 9 * 4096 + 100, 9), (MAIN + 3 * 4096, 3), (5000, 0), (50, 0), (1, 0)] {
        backing(&host, "a").set_len(len).unwrap();
        let mount = host.mount("web01", &[]);
        assert_eq!(open_says(&mount.path("a")), Some(libc::EIO), "{len}");
        if left > 1 {
            let kept = (left - 1) * BLOCK;
            let file = File::open(mount.path("a")).unwrap();
            assert!(bytes(&file, 0, kept) == content("a")[..kept], "what is left before its last block is readable");
            let error = file.read_at(&mut [0], kept as u64).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EIO));
            let written = File::options().write(true).open(mount.path("a")).unwrap().write_at(b"x", 0);
            assert_eq!(written.unwrap_err().raw_os_error(), Some(libc::EIO), "nothing is built on it");
        }
        assert!(host.log().contains("cut off") || len <= 50, "{}", host.log());
        assert_eq!(damaged_blocks(&mount, "b"), [0; 0]);
        mount.unmount();
    }
}

/// A program that says that what is left is all gets it.
#[test]
fn a_file_that_was_cut_off_can_be_cut_to_what_is_left() {
    let host = host_with_files();
    backing(&host, "a").set_len(MAIN + 3 * 4096 + 100).unwrap();
    let mount = host.mount("web01", &[]);
    let left = fs::metadata(mount.path("a")).unwrap().len();
    assert_eq!(left, 2 * 4096 + 100);
    assert_eq!(open_says(&mount.path("a")), Some(libc::EIO));
    File::options().write(true).open(mount.path("a")).unwrap().set_len(left).unwrap();
    assert!(fs::read(mount.path("a")).unwrap() == content("a")[..2 * 4096 + 100]);
    mount.unmount();
}

/// Programs cut files off and write them again all the time; none of that is damage later.
#[test]
fn files_that_programs_cut_off_are_as_they_left_them() {
    let host = host_with_files();
    for round in 0..3 {
        let mount = host.mount("web01", &[]);
        for (number, len) in [0, 1, 4095, 4096, 5000, 300_000].into_iter().enumerate() {
            let path = mount.path(&format!("f{number}"));
            if round > 0 {
                assert!(fs::read(&path).unwrap() == vec![round; len], "{len}");
            }
            fs::write(&path, vec![round + 9; 400_000 / (usize::from(round) + 1)]).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            if number % 2 == 0 {
                file.sync_all().unwrap();
            }
            file.set_len(100).unwrap();
            drop(file);
            fs::write(&path, vec![round + 1; len]).unwrap();
        }
        mount.unmount();
    }
}

#[test]
fn a_forged_header_does_not_open() {
    let host = host_with_files();
    let file = backing(&host, "a");
    for offset in [0, 20, 40, 64, 80, 500] {
        let byte = bytes(&file, offset, 1);
        file.write_all_at(&[byte[0] ^ 0x40], offset).unwrap();
        let mount = host.mount("web01", &[]);
        assert_eq!(open_says(&mount.path("a")), Some(libc::EIO), "byte {offset}");
        mount.unmount();
        file.write_all_at(&byte, offset).unwrap();
    }
    let mount = host.mount("web01", &[]);
    assert_eq!(damaged_blocks(&mount, "a"), [0; 0]);
    mount.unmount();
}

#[test]
fn a_locked_home_is_listed_and_says_enokey() {
    let host = host_with_files();
    let mount = host.mount("web01", &[]);
    std::os::unix::fs::symlink("target", mount.path("link")).unwrap();
    mount.unmount();
    fs::rename(host.path("config/keys/local.key"), host.path("config/keys/away")).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::metadata(mount.path("a")).unwrap().len(), content("a").len() as u64, "the size shows");
    assert_eq!(open_says(&mount.path("a")), Some(libc::ENOKEY));
    assert_eq!(fs::read_link(mount.path("link")).unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    assert_eq!(fs::write(mount.path("new"), "x").unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    assert_eq!(fs::File::options().write(true).open(mount.path("a")).unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    mount.unmount();
}
