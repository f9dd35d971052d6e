//! Decrypting a home whose files others exchange, with and without a manifest: nothing sealed loses its header, and nothing gets another
//! file's place without a word.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::symlink;

use super::*;
use crate::format::header::{DECRYPTING_FILE, ENCRYPTING_FILE, HOME_FILE};
use crate::format::manifest::MANIFEST_FILE;
use crate::progress::{Progress, to_the_end};
use crate::storage::FileStorage;
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys, seal_target};
use crate::store::plain_file::PlainFile;
use crate::vm::datastore::{Datastore, write_state};
use crate::vm::manifest::{HomeTree, Purpose};
use crate::vm::{folder, home, keyring};
use crate::work::convert::{Encryption, Options};

const FILES: [&str; 4] = ["a.txt", "b.txt", "d/x", "d/y"];

/// A VM folder with some files, one of two names, an attribute, and a link; perhaps with a manifest.
struct Vm {
    ds: Datastore,
}

impl Vm {
    fn new(has_manifest: bool) -> Self {
        let vm = Self { ds: Datastore::new(&["vm"]) };
        fs::create_dir(vm.path("d")).unwrap();
        vm.with_tree(|tree| {
            for name in FILES {
                let (parent, name) = (vm.path(name).parent().unwrap().to_owned(), Path::new(name).file_name().unwrap());
                let backing = home::create(&File::open(parent).unwrap(), name, 0o600).unwrap();
                let file = HomeFile::open(FileStorage::new(backing), tree.keys).unwrap();
                file.write_at(0, &Self::content(name), &mut request_buffer()).unwrap();
                file.sync().unwrap();
            }
            symlink(seal_target(tree.keys, b"a.txt").unwrap(), vm.path("link")).unwrap();
        });
        fs::hard_link(vm.path("d/x"), vm.path("d/z")).unwrap();
        if has_manifest {
            vm.with_tree(|tree| tree.seal(Purpose::Close, &Proof::default()).unwrap());
        }
        vm
    }

    fn content(name: &OsStr) -> Vec<u8> {
        name.as_encoded_bytes().repeat(2000)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.ds.path("vm").join(name)
    }

