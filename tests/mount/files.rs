//! Disks as files: I/O of any alignment, holes, lengths, locks.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};

use crate::host::Host;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..=255).cycle().step_by(7).take(len).map(|byte: u8| byte.wrapping_add(seed)).collect()
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn what_is_written_survives_a_remount_and_is_ciphertext_below() {
    let host = Host::with_vm();
    let marker = b"a marker text that must be nowhere on disk";
    let mount = host.mount("web01", &[]);
    let disk = open(&mount.path("root.raw"));
    disk.write_all_at(&marker.repeat(1000), 1_234_567).unwrap();
    disk.sync_all().unwrap();
    drop(disk);
    mount.unmount();
    let stored = std::fs::read(host.path("web01/root.raw")).unwrap();
    assert!(!stored.windows(16).any(|window| window == &marker[..16]));
    let mount = host.mount("web01", &[]);
    assert_eq!(read(&open(&mount.path("root.raw")), 1_234_567, marker.len() * 1000), marker.repeat(1000));
    mount.unmount();
}

#[test]
fn io_of_any_alignment_agrees_with_a_plain_file() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let (disk, plain) = (open(&mount.path("root.raw")), tempfile::tempfile().unwrap());
    plain.set_len(64 << 20).unwrap();
    let edges = [0, 1, 15, 511, 512, 513, 4095, 4096, 4097, 65_535, 1 << 20, (1 << 20) + 1];
    for (number, offset) in edges.into_iter().enumerate() {
        for len in [1, 16, 511, 512, 4096, 5000, 70_000, (1 << 20) + 77] {
            let data = pattern(len, u8::try_from(number * 11 % 251).unwrap());
            disk.write_all_at(&data, offset).unwrap();
            plain.write_all_at(&data, offset).unwrap();
        }
    }
    assert!(read(&disk, 0, 4 << 20) == read(&plain, 0, 4 << 20));
    drop(disk);
    mount.unmount();
}

#[test]
fn direct_io_needs_only_alignment_to_512() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("root.raw");
    let direct =
        OpenOptions::new().read(true).write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path);
    let direct = direct.unwrap();
    let mut memory = vec![0; 3 * 4096];
    let aligned = memory.as_ptr().align_offset(4096);
    for offset in [0, 512, 3584, 4096, 9 * 512] {
        let buffer = &mut memory[aligned..aligned + 1024];
        buffer.copy_from_slice(&pattern(1024, 3));
        direct.write_all_at(buffer, offset).unwrap();
        assert_eq!(read(&open(&path), offset, 1024), pattern(1024, 3));
    }
    drop(direct);
    mount.unmount();
}

#[test]
fn lengths_and_holes_are_those_of_a_file() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let disk = open(&mount.path("root.raw"));
    assert_eq!(disk.metadata().unwrap().blocks(), 0, "a new disk takes no space");
    disk.write_all_at(&pattern(1 << 20, 1), 8 << 20).unwrap();
    assert_eq!(disk.metadata().unwrap().blocks() * 512, 1 << 20);
    assert_eq!(seek(&disk, SeekFrom::Data(0)).unwrap(), 8 << 20);
    assert_eq!(seek(&disk, SeekFrom::Hole(8 << 20)).unwrap(), 9 << 20);
    assert!(seek(&disk, SeekFrom::Data(9 << 20)).is_err());

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&disk, punch, (8 << 20) + 100, 500_000).unwrap();
    let seen = read(&disk, 8 << 20, 1 << 20);
    assert_eq!(&seen[..100], &pattern(100, 1)[..]);
    assert!(seen[100..500_100].iter().all(|&byte| byte == 0));
    assert!(seen[500_100..] == pattern(1 << 20, 1)[500_100..]);
    assert!(disk.metadata().unwrap().blocks() * 512 < (1 << 20) - 400_000, "discarded space is given back");

    fallocate(&disk, FallocateFlags::ZERO_RANGE, (8 << 20) + 600_000, 1000).unwrap();
    assert!(read(&disk, (8 << 20) + 600_000, 1000).iter().all(|&byte| byte == 0));
    fallocate(&disk, FallocateFlags::empty(), 64 << 20, 1 << 20).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 65 << 20);
    fallocate(&disk, FallocateFlags::KEEP_SIZE, 65 << 20, 1 << 20).unwrap();
    assert_eq!(disk.metadata().unwrap().len(), 65 << 20);

    disk.set_len((8 << 20) + 77).unwrap();
    disk.set_len(10 << 20).unwrap();
    assert_eq!(read(&disk, 8 << 20, 77), pattern(77, 1), "what was kept");
    assert!(read(&disk, (8 << 20) + 77, 1 << 20).iter().all(|&byte| byte == 0), "what was cut off does not come back");
    drop(disk);
    mount.unmount();
}

