mod manifest;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::*;
use crate::format::erasure::Erasure;
use crate::format::header::HOME_FILE;
use crate::format::names::DiskNames;
use crate::provider::Providers;
use crate::sector::SectorSize;
use crate::seen::Memory;
use crate::storage::claims::FileLocks;
use crate::storage::{Access, FileStorage};
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeKeys, Value, open_target, open_value, seal_target, seal_value};
use crate::store::plain_file::PlainFile;
use crate::timestamp::Timestamp;
use crate::vm::access::OfflineVm;
use crate::vm::datastore::Datastore;
use crate::vm::disk::{self, NewDisk};
use crate::vm::inventory::MAX_DEPTH;
use crate::vm::keyring;
use crate::vm::owner::{Announce, Owner};
use crate::vm::{folder, home};
use crate::work::erase::Erase;
use crate::work::rekey::Rekey;

const NAME: &str = "user.note";

/// A VM folder of its own, with something of everything in it.
struct Vm {
    store: Datastore,
    old: HomeKeys,
    old_wrapped: Vec<u8>,
}

impl Vm {
    fn new() -> Self {
        let store = Datastore::new(&[]);
        let (header, vm, providers) = (store.make_vm("vm"), store.path("vm"), store.providers());
        let (old, dek) = keys(&vm, &providers);
        let made = Self { store, old, old_wrapped: header.slots[0].wrapped.0.clone() };
        assert_eq!(dek.bytes().len(), 32);
        made.fill(&providers);
        made
    }

    fn path(&self) -> PathBuf {
        self.store.path("vm")
    }

    fn providers(&self) -> Providers {
        self.store.providers()
    }

    fn file(&self, path: &str, at: u64, data: &[u8]) -> crate::store::home_file::HomeFile<FileStorage> {
        let path = self.path().join(path);
        let parent = File::open(path.parent().unwrap()).unwrap();
        let file = home::create(&parent, path.file_name().unwrap(), 0o640).unwrap();
        let file = open(file, Access::Write, &self.old).unwrap();
        data.chunks(1 << 20).zip((at..).step_by(1 << 20)).for_each(|(piece, at)| {
            file.write_at(at, piece, &mut request_buffer()).unwrap();
        });
        file.sync().unwrap();
        file
    }

