//! What is stored beside data: header copies, saved ones, entries and headers of home files, journal records, lists of disks,
//! manifests, records of clusters, dumps, backups, sealed shares.

use uuid::Uuid;
use vmcryptfs::crypto::{derive, random};
use vmcryptfs::dump::stream::DumpReader;
use vmcryptfs::format::cluster::{
    Ack, Envelope, HostIdentity, KeptKeks, Name, Parcel, Token, UnverifiedDocument, UnverifiedRequest, Want,
};
use vmcryptfs::format::dump::{DumpHeader, DumpKeyFile};
use vmcryptfs::format::header::UnverifiedHeader;
use vmcryptfs::format::home_file::{self, PAIR_LEN, Pair};
use vmcryptfs::format::journal::UnverifiedRecord;
use vmcryptfs::format::manifest::Manifest;
use vmcryptfs::format::members::{FIXED_LEN, MembersKey};
use vmcryptfs::format::saved_header::{SAVED_LEN, SavedHeader};
use vmcryptfs::key::{Dek, ProviderName};
use vmcryptfs::provider::backup::SealedBackup;
use vmcryptfs::provider::sealed_share::SealedShare;

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

const HOME: Uuid = Uuid::from_u128(7);
/// Seconds of the targets that most inputs leave early.
const SHORT: u64 = SECONDS.div_ceil(3);

#[test]
fn lists_of_disks() {
    const TAG: usize = 32;
    bound_memory();
    let dek = random::home_dek().unwrap();
    let key = MembersKey::new(HOME, &dek).unwrap();
    let mut tag_key = [0; TAG];
    derive::hkdf(HOME.as_bytes(), dek.bytes(), "vmcryptfs v1 members", &mut tag_key).unwrap();
    // No input authenticates by chance.
    let finish = |input: &mut Vec<u8>, random: &mut Random| {
        let Some(body_len) = input.len().checked_sub(FIXED_LEN + TAG).filter(|_| random.below(8) > 0) else { return };
        input[16..32].copy_from_slice(HOME.as_bytes());
        input[44..48].copy_from_slice(&u32::try_from(body_len).unwrap().to_le_bytes());
        let (content, tag) = input.split_last_chunk_mut::<TAG>().unwrap();
        *tag = derive::hmac(&tag_key, content);
    };
    let read = std::cell::Cell::new(0);
    fuzz("members", SHORT, &vectors("members", ""), &WORDS, finish, |input| {
        let Ok(list) = key.decode(input) else { return };
        read.set(read.get() + 1);
        // The names of a disk may stand in any order.
        let encoded = key.encode(&list).unwrap();
        assert!(key.encode(&key.decode(&encoded).unwrap()).unwrap() == encoded, "what was encoded is read otherwise");
    });
    assert!(read.get() > 0, "none was read: this proves nothing");
}

/// MTH of RFC 9162, section 2.1.1.
fn tree_hash(leaves: &[&[u8]]) -> [u8; 32] {
    match leaves {
        [] => derive::sha256(b""),
        [leaf] => derive::sha256(&[&[0], *leaf].concat()),
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            derive::sha256(&[&[1][..], &tree_hash(left), &tree_hash(right)].concat())
        }
    }
}

#[test]
fn manifests() {
    const HEAD: usize = 96;
    bound_memory();
    // The head fits the records that are there, mostly: no root is right by chance.
    let finish = |input: &mut Vec<u8>, random: &mut Random| {
        if input.len() < HEAD || random.below(8) == 0 {
            return;
        }
        let (head, mut rest) = input.split_at_mut(HEAD);
        let body_len = rest.len() as u64;
        let mut leaves: Vec<&[u8]> = Vec::new();
        while let Some([_, len @ ..]) = rest.first_chunk::<5>() {
            let Some((leaf, after)) = rest.split_at_mut_checked(5 + u32::from_le_bytes(*len) as usize) else { break };
            leaves.push(leaf);
            rest = after;
        }
        head[32..48].copy_from_slice(HOME.as_bytes());
        head[48..80].copy_from_slice(&tree_hash(&leaves));
        head[80..84].copy_from_slice(&u32::try_from(leaves.len()).unwrap().to_le_bytes());
        head[88..96].copy_from_slice(&body_len.to_le_bytes());
    };
    let corpus: Vec<Vec<u8>> =
        vectors("manifest", "").into_iter().filter(|body| body.starts_with(b"VMCRYPTT")).collect();
    let read = std::cell::Cell::new(0);
    fuzz("manifest", SHORT, &corpus, &WORDS, finish, |input| {
        let Ok(manifest) = Manifest::decode(input, HOME) else { return };
        read.set(read.get() + 1);
        assert!(manifest.encode().unwrap() == input, "decode, then encode, is not identical");
    });
    assert!(read.get() > 0, "none was read: this proves nothing");
}

