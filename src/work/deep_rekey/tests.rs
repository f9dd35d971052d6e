use super::*;
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::storage::Storage;
use crate::storage::memory::Countdown;
use crate::store::buffer::request_buffer;
use crate::store::disk::LockedDisk;
use crate::work::test_vm::TestVm;

const LEN: usize = 20_000;

fn deep_rekey(rig: &TestVm) -> Result<DeepRekeyed> {
    let disks = (0..rig.parts.len() - 1).map(|number| format!("{number}.raw").into()).collect();
    DeepRekey { disks, ..DeepRekey::default() }.run(rig, &mut |_| Ok(()))
}

fn pattern(number: usize) -> Vec<u8> {
    (0..=255).cycle().step_by(number * 2 + 3).take(LEN).collect()
}

/// A home and disks with some content.
fn with_content(disks: usize) -> TestVm {
    let rig = TestVm::new(disks);
    for (number, part) in rig.parts.iter().enumerate().skip(1) {
        part.storage.set_len(DEFAULT_DATA_OFFSET).unwrap();
        let disk = LockedDisk::open(&part.storage).unwrap().unlock(&part.dek, Default::default()).unwrap();
        disk.write_at(0, &pattern(number), &mut request_buffer()).unwrap();
        disk.sync().unwrap();
    }
    rig
}

fn assert_content(rig: &TestVm) {
    for (number, (part, image)) in rig.parts.iter().zip(rig.images()).enumerate().skip(1) {
        let (_, dek) = rig.open(part, &image).unwrap();
        let storage = crate::storage::memory::MemoryStorage::new(image);
        let disk = LockedDisk::open(storage).unwrap().unlock(&dek, Default::default()).unwrap();
        assert!(disk.read_at(0, LEN, &mut request_buffer()).unwrap() == pattern(number), "disk {number}");
    }
}

fn assert_finished(rig: &TestVm, before: &TestVm, key: &KeyName) {
    assert_content(rig);
    for ((part, image), former) in rig.parts.iter().zip(rig.images()).zip(before.images()).skip(1) {
        let (stored, dek) = rig.open(part, &image).unwrap();
        assert_ne!(dek.bytes(), part.dek.bytes());
        let header = stored.header.claims();
        assert!(header.transition.is_none() && KeyName::of(&header.slots[0].key_id) == *key);
        for wrapped in TestVm::wrapped(part, &former) {
            assert!(!TestVm::holds(part, &image, &wrapped), "the former wrapped DEK of {} is there", part.component);
        }
    }
}

#[test]
fn all_disks_get_one_new_kek_and_deks_of_their_own() {
    let before = with_content(2);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let rekeyed = deep_rekey(&rig).unwrap();
    assert!(!rekeyed.resumed && rekeyed.components.iter().all(|component| component.done.done_now));
    assert_finished(&rig, &before, &rekeyed.key);
    let again = deep_rekey(&rig).unwrap();
    assert!(!again.resumed && again.key != rekeyed.key);
    assert_finished(&rig, &before, &again.key);
}

/// Stops at many a storage call, or fails it once; then all disks have their content, and the next run finishes with the same
/// key.
#[test]
fn after_a_stop_anywhere_the_next_run_finishes() {
    let before = with_content(2);
    for countdown in [Countdown::end_after, Countdown::fault_after] {
        let (mut resumed, mut noted) = (0, 0);
        for stop in (0..).step_by(23) {
            let rig = before.with(before.images(), countdown(stop));
            if let Ok(rekeyed) = deep_rekey(&rig) {
                assert_finished(&rig, &before, &rekeyed.key);
                if rig.calls.has_failed() {
                    continue; // what failed was of no use: the home's header, for one, which was not chosen
                }
                assert!(stop > 60, "{stop} calls");
                break;
            }
            rig.assert_none_below_noted();
            noted += rig.count_noted();
            let rig = before.with(rig.images(), Countdown::fault_after(i64::MAX));
            assert_content(&rig);
            let rekeyed = deep_rekey(&rig).unwrap();
            assert_eq!(rig.count_noted(), 2, "also of one that an earlier run has finished");
            resumed += u32::from(rekeyed.resumed);
            assert_finished(&rig, &before, &rekeyed.key);
        }
        assert!(noted > 0);
        assert!(resumed > 1, "{resumed} of the runs were found unfinished");
    }
}

#[test]
fn what_asks_to_stop_is_heard_and_the_next_run_goes_on() {
    let before = with_content(2);
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    let disks = vec!["0.raw".into(), "1.raw".into()];
    let task = DeepRekey { disks, rate: Some(64 << 10), ..DeepRekey::default() };
    let mut told = Vec::new();
    let stopped = task.run(&rig, &mut |progress| {
        told.push(progress.done);
        if progress.done > 8000 { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    assert!(told.contains(&8192) && !told.iter().any(|&done| done > 8192), "{told:?}");
    assert_content(&rig);
    let provider = Some("other".to_owned());
    let elsewhere = DeepRekey { provider, ..task.clone() }.run(&rig, &mut |_| Ok(()));
    assert_eq!(elsewhere.unwrap_err().kind(), Kind::Exists, "one is under way");
    let rekeyed = deep_rekey(&rig).unwrap();
    assert!(rekeyed.resumed);
    assert_finished(&rig, &before, &rekeyed.key);
}
