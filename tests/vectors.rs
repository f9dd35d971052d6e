//! Every file under tests/vectors, against this implementation. The other one wrote them from docs/FORMAT.md only.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster_vectors;
mod dump_vectors;
mod home_vectors;
mod testkit;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use data_encoding::HEXLOWER;
use testkit::vector_file::{VectorFile, header_fields, read_folder, secret, tests_folder, unlock, unlock_with};
use uuid::Uuid;
use vmcryptfs::crypto::random;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::crypto::xts::Engine;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::format::disk_kind::DiskShape;
use vmcryptfs::format::erasure::{Erasure, MARK_LEN};
use vmcryptfs::format::header::{
    ComponentKind, DEFAULT_DATA_OFFSET, Header, Shape, Slot, Transition, TransitionId, UnverifiedHeader,
};
use vmcryptfs::format::journal;
use vmcryptfs::format::members::MembersKey;
use vmcryptfs::format::saved_header::SavedHeader;
use vmcryptfs::key::{Dek, Kek, KeyCheck, KeyId, ProviderName, WrappedDek};
use vmcryptfs::provider::KeyProvider;
use vmcryptfs::provider::backup::SealedBackup;
use vmcryptfs::provider::kinds::native::NativeProvider;
use vmcryptfs::provider::primary_key::PrimaryKey;
use vmcryptfs::provider::sealed_share::SealedShare;
use vmcryptfs::sector::{self, BLOCK_LEN, SectorIndex, SectorSize};
use vmcryptfs::storage::Storage;
use vmcryptfs::storage::memory::MemoryStorage;
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::disk::{self, Disk, LockedDisk};
use vmcryptfs::store::header_area::{self, OtherCopy};

fn vectors(folder: &str, floor: usize) -> Vec<VectorFile> {
    read_folder(&tests_folder().join("vectors").join(folder), floor)
}

#[test]
fn every_folder_of_vectors_has_a_test() {
    let entries = fs::read_dir(tests_folder().join("vectors")).unwrap().map(|entry| entry.unwrap());
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    let sets = [
        "cluster",
        "dump",
        "erasure",
        "header",
        "home-file",
        "home-value",
        "journal",
        "length",
        "manifest",
        "members",
        "native",
        "pair",
        "published", // by tests/vectors_published.rs
        "saved",
        "sectors",
        "wrap",
    ];
    assert_eq!(names, ["README.md"].into_iter().chain(sets).collect::<Vec<_>>());
}

#[test]
fn headers() {
    for vector in vectors("header", 135) {
        let copy = &vector.bodies[0];
        let (stage, answer) = match UnverifiedHeader::decode(copy) {
            Err(refusal) => ("decode", Err(refusal)),
            Ok(header) => ("unlock", unlock_all(&header, &vector.bytes("kek")).map(|dek| (header, dek))),
        };
        match vector.judge(answer) {
            None => assert_eq!(stage, vector.get("at"), "{}", vector.name),
            Some((unverified, dek)) => {
                assert_eq!(dek.bytes(), vector.bytes("dek"), "{}", vector.name);
                let header = unverified.verify(&dek).unwrap();
                let fields = vector.fields_without(&["expect", "why", "kek", "dek"]);
                assert_eq!(header_fields(&header), fields, "{}", vector.name);
                assert_eq!(header.encode(&dek).unwrap(), *copy, "{}", vector.name);
            }
        }
    }
}

/// The DEK of a header; of one in transition the old DEK must unwrap as well.
fn unlock_all(header: &UnverifiedHeader, kek: &[u8]) -> Result<Dek> {
    let dek = unlock(header, kek)?;
    match &header.claims().transition {
        Some(transition) => transition.old_dek(&dek).map(|_| dek),
        None => Ok(dek),
    }
}

