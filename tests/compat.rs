//! Components of every version ever written open for ever: all of tests/stores, whose README says what they are.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod testkit;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use data_encoding::HEXLOWER;
use testkit::vector_file::{VectorFile, header_fields, read_folder, secret, tests_folder, unlock_with};
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::crypto::xts::Engine;
use vmcryptfs::dump::stream::{DumpReader, Part};
use vmcryptfs::format::dump::DumpHeader;
use vmcryptfs::format::header::{ComponentKind, Header, UnverifiedHeader};
use vmcryptfs::format::manifest::{MANIFEST_ID, Manifest};
use vmcryptfs::key::Dek;
use vmcryptfs::provider::Providers;
use vmcryptfs::storage::memory::MemoryStorage;
use vmcryptfs::storage::{FileStorage, Storage};
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::disk::LockedDisk;
use vmcryptfs::store::header_area;
use vmcryptfs::store::home_file::{HomeFile, HomeKeys};
use vmcryptfs::store::plain_file::{MAX_REQUEST, PlainFile};
use vmcryptfs::vm::disk::is_disk;

/// Versions of the format, and how many stores were made of each.
const VERSIONS: [(&str, usize); 1] = [("v1", 21)];

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
                "dump" => open_dump(&store),
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
    let of_provider = LocalKek::new(secret(&store.bytes("kek"))).unwrap();
    let kek = match &file_of(store, "kek_share") {
        Some(share) => of_provider.with_share(&share[32..64]).unwrap(),
        None => of_provider,
    };
    let dek = store.judge(unlock_with(header, kek)).expect("every store is ok");
    let header = header.clone().verify(&dek).unwrap();
    let others = ["expect", "why", "kek", "primary_key", "kek_share", "plain_len", "sha256", "manifest"];
    assert_eq!(header_fields(&header), store.fields_without(&others), "{}", store.name);
    (header, dek)
}

fn open_dump(store: &VectorFile) {
    let bytes = &store.bodies[0];
    let (header, len) = DumpHeader::decode(bytes).unwrap();
    assert_eq!(header.about.uuid.to_string(), store.get("uuid"));
    let dek = header.open_by_host_key(&LocalKek::new(secret(&store.bytes("kek"))).unwrap()).unwrap();
    let mut pieces = &bytes[len..];
    let mut reader = DumpReader::new(&mut pieces, &dek).unwrap();
    let mut plain = Vec::new();
    while let Some(part) = reader.next_part().unwrap() {
        match part {
            Part::Bytes(bytes) => plain.extend_from_slice(bytes),
            Part::Zeros(len) => plain.resize(plain.len() + usize::try_from(len).unwrap(), 0),
        }
    }
    assert!(!reader.is_cut());
    assert_eq!(plain.len().to_string(), store.get("plain_len"));
    assert_eq!(sha256(&plain).as_slice(), store.bytes("sha256"));
}

fn open_home(store: &VectorFile, dir: &Path) {
    let storage = FileStorage::new(backing_file(store, dir, "vmcryptfs.home"));
    let stored = header_area::load(&storage, ComponentKind::Home).unwrap();
    let (header, dek) = verified(store, &stored.header);
    let [_, manifest] = &store.bodies[..] else { return };
    let backing = MemoryStorage::default();
    backing.write_at(0, manifest).unwrap();
    let file = HomeFile::open(backing, &HomeKeys::new(&dek).unwrap()).unwrap();
    assert_eq!(file.id(), Some(MANIFEST_ID), "{}", store.name);
    let plain = file.read_at(0, MAX_REQUEST, &mut request_buffer()).unwrap().to_vec();
    assert_eq!(sha256(&plain).as_slice(), store.bytes("manifest"), "{}", store.name);
    assert!(!Manifest::decode(&plain, header.uuid).unwrap().entries.is_empty(), "{}", store.name);
}

fn open_disk(store: &VectorFile, dir: &Path) {
    let file = backing_file(store, dir, "disk.raw");
    assert!(is_disk(&file).unwrap(), "{}", store.name);
    let locked = LockedDisk::open(FileStorage::new(file)).unwrap();
    let (header, dek) = verified(store, &locked.stored().header);
    if let Some(primary) = file_of(store, "primary_key") {
        assert_eq!(dek_by_native(&primary, file_of(store, "kek_share"), &header, dir).bytes(), dek.bytes());
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

/// A file of the provider that a store has as one of its fields.
fn file_of(store: &VectorFile, field: &str) -> Option<Vec<u8>> {
    store.all(field).first().map(|file| HEXLOWER.decode(file.as_bytes()).unwrap())
}

fn dek_by_native(primary: &[u8], share: Option<Vec<u8>>, header: &Header, dir: &Path) -> Dek {
    let private = |name: &str, bytes: &[u8]| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(dir.join(name)).unwrap();
        file.write_all(bytes).unwrap();
    };
    let key_id = &header.slots[0].key_id;
    let mut config = format!("[provider.{}]\nkind = \"native\"\nprimary-key = \"primary\"\n", key_id.provider());
    private("primary", primary);
    if let Some(share) = share {
        private("share", &share);
        config += "kek-share = \"share\"\n";
    }
    private("config.toml", config.as_bytes());
    let providers = Providers::load(&dir.join("config.toml")).unwrap();
    providers.fetch(key_id).unwrap().unwrap(&header.slots[0].wrapped).unwrap()
}
