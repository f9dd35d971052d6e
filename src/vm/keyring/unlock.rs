//! From KEKs to a DEK, slot by slot.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, Slot, UnverifiedHeader};
use crate::key::{Dek, Kek, KeyId};
use crate::provider::{FetchedKeks, Providers, reword};
use crate::seen::{Memory, Point};

/// A DEK, and the KEK that it was obtained by.
pub(super) struct Unlocked {
    pub(super) dek: Dek,
    pub(super) key_id: KeyId,
    pub(super) kek: Arc<dyn Kek>,
}

/// Components that wait for KEKs. Each is decided as soon as one of its KEKs opens it, or all of them were tried.
pub(super) struct Waiting<'h> {
    keks: FetchedKeks,
    headers: HashMap<KeyId, Vec<usize>>,
    undecided: Vec<Option<&'h UnverifiedHeader>>,
}

impl<'h> Waiting<'h> {
    pub(super) fn new(headers: impl Iterator<Item = &'h UnverifiedHeader>) -> Self {
        let mut waiting = Self { keks: HashMap::new(), headers: HashMap::new(), undecided: Vec::new() };
        for (index, header) in headers.enumerate() {
            let ids: HashSet<&KeyId> = header.claims().slots.key_ids().collect();
            ids.into_iter().for_each(|id| waiting.headers.entry(id.clone()).or_default().push(index));
            waiting.undecided.push(Some(header));
        }
        waiting
    }

    /// Adds a KEK, or why it is unavailable, and returns what is decided by it.
    pub(super) fn fetched(
        &mut self,
        id: KeyId,
        kek: Result<Arc<dyn Kek>>,
    ) -> Vec<(&'h UnverifiedHeader, Result<Unlocked>)> {
        self.keks.insert(id.clone(), kek);
        let mut decided = Vec::new();
        for index in self.headers.remove(&id).unwrap_or_default() {
            let Some(header) = self.undecided[index] else { continue };
            let all = header.claims().slots.key_ids().all(|key| self.keks.contains_key(key));
            let result = unlock_through(header, &self.keks);
            if all || result.is_ok() {
                self.undecided[index] = None;
                decided.push((header, result));
            }
        }
        decided
    }
}

/// Obtains the DEK of a header through any of its slots.
///
/// # Errors
/// `KeyUnavailable` when no slot's KEK is available; `KeyRejected` when a provider gave a wrong KEK; `Corrupt` when a slot is
/// damaged or the header was changed. The message says it for every slot.
pub fn unlock(header: &UnverifiedHeader, keks: &FetchedKeks) -> Result<Dek> {
    unlock_through(header, keks).map(|unlocked| unlocked.dek)
}

/// Refuses a header that one of these KEKs shows to be changed without its key. Advice must not depend on what such a header says.
///
/// # Errors
/// `Corrupt`.
pub fn refuse_forged(header: &UnverifiedHeader, keks: &FetchedKeks) -> Result<()> {
    match unlock(header, keks) {
        Err(error) if error.kind() == Kind::Corrupt => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The same as [`unlock`], with the KEKs that the providers give now, to change the component or to make another form of what is in it.
///
/// # Errors
/// As [`unlock`]; `ReadOnly` for a component that has gone back: what is made of it would be taken for the newest.
pub fn unlock_by(header: &UnverifiedHeader, providers: &Providers) -> Result<Dek> {
    let dek = unlock(header, &providers.fetch_all(header.claims().slots.key_ids().cloned()))?;
    Memory::of(providers).allow(Point::of(header, &dek)?)?;
    Ok(dek)
}

pub(super) fn unlock_through(header: &UnverifiedHeader, keks: &FetchedKeks) -> Result<Unlocked> {
    let mut failures: Vec<Error> = Vec::new();
    for slot in header.claims().slots.iter() {
        match unlock_slot(header, slot, keks) {
            Ok(unlocked) => return Ok(unlocked),
            Err(error) => failures.push(error),
        }
    }
    if failures.len() == 1 {
        return Err(failures.remove(0));
    }
    // The failure that says most about this component: being unable to ask says least.
    let most = failures.iter().position(|failure| failure.kind() != Kind::KeyUnavailable).unwrap_or(0);
    let mut reasons: Vec<String> = Vec::new();
    for reason in failures.iter().map(Error::chain) {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    Err(reword(&failures[most], reasons.join("; ")))
}

/// Whether a slot gives this DEK by one of the KEKs.
pub fn opens(slot: &Slot, dek: &Dek, keks: &FetchedKeks) -> bool {
    unwrap_slot(slot, keks).is_ok_and(|(unwrapped, _)| unwrapped.bytes() == dek.bytes())
}

fn unlock_slot(header: &UnverifiedHeader, slot: &Slot, keks: &FetchedKeks) -> Result<Unlocked> {
    let (dek, kek) = unwrap_slot(slot, keks)?;
    header.clone().verify(&dek)?;
    Ok(Unlocked { dek, key_id: slot.key_id.clone(), kek: Arc::clone(kek) })
}

fn unwrap_slot<'k>(slot: &Slot, keks: &'k FetchedKeks) -> Result<(Dek, &'k Arc<dyn Kek>)> {
    let kek = kek_of(slot, keks)?;
    let dek = kek.unwrap(&slot.wrapped).map_err(|error| {
        Error::with_source(
            Kind::Corrupt,
            format!("the key is right, but the slot of {} is damaged", slot.key_id),
            error,
        )
    })?;
    Ok((dek, kek))
}

/// The KEK of a slot.
///
/// # Errors
/// Why it could not be fetched, and `KeyRejected` for another KEK than the slot's.
pub fn kek_of<'k>(slot: &Slot, keks: &'k FetchedKeks) -> Result<&'k Arc<dyn Kek>> {
    match keks.get(&slot.key_id) {
        Some(Ok(kek)) => refuse_other_key(slot, kek.as_ref()).map(|()| kek),
        Some(Err(error)) => Err(about(&slot.key_id, error)),
        None => Err(Error::new(Kind::KeyUnavailable, format!("key {} was not fetched", slot.key_id))),
    }
}

