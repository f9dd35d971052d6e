//! A mount beside another door to the same folder.

use std::ffi::OsStr;
use std::path::Path;

use super::*;
use crate::error::Kind;
use crate::serve::{OpenFile, Options, Purpose};
use crate::storage::Access;
use crate::store::buffer::request_buffer;
use crate::store::plain_file::HEADROOM;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::datastore::Datastore;

const TEXT_LEN: usize = 9;

impl Datastore {
    /// The folder as another host has it: it shares nothing with the others but what is on disk.
    fn served(&self) -> Arc<ServedFolder> {
        self.served_with(Options::default())
    }

    fn served_with(&self, options: Options) -> Arc<ServedFolder> {
        let served = ServedFolder::open(&self.path("web01"), self.providers(), options).unwrap();
        served.retry_locked().unwrap();
        Arc::new(served)
    }
}

fn create(fs: &FileSystem, name: &str) -> (NodeNumber, HandleNumber) {
    let [uid, gid] = [rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()];
    let new = NewFile { mode: 0o600, umask: 0, uid, gid };
    let (attr, handle, _) = fs.create(ROOT, OsStr::new(name), new, OpenMode::ReadWrite).unwrap();
    (attr.number, handle)
}

fn write(fs: &FileSystem, handle: HandleNumber, offset: u64, text: &[u8; TEXT_LEN]) {
    let mut buffer = request_buffer();
    buffer[HEADROOM..][..TEXT_LEN].copy_from_slice(text);
    fs.write(handle, offset, u32::try_from(TEXT_LEN).unwrap(), &mut buffer).unwrap();
}

fn read_by_mount(fs: &FileSystem, handle: HandleNumber, offset: u64) -> Vec<u8> {
    fs.read(handle, offset, u32::try_from(TEXT_LEN).unwrap(), &mut request_buffer()).unwrap().to_vec()
}

fn read_by_door(open: &OpenFile, offset: u64) -> Vec<u8> {
    open.file().read_at(offset, TEXT_LEN, &mut request_buffer()).unwrap().to_vec()
}

fn kind<T>(result: Result<T>) -> Option<Kind> {
    result.err().map(|error| error.kind())
}

