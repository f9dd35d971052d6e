//! Images that others made, byte for byte as others read them.

use std::fs;
use std::path::Path;

use super::tools::{assert_same, by_dissect, by_qemu, pattern, run};
use crate::host::{Host, Mount};
use crate::images::{Cell, FORMATS, Format, sample, write_disk};

const LEN: usize = (5 << 20) + 512 * 3;

const SUBFORMATS: [&str; 5] =
    ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"];

fn host() -> Host {
    let host = Host::new();
    host.run(&["create", host.path("web01")]);
    host
}

fn raw(mount: &Mount<'_>, name: &str) -> Vec<u8> {
    fs::read(mount.path(".raw").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn every_subformat_that_qemu_writes_made_in_the_mount_or_copied_in() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let bytes = pattern(LEN, 7);
    let outside = tempfile::tempdir().unwrap();
    let source = outside.path().join("in.raw");
    fs::write(&source, &bytes).unwrap();
    for (number, subformat) in SUBFORMATS.into_iter().enumerate() {
        let folder = tempfile::tempdir_in(outside.path()).unwrap();
        let options = format!("subformat={subformat}");
        for (place, name) in [(mount.root(), "made here.vmdk"), (folder.path(), "copied.vmdk")] {
            let target = place.join(format!("{number} {name}"));
            let args = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options, source.to_str().unwrap()];
            run(place, "qemu-img", &[&args[..], &[target.to_str().unwrap()]].concat());
        }
        copy_all(folder.path(), mount.root());
        for name in ["made here", "copied"] {
            let name = format!("{number} {name}");
            assert_same(&raw(&mount, &format!("{name}.raw")), &bytes, &format!("{subformat}, {name}"));
            assert_same(&by_qemu(mount.root(), &format!("{name}.vmdk")), &bytes, &format!("QEMU, {subformat}"));
        }
        let image = mount.path(".raw").join(format!("{number} made here.raw"));
        let is_flat = subformat.ends_with("Flat");
        assert_eq!(fs::metadata(&image).unwrap().permissions().readonly(), !is_flat, "{subformat}");
        run(
            mount.root(),
            "qemu-img",
            &["compare", "-f", "raw", "-F", "raw", image.to_str().unwrap(), source.to_str().unwrap()],
        );
    }
    mount.unmount();
}

#[test]
fn sparse_formats_that_qemu_only_reads() {
    for format in FORMATS {
        let host = host();
        let mount = host.mount("web01", &[]);
        let outside = tempfile::tempdir().unwrap();
        let mut base = sample(format);
        base.cells
            .iter_mut()
            .enumerate()
            .for_each(|(index, cell)| *cell = Cell::Data(u8::try_from(index % 251).unwrap()));
        write_disk(outside.path(), "disk", &sample(format), None);
        let snapshot = matches!(format, Format::Hosted | Format::Cowd | Format::SeSparse);
        if snapshot {
            write_disk(outside.path(), "base", &base, None);
            write_disk(outside.path(), "top", &sample(format), Some(("/vmfs/volumes/x/web01/base.vmdk", 10)));
        }
        copy_all(outside.path(), mount.root());
        let expected = sample(format).expected(None);
        assert_same(&raw(&mount, "disk.raw"), &expected, &format!("{format:?}"));
        if format != Format::HostedDamaged {
            assert_same(&by_qemu(outside.path(), "disk.vmdk"), &expected, &format!("QEMU, {format:?}"));
            assert_same(&by_dissect(outside.path(), "disk.vmdk"), &expected, &format!("dissect, {format:?}"));
        }
        if snapshot {
            let expected = sample(format).expected(Some(&base.expected(None)));
            assert_same(&raw(&mount, "top.raw"), &expected, &format!("a snapshot, {format:?}"));
        }
        mount.unmount();
    }
}

/// A COWD extent without any data: the header, a directory and its tables. QEMU cannot make one, but writes into it.
fn empty_cowd(sectors: u32, grain: u32) -> Vec<u8> {
    let tables = sectors.div_ceil(4096 * grain);
    let directory = (tables * 4).div_ceil(512);
    let mut bytes = b"COWD".to_vec();
    for field in [1, 3, sectors, grain, 4, tables, 4 + directory + tables * 32] {
        bytes.extend(field.to_le_bytes());
    }
    bytes.resize(2048, 0);
    (0..tables).for_each(|table| bytes.extend((4 + directory + table * 32).to_le_bytes()));
    bytes.resize(((4 + directory + tables * 32) * 512) as usize, 0);
    bytes
}

#[test]
fn cowd_written_by_qemu_in_the_mount() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let text = "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\ncreateType=\"vmfsSparse\"\n\
                RW 20001 VMFSSPARSE \"web01-delta.vmdk\"\n";
    fs::write(mount.path("web01.vmdk"), text).unwrap();
    fs::write(mount.path("web01-delta.vmdk"), empty_cowd(20_001, 128)).unwrap();
    assert!(raw(&mount, "web01.raw").iter().all(|byte| *byte == 0));
    let writes = ["write -P 7 100k 300k", "write -P 9 5M 1M", "write -P 3 10240000 512", "write -P 4 1M 512"];
    for write in writes {
        run(mount.root(), "qemu-io", &["-f", "vmdk", "-c", write, "web01.vmdk"]);
    }
    let found = raw(&mount, "web01.raw");
    assert_eq!([found[150_000], found[6 << 20], found[6_000_000], found[10_240_511]], [7, 0, 9, 3]);
    assert_same(&found, &by_qemu(mount.root(), "web01.vmdk"), "QEMU");
    assert_same(&found, &by_dissect(mount.root(), "web01.vmdk"), "dissect");
    mount.unmount();
}

