//! What a power cut leaves of a disk: each unit of the operation is old or new, all else is as it was.

use super::*;
use crate::storage::memory::CrashStorage;
use crate::store::header_area::OtherCopy;

/// A unit of a disk that holds `model`, with zeros past its end.
fn unit_of(model: &[u8], number: usize) -> Vec<u8> {
    let rest = model.get(number * UNIT_LEN..).unwrap_or_default();
    (0..UNIT_LEN).map(|at| rest.get(at).copied().unwrap_or(0)).collect()
}

/// The promise for one image. Growing it shows whatever a crash might have left past the end.
fn keeps_the_promise(image: Image, op: &Op, start: &[u8], done: &[u8], keys: &Keys) {
    let disk = open(MemoryStorage::new(image), keys);
    let len = index(disk.plain_len());
    let (shorter, longer) = (start.len().min(done.len()), start.len().max(done.len()));
    // A disk that is made shorter is for a moment up to 15 bytes longer than asked for.
    let rounded = done.len().next_multiple_of(BLOCK_LEN);
    let is_possible = if matches!(op, Op::SetLen(_)) {
        [start.len(), rounded, done.len()].contains(&len)
    } else {
        (shorter..=longer).contains(&len)
    };
    assert!(is_possible, "{op:?}: length {len} after a crash");
    disk.set_len(disk.plain_len() + 600).unwrap();
    let changed = units_of(op, start);
    for (number, unit) in contents(&disk).chunks(UNIT_LEN).enumerate() {
        let of = |model: &[u8], end: usize| unit_of(&model[..model.len().min(end)], number)[..unit.len()].to_vec();
        let old = of(start, len.max(shorter));
        if changed.contains(&((number * UNIT_LEN) as u64)) {
            // New bytes may be there without the new length, or old ones without the bytes that were cut off.
            let allowed = [of(start, usize::MAX), old, of(done, usize::MAX), of(done, start.len()), of(done, len)];
            assert!(allowed.iter().any(|model| model == unit), "{op:?}: unit {number} is neither old nor new");
        } else {
            assert!(unit == old, "{op:?}: unit {number} changed, which is none of the operation's");
        }
    }
}

fn every_crash_of_every_operation(sector_size: SectorSize) {
    let keys = keys(sector_size);
    let (base, start) = prepared(&keys, &[Op::Write(0, 4996, 1)]);
    for op in ops_of_every_alignment(start.len() as u64) {
        let disk = open(CrashStorage::new(base.clone()), &keys);
        apply(&disk, &op, &mut request_buffer()).unwrap();
        let mut done = start.clone();
        apply_to_model(&mut done, &op);
        for image in disk.storage.crash_images() {
            keeps_the_promise(image, &op, &start, &done, &keys);
        }
        disk.sync().unwrap();
        disk.storage.forget_past();
        for image in disk.storage.crash_images() {
            assert!(contents(&open(MemoryStorage::new(image), &keys)) == done, "{op:?} was synced and is not there");
        }
    }
}

#[test]
fn every_crash_leaves_units_old_or_new_in_sectors_of_4096() {
    every_crash_of_every_operation(SectorSize::DEFAULT);
}

#[test]
fn every_crash_leaves_units_old_or_new_in_sectors_of_512() {
    every_crash_of_every_operation(SectorSize::SMALL);
}

/// A torn growing write, and then a crash while its traces past the end are removed.
#[test]
fn a_second_crash_while_the_first_is_mended_shows_nothing_new() {
    let keys = keys(SectorSize::DEFAULT);
    let (base, start) = prepared(&keys, &[Op::Write(0, 1003, 1)]);
    for op in [Op::Write(1003, 1, 9), Op::Write(1000, 700, 9), Op::Write(1003, 2000, 9)] {
        let mut done = start.clone();
        apply_to_model(&mut done, &op);
        let first = open(CrashStorage::new(base.clone()), &keys);
        apply(&first, &op, &mut request_buffer()).unwrap();
        for image in first.storage.crash_images() {
            let second = open(CrashStorage::new(image), &keys);
            second.set_len(second.plain_len() + 5).unwrap();
            let grown = index(second.plain_len()).max(done.len());
            for image in second.storage.crash_images() {
                let third = open(MemoryStorage::new(image), &keys);
                assert!(third.plain_len() <= grown as u64, "{op:?}");
                third.set_len(4096).unwrap();
                for (number, unit) in contents(&third).chunks(UNIT_LEN).enumerate() {
                    let allowed = [unit_of(&start, number), unit_of(&done, number)];
                    let cut = |at: usize| unit_of(&done[..done.len().min(at)], number);
                    let between = (start.len()..=done.len()).any(|at| cut(at) == unit);
                    assert!(allowed.iter().any(|model| model == unit) || between, "{op:?}: unit {number}");
                }
            }
        }
    }
}

