//! What a file's header says of it, and when.

use super::*;

fn known(image: &[u8], keys: &HomeKeys) -> Known {
    let header = home_file::decode_header(image[..HEADER_LEN].try_into().unwrap()).unwrap().unwrap();
    keys.file(header).unwrap().1.unwrap()
}

#[test]
fn a_file_is_known_to_be_as_long_as_it_grew_if_nothing_of_it_was_synced_and_else_as_it_was_synced() {
    let keys = keys();
    let mut buffer = request_buffer();
    let known = |image: &[u8]| known(image, &keys).len;
    let file = new_file(&keys);
    file.write_at(0, &pattern(100, 1), &mut buffer).unwrap();
    assert_eq!(known(&file.storage.image()), 100);
    file.write_at(100, &pattern(4900, 1), &mut buffer).unwrap();
    file.set_len(6000).unwrap();
    assert_eq!(known(&file.storage.image()), 6000);
    // Appended to in another opening, and not synced: a crash may bring back the former length.
    let file = open(file.storage, &keys);
    file.write_at(6000, b"more", &mut buffer).unwrap();
    assert_eq!(known(&file.storage.image()), 6000);
    file.sync().unwrap();
    assert_eq!(known(&file.storage.image()), 6004);
    // Written again: as long as it is, if it was longer before.
    for (len, expected) in [(3000, 3000), (100, 100), (200, 100)] {
        file.set_len(0).unwrap();
        assert_eq!(known(&file.storage.image()), 0);
        file.write_at(0, &pattern(len, 2), &mut buffer).unwrap();
        assert_eq!(known(&file.storage.image()), expected);
    }
    file.sync().unwrap();
    assert_eq!(known(&file.storage.image()), 200);
    // Without its header there is nothing that could come back.
    file.reset_to_empty().unwrap();
    assert_eq!(file.storage.len().unwrap(), 0);
    file.write_at(0, &pattern(300, 2), &mut buffer).unwrap();
    assert_eq!(known(&file.storage.image()), 300);
    file.set_len(200).unwrap();
    assert_eq!(known(&file.storage.image()), 0, "what was never synced is worth no sync at each cut");
    file.set_len(300).unwrap();
    file.sync().unwrap();
    assert_eq!(known(&file.storage.image()), 300);
    file.set_len(150).unwrap();
    file.set_len(900).unwrap();
    assert_eq!(known(&file.storage.image()), 150);
}

#[test]
fn a_file_is_known_to_be_filled_up_to_its_first_hole() {
    let keys = keys();
    let mut buffer = request_buffer();
    let filled = |image: &[u8]| known(image, &keys).filled.unwrap();
    let mut file = new_file(&keys);
    let steps = [
        (vec![Op::Write(0, 9000, 1)], 9000, "nothing of it was ever synced"),
        (vec![Op::Write(9000, 100, 1), Op::Write(5 * BLOCK, 100, 1)], 9100, "a hole follows"),
        (vec![Op::Sync, Op::Write(9100, 4000, 1)], 9100, "not synced yet"),
        (vec![Op::Sync], 13_100, ""),
        (vec![Op::Write(13_000, 8000, 1), Op::Sync], 21_000, "the hole was filled"),
        (vec![Op::Reopen, Op::Write(21_000, 100, 1), Op::Sync], 21_100, ""),
        (vec![Op::SetLen(9 * BLOCK), Op::Sync], 21_100, ""),
        (vec![Op::Punch(2 * BLOCK + 1, 3 * BLOCK)], 3 * BLOCK, "whole blocks"),
        (vec![Op::Write(4 * BLOCK, 9000, 1), Op::Sync], 3 * BLOCK, ""),
        (vec![Op::Zero(BLOCK, BLOCK)], BLOCK, ""),
        (vec![Op::Punch(0, 100), Op::Sync], BLOCK, "a block of zeros that is none"),
        (vec![Op::Write(BLOCK, 9000, 1), Op::SetLen(7000), Op::Sync], 7000, ""),
        (vec![Op::SetLen(90)], 90, ""),
        (vec![Op::SetLen(0)], 0, ""),
        (vec![Op::Write(0, 9000, 1)], 0, "it was synced before"),
        (vec![Op::Sync], 9000, ""),
        (vec![Op::BeginAnew, Op::Write(BLOCK, 10, 1), Op::Sync], 0, "a hole at the start"),
        (vec![Op::BeginAnew, Op::SetLen(9 * BLOCK), Op::Write(BLOCK, 9000, 1)], 0, ""),
        (vec![Op::Write(5 * BLOCK, 4 * BLOCK_LEN, 1), Op::Write(0, 9, 1)], 9000 + BLOCK, "side by side"),
        (vec![Op::Punch(6 * BLOCK, BLOCK), Op::Write(4 * BLOCK, BLOCK_LEN, 1), Op::Sync], 5 * BLOCK, "a hole after it"),
        (vec![Op::Write(5 * BLOCK, 9000, 1), Op::Sync], 5 * BLOCK + 9000, ""),
    ];
    for (ops, expected, why) in steps {
        for op in &ops {
            if let Op::Reopen = op {
                file = open(MemoryStorage::new(file.storage.image()), &keys);
            }
            apply(&file, op, &mut buffer).unwrap();
        }
        assert_eq!(filled(&file.storage.image()), expected, "after {ops:?}: {why}");
    }
}

