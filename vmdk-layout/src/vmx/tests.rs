use super::*;

const VMX: &str = ".encoding = \"UTF-8\"\nconfig.version = \"8\"\n# a comment\n\nscsi0.present = \"TRUE\"\n\
scsi0.virtualDev = \"pvscsi\"\nscsi0:0.fileName = \"web 01.vmdk\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.deviceType = \"scsi-hardDisk\"\n\
scsi0:10.fileName = \"/vmfs/volumes/ds/x/data.vmdk\"\nSCSI0:10.Present = \"true\"\nscsi0:10.mode = \"independent-persistent\"\n\
sata0:0.deviceType = \"cdrom-image\"\nsata0:0.fileName = \"linux.iso\"\nsata0:0.present = \"TRUE\"\nide1:0.deviceType = \"atapi-cdrom\"\n\
nvme0:1.fileName = \"old.vmdk\"\nnvme0:1.present = \"FALSE\"\nannotation = \"a|22b|22|0Ac|7C d\"\nthis is no setting\nnvram = \"web 01.nvram\"\n";

#[test]
fn settings_are_read_and_printed_unchanged() {
    let vmx = Vmx::parse(VMX.as_bytes()).unwrap();
    assert_eq!(vmx.to_bytes(), VMX.as_bytes());
    assert_eq!(vmx.value("NVRAM"), Some("web 01.nvram"));
    assert_eq!(vmx.value("annotation"), Some("a\"b\"\nc| d"));
    assert_eq!(vmx.flag("scsi0.present"), Some(true));
    assert_eq!((vmx.flag("nvram"), vmx.flag("none")), (None, None));
    assert!(vmx.encryption().unwrap().is_none());
}

#[test]
fn attached_disks_are_listed_by_place() {
    let vmx = Vmx::parse(VMX.as_bytes()).unwrap();
    let disks = vmx.disks();
    let listed: Vec<_> =
        disks.iter().map(|disk| (disk.to_string(), disk.path.as_deref().unwrap(), disk.present)).collect();
    assert_eq!(
        listed,
        [
            ("scsi0:0".to_owned(), "web 01.vmdk", true),
            ("scsi0:10".to_owned(), "/vmfs/volumes/ds/x/data.vmdk", true),
            ("nvme0:1".to_owned(), "old.vmdk", false),
        ]
    );
    assert_eq!(disks[0].file_name().unwrap().unwrap().as_str(), "web 01.vmdk");
    assert_eq!(disks[1].file_name().unwrap_err().kind(), Kind::Denied);
    assert_eq!(disks[1].mode.as_deref(), Some("independent-persistent"));
    let kinds: Vec<_> = vmx.devices().iter().map(|device| device.kind).collect();
    let (disk, other) = (DeviceKind::Disk, DeviceKind::CdromDevice);
    assert_eq!(kinds, [other, disk, disk, DeviceKind::CdromImage, disk]);
}

#[test]
fn setting_changes_its_line_alone() {
    let mut vmx = Vmx::parse(VMX.as_bytes()).unwrap();
    vmx.set("Annotation", "say \"hi\" | #1\n").unwrap();
    vmx.set("scsi0:2.fileName", "new.vmdk").unwrap();
    let text = String::from_utf8(vmx.to_bytes()).unwrap();
    let expected = VMX.replace("annotation = \"a|22b|22|0Ac|7C d\"", "Annotation = \"say |22hi|22 |7C |231|0A\"")
        + "scsi0:2.fileName = \"new.vmdk\"\n";
    assert_eq!(text, expected);
    assert_eq!(Vmx::parse(text.as_bytes()).unwrap(), vmx);
    for (key, value) in
        [(".encoding", "GBK"), ("", "x"), ("a b", "x"), ("a=b", "x"), ("#a", "x"), ("a", "\0"), ("ü", "x")]
    {
        assert!(vmx.set(key, value).is_err(), "{key}");
    }
    assert_eq!(vmx.to_bytes(), text.as_bytes());
}

#[test]
fn values_are_read_in_the_encoding_that_is_declared() {
    let line = [
        b".encoding = \"Shift_JIS\"\r\ndisplayName = \"".as_slice(),
        &Encoding::of_label("Shift_JIS").encode("仮想").unwrap(),
        b"\"\r\n",
    ];
    let mut vmx = Vmx::parse(&line.concat()).unwrap();
    assert_eq!(vmx.value("displayName"), Some("仮想"));
    vmx.set("a", "ポ|").unwrap(); // U+30DD ends in 0x7c, a bar, in Shift_JIS
    assert_eq!(Vmx::parse(&vmx.to_bytes()).unwrap().value("a"), Some("ポ|"));
}

#[test]
fn malformed_values_and_unknown_encodings_lose_nothing_else() {
    let text = b".encoding = \"UTF-8\"\nannotation = \"a\xff\"\nscsi0:0.fileName = \"a.vmdk\"\nscsi0:1.fileName = \"/x/\xfc.vmdk\"\n";
    let vmx = Vmx::parse(text).unwrap();
    assert_eq!(vmx.to_bytes(), text);
    assert_eq!(vmx.value("annotation"), Some("a\u{fffd}"));
    let disks = vmx.disks();
    assert_eq!(disks[0].file_name().unwrap().unwrap().as_str(), "a.vmdk");
    assert_eq!(disks[1].base_name().unwrap().unwrap().spellings().collect::<Vec<_>>(), [b"\xfc.vmdk"]);
    let unknown = Vmx::parse(b".encoding = \"cp437\"\nscsi0:0.fileName = \"a.vmdk\"\nannotation = \"\x84\"\n").unwrap();
    assert_eq!((unknown.disks()[0].path.as_deref(), unknown.value("annotation")), (Some("a.vmdk"), Some("\u{fffd}")));
}

#[test]
fn encrypted_vms_are_recognised() {
    let text =
        ".encoding = \"UTF-8\"\nencryption.keySafe = \"vmware:key/list/(pair/(phrase/x/a%3db,HMAC%2dSHA%2d1,AAAA))\"\n";
    let encryption = Vmx::parse(text.as_bytes()).unwrap().encryption().unwrap().unwrap();
    assert!(encryption.locator().unwrap().takes_passphrase());
    assert!(Vmx::parse(b"encryption.bundle = \"nonsense\"\n").unwrap().encryption().is_err());
}

#[test]
fn quotes_comments_and_bare_values_are_told_apart() {
    let vmx = Vmx::parse(b"a = b c\nd = \"e\" # f\ng = \"h\n= x\n\"i\" = j\nk=\n").unwrap();
    assert_eq!((vmx.value("a"), vmx.value("d"), vmx.value("g")), (Some("b c"), Some("e"), None));
    assert_eq!((vmx.value("k"), vmx.settings().count()), (Some(""), 3));
    assert!(Vmx::parse(&b"\n".repeat(MAX_LINES + 1)).is_err());
}
