//! What each check of a keyring decides, one by one.

use super::*;
use crate::format::header::{Slot, Slots};
use crate::vm::keyring::unlock::Waiting;

/// A header that says it is this one's, with these slots, and is sealed by a DEK.
fn header(of: &Header, slots: Slots, dek: &Dek) -> UnverifiedHeader {
    UnverifiedHeader::decode(&Header { slots, ..of.clone() }.encode(dek).unwrap()).unwrap()
}

fn slots(slots: &[&Slot]) -> Slots {
    Slots::new(slots.iter().map(|&slot| slot.clone()).collect()).unwrap()
}

impl Ring {
    fn keks(&self) -> FetchedKeks {
        let ids = [&self.home, &self.disk].into_iter().flat_map(|header| header.claims().slots.key_ids().cloned());
        self.ds.providers().fetch_all(ids)
    }
}

#[test]
fn a_server_is_not_asked_again_for_a_key_that_it_does_not_have_until_someone_wants_it() {
    let ring = Ring::new();
    ring.keyring.missing_keys.lock().learn(ring.disk.claims().slots.first_key(), Some(&failure(Trouble::Missing)));
    ring.unlock_all();
    assert!(matches!(ring.keyring.state(&ring.disk), Some(LockState::Locked { .. })));
    assert_eq!(ring.keyring.count(), (1, 1));
    ring.keyring.unlock_again([&ring.home, &ring.disk].into_iter());
    assert_eq!(ring.keyring.count(), (2, 0));
}

#[test]
fn only_keks_of_homes_are_kept_and_they_open_what_they_wrap() {
    let ring = Ring::new();
    ring.keyring.unlock_all(std::iter::once(&ring.disk));
    assert!(ring.keyring.keks.read().is_empty(), "new components are not wrapped by it");
    let home = ring.home();
    assert!(ring.keyring.by_kept_kek(&ring.disk).is_none(), "it is under a key of its own");
    let dek = ring.keyring.dek(&ring.disk).unwrap();
    let disk = ring.disk.clone().verify(&dek).unwrap();
    let (key_id, kek) = ring.keyring.kept_kek(&home).unwrap();
    let moved = header(&disk, Slots::from(slot_for(&key_id, kek.as_ref(), &dek).unwrap()), &dek);
    let unlocked = ring.keyring.by_kept_kek(&moved).unwrap();
    assert_eq!((unlocked.dek.bytes(), unlocked.key_id), (dek.bytes(), key_id));
}

#[test]
fn a_kek_that_was_fetched_to_wrap_is_kept() {
    let ring = Ring::new();
    let home = ring.home();
    let keyring = Keyring::new(ring.ds.providers());
    assert!(keyring.kept_kek(&home).is_none());
    let (key_id, _) = keyring.kek(&home).unwrap();
    assert_eq!(keyring.kept_kek(&home).unwrap().0, key_id);
}

/// Of several slots that do not open, the one counts whose key is there; and what is said of each is said once.
#[test]
fn of_slots_that_do_not_open_the_one_that_says_most_counts() {
    let ring = Ring::new();
    let (home, dek) = (ring.home(), ring.keyring.dek(&ring.home).unwrap());
    let mut keks = ring.keks();
    let mut damaged = home.slots[0].clone();
    damaged.wrapped.0[3] ^= 1;
    let absent = Slot { key_id: KeyId::new(ProviderName::new("corp").unwrap(), "1").unwrap(), ..damaged.clone() };
    let error = |slots, keks: &FetchedKeks| unlock(&header(&home, slots, &dek), keks).err().unwrap();
    assert_eq!(error(slots(&[&absent, &damaged]), &keks).kind(), Kind::Corrupt);
    assert_eq!(error(slots(&[&absent, &absent]), &keks).chain().matches("was not fetched").count(), 1);
    assert!(unlock(&header(&home, slots(&[&damaged, &home.slots[0]]), &dek), &keks).is_ok(), "another slot opens it");
    keks.clear();
    assert_eq!(error(slots(&[&damaged]), &keks).kind(), Kind::KeyUnavailable);
}

