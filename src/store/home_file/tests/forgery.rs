//! What a thief with write access to the backing folder may do, and what it comes to.

use super::*;
use crate::format::manifest::ManifestVersion;

const BLOCKS: u64 = 3;

/// A file of some blocks, the second of which is a hole.
fn sample(keys: &HomeKeys, seed: u8) -> (Vec<u8>, Vec<u8>) {
    let file = new_file(keys);
    let mut buffer = request_buffer();
    let mut model = Vec::new();
    for op in [Op::Write(0, 3 * BLOCK_LEN - 100, seed), Op::Punch(BLOCK, BLOCK), Op::Sync] {
        apply(&file, &op, &mut buffer).unwrap();
        apply_to_model(&mut model, &op);
    }
    (file.storage.image(), model)
}

/// Reads block by block: each is right, or an error that names it. Counts the errors.
fn wrong_blocks(image: Vec<u8>, model: &[u8], keys: &HomeKeys) -> usize {
    let file = match HomeFile::open(MemoryStorage::new(image), keys) {
        Ok(file) => file,
        Err(error) => {
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Unsupported), "{}", error.chain());
            return model.len().div_ceil(BLOCK_LEN);
        }
    };
    let mut buffer = request_buffer();
    let mut wrong = 0;
    for (number, expected) in model.chunks(BLOCK_LEN).enumerate() {
        match file.read_at(number as u64 * BLOCK, expected.len(), &mut buffer) {
            Ok(seen) => assert!(expected.starts_with(seen), "wrong bytes in block {number}"),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt);
                assert!(error.to_string().contains(&format!("block {number} ")), "{error}");
                wrong += 1;
            }
        }
    }
    wrong
}

fn swap(image: &mut [u8], a: u64, b: u64, len: usize) {
    for at in 0..len {
        image.swap(index(a) + at, index(b) + at);
    }
}

#[test]
fn every_flipped_byte_is_refused() {
    let keys = keys();
    let (image, model) = sample(&keys, 1);
    assert_eq!(wrong_blocks(image.clone(), &model, &keys), 0);
    let block = |number| BlockIndex(number).cipher_offset(Place::Main);
    let entry = |number| BlockIndex(number).pair_offset();
    let ranges = [
        (0..HEADER_LEN as u64, 3),
        (entry(0)..entry(0) + PAIR_LEN as u64 / 2, 1),
        (entry(2)..entry(2) + PAIR_LEN as u64 / 2, 1),
        (block(0)..block(1), 1),
        (block(2)..block(3), 1),
    ];
    for (range, refused) in ranges {
        for at in range {
            let mut bad = image.clone();
            bad[index(at)] ^= 0x20;
            assert_eq!(wrong_blocks(bad, &model, &keys), refused, "byte {at}");
        }
    }
    for at in (HEADER_LEN..index(entry(BLOCKS))).chain((HEADER_LEN..image.len()).step_by(1009)) {
        let mut bad = image.clone();
        bad[at] ^= 0x20;
        assert!(wrong_blocks(bad, &model, &keys) <= 1, "byte {at}");
    }
}

#[test]
fn blocks_that_changed_places_are_refused() {
    let keys = keys();
    let (mut image, model) = sample(&keys, 1);
    let (first, last) = (BlockIndex(0), BlockIndex(2));
    swap(&mut image, first.cipher_offset(Place::Main), last.cipher_offset(Place::Main), BLOCK_LEN);
    assert_eq!(wrong_blocks(image.clone(), &model, &keys), 2, "only data");
    swap(&mut image, first.pair_offset(), last.pair_offset(), PAIR_LEN);
    assert_eq!(wrong_blocks(image, &model, &keys), 2, "data and entries");
}

#[test]
fn blocks_and_headers_of_other_files_are_refused() {
    let keys = keys();
    let (image, model) = sample(&keys, 1);
    let (other, _) = sample(&keys, 1);
    let mut mixed = image.clone();
    let at = index(BlockIndex(0).cipher_offset(Place::Main));
    mixed[at..].copy_from_slice(&other[at..]);
    assert_eq!(wrong_blocks(mixed.clone(), &model, &keys), 2, "only data");
    mixed[HEADER_LEN..].copy_from_slice(&other[HEADER_LEN..]);
    assert_eq!(wrong_blocks(mixed, &model, &keys), 2, "all but the header");
    assert_eq!(wrong_blocks(image, &model, &self::keys()), 3, "a file of another home");
}

