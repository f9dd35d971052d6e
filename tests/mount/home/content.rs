//! Content of home files through every kind of access.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate, seek};

use crate::host::Host;

const MARKER: &[u8] = b"a marker text that must be nowhere below";

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// Every regular file below a folder, its bytes.
fn stored_below(folder: &Path) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(stored_below(&entry.path()));
        } else if kind.is_file() {
            found.push(fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn files_survive_a_remount_and_are_ciphertext_below() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let text = |len: usize| MARKER.iter().copied().cycle().take(len).collect::<Vec<u8>>();
    let lengths = [0, 1, 100, 4095, 4096, 4097, 65_536, 262_143, 262_144, 262_145, 3_000_000];
    fs::create_dir(mount.path("logs")).unwrap();
    for len in lengths {
        fs::write(mount.path(&format!("logs/{len}")), text(len)).unwrap();
    }
    mount.unmount();
    for bytes in stored_below(Path::new(host.path("web01"))) {
        assert!(!bytes.windows(12).any(|window| window == &MARKER[..12]));
    }
    let mount = host.mount("web01", &[]);
    for len in lengths {
        let path = mount.path(&format!("logs/{len}"));
        assert_eq!(fs::metadata(&path).unwrap().len(), len as u64, "before it is opened");
        assert!(fs::read(&path).unwrap() == text(len), "{len} bytes");
    }
    mount.unmount();
    host.run(&["check", host.path("web01")]);
}

#[test]
fn equal_content_is_never_equal_below() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let stored = |name: &str| fs::read(host.path(&format!("web01/{name}"))).unwrap();
    // Main places of blocks 0 and 1: docs/FORMAT.md section 9.
    let block = |bytes: &[u8], number: usize| bytes[274_432 + number * 4096..][..4096].to_vec();
    for name in ["one", "two"] {
        let file = open(&mount.path(name));
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.sync_all().unwrap();
    }
    let (one, two) = (stored("one"), stored("two"));
    assert_ne!(block(&one, 0), block(&two, 0), "the same block of two files");
    assert_ne!(block(&one, 0), block(&one, 1), "two blocks of one file");
    fs::remove_file(mount.path("two")).unwrap();
    for _ in 0..2 {
        // Twice: the first rewrite goes to the spare places.
        let file = open(&mount.path("one"));
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.sync_all().unwrap();
    }
    assert_ne!(block(&one, 0), block(&stored("one"), 0), "a rewrite");
    mount.unmount();
}

#[test]
fn appending_and_truncating() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("vm.log");
    let append = || OpenOptions::new().append(true).create(true).open(&path).unwrap();
    let (mut first, mut second) = (append(), append());
    for turn in 0..500 {
        first.write_all(format!("first {turn}\n").as_bytes()).unwrap();
        second.write_all(format!("second {turn}\n").as_bytes()).unwrap();
    }
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), 1000);
    assert_eq!(text.lines().nth(999), Some("second 499"));

    drop(File::create(&path).unwrap());
    assert_eq!(fs::metadata(&path).unwrap().len(), 0, "O_TRUNC");
    first.write_all(b"after\n").unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "after\n", "O_APPEND after a truncation");
    first.set_len(3).unwrap();
    first.set_len(10_000).unwrap();
    let seen = fs::read(&path).unwrap();
    assert_eq!(&seen[..3], b"aft");
    assert!(seen.len() == 10_000 && seen[3..].iter().all(|&byte| byte == 0), "what was cut off does not come back");
    drop((first, second));
    mount.unmount();
}