/// Before its first sync a new disk is whole, or it is refused; after it, it is whole.
#[test]
fn every_crash_of_a_creation_leaves_a_whole_disk_or_none() {
    let keys = keys(SectorSize::DEFAULT);
    let storage = CrashStorage::new(Vec::new());
    create(&storage, &keys.header, &keys.dek).unwrap();
    let mut whole = 0;
    let images = (0..50).flat_map(|seed| storage.sampled_crash_images(seed * 1000));
    for image in images {
        let opened = unlock(MemoryStorage::new(image), &keys.dek);
        match opened {
            Ok(disk) => {
                whole += 1;
                assert_eq!(disk.plain_len(), 0);
            }
            Err(error) => assert!(matches!(error.kind(), Kind::Corrupt | Kind::Invalid), "{}", error.chain()),
        }
    }
    assert!(whole > 0, "no image was whole: this proves nothing");
    storage.sync().unwrap();
    storage.forget_past();
    for image in storage.crash_images() {
        assert_eq!(open(MemoryStorage::new(image), &keys).plain_len(), 0);
    }
}

#[test]
fn every_crash_while_a_disk_is_made_in_its_place_leaves_a_disk_or_a_sector_of_zeros() {
    let keys = keys(SectorSize::DEFAULT);
    let storage = CrashStorage::new(Image::default());
    create_in_place(&storage, &keys.header, &keys.dek).unwrap();
    let (mut whole, mut begun) = (0, 0);
    for image in storage.crash_images() {
        let storage = MemoryStorage::new(image);
        let mut mark = [0; UNIT_LEN];
        storage.read_at(0, &mut mark).unwrap();
        let mut second = [0; 1];
        storage.read_at(ComponentKind::Disk.copy_offsets()[1], &mut second).unwrap();
        if mark == [0; UNIT_LEN] {
            assert_eq!(second, [0], "the second copy is there and the first is not");
            begun += 1;
        } else {
            assert_eq!(open(storage, &keys).plain_len(), 0);
            whole += 1;
        }
    }
    assert!(whole > 0 && begun > 0, "{whole} whole, {begun} begun");
    // No crash came: then there are two copies, of which either may be lost.
    let stored = header_area::load(&storage, ComponentKind::Disk).unwrap();
    assert!(matches!(stored.other, OtherCopy::Same), "{:?}", stored.other);
}

#[test]
fn a_disk_that_is_opened_for_writing_has_the_length_that_others_gave_the_file() {
    let disk = new_disk(&keys(SectorSize::DEFAULT));
    disk.storage.set_len(DEFAULT_DATA_OFFSET + 8192).unwrap();
    disk.prepare_writes().unwrap();
    assert_eq!(disk.plain_len(), 8192);
}

/// A write of the last block and its mark that was torn: the length says that it ends in the midst of data.
#[test]
fn what_a_crash_left_past_the_end_in_the_last_block_does_not_show_when_the_disk_grows() {
    for sector_size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        let keys = keys(sector_size);
        let (disk, mut buffer) = (new_disk(&keys), request_buffer());
        disk.write_at(0, &[7; 4112], &mut buffer).unwrap();
        let torn = MemoryStorage::new(disk.storage.image());
        torn.write_at(DEFAULT_DATA_OFFSET + 4112, &[0; 5]).unwrap();
        let disk = open(torn, &keys);
        assert_eq!(disk.plain_len(), 4101);
        disk.set_len(4112).unwrap();
        assert_eq!(contents(&disk)[4101..], [0; 11]);
    }
}