/// What is remembered of ranges beyond the first hole is bounded: one more than that is forgotten.
#[test]
fn of_many_ranges_beyond_the_first_hole_some_are_remembered() {
    let keys = keys();
    let mut buffer = request_buffer();
    for (ranges, expected) in [(16, 33), (17, 34), (20, 34)] {
        let file = new_file(&keys);
        let mut write = |block: u64| file.write_at(block * BLOCK, &[1; BLOCK_LEN], &mut buffer).unwrap();
        (1..=ranges).for_each(|number| write(2 * number));
        write(0);
        (1..=ranges).for_each(|number| write(2 * number - 1));
        file.sync().unwrap();
        assert_eq!(known(&file.storage.image(), &keys).filled, Some(expected * BLOCK), "{ranges} ranges");
    }
}

/// The version before there was a known length is read and written as it always was.
#[test]
fn a_file_of_the_first_version_stays_one() {
    let keys = keys();
    let id = home_file::FileId([3; 16]);
    let mut buffer = request_buffer();
    let made = HomeFile::with_id(MemoryStorage::default(), &keys, id).unwrap();
    made.write_at(0, &pattern(9000, 1), &mut buffer).unwrap();
    let mut image = made.storage.image();
    image[..HEADER_LEN].copy_from_slice(&made.cipher.header_of_first_version());
    let file = open(MemoryStorage::new(image), &keys);
    assert_same(&contents(&file), &pattern(9000, 1), &"opening");
    file.write_at(9000, b"more", &mut buffer).unwrap();
    file.sync().unwrap();
    file.set_len(100).unwrap();
    let left = file.storage.image();
    assert!(left[..HEADER_LEN] == made.cipher.header_of_first_version(), "the header stays");
    assert_same(&contents(&open(MemoryStorage::new(left), &keys)), &pattern(100, 1), &"changes");
}

/// As above, with the version before there was a filled length: its length is recorded as ever.
#[test]
fn a_file_of_the_second_version_stays_one() {
    let keys = keys();
    let mut buffer = request_buffer();
    let made = new_file(&keys);
    made.write_at(0, &pattern(9000, 1), &mut buffer).unwrap();
    let mut image = made.storage.image();
    image[..HEADER_LEN].copy_from_slice(&made.cipher.header_of_second_version(9000));
    let file = open(MemoryStorage::new(image), &keys);
    file.write_at(0, &pattern(9100, 1), &mut buffer).unwrap();
    file.sync().unwrap();
    let mut left = file.storage.image();
    assert!(left[..HEADER_LEN] == made.cipher.header_of_second_version(9100), "the header's version stays");
    left[index(BlockIndex(1).pair_offset())..][..PAIR_LEN].fill(0);
    let hole = [&pattern(9100, 1)[..BLOCK_LEN], &[0; BLOCK_LEN], &pattern(9100, 1)[2 * BLOCK_LEN..]].concat();
    assert_same(&contents(&open(MemoryStorage::new(left), &keys)), &hole, &"zeros are a hole");
}