#[test]
fn images_made_by_another_library() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let grain = pattern(4096, 5);
    let makers: [(&str, &str, Vec<u8>); 2] = [
        ("vmfsSparse", "VMFSSPARSE", vmdk::testutil::test_cowd_vmdk(&grain)),
        ("seSparse", "SESPARSE", vmdk::testutil::test_sesparse_vmdk(&grain)),
    ];
    for (create_type, extent_type, bytes) in makers {
        let layout = vmdk_layout::Sparse::open(&bytes).unwrap();
        let text = format!(
            "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\ncreateType=\"{create_type}\"\n\
             RW {} {extent_type} \"{create_type}-delta.vmdk\"\n",
            layout.capacity()
        );
        fs::write(mount.path(&format!("{create_type}.vmdk")), text).unwrap();
        fs::write(mount.path(&format!("{create_type}-delta.vmdk")), &bytes).unwrap();
        let found = raw(&mount, &format!("{create_type}.raw"));
        let shown = found.len().min(grain.len());
        assert_same(&found[..shown], &grain[..shown], create_type);
        assert!(shown > 0 && found[shown..].iter().all(|byte| *byte == 0));
        assert_same(&found, &by_qemu(mount.root(), &format!("{create_type}.vmdk")), "QEMU");
        assert_same(&found, &by_dissect(mount.root(), &format!("{create_type}.vmdk")), "dissect");
    }
    mount.unmount();
}

#[test]
fn chains_of_three_made_in_the_mount() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), pattern(LEN, 3)).unwrap();
    let source = outside.path().to_str().unwrap();
    let flat = "subformat=monolithicFlat";
    run(mount.root(), "qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "-o", flat, source, "base.vmdk"]);
    for (child, parent, at) in [("one.vmdk", "base.vmdk", "1M"), ("two.vmdk", "one.vmdk", "2M")] {
        run(mount.root(), "qemu-img", &["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", parent, child]);
        run(mount.root(), "qemu-io", &["-f", "vmdk", "-c", &format!("write -P 0x77 {at} 200k"), child]);
    }
    let unknown = fs::read(mount.path(".raw/two.raw")).unwrap_err();
    assert_eq!(unknown.raw_os_error(), Some(libc::EPERM), "its guest may have written of a parent: {unknown}");
    fs::write(mount.path("web01.vmx"), "sata0:0.present = \"TRUE\"\nsata0:0.fileName = \"two.vmdk\"\n").unwrap();
    let found = raw(&mount, "two.raw");
    assert_same(&raw(&mount, "one.raw"), &by_qemu(mount.root(), "one.vmdk"), "a parent that is one disk with its own");
    assert_eq!([found[1 << 20], found[2 << 20]], [0x77, 0x77]);
    assert_same(&found, &by_qemu(mount.root(), "two.vmdk"), "QEMU");
    assert_same(&found, &by_dissect(mount.root(), "two.vmdk"), "dissect");
    assert_same(&raw(&mount, "base.raw"), &pattern(LEN, 3), "the base by itself");
    mount.unmount();
}

#[test]
fn extents_that_qemu_drops_keep_their_place() {
    let host = host();
    let mount = host.mount("web01", &[]);
    let text = "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\ncreateType=\"custom\"\n\
                RW 100 FLAT \"web01-f001.vmdk\" 3\nRDONLY 200 ZERO\nRDONLY 50 VMFS \"web01-flat.vmdk\"\nRW 3 FLAT \"web01-f001.vmdk\" 0\n";
    fs::write(mount.path("web01.vmdk"), text).unwrap();
    let (first, second) = (pattern(103 * 512, 1), pattern(50 * 512, 2));
    fs::write(mount.path("web01-f001.vmdk"), &first).unwrap();
    fs::write(mount.path("web01-flat.vmdk"), &second).unwrap();
    let expected = [&first[3 * 512..], &[0; 200 * 512], &second, &first[..3 * 512]].concat();
    assert_same(&raw(&mount, "web01.raw"), &expected, "mixed extents");
    // createTypes of ESXi that QEMU refuses to open at all.
    for create_type in ["vmfsThin", "vmfsPreallocated", "vmfsEagerZeroedThick", "fullDevice"] {
        let text = format!("version=1\nCID=1\ncreateType=\"{create_type}\"\nRW 50 VMFS \"web01-flat.vmdk\"\n");
        fs::write(mount.path("esxi.vmdk"), text).unwrap();
        assert_same(&raw(&mount, "esxi.raw"), &second, create_type);
    }
    mount.unmount();
}
