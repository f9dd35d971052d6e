use super::*;
use crate::storage::memory::Countdown;
use crate::work::test_vm::TestVm;

fn add(provider: &str) -> AddKey {
    AddKey { component: None, provider: Some(provider.into()), key_id: None }
}

fn remove(provider: &str) -> RemoveKey {
    RemoveKey { component: None, provider: provider.into(), key_id: None, force: false }
}

fn whole(before: &TestVm) -> TestVm {
    before.with(before.images(), Countdown::fault_after(i64::MAX))
}

/// Providers of the slots of each component, in order.
fn providers(rig: &TestVm) -> Vec<Vec<String>> {
    let slots = |(part, image): (&_, Vec<u8>)| rig.open(part, &image).unwrap().0.header.claims().slots.clone();
    let names = |slots: Slots| slots.iter().map(|slot| slot.key_id.provider().to_string()).collect();
    rig.parts.iter().zip(rig.images()).map(slots).map(names).collect()
}

#[test]
fn a_second_provider_opens_what_the_first_is_removed_from() {
    let rig = whole(&TestVm::new(2));
    let former: Vec<_> =
        rig.parts.iter().zip(rig.images()).map(|(part, image)| TestVm::wrapped(part, &image)).collect();
    add("other").run(&rig).unwrap();
    assert!(providers(&rig).iter().all(|slots| *slots == ["local", "other"]), "{:?}", providers(&rig));
    remove("local").run(&rig).unwrap();
    assert!(providers(&rig).iter().all(|slots| *slots == ["other"]));
    for ((part, image), former) in rig.parts.iter().zip(rig.images()).zip(former) {
        assert!(former.iter().all(|wrapped| !TestVm::holds(part, &image, wrapped)), "{}", part.component);
    }
    let keys: std::collections::HashSet<_> = rig
        .parts
        .iter()
        .zip(rig.images())
        .map(|(part, image)| rig.open(part, &image).unwrap().0.header.claims().slots[0].key_id.clone())
        .collect();
    assert_eq!(keys.len(), 1, "one VM's components share the added key");
}

#[test]
fn the_last_slot_and_slots_that_are_not_there_are_refused() {
    let rig = whole(&TestVm::new(1));
    let before = rig.images();
    let refused = |ended: Result<SlotsChanged>| ended.unwrap_err().kind();
    assert_eq!(refused(remove("local").run(&rig)), Kind::Denied);
    assert_eq!(refused(RemoveKey { force: true, ..remove("local") }.run(&rig)), Kind::Denied, "not even by force");
    assert_eq!(refused(remove("other").run(&rig)), Kind::NotFound);
    assert_eq!(refused(add("gone").run(&rig)), Kind::NotFound);
    let absent = AddKey { component: Some(Component::Disk("no.raw".into())), ..add("other") };
    assert_eq!(refused(absent.run(&rig)), Kind::NotFound);
    assert!(rig.images() == before);
}

#[test]
fn a_slot_whose_others_cannot_be_had_is_kept_unless_forced() {
    let rig = whole(&TestVm::new(0));
    add("other").run(&rig).unwrap();
    std::fs::remove_file(rig.primary_key_of("other")).unwrap();
    let rig = rig.with(rig.images(), Countdown::fault_after(i64::MAX)).with_providers_anew();
    assert_eq!(remove("local").run(&rig).unwrap_err().kind(), Kind::Denied);
    RemoveKey { force: true, ..remove("local") }.run(&rig).unwrap();
}

#[test]
fn there_are_four_slots_at_most() {
    let rig = whole(&TestVm::new(0));
    for _ in 0..3 {
        let key = rig.make_key("other");
        AddKey { key_id: Some(key.id().to_owned()), ..add("other") }.run(&rig).unwrap();
    }
    let key = rig.make_key("other");
    let fifth = AddKey { key_id: Some(key.id().to_owned()), ..add("other") };
    assert_eq!(fifth.run(&rig).unwrap_err().kind(), Kind::Invalid);
    let which = remove("other").run(&rig).unwrap_err();
    assert!(which.kind() == Kind::Invalid && which.chain().contains("choose one"), "{}", which.chain());
}

/// Adding and removing, stopped at every storage call: what is left opens, and the next run finishes.
#[test]
fn a_crash_anywhere_leaves_every_component_open_and_the_next_run_finishes() {
    let start = TestVm::new(1);
    let added = whole(&start);
    add("other").run(&added).unwrap();
    type Work = fn(&TestVm) -> Result<SlotsChanged>;
    let cases: [(&TestVm, Work, &[&str]); 2] = [
        (&start, |rig| add("other").run(rig), &["local", "other"]),
        (&added, |rig| remove("local").run(rig), &["other"]),
    ];
    for (before, work, wanted) in cases {
        for stop in 0.. {
            let rig = before.with(before.images(), Countdown::end_after(stop));
            if work(&rig).is_ok() {
                assert!(stop > 8 && !rig.calls.has_failed());
                break;
            }
            let crashed = rig.crash_images();
            for survivor in 0..crashed.iter().map(Vec::len).max().unwrap() {
                let images: Vec<_> =
                    crashed.iter().map(|images| images[survivor.min(images.len() - 1)].clone()).collect();
                for (part, image) in before.parts.iter().zip(&images) {
                    assert_eq!(before.open(part, image).unwrap().1.bytes(), part.dek.bytes(), "stopped at {stop}");
                }
                let next = before.with(images, Countdown::fault_after(i64::MAX));
                let again = work(&next);
                assert!(again.is_ok() || providers(&next).iter().all(|slots| slots == wanted), "stopped at {stop}");
                assert!(providers(&next).iter().all(|slots| slots == wanted), "stopped at {stop}");
                if wanted == ["other"] {
                    for ((part, image), former) in next.parts.iter().zip(next.images()).zip(start.images()) {
                        let gone = TestVm::wrapped(part, &former).iter().all(|old| !TestVm::holds(part, &image, old));
                        assert!(gone, "stopped at {stop}");
                    }
                }
            }
        }
    }
}
