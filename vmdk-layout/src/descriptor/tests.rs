use super::*;

const SNAPSHOT: &str = "# Disk DescriptorFile\r\nversion=3\r\nCID=0badcafe\r\nparentCID=12345678\r\nisNativeSnapshot=\"no\"\r\n\
createType=\"seSparse\"\r\nparentFileNameHint=\"/vmfs/volumes/ds/vm/a b.vmdk\"\r\n# Extent description\r\n\
RW 4096 SESPARSE \"a b-000001-sesparse.vmdk\"\r\n\r\n# Change Tracking File\r\nchangeTrackPath=\"a b-000001-ctk.vmdk\"\r\n\
some line of the future\r\n# The Disk Data Base \r\n#DDB\r\n\r\nddb.longContentID = \"00\"\r\n";

const MINIMAL: &str = "version=1\nCID=1\ncreateType=\"custom\"\n";

fn parse(text: &str) -> Result<Descriptor> {
    Descriptor::parse(text.as_bytes())
}

#[test]
fn a_snapshot_of_esxi_is_read_and_printed_unchanged() {
    let descriptor = parse(SNAPSHOT).unwrap();
    assert_eq!(descriptor.to_bytes(), SNAPSHOT.as_bytes());
    assert_eq!(descriptor.version(), 3);
    assert_eq!(descriptor.cid(), Cid(0x0bad_cafe));
    let parent = descriptor.parent().unwrap();
    assert_eq!(parent.cid, Cid(0x1234_5678));
    assert_eq!(parent.in_folder().unwrap_err().kind(), Kind::Denied);
    assert_eq!(parent.base_name().unwrap().as_str(), "a b.vmdk");
    assert_eq!(descriptor.create_type(), CreateType::VmfsSeSparse);
    assert_eq!(descriptor.extents()[0].file_name().unwrap().unwrap().as_str(), "a b-000001-sesparse.vmdk");
    assert_eq!(descriptor.len(), 4096 * 512);
    assert_eq!(descriptor.value("CHANGETRACKPATH"), Some("a b-000001-ctk.vmdk"));
    assert_eq!(descriptor.long_content_id(), Some("00"));
    assert!(descriptor.encryption().is_none());
}

#[test]
fn setting_changes_its_line_alone() {
    let mut descriptor = parse(SNAPSHOT).unwrap();
    descriptor.set_cid(Cid(0xab)).unwrap();
    descriptor.set("ddb.uuid", "60 00 C2 9a").unwrap();
    descriptor.set("isnativesnapshot", "yes").unwrap();
    let expected =
        SNAPSHOT.replace("CID=0badcafe", "CID=000000ab").replace("isNativeSnapshot=\"no\"", "isnativesnapshot=\"yes\"")
            + "ddb.uuid = \"60 00 C2 9a\"\r\n";
    assert_eq!(String::from_utf8(descriptor.to_bytes()).unwrap(), expected);
    assert_eq!(descriptor.cid(), Cid(0xab));
    assert_eq!(parse(&expected).unwrap(), descriptor);
}

#[test]
fn a_setting_that_would_break_the_descriptor_leaves_it_unchanged() {
    let mut descriptor = parse(MINIMAL).unwrap();
    for (key, value) in [
        ("CID", "xyz"),
        ("createType", "floppy"),
        ("a b", "c"),
        ("a", "b\nRW 1 ZERO"),
        ("a", "\""),
        ("", "x"),
        ("encoding", "GBK"),
        ("#a", "b"),
        ("a=b", "c"),
        ("encryptionKeys", "x"),
        ("RW 1 ZERO #", "x"),
        ("a", " b"),
    ] {
        assert!(descriptor.set(key, value).is_err(), "{key}={value}");
        assert_eq!(descriptor.to_bytes(), MINIMAL.as_bytes());
    }
    assert!(descriptor.set_cid(Cid::NO_PARENT).is_err());
}

#[test]
fn settings_are_added_after_create_type_even_without_a_last_newline() {
    let mut descriptor = parse(MINIMAL.trim_end()).unwrap();
    descriptor.set("parentFileNameHint", "base.vmdk").unwrap();
    descriptor.set("ddb.a", "b").unwrap();
    let text = format!("{MINIMAL}parentFileNameHint=\"base.vmdk\"\nddb.a = \"b\"\n");
    assert_eq!(descriptor.to_bytes(), text.as_bytes());
}

#[test]
fn an_added_line_moves_the_extents_after_it() {
    let mut descriptor = parse(&format!("{MINIMAL}RW 1 ZERO\n")).unwrap();
    descriptor.set("isNativeSnapshot", "no").unwrap();
    assert_eq!(descriptor.extents()[0].line, 5);
}

