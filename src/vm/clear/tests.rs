use std::os::unix::fs::FileExt;

use super::*;

/// What a file of this name, length and content is.
fn kind(name: &str, len: u64, content: &[(u64, &[u8])]) -> ClearKind {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    for (offset, bytes) in content {
        file.write_all_at(bytes, *offset).unwrap();
    }
    kind_of(&file, OsStr::new(name), &DiskNames::default()).unwrap()
}

#[test]
fn the_list_of_a_home_tells_where_content_is_silent() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4 << 20).unwrap();
    let kind = |name: &str, patterns: &[&str]| {
        let names = DiskNames::new(patterns.iter().map(|&pattern| pattern.to_owned()).collect()).unwrap();
        kind_of(&file, OsStr::new(name), &names).unwrap().is_disk()
    };
    assert_eq!(["vm1", "root.snap1", "web01.raw"].map(|name| kind(name, &[])), [false, false, true], "the usual list");
    assert_eq!(["vm1", "root.snap1", "a.txt"].map(|name| kind(name, &["vm#", "root.snap*"])), [true, true, false]);
    assert_eq!(
        ["vm1", "web01.vmx", "web01.nvram", "vmware.log"].map(|name| kind(name, &["*"])),
        [true, false, false, false]
    );
}

#[test]
fn formats_are_known_by_their_content_whatever_the_name() {
    for (content, reason) in [
        ([(0, &b"QFI\xfb"[..])], "qcow2 image"),
        ([(0x40, &[0x7f, 0x10, 0xda, 0xbe][..])], "VDI image"),
        ([(0, &b"vhdxfile"[..])], "VHDX image"),
        ([((1 << 20) - 512, &b"conectix"[..])], "VHD image"),
        ([(512, &b"EFI PART"[..])], "raw image: GPT"),
        ([(0, &b"XFSB"[..])], "raw image: XFS"),
        ([(0x8001, &b"CD001"[..])], "raw image: ISO 9660"),
        ([(512, &b"LABELONE"[..])], "raw image: LVM"),
        ([(0x438, &[0x53, 0xef, 1, 0, 1, 0][..])], "raw image: ext2, 3 or 4"),
    ] {
        for name in ["web01", "server-core.qcow2", "screenshot.raw", "web01.qcow2~", "web01.qcow2.lck"] {
            assert_eq!(kind(name, 1 << 20, &content), ClearKind::Disk(reason), "{name}");
        }
    }
    for name in ["web01-core.gz", "web01.vmem", "web01.log", "web01.vmx", "web01-ctk.vmdk"] {
        assert_eq!(kind(name, 1 << 20, &[(0, b"QFI\xfb")]), ClearKind::Disk("qcow2 image"), "{name}");
    }
}

#[test]
fn the_first_bytes_tell_a_format_and_a_name_that_it_may_be_a_disk() {
    let vdi = [&[0; 0x40][..], &[0x7f, 0x10, 0xda, 0xbe]].concat();
    for (head, format) in
        [(&b"QFI\xfb\0\0\0\x03"[..], "qcow2 image"), (&vdi, "VDI image"), (b"KDMV\x01\0\0\0", "VMDK image")]
    {
        assert_eq!(disk_in(head), Some(format));
    }
    for head in [&b"# Disk DescriptorFile\nversion=1\n"[..], b"", b"QFI", b"hello"] {
        assert_eq!(disk_in(head), None, "{head:?}");
    }
    assert!(disk_by_name(OsStr::new("a.raw"), 1 << 20).is_some());
    assert!(disk_by_name(OsStr::new("a.raw"), 100).is_none() && disk_by_name(OsStr::new("a.xml"), 1 << 20).is_none());
}

