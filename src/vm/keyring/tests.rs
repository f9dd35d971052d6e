//! The life of keys in memory: which are there, which are forgotten, and what is said of those that are not.

mod values;

use std::fs::File;

use super::*;
use crate::key::ProviderName;
use crate::provider::{Failure, Trouble};
use crate::vm::datastore::Datastore;
use crate::vm::{disk, folder};

/// The headers of a home and of its disk, and what happened to keys, by what it was and whether it failed.
struct Ring {
    ds: Datastore,
    home: UnverifiedHeader,
    disk: UnverifiedHeader,
    keyring: Keyring,
    told: Arc<Mutex<Vec<(NoticeSubject, bool)>>>,
}

impl Ring {
    fn new() -> Self {
        let ds = Datastore::new(&["vm"]);
        ds.make_disk("vm/root.raw");
        let home = folder::read_home(&File::open(ds.path("vm")).unwrap()).unwrap().unwrap().header;
        let disk = disk::read_header(File::open(ds.path("vm/root.raw")).unwrap()).unwrap().1.header;
        let (keyring, told) = (Keyring::new(ds.providers()), Arc::<Mutex<Vec<_>>>::default());
        let record = Arc::clone(&told);
        keyring.watch(move |change| record.lock().push((change.what, change.error.is_some())));
        Self { ds, home, disk, keyring, told }
    }

    fn told(&self, what: NoticeSubject) -> Vec<bool> {
        std::mem::take(&mut *self.told.lock()).iter().filter(|told| told.0 == what).map(|told| told.1).collect()
    }

    fn unlock_all(&self) {
        self.keyring.unlock_all([&self.home, &self.disk].into_iter());
    }

    fn home(&self) -> Header {
        self.home.clone().verify(&self.keyring.dek(&self.home).unwrap()).unwrap()
    }
}

fn failure(trouble: Trouble) -> Error {
    Error::with_source(Kind::KeyUnavailable, "asking", Failure::new(trouble, "no key"))
}

#[test]
fn a_component_that_is_locked_has_no_key_in_memory_until_it_is_unlocked() {
    let ring = Ring::new();
    let (keyring, disk) = (&ring.keyring, ring.disk.claims().uuid);
    assert!(keyring.state(&ring.disk).is_none() && !keyring.has_dek(disk, None) && keyring.count() == (0, 0));
    ring.unlock_all();
    assert_eq!((keyring.count(), ring.told(NoticeSubject::Unlock)), ((2, 0), vec![false, false]));
    ring.unlock_all();
    assert!(ring.told(NoticeSubject::Unlock).is_empty(), "nothing new");
    let home = ring.home();
    keyring.lock(&ring.disk);
    assert_eq!((keyring.count(), ring.told(NoticeSubject::Lock)), ((1, 1), vec![false]));
    assert!(!keyring.has_dek(disk, None) && keyring.known_dek(&ring.disk).is_none());
    assert!(keyring.has_dek(home.uuid, None) && keyring.kept_kek(&home).is_some(), "the home's keys stay");
    let refused = keyring.dek(&ring.disk).unwrap_err();
    assert_eq!((refused.kind(), refused.to_string().contains("by command")), (Kind::KeyUnavailable, true));
    keyring.lock(&ring.home);
    assert_eq!(keyring.count(), (0, 2));
    assert!(keyring.kept_kek(&home).is_none(), "a home's KEK goes with its DEK");
    assert!(!keyring.waits_for_provider(), "what was locked by command waits for a command");
    ring.told.lock().clear();
    ring.unlock_all();
    assert_eq!((keyring.count(), ring.told(NoticeSubject::Unlock)), ((2, 0), vec![false, false]));
    assert!(keyring.kept_kek(&home).is_some());
}

/// A header that somebody made with the UUID of a component is locked by itself, and takes no key away.
#[test]
fn locking_a_header_that_nothing_proved_leaves_the_component_unlocked() {
    let (ring, other) = (Ring::new(), Ring::new());
    ring.unlock_all();
    let home = ring.home();
    let strange = Header { uuid: home.uuid, ..other.home() };
    let dek = other.keyring.dek(&other.home).unwrap();
    let strange = UnverifiedHeader::decode(&strange.encode(&dek).unwrap()).unwrap();
    ring.keyring.lock(&strange);
    assert!(ring.keyring.known_dek(&ring.home).is_some() && ring.keyring.kept_kek(&home).is_some());
    assert!(ring.keyring.known_dek(&strange).is_none());
    assert!(matches!(ring.keyring.state(&strange), Some(LockState::Locked { by_command: true, .. })));
    assert_eq!(ring.keyring.count(), (2, 1));
    // What is not there any more is forgotten.
    ring.keyring.retain([&ring.home, &ring.disk].into_iter());
    assert!(ring.keyring.state(&strange).is_none() && ring.keyring.count() == (2, 0));
}