#[test]
fn a_block_that_moved_to_its_other_place_is_still_itself() {
    let keys = keys();
    let (mut image, model) = sample(&keys, 1);
    let block = BlockIndex(0);
    swap(&mut image, block.cipher_offset(Place::Main), block.cipher_offset(Place::Spare), BLOCK_LEN);
    swap(&mut image, block.pair_offset(), block.pair_offset() + PAIR_LEN as u64 / 2, PAIR_LEN / 2);
    assert_eq!(wrong_blocks(image, &model, &keys), 0);
}

#[test]
fn a_foreign_file_is_refused() {
    let keys = keys();
    for foreign in [b"config.version = \"8\"\n".to_vec(), vec![0xff; 600], pattern(9000, 3), b"VMCRYPTF".to_vec()] {
        let error = HomeFile::open(MemoryStorage::new(foreign), &keys).map(drop).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
    }
}

/// Wherever a file was cut off, reading it to its end is an error, and what is left before the last block is right.
#[test]
fn a_truncated_file_is_damage() {
    let keys = keys();
    let (image, model) = sample(&keys, 1);
    let mut buffer = request_buffer();
    for len in (1..image.len()).step_by(61).chain([16, 48, HEADER_LEN, image.len() - 1]) {
        let storage = MemoryStorage::new(image[..len].to_vec());
        let cut_off = match HomeFile::open(storage, &keys) {
            Ok(file) => file,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Corrupt, "{}", error.chain());
                assert!(home_file::plain_len(len as u64) == 0, "{len}: blocks are left, and none can be read");
                continue;
            }
        };
        let left = cut_off.plain_len();
        let last = floor(left - 1, BLOCK);
        assert_eq!(cut_off.read_at(0, index(last), &mut buffer).unwrap(), &model[..index(last)], "{len}");
        for (at, wanted) in [(last, 1), (left, 1), (0, index(left)), (left - 1, 100)] {
            let error = cut_off.read_at(at, wanted, &mut buffer).unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt);
            let expected =
                format!("block {} is cut off: {left} bytes are left of at least {}", last / BLOCK, model.len());
            assert_eq!(error.to_string(), expected);
        }
    }
    assert!(contents(&open(MemoryStorage::default(), &keys)).is_empty(), "one that was emptied is a new one");
}

/// What is left is not made to look whole by a later write, but by a caller that says so.
#[test]
fn a_truncated_file_is_changed_by_cutting_it_only() {
    let keys = keys();
    let (image, model) = sample(&keys, 1);
    let kept = index(home_file::cipher_len(BLOCK + 9));
    let file = open(MemoryStorage::new(image[..kept].to_vec()), &keys);
    let mut buffer = request_buffer();
    let refused = [
        Op::Write(0, 10, 3),
        Op::Write(2 * BLOCK, BLOCK_LEN, 3),
        Op::SetLen(2 * BLOCK),
        Op::SetLen(9 * BLOCK),
        Op::Punch(0, BLOCK),
        Op::Zero(0, 9),
        Op::Allocate(0, 9 * BLOCK, true),
    ];
    for op in &refused {
        assert_eq!(apply(&file, op, &mut buffer).unwrap_err().kind(), Kind::Corrupt, "{op:?}");
    }
    file.sync().unwrap();
    assert!(file.read_at(BLOCK, 9, &mut buffer).is_err(), "a sync does not make it whole");
    file.set_len(BLOCK + 9).unwrap();
    assert_same(&contents(&file), &model[..BLOCK_LEN + 9], &"accepting the loss");
    file.write_at(BLOCK + 9, b"more", &mut buffer).unwrap();
    let reopened = open(MemoryStorage::new(file.storage.image()), &keys);
    assert_same(&contents(&reopened), &[&model[..BLOCK_LEN + 9], b"more"].concat(), &"going on");
}

/// What zeros may be put in the place of.
#[derive(Clone, Copy, Debug)]
enum Zeroed {
    Pair,
    Places,
    Both,
}

fn zero(image: &mut [u8], block: BlockIndex, what: Zeroed) {
    if !matches!(what, Zeroed::Places) {
        image[index(block.pair_offset())..][..PAIR_LEN].fill(0);
    }
    if !matches!(what, Zeroed::Pair) {
        for place in [Place::Main, Place::Spare] {
            let start = index(block.cipher_offset(place)).min(image.len());
            let end = (start + BLOCK_LEN).min(image.len());
            image[start..end].fill(0);
        }
    }
}

