use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use super::*;
use crate::error::Context;
use crate::format::members::{COPY_OFFSETS, MEMBERS_PREFIX};
use crate::seen::Memory;
use crate::serve::{Options, ServedFolder};
use crate::storage::Access;
use crate::vm::datastore::Datastore;

/// A VM with the disks `a.raw`, `b.raw` and `s/c.raw`, and the home file `notes`; and what a crash would have left of it.
struct Crashes {
    store: Datastore,
    images: RefCell<Vec<String>>,
    /// What the host of the VM has seen: each image is opened with what was kept of it until the crash.
    memory: RefCell<Option<Arc<Memory>>>,
}

/// Files that keep what a host has seen.
const MEMORY: [&str; 2] = ["seen", "memory.key"];

impl Crashes {
    fn new() -> Self {
        let store = Datastore::new(&["vm"]);
        ["a.raw", "b.raw", "c.raw"].iter().for_each(|name| store.make_disk(&format!("vm/{name}")));
        fs::create_dir(store.path("vm/s")).unwrap();
        fs::write(store.path("vm/notes"), "").unwrap();
        Self { store, images: RefCell::default(), memory: RefCell::default() }
    }

    fn served(&self, vm: &str) -> ServedFolder {
        self.served_with(vm, Options::default())
    }

    fn served_with(&self, vm: &str, options: Options) -> ServedFolder {
        self.remember(vm);
        let served = ServedFolder::open(&self.store.path(vm), self.store.providers(), options).unwrap();
        served.retry_locked().unwrap();
        served
    }

    /// Lets the host have seen what it had when an image was taken.
    fn remember(&self, image: &str) {
        for file in MEMORY {
            let _ = fs::copy(self.store.beside(&format!("{image}.{file}")), self.store.beside(file));
        }
    }

    fn keep(&self, image: &str) {
        self.remember("vm");
        self.memory.borrow().iter().for_each(|memory| memory.keep());
        for file in MEMORY {
            for image in [image, "vm"] {
                let _ = fs::copy(self.store.beside(file), self.store.beside(&format!("{image}.{file}")));
            }
        }
        self.images.borrow_mut().push(image.to_owned());
    }

    /// The names as they are now, with the list as it is now.
    fn crash(&self) -> String {
        let image = format!("image-{}", self.images.borrow().len());
        self.copy("vm", &image);
        self.keep(&image);
        image
    }

    /// The names of an earlier image, with the list as it is now.
    fn crash_with_names_of(&self, earlier: &str) {
        let image = format!("image-{}", self.images.borrow().len());
        self.copy(earlier, &image);
        let list = self.list();
        fs::copy(self.store.path("vm").join(&list), self.store.path(&image).join(&list)).unwrap();
        self.keep(&image);
    }

    fn list(&self) -> PathBuf {
        let names = fs::read_dir(self.store.path("vm")).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(PathBuf::from).find(|name| name.to_string_lossy().starts_with(MEMBERS_PREFIX)).unwrap()
    }

    fn copy(&self, from: &str, to: &str) {
        fs::create_dir(self.store.path(to)).unwrap();
        for entry in fs::read_dir(self.store.path(from)).unwrap() {
            let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
            let [from, to] = [from, to].map(|vm| format!("{vm}/{name}"));
            if entry.unwrap().file_type().unwrap().is_dir() {
                self.copy(&from, &to);
            } else if name.starts_with(MEMBERS_PREFIX) {
                fs::copy(self.store.path(&from), self.store.path(&to)).unwrap();
            } else {
                fs::hard_link(self.store.path(&from), self.store.path(&to)).unwrap();
            }
        }
    }

    /// Every file of an image opens: by the list as it was left, and once its names are decided.
    fn opens(&self, what: &str, image: &str) {
        for read_only in [true, false] {
            let access = if read_only { Access::Read } else { Access::Write };
            let served = self.served_with(image, Options { read_only, ..Options::default() });
            for path in ["a.raw", "b.raw", "c.raw", "d.raw", "s/c.raw", "t/c.raw", "notes"] {
                if self.store.path(image).join(path).exists() {
                    let opened = served.open_at(Path::new(path), access);
                    assert!(opened.is_ok(), "{what}, {image}, {path}: {}", opened.err().unwrap().chain());
                }
            }
        }
        assert_eq!(self.changing(image), Vec::<PathBuf>::new(), "{what}, {image}");
        self.remember("vm");
    }

    /// Names that the file with the list has as changing.
    fn changing(&self, image: &str) -> Vec<PathBuf> {
        let served = self.served_with(image, Options { read_only: true, ..Options::default() });
        let list = served.home_at(Path::new("a.raw")).unwrap().owner.list().unwrap().unwrap();
        list.changing().map(Path::to_path_buf).collect()
    }
}

