use std::path::Path;
use std::time::Duration;

use super::*;
use crate::error::{Error, Kind};
use crate::progress::Unit;
use crate::serve::{NameChange, Opened, Options, change_names};
use crate::storage::Access;
use crate::storage::claims::{Claim, FileLocks};
use crate::store::buffer::request_buffer;
use crate::sys::page_cache::is_cached;
use crate::vm::access::{OfflineVm, VmAccess};
use crate::vm::component::Component;
use crate::vm::datastore::Datastore;
use crate::vm::folder;
use crate::work::deep_rekey::{DeepRekey, DeepRekeyed};
use crate::work::rekey::Rekey;

/// Mounts of it know nothing of each other, as those of two hosts.
impl Datastore {
    fn mount(&self) -> ServedFolder {
        self.mount_with(Options::default())
    }

    fn mount_with(&self, options: Options) -> ServedFolder {
        let mount = ServedFolder::open(&self.path(""), self.providers(), options).unwrap();
        mount.retry_locked().unwrap();
        mount
    }

    fn unmounted(&self, vm: &str) -> OfflineVm {
        OfflineVm::open(&self.path(vm), self.providers()).unwrap()
    }

    fn deep_rekey(&self, vm: &str) -> Result<DeepRekeyed> {
        DeepRekey::default().run(&self.unmounted(vm), &mut |_| Ok(()))
    }
}

/// Makes a home file and writes it; it stays open.
fn write(folder: &ServedFolder, path: &str, text: &str) -> Opened {
    File::create_new(folder.path().join(path)).unwrap();
    let open = folder.open_at(Path::new(path), Access::Write).unwrap();
    open.file().write_at(0, text.as_bytes(), &mut request_buffer()).unwrap();
    open
}

fn read(folder: &ServedFolder, path: &str) -> Result<String> {
    let open = folder.open_at(Path::new(path), Access::Read)?;
    let mut buffer = request_buffer();
    open.file().read_at(0, 4096, &mut buffer).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
}

fn assert_busy<T>(result: Result<T>, words: &str) {
    let error = result.err().expect("not refused");
    assert!(error.kind() == Kind::Busy && error.chain().contains(words), "{}", error.chain());
}

/// Two mounts that cannot be asked by the process that rekeys: what either of them has written stays readable.
#[test]
fn no_home_gets_another_dek_while_a_mount_can_still_write_under_the_old_one() {
    let store = Datastore::new(&["web01"]);
    let (mount, other) = (store.mount(), store.mount());
    let open = write(&mount, "web01/web01.vmx", "old");
    assert_busy(store.deep_rekey("web01"), "web01.vmx is open");
    drop(open);
    assert_eq!(read(&other, "web01/web01.vmx").unwrap(), "old");
    for user in [&mount, &other] {
        assert_busy(store.deep_rekey("web01"), "unmount it there first");
        let unused = store.unmounted("web01");
        assert!(!Rekey::default().run(&unused, &mut |_| Ok(())).unwrap().resumed, "another KEK does no harm");
        user.homes.forget();
    }
    assert!(!store.deep_rekey("web01").unwrap().resumed);
    let (first, second) = (write(&mount, "web01/new.log", "new"), write(&other, "web01/newer.log", "newer"));
    drop((first, second));
    for reader in [&mount, &other, &store.mount()] {
        for (name, text) in [("web01.vmx", "old"), ("new.log", "new"), ("newer.log", "newer")] {
            assert_eq!(read(reader, &format!("web01/{name}")).unwrap(), text);
        }
    }
}

