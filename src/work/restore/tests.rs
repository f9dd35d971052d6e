use super::*;
use crate::crypto::xts::Engine;
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::progress::Progress;
use crate::storage::memory::Countdown;
use crate::store::buffer::request_buffer;
use crate::store::disk::LockedDisk;
use crate::work::deep_rekey::DeepRekey;
use crate::work::erase::Erase;
use crate::work::rekey::Rekey;
use crate::work::slots::AddKey;
use crate::work::test_vm::TestVm;

/// The same VM, with disks that are long enough to have data.
fn whole(before: &TestVm) -> TestVm {
    let rig = before.with(before.images(), Countdown::fault_after(i64::MAX));
    for disk in &rig.parts[1..] {
        disk.storage.set_len(DEFAULT_DATA_OFFSET).unwrap();
    }
    rig
}

fn saved(rig: &TestVm, number: usize) -> Vec<u8> {
    let header = rig.open(&rig.parts[number], &rig.images()[number]).unwrap().0.header;
    SavedHeader { time: Timestamp::from_secs(1_764_000_000), header }.encode().unwrap()
}

fn restore(rig: &TestVm, component: &str, saved: &[u8], force: bool) -> Result<Restored> {
    let folder = tempfile::tempdir().unwrap();
    restore_beside(&folder.path().join("saved"), rig, component, saved, force)
}

fn restore_beside(file: &Path, rig: &TestVm, component: &str, saved: &[u8], force: bool) -> Result<Restored> {
    RestoreHeader {
        component: Component::at(Path::new(component)),
        saved: saved.to_vec(),
        force,
        replaced: file.into(),
    }
    .run(rig)
    .map(|restored| restored.done)
}

#[test]
fn a_damaged_copy_and_two_destroyed_ones_come_back() {
    let rig = whole(&TestVm::new(1));
    let backup = saved(&rig, 1);
    assert!(!restore(&rig, "0.raw", &backup, false).unwrap().changed, "nothing is written where nothing is wrong");
    rig.parts[1].storage.write_at(0, &[0xee; 100]).unwrap();
    let restored = restore(&rig, "0.raw", &backup, false).unwrap();
    assert!(restored.changed && restored.unverified.is_none() && restored.keys_back.is_empty());
    Erase { component: Some(Component::Disk("0.raw".into())) }.run(&rig).unwrap();
    let refused = restore(&rig, "0.raw", &backup, false).unwrap_err();
    assert!(refused.kind() == Kind::Denied && refused.chain().contains("--force"), "{}", refused.chain());
    restore(&rig, "0.raw", &backup, true).unwrap();
    assert_eq!(rig.open(&rig.parts[1], &rig.images()[1]).unwrap().1.bytes(), rig.parts[1].dek.bytes());
}

#[test]
fn the_right_header_comes_back_after_that_of_another_component_was_forced_in() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    let rig = whole(&TestVm::new(2));
    let (own, theirs) = (saved(&rig, 1), saved(&rig, 2));
    let refused = |saved: &[u8]| {
        let refused = restore(&rig, "0.raw", saved, false).unwrap_err();
        assert!(refused.kind() == Kind::Denied && refused.chain().contains("this is component"), "{}", refused.chain());
    };
    refused(&theirs);
    rig.parts[1].storage.write_at(0, &[0xee; 8192]).unwrap();
    refused(&theirs); // the second copy tells
    let forced = restore_beside(&file, &rig, "0.raw", &theirs, true).unwrap();
    let kept = std::fs::read(&forced.replaced[0]).unwrap();
    assert_eq!(forced.replaced.len(), 1);
    assert!(SavedHeader::decode(&kept).unwrap().header.same_bytes(&SavedHeader::decode(&own).unwrap().header));
    refused(&own);
    for right in [&own, &kept] {
        let restored = restore_beside(&file, &rig, "0.raw", right, true).unwrap();
        assert!(restored.replaced.len() <= 1 && restored.keys_back.is_empty());
        assert_eq!(rig.open(&rig.parts[1], &rig.images()[1]).unwrap().1.bytes(), rig.parts[1].dek.bytes());
    }
    restore_beside(&file, &rig, "0.raw", &theirs, true).unwrap(); // its file is there already
}

#[test]
fn keys_that_were_taken_away_do_not_come_back_unnoticed() {
    let rig = whole(&TestVm::new(1));
    let backup = saved(&rig, 1);
    let rekeyed = Rekey::default().run(&rig, &mut |_| Ok(())).unwrap();
    let former = rekeyed.components[1].done.former_key.clone().unwrap();
    let refused = restore(&rig, "0.raw", &backup, false).unwrap_err().chain();
    assert!(refused.contains(&former.key_id) && refused.contains(&rekeyed.key.key_id), "{refused}");
    let restored = restore(&rig, "0.raw", &backup, true).unwrap();
    assert_eq!((restored.keys_back, restored.keys_gone), (vec![former], vec![rekeyed.key]));
}

