use super::*;
use crate::crypto::random;
use crate::format::disk_kind::DiskShape;
use crate::format::header::{Shape, Slot};
use crate::key::{KeyCheck, KeyId, ProviderName, WrappedDek};
use crate::sector::SectorSize;
use crate::storage::memory::{CrashStorage, Fault, FaultStorage, MemoryStorage};

fn disk_header() -> Header {
    let shape = Shape::Disk(DiskShape::new(SectorSize::DEFAULT));
    let slot = Slot {
        key_id: KeyId::new(ProviderName::new("test").unwrap(), "1").unwrap(),
        check: KeyCheck([1; 8]),
        wrapped: WrappedDek(vec![9; 72]),
    };
    Header::new(random::uuid().unwrap(), shape, "original".into(), slot)
}

fn created(dek: &Dek) -> (Header, Vec<u8>) {
    let storage = MemoryStorage::default();
    let header = disk_header();
    create(&storage, &header, dek).unwrap();
    (header, storage.image())
}

fn changed(header: &Header, label: &str) -> Header {
    Header { sequence: header.sequence + 1, label: label.into(), ..header.clone() }
}

fn update(storage: &dyn Storage, in_use: usize, header: &Header, dek: &Dek) -> Result<usize> {
    let now_in_use = write(storage, in_use, header, dek)?;
    storage.sync()?;
    Ok(now_in_use)
}

fn label_of(image: Vec<u8>) -> Result<String> {
    Ok(load(&MemoryStorage::new(image), ComponentKind::Disk)?.header.claims().label.clone())
}

#[test]
fn updates_alternate_between_the_copies() {
    let dek = random::disk_dek().unwrap();
    let (mut header, image) = created(&dek);
    let storage = MemoryStorage::new(image);
    let mut in_use = load(&storage, ComponentKind::Disk).unwrap().in_use;
    for label in ["a", "b", "c", "d"] {
        header = changed(&header, label);
        let now = update(&storage, in_use, &header, &dek).unwrap();
        assert_eq!(now, 1 - in_use);
        let stored = load(&storage, ComponentKind::Disk).unwrap();
        assert_eq!((stored.in_use, stored.header.claims()), (now, &header));
        in_use = now;
    }
}

#[test]
fn an_update_of_both_copies_leaves_nothing_of_the_former_state() {
    let dek = random::disk_dek().unwrap();
    let (header, image) = created(&dek);
    let storage = MemoryStorage::new(image);
    let labels = || copies(&storage, ComponentKind::Disk).unwrap().map(|copy| copy.unwrap().claims().label.clone());
    let at_each_sync = std::cell::RefCell::new(Vec::new());
    let sync = || {
        at_each_sync.borrow_mut().push(labels());
        Ok(())
    };
    let renamed = Header { label: "new".into(), ..header };
    let (in_use, header) = update_both(&storage, 0, renamed, &dek, &sync).unwrap();
    // One copy at a time, each durable before the next one is touched.
    assert_eq!(at_each_sync.into_inner(), [["original", "new"], ["new", "new"]]);
    let stored = load(&storage, ComponentKind::Disk).unwrap();
    assert_eq!((stored.in_use, stored.header.claims()), (in_use, &header));
}

#[test]
fn one_damaged_copy_is_survived_and_repaired_by_the_next_update() {
    let dek = random::disk_dek().unwrap();
    for damaged in [0, 1] {
        let (header, mut image) = created(&dek);
        let at = usize::try_from(ComponentKind::Disk.copy_offsets()[damaged]).unwrap();
        image[at..at + COPY_LEN].fill(0xee);
        let storage = MemoryStorage::new(image);
        let stored = load(&storage, ComponentKind::Disk).unwrap();
        assert_eq!(stored.in_use, 1 - damaged);
        assert!(matches!(stored.other, OtherCopy::Damaged(_)));
        update(&storage, stored.in_use, &changed(&header, "new"), &dek).unwrap();
        let stored = load(&storage, ComponentKind::Disk).unwrap();
        assert!(matches!(stored.other, OtherCopy::Older(older) if older.claims().sequence == 1));
        assert_eq!(stored.header.claims().label, "new");
    }
}

#[test]
fn two_damaged_copies_are_named() {
    let (_, mut image) = created(&random::disk_dek().unwrap());
    for offset in ComponentKind::Disk.copy_offsets() {
        image[usize::try_from(offset).unwrap() + 100] ^= 1;
    }
    let error = label_of(image).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("both header copies are damaged"), "{error}");
}

