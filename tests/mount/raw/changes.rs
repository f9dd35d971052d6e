//! Images that are written, and backing files that change.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::tools::{assert_same, by_qemu, pattern, run};
use crate::host::Host;

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

/// A host whose VM has the flat disk `root.vmdk` of 64 MiB in two extents.
fn host() -> Host {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for name in ["root-f001.vmdk", "root-f002.vmdk"] {
        File::create(mount.path(name)).unwrap().set_len(32 * MIB).unwrap();
    }
    let text = "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\n\
                createType=\"twoGbMaxExtentFlat\"\nRW 65536 FLAT \"root-f001.vmdk\" 0\nRW 65536 FLAT \"root-f002.vmdk\" 0\n";
    fs::write(mount.path("root.vmdk"), text).unwrap();
    mount.unmount();
    host
}

#[test]
fn an_image_and_its_extent_are_one_disk_whichever_is_written() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let image = open(&mount.path(".raw/root.raw"));
    let extent = open(&mount.path("root-f002.vmdk"));
    let other = File::open(mount.path(".raw/root.raw")).unwrap();
    assert_eq!(image.metadata().unwrap().len(), 64 * MIB);
    for (number, len) in [1, 511, 512, 4096, 70_001, 1 << 20].into_iter().enumerate() {
        let seed = u8::try_from(number).unwrap();
        let at = 777 + number as u64 * 2 * MIB;
        image.write_all_at(&pattern(len, seed), 32 * MIB + at).unwrap();
        assert_same(&read(&extent, at, len), &pattern(len, seed), "written through the image");
        extent.write_all_at(&pattern(len, seed + 100), at + MIB).unwrap();
        assert_same(&read(&image, 33 * MIB + at, len), &pattern(len, seed + 100), "written through the extent");
        assert_same(&read(&other, 33 * MIB + at, len), &pattern(len, seed + 100), "read by another");
    }
    let across = pattern(1 << 20, 50);
    image.write_all_at(&across, 32 * MIB - 12_345).unwrap();
    image.sync_all().unwrap();
    assert_same(&read(&image, 32 * MIB - 12_345, 1 << 20), &across, "across both extents");
    drop((image, extent, other));
    let before = by_qemu(mount.root(), "root.vmdk");
    mount.unmount();
    let mount = host.mount("web01", &[]);
    assert_same(&fs::read(mount.path(".raw/root.raw")).unwrap(), &before, "after a remount");
    assert_same(&before[(32 << 20) - 12_345..][..1 << 20], &across, "QEMU");
    mount.unmount();
}

#[test]
fn holes_and_discards_reach_the_extents() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let image = open(&mount.path(".raw/root.raw"));
    image.write_all_at(&pattern(4 << 20, 1), 30 * MIB).unwrap();
    assert_eq!(seek(&image, SeekFrom::Data(0)).unwrap(), 30 * MIB);
    assert_eq!(seek(&image, SeekFrom::Hole(31 * MIB)).unwrap(), 34 * MIB);
    let taken = |name: &str| fs::metadata(host.path(&format!("web01/{name}"))).unwrap().blocks() * 512;
    let before = [taken("root-f001.vmdk"), taken("root-f002.vmdk")];
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&image, punch, 31 * MIB, 2 * MIB).unwrap();
    assert_eq!(read(&image, 31 * MIB, 2 << 20), vec![0; 2 << 20]);
    assert_eq!(read(&image, 33 * MIB, 1 << 20), pattern(4 << 20, 1)[3 << 20..]);
    assert_eq!(seek(&image, SeekFrom::Data(31 * MIB)).unwrap(), 33 * MIB);
    for (before, name) in before.into_iter().zip(["root-f001.vmdk", "root-f002.vmdk"]) {
        assert!(before - taken(name) >= MIB, "{name} took {before} bytes, and now {}", taken(name));
    }
    fallocate(&image, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 33 * MIB, MIB).unwrap();
    assert_eq!(read(&image, 33 * MIB, 1 << 20), vec![0; 1 << 20]);
    assert!(fallocate(&image, FallocateFlags::empty(), 63 * MIB, 2 * MIB).is_err(), "a disk does not grow");
    assert_eq!(image.write_at(&[1], 64 * MIB).unwrap_err().raw_os_error(), Some(libc::EFBIG));
    drop(image);
    mount.unmount();
}

#[test]
fn qemu_runs_from_an_image() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let image = mount.path(".raw/root.raw");
    let image = image.to_str().unwrap();
    let commands = ["write -P 0x5a 20M 24M", "discard 24M 8M", "write -z 40M 1M", "flush", "read -P 0x5a 36M 4M"];
    let commands: Vec<&str> = commands.into_iter().flat_map(|command| ["-c", command]).collect();
    run(mount.root(), "qemu-io", &[&["-f", "raw", "-t", "none", "-d", "unmap"], &commands[..], &[image]].concat());
    let reads = ["-c", "read -P 0x5a 20M 4M", "-c", "read -P 0 40M 1M", "-c", "read -P 0x5a 41M 3M"];
    run(mount.root(), "qemu-io", &[&["-f", "vmdk"], &reads[..], &["root.vmdk"]].concat());
    mount.unmount();
}

#[test]
fn a_sparse_disk_that_is_written_while_its_image_is_open() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    run(mount.root(), "qemu-img", &["create", "-q", "-f", "vmdk", "thin.vmdk", "40M"]);
    let image = File::open(mount.path(".raw/thin.raw")).unwrap();
    for (at, pattern) in [(3_u64, 1_u8), (10, 2), (3, 3)] {
        assert_ne!(read(&image, at * MIB, 1), [pattern]);
        let write = format!("write -P {pattern} {at}M 100k");
        run(mount.root(), "qemu-io", &["-f", "vmdk", "-c", &write, "thin.vmdk"]);
        assert_eq!(read(&image, at * MIB, 100 << 10), vec![pattern; 100 << 10]);
    }
    drop(image);
    mount.unmount();
}

#[test]
fn an_open_image_outlives_the_names_of_its_files() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let image = open(&mount.path(".raw/root.raw"));
    image.write_all_at(&[7; 1000], 5).unwrap();
    fs::remove_file(mount.path("root.vmdk")).unwrap();
    fs::rename(mount.path("root-f001.vmdk"), mount.path("else.vmdk")).unwrap();
    assert!(!mount.path(".raw/root.raw").exists());
    assert_eq!((read(&image, 5, 1000), image.metadata().unwrap().len()), (vec![7; 1000], 64 * MIB));
    image.write_all_at(&[8; 1000], 6).unwrap();
    image.sync_all().unwrap();
    let renamed = open(&mount.path("else.vmdk"));
    assert_eq!(read(&renamed, 5, 2), [7, 8]);
    drop((image, renamed));
    mount.unmount();
}

#[test]
fn a_changed_descriptor_counts_from_the_next_opening() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let image = open(&mount.path(".raw/root.raw"));
    let text = fs::read_to_string(mount.path("root.vmdk")).unwrap();
    fs::write(mount.path("root.vmdk"), text.replace("65536 FLAT \"root-f002", "8 FLAT \"root-f002")).unwrap();
    image.write_all_at(&[9; 512], 63 * MIB).unwrap();
    assert_eq!(fs::metadata(mount.path(".raw/root.raw")).unwrap().len(), 32 * MIB + 4096);
    assert_eq!(fs::read(mount.path(".raw/root.raw")).unwrap().len() as u64, 32 * MIB + 4096);
    drop(image);
    mount.unmount();
}
