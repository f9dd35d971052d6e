//! Things that happen to files while they are in use: unmounting, renaming, removing, cutting off.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::host::Host;

const PIECE: usize = 3000;

fn open(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A piece that says which it is.
fn piece(number: u64) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(PIECE).collect()
}

/// Ends the mount's process as its administrator would: the mount vanishes, open files go on until they are closed.
#[test]
fn a_mount_that_is_ended_under_running_io_finishes_it() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let pid = mount.pid();
    let names = ["root.raw", "notes.txt"];
    let files = names.map(|name| open(&mount.path(name)));
    let written = [const { AtomicU64::new(0) }; 2];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (file, written) in files.iter().zip(&written) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let number = written.load(Ordering::Relaxed) % 200;
                    file.write_all_at(&piece(number), number * PIECE as u64).unwrap();
                    written.fetch_add(1, Ordering::Relaxed);
                }
                file.sync_all().unwrap();
            });
        }
        while written.iter().any(|count| count.load(Ordering::Relaxed) < 20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let began = Instant::now();
        while fs::read_dir(mount.root()).unwrap().next().is_some() {
            assert!(began.elapsed() < Duration::from_secs(20), "the mount does not vanish");
            std::thread::sleep(Duration::from_millis(5));
        }
        let before = written.each_ref().map(|count| count.load(Ordering::Relaxed));
        let goes_on = || written.iter().zip(before).all(|(now, before)| now.load(Ordering::Relaxed) > before);
        let began = Instant::now();
        while !goes_on() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let goes_on = goes_on();
        stop.store(true, Ordering::Relaxed);
        assert!(goes_on, "writing stopped: {before:?} {written:?}");
    });
    drop(files);
    let began = Instant::now();
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "the process stays after the last close");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(mount);
    let mount = host.mount("web01", &[]);
    for (name, written) in names.iter().zip(&written) {
        let file = File::open(mount.path(name)).unwrap();
        for number in 0..written.load(Ordering::Relaxed).min(200) {
            let mut seen = vec![0; PIECE];
            file.read_exact_at(&mut seen, number * PIECE as u64).unwrap();
            assert!(seen == piece(number), "{name}: piece {number}");
        }
    }
    mount.unmount();
}

/// One thread writes and reads through its handle; others rename the file, put another in its place and remove that.
#[test]
fn a_handle_keeps_its_file_while_its_name_changes_hands() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for suffix in ["txt", "raw"] {
        let [name, moved, other] = ["name", "moved", "other"].map(|name| mount.path(&format!("{name}.{suffix}")));
        let file = open(&name);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::rename(&name, &moved).unwrap();
                    fs::write(&other, "another file").unwrap();
                    fs::rename(&other, &name).unwrap();
                    assert_eq!(fs::read(&name).unwrap(), b"another file");
                    fs::remove_file(&name).unwrap();
                    fs::rename(&moved, &name).unwrap();
                }
            });
            for number in 0..400 {
                let at = number % 37 * PIECE as u64;
                file.write_all_at(&piece(number), at).unwrap();
                let mut seen = vec![0; PIECE];
                file.read_exact_at(&mut seen, at).unwrap();
                assert!(seen == piece(number), "{suffix}: piece {number}");
            }
            file.sync_all().unwrap();
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(file.metadata().unwrap().len(), 37 * PIECE as u64);
        assert!(fs::read(&name).unwrap()[..PIECE] == piece(370), "the file has its name again");
    }
    mount.unmount();
}

/// What was cut off never comes back, however writes, truncations and removals through other handles meet.
#[test]
fn cutting_off_under_open_handles_leaves_data_or_zeros() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for name in ["cut.txt", "cut.raw"] {
        let path = mount.path(name);
        let (writer, cutter) = (open(&path), open(&path));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    cutter.set_len(turn * 1013 % 20_000).unwrap();
                }
                fs::remove_file(&path).unwrap();
            });
            for number in 1..400 {
                writer.write_all_at(&piece(7), number % 6 * PIECE as u64).unwrap();
                let mut seen = vec![0; PIECE];
                let len = writer.read_at(&mut seen, number % 5 * PIECE as u64).unwrap();
                let whole = piece(7);
                assert!(
                    seen[..len].iter().zip(&whole).all(|(seen, written)| *seen == 0 || seen == written),
                    "{name}: bytes that nobody wrote"
                );
            }
            stop.store(true, Ordering::Relaxed);
        });
        writer.write_all_at(&piece(9), 0).unwrap();
        let mut seen = vec![0; PIECE];
        writer.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == piece(9), "{name}: a removed file works until it is closed");
        assert!(!path.exists());
    }
    mount.unmount();
}