/// Refuses a KEK that is not the one of a slot, although it has the slot's key id.
pub(super) fn refuse_other_key(slot: &Slot, kek: &dyn Kek) -> Result<()> {
    let check = kek.check()?;
    if check == slot.check {
        return Ok(());
    }
    if check.is_of_same_provider_key(&slot.check) {
        return Err(Error::new(
            Kind::KeyRejected,
            format!(
                "key {} is the right one, but the kek-share is not: compare `kek-share` of provider {:?} in the configuration, or that \
                 there is none, with a host that can open this",
                slot.key_id,
                slot.key_id.provider().as_str()
            ),
        ));
    }
    Err(Error::new(
        Kind::KeyRejected,
        format!("provider {:?} has another key under the id of {}", slot.key_id.provider().as_str(), slot.key_id),
    ))
}

/// A provider's error about a key, which is named once: some providers name it, some failed before they saw it.
fn about(key_id: &KeyId, error: &Error) -> Error {
    let reason = error.chain();
    let named = reason.contains(&key_id.to_string());
    reword(error, if named { reason } else { format!("key {key_id}: {reason}") })
}

/// Wraps a new component's DEK by one KEK.
///
/// # Errors
/// `KeyUnavailable` when the KEK may not wrap any more.
pub fn slot_for(key_id: &KeyId, kek: &dyn Kek, dek: &Dek) -> Result<Slot> {
    Ok(Slot { key_id: key_id.clone(), check: kek.check()?, wrapped: kek.wrap(dek)? })
}

/// The KEK of a header's first slot, to wrap more keys of the same VM.
///
/// # Errors
/// As [`fetch_for`].
pub fn first_kek(header: &Header, providers: &Providers) -> Result<(KeyId, Arc<dyn Kek>)> {
    let slot = &header.slots[0];
    Ok((slot.key_id.clone(), fetch_for(slot, providers)?))
}

/// The KEK of a slot, to wrap more keys by it. A provider may have another one under the same key id by now: what that
/// wraps would not be of this VM.
///
/// # Errors
/// As the provider's, and `KeyRejected` for another KEK than the slot's.
pub fn fetch_for(slot: &Slot, providers: &Providers) -> Result<Arc<dyn Kek>> {
    let kek = providers.fetch(&slot.key_id).map_err(|error| about(&slot.key_id, &error))?;
    refuse_other_key(slot, kek.as_ref()).map(|()| kek)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ProviderName;

    #[test]
    fn a_key_is_named_once_in_what_is_said_about_it() {
        let key_id = KeyId::new(ProviderName::new("corp").unwrap(), "4711").unwrap();
        let told = |message: &str| about(&key_id, &Error::new(Kind::KeyUnavailable, message)).chain();
        assert_eq!(told("key corp/4711 is unavailable: refused"), "key corp/4711 is unavailable: refused");
        assert_eq!(told("no key provider corp"), "key corp/4711: no key provider corp");
    }
}