    fn fill(&self, providers: &Providers) {
        fs::create_dir_all(self.path().join("logs/old")).unwrap();
        self.file("web01.vmx", 0, b"displayName = \"web01\"");
        self.file("logs/old/vmware.log", 0, &pattern(3 << 20));
        self.file("swap.vswp", 1 << 30, &pattern(5000));
        self.file("empty.log", 0, b"");
        let noted = self.file("noted", 0, &pattern(10_000));
        let id = noted.ensure_id().unwrap();
        self.note(noted.storage().file(), Some(id), b"of a file");
        self.note(&File::open(self.path().join("logs")).unwrap(), None, b"of a folder");
        self.file("logs/shared", 0, &pattern(20_000));
        fs::hard_link(self.path().join("logs/shared"), self.path().join("also-shared")).unwrap();
        fs::hard_link(self.path().join("logs/shared"), self.path().join("logs/old/shared-too")).unwrap();
        let target = seal_target(&self.old, b"../somewhere/else").unwrap();
        std::os::unix::fs::symlink(target, self.path().join("link")).unwrap();
        let home = folder::read_home(&File::open(self.path()).unwrap()).unwrap().unwrap();
        let (key_id, kek) = keyring::first_kek(home.header.claims(), providers).unwrap();
        let spec = NewDisk {
            owner: Some(home.header.claims().uuid),
            sector_size: SectorSize::DEFAULT,
            plain_len: 0,
            label: "d".into(),
            mode: 0o600,
            durable: true,
        };
        let vm = File::open(self.path()).unwrap();
        let dek = keyring::unlock_by(&home.header, providers).unwrap();
        let owner =
            Owner::of(&vm, (&home.header.verify(&dek).unwrap(), &dek), &FileLocks, &Memory::of(providers)).unwrap();
        let (name, key) = (OsStr::new("root.raw"), (&key_id, kek.as_ref()));
        let make = |announce: &mut Announce<'_>| disk::create(&vm, name, &spec, key, announce);
        let (file, header, dek) = owner.with_new_disk(Path::new(name), make).unwrap();
        self.note(&file, Some(home::disk_id(header.uuid)), b"of a disk");
        let locked = crate::store::disk::LockedDisk::open(FileStorage::new(file)).unwrap();
        let disk = locked.unlock(&dek, Default::default()).unwrap();
        disk.write_at(0, &pattern(30_000), &mut request_buffer()).unwrap();
        for (path, mode) in [("web01.vmx", 0o600), ("noted", 0o444)] {
            fs::set_permissions(self.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        File::open(self.path().join("noted")).unwrap().set_modified(long_ago).unwrap();
    }

    fn note(&self, file: &File, id: Option<crate::format::home_file::FileId>, text: &[u8]) {
        let sealed = seal_value(&self.old, &Value::Xattr { file: id, name: NAME.as_bytes() }, text).unwrap();
        rustix::fs::fsetxattr(file, NAME, &sealed, rustix::fs::XattrFlags::empty()).unwrap();
    }

    /// Everything but folders: its bytes, or its target, with its attribute, and the second it was last changed in.
    fn copy(&self) -> BTreeMap<PathBuf, (Vec<u8>, i64)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.path()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let entry = entry.unwrap();
                let (path, stat) = (entry.path(), entry.metadata().unwrap());
                if stat.is_dir() {
                    folders.push(path);
                    continue;
                }
                let mut bytes = vec![0; 1000];
                if stat.is_symlink() {
                    bytes = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                } else {
                    let len = rustix::fs::getxattr(&path, NAME, bytes.as_mut_slice()).unwrap_or(0);
                    bytes.truncate(len);
                    // Of a file of a GiB, which is a hole: its end.
                    let start = stat.len().saturating_sub(16 << 20);
                    let file = File::open(&path).unwrap();
                    let mut content = vec![0; usize::try_from(stat.len() - start).unwrap()];
                    file.read_exact_at(&mut content, start).unwrap();
                    bytes.extend(content);
                }
                found.insert(path, (bytes, stat.mtime()));
            }
        }
        found
    }

    fn rekey(&self, on_progress: OnProgress<'_>) -> Result<DeepRekeyed> {
        DeepRekey::default().run(&OfflineVm::open(&self.path(), self.providers())?, on_progress)
    }

    /// All content, as a mount would see it now; only under the new DEK with `finished`.
    fn assert_whole(&self, finished: bool) {
        let (mut keys, dek) = keys(&self.path(), &self.providers());
        if finished {
            keys = HomeKeys::new(&dek).unwrap();
        }
        let read = |path: &str| {
            let file = File::open(self.path().join(path)).unwrap();
            let file = open(file, Access::Read, &keys).unwrap_or_else(|error| panic!("{path}: {}", error.chain()));
            let mut content = Vec::new();
            while (content.len() as u64) < file.plain_len() && content.len() < 8 << 20 {
                let mut buffer = request_buffer();
                content.extend_from_slice(file.read_at(content.len() as u64, 1 << 20, &mut buffer).unwrap());
            }
            content
        };
        assert_eq!(read("web01.vmx"), b"displayName = \"web01\"");
        assert!(read("logs/old/vmware.log") == pattern(3 << 20));
        assert!(read("noted") == pattern(10_000) && read("empty.log").is_empty());
        for path in ["logs/shared", "also-shared", "logs/old/shared-too"] {
            assert!(read(path) == pattern(20_000), "{path}");
        }
        let swap = File::open(self.path().join("swap.vswp")).unwrap();
        assert!(swap.metadata().unwrap().blocks() < 4096, "holes stay holes");
        let swap = open(swap, Access::Read, &keys).unwrap();
        assert_eq!(swap.plain_len(), (1 << 30) + 5000);
        assert!(swap.read_at(1 << 30, 5000, &mut request_buffer()).unwrap() == pattern(5000));
        self.assert_values(&keys);
        assert_eq!(fs::metadata(self.path().join("noted")).unwrap().mode() & 0o7777, 0o444);
        assert_eq!(fs::metadata(self.path().join("web01.vmx")).unwrap().mode() & 0o7777, 0o600);
    }

    fn assert_values(&self, keys: &HomeKeys) {
        let value = |path: &str, id| {
            let mut stored = vec![0; 1000];
            let file = File::open(self.path().join(path)).unwrap();
            let len = rustix::fs::fgetxattr(&file, NAME, stored.as_mut_slice()).unwrap();
            open_value(keys, &Value::Xattr { file: id, name: NAME.as_bytes() }, &stored[..len]).unwrap()
        };
        let id = home::file_id(&File::open(self.path().join("noted")).unwrap()).unwrap();
        assert_eq!(value("noted", id), b"of a file");
        assert_eq!(value("logs", None), b"of a folder");
        let disk = disk::read_header(File::open(self.path().join("root.raw")).unwrap()).unwrap().1;
        assert_eq!(value("root.raw", Some(home::disk_id(disk.header.claims().uuid))), b"of a disk");
        let link = fs::read_link(self.path().join("link")).unwrap();
        assert_eq!(open_target(keys, link.as_os_str().as_bytes()).unwrap(), b"../somewhere/else");
    }

    fn assert_finished(&self) {
        self.assert_whole(true);
        let shared = ["logs/shared", "also-shared", "logs/old/shared-too"].map(|path| self.path().join(path));
        let inodes = shared.map(|path| fs::metadata(path).unwrap()).map(|found| (found.ino(), found.nlink()));
        assert!(inodes.iter().all(|&inode| inode == inodes[0] && inode.1 == 3), "hard links are kept: {inodes:?}");
        let header = fs::read(self.path().join(HOME_FILE)).unwrap();
        assert!(!header.windows(40).any(|window| window == self.old_wrapped), "the old wrapped DEK is still there");
        let names = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.into_iter().all(|name| !name.as_bytes().starts_with(b".vmcryptfs-new")), "a draft is left");
        let vmx = File::open(self.path().join("web01.vmx")).unwrap();
        assert!(open(vmx, Access::Read, &self.old).is_err(), "still under the old DEK");
    }
}

