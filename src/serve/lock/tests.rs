use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::*;
use crate::crypto::random;
use crate::error::Kind;
use crate::format::disk_kind::DiskShape;
use crate::format::header::{COPY_LEN, ComponentKind, Header, Shape, Slot, UnverifiedHeader};
use crate::key::{KeyCheck, KeyId, ProviderName, WrappedDek};
use crate::sector::SectorSize;
use crate::serve::{MAX_COMPONENTS, Options};
use crate::storage::Access;
use crate::vm::datastore::Datastore;

/// A disk's header that has the UUID of another component, and a provider that this host does not know.
fn forged(uuid: Uuid) -> Vec<u8> {
    let key_id = KeyId::new(ProviderName::new("elsewhere").unwrap(), "1").unwrap();
    let slot = Slot { key_id, check: KeyCheck([0; 8]), wrapped: WrappedDek(vec![0; 72]) };
    let shape = Shape::Disk(DiskShape::new(SectorSize::DEFAULT));
    Header::new(uuid, shape, String::new(), slot).encode(&random::disk_dek().unwrap()).unwrap()
}

fn first_copy(file: &Path) -> UnverifiedHeader {
    let mut copy = [0; COPY_LEN];
    File::open(file).unwrap().read_exact_at(&mut copy, 0).unwrap();
    UnverifiedHeader::decode(&copy).unwrap()
}

/// Whoever can write `evil` can write any UUID there: it says nothing about the component that has it.
#[test]
fn forged_header_locks_only_itself() {
    let store = Datastore::new(&["bank", "evil"]);
    store.make_disk("bank/root.raw");
    let genuine = ["bank/vmcryptfs.home", "bank/root.raw"].map(|file| first_copy(&store.path(file)));
    let served = ServedFolder::open(&store.path(""), store.providers(), Options::default()).unwrap();
    let told = std::sync::Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&told);
    served.keyring().watch(move |change| {
        record.lock().unwrap().extend(change.header.map(|header| (header.digest(), change.error.is_some())));
    });
    served.retry_locked().unwrap();
    let open = |path: &str| served.retry_after_fetch(|| served.open_at(Path::new(path), Access::Read)).map(drop);
    File::create_new(store.path("bank/notes")).unwrap();
    let bank_opens = |when: &str| {
        for path in ["bank/notes", "bank/root.raw"] {
            open(path).unwrap_or_else(|error| panic!("{path} {when}: {}", error.chain()));
        }
        let is_unlocked = |header| matches!(served.keyring().state(header), Some(LockState::Unlocked(_)));
        assert!(genuine.iter().all(is_unlocked), "{when}");
    };
    bank_opens("at first");
    told.lock().unwrap().clear();

    let names = ["evil/home.raw", "evil/root.raw"];
    for (name, genuine) in names.iter().zip(&genuine) {
        let file = File::create_new(store.path(name)).unwrap();
        let copy = forged(genuine.claims().uuid);
        ComponentKind::Disk.copy_offsets().iter().for_each(|offset| file.write_all_at(&copy, *offset).unwrap());
        assert_eq!(open(name).unwrap_err().kind(), Kind::KeyUnavailable);
    }
    bank_opens("after the forged ones were tried");
    served.unlock(None).unwrap();
    served.retry_locked().unwrap();
    bank_opens("after all were tried");
    served.lock(Some(Path::new("evil"))).unwrap();
    bank_opens("after `evil` was locked");

    let of_bank = |told: &&(_, bool)| genuine.iter().any(|header| header.digest() == told.0);
    assert_eq!(told.lock().unwrap().iter().filter(of_bank).count(), 0, "nothing happened to the bank's keys");
    let forged = names.map(|name| first_copy(&store.path(name)));
    for (header, path) in forged.iter().zip(names).chain(genuine.iter().zip(["bank", "bank/root.raw"])) {
        assert_eq!(served.component_path(header), Some(store.path(path)));
    }
    assert!(forged.iter().all(|header| served.keyring().last_failure(header).is_some()));
    assert!(genuine.iter().all(|header| served.keyring().last_failure(header).is_none()));

    served.lock(Some(Path::new("bank"))).unwrap();
    assert_eq!(open("bank/root.raw").unwrap_err().kind(), Kind::KeyUnavailable, "the key is gone");
    served.unlock(Some(Path::new("bank"))).unwrap();
    bank_opens("again");
    let locked = served.keyring().count().1;
    names.iter().for_each(|name| fs::remove_file(store.path(name)).unwrap());
    served.components().unwrap();
    assert_eq!((locked, served.keyring().count().1), (3, 1), "what is gone is forgotten; the home of `evil` is locked");
}

/// Copies of one forged header: what one VM folder can cost is bounded, and its own disk is served.
#[test]
fn forged_components_beyond_the_bound_are_left_out() {
    let store = Datastore::new(&["bank", "evil"]);
    store.make_disk("evil/zz.raw");
    store.make_disk("bank/root.raw");
    let served = ServedFolder::open(&store.path(""), store.providers(), Options::default()).unwrap();
    served.retry_locked().unwrap();
    let copy = forged(random::uuid().unwrap());
    for number in 0..MAX_COMPONENTS {
        let file = File::create_new(store.path(&format!("evil/{number:04}.raw"))).unwrap();
        ComponentKind::Disk.copy_offsets().iter().for_each(|offset| file.write_all_at(&copy, *offset).unwrap());
    }
    let shown = served.components().unwrap();
    let has = |path: &str| shown.iter().any(|component| component.path == Path::new(path));
    assert_eq!((shown.len(), served.left_out()), (MAX_COMPONENTS + 2, 2));
    assert!(has("bank") && has("bank/root.raw") && has("evil") && has("evil/zz.raw"), "what is unlocked stays");
    assert!(has("evil/0000.raw") && !has(&format!("evil/{:04}.raw", MAX_COMPONENTS - 1)));

    let again = ServedFolder::open(&store.path(""), store.providers(), Options::default()).unwrap();
    again.retry_locked().unwrap();
    let open = |path| again.retry_after_fetch(|| again.open_at(Path::new(path), Access::Read)).map(drop);
    open("evil/zz.raw").unwrap_or_else(|error| panic!("left out, and opened all the same: {}", error.chain()));
}