    fn with_tree<T>(&self, work: impl FnOnce(&HomeTree<'_>) -> T) -> T {
        let (providers, dir) = (self.ds.providers(), File::open(self.path("")).unwrap());
        let stored = folder::read_home_of_any_state(&dir).unwrap().unwrap();
        let dek = keyring::unlock_by(&stored.header, &providers).unwrap();
        let (header, memory) = (stored.header.verify(&dek).unwrap(), Memory::of(&providers));
        let keys = HomeKeys::new(&dek).unwrap();
        work(&HomeTree { dir: &dir, header: &header, keys: &keys, memory: &memory, go_on: &to_the_end })
    }

    fn found(&self) -> Vec<String> {
        self.with_tree(|tree| tree.prove().unwrap().findings)
    }

    fn decrypt(&self, on_progress: OnProgress<'_>) -> Result<Plan> {
        let (providers, engine) = (self.ds.providers(), Engine::default());
        Decryption::prepare(
            &self.path(""),
            &providers,
            DecryptScope::All,
            Believed::default(),
            engine,
            &mut *on_progress,
        )?
        .run(on_progress, &mut |_| {})
    }

    /// Stops it at each point where it may be, and calls `between` then.
    fn decrypt_in_pieces(&self, mut between: impl FnMut()) {
        for patience in 1.. {
            let mut asked = 0;
            let stopped = self.decrypt(&mut |progress: &Progress| {
                asked += u32::from(progress.total > 0);
                if asked > patience { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
            });
            match stopped {
                Ok(_) => return,
                Err(error) => assert_eq!(error.kind(), Kind::Stopped, "{}", error.chain()),
            }
            between();
        }
    }

    /// Stops it when it has asked so often since the home is no longer encrypted.
    fn begin_to_decrypt(&self, patience: u32) {
        let mut asked = 0;
        let stopped = self.decrypt(&mut |progress| {
            asked += u32::from(progress.total > 0 && self.path(DECRYPTING_FILE).exists());
            if asked > patience { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
        });
        assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    }

    fn exchange(&self) {
        let [one, other, third] = ["a.txt", "b.txt", "third"].map(|name| self.path(name));
        fs::rename(&one, &third).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&third, &other).unwrap();
    }

    fn is_sealed(&self, name: &str) -> bool {
        fs::read(self.path(name)).unwrap().starts_with(b"VMCRYPTH")
    }

    fn has_header(&self) -> bool {
        [HOME_FILE, DECRYPTING_FILE, ENCRYPTING_FILE].into_iter().any(|name| self.path(name).exists())
    }

    fn assert_decrypted(&self) {
        let found: BTreeMap<&str, Vec<u8>> =
            FILES.into_iter().map(|name| (name, fs::read(self.path(name)).unwrap())).collect();
        for (name, content) in found {
            assert!(content == Self::content(Path::new(name).file_name().unwrap()), "{name}");
        }
        assert_eq!(fs::read_link(self.path("link")).unwrap(), Path::new("a.txt"));
        assert!(!self.has_header() && !self.path(MANIFEST_FILE).exists());
    }
}

#[test]
fn a_home_that_is_decrypted_in_pieces_agrees_with_its_manifest_to_the_end() {
    let vm = Vm::new(true);
    let uuid = vm.with_tree(|tree| tree.header.uuid);
    vm.decrypt_in_pieces(|| assert_eq!(vm.found(), [""; 0]));
    vm.assert_decrypted();
    assert!(Memory::of(&vm.ds.providers()).manifest_counter(uuid).is_none());
}

/// Without the name of a disk it is taken for an empty file then.
#[test]
fn a_disk_that_is_all_a_hole_once_it_is_decrypted_is_no_difference() {
    let vm = Vm::new(false);
    vm.ds.make_disk("vm/scratch");
    vm.with_tree(|tree| tree.seal(Purpose::Close, &Proof::default()).unwrap());
    vm.decrypt_in_pieces(|| assert_eq!(vm.found(), [""; 0]));
    vm.assert_decrypted();
    assert_eq!(fs::metadata(vm.path("scratch")).unwrap().len(), 1 << 20, "it is no home file without a header");
}

/// As a full file system leaves a file. It gets a header before the others are decrypted.
#[test]
fn a_file_without_a_header_is_no_difference_when_it_gets_one() {
    let vm = Vm::new(false);
    let holes = [("hole", 512), ("long", 20_000)];
    holes.iter().for_each(|(name, len)| File::create(vm.path(name)).unwrap().set_len(*len).unwrap());
    vm.with_tree(|tree| tree.seal(Purpose::Close, &Proof::default()).unwrap());
    vm.decrypt_in_pieces(|| assert_eq!(vm.found(), [""; 0]));
    vm.assert_decrypted();
    assert_eq!(fs::metadata(vm.path("hole")).unwrap().len(), 0);
}

/// Its header does not say how much of the folder is encrypted, until the decryption begins.
#[test]
fn a_home_of_an_older_version_whose_decryption_is_stopped_between_its_disks_is_taken_up() {
    let vm = Vm::new(false);
    ["vm/one.raw", "vm/two.raw"].iter().for_each(|disk| vm.ds.make_disk(disk));
    write_state(&vm.path(HOME_FILE), &vm.ds.providers(), None);
    vm.with_tree(|tree| {
        assert!(tree.header.state.is_none());
        tree.seal(Purpose::Close, &Proof::default()).unwrap();
    });
    vm.decrypt_in_pieces(|| assert_eq!(vm.found(), [""; 0]));
    vm.assert_decrypted();
}

#[test]
fn what_others_exchange_while_a_decryption_is_interrupted_is_refused_by_the_next_run() {
    let vm = Vm::new(true);
    let mut refusals = 0;
    vm.decrypt_in_pieces(|| {
        if !vm.is_sealed("a.txt") || !vm.is_sealed("b.txt") {
            return;
        }
        vm.exchange();
        let refused = vm.decrypt(&mut |_| Ok(())).unwrap_err();
        assert!(refused.kind() == Kind::Corrupt && refused.chain().contains("exchanged"), "{}", refused.chain());
        assert!(vm.has_header() && vm.is_sealed("a.txt") && vm.is_sealed("b.txt"));
        vm.exchange();
        refusals += 1;
    });
    assert!(refusals > 0);
    vm.assert_decrypted();
}

#[test]
fn what_is_exchanged_while_a_home_is_decrypted_loses_neither_its_place_nor_its_header() {
    for has_manifest in [true, false] {
        for moment in 0.. {
            let vm = Vm::new(has_manifest);
            let (mut asked, mut exchanged) = (0, false);
            let decrypted = vm.decrypt(&mut |progress| {
                let is_listed = FILES.contains(&progress.what.as_str());
                asked += u32::from(is_listed);
                if is_listed && asked > moment && !exchanged && vm.is_sealed("a.txt") && vm.is_sealed("b.txt") {
                    vm.exchange();
                    exchanged = true;
                }
                Ok(())
            });
            if !exchanged {
                break;
            }
            let refused = decrypted.unwrap_err();
            assert!(matches!(refused.kind(), Kind::Busy | Kind::Corrupt), "{}", refused.chain());
            assert!(vm.has_header() && (vm.is_sealed("a.txt") || vm.is_sealed("b.txt")), "at {moment}");
            if has_manifest {
                assert_eq!(vm.decrypt(&mut |_| Ok(())).unwrap_err().kind(), Kind::Corrupt, "at {moment}");
            }
        }
    }
}

/// It is not there when the folder is looked at for the last time, and comes back when the header would be gone.
#[test]
fn a_file_that_is_moved_away_while_a_home_is_decrypted_keeps_the_header() {
    for has_manifest in [true, false] {
        let vm = Vm::new(has_manifest);
        let (place, away) = (vm.path("d/y"), vm.ds.path("away"));
        let refused = vm.decrypt(&mut |progress| {
            if progress.total > 0 && place.exists() && vm.path(DECRYPTING_FILE).exists() {
                fs::rename(&place, &away).unwrap();
            }
            Ok(())
        });
        assert!(refused.is_err() && vm.has_header(), "{refused:?}");
        fs::rename(&away, &place).unwrap();
        vm.decrypt(&mut |_| Ok(())).unwrap();
        vm.assert_decrypted();
    }
}

#[test]
fn what_is_accepted_of_a_home_that_is_being_decrypted_is_decrypted() {
    let vm = Vm::new(true);
    vm.begin_to_decrypt(1);
    fs::remove_file(vm.path("d/y")).unwrap();
    assert_eq!(vm.decrypt(&mut |_| Ok(())).unwrap_err().kind(), Kind::Corrupt);
    assert!(vm.with_tree(|tree| tree.accept(false)).unwrap().unwrap().contains("d/y was removed"));
    vm.decrypt(&mut |_| Ok(())).unwrap();
    assert!(!vm.has_header() && !vm.is_sealed("a.txt"));
}

#[test]
fn a_folder_that_is_put_in_while_a_decryption_is_interrupted_stays_and_does_not_keep_it_from_its_end() {
    let vm = Vm::new(true);
    vm.begin_to_decrypt(1);
    fs::create_dir(vm.path("d/new")).unwrap();
    fs::write(vm.path("d/new/clear"), b"clear").unwrap();
    assert_eq!(vm.found(), [""; 0]);
    vm.decrypt(&mut |_| Ok(())).unwrap();
    vm.assert_decrypted();
    assert_eq!(fs::read(vm.path("d/new/clear")).unwrap(), b"clear");
}

#[test]
fn an_encryption_that_takes_up_a_decryption_leaves_no_manifest_of_before() {
    let vm = Vm::new(true);
    vm.begin_to_decrypt(3);
    let providers = vm.ds.providers();
    Encryption::prepare(&vm.path(""), &providers, Options::default(), &mut |_| Ok(()))
        .unwrap()
        .run(&mut |_| Ok(()), &mut |_| {})
        .unwrap();
    assert!(FILES.into_iter().all(|name| vm.is_sealed(name)));
    assert!(!vm.path(MANIFEST_FILE).exists());
    assert_eq!(vm.found(), [""; 0]);
}
