//! The vectors of home files and of a home's small values.

use data_encoding::HEXLOWER;
use vmcryptfs::error::Result;
use vmcryptfs::format::home_file::{BLOCK, BLOCK_LEN, FileId};
use vmcryptfs::key::Dek;
use vmcryptfs::storage::Storage;
use vmcryptfs::storage::memory::MemoryStorage;
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::home_file::{HomeFile, HomeKeys, Value, open_target, open_value};
use vmcryptfs::store::plain_file::PlainFile;

use crate::testkit::vector_file::{VectorFile, secret};
use crate::vectors;

fn keys(vector: &VectorFile) -> HomeKeys {
    HomeKeys::new(&Dek::new(secret(&vector.bytes("dek"))).unwrap()).unwrap()
}

/// All plaintext block by block, or where that failed.
fn read(vector: &VectorFile) -> (String, Result<Vec<u8>>) {
    let storage = MemoryStorage::default();
    storage.write_at(0, &vector.bodies[0]).unwrap();
    let file = match HomeFile::open(storage, &keys(vector)) {
        Ok(file) => file,
        Err(refusal) => return ("open".to_owned(), Err(refusal)),
    };
    let mut plain = Vec::new();
    for number in 0..file.plain_len().div_ceil(BLOCK) {
        match file.read_at(number * BLOCK, BLOCK_LEN, &mut request_buffer()) {
            Ok(block) => plain.extend_from_slice(block),
            Err(refusal) => return (format!("block {number}"), Err(refusal)),
        }
    }
    (String::new(), Ok(plain))
}

#[test]
fn home_files() {
    for vector in vectors("home-file", 46) {
        let (at, answer) = read(&vector);
        let Some(plain) = vector.judge(answer) else {
            assert_eq!(at, vector.get("at"), "{}", vector.name);
            continue;
        };
        assert_eq!(plain.len().to_string(), vector.get("plain_len"), "{}", vector.name);
        assert!(plain == vector.bodies.get(1).cloned().unwrap_or_default(), "{}: plaintext", vector.name);
    }
}

#[test]
fn small_values_of_a_home() {
    for vector in vectors("home-value", 13) {
        let keys = keys(&vector);
        let (opened, expected) = match vector.get("what") {
            "target" => (
                open_target(&keys, vector.get("text").as_bytes()),
                vector.all("target").first().map(|target| target.as_bytes().to_vec()),
            ),
            _ => {
                let file = vector
                    .all("file_id")
                    .first()
                    .map(|id| FileId(HEXLOWER.decode(id.as_bytes()).unwrap().try_into().unwrap()));
                let value = Value::Xattr { file, name: vector.get("name").as_bytes() };
                (
                    open_value(&keys, &value, &vector.bodies[0]),
                    vector.all("value").first().map(|value| HEXLOWER.decode(value.as_bytes()).unwrap()),
                )
            }
        };
        let Some(opened) = vector.judge(opened) else { continue };
        assert_eq!(opened, expected.unwrap_or_default(), "{}", vector.name);
    }
}