#[test]
fn a_newer_copy_is_never_passed_over() {
    let (_, image) = created(&random::disk_dek().unwrap());
    for offset in ComponentKind::Disk.copy_offsets() {
        let mut newer = image.clone();
        newer[usize::try_from(offset).unwrap() + 8] = 2;
        assert_eq!(label_of(newer).unwrap_err().kind(), Kind::Unsupported);
    }
}

#[test]
fn different_copies_of_one_sequence_are_damage() {
    let dek = random::disk_dek().unwrap();
    let (header, mut image) = created(&dek);
    let twin = Header { label: "twin".into(), ..header }.encode(&dek).unwrap();
    image[..COPY_LEN].copy_from_slice(&twin);
    assert_eq!(label_of(image).unwrap_err().kind(), Kind::Corrupt);
}

#[test]
fn copies_of_two_components_are_damage() {
    let (_, mut image) = created(&random::disk_dek().unwrap());
    let (_, other) = created(&random::disk_dek().unwrap());
    image[..COPY_LEN].copy_from_slice(&other[..COPY_LEN]);
    let error = label_of(image).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("of two components"), "{error}");
}

#[test]
fn foreign_and_wrong_kinds_are_told_apart_from_damage() {
    let foreign = load(&MemoryStorage::new(b"QFI\xfb".repeat(5000)), ComponentKind::Disk).unwrap_err();
    assert_eq!(foreign.kind(), Kind::Invalid);
    // A home's header has its name, so what lies there is not foreign.
    let lost = load(&MemoryStorage::default(), ComponentKind::Home).unwrap_err();
    assert!(lost.kind() == Kind::Corrupt && lost.chain().contains(RESTORE_HOME), "{}", lost.chain());
    let (_, image) = created(&random::disk_dek().unwrap());
    assert!(load(&MemoryStorage::new(image), ComponentKind::Home).is_err(), "a disk is no home");
}

/// All ways to tear a copy.
#[test]
fn every_crash_of_an_update_leaves_the_old_or_the_new_header() {
    let dek = random::home_dek().unwrap();
    let slot = Slot { wrapped: WrappedDek(vec![9; 40]), ..disk_header().slots[0].clone() };
    let header = Header { shape: Shape::Home, slots: slot.into(), ..disk_header() };
    let storage = CrashStorage::new(Vec::new());
    create(&storage, &header, &dek).unwrap();
    storage.sync().unwrap();
    storage.forget_past();
    update(&storage, 0, &changed(&header, "new"), &dek).unwrap();
    let mut seen = [0, 0];
    for image in storage.crash_images() {
        let stored = load(&MemoryStorage::new(image), ComponentKind::Home).unwrap();
        let is_new = stored.header.claims() != &header;
        assert!(!is_new || stored.header.claims() == &changed(&header, "new"));
        seen[usize::from(is_new)] += 1;
    }
    assert!(seen[0] > 1 && seen[1] > 1, "old and new in {seen:?} images");
}

/// Over either copy, beginning with either state of the other.
#[test]
fn a_crash_of_any_later_update_leaves_its_old_or_its_new_header() {
    let dek = random::disk_dek().unwrap();
    let (mut header, image) = created(&dek);
    let storage = CrashStorage::new(image);
    let mut in_use = 0;
    for label in ["a", "b", "c"] {
        let new = changed(&header, label);
        storage.forget_past();
        in_use = update(&storage, in_use, &new, &dek).unwrap();
        for image in storage.sampled_crash_images(in_use as u64) {
            let stored = load(&MemoryStorage::new(image), ComponentKind::Disk).unwrap();
            let found = stored.header.verify(&dek).unwrap();
            assert!(found == header || found == new, "{}", found.label);
        }
        header = new;
    }
}

#[test]
fn a_failed_update_leaves_a_valid_header_and_can_be_repeated() {
    let dek = random::disk_dek().unwrap();
    let (header, image) = created(&dek);
    let faults = [Fault::Refused(libc::EIO), Fault::Torn(libc::ENOSPC), Fault::Late(libc::EIO)];
    for (fault, calls) in faults.into_iter().flat_map(|fault| [(fault, 0), (fault, 1)]) {
        let storage = FaultStorage::with(MemoryStorage::new(image.clone()), fault);
        storage.fail_after(calls);
        assert!(update(&storage, 0, &changed(&header, "new"), &dek).is_err());
        let label = label_of(storage.inner().image()).unwrap();
        let written = calls == 1 || fault == Fault::Late(libc::EIO);
        assert!(label == "original" || written, "{fault:?} after {calls} calls");
        // A caller that met a failure reads the header again.
        let stored = load(&storage, ComponentKind::Disk).unwrap();
        let again = changed(stored.header.claims(), "again");
        update(&storage, stored.in_use, &again, &dek).unwrap();
        assert_eq!(label_of(storage.inner().image()).unwrap(), "again");
    }
}
