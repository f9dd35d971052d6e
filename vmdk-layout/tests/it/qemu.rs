//! Against `qemu-img` (Debian: qemu-utils): every subformat that it writes, and those that it only reads.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use vmdk_layout::{Cid, Descriptor, FileName, Layout, NewDisk};

use crate::images::{FORMATS, Format, data, sample, write_disk};
use crate::reader::{assert_same, read_disk};

fn qemu_img(folder: &Path, arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).current_dir(folder).output();
    let output = output.expect("qemu-img cannot be run: these tests need Debian's qemu-utils");
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn raw_by_qemu(folder: &Path, name: &str) -> Vec<u8> {
    qemu_img(folder, &["convert", "-f", "vmdk", "-O", "raw", name, "by-qemu.raw"]);
    fs::read(folder.join("by-qemu.raw")).unwrap()
}

/// Data, holes, and an end that is not a grain's.
fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for (index, chunk) in bytes.chunks_mut(40_000).enumerate() {
        if index % 3 != 1 {
            let filled = data(seed.wrapping_add(index as u8), chunk.len());
            chunk.copy_from_slice(&filled);
        }
        if index % 4 == 2 {
            chunk.fill(seed); // compresses well
        }
    }
    bytes
}

const LEN: usize = (5 << 20) + 512 * 3;

#[test]
fn every_subformat_that_qemu_writes_reads_as_qemu_reads_it() {
    for subformat in
        ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"]
    {
        let folder = TempDir::new().unwrap();
        let bytes = pattern(LEN, 7);
        fs::write(folder.path().join("in.raw"), &bytes).unwrap();
        let options = format!("subformat={subformat}");
        qemu_img(folder.path(), &["convert", "-f", "raw", "-O", "vmdk", "-o", &options, "in.raw", "my disk.vmdk"]);
        for step in [LEN, 4096, 70_001] {
            let found = read_disk(folder.path(), "my disk.vmdk", step).unwrap();
            assert_same(&found, &bytes, subformat);
        }
        assert_same(&raw_by_qemu(folder.path(), "my disk.vmdk"), &bytes, subformat);
    }
}

#[test]
fn disks_of_several_two_gb_extents_keep_their_order() {
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let folder = TempDir::new().unwrap();
        let options = format!("subformat={subformat}");
        qemu_img(folder.path(), &["create", "-f", "vmdk", "-o", &options, "big.vmdk", "5G"]);
        let text = fs::read(folder.path().join("big.vmdk")).unwrap();
        let descriptor = Descriptor::parse(&text).unwrap();
        assert_eq!((descriptor.extents().len(), descriptor.len()), (3, 5 << 30), "{subformat}");
        assert_eq!(descriptor.to_bytes(), text);
    }
}

#[test]
fn zeroed_grains_of_qemu_hide_the_backing_file() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    fs::write(at.join("base.raw"), pattern(LEN, 1)).unwrap();
    fs::write(at.join("top.raw"), vec![0; LEN]).unwrap();
    qemu_img(at, &["convert", "-f", "raw", "-O", "vmdk", "base.raw", "base.vmdk"]);
    let options = "zeroed_grain=on";
    qemu_img(at, &["create", "-f", "vmdk", "-o", options, "-F", "vmdk", "-b", "base.vmdk", "top.vmdk"]);
    let write = ["-f", "vmdk", "-c", "write -z 65536 1M", "-c", "write -P 0x5a 3M 64k", "top.vmdk"];
    let output = Command::new("qemu-io").args(write).current_dir(at).output().expect("qemu-io is in qemu-utils");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = read_disk(at, "top.vmdk", 100_000).unwrap();
    assert_same(&found, &raw_by_qemu(at, "top.vmdk"), "zeroed grains over a backing file");
    assert!(found[65536..65536 + (1 << 20)].iter().all(|byte| *byte == 0));
    assert_eq!(found[3 << 20], 0x5a);
}

#[test]
fn chains_of_three_read_as_qemu_reads_them() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    fs::write(at.join("base.raw"), pattern(LEN, 3)).unwrap();
    qemu_img(at, &["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=monolithicFlat", "base.raw", "base.vmdk"]);
    for (child, parent, place) in [("one.vmdk", "base.vmdk", "1M"), ("two.vmdk", "one.vmdk", "2M")] {
        qemu_img(at, &["create", "-f", "vmdk", "-F", "vmdk", "-b", parent, child]);
        let write = format!("write -P 0x77 {place} 300k");
        let output =
            Command::new("qemu-io").args(["-f", "vmdk", "-c", &write, child]).current_dir(at).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_same(&read_disk(at, "two.vmdk", 65_536).unwrap(), &raw_by_qemu(at, "two.vmdk"), "three links");
}

