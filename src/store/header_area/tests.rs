use super::*;
use crate::crypto::random;
use crate::format::header::{DEFAULT_DATA_OFFSET, Shape, Slot};
use crate::format::names::DiskNames;
use crate::key::{KeyCheck, KeyId, ProviderName, WrappedDek};
use crate::sector::SectorSize;
use crate::storage::memory::{CrashStorage, FaultStorage, MemoryStorage};

fn disk_header() -> Header {
    Header {
        sequence: 1,
        uuid: random::uuid().unwrap(),
        shape: Shape::Disk { sector_size: SectorSize::DEFAULT, data_offset: DEFAULT_DATA_OFFSET },
        label: "original".into(),
        disk_names: DiskNames::default(),
        slots: vec![Slot {
            key_id: KeyId::new(ProviderName::new("test").unwrap(), "1").unwrap(),
            check: KeyCheck([1; 8]),
            wrapped: WrappedDek(vec![9; 72]),
        }],
        transition: None,
    }
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
    assert_eq!(load(&MemoryStorage::default(), ComponentKind::Home).unwrap_err().kind(), Kind::Invalid);
    let (_, image) = created(&random::disk_dek().unwrap());
    assert!(load(&MemoryStorage::new(image), ComponentKind::Home).is_err(), "a disk is no home");
}

#[test]
fn a_crash_during_an_update_leaves_the_old_or_the_new_header() {
    let dek = random::disk_dek().unwrap();
    let (header, image) = created(&dek);
    let storage = CrashStorage::new(image);
    let bytes = changed(&header, "new").encode(&dek).unwrap();
    // The copy is 16 sectors; the last of them are all that is left to tear.
    storage.write_at(ComponentKind::Disk.copy_offsets()[1], &bytes[..4096]).unwrap();
    storage.sync().unwrap();
    storage.write_at(ComponentKind::Disk.copy_offsets()[1] + 4096, &bytes[4096..]).unwrap();
    let labels: Vec<String> = storage.crash_images().into_iter().map(|image| label_of(image).unwrap()).collect();
    assert!(labels.iter().all(|label| label == "original" || label == "new"));
    assert!(labels.iter().any(|label| label == "new") && labels.iter().any(|label| label == "original"));
}

#[test]
fn a_failed_update_leaves_a_valid_header() {
    let dek = random::disk_dek().unwrap();
    let (header, image) = created(&dek);
    for fault in 0..2 {
        let storage = FaultStorage::new(MemoryStorage::new(image.clone()), libc::EIO);
        storage.fail_after(fault);
        assert!(update(&storage, 0, &changed(&header, "new"), &dek).is_err());
        let label = label_of(storage.inner().image()).unwrap();
        assert!(label == "original" || fault == 1, "only the sync may fail after the copy was written");
    }
}
