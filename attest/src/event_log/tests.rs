use super::sample::{
    DIRECT_KERNEL, SECURE_BOOT_OFF, SECURE_BOOT_ON, SampleLog, UNKNOWN, header, secure_boot, variable, with_header,
};
use super::*;
use crate::error::Kind;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

fn parsed(log: &SampleLog) -> EventLog<'_> {
    EventLog::parse(&log.0).unwrap()
}

#[test]
fn a_real_log_is_read() {
    let log = EventLog::parse(SECURE_BOOT_ON.log).unwrap();
    assert_eq!(log.startup_locality(), 0);
    let secure_boot = &log.events()[3];
    assert_eq!((secure_boot.index(), secure_boot.register().unwrap().number()), (4, 7));
    assert!(secure_boot.content(BANK).unwrap().is_secure_boot());
    assert_eq!(secure_boot.description(BANK).to_string(), "the variable SecureBoot = 1");
    let application = log.events().iter().find(|it| it.event_type() == EventType::BOOT_SERVICES_APPLICATION).unwrap();
    assert_eq!(application.content(BANK), None, "its content is where it was loaded");
    assert_eq!(
        application.description(BANK).to_string(),
        "EV_EFI_BOOT_SERVICES_APPLICATION \"\\EFI\\BOOT\\BOOTX64.EFI\", as the log says"
    );
    let section = log.events().iter().find(|event| event.event_type() == EventType::IPL).unwrap();
    assert_eq!(section.description(BANK).text(), "EV_IPL \".linux\"");
}

#[test]
fn every_shorter_log_is_refused_or_ends_between_events() {
    for boot in [&DIRECT_KERNEL, &SECURE_BOOT_OFF] {
        let events = EventLog::parse(boot.log).unwrap().events().len();
        let whole = (0..boot.log.len()).filter(|len| EventLog::parse(&boot.log[..*len]).is_ok()).count();
        assert_eq!(whole, events, "one for the header, one after each event but the last");
    }
}

#[test]
fn the_form_with_only_sha1_is_refused_by_name() {
    let old = [with_header(EventType::NO_ACTION, b"Spec ID Event00\0\0\0\0\0"), with_header(EventType(8), b"1.0")];
    for log in old {
        let error = EventLog::parse(&log).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("only SHA-1") && error.to_string().contains("TPM 2.0"), "{error}");
    }
    let error = EventLog::parse(&with_header(EventType::NO_ACTION, b"Spec ID Event09\0\0\0\0\0")).unwrap_err();
    assert_eq!(error.kind(), Kind::Malformed);
}

#[test]
fn unknown_algorithms_keep_the_length_of_the_table() {
    let log = SampleLog::new().event(4, EventType::EFI_ACTION, b"first").event(5, EventType::EFI_ACTION, b"second");
    let log = parsed(&log);
    assert_eq!(log.events().len(), 2);
    assert_eq!(log.events()[1].digest(BANK), Some(Digest::of(BANK, &[b"second"])));
    assert_eq!(log.events()[1].digest(HashAlgorithm::Sha384), None);
}

#[test]
fn digest_lengths_that_lie_are_refused() {
    for algorithms in [&[(BANK.id(), 20)][..], &[(BANK.id(), 32), (BANK.id(), 32)], &[]] {
        assert_eq!(EventLog::parse(&header(algorithms)).unwrap_err().kind(), Kind::Malformed, "{algorithms:?}");
    }
    // A length that is far more than the log has: refused, without memory for it.
    let mut log = SampleLog(header(&[(BANK.id(), 32), (UNKNOWN.0, 0xffff)]));
    log = log.event(4, EventType::EFI_ACTION, b"content");
    assert!(EventLog::parse(&log.0).unwrap_err().to_string().contains("a digest of 65535 bytes"));
    // As many algorithms as fit no table.
    let mut many = header(&[(BANK.id(), 32)]);
    many[56..60].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(EventLog::parse(&many).unwrap_err().to_string().contains("4294967295 algorithms"));
}