/// The DEK of the data is only in the header that is there: an earlier one must not take its place unnoticed, and neither of
/// the two may be touched in the midst.
#[test]
fn a_header_of_before_a_deep_rekey_is_refused() {
    let rig = whole(&TestVm::new(1));
    LockedDisk::open(&rig.parts[1].storage)
        .and_then(|disk| disk.unlock(&rig.parts[1].dek, Engine::default()))
        .and_then(|disk| disk.write_at(0, &[7; 20_000], &mut request_buffer()))
        .unwrap();
    let backup = saved(&rig, 1);
    let task = DeepRekey { disks: vec!["0.raw".into()], ..DeepRekey::default() };
    let stop = |progress: &Progress| match progress.done {
        0 => Ok(()),
        _ => Err(Error::new(Kind::Stopped, "enough")),
    };
    let stopped = DeepRekey { rate: Some(1), ..task.clone() }.run(&rig, &mut |progress| stop(progress));
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    for force in [false, true] {
        let refused = restore(&rig, "0.raw", &backup, force).unwrap_err();
        assert!(refused.kind() == Kind::Denied && refused.chain().contains("not finished"), "{}", refused.chain());
    }
    let component = Some(Component::Disk("0.raw".into()));
    let added = AddKey { component, provider: Some("other".to_owned()), key_id: None }.run(&rig);
    assert_eq!(added.unwrap_err().kind(), Kind::Denied);
    let shallow = Rekey { disks: vec!["0.raw".into()], provider: None }.run(&rig, &mut |_| Ok(()));
    assert_eq!(shallow.unwrap_err().kind(), Kind::Denied);
    assert!(task.run(&rig, &mut |_| Ok(())).unwrap().resumed);
    let right = saved(&rig, 1);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("saved");
    for wrong in [&backup, &right] {
        if *wrong != right {
            let refused = restore(&rig, "0.raw", wrong, false).unwrap_err();
            assert!(refused.kind() == Kind::Denied && refused.chain().contains("re-encrypted"), "{}", refused.chain());
        }
        restore_beside(&file, &rig, "0.raw", wrong, true).unwrap();
    }
    assert_eq!(saved(&rig, 1), right, "whatever was forced, the way back is open");
}

#[test]
fn a_forged_or_damaged_file_is_refused() {
    let rig = whole(&TestVm::new(1));
    let good = saved(&rig, 1);
    for at in (0..good.len()).step_by(97).chain([0, 8, 10, 24, 31]) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        assert!(restore(&rig, "0.raw", &bad, true).is_err(), "byte {at}");
    }
    assert!(restore(&rig, "0.raw", &good[..good.len() - 1], true).is_err());
    // A whole frame around a header that nobody with the key wrote.
    let mut header = SavedHeader::decode(&good).unwrap().header.bytes().to_vec();
    header[18] ^= 1; // the sequence
    let checksum = crate::crypto::derive::sha256(&header[..8160]);
    header[8160..].copy_from_slice(&checksum);
    let forged = SavedHeader { time: Timestamp::from_secs(0), header: UnverifiedHeader::decode(&header).unwrap() }
        .encode()
        .unwrap();
    assert_eq!(restore(&rig, "0.raw", &forged, true).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn a_crash_anywhere_leaves_the_header_that_was_there_or_the_saved_one() {
    let before = whole(&TestVm::new(1));
    let backup = saved(&before, 1);
    Rekey::default().run(&before, &mut |_| Ok(())).unwrap();
    let before = whole(&before);
    for stop in 0.. {
        let rig = before.with(before.images(), Countdown::end_after(stop));
        if restore(&rig, "0.raw", &backup, true).is_ok() {
            assert!(stop > 4);
            break;
        }
        assert!(rig.calls.has_failed(), "it fails for another reason than the stop");
        for image in &rig.crash_images()[1] {
            assert_eq!(
                rig.open(&rig.parts[1], image).unwrap().1.bytes(),
                rig.parts[1].dek.bytes(),
                "stopped at {stop}"
            );
        }
    }
}

#[test]
fn a_fifo_in_the_place_of_a_replaced_header_is_not_waited_for() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let (rig, folder) = (TestVm::new(0), tempfile::tempdir().unwrap());
    let bytes = saved(&rig, 0);
    let header = SavedHeader::decode(&bytes).unwrap().header;
    let [fifo, file] = ["fifo", "file"].map(|name| folder.path().join(name));
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(!holds(&fifo, &header));
    std::fs::write(&file, &bytes).unwrap();
    assert!(holds(&file, &header));
}