#[test]
fn a_home_whose_keys_are_exchanged_is_in_use() {
    let store = Datastore::new(&["web01", "web02"]);
    let mount = store.mount();
    drop(write(&mount, "web01/web01.vmx", "old"));
    mount.homes.forget();
    let stopped = DeepRekey::default().run(&store.unmounted("web01"), &mut |progress| {
        if progress.what != "home" {
            return Ok(()); // it has not begun
        }
        assert_busy(read(&mount, "web01/web01.vmx"), "another process or host exchanges the keys");
        drop(write(&mount, &format!("web02/{:?}", std::time::Instant::now()), "beside it"));
        Err(Error::new(Kind::Stopped, "enough"))
    });
    assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
    assert_eq!(read(&mount, "web01/web01.vmx").unwrap(), "old", "in transition");
    mount.homes.forget();
    assert!(store.deep_rekey("web01").unwrap().resumed);
    assert_eq!(read(&mount, "web01/web01.vmx").unwrap(), "old");
}

/// A mount of thousands of VM folders keeps few descriptors; what it let go of is unlocked again.
#[test]
fn only_the_homes_that_were_used_last_are_kept() {
    let names: Vec<String> = (0..=MAX_KEPT).map(|number| format!("vm{number}")).collect();
    let store = Datastore::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let mount = store.mount();
    for name in &names {
        drop(write(&mount, &format!("{name}/a.log"), name));
        read(&mount, "vm0/a.log").unwrap(); // the one used last, again and again
    }
    assert_eq!(mount.homes.kept.read().len(), MAX_KEPT);
    for name in names.iter().filter(|name| *name != "vm1") {
        assert_busy(store.deep_rekey(name), "unmount it there first");
    }
    store.deep_rekey("vm1").unwrap();
    drop(write(&mount, "vm1/b.log", "after"));
    assert_eq!(read(&store.mount(), "vm1/b.log").unwrap(), "after");
}

/// Nothing settles the list of disks of a home that is not kept.
#[test]
fn names_are_settled_when_a_home_is_no_longer_kept() {
    let names: Vec<String> = (0..=MAX_KEPT).map(|number| format!("vm{number}")).collect();
    let store = Datastore::new(&names.iter().map(String::as_str).collect::<Vec<_>>());
    store.make_disk("vm0/a.raw");
    let mount = store.mount();
    let is_settled = || {
        let look = store.mount_with(Options { read_only: true, ..Options::default() });
        look.home_at(Path::new("vm0/a.raw")).unwrap().owner.list().unwrap().unwrap().changing().next().is_none()
    };
    let path = |name: &str| store.path("vm0").join(name);
    let others_are_used =
        || names[1..].iter().for_each(|name| drop(mount.home_at(&Path::new(name).join("a")).unwrap()));
    for (from, to, leaves) in
        [("a.raw", "b.raw", &others_are_used as &dyn Fn()), ("b.raw", "a.raw", &|| mount.homes.forget())]
    {
        let home = mount.home_at(Path::new("vm0/a.raw")).unwrap();
        let change = NameChange::Renamed(Path::new(from), Path::new(to));
        let rename = || std::fs::rename(path(from), path(to)).context(|| "renaming".into());
        change_names(Some(&home), change, rename).unwrap();
        assert!(!is_settled());
        leaves();
        assert!(is_settled(), "{to}");
    }
}

#[test]
fn a_file_that_is_open_keeps_its_home_in_use() {
    let store = Datastore::new(&["web01"]);
    let mount = store.mount();
    let open = write(&mount, "web01/web01.vmx", "old");
    mount.homes.forget();
    let dir = folder::open_dir(&store.path("web01")).unwrap();
    let header = File::options().read(true).write(true).open(store.path("web01").join(HOME_FILE)).unwrap();
    let header = crate::storage::FileStorage::new(header);
    assert_busy(header.claim(Claim::HomeExclusive), "unmount it there first");
    drop(open);
    header.claim(Claim::HomeExclusive).unwrap();
    assert_busy(folder::use_home(&dir, &FileLocks), "another process or host exchanges the keys");
}