/// A name that changes, cut off at any moment, with or without the names that have changed since the list was last settled: each file
/// opens by the name that it has.
#[test]
fn a_crash_in_any_change_of_a_name_leaves_files_that_open() {
    /// So that there are changes before which the list is settled, and changes before which it is not.
    const SETTLED_EVERY: usize = 3;
    let [a, b, c, d, deep, notes] = ["a.raw", "b.raw", "c.raw", "d.raw", "s/c.raw", "notes"].map(Path::new);
    let (s, t) = (Path::new("s"), Path::new("t"));
    let crashes = Crashes::new();
    let at = |path: &Path| crashes.store.path("vm").join(path);
    let served = crashes.served("vm");
    let home = served.home_at(a).unwrap();
    *crashes.memory.borrow_mut() = Some(Arc::clone(served.keyring().memory()));
    let rename = |from: &Path, to: &Path| fs::rename(at(from), at(to)).unwrap();
    let exchange = |one: &Path, other: &Path| {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        let dir = fs::File::open(at(Path::new(""))).unwrap();
        rustix::fs::renameat_with(&dir, one, &dir, other, flags).unwrap();
    };
    let changes: [(&str, NameChange<'_>, &dyn Fn()); 10] = [
        ("into a folder", NameChange::Renamed(c, deep), &|| rename(c, deep)),
        ("of a folder", NameChange::Renamed(s, t), &|| rename(s, t)),
        ("two disks", NameChange::Exchanged(a, b), &|| exchange(a, b)),
        ("a disk and a home file", NameChange::Exchanged(a, notes), &|| exchange(a, notes)),
        ("and back", NameChange::Exchanged(a, notes), &|| exchange(a, notes)),
        ("a further name", NameChange::Linked(b, d), &|| fs::hard_link(at(b), at(d)).unwrap()),
        ("a removed name", NameChange::Removed(b), &|| fs::remove_file(at(b)).unwrap()),
        ("in place of a disk", NameChange::Renamed(d, a), &|| rename(d, a)),
        ("a home file in place of a disk", NameChange::Renamed(notes, a), &|| rename(notes, a)),
        ("a home file where the list has a disk", NameChange::Made(b), &|| fs::write(at(b), "").unwrap()),
    ];
    let mut not_durable = vec![crashes.crash()];
    for (number, (what, change, work)) in (1..).zip(changes) {
        let first = crashes.images.borrow().len();
        let done = change_names(Some(&home), change, || {
            not_durable.iter().for_each(|names| crashes.crash_with_names_of(names));
            work();
            not_durable.push(crashes.crash());
            Ok(())
        });
        done.unwrap_or_else(|error| panic!("{what}: {}", error.chain()));
        if matches!(change, NameChange::Removed(_)) || number % SETTLED_EVERY == 0 {
            home.owner.settle().unwrap();
            not_durable = vec![crashes.crash()];
            assert_eq!(crashes.changing("vm"), Vec::<PathBuf>::new(), "{what}");
        }
        not_durable.iter().for_each(|names| crashes.crash_with_names_of(names));
        let images: Vec<String> = crashes.images.borrow()[first..].to_vec();
        images.iter().for_each(|image| crashes.opens(what, image));
        let known = home.owner.list().unwrap().unwrap();
        assert_eq!(known.changing().next(), None, "{what}");
    }
    assert_eq!(home.owner.list().unwrap().unwrap().disks.len(), 1, "only the one in `t` is left");
}

#[test]
fn a_change_that_fails_leaves_the_list_as_it_was() {
    let crashes = Crashes::new();
    let home = crashes.served("vm").home_at(Path::new("a.raw")).unwrap();
    let before = home.owner.list().unwrap().unwrap();
    let change = NameChange::Renamed(Path::new("a.raw"), Path::new("b.raw"));
    let failed =
        change_names(Some(&home), change, || Err::<(), _>(crate::error::Error::new(crate::error::Kind::Io, "x")));
    assert!(failed.is_err());
    assert_eq!(home.owner.list().unwrap().unwrap().disks, before.disks);
    crashes.opens("failed", "vm");
}

#[test]
fn names_that_were_put_off_are_settled_although_the_attributes_of_the_list_have_changed() {
    let crashes = Crashes::new();
    let [a, d] = ["a.raw", "d.raw"].map(Path::new);
    let home = crashes.served("vm").home_at(a).unwrap();
    let path = |name| crashes.store.path("vm").join(name);
    let rename = || fs::rename(path(a), path(d)).context(|| "renaming".into());
    change_names(Some(&home), NameChange::Renamed(a, d), rename).unwrap();
    assert!(!crashes.changing("vm").is_empty());
    let list = crashes.store.path("vm").join(crashes.list());
    fs::set_permissions(&list, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    home.owner.settle().unwrap();
    let settled = fs::read(&list).unwrap();
    // Damage of one copy does not bring back what the other one allowed.
    for damaged in COPY_OFFSETS {
        let at = usize::try_from(damaged).unwrap() + 60;
        fs::write(&list, [&settled[..at], &[settled[at] ^ 1], &settled[at + 1..]].concat()).unwrap();
        assert_eq!(crashes.changing("vm"), Vec::<PathBuf>::new());
    }
}
