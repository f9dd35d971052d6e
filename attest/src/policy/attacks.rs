//! What a host may try. Its kernel is the attacker's: it extends what it likes, and writes logs as it likes, but a
//! register keeps what the firmware has measured before.

use super::tests::{QUOTED, of_secure_boot, pcr, policy_of};
use super::*;
use crate::event_log::sample::{OTHER_KERNEL, SECURE_BOOT_ON, SampleLog, secure_boot, values_of, variable};
use crate::event_log::{EventLog, EventType, Guid};
use crate::pcr::Digest;
use crate::replay::Replayed;
use crate::userspace_log::UserspaceLog;

const CONFIG: EventType = EventType::VARIABLE_DRIVER_CONFIG;

fn digest_of(content: &[u8]) -> Digest {
    Digest::of(HashAlgorithm::Sha256, &[content])
}

/// A log of PCR 7 judged by a policy that approves exactly its digests, so that only the rules can refuse it.
fn judged(log: &SampleLog) -> std::result::Result<Satisfied, Box<Refusal>> {
    let replayed = log.replayed("sha256:7");
    policy_of(Level::SecureBoot, &replayed, "sha256:7").appraise("kvm-3", &replayed)
}

fn refusal(log: &SampleLog) -> (Rule, String) {
    let refusal = judged(log).unwrap_err();
    (refusal.rule, refusal.to_string())
}

fn good() -> SampleLog {
    let db = variable(Guid([1; 16]), "db", b"certificate");
    SampleLog::new()
        .secure_boot(1)
        .event(7, CONFIG, &db)
        .separators([7])
        .event(7, EventType::VARIABLE_AUTHORITY, &db)
        .event(7, EventType::EFI_ACTION, b"os-separator")
}

#[test]
fn the_log_that_the_attacks_start_from_is_good() {
    judged(&good()).unwrap();
}

/// Secure Boot is off. The attacker's kernel extends PCR 7 by what a host with Secure Boot would have.
#[test]
fn a_second_secure_boot_is_refused() {
    let (rule, text) = refusal(&SampleLog::new().secure_boot(0).secure_boot(1).separators([7]));
    assert_eq!(rule, Rule::SecureBoot);
    assert!(text.contains("more than one event has the variable SecureBoot"), "{text}");
}

/// The same, with another label for the one that says 0, so that it does not count as a variable.
#[test]
fn a_relabelled_secure_boot_is_found() {
    for label in [EventType::EFI_ACTION, EventType::IPL, EventType::VARIABLE_AUTHORITY, EventType(0x77)] {
        let log = SampleLog::new().event(7, label, &secure_boot(0)).secure_boot(1).separators([7]);
        let (rule, text) = refusal(&log);
        assert_eq!(rule, Rule::SecureBoot);
        assert!(text.contains("more than one event has the variable SecureBoot"), "{text}");
        // Nor is one accepted that has another label.
        let (_, text) = refusal(&SampleLog::new().event(7, label, &secure_boot(1)).separators([7]));
        assert!(text.contains("is not labelled as a variable"), "{text}");
    }
}

/// The same, with a content that hides what the digest is of.
#[test]
fn an_event_that_does_not_prove_its_content_is_refused() {
    for label in [CONFIG, EventType::EFI_ACTION, EventType::IPL] {
        let hidden = SampleLog::new().digest(7, label, &digest_of(&secure_boot(0)), b"harmless");
        let (rule, text) = refusal(&hidden.secure_boot(1).separators([7]));
        assert_eq!(rule, Rule::SecureBoot);
        assert!(text.contains("does not prove what it is"), "{text}");
    }
}

#[test]
fn content_that_does_not_hash_to_its_digest_is_not_secure_boot() {
    let log = SampleLog::new().digest(7, CONFIG, &digest_of(&secure_boot(0)), &secure_boot(1)).separators([7]);
    assert!(refusal(&log).1.contains("no event has the variable SecureBoot"), "{}", refusal(&log).1);
}

#[test]
fn secure_boot_after_the_separator_is_refused() {
    let (_, text) = refusal(&SampleLog::new().separators([7]).secure_boot(1));
    assert!(text.contains("comes after the separator"), "{text}");
    let late = good().event(7, CONFIG, &variable(Guid([1; 16]), "db", b"another certificate"));
    assert!(refusal(&late).1.contains("comes after the separator"));
}

#[test]
fn secure_boot_has_one_byte_and_it_is_1() {
    for value in [&[0][..], &[2], &[1, 0], &[]] {
        let content = variable(Guid::GLOBAL_VARIABLE, "SecureBoot", value);
        let log = SampleLog::new().event(7, CONFIG, &content).separators([7]);
        assert!(refusal(&log).1.contains("Secure Boot is off"), "{value:?}");
    }
    let other = SampleLog::new().event(7, CONFIG, &variable(Guid([9; 16]), "SecureBoot", &[1])).separators([7]);
    assert!(refusal(&other).1.contains("no event has the variable SecureBoot"));
}