#[test]
fn lists_of_disks() {
    for vector in vectors("members", 20) {
        let (home, copy) = (Uuid::from_slice(&vector.bytes("uuid")).unwrap(), &vector.bodies[0]);
        let key = MembersKey::new(home, &Dek::new(secret(&vector.bytes("dek"))).unwrap()).unwrap();
        let Some(list) = vector.judge(key.decode(copy)) else { continue };
        let names = list.disks.iter().flat_map(|(uuid, disk)| disk.names.iter().map(move |name| (uuid, disk, name)));
        let lines = names.map(|(uuid, disk, (path, is_own))| {
            let state = if *is_own { "own" } else { "changing" };
            let path = HEXLOWER.encode(path.as_os_str().as_encoded_bytes());
            format!("{} {} {} {state} {path}", HEXLOWER.encode(uuid.as_bytes()), disk.dek_generation, disk.sequence)
        });
        let fields = [("sequence".to_owned(), list.sequence.to_string())];
        let fields: Vec<_> = fields.into_iter().chain(lines.map(|line| ("disk".to_owned(), line))).collect();
        assert_eq!(fields, vector.fields_without(&["expect", "why", "dek", "uuid"]), "{}", vector.name);
        assert_eq!(key.encode(&list).unwrap(), *copy, "{}", vector.name);
    }
}

#[test]
fn records_of_a_journal() {
    for vector in vectors("journal", 24) {
        let id = TransitionId(vector.bytes("id").try_into().unwrap());
        let uuid = Uuid::from_slice(&vector.bytes("uuid")).unwrap();
        let transition = Transition { id, old: None };
        let key = transition.journal_key(&Dek::new(secret(&vector.bytes("dek"))).unwrap()).unwrap();
        let mut head = [0; journal::HEAD_LEN];
        let (given, table) = vector.bodies[0].split_at(journal::HEAD_LEN.min(vector.bodies[0].len()));
        head[..given.len()].copy_from_slice(given);
        let read = journal::UnverifiedRecord::decode(&head).and_then(|record| {
            let table = table.get(..record.table_len()).unwrap_or(table);
            record.verify(table, uuid, id, &key)
        });
        let Some(record) = vector.judge(read) else { continue };
        assert_eq!(record.sequence.to_string(), vector.get("sequence"), "{}", vector.name);
        assert_eq!(record.cursor.to_string(), vector.get("cursor"), "{}", vector.name);
        let marks: Vec<String> = record.table.iter().map(|mark| HEXLOWER.encode(mark)).collect();
        assert_eq!(marks, vector.all("mark"), "{}", vector.name);
        assert_eq!(record.encode(&key).unwrap(), vector.bodies[0], "{}", vector.name);
    }
}

fn kind_of(vector: &VectorFile) -> ComponentKind {
    let kinds = [ComponentKind::Home, ComponentKind::Disk];
    kinds.into_iter().find(|kind| kind.word() == vector.get("kind")).expect("home or disk")
}

#[test]
fn pairs_of_copies() {
    for vector in vectors("pair", 37) {
        let storage = MemoryStorage::default();
        for (offset, copy) in kind_of(&vector).copy_offsets().into_iter().zip(&vector.bodies) {
            storage.write_at(offset, copy).unwrap();
        }
        let Some(stored) = vector.judge(header_area::load(&storage, kind_of(&vector))) else { continue };
        let used = match (&stored.other, stored.in_use) {
            (OtherCopy::Same, _) => "either",
            (OtherCopy::Older(_) | OtherCopy::Damaged(_), 0) => "first",
            (OtherCopy::Older(_) | OtherCopy::Damaged(_), _) => "second",
        };
        assert_eq!(used, vector.get("use"), "{}", vector.name);
        assert_eq!(stored.header.claims().sequence.to_string(), vector.get("sequence"), "{}", vector.name);
    }
}

#[test]
fn marks_of_erased_components() {
    for vector in vectors("erasure", 22) {
        let bytes = &vector.bodies[0];
        let read = Erasure::decode(bytes).ok_or_else(|| Error::new(Kind::Invalid, "no mark"));
        let Some(mark) = vector.judge(read) else { continue };
        assert_eq!(mark.kind, kind_of(&vector), "{}", vector.name);
        assert_eq!(mark.uuid.unwrap_or_default().to_string(), vector.get("uuid"), "{}", vector.name);
        assert_eq!(mark.time.since_1970().as_secs().to_string(), vector.get("time"), "{}", vector.name);
        assert_eq!(mark.encode().unwrap(), bytes[..MARK_LEN], "{}", vector.name);
        let refusal = UnverifiedHeader::decode(bytes).unwrap_err();
        assert_eq!(refusal.kind(), Kind::KeyUnavailable, "{}", vector.name);
    }
}

