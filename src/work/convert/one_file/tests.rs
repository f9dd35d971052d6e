use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::storage::FileStorage;
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::store::plain_file::PlainFile;
use crate::vm::datastore::Datastore;
use crate::vm::home;

/// A VM folder with a home file of two names.
fn vm(content: &[u8]) -> (Datastore, Providers) {
    let store = Datastore::new(&["vm"]);
    let (vm, providers) = (store.path("vm"), store.providers());
    let opened = ClaimedFolder::open(&vm, &providers, Access::Read).unwrap();
    let made = home::create(&opened.dir, "a".as_ref(), 0o640).unwrap();
    let file = HomeFile::open(FileStorage::new(made), &opened.unlocked().unwrap().keys).unwrap();
    for (at, piece) in (0..).step_by(1 << 20).zip(content.chunks(1 << 20)) {
        file.write_at(at, piece, &mut request_buffer()).unwrap();
    }
    file.sync().unwrap();
    fs::hard_link(vm.join("a"), vm.join("b")).unwrap();
    (store, providers)
}

/// What both names lead to, which is one file: its content, and whether it is a disk.
fn content(vm: &Path, providers: &Providers) -> (Vec<u8>, bool) {
    let inode = |name: &str| fs::metadata(vm.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    let folder = ClaimedFolder::open(vm, providers, Access::Read).unwrap();
    let keys: &HomeKeys = &folder.unlocked().unwrap().keys;
    let is_disk = crate::vm::disk::is_disk(&File::open(vm.join("a")).unwrap()).unwrap();
    let form = match is_disk {
        true => {
            let keys = (providers, &folder.unlocked().unwrap().owner);
            SourceFile::claim_disk(&folder.dir, Path::new("a"), Access::Write, keys, Engine::default()).unwrap().0.form
        }
        false => TargetForm::Home(keys).open(FileStorage::new(File::open(vm.join("a")).unwrap())).unwrap(),
    };
    (whole(&form), is_disk)
}

fn whole(form: &OpenForm) -> Vec<u8> {
    let (mut bytes, mut buffer) = (Vec::new(), request_buffer());
    while (bytes.len() as u64) < form.content().plain_len() {
        let piece = form.content().read_at(bytes.len() as u64, 1 << 20, &mut buffer).unwrap();
        bytes.extend_from_slice(piece);
    }
    bytes
}

#[test]
fn a_conversion_that_is_stopped_anywhere_leaves_one_whole_form_and_is_finished_by_the_next() {
    let expected: Vec<u8> = (0..(3 << 20) + 77_u32).map(|at| (at % 241) as u8).collect();
    let (store, providers) = vm(&expected);
    let path = store.path("vm");
    let run = |to, stop_at: u32| {
        let calls = Cell::new(0);
        let mut on_progress = |_: &crate::progress::Progress| {
            calls.set(calls.get() + 1);
            if calls.get() == stop_at { Err(Error::new(Kind::Stopped, "stopped")) } else { Ok(()) }
        };
        let done = convert_file(&path, Path::new("a"), to, &providers, &mut on_progress);
        (done.map(drop).map_err(|error| error.kind()), calls.get())
    };
    for to in [StoredAs::Disk, StoredAs::HomeFile] {
        let mut stopped = 0;
        loop {
            let (done, calls) = run(to, stopped + 1);
            let (found, is_disk) = content(&path, &providers);
            assert!(found == expected, "stopped at call {calls}");
            if done.is_ok() {
                assert_eq!(is_disk, to == StoredAs::Disk);
                break;
            }
            assert_eq!((done, is_disk), (Err(Kind::Stopped), to != StoredAs::Disk));
            stopped += 1;
        }
        assert!(stopped > 2, "{stopped}");
        assert_eq!(run(to, u32::MAX).0, Err(Kind::Exists));
        let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "its names, home and list, and nothing half-made: {names:?}");
    }
}