#[test]
fn holes_and_reservations() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("core");
    let file = open(&path);
    file.set_len(100 << 20).unwrap();
    file.write_all_at(&[1; 1 << 20], 50 << 20).unwrap();
    file.sync_all().unwrap();
    let taken = |file: &File| file.metadata().unwrap().blocks() * 512;
    assert!(taken(&file) < 2 << 20, "{} bytes are taken", taken(&file));
    let data = rustix::fs::SeekFrom::Data;
    assert_eq!(seek(&file, data(0)).unwrap(), 50 << 20);
    assert_eq!(seek(&file, rustix::fs::SeekFrom::Hole(50 << 20)).unwrap(), 51 << 20);
    assert!(seek(&file, data(51 << 20)).is_err());

    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, (50 << 20) + 10, 500_000).unwrap();
    let mut seen = vec![9; 1 << 20];
    file.read_exact_at(&mut seen, 50 << 20).unwrap();
    assert!(seen[..10] == [1; 10] && seen[10..500_010].iter().all(|&byte| byte == 0));
    assert!(seen[500_010..].iter().all(|&byte| byte == 1));
    assert!(taken(&file) < 1 << 20, "discarded space is given back: {} bytes are taken", taken(&file));

    fallocate(&file, FallocateFlags::ZERO_RANGE, (50 << 20) + 600_000, 5000).unwrap();
    file.read_exact_at(&mut seen[..5001], (50 << 20) + 600_000).unwrap();
    assert!(seen[..5000].iter().all(|&byte| byte == 0) && seen[5000] == 1);
    fallocate(&file, FallocateFlags::empty(), 100 << 20, 5000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (100 << 20) + 5000);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 110 << 20, 5000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (100 << 20) + 5000);
    assert!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096).is_err());
    drop(file);
    mount.unmount();
}

#[test]
fn mapped_shared_and_private() {
    // No crate of ours maps memory; the distribution's Python does.
    let script = "
import mmap, sys
with open(sys.argv[1], 'w+b') as file:
    file.truncate(100000)
    with mmap.mmap(file.fileno(), 0) as shared:
        shared[0:5] = b'hello'
        shared[99995:100000] = b'world'
        shared.flush()
        file.seek(0)
        assert file.read(5) == b'hello', 'read after a write through the mapping'
        file.seek(50000); file.write(b'middle'); file.flush()
        assert shared[50000:50006] == b'middle', 'mapping after a write'
    with mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE) as private:
        private[0:5] = b'other'
    file.seek(0)
    assert file.read(5) == b'hello', 'a private mapping changes no file'
";
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let ran = Command::new("python3").args(["-c", script]).arg(mount.path("mapped")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    mount.unmount();
    let mount = host.mount("web01", &[]);
    let seen = fs::read(mount.path("mapped")).unwrap();
    assert_eq!((&seen[..5], &seen[50_000..50_006], &seen[99_995..]), (&b"hello"[..], &b"middle"[..], &b"world"[..]));
    mount.unmount();
}

/// Files that are only written go past the kernel's cache while nobody had them open before, so the order counts.
#[test]
fn what_one_handle_writes_all_others_see_whichever_was_first() {
    let script = "
import itertools, mmap, os, sys
opens = {'writer': os.O_WRONLY, 'appender': os.O_WRONLY | os.O_APPEND, 'reader': os.O_RDONLY, 'both': os.O_RDWR}
for order in itertools.permutations(opens):
    path = sys.argv[1] + '-'.join(order)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    os.truncate(path, 20000)
    files = {name: os.open(path, opens[name]) for name in order}
    maps = [mmap.mmap(files['both'], 20000), mmap.mmap(files['reader'], 20000, prot=mmap.PROT_READ)]
    def expect(text, at, what):
        seen = [os.pread(files[name], len(text), at) for name in ('reader', 'both')] + [m[at:at + len(text)] for m in maps]
        assert seen == [text] * 4, (order, what, seen)
    for turn in range(20):
        for at in (0, 4090, 10000):
            text = b'%s %03d' % (b'w' * 20, turn)
            os.pwrite(files['writer'], text, at)
            expect(text, at, 'by the writer')
            text = b'%s %03d' % (b'b' * 30, turn)
            os.pwrite(files['both'], text, at)
            expect(text, at, 'by the one that reads and writes')
            text = b'%s %03d' % (b'm' * 10, turn)
            maps[0][at:at + len(text)] = text
            expect(text, at, 'by the mapping')
    os.ftruncate(files['writer'], 19999)
    assert [os.fstat(file).st_size for file in files.values()] == [19999] * 4, order
    os.write(files['appender'], b'behind')
    assert os.pread(files['reader'], 100, 19990) == bytes(9) + b'behind', (order, 'appended')
    maps[0].close(), maps[1].close()
    for file in files.values(): os.close(file)
    with open(path, 'rb') as again:
        assert again.read()[-6:] == b'behind', order
";
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let ran = Command::new("python3").args(["-c", script]).arg(mount.path("seen-")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    mount.unmount();
}

#[test]
fn a_removed_or_renamed_file_works_until_it_is_closed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let mut file = open(&mount.path("old"));
    let number = file.metadata().unwrap().ino();
    file.write_all(b"before ").unwrap();
    fs::rename(mount.path("old"), mount.path("new")).unwrap();
    file.write_all(b"renamed ").unwrap();
    assert_eq!(fs::metadata(mount.path("new")).unwrap().ino(), number);
    fs::remove_file(mount.path("new")).unwrap();
    file.write_all(b"removed").unwrap();
    fs::write(mount.path("new"), "another").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before renamed removed");
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    assert_eq!(fs::read_to_string(mount.path("new")).unwrap(), "another");
    drop(file);
    mount.unmount();
}