#[test]
fn a_component_is_decided_by_the_first_key_that_opens_it_or_by_the_last_one_that_does_not() {
    let ring = Ring::new();
    let (home, dek) = (ring.home(), ring.keyring.dek(&ring.home).unwrap());
    let (key_id, kek) = ring.keyring.kek(&home).unwrap();
    let absent = KeyId::new(ProviderName::new("corp").unwrap(), "1").unwrap();
    let two = header(&home, slots(&[&Slot { key_id: absent.clone(), ..home.slots[0].clone() }, &home.slots[0]]), &dek);
    let mut waiting = Waiting::new(std::iter::once(&two));
    assert!(waiting.fetched(absent.clone(), Err(failure(Trouble::Silent))).is_empty(), "the other one may open it");
    assert!(waiting.fetched(key_id.clone(), Ok(kek.clone()))[0].1.is_ok());
    let mut waiting = Waiting::new(std::iter::once(&two));
    assert!(waiting.fetched(key_id, Ok(kek))[0].1.is_ok(), "no other one is waited for");
    assert!(waiting.fetched(absent, Err(failure(Trouble::Silent))).is_empty(), "it is decided");
}

#[test]
fn a_slot_opens_for_its_own_dek_and_a_header_that_another_one_sealed_is_forged() {
    let (ring, other) = (Ring::new(), Ring::new());
    let (home, keks) = (ring.home(), ring.keks());
    let [own, strange] = [&ring, &other].map(|ring| ring.keyring.dek(&ring.home).unwrap());
    assert!(opens(&home.slots[0], &own, &keks));
    assert!(!opens(&home.slots[0], &strange, &keks));
    assert!(refuse_forged(&ring.home, &keks).is_ok());
    let forged = header(&home, home.slots.clone(), &strange);
    assert_eq!(refuse_forged(&forged, &keks).unwrap_err().kind(), Kind::Corrupt);
    assert!(refuse_forged(&forged, &FetchedKeks::new()).is_ok(), "without its key nothing shows that");
}

#[test]
fn a_component_that_has_gone_back_is_not_unlocked_to_be_changed() {
    let ring = Ring::new();
    let (home, providers) = (ring.home(), ring.ds.providers());
    let dek = unlock_by(&ring.home, &providers).unwrap();
    let newer = Header { sequence: home.sequence + 2, ..home.clone() };
    let newer = UnverifiedHeader::decode(&newer.encode(&dek).unwrap()).unwrap();
    Memory::of(&providers).meet(Point::of(&newer, &dek).unwrap());
    assert_eq!(unlock_by(&ring.home, &providers).err().unwrap().kind(), Kind::ReadOnly);
}

/// A copy that failed and opens now is news, also where another copy had opened; its failure is remembered from then on.
#[test]
fn that_a_header_opens_again_is_said_and_why_it_did_not_stays_known() {
    let ring = Ring::new();
    ring.unlock_all();
    ring.keyring.decide(&ring.disk, Err(Error::new(Kind::Corrupt, "a slot is damaged")));
    ring.told.lock().clear();
    ring.unlock_all();
    assert_eq!(ring.told(NoticeSubject::Unlock), [false]);
    ring.unlock_all();
    assert!(ring.keyring.last_failure(&ring.disk).unwrap().reason.contains("damaged"));
}

#[test]
fn only_what_its_provider_keeps_locked_waits_for_it() {
    let locked = |kind, by_command| LockState::Locked { kind, reason: String::new(), by_command };
    assert!(locked(Kind::KeyUnavailable, false).waits_for_provider());
    assert!(!locked(Kind::KeyUnavailable, true).waits_for_provider());
    assert!(!locked(Kind::KeyRejected, false).waits_for_provider());
}