/// A copy of a VM folder has its UUIDs, and may have other keys by now.
#[test]
fn copies_of_one_component_are_locked_and_unlocked_each_by_itself() {
    let ring = Ring::new();
    ring.unlock_all();
    let (home, dek) = (ring.home(), ring.keyring.dek(&ring.home).unwrap());
    // The same, in another place; and the same after the copy got keys of its own.
    let copy = ring.home.clone().at(Some((1, 2)));
    let other_dek = crate::crypto::random::home_dek().unwrap();
    let rekeyed = Header { sequence: home.sequence + 1, ..home.clone() };
    let rekeyed = UnverifiedHeader::decode(&rekeyed.encode(&other_dek).unwrap()).unwrap().at(Some((1, 3)));
    ring.keyring.insert(home.uuid, copy.place(), dek.duplicate());
    ring.keyring.insert(home.uuid, rekeyed.place(), other_dek);
    let all = [&ring.home, &copy, &rekeyed];
    ring.keyring.retain(all.into_iter().chain([&ring.disk]));
    let unlocked = || all.map(|header| ring.keyring.known_dek(header).is_some());
    assert_eq!((unlocked(), ring.keyring.count()), ([true; 3], (4, 0)));
    ring.keyring.lock(&copy);
    assert_eq!((unlocked(), ring.keyring.count()), ([true, false, true], (3, 1)));
    assert!(ring.keyring.kept_kek(&home).is_some());
    ring.keyring.lock(&ring.home);
    assert_eq!(unlocked(), [false, false, true]);
    ring.unlock_all();
    assert_eq!(unlocked(), [true, false, true]);
    // A file that took the place of another has its keys, and with it they go.
    let moved = ring.home.clone().at(Some((1, 4)));
    assert!(ring.keyring.known_dek(&moved).is_some());
    ring.keyring.retain([&moved, &ring.disk].into_iter());
    ring.keyring.lock(&moved);
    assert_eq!(unlocked(), [false; 3], "nothing is left of what is not there");
    assert!(ring.keyring.kept_kek(&home).is_none());
}

/// As a file is that was copied and renamed, or restored. Its keys are at hand: that of its home, or its provider.
#[test]
fn what_is_locked_by_command_stays_so_when_another_file_takes_its_place() {
    let ring = Ring::new();
    let keyring = &ring.keyring;
    ring.unlock_all();
    let moved = [ring.home.clone().at(Some((1, 2))), ring.disk.clone().at(Some((1, 3)))];
    [&ring.home, &ring.disk].into_iter().for_each(|header| keyring.lock(header));
    for is_looked_at in [false, true] {
        if is_looked_at {
            keyring.retain(moved.iter());
        }
        for header in &moved {
            let refused = keyring.dek(header).unwrap_err();
            assert!(refused.to_string().contains("by command"), "{}", refused.chain());
            assert!(matches!(keyring.state(header), Some(LockState::Locked { by_command: true, .. })));
        }
    }
    assert_eq!(keyring.count(), (0, 2));
    keyring.unlock_again(moved.iter());
    assert!(moved.iter().all(|header| keyring.known_dek(header).is_some()));
    assert_eq!(keyring.count(), (2, 0));
}

#[test]
fn a_failure_is_said_once_and_again_when_it_is_another_one() {
    let ring = Ring::new();
    let keyring = &ring.keyring;
    let fail = |error| keyring.decide(&ring.disk, Err(error));
    keyring.expect(&ring.disk);
    assert!(keyring.waits_for_provider() && keyring.count() == (0, 1));
    fail(failure(Trouble::Silent));
    let first = keyring.last_failure(&ring.disk).unwrap();
    fail(failure(Trouble::Silent));
    assert_eq!(ring.told(NoticeSubject::Unlock), [true], "the same again");
    assert_eq!(keyring.last_failure(&ring.disk).unwrap().since, first.since);
    assert!(keyring.waits_for_provider());
    fail(failure(Trouble::Denied));
    fail(Error::new(Kind::Corrupt, "a slot is damaged"));
    assert_eq!(ring.told(NoticeSubject::Unlock), [true, true]);
    assert!(!keyring.waits_for_provider(), "no provider mends damage");
    assert!(keyring.last_failure(&ring.disk).unwrap().reason.contains("damaged"));
    keyring.expect(&ring.disk);
    assert!(!keyring.waits_for_provider(), "it is known already");
    // It is also said of a component that was unlocked since.
    ring.unlock_all();
    assert!(keyring.last_failure(&ring.disk).unwrap().reason.contains("damaged"));
    keyring.lock(&ring.disk);
    fail(failure(Trouble::Silent));
    assert_eq!(keyring.count(), (1, 1), "one component, locked by command and tried since");
}

