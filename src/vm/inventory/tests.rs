use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, symlink};

use super::*;
use crate::error::Kind;
use crate::format::erasure::Erasure;
use crate::format::header::{COPY_LEN, DEFAULT_DATA_OFFSET};
use crate::format::members::{Member, MemberList};
use crate::storage::FileStorage;
use crate::store::header_area;
use crate::timestamp::Timestamp;
use crate::vm::datastore::Datastore;
use crate::vm::inventory::misplaced::{Expected, Found};

impl Datastore {
    fn inventory(&self) -> Inventory {
        Inventory::take(&File::open(self.path("")).unwrap(), &DiskNames::default()).unwrap()
    }
}

impl Inventory {
    fn at(&self, path: &str) -> &Entry {
        self.entries.iter().find(|entry| entry.path == Path::new(path)).unwrap_or_else(|| panic!("no {path}"))
    }

    fn folder(&self, path: &str) -> FolderKind {
        self.folders().find(|(entry, _)| entry.path == Path::new(path)).unwrap().1
    }
}

#[test]
fn folders_are_told_by_what_they_hold() {
    let ds = Datastore::new(&[]);
    _ = ds.make_vm("customer/web01");
    fs::create_dir(ds.path("customer/web01/nvram")).unwrap();
    _ = ds.make_vm("half");
    fs::rename(ds.path("half/vmcryptfs.home"), ds.path("half/.vmcryptfs-encrypting")).unwrap();
    _ = ds.make_vm("twice");
    fs::copy(ds.path("twice/vmcryptfs.home"), ds.path("twice/.vmcryptfs-decrypting")).unwrap();
    _ = ds.make_vm("renamed");
    fs::hard_link(ds.path("renamed/vmcryptfs.home"), ds.path("renamed/.vmcryptfs-encrypting")).unwrap();
    fs::create_dir(ds.path("parked")).unwrap();
    ds.make_disk("parked/root.raw");
    fs::write(ds.path("parked/notes.txt"), "secret").unwrap();
    fs::create_dir(ds.path("parked/logs")).unwrap();
    fs::write(ds.path("parked/logs/vm.log"), "secret").unwrap();
    fs::create_dir(ds.path("lost")).unwrap();
    fs::write(ds.path("lost/vm.vmx"), [b"VMCRYPTH".as_slice(), &[0; 600]].concat()).unwrap();
    fs::create_dir(ds.path("clear")).unwrap();
    fs::write(ds.path("clear/vm.vmx"), "displayName = \"x\"\n").unwrap();
    fs::create_dir(ds.path("notes")).unwrap();
    fs::write(ds.path("notes/todo.txt"), "x").unwrap();
    let found = ds.inventory();
    for (path, expected) in [
        ("", FolderKind::Plain),
        ("customer", FolderKind::Plain),
        ("customer/web01", FolderKind::Vm(HomeState::Encrypted)),
        ("customer/web01/nvram", FolderKind::Part),
        ("half", FolderKind::Vm(HomeState::Encrypting)),
        ("twice", FolderKind::SeveralHeaders(HomeState::Encrypted, HomeState::Decrypting)),
        ("renamed", FolderKind::Vm(HomeState::Encrypting)),
        ("parked", FolderKind::Headless),
        ("lost", FolderKind::Headless),
        ("clear", FolderKind::Clear),
        ("notes", FolderKind::Plain),
    ] {
        assert_eq!(found.folder(path), expected, "{path}");
    }
    assert_eq!(found.components().count(), 7);
    let home = found.at("customer/web01/vmcryptfs.home");
    assert_eq!(home.component_path(), Path::new("customer/web01"));
    assert_eq!(found.at("parked/root.raw").component_path(), Path::new("parked/root.raw"));
    assert_eq!(found.unreadable().count(), 0);
    let clear = |path: &str| found.at(path).in_the_clear().map(|(_, what)| what);
    assert_eq!(clear("parked/notes.txt").as_deref(), Some("in the clear: file"), "beside a disk that lost its home");
    assert!(clear("parked/logs/vm.log").is_some() && clear("notes/todo.txt").is_none());
}

