//! The vectors of home files and of a home's small values.

use data_encoding::HEXLOWER;
use vmcryptfs::error::Result;
use vmcryptfs::format::home_file::{BLOCK, BLOCK_LEN, FileId};
use vmcryptfs::format::manifest::{Entry, MANIFEST_ID, Manifest, ManifestVersion};
use vmcryptfs::key::Dek;
use vmcryptfs::storage::Storage;
use vmcryptfs::storage::memory::MemoryStorage;
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::home_file::{HomeFile, HomeKeys, Value, open_target, open_value};
use vmcryptfs::store::plain_file::{MAX_REQUEST, PlainFile};

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
    for vector in vectors("home-file", 55) {
        let (at, answer) = read(&vector);
        let Some(plain) = vector.judge(answer) else {
            assert_eq!(at, vector.get("at"), "{}", vector.name);
            continue;
        };
        assert_eq!(plain.len().to_string(), vector.get("plain_len"), "{}", vector.name);
        assert!(plain == vector.bodies.get(1).cloned().unwrap_or_default(), "{}: plaintext", vector.name);
    }
}

/// The lines that a vector has of a manifest.
fn manifest_fields(manifest: &Manifest) -> Vec<(String, String)> {
    let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
    let mut fields = vec![
        ("version", (manifest.version as u16).to_string()),
        ("uuid", manifest.home.hyphenated().to_string()),
        ("counter", manifest.counter.to_string()),
        ("open", if manifest.is_open { "yes" } else { "no" }.to_owned()),
        ("time", manifest.time.to_string()),
    ];
    fields.extend(
        manifest
            .logs
            .iter()
            .map(|end| ("log", format!("{} {} {} {}", end.class, end.sequence, hex(&end.hash), end.log))),
    );
    fields.extend(manifest.notes.iter().map(|note| ("note", format!("{} {}", note.time, note.text))));
    fields.extend(manifest.entries.iter().map(|Entry { path, kind, id, content, values }| {
        let line = [(*kind as u8).to_string(), hex(id), hex(content), hex(values), hex(path)].join(" ");
        ("entry", line.trim_end().to_owned())
    }));
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[test]
fn manifests_and_states_of_files() {
    for vector in vectors("manifest", 43) {
        let mut plain = vector.bodies[0].clone();
        if vector.get("what") != "manifest" {
            let storage = MemoryStorage::default();
            storage.write_at(0, &plain).unwrap();
            let file = HomeFile::open(storage, &keys(&vector)).unwrap();
            if vector.get("what") == "state" {
                assert_eq!(file.id().unwrap().0.as_slice(), vector.bytes("id"), "{}", vector.name);
                for (version, state) in [(ManifestVersion::First, "state_1"), (ManifestVersion::Second, "state")] {
                    let digest = file.state_digest(version).unwrap();
                    assert_eq!(digest.as_slice(), vector.bytes(state), "{}: {state}", vector.name);
                }
                continue;
            }
            assert_eq!(file.id(), Some(MANIFEST_ID));
            plain = file.read_at(0, MAX_REQUEST, &mut request_buffer()).unwrap().to_vec();
        }
        let home = vector.get("uuid").parse().unwrap();
        let Some(manifest) = vector.judge(Manifest::decode(&plain, home)) else { continue };
        assert_eq!(manifest_fields(&manifest), vector.fields_without(&["expect", "why", "what", "dek"]));
        assert_eq!(manifest.encode().unwrap(), plain, "{}", vector.name);
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