fn keys(vm: &Path, providers: &Providers) -> (HomeKeys, Dek) {
    let stored = folder::read_home(&File::open(vm).unwrap()).unwrap().unwrap();
    let dek = keyring::unlock_by(&stored.header, providers).unwrap();
    (HomeKeys::of(&stored.header.clone().verify(&dek).unwrap(), &dek).unwrap(), dek)
}

fn open(file: File, access: Access, keys: &HomeKeys) -> Result<crate::store::home_file::HomeFile<FileStorage>> {
    home::open(FileStorage::new(file), access.into(), keys, &DiskNames::default(), || "a home file".to_owned())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().step_by(7).take(len).collect()
}

#[test]
fn everything_of_a_home_is_under_the_new_dek_and_as_it_was() {
    let vm = Vm::new();
    vm.assert_whole(false);
    let rekeyed = vm.rekey(&mut |_| Ok(())).unwrap();
    assert!(rekeyed.components.len() == 2 && rekeyed.components.iter().all(|component| component.done.done_now));
    vm.assert_finished();
    assert!(!vm.rekey(&mut |_| Ok(())).unwrap().resumed);
    vm.assert_whole(true);
}

/// What a copy by size and time would not take has not changed. Some compare whole seconds, some copy only what is newer.
#[test]
fn ciphertext_that_changes_says_so_by_its_time() {
    let vm = Vm::new();
    let ahead = SystemTime::now() + Duration::from_secs(1000);
    File::open(vm.path().join("web01.vmx")).unwrap().set_modified(ahead).unwrap();
    for _ in 0..2 {
        let before = vm.copy();
        // What is written in place, headers for instance, has the time of the write: a copy made in that very second misses it.
        std::thread::sleep(Duration::from_millis(1100));
        vm.rekey(&mut |_| Ok(())).unwrap();
        let mut changed = 0;
        for (path, (bytes, second)) in vm.copy() {
            let (bytes_before, second_before) = &before[&path];
            if bytes != *bytes_before {
                assert!(second > *second_before, "{}: {second_before}, then {second}", path.shown());
                changed += 1;
            }
        }
        // The header, six files and links to one of them, a symbolic link, and the attributes of a disk.
        assert!(changed >= 9, "{changed}");
    }
}

