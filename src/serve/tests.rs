//! All claims go through one seam, whatever keeps them.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::format::names::DiskNames;
use crate::key::ProviderName;
use crate::provider;
use crate::sector::SectorSize;
use crate::storage::claims::{Claim, Holder, Lost};
use crate::storage::{Access, FileStorage, Storage};
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::disk::{self, NewDisk};
use crate::vm::owner::Announce;

/// Claims that are kept nowhere: what was claimed is recorded, and claims of one kind may be refused.
#[derive(Debug, Default)]
struct Recorder {
    claimed: Mutex<Vec<Claim>>,
    refused: Mutex<Option<Claim>>,
    lost: AtomicBool,
}

impl Recorder {
    fn take(&self) -> Vec<Claim> {
        std::mem::take(&mut self.claimed.lock().unwrap())
    }
}

impl Claims for Recorder {
    fn try_claim(&self, _: &File, claim: Claim) -> io::Result<bool> {
        self.claimed.lock().unwrap().push(claim);
        Ok(*self.refused.lock().unwrap() != Some(claim))
    }

    fn is_unclaimed(&self, _: &File) -> io::Result<bool> {
        Ok(true)
    }

    fn is_data_claimed(&self, _: &File) -> io::Result<bool> {
        Ok(false)
    }

    fn holder(&self, _: &File) -> Option<Holder> {
        None
    }

    fn are_lost(&self, _: &File) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    fn second_way(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

fn assert_busy<T>(result: Result<T>) {
    assert_eq!(result.err().expect("not refused").kind(), Kind::Busy);
}

/// A new VM, unlocked, whose claims a recorder has.
fn serve_vm(dir: &Path, shared: bool) -> (ServedFolder, &'static Recorder) {
    let (config, vm) = (dir.join("config.toml"), dir.join("web01"));
    provider::add(&config, &ProviderName::new("local").unwrap(), "native", &provider::Arguments::default(), true)
        .unwrap();
    let providers = || Providers::load(&config).unwrap();
    folder::create(&vm, &providers().default_provider().unwrap().1, &DiskNames::default()).unwrap();
    let recorder: &'static Recorder = Box::leak(Box::default());
    let options = Options { claims: recorder, shared, ..Options::default() };
    let served = ServedFolder::open(&vm, providers(), options).unwrap();
    served.retry_locked().unwrap();
    (served, recorder)
}

#[test]
fn every_claim_of_a_served_folder_goes_through_its_claims() {
    let dir = tempfile::tempdir().unwrap();
    let (served, recorder) = serve_vm(dir.path(), false);
    let vm = served.path().to_path_buf();
    File::create_new(vm.join("notes")).unwrap();
    drop(served.open_at(Path::new("notes"), Access::Write).unwrap());
    assert_eq!(recorder.take(), [Claim::HomeInUse, Claim::Writer, Claim::Peek]);

    let home = served.home_at(Path::new("a.raw")).unwrap();
    let (key_id, kek) = served.keyring().kek(&home.header).unwrap();
    let new = NewDisk {
        owner: Some(folder::read_home(served.root()).unwrap().unwrap().header.claims().uuid),
        sector_size: SectorSize::DEFAULT,
        plain_len: 4096,
        label: String::new(),
        mode: 0o600,
        durable: false,
    };
    let make = |announce: &mut Announce<'_>| {
        disk::create(served.root(), "a.raw".as_ref(), &new, (&key_id, kek.as_ref()), announce)
    };
    let (file, header, dek) = home.owner.with_new_disk(Path::new("a.raw"), make).unwrap();
    served.keyring().insert(header.uuid, None, dek);
    assert_eq!(FileStorage::new(file).len().unwrap(), DEFAULT_DATA_OFFSET + 4096);
    assert_eq!(recorder.take(), [Claim::Exclusive], "of the list of disks");
    let disk = Path::new("a.raw");
    let reader = served.open_at(disk, Access::Read).unwrap();
    let (online, _) = served.vm_at(Path::new("")).unwrap();
    drop(online.claim(&Component::Disk(disk.into())).unwrap());
    assert_eq!(recorder.take(), [Claim::Peek, Claim::Exclusive, Claim::Peek], "upgraded, downgraded");
    let elsewhere = FileStorage::new(File::open(vm.join(disk)).unwrap());
    assert!(elsewhere.is_unclaimed().unwrap(), "there are no file locks beside them");

    *recorder.refused.lock().unwrap() = Some(Claim::Writer);
    assert_busy(served.open_at(disk, Access::Write));
    *recorder.refused.lock().unwrap() = Some(Claim::Exclusive);
    assert_busy(online.claim(&Component::Disk(disk.into())));
    assert_busy(online.claim(&Component::Home));
    served.open_at(disk, Access::Read).unwrap();
    drop(reader);
    *recorder.refused.lock().unwrap() = Some(Claim::HomeInUse);
    online.forget(&served.components().unwrap().iter().find_map(|found| found.unverified().cloned()).unwrap());
    served.unlock(None).unwrap();
    assert_busy(served.home_at(disk));
}

/// As on NFSv4 after a server was not reached for long: what was open is of no use, what is opened again is.
#[test]
fn a_file_whose_claim_was_lost_is_opened_again_and_not_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let (served, recorder) = serve_vm(dir.path(), true);
    let vm = served.path().to_path_buf();
    File::create_new(vm.join("nvram")).unwrap();
    let open = || served.open_at(Path::new("nvram"), Access::Write).unwrap();
    let former = open();
    former.ensure_id().unwrap();
    recorder.lost.store(true, Ordering::Relaxed);
    recorder.take();
    let next = open();
    recorder.lost.store(false, Ordering::Relaxed);
    assert_eq!(recorder.take()[..2], [Claim::HomeInUse, Claim::Writer], "its home's claim is as old");
    assert!(!Arc::ptr_eq(former.shared(), next.shared()));
    assert!(former.file().sync().is_err_and(|error| Lost::ended(&error)), "for good");
    next.file().sync().unwrap();
    drop(former);
    assert_eq!(recorder.take(), [], "a claim that was lost is not made again");
    assert!(Arc::ptr_eq(open().shared(), next.shared()));
}
