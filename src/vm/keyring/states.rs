//! What is known of components: the DEKs of those that opened, and why copies of headers did not.
//!
//! Anyone who can write one folder can write a header with the UUID of another folder's component there. A UUID therefore
//! stands only for what one of its headers proved. A failure belongs to the copy that was tried, by its digest. A folder may be a copy
//! of another one, with the same UUIDs and other keys by now: what is known belongs to the file that the header was read from.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::format::header::{CopyDigest, HeaderPlace, UnverifiedHeader};
use crate::key::Dek;
use crate::provider::Trouble;
use crate::timestamp::Timestamp;
use crate::vm::keyring::by_place::ByPlace;

/// Whether a component's DEK is in memory.
#[derive(Clone)]
pub enum LockState {
    /// It is.
    Unlocked(Arc<Dek>),
    /// It is not, and this is why.
    Locked {
        /// What could be done about it.
        kind: Kind,
        /// For people.
        reason: String,
        /// Whether someone asked for it: then it stays locked until someone asks for the opposite.
        by_command: bool,
    },
}

impl LockState {
    /// Whether the provider's return would unlock it.
    pub fn waits_for_provider(&self) -> bool {
        matches!(self, Self::Locked { kind: Kind::KeyUnavailable, by_command: false, .. })
    }

    fn is_unlocked(&self) -> bool {
        matches!(self, Self::Unlocked(_))
    }
}

/// The last time that a component could not be unlocked, kept also after it was.
#[derive(Clone, Debug)]
pub struct LastFailure {
    /// When it was first seen.
    pub since: Timestamp,
    /// For people.
    pub reason: String,
    kind: Kind,
    trouble: Option<Trouble>,
}

/// The states of a keyring's components.
#[derive(Default)]
pub(super) struct States {
    proven: HashMap<Uuid, ByPlace<Proven>>,
    locked: HashMap<CopyDigest, ByPlace<LockedCopy>>,
    /// Files that were there when the folder was last looked through.
    there: HashSet<HeaderPlace>,
}

/// A component of which a header was verified.
struct Proven {
    state: LockState,
    last_failure: Option<LastFailure>,
}

impl Proven {
    fn dek(&self) -> Option<&Arc<Dek>> {
        if let LockState::Unlocked(dek) = &self.state { Some(dek) } else { None }
    }
}

/// A copy of a header that nothing proved.
struct LockedCopy {
    uuid: Uuid,
    state: LockState,
    last_failure: Option<LastFailure>,
}

impl States {
    /// The DEK that verifies a header: the one that its file had, or if nothing is known of that, one of a file that it replaced.
    pub(super) fn dek(&self, header: &UnverifiedHeader) -> Option<Arc<Dek>> {
        let proven = self.proven.get(&header.claims().uuid)?;
        let own = proven.get(header.place());
        if own.is_some_and(|own| !own.state.is_unlocked()) {
            return None;
        }
        let all = own.into_iter().chain(proven.values()).filter_map(Proven::dek);
        all.into_iter().find(|dek| header.clone().verify(dek).is_ok()).map(Arc::clone)
    }

    /// Whether a DEK of the component with this UUID is in memory, as far as known of this file.
    pub(super) fn has_dek(&self, uuid: Uuid, place: Option<HeaderPlace>) -> bool {
        let Some(proven) = self.proven.get(&uuid) else { return false };
        match proven.get(place) {
            Some(own) => own.state.is_unlocked(),
            None => proven.values().any(|other| other.state.is_unlocked()),
        }
    }

    /// The state of a component whose header is not opened by [`dek`](Self::dek).
    pub(super) fn locked(&self, header: &UnverifiedHeader) -> Option<LockState> {
        let copy = self.copy(header).map(|copy| &copy.state);
        let by_command = || self.own(header).map(|proven| &proven.state);
        copy.or_else(by_command).filter(|state| !state.is_unlocked()).cloned()
    }

    fn copy(&self, header: &UnverifiedHeader) -> Option<&LockedCopy> {
        self.locked.get(&header.digest())?.get(header.place())
    }

    /// What is known of the file of a header. One that is new, of a component that is locked by command wherever it is known, has taken
    /// the place of what was locked.
    fn own(&self, header: &UnverifiedHeader) -> Option<&Proven> {
        let places = self.proven.get(&header.claims().uuid)?;
        let is_locked = || places.values().all(|other| !other.state.is_unlocked());
        places.get(header.place()).or_else(|| places.values().next().filter(|_| is_locked()))
    }

    pub(super) fn last_failure(&self, header: &UnverifiedHeader) -> Option<LastFailure> {
        match self.copy(header) {
            Some(copy) => copy.last_failure.clone(),
            None => self.own(header)?.last_failure.clone(),
        }
    }

    /// Makes a component known whose key is about to be fetched.
    pub(super) fn expect(&mut self, header: &UnverifiedHeader) {
        let reason = "its key has not come yet".to_owned();
        let state = LockState::Locked { kind: Kind::KeyUnavailable, reason, by_command: false };
        let (uuid, copies) = (header.claims().uuid, self.locked.entry(header.digest()).or_default());
        if copies.get(header.place()).is_none() {
            copies.insert(header.place(), LockedCopy { uuid, state, last_failure: None });
        }
    }