#[test]
fn a_second_door_and_a_mount_see_one_state_of_a_disk() {
    let vm = Datastore::new(&["web01"]);
    let served = vm.served();
    let fs = FileSystem::new(Arc::clone(&served), Durability::OnRequest).unwrap();
    let (node, handle) = create(&fs, "a.raw");
    write(&fs, handle, 0, b"a mount's");
    let door = served.open_at(Path::new("a.raw"), Access::Write).unwrap();
    assert_eq!(read_by_door(&door, 0), b"a mount's");
    door.file().write_at(5, b" door", &mut request_buffer()).unwrap();
    door.file().write_at(1 << 20, b"the end..", &mut request_buffer()).unwrap();
    assert_eq!(read_by_mount(&fs, handle, 0), b"a mou doo");
    assert_eq!(read_by_mount(&fs, handle, 1 << 20), b"the end..");
    assert_eq!(fs.attributes(node).unwrap().size, (1 << 20) + TEXT_LEN as u64);

    // The claim for writing holds for both doors, and ends with the last of them. Readers elsewhere see what is written.
    let elsewhere = vm.served();
    let open_elsewhere = |access| elsewhere.open_at(Path::new("a.raw"), access);
    let caller = Caller { uid: 0, gid: 0, pid: 0 };
    assert_eq!(kind(open_elsewhere(Access::Write)), Some(Kind::Busy));
    let reader = open_elsewhere(Access::Read).unwrap();
    assert_eq!(read_by_door(&reader, 0), b"a mou doo");
    fs.close(handle);
    assert_eq!(kind(open_elsewhere(Access::Write)), Some(Kind::Busy));
    assert_eq!(kind(served.lock(None)), Some(Kind::Busy), "its key is in use");
    let (reading, _) = fs.open_file(node, OpenMode::Read, &caller).unwrap();
    door.file().write_at(1 << 21, b"the end..", &mut request_buffer()).unwrap();
    drop(door);

    // It goes over to another one that has the file open to read already, with the length that the file has by then.
    let other = open_elsewhere(Access::Write).unwrap();
    assert_eq!(read_by_door(&reader, 1 << 21), b"the end..");
    other.file().write_at(3 << 20, b"the other", &mut request_buffer()).unwrap();
    assert_eq!(kind(fs.open_file(node, OpenMode::ReadWrite, &caller)), Some(Kind::Busy));
    assert_eq!(fs.attributes(node).unwrap().size, (3 << 20) + TEXT_LEN as u64);
    assert_eq!(read_by_mount(&fs, reading, 3 << 20), b"the other");
    drop(other);

    // And back.
    let (handle, _) = fs.open_file(node, OpenMode::ReadWrite, &caller).unwrap();
    write(&fs, handle, 0, b"once more");
    assert_eq!(read_by_door(&reader, 0), b"once more");

    // Work on the header shuts out readers elsewhere, too.
    let (online, _) = served.vm_at(Path::new("")).unwrap();
    let claim = || online.claim(&Component::Disk("a.raw".into()));
    assert_eq!(kind(claim()), Some(Kind::Busy));
    drop(reader);
    let claimed = claim().unwrap();
    assert_eq!(kind(open_elsewhere(Access::Read)), Some(Kind::Busy));
    drop(claimed);
    drop(open_elsewhere(Access::Read).unwrap());
    assert_eq!(kind(open_elsewhere(Access::Write)), Some(Kind::Busy), "a handle still writes");

    // A stable reader, too, shuts out writers elsewhere.
    fs.close(handle);
    let open = served.open_at(Path::new("a.raw"), Access::Read).unwrap();
    let stable = open.shared().begin(Purpose::ReadStable).unwrap();
    assert_eq!(kind(open_elsewhere(Access::Write)), Some(Kind::Busy));
    drop(stable);
    drop(open_elsewhere(Access::Write).unwrap());
}

#[test]
fn an_empty_file_becomes_a_disk_by_either_door() {
    let vm = Datastore::new(&["web01"]);
    let served = vm.served();
    let fs = FileSystem::new(Arc::clone(&served), Durability::OnRequest).unwrap();
    let (_, handle) = create(&fs, "image");
    let door = served.open_at(Path::new("image"), Access::Write).unwrap();
    let header = b"QFI\xfb\0\0\0\x03\0";
    assert!(served.prepare_first_write(&door, 0, header, || Some("image".into())).unwrap());
    door.file().write_at(0, header, &mut request_buffer()).unwrap();
    assert!(door.disk().is_some());
    assert_eq!(read_by_mount(&fs, handle, 0), header);
    fs.close(handle);
    drop(door);
    let found = fs.lookup(ROOT, OsStr::new("image")).unwrap();
    assert_eq!(found.size, TEXT_LEN as u64);
    assert!(vm.served().open_at(Path::new("image"), Access::Read).unwrap().disk().is_some());
}

#[test]
fn nothing_is_cached_of_what_other_hosts_use() {
    let vm = Datastore::new(&["web01"]);
    for shared in [false, true] {
        let served = vm.served_with(Options { shared, ..Options::default() });
        let fs = FileSystem::new(served, Durability::OnRequest).unwrap();
        let (number, handle) = create(&fs, if shared { "b" } else { "a" });
        fs.close(handle);
        let caller = Caller { uid: 0, gid: 0, pid: 0 };
        let expected = if shared { CacheMode::Direct } else { CacheMode::Kernel };
        assert_eq!(fs.open_file(number, OpenMode::Read, &caller).unwrap().1, expected);
        assert_eq!(fs.attributes(number).unwrap().lasting, !shared);
        assert_eq!(fs.attributes(ROOT).unwrap().lasting, !shared);
    }
}