#[test]
fn a_key_that_its_server_does_not_have_is_not_asked_for_again_and_again() {
    let mut missing = MissingKeys::default();
    let ids: Vec<KeyId> = ["1", "2"].map(|id| KeyId::new(ProviderName::new("corp").unwrap(), id).unwrap()).into();
    assert!(missing.learn(&ids[0], Some(&failure(Trouble::Missing))));
    assert!(!missing.learn(&ids[0], Some(&failure(Trouble::Missing))), "nothing new");
    assert!(missing.learn(&ids[1], Some(&failure(Trouble::Silent))));
    assert!(missing.settled(&ids[0]).unwrap().chain().contains("no key"));
    assert!(missing.settled(&ids[1]).is_none(), "a server that is silent may have it");
    missing.unsettle();
    assert!(missing.settled(&ids[0]).is_none(), "someone asked for another try");
    assert!(missing.learn(&ids[0], Some(&failure(Trouble::Denied))), "another reason");
    assert!(missing.settled(&ids[0]).is_some());
    assert!(missing.learn(&ids[0], None) && missing.settled(&ids[0]).is_none());
    assert!(!missing.learn(&ids[0], None));
}

/// The KEK of an unlocked home opens what was made beside the mount, without its provider.
#[test]
fn a_kek_that_is_kept_is_that_of_its_home_alone() {
    let ring = Ring::new();
    ring.unlock_all();
    let home = ring.home();
    let (key_id, kek) = ring.keyring.kek(&home).unwrap();
    assert_eq!(key_id, *ring.home.claims().slots.first_key());
    let other = ring.ds.make_vm("other");
    assert!(ring.keyring.kept_kek(&other).is_none());
    // Under the home's key id, but not wrapped by its KEK.
    let mut slot = home.slots[0].clone();
    assert_eq!(slot.check, kek.check().unwrap());
    slot.check.0[0] ^= 1;
    let slots = crate::format::header::Slots::from(slot);
    assert!(ring.keyring.kept_kek(&Header { slots, ..home }).is_none());
}

/// Anyone can write key ids into headers, and homes of VMs that are not here: keys that have opened something go first.
#[test]
fn keys_that_opened_something_are_asked_for_first_then_those_of_homes() {
    let ring = Ring::new();
    let other = ring.ds.make_vm("other").slots.first_key().clone();
    let [own, disk] = [&ring.home, &ring.disk].map(|header| header.claims().slots.first_key().clone());
    let other_home = folder::read_home(&File::open(ring.ds.path("other")).unwrap()).unwrap().unwrap().header;
    let order = || ring.keyring.in_order([&ring.disk, &other_home, &ring.home].into_iter());
    assert_eq!(order(), [other.clone(), own.clone(), disk.clone()], "homes before disks");
    ring.keyring.unlock_all(std::iter::once(&ring.disk));
    assert_eq!(order(), [disk, other, own], "it opened something");
}

#[test]
fn a_keyring_of_a_mount_says_what_has_to_be_asked_and_asks_nothing() {
    let ring = Ring::new();
    ring.unlock_all();
    let home = ring.home();
    let config = "default = \"local\"\n[provider.local]\nkind = \"managed\"\n";
    crate::vm::datastore::write_config(&ring.ds.config(), config);
    let mount = Keyring::of_mount(ring.ds.providers());
    let dek = mount.dek(&ring.home).err().unwrap();
    assert!(
        matches!(PendingFetch::of(&dek), Some(PendingFetch::Unlock(header)) if header.digest() == ring.home.digest())
    );
    let kek = mount.kek(&home).err().unwrap();
    assert!(matches!(PendingFetch::of(&kek), Some(PendingFetch::Wrap(of)) if of.uuid == home.uuid));
    assert!(mount.state(&ring.home).is_none(), "nothing is known of it yet");
}

#[test]
fn the_latest_notices_are_kept() {
    let ring = Ring::new();
    let notice = |number: usize| Notice {
        time: crate::timestamp::Timestamp::from_secs(1),
        provider: ProviderName::new("corp").unwrap(),
        text: number.to_string(),
    };
    ring.keyring.notices.lock().extend((0..MAX_NOTICES + 3).map(notice));
    let _ = ring.keyring.new_notices();
    let texts: Vec<String> = ring.keyring.notices().into_iter().map(|notice| notice.text).collect();
    assert_eq!((texts.len(), texts[0].as_str()), (MAX_NOTICES, "3"));
}
