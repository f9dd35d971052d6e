use super::*;
use crate::event_log::sample::{Boot, DIRECT_KERNEL, SECURE_BOOT_ON, SampleLog, secure_boot, values_of};
use crate::userspace_log::tests::record;

/// Without PCR 10: the kernel measures into it, for a log of its own.
const ALL: &str = "sha256:0,1,2,3,4,5,6,7,8,9,11,12,13,14,15,16,17,18,19,20,21,22,23";

fn error(log: &[u8], quoted: &PcrValues) -> ReplayError {
    Replayed::new(&EventLog::parse(log).unwrap(), &UserspaceLog::default(), quoted).unwrap_err()
}

fn difference(log: &[u8], quoted: &PcrValues) -> Difference {
    match error(log, quoted) {
        ReplayError::Differs(difference) => *difference,
        ReplayError::Unusable(error) => panic!("{error}"),
    }
}

#[test]
fn real_logs_give_the_values_of_the_tpm() {
    for boot in Boot::ALL {
        let replayed = boot.replayed(ALL);
        assert_eq!(replayed.values(), &boot.values(ALL));
    }
    let replayed = SECURE_BOOT_ON.replayed("sha256:7,12");
    assert_eq!(
        replayed.iter().map(|(register, events)| (register.number(), events.len())).collect::<Vec<_>>(),
        [(7, 7), (12, 0)]
    );
}

#[test]
fn a_log_of_another_boot_is_refused_with_the_first_register() {
    let found = difference(DIRECT_KERNEL.log, &SECURE_BOOT_ON.values("sha256:1,4,7"));
    assert_eq!(found.register.number(), 1);
    assert_eq!(found.reached_after, None);
    assert!(found.to_string().contains("one is missing, changed or in another order"), "{found}");
}

#[test]
fn an_appended_event_is_named() {
    let base = SampleLog::new().event(4, EventType::EFI_ACTION, b"boot");
    let quoted = base.values("sha256:4,5");
    let longer = base.event(4, EventType::EFI_ACTION, b"appended");
    let found = difference(&longer.0, &quoted);
    assert_eq!((found.events, found.reached_after, found.first_excess), (2, Some(1), Some(EventPlace::Firmware(2))));
    assert!(found.to_string().contains("event 2 of the firmware's log and what follows were not measured"), "{found}");
}

#[test]
fn swapped_values_and_moved_events_are_refused() {
    let log = SampleLog::new().event(4, EventType::EFI_ACTION, b"4").event(5, EventType::EFI_ACTION, b"5");
    let right = log.values("sha256:4,5");
    let [four, five] = right.iter().map(|(_, value)| *value).collect::<Vec<_>>()[..] else { panic!() };
    let swapped = PcrValues::new(right.selection(), vec![five, four]).unwrap();
    assert_eq!(difference(&log.0, &swapped).register.number(), 4);
    let moved = SampleLog::new().event(5, EventType::EFI_ACTION, b"4").event(5, EventType::EFI_ACTION, b"5");
    let found = difference(&moved.0, &right);
    assert!(found.events == 0 && found.to_string().contains("no event for it"), "{found}");
    let reordered = SampleLog::new().event(4, EventType::EFI_ACTION, b"a").event(4, EventType::EFI_ACTION, b"b");
    let order = SampleLog::new().event(4, EventType::EFI_ACTION, b"b").event(4, EventType::EFI_ACTION, b"a");
    assert_eq!(difference(&order.0, &reordered.values("sha256:4")).reached_after, None);
}

/// A log cannot hide an event by calling it one that extends nothing.
#[test]
fn an_event_labelled_as_no_action_is_missed() {
    let log = |label| SampleLog::new().event(4, EventType::EFI_ACTION, b"a").event(4, label, b"evil");
    let quoted = log(EventType::EFI_ACTION).values("sha256:4");
    assert_eq!(difference(&log(EventType::NO_ACTION).0, &quoted).register.number(), 4);
}

#[test]
fn the_startup_locality_is_the_first_value_of_pcr_0() {
    let content = [b"StartupLocality\0".as_slice(), &[3]].concat();
    let with = SampleLog::new().event(0, EventType::NO_ACTION, &content).event(0, EventType(8), b"version");
    let without = SampleLog::new().event(0, EventType(8), b"version");
    assert_ne!(with.values("sha256:0"), without.values("sha256:0"));
    with.replayed("sha256:0");
    assert_eq!(difference(&without.0, &with.values("sha256:0")).register.number(), 0);
}

#[test]
fn a_log_without_the_bank_is_refused() {
    let selection: PcrSelection = "sha384:4".parse().unwrap();
    let quoted = PcrValues::new(selection, vec![Digest::zero(HashAlgorithm::Sha384)]).unwrap();
    let found = error(&SampleLog::new().event(4, EventType::EFI_ACTION, b"a").0, &quoted).to_string();
    assert!(found.contains("event 1 of the firmware's log has no sha384 digest"), "{found}");
}

#[test]
fn userspace_records_follow_the_firmwares_events() {
    let log = SampleLog::new().event(11, EventType::IPL, b".linux");
    let log = EventLog::parse(&log.0).unwrap();
    let phases = record(11, "phase", "enter-initrd", b"enter-initrd") + &record(11, "phase", "ready", b"ready");
    let userspace = UserspaceLog::parse(phases.as_bytes()).unwrap();
    let quoted = values_of(&log, &userspace, "sha256:11,15");
    let replayed = Replayed::new(&log, &userspace, &quoted).unwrap();
    let events = replayed.events(PcrIndex::new(11).unwrap()).unwrap();
    let places: Vec<_> = events.iter().map(|event| event.place).collect();
    assert_eq!(places, [EventPlace::Firmware(1), EventPlace::Userspace(1), EventPlace::Userspace(2)]);
    // A record that is left out, as after the log was deleted.
    let less = UserspaceLog::parse(record(11, "phase", "enter-initrd", b"enter-initrd").as_bytes()).unwrap();
    assert!(Replayed::new(&log, &less, &quoted).is_err());
}

#[test]
fn labels_do_not_decide_what_an_event_means() {
    let digest_of = |content: &[u8]| Digest::of(HashAlgorithm::Sha256, &[content]);
    let log = SampleLog::new()
        .secure_boot(1)
        .event(7, EventType::EFI_ACTION, &secure_boot(0))
        .event(7, EventType::EFI_ACTION, &[0; 4])
        .digest(7, EventType::SEPARATOR, &digest_of(b"hidden"), &[0; 4])
        .digest(7, EventType::VARIABLE_DRIVER_CONFIG, &digest_of(b"hidden"), &secure_boot(1));
    let meanings: Vec<_> = log.replayed("sha256:7").iter().flat_map(|(_, events)| events.to_vec()).collect();
    assert_eq!(
        meanings.iter().map(|event| event.meaning).collect::<Vec<_>>(),
        [
            Meaning::SecureBoot { on: true, labelled: true },
            Meaning::SecureBoot { on: false, labelled: false },
            Meaning::Separator,
            Meaning::WrongSeparator,
            Meaning::Unproven,
        ]
    );
}