#[test]
fn all_extents_count_whatever_their_type_and_access() {
    let text = format!("{MINIMAL}RW 1 FLAT \"a\" 0\nRDONLY 2 ZERO\nNOACCESS 3 FLAT \"b\" 0\nRW 4 SPARSE \"c\"\n");
    assert_eq!(parse(&text).unwrap().len(), 10 * 512);
}

#[test]
fn errors_name_line_finding_and_expectation() {
    for (text, line, part) in [
        ("CID=1\ncreateType=\"custom\"\n", None, "no version line"),
        ("version=1\nCID=1\n", None, "no createType line"),
        ("version=1\ncreateType=\"custom\"\n", None, "no CID line"),
        ("version=x\nCID=1\ncreateType=\"custom\"\n", Some(1), "\"x\""),
        ("version=1\nCID=123456789\ncreateType=\"custom\"\n", Some(2), "8 hexadecimal digits"),
        ("version=1\nCID=1\ncreateType=\"floppy\"\n", Some(3), "\"floppy\""),
        ("version=1\nCID=1\ncreateType=\"custom\"\nRW 1 FLAT\n", Some(4), "end of the line"),
        ("version=1\nCID=1\ncreateType=\"custom\"\nencryptionKeys=\"x\"\n", Some(4), "vmware:key/"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.message().contains(part), "{text}: {error}");
        assert_eq!(error.position(), line.map(crate::Position::Line), "{error}");
    }
}

#[test]
fn extents_that_overflow_are_refused_at_their_line() {
    let line = format!("RW {MAX_DISK_SECTORS} ZERO\n");
    let error = parse(&format!("{MINIMAL}{line}{line}")).unwrap_err();
    assert_eq!((error.kind(), error.position()), (Kind::Corrupt, Some(crate::Position::Line(5))));
}

#[test]
fn floods_of_lines_and_extents_are_refused() {
    assert!(parse(&format!("{MINIMAL}{}", "\n".repeat(crate::limits::MAX_LINES))).is_err());
    assert!(parse(&format!("{MINIMAL}{}", "RW 1 ZERO\n".repeat(MAX_EXTENTS + 1))).is_err());
    assert!(Descriptor::parse(&vec![b' '; MAX_TEXT_LEN + 1]).is_err());
}

#[test]
fn names_are_read_in_the_encoding_that_is_declared_or_likely() {
    for (label, name) in [
        ("Shift_JIS", "仮想ソ表-flat.vmdk"), // its bytes contain 0x5c
        ("GBK", "虚拟磁盘-flat.vmdk"),
        ("Big5", "虛擬磁碟功-flat.vmdk"),
        ("windows-949-2000", "가상 디스크-flat.vmdk"),
        ("windows-1251", "Диск-flat.vmdk"),
        ("ibm-912_P100-1995", "Łódź-flat.vmdk"),
        ("windows-1252", "Prüfung-flat.vmdk"),
        ("UTF-8", "Prüfung-flat.vmdk"),
    ] {
        let parent = "parentCID=1\nparentFileNameHint=\"C:\\vm\\\"\n".replace("\\\"", &format!("\\{name}\""));
        let text = format!("encoding=\"{label}\"\n{MINIMAL}{parent}RW 1 FLAT \"{name}\" 0\n");
        let encoding = Encoding::of_label(label);
        let bytes = encoding.encode(&text).unwrap();
        let descriptor = Descriptor::parse(&bytes).unwrap();
        assert_eq!(descriptor.encoding(), &encoding);
        assert_eq!(descriptor.extents()[0].file.as_deref(), Some(name));
        let written = Some(encoding.encode(name).unwrap()).filter(|written| written != name.as_bytes());
        assert_eq!(descriptor.extents()[0].written, written);
        let parent = descriptor.parent().unwrap();
        assert_eq!((parent.base_name().unwrap().as_str(), &parent.written), (name, &written), "{label}");
        assert_eq!(descriptor.to_bytes(), bytes);
    }
    let undeclared = Descriptor::parse(&[MINIMAL.as_bytes(), b"RW 1 VMFS \"\xfc.vmdk\"\n"].concat()).unwrap();
    assert_eq!(undeclared.extents()[0].file.as_deref(), Some("ü.vmdk"));
    assert_eq!(undeclared.extents()[0].written.as_deref(), Some(&b"\xfc.vmdk"[..]));
}

