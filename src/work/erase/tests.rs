use super::*;
use crate::storage::memory::Countdown;
use crate::work::test_vm::TestVm;

const ALL: Erase = Erase { component: None };

#[test]
fn no_wrapped_dek_is_left_and_the_evidence_says_what_was_there() {
    let before = TestVm::new(2);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let erased = ALL.run(&rig).unwrap();
    assert_eq!(erased.components.len(), 3);
    assert_eq!(erased.components.last().unwrap().kind, ComponentKind::Home, "the home goes last");
    for ((part, image), former) in rig.parts.iter().zip(rig.images()).zip(before.images()) {
        assert!(rig.open(part, &image).is_err());
        assert!(TestVm::wrapped(part, &former).iter().all(|wrapped| !TestVm::holds(part, &image, wrapped)));
        let evidence = erased.components.iter().find(|erased| erased.component == part.component).unwrap();
        assert!(evidence.uuid.is_some() && evidence.done.keys.len() == 1);
        for copy in &evidence.done.copies {
            let at = usize::try_from(copy.offset).unwrap();
            let hash = |image: &[u8]| data_encoding::HEXLOWER.encode(&sha256(&image[at..at + COPY_LEN]));
            assert_eq!((&copy.sha256_before, &copy.sha256_after), (&hash(&former), &hash(&image)));
            assert_ne!(copy.sha256_before, copy.sha256_after);
        }
    }
}

#[test]
fn what_was_erased_says_so_and_is_not_erased_again() {
    let before = TestVm::new(1);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let erased = Erase { component: Some(Component::Disk("0.raw".into())) }.run(&rig).unwrap();
    let part = &rig.parts[1];
    let mark = header_area::erasure(&part.storage, part.component.kind()).unwrap().unwrap();
    assert_eq!(mark.uuid, erased.components[0].uuid);
    let error = header_area::load(&part.storage, part.component.kind()).unwrap_err();
    assert_eq!(error.kind(), Kind::KeyUnavailable);
    assert!(error.chain().starts_with("erased on 2"), "{}", error.chain());
    let image = rig.images().remove(1);
    let again = Erase { component: Some(Component::Disk("0.raw".into())) }.run(&rig).unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound);
    assert!(again.chain().contains("erased on 2"), "{}", again.chain());
    assert!(rig.images()[1] == image);
    assert_eq!(ALL.run(&rig).unwrap().components.len(), 1, "only the home is left");
}

/// A crash in the midst of the last step leaves one mark: its UUID is the evidence's when the next run finishes.
#[test]
fn one_mark_is_no_end_yet() {
    let before = TestVm::new(0);
    let uuid = before.components(&crate::progress::to_the_end).unwrap()[0].unverified().unwrap().claims().uuid;
    let mut image = before.images().remove(0);
    let mark = Erasure { kind: ComponentKind::Home, time: Timestamp::from_secs(1), uuid: Some(uuid) }.encode().unwrap();
    image[..MARK_LEN].copy_from_slice(&mark);
    image[(64 << 10) + MARK_LEN..].fill(7);
    let rig = before.with(vec![image], Countdown::fault_after(i64::MAX));
    assert_eq!(ALL.run(&rig).unwrap().components[0].uuid, Some(uuid));
}

#[test]
fn one_disk_is_erased_and_the_others_stay() {
    let before = TestVm::new(2);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    Erase { component: Some(Component::Disk("1.raw".into())) }.run(&rig).unwrap();
    assert!(rig.images()[..2] == before.images()[..2]);
    assert!(rig.open(&rig.parts[2], &rig.images()[2]).is_err());
    let absent = Erase { component: Some(Component::Disk("no.raw".into())) };
    assert_eq!(absent.run(&rig).unwrap_err().kind(), Kind::NotFound);
}

/// After a crash anywhere a component that still holds a part of a wrapped DEK is still known by its magic, so that running
/// again finds it.
#[test]
fn a_crash_anywhere_leaves_no_slot_that_the_next_run_does_not_find() {
    let before = TestVm::new(1);
    let slots: Vec<_> =
        before.parts.iter().zip(before.images()).map(|(part, image)| TestVm::wrapped(part, &image)).collect();
    for stop in 0.. {
        let rig = before.with(before.images(), Countdown::end_after(stop));
        if ALL.run(&rig).is_ok() {
            assert!(stop > 10);
            break;
        }
        for ((part, images), slots) in rig.parts.iter().zip(rig.few_crash_images()).zip(&slots) {
            for image in images {
                let left = slots.iter().any(|wrapped| TestVm::holds(part, &image, wrapped));
                let known = part.component.kind().copy_offsets().iter().any(|&offset| {
                    let at = usize::try_from(offset).unwrap();
                    image[at..].starts_with(b"VMCRYPTF")
                });
                assert!(known || !left, "stopped at call {stop}");
            }
        }
    }
}

#[test]
fn a_fault_at_any_call_is_told_or_does_no_harm_and_the_next_run_finishes() {
    let before = TestVm::new(0);
    let slots = TestVm::wrapped(&before.parts[0], &before.images()[0]);
    for fault in 0.. {
        let rig = before.with(before.images(), Countdown::fault_after(fault));
        let ended = ALL.run(&rig);
        if !rig.calls.has_failed() {
            assert!(fault > 10);
            break;
        }
        // Where the marks were written already, that is said again.
        if ended.is_err()
            && let Err(error) = ALL.run(&rig)
        {
            assert_eq!(error.kind(), Kind::NotFound, "{}", error.chain());
            assert!(header_area::erasure(&rig.parts[0].storage, ComponentKind::Home).unwrap().is_some());
        }
        let (part, image) = (&rig.parts[0], &rig.images()[0]);
        assert!(slots.iter().all(|wrapped| !TestVm::holds(part, image, wrapped)), "after the fault at call {fault}");
    }
}
