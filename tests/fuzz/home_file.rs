//! Whole home files that someone without the key changed: an error, a hole, or the right bytes, never others.

use vmcryptfs::crypto::random;
use vmcryptfs::storage::memory::MemoryStorage;
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::home_file::{HomeFile, HomeKeys};
use vmcryptfs::store::plain_file::PlainFile;

use crate::mutation::{Random, fuzz};
use crate::{SECONDS, bound_memory};

const BLOCK: usize = 4096;
const BLOCKS: u8 = 5;

/// What block `number` holds: in each version another text.
fn block(number: u8, version: u8) -> Vec<u8> {
    vec![number * 2 + version + 1; BLOCK]
}

#[test]
fn changed_home_files() {
    bound_memory();
    let keys = HomeKeys::new(&random::home_dek().unwrap()).unwrap();
    let mut buffer = request_buffer();
    let file = HomeFile::open(MemoryStorage::default(), &keys).unwrap();
    for version in 0..2 {
        for number in 0..BLOCKS {
            file.write_at(u64::from(number) * BLOCK as u64, &block(number, version), &mut buffer).unwrap();
        }
        if version == 0 {
            file.sync().unwrap(); // so that the second version goes to other places, and both are there
        }
    }
    let image = file.storage().image();
    let resized = |input: &mut Vec<u8>, random: &mut Random| {
        if random.below(4) > 0 {
            input.resize(image.len(), 0);
        }
        // Entries and the header decide; the fuzzer's own changes mostly hit the places.
        for _ in 0..random.below(4) {
            let at = random.below(input.len().min(512 + 128 * usize::from(BLOCKS)));
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    };
    let words: [&[u8]; 3] = [b"VMCRYPTH", &[0; 64], &[0; 512]];
    fuzz("home-file", SECONDS, std::slice::from_ref(&image), &words, resized, |input| {
        let Ok(file) = HomeFile::open(MemoryStorage::new(input.to_vec()), &keys) else { return };
        let mut buffer = request_buffer();
        for number in 0..BLOCKS {
            let Ok(found) = file.read_at(u64::from(number) * BLOCK as u64, BLOCK, &mut buffer) else { continue };
            let hole = found.iter().all(|byte| *byte == 0);
            let genuine = (0..2).any(|version| block(number, version).starts_with(found));
            // In the last block, a length that is not that of a whole block cuts off.
            let cut = found
                .iter()
                .zip(block(number, 0).iter().zip(block(number, 1)))
                .all(|(found, (old, new))| *found == 0 || found == old || *found == new);
            assert!(hole || genuine || (cut && input.len() != image.len()), "block {number} has other bytes");
        }
        let _ = file.prepare_writes();
    });
}