#[test]
fn an_unknown_encoding_matters_only_to_a_name_outside_of_ascii() {
    let of = |name: &[u8]| {
        let lines = [&b"encoding=\"cp437\"\n"[..], MINIMAL.as_bytes(), b"RW 1 FLAT \"", name, b"\" 0\n"];
        Descriptor::parse(&lines.concat()).unwrap()
    };
    let spellings = |name| {
        let name = of(name).extents()[0].file_name().unwrap().unwrap();
        name.spellings().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(spellings(b"d-flat.vmdk"), [b"d-flat.vmdk"]);
    // What the name is as text is not known: it is a file of these bytes, or none.
    assert_eq!(spellings(b"\x84.vmdk"), [b"\x84.vmdk"]);
    assert_eq!(of(b"\x84.vmdk").encoding().name(), "cp437");
}

/// QEMU reads all of these; see also the test that asks it.
#[test]
fn comments_repeated_settings_and_odd_spaces_are_read_as_qemu_reads_them() {
    let text = "version = 1 # first\r\n\r\n\tCID=0xffe # note\nCID=5\ncreateType=\"monolithicFlat\" # note \"x\"\n\
        createType=\"floppy\"\nRW 0 ZERO\nRW 0 FLAT \"gone\" 0\nRW\t1 FLAT \"a#b\" 0 # note\nddb.a = \"b \"c\" # d\"\nddb.b = \"#\"\n";
    let descriptor = parse(text).unwrap();
    assert_eq!((descriptor.version(), descriptor.cid()), (1, Cid(0xffe)));
    assert_eq!(descriptor.create_type(), CreateType::MonolithicFlat);
    assert_eq!(descriptor.extents().len(), 1);
    assert_eq!(descriptor.extents()[0].to_string(), "RW 1 FLAT \"a#b\" 0");
    assert_eq!((descriptor.value("ddb.a"), descriptor.value("ddb.b")), (Some("b \"c\" # d"), Some("#")));
    assert_eq!(descriptor.to_bytes(), text.as_bytes());
    assert!(Descriptor::is_recognised(text.as_bytes()));
}

#[test]
fn malformed_text_is_refused_only_where_it_decides_something() {
    let good = [b"encoding=\"UTF-8\"\n", MINIMAL.as_bytes(), b"# \xff\nddb.comment = \"\xff\"\n"].concat();
    let descriptor = Descriptor::parse(&good).unwrap();
    assert_eq!(descriptor.value("ddb.comment"), Some("\u{fffd}"));
    assert_eq!(descriptor.to_bytes(), good);
    let bad = [b"encoding=\"UTF-8\"\n", MINIMAL.as_bytes(), b"encryptionKeys=\"\xff\"\n"].concat();
    assert_eq!(Descriptor::parse(&bad).unwrap_err().position(), Some(crate::Position::Line(5)));
    // Files may be called by the bytes as they are.
    let lines = [b"encoding=\"UTF-8\"\n", MINIMAL.as_bytes(), b"parentCID=1\nparentFileNameHint=\"/x/\xff\"\n"];
    let parent = Descriptor::parse(&lines.concat()).unwrap().parent().unwrap().base_name().unwrap();
    assert_eq!(parent.spellings().collect::<Vec<_>>(), [b"\xff"]);
}

#[test]
fn padding_of_embedded_descriptors_is_kept() {
    let bytes = [MINIMAL.as_bytes(), &[0; 100]].concat();
    let mut descriptor = Descriptor::parse(&bytes).unwrap();
    assert_eq!(descriptor.to_bytes(), bytes);
    descriptor.set("ddb.a", "b").unwrap();
    assert_eq!(Descriptor::parse(&descriptor.to_bytes()).unwrap(), descriptor);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let text = format!("\u{feff}{MINIMAL}");
    let mut descriptor = parse(&text).unwrap();
    assert_eq!(descriptor.to_bytes(), text.as_bytes());
    descriptor.set("version", "3").unwrap();
    assert_eq!(descriptor.to_bytes(), text.replace("version=1", "version=3").as_bytes());
    assert!(Descriptor::is_recognised(text.as_bytes()));
}

#[test]
fn encrypted_disks_are_recognised_and_explained() {
    let keys =
        "encryptionKeys=\"vmware:key/list/(pair/(fqid/<VMWARE-NULL>/KMS/k1,HMAC-SHA-256,AA==))\"\nkeyID=\"k1\"\n";
    let descriptor = parse(&format!("{MINIMAL}{keys}")).unwrap();
    let encryption = descriptor.encryption().unwrap();
    assert_eq!(encryption.keys()[0].provider.as_deref(), Some("KMS"));
    assert_eq!(encryption.key_id_line(), Some("k1"));
    assert!(parse(&format!("{MINIMAL}keyID=\"k9\"\n")).unwrap().encryption().is_some());
}

#[test]
fn descriptors_are_recognised_with_and_without_their_first_comment() {
    assert!(Descriptor::is_recognised(b"# disk descriptorfile\n"));
    assert!(Descriptor::is_recognised(b"\n # x\nVersion=1\n"));
    assert!(
        !Descriptor::is_recognised(b"KDMV\x01\0\0\0")
            && !Descriptor::is_recognised(b"")
            && !Descriptor::is_recognised(b"CID=1")
    );
}
