use super::*;
use crate::event_log::EventType;
use crate::event_log::sample::SampleLog;
use crate::policy::tests::policy_of;
use crate::policy::{Level, Rule};

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

/// A PE image with these sections and certificates, made by the specification.
pub(crate) fn pe(sections: &[(&str, &[u8])], certificates: &[u8]) -> Vec<u8> {
    let headers = 0x400;
    let mut bytes = vec![0; headers];
    bytes[..2].copy_from_slice(b"MZ");
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0x3c, &0x40_u32.to_le_bytes());
    put(0x40, b"PE\0\0");
    put(0x46, &u16::try_from(sections.len()).unwrap().to_le_bytes());
    put(0x54, &240_u16.to_le_bytes());
    put(0x58, &0x20b_u16.to_le_bytes());
    put(0x58 + 60, &u32::try_from(headers).unwrap().to_le_bytes());
    put(0x58 + 64, &0x1234_5678_u32.to_le_bytes());
    put(0x58 + 108, &16_u32.to_le_bytes());
    let mut place = headers;
    for (number, (name, content)) in sections.iter().enumerate() {
        let raw = content.len().next_multiple_of(512);
        let header = 0x58 + 240 + 40 * number;
        put(header, name.as_bytes());
        for (field, value) in [(8, content.len()), (16, raw), (20, place)] {
            put(header + field, &u32::try_from(value).unwrap().to_le_bytes());
        }
        place += raw;
    }
    if !certificates.is_empty() {
        put(0x58 + 144, &u32::try_from(place).unwrap().to_le_bytes());
        put(0x58 + 148, &u32::try_from(certificates.len()).unwrap().to_le_bytes());
    }
    for (_, content) in sections {
        bytes.extend(*content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.extend(certificates);
    bytes
}

fn uki(kernel: &[u8], command_line: &str, signature: &[u8]) -> Vec<u8> {
    let sections = [
        (".text", &b"stub"[..]),
        (".sbat", b"sbat,1\n"),
        (".osrel", b"ID=debian\n"),
        (".cmdline", command_line.as_bytes()),
        (".initrd", b"initrd"),
        (".linux", kernel),
        (".uname", b"6.1.0"),
        (".pcrpkey", b"key\n"),
        (".pcrsig", b"{}"),
    ];
    pe(&sections, signature)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// What a machine measures that boots an image with a stub of systemd 252.
fn boot(image: &[u8], with_kernel: bool) -> SampleLog {
    let uki = Uki::parse(image).unwrap();
    let application =
        |log: SampleLog, digest: Digest| log.digest(4, EventType::BOOT_SERVICES_APPLICATION, &digest, b"");
    let mut log = SampleLog::new().secure_boot(1).event(4, EventType::EFI_ACTION, b"Calling").separators([4, 7]);
    log = application(log, uki.image().authenticode(BANK).unwrap());
    for approved in uki.measured(BANK, SectionOrder::Systemd252) {
        log = log.digest(11, EventType::IPL, &approved.digest, b"");
    }
    if with_kernel {
        log = application(log, PeImage::parse(uki.section(".linux").unwrap()).unwrap().authenticode(BANK).unwrap());
    }
    let line = std::str::from_utf8(uki.section(".cmdline").unwrap()).unwrap();
    for content in [utf16(&format!("{line}\0")), uki.section(".initrd").unwrap().to_vec()] {
        log = log.digest(9, EventType::EVENT_TAG, &Digest::of(BANK, &[&content]), b"");
    }
    // A phase, which systemd measures after the stub.
    log.digest(11, EventType::IPL, &Digest::of(BANK, &[b"enter-initrd"]), b"")
}

const QUOTED: &str = "sha256:4,7,9,11,12";

#[test]
fn a_prediction_is_what_the_next_boot_measures() {
    let kernels = [pe(&[(".text", b"kernel 1")], b""), pe(&[(".text", b"kernel 2")], b"signature")];
    let old = uki(&kernels[0], "quiet", b"signed!!");
    for (new, changed) in
        [(uki(&kernels[1], "quiet", b""), &[4, 11][..]), (uki(&kernels[0], "quiet debug\n", b""), &[4, 9, 11])]
    {
        for with_kernel in [false, true] {
            let running = boot(&old, with_kernel).replayed(QUOTED);
            let prediction = predict(&running, &BootFiles::Uki(&old), &BootFiles::Uki(&new)).unwrap();
            assert_eq!(prediction.unpredicted(), []);
            let next = boot(&new, with_kernel).replayed(QUOTED);
            for predicted in prediction.registers() {
                assert_eq!(Some(&predicted.value), next.values().get(predicted.register), "{}", predicted.register);
                assert_eq!(predicted.changes, changed.contains(&predicted.register.number()), "{}", predicted.register);
            }
            // Refused before the prediction is approved, accepted after it; and the running boot still is.
            let policy = policy_of(Level::Measured, &running, QUOTED);
            assert_eq!(policy.appraise("kvm-3", &next).unwrap_err().rule, Rule::ApprovedSets);
            let mut set = prediction.to_set("next", "2026-12-01").unwrap();
            set.registers.push(policy.sets()[0].register(7).unwrap().clone());
            let policy = policy.with_set(set, "compute").unwrap();
            assert_eq!(policy.appraise("kvm-3", &next).unwrap().sets(), ["next"]);
            assert_eq!(policy.appraise("kvm-3", &running).unwrap().sets(), ["base"]);
        }
    }
}

#[test]
fn a_kernel_with_an_initrd_is_predicted() {
    let kernel = |text: &[u8]| pe(&[(".text", text)], b"");
    let boot = |kernel: &[u8], initrd: &[u8], line: &str| {
        let log = SampleLog::new().event(4, EventType::EFI_ACTION, b"loader").separators([4]);
        let image = PeImage::parse(kernel).unwrap().authenticode(BANK).unwrap();
        let log = log.digest(4, EventType::BOOT_SERVICES_APPLICATION, &image, b"");
        let log = log.event(12, EventType::IPL, &utf16(line));
        log.event(9, EventType::EVENT_TAG, &utf16(&format!("{line}\0"))).event(9, EventType::EVENT_TAG, initrd)
    };
    let (old, new) = (kernel(b"old"), kernel(b"new"));
    let running = boot(&old, b"initrd 1", "a=1").replayed(QUOTED);
    let files = |kernel, initrd, command_line| BootFiles::Kernel { kernel, initrd: Some(initrd), command_line };
    let prediction = predict(&running, &files(&old, b"initrd 1", "a=1"), &files(&new, b"initrd 2", "a=2")).unwrap();
    let next = boot(&new, b"initrd 2", "a=2").replayed(QUOTED);
    assert_eq!(prediction.registers().len(), 4);
    for predicted in prediction.registers() {
        assert_eq!(Some(&predicted.value), next.values().get(predicted.register), "{}", predicted.register);
    }
    let lines: Vec<&str> = prediction.registers()[3].measured.iter().map(|it| it.description.as_str()).collect();
    assert_eq!(lines, ["the command line \"a=2\""]);
}

#[test]
fn what_cannot_be_known_is_not_guessed() {
    let kernel = pe(&[(".text", b"kernel")], b"");
    let (old, new) = (uki(&kernel, "quiet", b""), uki(&kernel, "loud", b""));
    let running = boot(&old, false).replayed(QUOTED);
    let error = predict(&running, &BootFiles::Uki(&new), &BootFiles::Uki(&old)).unwrap_err();
    assert!(error.to_string().contains("does not have the digest of the file"), "{error}");
    let other = BootFiles::Kernel { kernel: &kernel, initrd: None, command_line: "quiet" };
    assert!(predict(&running, &BootFiles::Uki(&old), &other).unwrap_err().to_string().contains("of the same kind"));
    // The stub has added something to the command line.
    let added = SampleLog(boot(&old, false).0).0;
    let at = added.windows(32).rposition(|it| it == Digest::of(BANK, &[&utf16("quiet\0")]).as_bytes()).unwrap();
    let mut changed = added;
    changed[at] ^= 1;
    let running = SampleLog(changed).replayed(QUOTED);
    let prediction = predict(&running, &BootFiles::Uki(&old), &BootFiles::Uki(&new)).unwrap();
    let (register, reason) = &prediction.unpredicted()[0];
    assert_eq!(
        (register.number(), reason.as_str()),
        (9, "the command line: the running boot has measured something else")
    );
    assert!(prediction.to_set("next", "2026-12-01").unwrap().registers().iter().all(|it| it.register().number() != 9));
    // A file that is not there in one of the boots.
    let without = pe(&[(".linux", &kernel), (".cmdline", b"quiet")], b"");
    let running = boot(&old, false).replayed(QUOTED);
    let prediction = predict(&running, &BootFiles::Uki(&old), &BootFiles::Uki(&without)).unwrap();
    assert!(prediction.unpredicted()[0].1.contains("has none in the next boot"), "{prediction:?}");
}

/// The hash has all but checksum, directory entry of the certificates, and certificates.
#[test]
fn the_authenticode_hash_leaves_out_what_signing_changes() {
    let sections = [(".a", &b"first"[..]), (".b", b"second")];
    let plain = pe(&sections, b"");
    let image = PeImage::parse(&plain).unwrap();
    let (checksum, entry) = (0x58 + 64, 0x58 + 144);
    let parts = [&plain[..checksum], &plain[checksum + 4..entry], &plain[entry + 8..]];
    assert_eq!(image.authenticode(BANK).unwrap(), Digest::of(BANK, &parts));
    let signed = pe(&sections, b"certificates");
    assert_eq!(PeImage::parse(&signed).unwrap().authenticode(BANK), image.authenticode(BANK));
    let mut checked = plain.clone();
    checked[checksum] ^= 1;
    assert_eq!(PeImage::parse(&checked).unwrap().authenticode(BANK), image.authenticode(BANK));
    let mut other = plain.clone();
    *other.last_mut().unwrap() ^= 1;
    assert_ne!(PeImage::parse(&other).unwrap().authenticode(BANK), image.authenticode(BANK));
    // The order is that of the file, not that of the table.
    let mut reordered = plain.clone();
    let table = 0x58 + 240;
    let (first, second) = (plain[table..table + 40].to_vec(), plain[table + 40..table + 80].to_vec());
    reordered[table..table + 80].copy_from_slice(&[second, first].concat());
    let parts = [&reordered[..checksum], &reordered[checksum + 4..entry], &reordered[entry + 8..]];
    assert_eq!(PeImage::parse(&reordered).unwrap().authenticode(BANK).unwrap(), Digest::of(BANK, &parts));
}

#[test]
fn images_that_lie_are_refused() {
    let good = pe(&[(".linux", b"kernel"), (".osrel", b"ID=x")], b"");
    for len in 0..0x400 {
        assert!(PeImage::parse(&good[..len]).is_err(), "{len}");
    }
    let with = |at: usize, field: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + field.len()].copy_from_slice(field);
        let hash = PeImage::parse(&bytes).and_then(|image| image.authenticode(BANK));
        Uki::parse(&bytes).map(|_| ()).and(hash).unwrap_err().to_string()
    };
    let huge = u32::MAX.to_le_bytes();
    let table = 0x58 + 240;
    assert!(with(0x3c, &huge).contains("past the file"));
    assert!(with(0x46, &97_u16.to_le_bytes()).contains("97 sections: expected at most 96"));
    assert!(with(0x58, &[7, 1]).contains("a PE header of kind 0x107"));
    assert!(with(0x58 + 60, &huge).contains("PE headers of 4294967295 bytes"));
    assert!(with(0x58 + 60, &0x97_u32.to_le_bytes()).contains("PE headers of 151 bytes"));
    assert!(with(0x54, &10_u16.to_le_bytes()).contains("the optional one of 10"));
    assert!(with(table + 16, &huge).contains("past the file"));
    assert!(with(table + 20, &huge).contains("past the file"));
    assert!(with(table + 8, &huge).contains("has 4294967295 bytes in memory"));
    assert!(with(0x58 + 148, &huge).contains("its certificates end at"));
    assert!(with(table, b".other\0\0").contains("no section .linux"));
    assert!(with(table + 40, b".linux\0\0").contains("more than once"));
    assert!(with(table + 40, b".profile").contains("decided when it boots"));
    // Sections that overlap: more would be hashed than the file has.
    let overlapping = [0x400_u32, 0x400].map(u32::to_le_bytes).concat();
    assert!(with(table + 56, &overlapping).contains("expected no more than the file"));
}

/// The values are those of `systemd-measure calculate` of systemd 252 with files of these contents.
#[test]
fn pcr_11_is_that_of_systemd_measure() {
    let image = uki(b"kernel", "quiet", b"");
    let image = Uki::parse(&image).unwrap();
    for (phases, value) in [
        (&[][..], MEASURED[0]),
        (&["enter-initrd"], MEASURED[1]),
        (&["enter-initrd", "leave-initrd", "sysinit", "ready"], MEASURED[2]),
    ] {
        assert_eq!(
            image.pcr_11(BANK, SectionOrder::Systemd252, phases).unwrap().to_string(),
            format!("sha256:{value}")
        );
    }
    assert_ne!(image.pcr_11(BANK, SectionOrder::Uapi, &[]), image.pcr_11(BANK, SectionOrder::Systemd252, &[]));
}

const MEASURED: [&str; 3] = [
    "5ea6cae21e3fe386823c1ce432c9dc9628d86780a8c721a08a03cb6281939bb6",
    "c0da80a03c6fd3e782e5d2b53fb74100c8a9f3a2a9eff7f05a71b46380676989",
    "d8d9a8ed245cc7b208b30370dcb295186799d662b63e828c3378493fc0c2081f",
];