#[test]
fn an_events_numbers_are_bounded() {
    let start = SampleLog::new().0.len();
    let log = SampleLog::new().event(4, EventType::EFI_ACTION, b"content");
    let with = |at: usize, bytes: &[u8]| {
        let mut log = log.0.clone();
        log[start + at..start + at + bytes.len()].copy_from_slice(bytes);
        EventLog::parse(&log).unwrap_err().to_string()
    };
    assert!(with(0, &24_u32.to_le_bytes()).contains("PCR 24"));
    assert!(with(8, &3_u32.to_le_bytes()).contains("3 digests: expected at most 2"));
    assert!(with(12, &0x0004_u16.to_le_bytes()).contains("the log's table does not have"));
    assert!(with(21, &UNKNOWN.0.to_le_bytes()).contains("two digests"));
    assert!(with(55, &u32::MAX.to_le_bytes()).contains("only 7 are left"));
    assert!(EventLog::parse(&vec![0; MAX_LOG_BYTES + 1]).unwrap_err().to_string().contains("at most 1048576"));
}

#[test]
fn content_counts_only_where_its_hash_is_the_digest() {
    let name = |log: &SampleLog| match parsed(log).events()[0].content(BANK) {
        Some(Content::Variable { name, .. }) => Some(name),
        _ => None,
    };
    let content = secure_boot(1);
    assert_eq!(name(&SampleLog::new().secure_boot(1)).as_deref(), Some("SecureBoot"));
    let digest = Digest::of(BANK, &[b"something else"]);
    assert_eq!(name(&SampleLog::new().digest(7, EventType::VARIABLE_DRIVER_CONFIG, &digest, &content)), None);
    // A label by which the digest is of something else than the content.
    for label in [EventType::IPL, EventType::BOOT_SERVICES_APPLICATION, EventType(0x1234)] {
        assert_eq!(parsed(&SampleLog::new().event(7, label, &content)).events()[0].content(BANK), None, "{label}");
    }
}

#[test]
fn variables_are_known_by_guid_and_name_and_end_where_they_say() {
    let is_secure_boot = |content: &[u8]| content::variable(content).is_some_and(|it| it.is_secure_boot());
    assert!(is_secure_boot(&secure_boot(1)));
    assert!(!is_secure_boot(&variable(Guid([7; 16]), SECURE_BOOT, &[1])));
    assert!(!is_secure_boot(&variable(Guid::GLOBAL_VARIABLE, "SecureBoot\0", &[1])));
    assert!(!is_secure_boot(&[secure_boot(1), vec![0]].concat()), "a byte more");
    let mut endless = secure_boot(1);
    endless[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(content::variable(&endless).is_none());
    assert_eq!(Guid::GLOBAL_VARIABLE.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
}

#[test]
fn the_startup_locality_stands_once_and_first() {
    let locality = |locality: u8| [b"StartupLocality\0".as_slice(), &[locality]].concat();
    let start = |value: u8| SampleLog::new().event(0, EventType::NO_ACTION, &locality(value));
    assert_eq!(parsed(&start(3)).startup_locality(), 3);
    let measured = SampleLog::new().event(0, EventType(8), b"version");
    for (log, why) in [
        (start(9), "startup locality 9"),
        (start(3).event(0, EventType::NO_ACTION, &locality(0)), "a second startup locality"),
        (measured.event(0, EventType::NO_ACTION, &locality(3)), "after an event of PCR 0"),
    ] {
        let error = EventLog::parse(&log.0).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[test]
fn descriptions_have_no_control_characters() {
    let log = SampleLog::new().event(4, EventType::EFI_ACTION, b"a\x1b[31mb\n").event(8, EventType::IPL, &[b'x'; 5000]);
    let log = parsed(&log);
    assert_eq!(log.events()[0].description(BANK).text(), "\"a\u{fffd}[31mb\u{fffd}\"");
    assert!(log.events()[1].description(BANK).text().chars().count() < 140);
}
