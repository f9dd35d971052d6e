//! What is stored beside data: header copies, saved ones, entries and headers of home files, journal records, backups.

use vmcryptfs::crypto::{derive, random};
use vmcryptfs::format::header::UnverifiedHeader;
use vmcryptfs::format::home_file::{self, PAIR_LEN, Pair};
use vmcryptfs::format::journal::UnverifiedRecord;
use vmcryptfs::format::saved_header::{SAVED_LEN, SavedHeader};
use vmcryptfs::key::Dek;
use vmcryptfs::provider::backup::SealedBackup;

use crate::mutation::{Random, fuzz};
use crate::testkit::vector_file::{read_folder, tests_folder};
use crate::{SECONDS, bound_memory};

const WORDS: [&[u8]; 9] =
    [b"VMCRYPTF", b"VMCRYPTH", b"VMCRYPTB", b"VMCRYPTS", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01", b"\x04", b"local"];

fn vectors(folder: &str, part: &str) -> Vec<Vec<u8>> {
    let files = read_folder(&tests_folder().join("vectors").join(folder), 4);
    let wanted = files.into_iter().filter(|file| file.name.contains(part));
    wanted.flat_map(|file| file.bodies).collect()
}

/// Puts the right SHA-256 after the rest, mostly: no input gets past it by chance.
fn with_checksum(bytes: &mut [u8], random: &mut Random) {
    if random.below(4) > 0
        && let Some((content, checksum)) = bytes.split_last_chunk_mut::<32>()
    {
        *checksum = derive::sha256(content);
    }
}

#[test]
fn header_copies() {
    const COPY: usize = 8192;
    const AUTHENTICATED: usize = 8128;
    bound_memory();
    let deks: [Dek; 2] = [random::disk_dek().unwrap(), random::home_dek().unwrap()];
    let finish = |input: &mut Vec<u8>, random: &mut Random| {
        if random.below(8) > 0 {
            input.resize(COPY, 0);
        }
        with_checksum(input, random);
    };
    fuzz("header", SECONDS, &vectors("header", ""), &WORDS, finish, |input| {
        let Ok(header) = UnverifiedHeader::decode(input) else { return };
        let claims = header.claims();
        let dek = deks.iter().find(|dek| dek.bytes().len() == claims.shape.kind().dek_len()).unwrap();
        // Its owner's HMAC aside, which needs the owner's key, it is written as it was read.
        let encoded = claims.encode(dek).unwrap();
        assert!(encoded[..AUTHENTICATED] == input[..AUTHENTICATED], "decode, then encode, is not identical");
        assert!(header.clone().verify(dek).is_err(), "a header of another owner verifies");
    });
}

#[test]
fn saved_headers() {
    const COPY_AT: usize = 32;
    bound_memory();
    let corpus = vectors("saved", "");
    assert!(corpus.iter().any(|input| SavedHeader::decode(input).is_ok()), "nothing to begin with");
    let finish = |input: &mut Vec<u8>, random: &mut Random| {
        if random.below(8) > 0 {
            input.resize(SAVED_LEN, 0);
        }
        // The header in it has a checksum of its own, which the outer one covers.
        if let Some(end) = input.len().checked_sub(32).filter(|end| *end > COPY_AT) {
            with_checksum(&mut input[COPY_AT..end], random);
        }
        with_checksum(input, random);
    };
    fuzz("saved-header", SECONDS, &corpus, &WORDS, finish, |input| {
        let Ok(saved) = SavedHeader::decode(input) else { return };
        assert!(saved.encode().unwrap() == input, "decode, then encode, is not identical");
    });
}

#[test]
fn home_file_headers_and_entries() {
    bound_memory();
    let key = [7; 32];
    let header = |filled| {
        let known = home_file::Known { len: 5000, filled };
        home_file::encode_header(home_file::FileId([9; 16]), known, &key).to_vec()
    };
    let corpus = [header(Some(4000)), header(None), vec![0; 512], vec![1; 512]];
    let resized = |input: &mut Vec<u8>, _: &mut Random| input.resize(512, 0);
    fuzz("home-file-header", SECONDS, &corpus, &WORDS, resized, |input| {
        let bytes: [u8; 512] = input.try_into().unwrap();
        if let Ok(Some(header)) = home_file::decode_header(&bytes)
            && let Ok(home_file::Header { id, known: Some(known) }) = header.verify(&key)
        {
            assert_eq!(home_file::encode_header(id, known, &key), bytes);
        }
        let pair: [u8; PAIR_LEN] = bytes[..PAIR_LEN].try_into().unwrap();
        let decoded = Pair::decode(&pair);
        let encoded = decoded.encode();
        assert_eq!(Pair::decode(&encoded).encode(), encoded);
        let reserved = pair[48..64].iter().chain(&pair[112..]).any(|byte| *byte != 0);
        assert!(encoded == pair || reserved, "decode, then encode, is not identical");
    });
}

#[test]
fn backups_of_primary_keys() {
    bound_memory();
    fuzz(
        "backup",
        SECONDS,
        &vectors("native", "backup"),
        &WORDS,
        |input, random| with_checksum(input, random),
        |input| {
            // Opening one takes the memory and time that it says, which its limits bound; that is not for a fuzzer.
            let _ = SealedBackup::decode(input);
        },
    );
}

#[test]
fn journal_records() {
    bound_memory();
    fuzz(
        "journal",
        SECONDS,
        &vectors("journal", ""),
        &WORDS,
        |_, _| {},
        |input| {
            let Some(head) = input.first_chunk() else { return };
            if let Ok(record) = UnverifiedRecord::decode(head) {
                assert!(record.table_len() <= 1 << 20, "a table of {} bytes", record.table_len());
            }
        },
    );
}
