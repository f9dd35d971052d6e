//! A home that has a manifest: what it proves is proven before, during and after a deep rekey, wherever that is interrupted.

use super::*;
use crate::format::header::Header;
use crate::format::manifest::{MANIFEST_FILE, Manifest};
use crate::progress::to_the_end;
use crate::vm::manifest::{HomeTree, Proof, Purpose};

impl Vm {
    fn with_manifest() -> Self {
        let vm = Self::new();
        vm.file("other.vmx", 0, b"displayName = \"other\"");
        vm.file("twin", 0, b"one of two");
        fs::copy(vm.path().join("twin"), vm.path().join("a twin")).unwrap();
        vm.seal(Purpose::Close, &Proof::default());
        assert_eq!(vm.found(), [""; 0]);
        vm
    }

    fn with_tree<T>(&self, work: impl FnOnce(&HomeTree<'_>) -> T) -> T {
        let (providers, dir) = (self.providers(), File::open(self.path()).unwrap());
        let (keys, dek) = keys(&self.path(), &providers);
        let header: Header = folder::read_home(&dir).unwrap().unwrap().header.verify(&dek).unwrap();
        let memory = Memory::of(&providers);
        work(&HomeTree { dir: &dir, header: &header, keys: &keys, memory: &memory, go_on: &to_the_end })
    }

    fn seal(&self, purpose: Purpose, proof: &Proof) {
        self.with_tree(|tree| tree.seal(purpose, proof).unwrap());
    }

    fn found(&self) -> Vec<String> {
        self.with_tree(|tree| tree.prove().unwrap().findings)
    }

    fn sealed(&self) -> Manifest {
        self.with_tree(|tree| tree.load().unwrap().unwrap())
    }

    fn exchange(&self, one: &str, other: &str) {
        let [one, other, third] = [one, other, "third"].map(|name| self.path().join(name));
        fs::rename(&one, &third).unwrap();
        fs::rename(&other, &one).unwrap();
        fs::rename(&third, &other).unwrap();
    }

    /// Stops it at each sixth point where it may be, and calls `between` then.
    fn rekey_in_pieces(&self, mut between: impl FnMut()) {
        for patience in (1..).step_by(6) {
            let mut asked = 0;
            let rekeyed = self.rekey(&mut |progress| {
                asked += u32::from(progress.total > 0);
                if asked > patience { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
            });
            match rekeyed {
                Ok(_) => return,
                Err(error) => assert_eq!(error.kind(), Kind::Stopped, "{}", error.chain()),
            }
            between();
        }
    }
}

#[test]
fn a_home_that_is_rekeyed_in_pieces_agrees_with_its_manifest_all_the_time() {
    let vm = Vm::with_manifest();
    vm.rekey_in_pieces(|| assert_eq!(vm.found(), [""; 0]));
    assert_eq!(vm.found(), [""; 0]);
    assert!(!vm.sealed().is_open);
    vm.assert_finished();
}

#[test]
fn what_was_found_before_a_rekey_stays_wherever_that_is_interrupted() {
    let vm = Vm::with_manifest();
    vm.exchange("web01.vmx", "other.vmx");
    let is_found = || vm.found().iter().any(|found| found.starts_with("other.vmx and web01.vmx were exchanged"));
    assert!(is_found());
    vm.rekey_in_pieces(|| assert!(is_found(), "{:?}", vm.found()));
    assert!(is_found() && !vm.sealed().is_open, "{:?}", vm.found());
}

/// In whichever form both are; and an attribute of a folder, and a file that is gone.
#[test]
fn what_others_do_to_a_home_whose_rekey_is_interrupted_is_found_and_stays_so() {
    let vm = Vm::with_manifest();
    let mut forms = HashSet::new();
    let is_old = |name: &str| open(File::open(vm.path().join(name)).unwrap(), Access::Read, &vm.old).is_ok();
    let (from, away) = (vm.path().join("noted"), vm.path().join("logs/noted"));
    vm.rekey_in_pieces(|| {
        forms.insert(["web01.vmx", "other.vmx"].map(is_old));
        vm.exchange("web01.vmx", "other.vmx");
        assert_eq!(vm.found(), ["other.vmx and web01.vmx were exchanged"]);
        vm.exchange("web01.vmx", "other.vmx");
        fs::rename(&from, &away).unwrap();
        assert_eq!(vm.found(), ["noted is now logs/noted"]);
        fs::rename(&away, &from).unwrap();
        let copy = fs::read(vm.path().join("web01.vmx")).unwrap();
        fs::remove_file(vm.path().join("web01.vmx")).unwrap();
        assert_eq!(vm.found(), ["web01.vmx was removed"]);
        fs::write(vm.path().join("web01.vmx"), copy).unwrap();
        assert_eq!(vm.found(), [""; 0]);
    });
    assert!(forms.len() >= 2, "{forms:?}");
}

/// What has been exchanged before its turn is not taken for what was there; the next run notes it, and ends.
#[test]
fn what_is_exchanged_while_a_home_is_rekeyed_is_found() {
    for moment in 0..3 {
        let vm = Vm::with_manifest();
        let mut asked = 0;
        let rekeyed = vm.rekey(&mut |progress| {
            if progress.what == "home" && progress.total > 0 {
                asked += 1;
                if asked == 1 + 4 * moment {
                    vm.exchange("web01.vmx", "other.vmx");
                }
            }
            Ok(())
        });
        if let Err(error) = rekeyed {
            assert!(matches!(error.kind(), Kind::Corrupt | Kind::Busy), "{}", error.chain());
            vm.rekey(&mut |_| Ok(())).unwrap();
        }
        assert!(vm.found().iter().any(|found| found.contains("exchanged")), "at {moment}: {:?}", vm.found());
    }
}

#[test]
fn an_older_version_of_a_file_that_is_put_back_while_a_home_is_rekeyed_is_found() {
    let vm = Vm::with_manifest();
    let path = vm.path().join("web01.vmx");
    let older = fs::read(&path).unwrap();
    let file = open(File::options().read(true).write(true).open(&path).unwrap(), Access::Write, &vm.old).unwrap();
    file.write_at(0, b"displayName = \"new01\"", &mut request_buffer()).unwrap();
    file.sync().unwrap();
    drop(file);
    vm.seal(Purpose::Open, &Proof::default());
    vm.seal(Purpose::Close, &Proof::default());
    vm.with_tree(|tree| tree.accept(false).unwrap());
    let mut is_done = false;
    let refused = vm.rekey(&mut |progress| {
        if progress.what == "home" && !std::mem::replace(&mut is_done, true) {
            fs::write(&path, &older).unwrap();
        }
        Ok(())
    });
    let refused = refused.unwrap_err();
    assert!(refused.kind() == Kind::Corrupt && refused.chain().contains("web01.vmx"), "{}", refused.chain());
    vm.rekey(&mut |_| Ok(())).unwrap();
    assert!(vm.found()[0].starts_with("web01.vmx is another version of the file"), "{:?}", vm.found());
}

#[test]
fn a_manifest_that_is_removed_while_a_home_is_rekeyed_is_missed() {
    let vm = Vm::with_manifest();
    let mut removed = false;
    vm.rekey(&mut |progress| {
        if progress.what == "home" && progress.total > 0 && !std::mem::replace(&mut removed, true) {
            fs::remove_file(vm.path().join(MANIFEST_FILE)).unwrap();
        }
        Ok(())
    })
    .unwrap();
    assert!(vm.found()[0].starts_with("its manifest is gone"), "{:?}", vm.found());
}

/// A manifest says nothing of its attributes.
#[test]
fn a_disk_in_the_clear_with_an_attribute_does_not_keep_a_rekey_from_its_end() {
    let vm = Vm::new();
    let path = vm.path().join("clear.raw");
    fs::write(&path, pattern(100_000)).unwrap();
    vm.note(&File::open(&path).unwrap(), None, b"of a disk in the clear");
    vm.seal(Purpose::Close, &Proof::default());
    vm.rekey(&mut |_| Ok(())).unwrap();
    assert_eq!(vm.found(), [""; 0]);
    vm.assert_finished();
}