#[test]
fn a_changed_parent_is_refused() {
    let folder = TempDir::new().unwrap();
    let at = folder.path();
    qemu_img(at, &["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "base.vmdk", "1M"]);
    qemu_img(at, &["create", "-f", "vmdk", "-F", "vmdk", "-b", "base.vmdk", "top.vmdk"]);
    let mut base = Descriptor::parse(&fs::read(at.join("base.vmdk")).unwrap()).unwrap();
    base.set_cid(Cid(base.cid().0 ^ 1)).unwrap();
    fs::write(at.join("base.vmdk"), base.to_bytes()).unwrap();
    let error = read_disk(at, "top.vmdk", 4096).unwrap_err();
    assert!(error.message().contains("expected the parentCID"), "{error}");
}

/// QEMU reads COWD and seSparse but cannot write them; it also reads what the hosted builder makes.
#[test]
fn images_of_every_sparse_format_read_as_qemu_reads_them() {
    for format in FORMATS.into_iter().filter(|format| *format != Format::HostedDamaged) {
        let folder = TempDir::new().unwrap();
        let image = sample(format);
        write_disk(folder.path(), "disk", &image, None);
        let expected = image.expected(None);
        assert_same(&read_disk(folder.path(), "disk.vmdk", 10_000).unwrap(), &expected, "ours");
        assert_same(&raw_by_qemu(folder.path(), "disk.vmdk"), &expected, &format!("QEMU, {format:?}"));
    }
}

#[test]
fn new_descriptors_are_opened_by_qemu() {
    for vmfs in [false, true] {
        let folder = TempDir::new().unwrap();
        let bytes = pattern(LEN, 9);
        let name = FileName::new("root disk-flat.vmdk").unwrap();
        fs::write(folder.path().join(name.as_str()), &bytes).unwrap();
        let len = LEN as u64;
        let disk = if vmfs { NewDisk::vmfs(len, name, Cid(5)) } else { NewDisk::flat(len, name, Cid(5)) };
        let descriptor = disk.unwrap().descriptor().unwrap();
        fs::write(folder.path().join("root disk.vmdk"), descriptor.to_bytes()).unwrap();
        assert_same(&raw_by_qemu(folder.path(), "root disk.vmdk"), &bytes, "a new descriptor");
        assert!(Layout::open(&descriptor, &[bytes]).unwrap().is_writable());
    }
}

/// Forms that people and other tools write: QEMU reads each of them, and so do we, as the same disk.
#[test]
fn odd_descriptors_read_as_qemu_reads_them() {
    let head =
        |create_type: &str| format!("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n{create_type}\n");
    let flat = "RW 8 FLAT \"a.bin\" 0\n";
    for text in [
        head("createType=\"monolithicFlat\" # note") + flat,
        head("createType=\"monolithicFlat\"\ncreateType=\"vmfsSparse\"") + flat,
        head("createType=\"monolithicFlat\"") + "RW 0 FLAT \"a.bin\" 0\n" + flat,
        head("createType=\"vmfs\"") + "RW 0 ZERO\nRW 8 VMFS \"a.bin\" # note\n",
        head("encoding=\"cp437\"\ncreateType=\"monolithicFlat\"") + flat,
        head("createType=\"monolithicFlat\"") + "RW 8 FLAT \"a.bin\" 0 # note\nddb.comment = \"x\" # y\n\n\t\n",
        (head("createType=\"monolithicFlat\"") + flat).replace('\n', "\r\n"),
        head("createType=\"monolithicFlat\"").replace("CID=1\n", "CID=0x1 # note\nCID=2\n") + flat,
        "version=1\nCID= 1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW\t8  FLAT\t\"a.bin\"\t0\n".to_owned(),
    ] {
        let folder = TempDir::new().unwrap();
        let bytes = pattern(4096, 5);
        fs::write(folder.path().join("a.bin"), &bytes).unwrap();
        fs::write(folder.path().join("d.vmdk"), &text).unwrap();
        assert_same(&raw_by_qemu(folder.path(), "d.vmdk"), &bytes, &text);
        assert_same(&read_disk(folder.path(), "d.vmdk", 4096).unwrap(), &bytes, &text);
    }
}