#[test]
fn every_name_is_an_entry_with_what_it_is() {
    let ds = Datastore::new(&[]);
    _ = ds.make_vm("vm");
    ds.make_disk("vm/root.raw");
    ds.make_disk("vm/.vmcryptfs-new-1");
    fs::write(ds.path("vm/.vmcryptfs-new-2"), "plaintext").unwrap();
    fs::write(ds.path("vm/.vmcryptfs-foo"), "plaintext").unwrap();
    fs::write(ds.path("vm/empty"), "").unwrap();
    fs::write(ds.path("vm/stray.txt"), "secret").unwrap();
    File::create(ds.path("vm/hole.bin")).unwrap().set_len(5000).unwrap();
    File::create(ds.path("vm/blank.img")).unwrap().set_len(1 << 20).unwrap();
    fs::write(ds.path("vm").join(OsStr::from_bytes(b"d\xe9")), "x").unwrap();
    symlink("/etc/passwd", ds.path("vm/out")).unwrap();
    symlink("../../..", ds.path("vm/up")).unwrap();
    symlink("root.raw", ds.path("vm/in")).unwrap();
    symlink("AQ".repeat(40), ds.path("vm/sealed")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, ds.path("vm/fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs::copy(ds.path("vm/vmcryptfs.home"), ds.path("vm/old.home")).unwrap();
    fs::write(ds.path("vm/saved"), "VMCRYPTS cut off").unwrap();
    let found = ds.inventory();
    assert!(matches!(found.at("vm/root.raw").what, What::Disk(_)));
    assert!(found.at("vm/.vmcryptfs-new-1").reserved && !found.at("vm/root.raw").reserved);
    assert!(matches!(found.at("vm/empty").what, What::Empty(_)));
    assert!(matches!(found.at("vm/hole.bin").what, What::Empty(_)));
    let clear: Vec<_> = found.entries.iter().filter(|entry| entry.in_the_clear().is_some()).collect();
    let odd = Path::new("vm").join(OsStr::from_bytes(b"d\xe9"));
    let said = |path: &str| found.at(path).in_the_clear().unwrap().1;
    assert!(said("vm/.vmcryptfs-new-2").contains("an interrupted run has left"));
    assert!(said("vm/.vmcryptfs-foo").contains("not of vmcryptfs"), "nothing that a run makes has this name");
    let expected = [
        Path::new("vm/.vmcryptfs-foo"),
        Path::new("vm/.vmcryptfs-new-2"),
        Path::new("vm/blank.img"),
        &odd,
        Path::new("vm/in"),
        Path::new("vm/out"),
        Path::new("vm/stray.txt"),
        Path::new("vm/up"),
    ];
    assert_eq!(clear.iter().map(|entry| entry.path.as_path()).collect::<BTreeSet<_>>(), expected.into());
    for (path, expected) in [
        ("vm/out", Link::Outside("/etc/passwd".into())),
        ("vm/up", Link::Outside("../../..".into())),
        ("vm/in", Link::Inside("root.raw".into())),
        ("vm/sealed", Link::Sealed),
    ] {
        assert!(matches!(&found.at(path).what, What::Link(link) if *link == expected), "{path}: {found:?}");
    }
    assert!(matches!(found.at("vm/fifo").what, What::Special("a fifo")));
    assert!(matches!(found.at("vm/old.home").what, What::Home(_)));
    assert_eq!(found.at("vm/old.home").component_path(), Path::new("vm/old.home"));
    let unreadable: Vec<_> = found.unreadable().map(|(entry, error)| (entry.path.as_path(), error.kind())).collect();
    assert_eq!(unreadable, [(Path::new("vm/saved"), Kind::Unsupported)]);
    let entries = found.entries.iter().filter(|entry| entry.path.starts_with("vm")).count();
    // The folder itself is one, and the list of its home's disks none.
    assert_eq!(entries, fs::read_dir(ds.path("vm")).unwrap().count());
}

#[test]
fn what_lies_too_deep_is_said_and_not_passed_over() {
    let ds = Datastore::new(&[]);
    let deep = "d/".repeat(MAX_DEPTH + 1);
    fs::create_dir_all(ds.path(&deep)).unwrap();
    _ = ds.make_vm(&format!("{}vm", "d/".repeat(MAX_DEPTH - 1)));
    let found = ds.inventory();
    assert_eq!(found.components().count(), 1);
    let unreadable: Vec<_> = found.unreadable().collect();
    assert_eq!(unreadable.len(), 1);
    assert!(unreadable[0].1.chain().contains("deeper than 128 folders"));
}

#[test]
fn keys_of_both_copies_are_named_and_damage_is_told() {
    let ds = Datastore::new(&[]);
    _ = ds.make_vm("a");
    ds.make_disk("a/root.raw");
    ds.make_disk("a/gone.raw");
    let open = |path: &str| File::options().read(true).write(true).open(ds.path(path)).unwrap();
    // What an interrupted rekey leaves: the copy that does not count names another key.
    let other = Datastore::new(&[]);
    _ = other.make_vm("b");
    let mut bytes = vec![0; COPY_LEN];
    File::open(other.path("b/vmcryptfs.home")).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    open("a/vmcryptfs.home").write_all_at(&bytes, 64 << 10).unwrap();
    open("a/root.raw").write_all_at(&[7; COPY_LEN], 4 << 20).unwrap();
    let both = open("a/gone.raw");
    both.write_all_at(&[7; 100], 4000).unwrap();
    both.write_all_at(&[7; 100], (4 << 20) + 4000).unwrap();
    let found = ds.inventory();
    let headers = |path: &str| found.at(path).headers().unwrap().1;
    assert_eq!(headers("a/vmcryptfs.home").keys.len(), 2, "two copies that contradict each other: both keys count");
    assert!(headers("a/vmcryptfs.home").stored.is_err());
    assert_eq!(headers("a/root.raw").keys.len(), 1);
    assert!(headers("a/root.raw").stored.is_ok());
    assert!(headers("a/gone.raw").keys.is_empty());
    assert_eq!(found.unreadable().count(), 2);
}

#[test]
fn what_was_erased_is_known_as_that() {
    let ds = Datastore::new(&[]);
    _ = ds.make_vm("vm");
    ds.make_disk("vm/root.raw");
    for (name, kind) in [("vmcryptfs.home", ComponentKind::Home), ("root.raw", ComponentKind::Disk)] {
        let mark = Erasure { kind, time: Timestamp::from_secs(1), uuid: None }.encode().unwrap();
        let file = File::options().write(true).open(ds.path("vm").join(name)).unwrap();
        kind.copy_offsets().into_iter().for_each(|at| file.write_all_at(&mark, at).unwrap());
    }
    let found = ds.inventory();
    assert_eq!(found.folder("vm"), FolderKind::Erased);
    assert!(matches!(found.at("vm/root.raw").what, What::Erased(mark) if mark.kind == ComponentKind::Disk));
    assert_eq!(found.at("vm/vmcryptfs.home").component_path(), Path::new("vm"));
    assert_eq!((found.components().count(), found.unreadable().count()), (0, 0));
    let cut = File::options().write(true).open(ds.path("vm/root.raw")).unwrap();
    cut.set_len(DEFAULT_DATA_OFFSET / 4).unwrap();
    let storage = FileStorage::new(File::open(ds.path("vm/root.raw")).unwrap());
    assert!(header_area::erasure(&storage, ComponentKind::Disk).unwrap().is_none(), "half of a mark is none");
}

#[test]
fn what_lies_in_the_place_of_a_listed_disk_is_compared_with_the_list() {
    const NAMES: [&str; 10] =
        ["changing", "emptied", "folder", "gone", "link", "moved", "sealed", "swapped", "whole", "zeroed"];
    let ds = Datastore::new(&["vm"]);
    NAMES.iter().for_each(|name| ds.make_disk(&format!("vm/{name}")));
    let before = ds.inventory();
    let uuid = |name: &str| before.at(&format!("vm/{name}")).headers().unwrap().1.uuid.unwrap();
    let member = |name: &str| {
        let names = [(PathBuf::from(name), name != "changing")].into();
        (uuid(name), Member { dek_generation: 0, sequence: 1, names })
    };
    let list = MemberList { sequence: 1, disks: NAMES.iter().map(|name| member(name)).collect() };
    let path = |name: &str| ds.path(&format!("vm/{name}"));
    let zeroed = File::options().write(true).open(path("zeroed")).unwrap();
    ComponentKind::Disk.copy_offsets().iter().for_each(|copy| zeroed.write_all_at(&[0; COPY_LEN], *copy).unwrap());
    fs::write(path("emptied"), "").unwrap();
    fs::write(path("sealed"), [b"VMCRYPTH".as_slice(), &[0; 600]].concat()).unwrap();
    ["changing", "folder", "gone", "link"].iter().for_each(|name| fs::remove_file(path(name)).unwrap());
    symlink("whole", path("link")).unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::rename(path("swapped"), path("elsewhere")).unwrap();
    fs::rename(path("moved"), path("swapped")).unwrap();
    let found = ds.inventory();
    let home = found.at("vm/vmcryptfs.home").headers().unwrap().1.uuid.unwrap();
    let expected = Expected { home, binds_disks: true, list: Some(&list) };
    let misplaced = found.misplaced(Path::new("vm"), &expected);
    let told: Vec<_> = misplaced.iter().map(|other| (other.path.to_str().unwrap(), other.found)).collect();
    let right = [
        ("elsewhere", Found::Disk(uuid("swapped"))),
        ("emptied", Found::NoHeader),
        ("folder", Found::Other("a folder")),
        ("gone", Found::Nothing),
        ("link", Found::Other("a symbolic link")),
        ("moved", Found::Nothing),
        ("sealed", Found::HomeFile),
        ("swapped", Found::Disk(uuid("moved"))),
        ("zeroed", Found::NoHeader),
    ];
    assert_eq!(told, right);
    assert!(misplaced.iter().all(|other| other.message.contains(other.path.to_str().unwrap())));
    // Without a list only disks of other VMs are told.
    let unlisted = Expected { list: None, ..expected };
    assert_eq!(found.misplaced(Path::new("vm"), &unlisted), []);
    let of_another = Expected { home: Uuid::nil(), ..unlisted };
    assert!(found.misplaced(Path::new("vm"), &of_another).iter().any(|other| other.path == Path::new("whole")));
}