#[test]
fn saved_headers() {
    for vector in vectors("saved", 16) {
        if let Some(saved) = vector.judge(SavedHeader::decode(&vector.bodies[0])) {
            let mut fields = header_fields(saved.header.claims());
            fields.insert(0, ("time".into(), saved.time.since_1970().as_secs().to_string()));
            assert_eq!(fields, vector.fields_without(&["expect", "why"]), "{}", vector.name);
            assert_eq!(saved.encode().unwrap(), vector.bodies[0], "{}", vector.name);
        }
    }
}

/// A header with one slot.
fn header(shape: Shape, slot: Slot) -> Header {
    Header::new(Uuid::from_bytes([7; 16]), shape, String::new(), slot)
}

fn slot(check: KeyCheck, wrapped: Vec<u8>) -> Slot {
    let key_id = KeyId::new(ProviderName::new("local").unwrap(), "vector-key").unwrap();
    Slot { key_id, check, wrapped: WrappedDek(wrapped) }
}

fn disk_shape(sector_size: SectorSize) -> Shape {
    Shape::Disk(DiskShape::new(sector_size))
}

#[test]
fn wrapped_deks() {
    for vector in vectors("wrap", 19) {
        let (shape, any_dek) = match kind_of(&vector) {
            ComponentKind::Home => (Shape::Home, random::home_dek().unwrap()),
            ComponentKind::Disk => (disk_shape(SectorSize::DEFAULT), random::disk_dek().unwrap()),
        };
        let slot = slot(KeyCheck(vector.bytes("check").try_into().unwrap()), vector.bodies[0].clone());
        // The HMAC of what is refused is never asked for.
        let good = vector.get("expect") == "ok";
        let dek = if good { Dek::new(secret(&vector.bytes("dek"))).unwrap() } else { any_dek };
        let copy = header(shape, slot).encode(&dek).unwrap();
        let kek = || {
            let of_provider = LocalKek::new(secret(&vector.bytes("kek"))).unwrap();
            match vector.all("share")[..] {
                [share] => of_provider.with_share(&HEXLOWER.decode(share.as_bytes()).unwrap()).unwrap(),
                _ => of_provider,
            }
        };
        let unlocked = unlock_with(&UnverifiedHeader::decode(&copy).unwrap(), kek());
        if let Err(error) = &unlocked {
            // A check whose second half was changed looks the same.
            let names = ["share-wrong", "share-missing", "share-needless", "check-wrong"];
            let of_share = names.iter().any(|name| vector.name.contains(name));
            assert_eq!(error.chain().contains("the kek-share is not"), of_share, "{}: {}", vector.name, error.chain());
        }
        if let Some(unlocked) = vector.judge(unlocked) {
            assert_eq!(unlocked.bytes(), vector.bytes("dek"), "{}", vector.name);
            assert_eq!(kek().wrap(&dek).unwrap().0, vector.bodies[0], "{}", vector.name);
        } else if vector.get("expect") == "corrupt" {
            assert!(kek().unwrap(&WrappedDek(vector.bodies[0].clone())).is_err(), "{}: not for its slot", vector.name);
        }
    }
}

/// A part of a disk, in plaintext and in ciphertext.
struct Range<'v> {
    vector: &'v VectorFile,
    dek: Dek,
    sector_size: SectorSize,
    plain_len: u64,
    offset: u64,
    plain: &'v [u8],
    cipher: &'v [u8],
}

impl<'v> Range<'v> {
    fn of(vector: &'v VectorFile) -> Self {
        let number = |name| vector.get(name).parse::<u64>().unwrap();
        let [plain, cipher] = &vector.bodies[..] else { panic!("{}: not two byte strings", vector.name) };
        let sector_size = SectorSize::new(u32::try_from(number("sector_size")).unwrap()).unwrap();
        assert_eq!(number("offset") / sector_size.bytes(), number("first_sector"), "{}", vector.name);
        Self {
            vector,
            dek: Dek::new(secret(&vector.bytes("dek"))).unwrap(),
            sector_size,
            plain_len: number("plain_len"),
            offset: number("offset"),
            plain,
            cipher,
        }
    }

