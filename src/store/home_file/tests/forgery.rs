//! What a thief with write access to the backing folder may do, and what it comes to.

use super::*;

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
    assert_eq!(wrong_blocks(image.clone(), &model, &keys), 2, "data alone");
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
    assert_eq!(wrong_blocks(mixed.clone(), &model, &keys), 2, "data alone");
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

/// A file that was cut off is a shorter file; what is left of it is right or refused.
#[test]
fn a_truncated_file_gives_no_wrong_bytes() {
    let keys = keys();
    let (image, model) = sample(&keys, 1);
    for len in (0..image.len()).step_by(61).chain([16, 48, HEADER_LEN]) {
        wrong_blocks(image[..len].to_vec(), &model, &keys);
    }
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