#[test]
fn zeros_in_place_of_a_block_that_was_written_are_damage() {
    let keys = keys();
    let mut buffer = request_buffer();
    let file = new_file(&keys);
    let model = pattern(66 * BLOCK_LEN + 100, 1);
    file.write_at(0, &model, &mut buffer).unwrap();
    file.sync().unwrap();
    file.write_at(BLOCK, &model[BLOCK_LEN..2 * BLOCK_LEN], &mut buffer).unwrap();
    for block in [0, 1, 2, 64, 66] {
        for what in [Zeroed::Pair, Zeroed::Places, Zeroed::Both] {
            let mut image = file.storage.image();
            zero(&mut image, BlockIndex(block), what);
            assert_eq!(wrong_blocks(image.clone(), &model, &keys), 1, "{what:?} of block {block}");
            let damaged = open(MemoryStorage::new(image), &keys);
            let start = block * BLOCK;
            for op in [Op::Write(start + 5, 9, 1), Op::Punch(start + 5, 9), Op::Zero(start + 5, 9)] {
                let error = apply(&damaged, &op, &mut buffer).unwrap_err();
                assert!(error.to_string().starts_with(&format!("block {block} is missing")), "{op:?}: {error}");
            }
            assert_eq!(damaged.seek_data(start + 7).unwrap(), Some(start + 7), "no hole that a copy leaves out");
            assert_eq!(damaged.seek_hole(start).unwrap(), Some(model.len() as u64));
            if let Some(whole) = model[index(start)..].first_chunk::<BLOCK_LEN>() {
                damaged.write_at(start, whole, &mut buffer).unwrap();
                assert_same(&contents(&damaged), &model, &"overwriting it as a whole");
            }
        }
    }
    let mut image = file.storage.image();
    image[HEADER_LEN..].fill(0);
    assert_eq!(wrong_blocks(image, &model, &keys), 67, "all but the header");
}

#[test]
fn a_file_that_is_cut_off_while_open_is_damage() {
    let keys = keys();
    let (image, _) = sample(&keys, 1);
    let file = open(MemoryStorage::new(image), &keys);
    file.storage.set_len(BlockIndex(2).cipher_offset(Place::Main) + 5).unwrap();
    let error = file.read_at(2 * BLOCK, 100, &mut request_buffer()).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.to_string().contains("block 2"), "{error}");
}

/// The older version of a block serves only until a sync made the newer one durable.
#[test]
fn damage_of_a_synced_block_never_brings_its_older_version_back() {
    let keys = keys();
    let file = new_file(&keys);
    let mut buffer = request_buffer();
    let mut model = Vec::new();
    for seed in 1..4 {
        for op in [Op::Write(0, 2 * BLOCK_LEN, seed), Op::Sync] {
            apply(&file, &op, &mut buffer).unwrap();
            apply_to_model(&mut model, &op);
        }
        for place in [Place::Main, Place::Spare] {
            let mut image = file.storage.image();
            let at = index(BlockIndex(0).cipher_offset(place));
            image[at..at + BLOCK_LEN].iter_mut().for_each(|byte| *byte ^= 1);
            let wrong = wrong_blocks(image, &model, &keys);
            assert!(wrong <= 1, "the other place holds nothing that counts");
        }
    }
}

#[test]
fn a_damaged_block_can_be_overwritten_as_a_whole_but_not_in_part() {
    let keys = keys();
    let (mut image, mut model) = sample(&keys, 1);
    image[index(BlockIndex(0).cipher_offset(Place::Main))] ^= 1;
    let file = open(MemoryStorage::new(image), &keys);
    let mut buffer = request_buffer();
    assert_eq!(file.write_at(100, b"part", &mut buffer).unwrap_err().kind(), Kind::Corrupt);
    for op in [Op::Write(0, BLOCK_LEN, 8), Op::Write(2 * BLOCK + 9, 100, 8), Op::Sync] {
        apply(&file, &op, &mut buffer).unwrap();
        apply_to_model(&mut model, &op);
    }
    assert_same(&contents(&file), &model, &"overwriting");
}

/// Zeros in place of one version do not excuse damage of the other.
#[test]
fn a_damaged_version_beside_an_empty_one_is_damage() {
    let keys = keys();
    let file = new_file(&keys);
    let mut buffer = request_buffer();
    file.write_at(0, &[1; BLOCK_LEN], &mut buffer).unwrap();
    file.sync().unwrap();
    file.write_at(0, &[2; BLOCK_LEN], &mut buffer).unwrap();
    for (empty, damaged) in [(Place::Main, Place::Spare), (Place::Spare, Place::Main)] {
        let mut image = file.storage.image();
        let at = |place| index(BlockIndex(0).cipher_offset(place));
        image[at(empty)..][..BLOCK_LEN].fill(0);
        image[at(damaged)] ^= 1;
        assert_eq!(wrong_blocks(image, &[2; BLOCK_LEN], &keys), 1);
    }
}