/// The kernel reports a close after the program that closed has continued.
#[test]
fn a_command_waits_for_what_is_being_closed() {
    let store = Datastore::new(&["web01"]);
    let mount = store.mount();
    let vm = Path::new("web01");
    let claim = || mount.vm_at(vm).unwrap().0.claim_exclusive(&Component::Home, &crate::progress::to_the_end).map(drop);
    let lock = || mount.lock(Some(vm)).map(drop);
    for command in [&claim as &(dyn Fn() -> Result<()> + Sync), &lock] {
        let open = write(&mount, "web01/web01.vmx", "text");
        assert_busy(command(), "web01.vmx is open");
        std::thread::scope(|scope| {
            let closes = scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                drop(open);
            });
            command().unwrap();
            closes.join().unwrap();
        });
        mount.unlock(None).unwrap();
        std::fs::remove_file(store.path("web01").join("web01.vmx")).unwrap();
    }
}

fn len(folder: &ServedFolder, path: &str) -> u64 {
    folder.open_at(Path::new(path), Access::Read).unwrap().plain_len()
}

/// As nvram of a guest that migrates: its target has read it when its source writes it for the last time.
fn goes_over(shared: bool) {
    let store = Datastore::new(&["web01"]);
    let mount = || store.mount_with(Options { shared, ..Options::default() });
    let (mount, other) = (mount(), mount());
    let path = Path::new("web01/nvram");
    let source = write(&mount, "web01/nvram", "at the source");
    let target = other.open_at(path, Access::Read).unwrap();
    let read_by = |open: &Opened| open.file().read_at(0, 4096, &mut request_buffer()).map(<[u8]>::to_vec);
    assert_eq!(read_by(&target).unwrap(), b"at the source");
    assert_busy(other.open_at(path, Access::Write).map(drop), "in use: process");
    source.file().write_at(0, b"at the end of it", &mut request_buffer()).unwrap();
    source.file().set_len(1 << 20).unwrap();
    assert_eq!((target.plain_len(), &read_by(&target).unwrap()[..16]), (1 << 20, &b"at the end of it"[..]));
    drop(source);
    let writer = other.open_at(path, Access::Write).unwrap();
    assert_eq!(writer.plain_len(), 1 << 20);
    writer.file().write_at(1 << 20, b"at the target", &mut request_buffer()).unwrap();
    drop((writer, target));
    assert_eq!(len(&mount, "web01/nvram"), (1 << 20) + 13);
    // Nothing that one of them knew is taken for damage by the other.
    for folder in [&mount, &other, &mount] {
        let kept = folder.open_at(path, Access::Read).unwrap();
        let open = folder.open_at(path, Access::Write).unwrap();
        open.file().set_len(5).unwrap();
        open.file().write_at(0, b"short", &mut request_buffer()).unwrap();
        open.file().sync().unwrap();
        drop(open);
        assert_eq!(read_by(&kept).unwrap(), b"short");
    }
}

#[test]
fn a_home_file_goes_over_to_a_mount_that_has_read_it() {
    goes_over(false);
    goes_over(true);
}

#[test]
fn a_shared_file_that_is_opened_once_more_is_read_anew() {
    let store = Datastore::new(&["web01"]);
    let backing = |path: &str| File::options().read(true).write(true).open(store.path(path)).unwrap();
    if rustix::fs::fstatfs(backing("web01/vmcryptfs.home")).unwrap().f_type == libc::TMPFS_MAGIC {
        return crate::sys::not_run::not_run("what lies in memory stays there");
    }
    for shared in [true, false] {
        let mount = store.mount_with(Options { shared, ..Options::default() });
        let path = format!("web01/log{shared}");
        let writer = write(&mount, &path, &"x".repeat(64 << 10));
        writer.file().sync().unwrap();
        let reader = mount.open_at(Path::new(&path), Access::Read).unwrap();
        drop(writer);
        reader.file().read_at(0, 64 << 10, &mut request_buffer()).unwrap();
        let file = backing(&path);
        let is_any_cached = || (0..file.metadata().unwrap().len()).step_by(4096).any(|at| is_cached(&file, at));
        assert!(is_any_cached());
        let again = mount.open_at(Path::new(&path), Access::Read).unwrap();
        assert_eq!(is_any_cached(), !shared);
        drop((reader, again));
    }
}

