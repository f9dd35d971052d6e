//! The other implementation as the judge: what this one writes, `scripts/vectors.py` must decrypt, and the other way round.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod testkit;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use testkit::datastore::Datastore;
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::crypto::xts::Engine;
use vmcryptfs::format::header::HOME_FILE;
use vmcryptfs::key::{Kek, KeyId};
use vmcryptfs::sector::SectorSize;
use vmcryptfs::storage::claims::FileLocks;
use vmcryptfs::storage::{Access, BackingIo, FileStorage};
use vmcryptfs::store::buffer::request_buffer;
use vmcryptfs::store::disk::Disk;
use vmcryptfs::store::header_area::StoredHeader;
use vmcryptfs::vm::disk::{self as vm_disk, NewDisk};
use vmcryptfs::vm::folder;
use vmcryptfs::vm::keyring::Keyring;
use vmcryptfs::vm::owner::Owner;

/// Runs `scripts/vectors.py` and gives what it prints. Python and its module are needed, not optional: a skipped oracle
/// would pass.
fn vectors_py(args: &[&dyn AsRef<OsStr>]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/vectors.py");
    let mut python = Command::new("python3");
    let output = python.arg(script).args(args.iter().map(|arg| arg.as_ref())).output();
    let output = output.unwrap_or_else(|error| panic!("this test needs python3 (package python3): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    let no_module = errors.contains("ModuleNotFoundError");
    assert!(!no_module, "this test needs Python's cryptography module (package python3-cryptography):\n{errors}");
    assert!(output.status.success() && errors.is_empty(), "{python:?}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A VM folder under a native provider, made by this implementation.
struct Vm {
    store: Datastore,
    keyring: Keyring,
    key_id: KeyId,
    kek: Arc<dyn Kek>,
    kek_hex: String,
}

impl Vm {
    fn new() -> Self {
        let store = Datastore::new(&[]);
        let key_id = store.make_vm("web01").slots[0].key_id.clone();
        let providers = store.providers();
        let provider = providers.provider(key_id.provider()).unwrap();
        let kek = provider.fetch_key(&key_id).unwrap();
        // The other implementation finds the KEK by itself: from the primary key file and the key id.
        let kek_hex = vectors_py(&[&"native-kek", &store.beside("keys/local.key"), &key_id.id()]);
        Self { keyring: Keyring::new(providers), key_id, kek, kek_hex: kek_hex.trim().to_owned(), store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.store.path("web01").join(name)
    }

    fn home(&self) -> StoredHeader {
        folder::read_home(&folder::open_dir(&self.path("")).unwrap()).unwrap().unwrap()
    }

    fn owner(&self) -> Uuid {
        self.home().header.claims().uuid
    }

    fn create(&self, name: &str, sector_size: SectorSize, plain_len: u64) -> Box<dyn Disk<FileStorage>> {
        let new = NewDisk {
            owner: Some(self.owner()),
            sector_size,
            plain_len,
            label: "Köln".into(),
            mode: 0o600,
            durable: true,
        };
        let dir = folder::open_dir(&self.path("")).unwrap();
        let (file, ..) =
            vm_disk::create(&dir, OsStr::new(name), &new, (&self.key_id, self.kek.as_ref()), |_| Ok(())).unwrap();
        drop(file);
        self.open(&self.path(name))
    }

    fn open(&self, path: &Path) -> Box<dyn Disk<FileStorage>> {
        let file = File::options().read(true).write(true).open(path).unwrap();
        assert!(vm_disk::is_disk(&file).unwrap(), "{}", path.display());
        let home = self.home().header;
        let dek = self.keyring.dek(&home).unwrap();
        let dir = folder::open_dir(&self.path("")).unwrap();
        let owner = Owner::of(&dir, (&home.verify(&dek).unwrap(), &dek), &FileLocks, self.keyring.memory()).unwrap();
        let keys = (&self.keyring, &owner, &[][..]); // wherever it lies
        vm_disk::open(FileStorage::new(file), Access::Write, keys, Engine::default(), BackingIo::Buffered).unwrap().0
    }

    /// What the other implementation reads from a disk.
    fn decrypted(&self, path: &Path) -> Vec<u8> {
        let out = self.store.beside("plain.out");
        let said = vectors_py(&[&"decrypt", &path, &"--kek-hex", &self.kek_hex, &"--out", &out]);
        let plain = fs::read(out).unwrap();
        assert_eq!(said, format!("plain_len: {}\nsha256: {}\n", plain.len(), HEXLOWER.encode(&sha256(&plain))));
        plain
    }
}

/// A disk and the bytes that must be in it.
struct Model {
    disk: Box<dyn Disk<FileStorage>>,
    bytes: Vec<u8>,
    seed: u8,
}

fn index(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

impl Model {
    fn write(&mut self, at: u64, len: usize) {
        self.seed += 1;
        let data: Vec<u8> =
            (0..len).map(|n| sha256(&[self.seed, u8::try_from(n / 32 % 256).unwrap()])[n % 32]).collect();
        self.disk.write_at(at, &data, &mut request_buffer()).unwrap();
        self.bytes.resize(self.bytes.len().max(index(at) + len), 0);
        self.bytes[index(at)..index(at) + len].copy_from_slice(&data);
    }

    fn set_len(&mut self, len: u64) {
        self.disk.set_len(len).unwrap();
        self.bytes.resize(index(len), 0);
    }

    fn clear(&mut self, at: u64, len: u64, punch: bool) {
        let mut buffer = request_buffer();
        match punch {
            true => self.disk.punch(at, len, &mut buffer).unwrap(),
            false => self.disk.zero(at, len, &mut buffer).unwrap(),
        }
        self.bytes[index(at)..index(at + len)].fill(0);
    }
}

/// Everything that shapes ciphertext: whole and partial writes, holes of each size, ends in and out of blocks, discards.
fn work(model: &mut Model, check: &dyn Fn(&Model, &str)) {
    model.write(0, 4096);
    model.write(10_000, 5000);
    check(model, "writes with a hole between");
    model.write(16_384 + 512, 512);
    model.write(20_480 + 700, 7);
    check(model, "one unit of a sector, a few bytes of a unit");
    model.set_len(20_480 + 701);
    check(model, "shrunk into what was written, to an end within a block");
    model.set_len(20_480 + 705);
    model.set_len(70_001);
    check(model, "grown by holes");
    model.write(70_000, 100);
    check(model, "written over the end");
    model.clear(512, 1024, true);
    model.clear(10_100, 3000, true);
    model.clear(11, 33, false);
    check(model, "discarded");
    model.write(4000, 9000);
    model.write(1_000_003, 1);
    check(model, "written into holes, and far behind the end");
    model.set_len(512);
    model.set_len(600);
    check(model, "shrunk and grown within the second unit");
}

#[test]
fn the_other_implementation_reads_what_this_one_writes() {
    let vm = Vm::new();
    for sector_size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        for plain_len in [0, 5000] {
            let name = format!("{}-{plain_len}.raw", sector_size.bytes());
            let mut model =
                Model { disk: vm.create(&name, sector_size, plain_len), bytes: vec![0; index(plain_len)], seed: 0 };
            let check = |model: &Model, step: &str| {
                model.disk.sync().unwrap();
                assert!(vm.decrypted(&vm.path(&name)) == model.bytes, "{name}, {step}: the plaintexts differ");
            };
            check(&model, "new");
            work(&mut model, &check);
        }
    }
}

#[test]
fn this_implementation_reads_what_the_other_writes() {
    let vm = Vm::new();
    for sector_size in [SectorSize::SMALL, SectorSize::DEFAULT] {
        for plain_len in [0_usize, 1, 512, 4096, 100_003] {
            let (plain, path) = (vm.store.beside("plain"), vm.path(&format!("{sector_size:?}-{plain_len}.raw")));
            let mut bytes: Vec<u8> = (0..plain_len).map(|n| sha256(&n.to_string().into_bytes())[0]).collect();
            bytes[plain_len / 3..plain_len / 2].fill(0);
            fs::write(&plain, &bytes).unwrap();
            vectors_py(&[
                &"encrypt",
                &plain,
                &path,
                &"--kek-hex",
                &vm.kek_hex,
                &"--provider",
                &"local",
                &"--key-id",
                &vm.key_id.id(),
                &"--sector-size",
                &sector_size.bytes().to_string(),
                &"--data-offset",
                &(9 << 20).to_string(),
                &"--owner",
                &vm.owner().to_string(),
            ]);
            let mut model = Model { disk: vm.open(&path), bytes, seed: 100 };
            let mut buffer = request_buffer();
            let read = model.disk.read_at(0, plain_len + 1, &mut buffer).unwrap();
            assert!(read == model.bytes, "{}: the plaintexts differ", path.display());
            if plain_len < 100_000 {
                continue;
            }
            // And it goes on being a disk for both.
            work(&mut model, &|model, step| {
                assert!(vm.decrypted(&path) == model.bytes, "{}, {step}: the plaintexts differ", path.display());
            });
        }
    }
}

#[test]
fn headers_of_this_implementation_are_authentic_to_the_other() {
    let vm = Vm::new();
    vm.create("root.raw", SectorSize::DEFAULT, 1 << 20);
    for (path, kind) in [(vm.path(HOME_FILE), "kind: home\n"), (vm.path("root.raw"), "label: Köln\n")] {
        let said = vectors_py(&[&"info", &path, &"--kek-hex", &vm.kek_hex]);
        assert!(said.contains(kind) && said.contains(vm.key_id.id()), "{said}");
        assert!(said.contains("first_copy: sequence 1, in use\nsecond_copy: sequence 1, in use\n"), "{said}");
        assert!(said.ends_with("authentic: yes\n"), "{said}");
    }
}