#[test]
fn a_file_that_was_replaced_is_the_new_one_and_the_old_one_still_works() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("nvram"), "old").unwrap();
    let old = File::open(mount.path("nvram")).unwrap();
    fs::write(mount.path("nvram.tmp"), "new content").unwrap();
    fs::rename(mount.path("nvram.tmp"), mount.path("nvram")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("nvram")).unwrap(), "new content");
    assert_eq!(std::io::read_to_string(old).unwrap(), "old");
    assert!(!mount.path("nvram.tmp").exists());
    mount.unmount();
}

#[test]
fn locks_between_openers_hold() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("lock"), "").unwrap();
    let (first, second) = (open(&mount.path("lock")), open(&mount.path("lock")));
    first.lock().unwrap();
    assert!(second.try_lock().is_err());
    first.unlock().unwrap();
    second.try_lock().unwrap();
    drop((first, second));
    // POSIX and OFD locks, of two processes and of two opens.
    let script = "
import fcntl, os, struct, sys
path = sys.argv[1]
one, two = open(path, 'r+b'), open(path, 'r+b')
lock = lambda kind: struct.pack('hhqqi4x', kind, os.SEEK_SET, 10, 10, 0)
fcntl.fcntl(one, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
try:
    fcntl.fcntl(two, fcntl.F_OFD_SETLK, lock(fcntl.F_WRLCK))
    sys.exit('two opens hold one OFD lock')
except BlockingIOError:
    pass
fcntl.fcntl(one, fcntl.F_OFD_SETLK, lock(fcntl.F_UNLCK))
fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 100)
if os.fork() == 0:
    try:
        fcntl.lockf(two, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 102)
        os._exit(1)
    except OSError:
        os._exit(0)
sys.exit(os.wait()[1])
";
    let ran = Command::new("python3").args(["-c", script]).arg(mount.path("lock")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    mount.unmount();
}

/// What a mapping wrote is with the kernel for a while; a search for data must see it all the same.
#[test]
fn data_that_a_mapping_wrote_is_found() {
    const FIND: &str = "import mmap, os, sys
for name, size in (('home.txt', 65536), ('mapped.raw', 65536)):
    file = os.open(name, os.O_RDWR | os.O_CREAT)
    os.ftruncate(file, size)
    mapped = mmap.mmap(file, size)
    assert os.lseek(file, 0, os.SEEK_HOLE) == 0
    for at in (4096, 20480):
        mapped[at:at + 4096] = b'x' * 4096
        assert os.lseek(file, 0, os.SEEK_DATA) == 4096, name
        assert os.lseek(file, at, os.SEEK_HOLE) == at + 4096, name
        other = os.open(name, os.O_RDONLY)
        assert os.lseek(other, at, os.SEEK_DATA) == at and os.pread(other, 9, at) == b'x' * 9, name
        os.close(other)
    assert mapped[4096:8192] == b'x' * 4096
";
    let host = Host::with_vm();
    for transport in ["dev-fuse", "auto"] {
        let mount = host.mount("web01", &["--transport", transport]);
        let output =
            Command::new("timeout").args(["60", "python3", "-c", FIND]).current_dir(mount.root()).output().unwrap();
        assert!(output.status.success(), "{transport}: {}", String::from_utf8_lossy(&output.stderr));
        for name in ["home.txt", "mapped.raw"] {
            fs::remove_file(mount.path(name)).unwrap();
        }
        mount.unmount();
    }
}
