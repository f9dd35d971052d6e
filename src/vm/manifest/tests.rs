//! Manifests of a home on disk: what they prove, by which version, and what it costs to look.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::format::home_file::{BLOCK, BlockIndex, HEADER_LEN, Place};
use crate::progress::to_the_end;
use crate::store::buffer::request_buffer;
use crate::vm::datastore::Datastore;
use crate::vm::keyring;

/// A home with two files: a hole and one block, and a file that is empty.
struct Vm {
    ds: Datastore,
    dir: File,
    header: Header,
    keys: HomeKeys,
    memory: Arc<Memory>,
}

impl Vm {
    fn new() -> Self {
        let ds = Datastore::new(&["vm"]);
        let dir = File::open(ds.path("vm")).unwrap();
        let (stored, providers) = (folder::read_home(&dir).unwrap().unwrap(), ds.providers());
        let dek = keyring::unlock_by(&stored.header, &providers).unwrap();
        let header = stored.header.verify(&dek).unwrap();
        let (keys, memory) = (HomeKeys::of(&header, &dek).unwrap(), Memory::of(&providers));
        let vm = Self { ds, dir, header, keys, memory };
        vm.write(BLOCK, &[7; 4096]);
        fs::write(vm.path("empty"), b"").unwrap();
        vm
    }

    fn path(&self, name: &str) -> PathBuf {
        self.ds.path("vm").join(name)
    }

    /// Writes to the first file, durably.
    fn write(&self, at: u64, data: &[u8]) {
        let backing = File::options().read(true).write(true).create(true).truncate(false).open(self.path("file"));
        let file = HomeFile::open(FileStorage::new(backing.unwrap()), &self.keys).unwrap();
        file.write_at(at, data, &mut request_buffer()).unwrap();
        file.sync().unwrap();
    }

    fn backing(&self, name: &str) -> File {
        File::options().read(true).write(true).open(self.path(name)).unwrap()
    }

    fn tree(&self) -> HomeTree<'_> {
        let Self { dir, header, keys, memory, .. } = self;
        HomeTree { dir, header, keys, memory, go_on: &to_the_end }
    }

    fn found(&self) -> Vec<String> {
        self.tree().prove().unwrap().findings
    }

    /// Makes a manifest that says what is there.
    fn seal(&self, version: ManifestVersion) {
        let (tree, home) = (self.tree(), self.header.uuid);
        let counter = self.memory.manifest_counter(home).unwrap_or(0) + 1;
        let (logs, notes, entries) = (Vec::new(), Vec::new(), tree.look(version).unwrap());
        let manifest = Manifest { version, home, counter, is_open: false, time: 1, logs, notes, entries };
        tree.store(&manifest, &self.keys).unwrap();
        assert!(self.found().is_empty());
    }
}

/// What `attack` does is found by a manifest of the second version; one of the first has always agreed with it, and does so for ever.
fn shows_by_the_second_version(name: &str, words: &str, attack: impl Fn(&Vm)) {
    for version in [ManifestVersion::First, ManifestVersion::Second] {
        let vm = Vm::new();
        vm.seal(version);
        attack(&vm);
        let expected = if version == ManifestVersion::First { Vec::new() } else { vec![format!("{name} {words}")] };
        assert_eq!(vm.found(), expected);
    }
}

const ANOTHER_VERSION: &str = "is another version of the file, older or newer";

#[test]
fn zeros_past_the_filled_length_of_a_file_show() {
    shows_by_the_second_version("file", ANOTHER_VERSION, |vm| {
        let place = BlockIndex(1).cipher_offset(Place::Main);
        vm.backing("file").write_all_at(&[0; 4096], place).unwrap();
    });
}