#[test]
fn a_partition_table_makes_a_disk_and_a_saved_boot_sector_does_not() {
    let mut table = [0; 66];
    table[4] = 0x83;
    table[12] = 1;
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(kind("web01", 1 << 20, &[(446, &table)]), ClearKind::Disk("raw image: partition table"));
    assert!(!kind("mbr.backup", 512, &[(446, &table)]).is_disk());
    table[0] = 7; // no state that an entry can have
    assert!(!kind("web01", 1 << 20, &[(446, &table)]).is_disk());
}

#[test]
fn blank_images_are_told_by_name_or_size() {
    for name in [
        "server-core.qcow2",
        "screenshot-vm.raw",
        "web01.raw",
        "WEB01-FLAT.VMDK",
        "web01-s001.vmdk",
        "web01.img",
        "web01-000001-sesparse.vmdk",
    ] {
        assert_eq!(kind(name, 512, &[]), ClearKind::Disk("by its name"), "{name}");
    }
    assert_eq!(kind("vda", 64 << 20, &[]), ClearKind::Disk("by its size"));
    for (name, len) in [("vda", 8 << 20), ("vda", (64 << 20) + 512), ("backup.tar", 64 << 20), ("web01.vmdk", 64 << 20)]
    {
        assert!(!kind(name, len, &[]).is_disk(), "{name} of {len} bytes");
    }
}

#[test]
fn what_vmware_keeps_beside_disks_stays_in_the_home() {
    // A guest's memory may hold anything, a partition table for instance.
    for name in
        ["web01.vmem", "web01-core.gz", "web01.nvram", "vmware.log", "web01-ctk.vmdk", "web01.vswp", "web01.vmx"]
    {
        assert!(!kind(name, 64 << 20, &[(512, b"EFI PART")]).is_disk(), "{name}");
    }
}

#[test]
fn a_vmdk_is_a_descriptor_or_a_disk_by_its_content() {
    let text = b"# Disk DescriptorFile\nversion=1\nCID=00c0ffee\nparentCID=ffffffff\ncreateType=\"custom\"\n\
        RW 2 FLAT \"web01-flat.vmdk\" 0\n";
    assert_eq!(kind("web01.vmdk", text.len() as u64, &[(0, text)]), ClearKind::Home("VMDK descriptor"));
    assert_eq!(kind("disk.raw", text.len() as u64, &[(0, text)]), ClearKind::Home("VMDK descriptor"));
    let padded = [text.as_slice(), &[b'\n'; 512]].concat();
    for name in ["disk.raw", "web01-flat.vmdk", "vda.img", "web01.qcow2"] {
        assert_eq!(
            kind(name, 1 << 20, &[(0, &padded)]),
            ClearKind::Disk("by its name"),
            "its guest wrote that: {name}"
        );
    }
}

#[test]
fn what_only_a_name_or_the_size_makes_a_disk_may_be_ciphertext() {
    let mut noise = vec![0; 1 << 20];
    crate::crypto::random::fill(&mut noise).unwrap();
    let patterns: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let text = b"a guest's log says much, and most of it in letters\n".repeat(20_000);
    let may = |name: &str, len: u64, content: &[(u64, &[u8])]| kind(name, len, content).may_be_ciphertext();
    assert!(may("d.raw", 9 << 20, &[(8 << 20, &noise)]));
    assert!(may("d.raw", 64 << 20, &[(40 << 20, &noise)]) && may("vda", 64 << 20, &[(8 << 20, &noise[..8192])]));
    assert!(may("d.raw", 12 << 20, &[(0, &text), (9 << 20, &noise)]));
    assert!(!may("d.raw", 64 << 20, &[]), "blank");
    assert!(!may("d.raw", 16 << 20, &[(0, &noise)]), "nothing where ciphertext would be");
    assert!(!may("d.raw", 9 << 20, &[(8 << 20, &text)]) && !may("d.raw", 9 << 20, &[(8 << 20, &patterns)]));
    assert!(!may("d.raw", 9 << 20, &[(0, b"QFI\xfb"), (8 << 20, &noise)]), "its content tells");
    assert!(!may("a.txt", 9 << 20, &[(8 << 20, &noise)]), "no disk");
}