/// A manifest says by the state of a file what is read of it: not of a version that was spoiled so that the older one is read.
#[test]
fn the_state_of_a_file_tells_when_a_block_went_back() {
    let keys = keys();
    let file = new_file(&keys);
    let mut buffer = request_buffer();
    file.write_at(0, &pattern(BLOCK_LEN, 1), &mut buffer).unwrap();
    file.sync().unwrap();
    file.write_at(0, &pattern(BLOCK_LEN, 2), &mut buffer).unwrap();
    let mut image = file.storage.image();
    let state =
        |image: &[u8]| open(MemoryStorage::new(image.to_vec()), &keys).state_digest(ManifestVersion::NEWEST).unwrap();
    let before = state(&image);
    image[index(BlockIndex(0).cipher_offset(Place::Spare))] ^= 1;
    assert_same(
        &contents(&open(MemoryStorage::new(image.clone()), &keys)),
        &pattern(BLOCK_LEN, 1),
        &"spoiling the newer one",
    );
    assert_ne!(state(&image), before);
}

/// Anyone who can write to the folder makes a file as long as its file system has them: what looks at all of it passes over holes.
#[test]
fn a_file_that_others_made_longer_costs_no_more_to_look_at() {
    let keys = keys();
    let (image, _) = sample(&keys, 1);
    let mut states = Vec::new();
    for terabytes in [1, 15, 1 << 20] {
        let longer = MemoryStorage::new(image.clone());
        longer.set_len(terabytes << 40).unwrap();
        let file = open(FaultStorage::new(longer, libc::EIO), &keys);
        file.storage.fail_after(20);
        states.push(file.state_digest(ManifestVersion::NEWEST).unwrap());
        assert_eq!(file.seek_data(BLOCK).unwrap(), Some(2 * BLOCK));
        assert_eq!(file.seek_data(3 * BLOCK).unwrap(), None);
        assert_eq!(file.seek_hole(BLOCK).unwrap(), Some(BLOCK));
        assert_eq!(file.seek_hole(2 * BLOCK).unwrap(), Some(3 * BLOCK));
        assert!(!file.storage.has_failed());
    }
    states.dedup();
    assert_eq!(states.len(), 3, "a length is part of the state");
}

/// Zeros past the filled length are a hole to a reader; below it they are damage, unless an older header is put back.
#[test]
fn the_state_of_a_file_tells_zeros_and_an_older_header() {
    let keys = keys();
    let (image, _) = sample(&keys, 1);
    let state = |image: &[u8], version| open(MemoryStorage::new(image.to_vec()), &keys).state_digest(version).unwrap();
    let place = |block| index(BlockIndex(block).cipher_offset(Place::Main));
    let both = [ManifestVersion::First, ManifestVersion::Second];
    let before = both.map(|version| state(&image, version));
    // The second block is a hole, so the third one lies past what is filled.
    for (zeros, shows) in [(0..BLOCK_LEN, true), (1..BLOCK_LEN, false), (0..BLOCK_LEN - 1, false), (0..16, false)] {
        let mut bad = image.clone();
        bad[place(2)..][zeros.clone()].fill(0);
        assert_eq!(state(&bad, ManifestVersion::First), before[0]);
        assert_eq!(state(&bad, ManifestVersion::Second) != before[1], shows, "{zeros:?}");
        let bad = open(MemoryStorage::new(bad), &keys);
        assert_eq!(bad.read_at(2 * BLOCK, 1, &mut request_buffer()).is_ok(), shows, "{zeros:?}");
    }
    let mut older = image.clone();
    let file = open(MemoryStorage::new(image.clone()), &keys);
    older[..HEADER_LEN].copy_from_slice(&file.cipher.header(Known { len: 3 * BLOCK - 100, filled: Some(0) }));
    assert_eq!(state(&older, ManifestVersion::First), before[0]);
    assert_ne!(state(&older, ManifestVersion::Second), before[1], "a smaller filled length");
    older[..HEADER_LEN].copy_from_slice(&file.cipher.header(Known { len: BLOCK, filled: Some(BLOCK) }));
    assert_ne!(state(&older, ManifestVersion::Second), before[1], "a smaller known length");
}