#[test]
fn new_disks_are_made_in_the_mount() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let source = Path::new(host.path("source"));
    let plain = open_new(source);
    plain.set_len(32 << 20).unwrap();
    plain.write_all_at(&pattern(100_000, 5), 20 << 20).unwrap();
    let tools: [(&str, Vec<&str>); 3] = [
        ("cp", vec!["--sparse=always", "SOURCE", "copy.raw"]),
        ("truncate", vec!["-s", "12345", "cut.img"]),
        ("qemu-img", vec!["convert", "-O", "raw", "SOURCE", "converted.raw"]),
    ];
    for (tool, args) in tools {
        let args = args.into_iter().map(|arg| if arg == "SOURCE" { source.to_str().unwrap() } else { arg });
        let status = Command::new(tool).args(args).current_dir(mount.root()).status();
        assert!(status.unwrap_or_else(|error| panic!("{tool}: {error}")).success(), "{tool}");
    }
    for copy in ["copy.raw", "converted.raw"] {
        let copied = open(&mount.path(copy));
        assert_eq!(copied.metadata().unwrap().len(), 32 << 20, "{copy}");
        assert!(read(&copied, 0, 32 << 20) == read(&plain, 0, 32 << 20), "{copy}");
        assert!(copied.metadata().unwrap().blocks() * 512 < 1 << 20, "{copy} stays sparse");
    }
    assert_eq!(std::fs::metadata(mount.path("cut.img")).unwrap().len(), 12_345);
    mount.unmount();
    host.run(&["check", host.path("web01")]);
}

fn open_new(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap()
}

#[test]
fn threads_write_side_by_side() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("root.raw");
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let path = &path;
            scope.spawn(move || {
                let disk = open(path);
                for turn in 0..64_u64 {
                    let offset = (turn * 8 + u64::from(writer)) * 1000; // neighbours share units
                    disk.write_all_at(&[writer + 1; 1000], offset).unwrap();
                }
            });
        }
    });
    let seen = read(&open(&path), 0, 64 * 8 * 1000);
    for (number, piece) in seen.chunks(1000).enumerate() {
        let expected = u8::try_from(number % 8).unwrap() + 1;
        assert!(piece.iter().all(|&byte| byte == expected), "piece {number}");
    }
    mount.unmount();
}

#[test]
fn a_removed_disk_works_until_it_is_closed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let disk = open(&mount.path("root.raw"));
    std::fs::remove_file(mount.path("root.raw")).unwrap();
    disk.write_all_at(&pattern(9999, 7), 5).unwrap();
    assert_eq!(read(&disk, 5, 9999), pattern(9999, 7));
    assert!(!mount.path("root.raw").exists());
    drop(disk);
    mount.unmount();
}

/// stress-ng's leases found it: the claim of a file that was just being closed kept the same mount from opening it.
#[test]
fn a_file_that_is_being_closed_can_be_opened() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for name in ["root.raw", "home.txt"] {
        let path = mount.path(name);
        File::options().create(true).append(true).open(&path).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let path = &path;
                scope.spawn(move || (0..10_000).for_each(|_| drop(open(path))));
            }
        });
    }
    mount.unmount();
}

#[test]
fn locks_between_openers_hold() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let (first, second) = (open(&mount.path("root.raw")), open(&mount.path("root.raw")));
    first.lock().unwrap();
    assert!(second.try_lock().is_err());
    first.unlock().unwrap();
    second.try_lock().unwrap();
    drop((first, second));
    mount.unmount();
}