    /// The storage of an empty disk with this DEK.
    fn storage(&self) -> MemoryStorage {
        let storage = MemoryStorage::default();
        let header = header(disk_shape(self.sector_size), slot(KeyCheck([0; 8]), vec![0; 72]));
        disk::create(&storage, &header, &self.dek).unwrap();
        storage
    }

    fn open<'s>(&self, storage: &'s MemoryStorage) -> Box<dyn Disk<&'s MemoryStorage> + 's> {
        LockedDisk::open(storage).unwrap().unlock(&self.dek, Engine::default()).unwrap()
    }

    fn reads(&self) {
        let storage = self.storage();
        storage.set_len(DEFAULT_DATA_OFFSET + sector::cipher_len(self.plain_len)).unwrap();
        storage.write_at(DEFAULT_DATA_OFFSET + self.offset, self.cipher).unwrap();
        let disk = self.open(&storage);
        assert_eq!(disk.plain_len(), self.plain_len, "{}", self.vector.name);
        let mut buffer = request_buffer();
        let read = disk.read_at(self.offset, self.plain.len(), &mut buffer).unwrap();
        assert_eq!(read, self.plain, "{}", self.vector.name);
    }

    fn writes(&self, disk: &dyn Disk<&MemoryStorage>) {
        disk.write_at(self.offset, self.plain, &mut request_buffer()).unwrap();
        let storage = disk.storage();
        let at = DEFAULT_DATA_OFFSET + self.offset;
        let mut stored = vec![0; self.cipher.len()];
        assert_eq!(storage.read_at(at, &mut stored).unwrap(), stored.len());
        assert_eq!(stored, self.cipher, "{}", self.vector.name);
        if self.offset + self.plain.len() as u64 == self.plain_len {
            assert_eq!(storage.len().unwrap(), at + self.cipher.len() as u64, "{}", self.vector.name);
        }
    }

    /// Only the engines, from the start of the first sector on.
    fn encrypts(&self) {
        let first = self.offset / self.sector_size.bytes();
        let skip = usize::try_from(self.offset % self.sector_size.bytes()).unwrap();
        let end = skip + self.plain.len().next_multiple_of(BLOCK_LEN);
        for engine in Engine::available() {
            let mut data = [&vec![0; skip], self.plain].concat();
            data.resize(end, 0);
            let padded = data.clone();
            let cipher = engine.cipher(&self.dek).unwrap();
            cipher.encrypt_in_place(SectorIndex(first), self.sector_size, &mut data).unwrap();
            assert_eq!(data[skip..], self.cipher[..end - skip], "{} by {engine}", self.vector.name);
            cipher.decrypt_in_place(SectorIndex(first), self.sector_size, &mut data).unwrap();
            assert_eq!(data, padded, "{} by {engine}", self.vector.name);
        }
    }
}

#[test]
fn sectors_and_holes() {
    for vector in vectors("sectors", 30) {
        vector.judge(Ok(()));
        let range = Range::of(&vector);
        range.reads();
        if vector.get("direction") == "both" {
            range.encrypts();
            let storage = range.storage();
            let grown_first = range.open(&storage);
            grown_first.set_len(range.plain_len).unwrap();
            range.writes(grown_first.as_ref());
            let storage = range.storage();
            let grown_by_the_write = range.open(&storage);
            range.writes(grown_by_the_write.as_ref());
        }
    }
}

/// Lengths of a disk's file, beyond where its data begin.
#[test]
fn lengths() {
    let mut rows = 0;
    let two = |row: &str| {
        let (left, right) = row.split_once(' ').expect("two numbers");
        (left.parse::<i64>().unwrap(), right.parse::<u64>().unwrap())
    };
    let (dek, shape) = (random::disk_dek().unwrap(), disk_shape(SectorSize::DEFAULT));
    let storage = MemoryStorage::default();
    disk::create(&storage, &header(shape, slot(KeyCheck([0; 8]), vec![0; 72])), &dek).unwrap();
    let reopen = || LockedDisk::open(&storage).and_then(|locked| locked.unlock(&dek, Engine::default()));
    for vector in vectors("length", 7) {
        for (plain_len, beyond) in vector.all("length").into_iter().map(two) {
            let plain_len = u64::try_from(plain_len).unwrap();
            reopen().unwrap().set_len(plain_len).unwrap();
            assert_eq!(storage.len().unwrap(), DEFAULT_DATA_OFFSET + beyond, "of {plain_len}");
            assert_eq!(reopen().unwrap().plain_len(), plain_len);
            rows += 1;
        }
        for (beyond, plain_len) in vector.all("read").into_iter().map(two) {
            storage.set_len(DEFAULT_DATA_OFFSET.checked_add_signed(beyond).unwrap()).unwrap();
            if let Some(found) = vector.judge(reopen().map(|disk| disk.plain_len())) {
                assert_eq!(found, plain_len, "of {beyond}");
            }
            storage.set_len(DEFAULT_DATA_OFFSET).unwrap();
            rows += 1;
        }
    }
    assert!(rows >= 34, "{rows} rows");
}

