use super::*;
use crate::storage::memory::Countdown;
use crate::store::header_area::OtherCopy;
use crate::work::test_vm::{Part, TestVm};

fn rekey(rig: &TestVm) -> Result<Rekeyed> {
    Rekey::default().run(rig, &mut |_| Ok(()))
}

/// Everything that a finished rekey promises.
fn assert_finished(rig: &TestVm, before: &TestVm, key: &KeyName) {
    for ((part, image), former) in rig.parts.iter().zip(rig.images()).zip(before.images()) {
        let (stored, dek) = rig.open(part, &image).unwrap();
        assert_eq!(dek.bytes(), part.dek.bytes());
        assert_eq!(KeyName::of(&stored.header.claims().slots[0].key_id), *key, "{}", part.component);
        for wrapped in TestVm::wrapped(part, &former) {
            assert!(!TestVm::holds(part, &image, &wrapped), "the former wrapped DEK of {} is there", part.component);
        }
    }
}

/// The key of a rekey that began and did not finish, as the leader's image tells.
fn recorded(rig: &TestVm, leader: &Part, image: &[u8], before: &TestVm) -> Option<KeyName> {
    let first = |image: &[u8]| {
        let (stored, _) = rig.open(leader, image).unwrap();
        let other_is_whole = !matches!(stored.other, OtherCopy::Damaged(_));
        other_is_whole.then(|| KeyName::of(&stored.header.claims().slots[0].key_id))
    };
    let former = first(&before.images()[0]);
    first(image).filter(|key| Some(key) != former.as_ref())
}

#[test]
fn all_components_get_one_new_key() {
    let before = TestVm::new(3);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let rekeyed = rekey(&rig).unwrap();
    assert_eq!(rekeyed.components.len(), 4);
    assert!(!rekeyed.resumed && rekeyed.components.iter().all(|component| component.done.former_key.is_some()));
    assert_finished(&rig, &before, &rekeyed.key);
    let again = rekey(&rig).unwrap();
    assert!(again.key != rekeyed.key && !again.resumed, "a finished rekey is not taken for an unfinished one");
}

/// Stops at every storage call, tries what a power cut could leave of each component, and finishes.
#[test]
fn a_crash_anywhere_leaves_every_component_open_and_the_next_run_finishes() {
    let before = TestVm::new(2);
    let whole = calls_of_a_whole_run(&before);
    let mut resumed = 0;
    for stop in 0.. {
        let rig = before.with(before.images(), Countdown::end_after(stop));
        let ended = rekey(&rig);
        if ended.is_ok() {
            assert!(!rig.calls.has_failed() && stop > 10, "all calls were stopped at");
            break;
        }
        let crashed = rig.crash_images();
        for (part, images) in rig.parts.iter().zip(&crashed) {
            for image in images {
                assert_eq!(rig.open(part, image).unwrap().1.bytes(), part.dek.bytes(), "stopped at call {stop}");
            }
        }
        let most = crashed.iter().map(Vec::len).max().unwrap();
        for survivor in 0..most {
            // The components lose power together, but what each one's medium kept is its own affair.
            let images: Vec<_> = crashed.iter().map(|images| images[survivor.min(images.len() - 1)].clone()).collect();
            let began = recorded(&before, &rig.parts[0], &images[0], &before);
            let next = before.with(images, Countdown::fault_after(i64::MAX));
            let finished = rekey(&next).unwrap();
            assert_finished(&next, &before, &finished.key);
            if let Some(key) = began
                && stop + 1 < whole
            {
                assert_eq!((finished.resumed, finished.key), (true, key), "one new key, made once");
                resumed += 1;
            }
        }
    }
    assert!(resumed > 10, "only {resumed} crashes were in the midst of it");
}

/// Storage calls of a rekey without a crash. The last one is the sync of the leader's second copy.
fn calls_of_a_whole_run(before: &TestVm) -> i64 {
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    rekey(&rig).unwrap();
    i64::MAX - rig.calls.left()
}

#[test]
fn a_fault_at_any_call_is_an_error_or_none_and_the_next_run_finishes() {
    let before = TestVm::new(2);
    for fault in 0.. {
        let rig = before.with(before.images(), Countdown::fault_after(fault));
        let ended = rekey(&rig);
        if !rig.calls.has_failed() {
            assert!(ended.is_ok() && fault > 10);
            break;
        }
        let finished = match ended {
            Ok(finished) => finished,
            Err(_) => rekey(&rig).unwrap(),
        };
        assert_finished(&rig, &before, &finished.key);
    }
}

#[test]
fn chosen_disks_get_a_key_of_their_own_and_other_slots_stay() {
    let before = TestVm::new(2);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let only = Rekey { disks: vec!["1.raw".into()], provider: Some("other".into()) };
    let rekeyed = only.run(&rig, &mut |_| Ok(())).unwrap();
    assert_eq!((rekeyed.components.len(), rekeyed.key.provider.as_str()), (1, "other"));
    assert!(rig.images()[..2] == before.images()[..2], "what was not chosen is not touched");
    let absent = Rekey { disks: vec!["no.raw".into()], provider: None };
    assert_eq!(absent.run(&rig, &mut |_| Ok(())).unwrap_err().kind(), Kind::NotFound);
    let all = rekey(&rig).unwrap();
    assert_finished(&rig, &before, &all.key);
}

#[test]
fn a_provider_that_is_not_there_is_named_before_anything_changes() {
    let before = TestVm::new(1);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let to = Rekey { disks: Vec::new(), provider: Some("gone".into()) };
    let error = to.run(&rig, &mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.chain().contains("new key from provider gone"), "{}", error.chain());
    assert!(rig.images() == before.images());
}

#[test]
fn work_that_is_told_to_stop_stops_where_it_can_go_on() {
    let before = TestVm::new(17);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let mut stop = |progress: &Progress| match progress.done {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Stopped, "asked to")),
    };
    assert_eq!(Rekey::default().run(&rig, &mut stop).unwrap_err().kind(), Kind::Stopped);
    let finished = rekey(&rig).unwrap();
    assert!(finished.resumed && finished.components.iter().any(|component| component.done.former_key.is_none()));
    assert_finished(&rig, &before, &finished.key);
}