    /// Keeps the DEK that verified a header; `false` when it was in memory already and this copy had not failed.
    pub(super) fn unlocked(&mut self, header: &UnverifiedHeader, dek: Dek) -> bool {
        let copy = self.take_copy(header);
        let had_failed = copy.is_some();
        let last_failure = copy.and_then(|copy| copy.last_failure);
        let (uuid, place) = (header.claims().uuid, header.place());
        if let Some(places) = self.proven.get_mut(&uuid) {
            // Locked files that are not there any more were this one.
            let there = &self.there;
            places
                .retain(|known, other| other.state.is_unlocked() || known == place || is_another(there, known, place));
        }
        let was_unlocked = self.made(uuid, place, dek, last_failure);
        had_failed || !was_unlocked
    }

    fn take_copy(&mut self, header: &UnverifiedHeader) -> Option<LockedCopy> {
        let copies = self.locked.get_mut(&header.digest())?;
        let taken = copies.remove(header.place());
        if copies.is_empty() {
            self.locked.remove(&header.digest());
        }
        taken
    }

    /// Adds a component that was just made, or unlocked; whether its DEK was in memory. A failure before is not forgotten.
    pub(super) fn made(
        &mut self,
        uuid: Uuid,
        place: Option<HeaderPlace>,
        dek: Dek,
        last_failure: Option<LastFailure>,
    ) -> bool {
        let places = self.proven.entry(uuid).or_default();
        let last_failure = last_failure.or_else(|| places.get(place)?.last_failure.clone());
        let before = places.insert(place, Proven { state: LockState::Unlocked(Arc::new(dek)), last_failure });
        before.is_some_and(|before| before.state.is_unlocked())
    }

    /// Remembers why a copy did not open; `false` when it failed for the same reason before.
    pub(super) fn failed(&mut self, header: &UnverifiedHeader, error: &Error) -> bool {
        let (uuid, reason, kind, trouble) = (header.claims().uuid, error.chain(), error.kind(), Trouble::of(error));
        let before = self.copy(header).and_then(|copy| copy.last_failure.as_ref());
        let since = before.filter(|last| (last.kind, last.trouble) == (kind, trouble)).map(|last| last.since);
        let is_news = since.is_none();
        let since = since.unwrap_or_else(Timestamp::now);
        let state = LockState::Locked { kind, reason: reason.clone(), by_command: false };
        let last_failure = Some(LastFailure { since, reason, kind, trouble });
        self.add_copy(header, LockedCopy { uuid, state, last_failure });
        is_news
    }

    fn add_copy(&mut self, header: &UnverifiedHeader, copy: LockedCopy) {
        self.locked.entry(header.digest()).or_default().insert(header.place(), copy);
    }

    /// Forgets the DEK of a component, if it is the one of this header: a copy that nothing proved is locked by itself. DEKs that files
    /// had which are not there any more are forgotten with it.
    pub(super) fn lock(&mut self, header: &UnverifiedHeader) {
        let uuid = header.claims().uuid;
        let reason = "by command: `vmcryptfs unlock MOUNTPOINT` unlocks it".to_owned();
        let state = LockState::Locked { kind: Kind::KeyUnavailable, reason, by_command: true };
        let last_failure = self.last_failure(header);
        if self.dek(header).is_some() {
            let (place, there) = (header.place(), &self.there);
            let places = self.proven.entry(uuid).or_default();
            places.retain(|known, _| is_another(there, known, place));
            places.insert(place, Proven { state, last_failure });
        } else {
            self.add_copy(header, LockedCopy { uuid, state, last_failure });
        }
    }

    /// Whether what is known of a file is another component's than that of this file: a copy's, and not a former one's.
    pub(super) fn is_another(&self, known: Option<HeaderPlace>, place: Option<HeaderPlace>) -> bool {
        is_another(&self.there, known, place)
    }

    /// Forgets copies that are not there any more.
    pub(super) fn retain<'h>(&mut self, headers: impl Iterator<Item = &'h UnverifiedHeader>) {
        let mut copies: HashMap<CopyDigest, HashSet<Option<HeaderPlace>>> = HashMap::new();
        self.there.clear();
        for header in headers {
            self.there.extend(header.place());
            copies.entry(header.digest()).or_default().insert(header.place());
        }
        self.locked.retain(|digest, known| {
            let Some(places) = copies.get(digest) else { return false };
            known.retain(|place, _| place.is_none() || places.contains(&place) || places.contains(&None));
            !known.is_empty()
        });
    }

    /// How many components are unlocked, and locked.
    pub(super) fn count(&self) -> (usize, usize) {
        let all = self.proven.iter().flat_map(|(uuid, places)| places.values().map(move |proven| (uuid, proven)));
        let (unlocked, by_command): (Vec<_>, Vec<_>) = all.partition(|(_, proven)| proven.state.is_unlocked());
        let copies = || self.locked.values().flat_map(ByPlace::values);
        let tried: HashSet<Uuid> = copies().map(|copy| copy.uuid).collect();
        let untried = by_command.iter().filter(|(uuid, _)| !tried.contains(*uuid)).count();
        (unlocked.len(), copies().count() + untried)
    }

    pub(super) fn waits_for_provider(&self) -> bool {
        self.locked.values().flat_map(ByPlace::values).any(|copy| copy.state.waits_for_provider())
    }
}

fn is_another(there: &HashSet<HeaderPlace>, known: Option<HeaderPlace>, place: Option<HeaderPlace>) -> bool {
    known != place && known.is_some_and(|known| there.contains(&known))
}