/// A file as the native provider demands it: only for its owner.
fn private_file(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn files_and_key_ids_of_the_native_provider() {
    for vector in vectors("native", 69) {
        match vector.get("what") {
            "primary-key" => primary_key(&vector),
            "key-id" => key_id(&vector),
            "backup" => backup(&vector),
            "sealed-share" => sealed_share(&vector),
            what => panic!("{}: {what}", vector.name),
        }
    }
}

fn load_primary(vector: &VectorFile) -> Result<PrimaryKey> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local.key");
    private_file(&path, &vector.bodies[0]);
    PrimaryKey::load(&path)
}

fn primary_key(vector: &VectorFile) {
    let loaded = load_primary(vector);
    let Some(uuid) = vector.judge(loaded.as_ref().map(PrimaryKey::uuid).map_err(copy_of)) else { return };
    assert_eq!(uuid.to_string(), vector.get("uuid"), "{}", vector.name);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written.key");
    loaded.unwrap().create(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), vector.bodies[0], "{}", vector.name);
    assert_eq!(vector.bodies[0][32..64], vector.bytes("key"), "{}", vector.name);
}

fn sealed_share(vector: &VectorFile) {
    let Some(share) = vector.judge(SealedShare::decode(&vector.bodies[0])) else { return };
    assert_eq!(share.uuid().to_string(), vector.get("uuid"), "{}", vector.name);
    let (root, pcrs, private, public) = share.parts();
    let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
    let found = [hex(&root), pcrs.to_string(), hex(private), hex(public)];
    assert_eq!(found, ["root", "pcrs", "private", "public"].map(|name| vector.get(name)), "{}", vector.name);
    assert_eq!(share.encode().unwrap(), vector.bodies[0], "{}", vector.name);
}

fn copy_of(error: &Error) -> Error {
    Error::new(error.kind(), error.chain())
}

fn key_id(vector: &VectorFile) {
    let name = ProviderName::new("local").unwrap();
    let provider = NativeProvider::new(name.clone(), load_primary(vector).unwrap());
    let fetched = KeyId::new(name, vector.get("key_id")).and_then(|id| provider.fetch_key(&id));
    let Some(wrapped) = vector.judge(fetched.and_then(|kek| kek.wrap(&Dek::new(secret(&[5; 32]))?))) else { return };
    let kek = LocalKek::new(secret(&vector.bytes("kek"))).unwrap();
    assert_eq!(kek.unwrap(&wrapped).unwrap().bytes(), [5; 32], "{}", vector.name);
}

fn backup(vector: &VectorFile) {
    let sealed = SealedBackup::decode(&vector.bodies[0]);
    let opened = sealed.and_then(|sealed| {
        let named = vector
            .all("provider")
            .first()
            .is_none_or(|name| sealed.expect_provider(&ProviderName::new(*name).unwrap()).is_ok());
        assert!(named, "{}: of another provider", vector.name);
        sealed.open(vector.get("passphrase").as_bytes())
    });
    let uuid = opened.as_ref().map(|backup| backup.primary_uuid()).map_err(copy_of);
    let Some(uuid) = vector.judge(uuid) else { return };
    assert_eq!(uuid.to_string(), vector.get("uuid"), "{}", vector.name);
    let dir = tempfile::tempdir().unwrap();
    let provider = ProviderName::new(vector.get("provider")).unwrap();
    let restored = opened.unwrap().restore(&dir.path().join("config.toml"), &provider).unwrap();
    assert_eq!(fs::read(&restored).unwrap()[32..64], vector.bytes("key"), "{}", vector.name);
}