#[test]
fn records_of_clusters() {
    bound_memory();
    let name = Name::new("host", "h1").unwrap();
    let host = HostIdentity { uuid: HOME, name, seal_key: [4; 65], sign_key: [5; 32] };
    let provider = ProviderName::new("corp").unwrap();
    let words: [&[u8]; 6] = [b"VMCRYPTD", b"\0\0", b"\xff\xff", b"\x01", b"prod", b"vmcryptfs-"];
    fuzz(
        "cluster",
        SHORT,
        &vectors("cluster", ""),
        &words,
        |_, _| {},
        |input| {
            if let Ok(document) = UnverifiedDocument::decode(input) {
                let hash = document.hash();
                let _ = document.known(1, &hash);
            }
            if let Ok(envelope) = Envelope::decode(input) {
                assert!(envelope.encode() == input, "decode, then encode, is not identical");
            }
            let _ = UnverifiedRequest::decode(input).map(|request| request.is_by(&[7; 32]));
            assert!(Ack::decode(input, HOME, &host).is_err(), "an acknowledgement that the host did not sign");
            assert!(Want::decode(input, HOME, &provider, &host).is_err(), "a want that the host did not sign");
            if let Ok(kept) = KeptKeks::decode(input) {
                assert!(kept.encode().unwrap() == input, "decode, then encode, is not identical");
                assert!(kept.open(&[7; 32]).is_err(), "KEKs that the key did not seal");
            }
            assert!(Parcel::decode(input, |_| Some(&host)).is_err(), "a KEK that the keeper did not sign");
            let _ = std::str::from_utf8(input).map(Token::parse);
        },
    );
}

#[test]
fn sealed_shares() {
    bound_memory();
    fuzz(
        "sealed-share",
        SHORT,
        &vectors("native", "sealed-share"),
        &WORDS,
        |input, random| with_checksum(input, random),
        |input| {
            let Ok(share) = SealedShare::decode(input) else { return };
            assert!(share.encode().unwrap() == input, "decode, then encode, is not identical");
        },
    );
}

#[test]
fn dumps() {
    bound_memory();
    let words: [&[u8]; 6] = [b"VMCRYPTU", b"VMCRYPTY", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01", b"corp"];
    let finish = |input: &mut Vec<u8>, random: &mut Random| {
        if input.starts_with(b"VMCRYPTY") {
            with_checksum(input, random);
        }
    };
    // Pieces of dumps are long, and all alike.
    let corpus = vectors("dump", "").into_iter().filter(|input| input.len() < 4096).collect::<Vec<_>>();
    let read = std::cell::Cell::new(0);
    fuzz("dump", SHORT, &corpus, &words, finish, |input| {
        if let Ok(key) = DumpKeyFile::decode(input) {
            assert!(key.encode().unwrap() == input, "decode, then encode, is not identical");
        }
        let Ok((header, len)) = DumpHeader::decode(input) else { return };
        read.set(read.get() + 1);
        assert!(header.encode().unwrap() == input[..len], "decode, then encode, is not identical");
        let mut pieces = &input[len..];
        let mut reader = DumpReader::new(&mut pieces, &[7; 32]).unwrap();
        assert!(reader.next_part().is_err(), "a piece under a key that nobody has used");
    });
    assert!(read.get() > 0, "none was read: this proves nothing");
}