#[test]
fn a_separator_stands_exactly_once() {
    let (rule, text) = refusal(&SampleLog::new().secure_boot(1));
    assert!(rule == Rule::Separator && text.contains("it has no separator"), "{text}");
    let (rule, text) = refusal(&good().separators([7]));
    assert!(rule == Rule::Separator && text.contains("more than one separator"), "{text}");
    // A second one under another label, and one of the other form.
    for (label, content) in [(EventType::EFI_ACTION, [0; 4]), (EventType::SEPARATOR, [0xff; 4])] {
        assert_eq!(refusal(&good().event(7, label, &content)).0, Rule::Separator);
    }
    // One that is none: the firmware failed, or the digest is of something else.
    let failed = SampleLog::new().secure_boot(1).event(7, EventType::SEPARATOR, &[1, 0, 0, 0]);
    assert!(refusal(&failed).1.contains("is none, or says that the firmware failed"));
    let lie = good().digest(7, EventType::SEPARATOR, &digest_of(b"something else"), &[0; 4]);
    assert!(refusal(&lie).1.contains("is none, or says that the firmware failed"));
}

#[test]
fn separators_of_all_registers_of_the_firmware_are_looked_at() {
    let log = |registers: &[u32]| good().separators(registers.iter().copied());
    let judged = |log: &SampleLog| {
        let replayed = log.replayed("sha256:0,2,4,7,9");
        policy_of(Level::SecureBoot, &replayed, "sha256:7").appraise("kvm-3", &replayed)
    };
    judged(&log(&[0, 2, 4])).unwrap();
    assert_eq!(judged(&log(&[0, 2])).unwrap_err().register, Some(pcr(4)));
    assert_eq!(judged(&log(&[0, 0, 2, 4])).unwrap_err().register, Some(pcr(0)));
}

/// A log of an approved boot does not help a host that booted something else.
#[test]
fn a_log_of_an_approved_boot_is_not_that_of_another_one() {
    let policy = of_secure_boot(Level::Measured);
    let values = OTHER_KERNEL.values(QUOTED);
    let evidence = Evidence { host: "kvm-3", firmware_log: SECURE_BOOT_ON.log, userspace_log: b"", values: &values };
    assert_eq!(evidence.appraise(&policy).unwrap_err().rule, Rule::Replay);
}

/// Approved digests, with one more: an attacker cannot extend beyond what is approved, in the log of either kind.
#[test]
fn an_appended_event_is_not_approved() {
    let policy = of_secure_boot(Level::Measured);
    let log = SampleLog(SECURE_BOOT_ON.log.to_vec());
    // The recorded log has one bank, so the event is written out.
    let mut appended = log.0.clone();
    for field in [4, EventType::IPL.0, 1] {
        appended.extend(field.to_le_bytes());
    }
    appended.extend(HashAlgorithm::Sha256.id().to_le_bytes());
    appended.extend(digest_of(b"more").as_bytes());
    appended.extend(0_u32.to_le_bytes());
    let parsed = EventLog::parse(&appended).unwrap();
    let values = values_of(&parsed, &UserspaceLog::default(), QUOTED);
    let replayed = Replayed::new(&parsed, &UserspaceLog::default(), &values).unwrap();
    let refusal = policy.appraise("kvm-3", &replayed).unwrap_err();
    assert!(refusal.to_string().contains("an event comes after all that are approved"), "{refusal}");
    assert_eq!(refusal.nearest.as_ref().unwrap().digest, None);

    let record = crate::userspace_log::tests::record(12, "x", "more", b"more");
    let userspace = UserspaceLog::parse(record.as_bytes()).unwrap();
    let parsed = EventLog::parse(&log.0).unwrap();
    let values = values_of(&parsed, &userspace, QUOTED);
    let refusal = policy.appraise("kvm-3", &Replayed::new(&parsed, &userspace, &values).unwrap()).unwrap_err();
    assert!(refusal.to_string().contains("record 1 of the userspace log: \"more\""), "{refusal}");
}

#[test]
fn a_missing_event_is_not_approved() {
    let longer = good().event(7, EventType::EFI_ACTION, b"last").replayed("sha256:7");
    let policy = policy_of(Level::SecureBoot, &longer, "sha256:7");
    policy.appraise("kvm-3", &longer).unwrap();
    let refusal = policy.appraise("kvm-3", &good().replayed("sha256:7")).unwrap_err();
    assert!(refusal.to_string().contains("an approved event was not measured"), "{refusal}");
    assert!(refusal.event.is_none() && refusal.nearest.unwrap().description.unwrap() == "\"last\"");
}

/// A host's name becomes part of a command that people paste.
#[test]
fn a_strange_host_gets_no_command() {
    let policy = Policy::parse(&of_secure_boot(Level::Measured).to_text().replace("kvm-*", "*")).unwrap();
    for host in ["a; reboot", "-rf", "$(x)", ""] {
        assert_eq!(policy.appraise(host, &OTHER_KERNEL.replayed(QUOTED)).unwrap_err().command, None, "{host}");
    }
}
