//! Components of every version ever written open for ever: all of tests/stores, whose README says what they are.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod testkit;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use testkit::vector_file::{VectorFile, header_fields, read_folder, tests_folder, unlock};
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::xts::Engine;
use vmcryptfs::format::header::{ComponentKind, Header, UnverifiedHeader};
use vmcryptfs::key::Dek;
use vmcryptfs::provider::KeyProvider;
use vmcryptfs::provider::kinds::native::NativeProvider;
use vmcryptfs::provider::primary_key::PrimaryKey;
use vmcryptfs::storage::FileStorage;
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::disk::LockedDisk;
use vmcryptfs::store::header_area;
use vmcryptfs::store::plain_file::MAX_REQUEST;
use vmcryptfs::vm::disk::is_disk;

/// Versions of the format, and how many stores were made of each.
const VERSIONS: [(&str, usize); 1] = [("v1", 18)];

#[test]
fn every_version_is_in_the_table() {
    let entries = fs::read_dir(tests_folder().join("stores")).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().into_string().unwrap());
    let mut folders: Vec<String> = folders.collect();
    folders.sort();
    assert_eq!(folders, VERSIONS.map(|(version, _)| version));
}

#[test]
fn every_store_ever_made_opens() {
    for (version, count) in VERSIONS {
        for store in read_folder(&tests_folder().join("stores").join(version), count) {
            let dir = tempfile::tempdir().unwrap();
            match store.get("kind") {
                "disk" => open_disk(&store, dir.path()),
                "home" => open_home(&store, dir.path()),
                kind => panic!("{}: kind {kind}", store.name),
            }
        }
    }
}

/// The backing file, sparse again.
fn backing_file(store: &VectorFile, dir: &Path, name: &str) -> File {
    let bytes = &store.bodies[0];
    let file = File::options().read(true).write(true).create_new(true).open(dir.join(name)).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (chunk, at) in bytes.chunks(4096).zip((0..).step_by(4096)) {
        if chunk.iter().any(|&byte| byte != 0) {
            file.write_all_at(chunk, at).unwrap();
        }
    }
    file
}

fn verified(store: &VectorFile, header: &UnverifiedHeader) -> (Header, Dek) {
    let dek = store.judge(unlock(header, &store.bytes("kek"))).expect("every store is ok");
    let header = header.clone().verify(&dek).unwrap();
    let others = ["expect", "why", "kek", "primary_key", "plain_len", "sha256"];
    assert_eq!(header_fields(&header), store.fields_without(&others), "{}", store.name);
    (header, dek)
}

fn open_home(store: &VectorFile, dir: &Path) {
    let storage = FileStorage::new(backing_file(store, dir, "vmcryptfs.home"));
    let stored = header_area::load(&storage, ComponentKind::Home).unwrap();
    verified(store, &stored.header);
}

fn open_disk(store: &VectorFile, dir: &Path) {
    let file = backing_file(store, dir, "disk.raw");
    assert!(is_disk(&file).unwrap(), "{}", store.name);
    let locked = LockedDisk::open(FileStorage::new(file)).unwrap();
    let (header, dek) = verified(store, &locked.stored().header);
    for primary in store.all("primary_key") {
        assert_eq!(dek_by_native(&HEXLOWER.decode(primary.as_bytes()).unwrap(), &header, dir).bytes(), dek.bytes());
    }
    let disk = locked.unlock(&dek, Engine::default()).unwrap();
    let mut buffer = request_buffer();
    let mut plain = Vec::new();
    while (plain.len() as u64) < disk.plain_len() {
        plain.extend_from_slice(disk.read_at(plain.len() as u64, MAX_REQUEST, &mut buffer).unwrap());
    }
    assert_eq!(plain.len().to_string(), store.get("plain_len"), "{}", store.name);
    assert_eq!(sha256(&plain).as_slice(), store.bytes("sha256"), "{}", store.name);
}

fn dek_by_native(primary: &[u8], header: &Header, dir: &Path) -> Dek {
    let path = dir.join("local.key");
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    file.write_all(primary).unwrap();
    let key_id = &header.slots[0].key_id;
    let provider = NativeProvider::new(key_id.provider().clone(), PrimaryKey::load(&path).unwrap());
    provider.fetch_key(key_id).unwrap().unwrap(&header.slots[0].wrapped).unwrap()
}