/// The callback cancels, each time a little later; between the runs everything is readable.
#[test]
fn a_home_rekey_that_is_stopped_anywhere_goes_on() {
    let vm = Vm::new();
    let mut runs = 0;
    for patience in (1..).step_by(3) {
        let mut asked = 0;
        let rekeyed = vm.rekey(&mut |progress| {
            asked += u32::from(progress.total > 0); // while it only looks, nothing is changed
            if asked > patience { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
        });
        runs += 1;
        match rekeyed {
            Ok(rekeyed) => {
                assert!(rekeyed.resumed);
                break;
            }
            Err(error) => assert_eq!(error.kind(), Kind::Stopped, "{}", error.chain()),
        }
        vm.assert_whole(false);
    }
    assert!(runs > 3, "{runs} runs");
    vm.assert_finished();
}

/// A crash came between the names of one file, and then someone wrote to one of them: nothing is lost.
#[test]
fn a_file_whose_links_were_parted_is_brought_together_unless_it_was_written_to() {
    for written in [false, true] {
        let vm = Vm::new();
        let parted = vm.rekey(&mut |progress| match vm.path().join("also-shared").metadata().unwrap().nlink() {
            // The first name has been exchanged: it is the only one of a file.
            1 if progress.what == "home" => Err(Error::new(Kind::Stopped, "enough")),
            _ => Ok(()),
        });
        assert_eq!(parted.unwrap_err().kind(), Kind::Stopped);
        if written {
            let (keys, _) = keys(&vm.path(), &vm.providers());
            let file = File::options().read(true).write(true).open(vm.path().join("also-shared")).unwrap();
            let file = open(file, Access::Write, &keys).unwrap();
            file.write_at(0, b"news", &mut request_buffer()).unwrap();
        }
        // Interrupted once more, before the names are brought together: what was known of them is not lost.
        let stopped = vm.rekey(&mut |progress| match progress.total > 0 && progress.what == "home" {
            true => Err(Error::new(Kind::Stopped, "enough")),
            false => Ok(()),
        });
        assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
        vm.rekey(&mut |_| Ok(())).unwrap();
        if !written {
            vm.assert_finished();
            continue;
        }
        let (keys, _) = keys(&vm.path(), &vm.providers());
        for (path, start) in [("also-shared", b"news".as_slice()), ("logs/shared", &pattern(4))] {
            let file = open(File::open(vm.path().join(path)).unwrap(), Access::Read, &keys).unwrap();
            assert_eq!(file.read_at(0, 4, &mut request_buffer()).unwrap(), start, "{path}");
        }
        let links = fs::metadata(vm.path().join("logs/shared")).unwrap().nlink();
        assert_eq!(links, 2, "the other two names are still of one file");
    }
}

/// One that is not claimed yet is that of a process which has just made it.
#[test]
fn drafts_are_those_of_an_interruption_only_before_a_home_is_rekeyed() {
    let vm = Vm::new();
    let draft = |number: u128| vm.path().join(format!(".vmcryptfs-new-{}", Uuid::from_u128(number)));
    let stale = [draft(1), vm.path().join("logs/.vmcryptfs-new-rekey-x")];
    stale.iter().for_each(|path| fs::write(path, "x").unwrap());
    let mut tidied = false;
    vm.rekey(&mut |progress| {
        if !tidied && progress.what == "home" && !stale.iter().any(|path| path.exists()) {
            tidied = true;
            fs::write(draft(2), "x").unwrap();
        }
        Ok(())
    })
    .unwrap();
    assert!(tidied && draft(2).exists() && !draft(1).exists());
    fs::remove_file(draft(2)).unwrap();
    vm.assert_finished();
}

#[test]
fn a_file_that_neither_dek_opens_is_named_and_nothing_is_lost() {
    let vm = Vm::new();
    let path = vm.path().join("noted");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let begun = vm.rekey(&mut |progress| match progress.what.as_str() {
        "home" => Err(Error::new(Kind::Stopped, "enough")),
        _ => Ok(()),
    });
    assert_eq!(begun.unwrap_err().kind(), Kind::Stopped);
    File::options().write(true).open(&path).unwrap().write_all_at(&[9], 20).unwrap();
    let error = vm.rekey(&mut |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.chain().contains("noted") && error.chain().contains("move it out"), "{}", error.chain());
    fs::remove_file(&path).unwrap();
    assert!(vm.rekey(&mut |_| Ok(())).unwrap().resumed);
}

#[test]
fn a_copy_of_a_file_stays_a_file_of_its_own() {
    let vm = Vm::new();
    let names = ["web01.vmx", "a copy.vmx", "logs/another copy"];
    for copy in &names[1..] {
        fs::copy(vm.path().join(names[0]), vm.path().join(copy)).unwrap();
    }
    vm.rekey(&mut |_| Ok(())).unwrap();
    let inodes: HashSet<u64> = names.iter().map(|name| fs::metadata(vm.path().join(name)).unwrap().ino()).collect();
    assert_eq!(inodes.len(), names.len());
    let linked = ["logs/shared", "also-shared", "logs/old/shared-too"];
    let inodes: HashSet<u64> = linked.iter().map(|name| fs::metadata(vm.path().join(name)).unwrap().ino()).collect();
    assert_eq!(inodes.len(), 1);
}

/// Both have several names. The copy may be the first that gets a new form; and a crash may come between the names of either.
#[test]
fn a_copy_of_a_file_with_several_names_stays_a_file_of_its_own() {
    for (copy, interrupted) in [("a copy.vmx", false), ("a copy.vmx", true)] {
        let (vm, names) = (Vm::new(), [copy, "web01.vmx"]);
        let path = |name: &str| vm.path().join(name);
        let link = |name: &str| path("logs").join(name);
        fs::copy(path("web01.vmx"), path(copy)).unwrap();
        names.iter().for_each(|name| fs::hard_link(path(name), link(name)).unwrap());
        let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
        let mut stopped = HashSet::new();
        while let Err(error) = vm.rekey(&mut |_| {
            let parted = |name: &&&str| inode(path(name)) != inode(link(name));
            let is_news = names.iter().find(parted).is_some_and(|name| interrupted && stopped.insert(*name));
            if is_news { Err(Error::new(Kind::Stopped, "enough")) } else { Ok(()) }
        }) {
            assert_eq!(error.kind(), Kind::Stopped, "{}", error.chain());
        }
        assert_eq!(stopped.len(), if interrupted { 2 } else { 0 });
        names.iter().for_each(|name| assert_eq!(inode(path(name)), inode(link(name)), "{name}"));
        assert_ne!(inode(path(copy)), inode(path("web01.vmx")), "two files became one");
        vm.assert_finished();
    }
}

/// A crash came between the file and its copy, which have one id and one content, as a file's names have after a crash between them.
#[test]
fn a_copy_of_a_file_stays_a_file_of_its_own_after_an_interruption() {
    let vm = Vm::new();
    let [copy, file] = ["a copy.vmx", "web01.vmx"].map(|name| vm.path().join(name));
    fs::copy(&file, &copy).unwrap();
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = [inode(&copy), inode(&file)];
    let stopped = vm.rekey(&mut |_| match (inode(&copy) == before[0], inode(&file) == before[1]) {
        (false, true) => Err(Error::new(Kind::Stopped, "enough")),
        _ => Ok(()),
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    // A mark that somebody else made of a file that is as it was.
    fs::hard_link(vm.path().join("root.raw"), vm.path().join("logs/.vmcryptfs-new-rekey-x")).unwrap();
    assert!(vm.rekey(&mut |_| Ok(())).unwrap().resumed);
    assert!(inode(&copy) != inode(&file), "two files became one");
    assert!(!vm.path().join("logs/.vmcryptfs-new-rekey-x").exists());
    vm.assert_finished();
}

/// A header, a block, and a disk that was erased.
#[test]
fn what_no_key_opens_is_found_before_a_rekey_begins_and_the_way_out_is_said() {
    let vm = Vm::new();
    let (path, disk) = (vm.path().join("noted"), vm.path().join("root.raw"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (file, whole) = (File::options().write(true).open(&path).unwrap(), fs::read(&path).unwrap());
    let before = fs::read(vm.path().join(HOME_FILE)).unwrap();
    let refused = |kind: Kind, words: &str| {
        let error = vm.rekey(&mut |_| Ok(())).unwrap_err();
        assert!(error.kind() == kind && error.chain().contains(words), "{}", error.chain());
        assert!(fs::read(vm.path().join(HOME_FILE)).unwrap() == before, "the rekey began");
    };
    for from in [20, 4096] {
        let damaged: Vec<u8> = whole[from..].iter().map(|byte| if *byte == 0 { 0 } else { byte ^ 1 }).collect();
        file.write_all_at(&damaged, from as u64).unwrap();
        refused(Kind::Corrupt, "noted cannot be re-encrypted, and its home not without it: move it out of the folder");
        file.write_all_at(&whole, 0).unwrap();
    }
    let image = fs::read(&disk).unwrap();
    let erase = Erase { component: Some(Component::Disk("root.raw".into())) };
    erase.run(&OfflineVm::open(&vm.path(), vm.providers()).unwrap()).unwrap();
    refused(Kind::KeyUnavailable, "no key opens it: remove it in a mount first, or move it out of the folder");
    fs::write(&disk, image).unwrap();
    assert!(!vm.rekey(&mut |_| Ok(())).unwrap().resumed);
}

/// What would stop the rekey at every run is refused before anything is changed.
#[test]
fn a_home_that_cannot_be_walked_is_refused_before_the_rekey_begins() {
    let vm = Vm::new();
    let nested = vm.path().join("logs/other");
    let deep = vm.path().join("d/".repeat(MAX_DEPTH + 1));
    fs::create_dir(&nested).unwrap();
    fs::copy(vm.path().join(HOME_FILE), nested.join(HOME_FILE)).unwrap();
    for (unfit, top, why) in [(&nested, &nested, "VM folder of its own"), (&deep, &vm.path().join("d"), "too deep")] {
        fs::create_dir_all(unfit).unwrap();
        let before = fs::read(vm.path().join(HOME_FILE)).unwrap();
        let error = vm.rekey(&mut |_| Ok(())).unwrap_err();
        assert!(error.kind() == Kind::Denied && error.chain().contains(why), "{}", error.chain());
        assert!(fs::read(vm.path().join(HOME_FILE)).unwrap() == before, "the rekey began");
        fs::remove_dir_all(top).unwrap();
    }
    assert!(!vm.rekey(&mut |_| Ok(())).unwrap().resumed);
    vm.assert_finished();
}

#[test]
fn a_rekey_needs_space_only_for_the_largest_file_however_many_there_are() {
    let vm = Vm::new();
    (0..200).for_each(|number| _ = vm.file(&format!("note{number}"), 0, b"short"));
    let largest = fs::metadata(vm.path().join("logs/old/vmware.log")).unwrap().blocks() * 512;
    let place = OfflineVm::open(&vm.path(), vm.providers()).unwrap();
    let stored = folder::read_home(&File::open(vm.path()).unwrap()).unwrap().unwrap();
    let keks = vm.providers().fetch_all(stored.header.claims().slots.key_ids().cloned());
    let home = HomeWork::open(&place, &keks, &|| Ok(())).unwrap();
    assert_eq!(home.refuse_unfit(None, &mut |_| Ok(())).unwrap(), largest);
}

/// What a file has is read before anything is begun, not how long someone says it is.
#[test]
fn a_file_that_was_made_endless_does_not_keep_the_rekey_from_beginning() {
    let vm = Vm::new();
    let long = File::options().write(true).open(vm.path().join("logs/shared")).unwrap();
    long.set_len(15 << 40).unwrap();
    let mut asked = 0;
    let stopped = vm.rekey(&mut |progress| {
        asked += 1;
        match progress.is_looking() && asked < 1000 {
            true => Ok(()),
            false => Err(Error::new(Kind::Stopped, "enough")),
        }
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    assert!(asked < 1000, "its holes were read");
}

#[test]
fn a_file_in_use_stops_the_rekey() {
    let vm = Vm::new();
    for begun in [false, true] {
        let file = FileStorage::new(File::open(vm.path().join("web01.vmx")).unwrap());
        if !begun {
            file.claim(Access::Read).unwrap();
        }
        let mut told = 0;
        let rekeyed = vm.rekey(&mut |progress| {
            if progress.is_looking() {
                return Ok(());
            }
            told += 1;
            file.claim(Access::Read)
        });
        let error = rekeyed.unwrap_err();
        assert!(error.kind() == Kind::Busy && error.chain().contains("web01.vmx"), "{}", error.chain());
        assert_eq!(told > 0, begun, "whether anything was begun");
    }
    assert!(vm.rekey(&mut |_| Ok(())).unwrap().resumed);
    vm.assert_finished();
}

/// A mark is not authentic: it may have been written to keep a disk from getting another key.
#[test]
fn a_disk_whose_header_comes_back_in_place_of_a_mark_after_a_rekey_is_one_that_was_put_back() {
    let vm = Vm::new();
    let disk = File::options().read(true).write(true).open(vm.path().join("root.raw")).unwrap();
    let (header, dek) = {
        let stored = disk::read_header(disk.try_clone().unwrap()).unwrap().1;
        let dek = keyring::unlock_by(&stored.header, &vm.providers()).unwrap();
        (stored.header, dek)
    };
    let mark = Erasure { kind: ComponentKind::Disk, time: Timestamp::now(), uuid: None }.encode().unwrap();
    let kept = ComponentKind::Disk.copy_offsets().map(|offset| {
        let mut kept = vec![0; mark.len()];
        disk.read_exact_at(&mut kept, offset).unwrap();
        disk.write_all_at(&mark, offset).unwrap();
        (kept, offset)
    });
    let place = OfflineVm::open(&vm.path(), vm.providers()).unwrap();
    let passed_over = Rekey::default().run(&place, &mut |_| Ok(())).unwrap().passed_over;
    assert!(passed_over.misplaced[0].starts_with("root.raw was erased"), "{:?}", passed_over.misplaced);
    kept.iter().for_each(|(bytes, offset)| disk.write_all_at(bytes, *offset).unwrap());
    let providers = vm.providers();
    let (dir, (_, home_dek)) = (File::open(vm.path()).unwrap(), keys(&vm.path(), &providers));
    let home = folder::read_home(&dir).unwrap().unwrap().header.verify(&home_dek).unwrap();
    let owner = Owner::of(&dir, (&home, &home_dek), &FileLocks, &Memory::of(&providers)).unwrap();
    let older = owner.refuse_older(&Point::of(&header, &dek).unwrap()).unwrap_err();
    assert_eq!(older.kind(), Kind::ReadOnly, "{}", older.chain());
}