#[test]
fn a_header_that_was_put_back_shows() {
    shows_by_the_second_version("file", ANOTHER_VERSION, |vm| {
        let mut old = [0; HEADER_LEN];
        let backing = vm.backing("file");
        backing.read_exact_at(&mut old, 0).unwrap();
        vm.write(0, &[8; 4096]);
        vm.seal(vm.tree().load().unwrap().unwrap().version);
        let zeros = BlockIndex(0).cipher_offset(Place::Main);
        backing.write_all_at(&old, 0).unwrap();
        backing.write_all_at(&[0; 4096], zeros).unwrap();
    });
}

#[test]
fn an_empty_file_that_got_a_length_shows() {
    shows_by_the_second_version("empty", ANOTHER_VERSION, |vm| vm.backing("empty").set_len(1000).unwrap());
}

/// What changed a home under a manifest of the first version leaves one of the second, and what others did under the first is noted.
#[test]
fn a_manifest_of_the_first_version_is_replaced_and_loses_nothing() {
    let vm = Vm::new();
    vm.seal(ManifestVersion::First);
    let proof = vm.tree().prove().unwrap();
    fs::remove_file(vm.path("empty")).unwrap();
    vm.tree().seal(Purpose::Open, &proof).unwrap();
    vm.write(0, &[8; 100]);
    vm.tree().seal(Purpose::Close, &proof).unwrap();
    let manifest = vm.tree().load().unwrap().unwrap();
    assert_eq!(manifest.version, ManifestVersion::Second);
    let notes: Vec<&str> = manifest.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(notes, ["empty was removed"]);
}

/// Whatever lies in the manifest's place is found, and gives way to a new one; but what a folder holds is not removed.
#[test]
fn what_lies_in_the_place_of_a_manifest_gives_way_to_one_that_notes_it() {
    type Put = fn(&Path);
    let puts: [(&str, Put); 3] = [
        ("a folder", |place| fs::create_dir(place).unwrap()),
        ("a fifo", |place| rustix::fs::mkfifoat(rustix::fs::CWD, place, Mode::from_raw_mode(0o600)).unwrap()),
        ("a symbolic link", |place| std::os::unix::fs::symlink("/etc/passwd", place).unwrap()),
    ];
    for (what, put) in puts {
        for accepts in [false, true] {
            let vm = Vm::new();
            vm.seal(ManifestVersion::Second);
            fs::remove_file(vm.path(MANIFEST_FILE)).unwrap();
            put(&vm.path(MANIFEST_FILE));
            let proof = vm.tree().prove().unwrap();
            assert!(proof.describe().unwrap().contains(what), "{:?}", proof.describe());
            if accepts {
                assert!(vm.tree().accept(false).unwrap().unwrap().contains(what));
                assert!(vm.found().is_empty());
            } else {
                vm.tree().seal(Purpose::Open, &proof).unwrap();
                assert!(vm.found()[0].contains(what), "it is noted");
            }
        }
    }
    let vm = Vm::new();
    fs::create_dir_all(vm.path(MANIFEST_FILE).join("kept")).unwrap();
    let refused = vm.tree().accept(false).unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.chain().contains("move it out"), "{}", refused.chain());
    assert!(vm.path(MANIFEST_FILE).join("kept").is_dir());
}

#[test]
fn a_look_at_a_home_is_ended_at_any_name_and_has_changed_nothing() {
    let vm = Vm::new();
    vm.seal(ManifestVersion::Second);
    let before = fs::read(vm.path(MANIFEST_FILE)).unwrap();
    vm.write(0, &[8; 100]);
    let asked = std::cell::Cell::new(0);
    for stop_at in 1.. {
        asked.set(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            if asked.get() == stop_at { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
        };
        let tree = HomeTree { go_on: &go_on, ..vm.tree() };
        match tree.prove().and_then(|proof| tree.seal(Purpose::Close, &proof)) {
            Ok(()) => break,
            Err(error) => assert_eq!(error.kind(), Kind::Stopped),
        }
        assert!(fs::read(vm.path(MANIFEST_FILE)).unwrap() == before);
    }
    // Two looks, each at four names and two files of its own.
    assert!(asked.get() >= 12, "{}", asked.get());
}