#[test]
fn a_home_file_is_never_met_half_written_by_another_mount() {
    let store = Datastore::new(&["web01"]);
    let (mount, other) = (store.mount(), store.mount());
    let writer = write(&mount, "web01/log", "");
    writer.file().write_at(0, &[0; 4096], &mut request_buffer()).unwrap();
    let reader = other.open_at(Path::new("web01/log"), Access::Read).unwrap();
    let is_done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..300_u32 {
                let pattern = u8::try_from(round % 251).unwrap();
                let file = writer.file();
                file.write_at(0, &[pattern; 8192], &mut request_buffer()).unwrap();
                if round.is_multiple_of(7) {
                    file.sync().unwrap();
                }
                if round.is_multiple_of(11) {
                    file.set_len(4096).unwrap();
                }
            }
            is_done.store(true, Ordering::Release);
        });
        let mut reads = 0;
        while !is_done.load(Ordering::Acquire) || reads == 0 {
            let mut buffer = request_buffer();
            let bytes = reader.file().read_at(0, 4096, &mut buffer).unwrap();
            assert!(bytes.len() == 4096 && bytes.iter().all(|byte| *byte == bytes[0]));
            reads += 1;
        }
    });
}

#[test]
fn a_file_that_another_mount_made_anew_is_opened_again() {
    let store = Datastore::new(&["web01"]);
    let (mount, other) = (store.mount(), store.mount());
    let path = Path::new("web01/qemu.log");
    File::create_new(store.path("web01/qemu.log")).unwrap();
    // Once as a file that was empty when it was opened, once as one that was not.
    for text in ["first", "second"] {
        let kept = other.open_at(path, Access::Read).unwrap();
        let open = mount.open_at(path, Access::Write).unwrap();
        open.file().set_len(0).unwrap();
        open.storage().file().set_len(0).unwrap();
        drop(open);
        let open = mount.open_at(path, Access::Write).unwrap();
        open.file().write_at(0, text.as_bytes(), &mut request_buffer()).unwrap();
        drop(open);
        assert_eq!(read(&other, "web01/qemu.log").unwrap(), text);
        assert_eq!(read(&other, "web01/qemu.log").unwrap(), text);
        drop(kept);
    }
}

/// No mount is asked by who rekeys, as if it were on another host.
#[test]
fn a_disk_is_not_rekeyed_while_it_moves_and_is_read_anew_after() {
    let store = Datastore::new(&["web01"]);
    store.make_disk("web01/a.raw");
    let (mount, other) = (store.mount(), store.mount());
    let path = Path::new("web01/a.raw");
    let rekey = || DeepRekey { disks: vec!["a.raw".into()], ..DeepRekey::default() };
    let source = mount.open_at(path, Access::Write).unwrap();
    source.file().set_len(1 << 20).unwrap();
    source.file().write_at(0, b"before", &mut request_buffer()).unwrap();
    let target = other.open_at(path, Access::Read).unwrap();
    let run = || rekey().run(&store.unmounted("web01"), &mut |_| Ok(()));
    assert_busy(run(), "in use: process");
    drop(source);
    assert_busy(run(), "in use");
    drop(target);
    let mut reports = 0;
    let rekeyed = rekey().run(&store.unmounted("web01"), &mut |progress| {
        if progress.unit == Unit::Files {
            return Ok(()); // it looks for the disk, and has not claimed it yet
        }
        reports += 1;
        assert_busy(mount.open_at(path, Access::Read).map(drop), "in use");
        assert_busy(other.open_at(path, Access::Write).map(drop), "in use");
        Ok(())
    });
    rekeyed.unwrap();
    assert!(reports > 0);
    let grown = other.open_at(path, Access::Write).unwrap();
    grown.file().set_len(3 << 20).unwrap();
    drop(grown);
    let again = mount.open_at(path, Access::Write).unwrap();
    assert_eq!((again.plain_len(), read(&mount, "web01/a.raw").unwrap().get(..6)), (3 << 20, Some("before")));
}
