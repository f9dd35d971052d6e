//! What is known of components: the DEKs of those that opened, and why copies of headers did not.
//!
//! Anyone who can write one folder can write a header with the UUID of another folder's component there. A UUID therefore
//! stands only for what one of its headers proved. A failure belongs to the copy that was tried, by its digest.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::format::header::{CopyDigest, UnverifiedHeader};
use crate::key::Dek;
use crate::provider::Trouble;
use crate::timestamp::Timestamp;

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
    proven: HashMap<Uuid, Proven>,
    locked: HashMap<CopyDigest, LockedCopy>,
}

/// A component of which a header was verified.
struct Proven {
    state: LockState,
    last_failure: Option<LastFailure>,
}

/// A copy of a header that nothing proved.
struct LockedCopy {
    uuid: Uuid,
    state: LockState,
    last_failure: Option<LastFailure>,
}

impl States {
    /// The DEK that a header of this UUID proved.
    pub(super) fn dek(&self, uuid: Uuid) -> Option<Arc<Dek>> {
        match &self.proven.get(&uuid)?.state {
            LockState::Unlocked(dek) => Some(Arc::clone(dek)),
            LockState::Locked { .. } => None,
        }
    }

    /// The state of a component whose header is not opened by [`dek`](Self::dek).
    pub(super) fn locked(&self, header: &UnverifiedHeader) -> Option<LockState> {
        let copy = self.locked.get(&header.digest()).map(|copy| &copy.state);
        let by_command = || self.proven.get(&header.claims().uuid).map(|proven| &proven.state);
        copy.or_else(by_command).filter(|state| !state.is_unlocked()).cloned()
    }

    pub(super) fn last_failure(&self, header: &UnverifiedHeader) -> Option<LastFailure> {
        match self.locked.get(&header.digest()) {
            Some(copy) => copy.last_failure.clone(),
            None => self.proven.get(&header.claims().uuid)?.last_failure.clone(),
        }
    }

    /// Makes a component known whose key is about to be fetched.
    pub(super) fn expect(&mut self, header: &UnverifiedHeader) {
        let reason = "its key has not come yet".to_owned();
        let state = LockState::Locked { kind: Kind::KeyUnavailable, reason, by_command: false };
        let uuid = header.claims().uuid;
        self.locked.entry(header.digest()).or_insert(LockedCopy { uuid, state, last_failure: None });
    }

    /// Keeps the DEK that verified a header; `false` when it was in memory already and this copy had not failed.
    pub(super) fn unlocked(&mut self, header: &UnverifiedHeader, dek: Dek) -> bool {
        let copy = self.locked.remove(&header.digest());
        let had_failed = copy.is_some();
        let before = self.insert(header.claims().uuid, dek);
        let was_unlocked = before.as_ref().is_some_and(|before| before.state.is_unlocked());
        let last_failure = copy.and_then(|copy| copy.last_failure).or_else(|| before?.last_failure);
        if let Some(proven) = self.proven.get_mut(&header.claims().uuid) {
            proven.last_failure = last_failure;
        }
        had_failed || !was_unlocked
    }

    fn insert(&mut self, uuid: Uuid, dek: Dek) -> Option<Proven> {
        self.proven.insert(uuid, Proven { state: LockState::Unlocked(Arc::new(dek)), last_failure: None })
    }

    /// Adds a component that was just made.
    pub(super) fn made(&mut self, uuid: Uuid, dek: Dek) {
        let before = self.insert(uuid, dek);
        if let (Some(before), Some(proven)) = (before, self.proven.get_mut(&uuid)) {
            proven.last_failure = before.last_failure;
        }
    }

    /// Remembers why a copy did not open; `false` when it failed for the same reason before.
    pub(super) fn failed(&mut self, header: &UnverifiedHeader, error: &Error) -> bool {
        let (uuid, reason, kind, trouble) = (header.claims().uuid, error.chain(), error.kind(), Trouble::of(error));
        let before = self.locked.get(&header.digest()).and_then(|copy| copy.last_failure.as_ref());
        let since = before.filter(|last| (last.kind, last.trouble) == (kind, trouble)).map(|last| last.since);
        let is_news = since.is_none();
        let since = since.unwrap_or_else(Timestamp::now);
        let state = LockState::Locked { kind, reason: reason.clone(), by_command: false };
        let last_failure = Some(LastFailure { since, reason, kind, trouble });
        self.locked.insert(header.digest(), LockedCopy { uuid, state, last_failure });
        is_news
    }

    /// Forgets the DEK of a component, if it is the one of this header: a copy that nothing proved is locked by itself.
    pub(super) fn lock(&mut self, header: &UnverifiedHeader) {
        let uuid = header.claims().uuid;
        let reason = "by command: `vmcryptfs unlock MOUNTPOINT` unlocks it".to_owned();
        let state = LockState::Locked { kind: Kind::KeyUnavailable, reason, by_command: true };
        let is_proven = self.dek(uuid).is_some_and(|dek| header.clone().verify(&dek).is_ok());
        if is_proven && let Some(proven) = self.proven.get_mut(&uuid) {
            proven.state = state;
        } else {
            let last_failure = self.last_failure(header);
            self.locked.insert(header.digest(), LockedCopy { uuid, state, last_failure });
        }
    }

    /// Forgets copies that are not there any more.
    pub(super) fn retain<'h>(&mut self, headers: impl Iterator<Item = &'h UnverifiedHeader>) {
        let there: HashSet<CopyDigest> = headers.map(UnverifiedHeader::digest).collect();
        self.locked.retain(|digest, _| there.contains(digest));
    }

    /// How many components are unlocked, and locked.
    pub(super) fn count(&self) -> (usize, usize) {
        let (unlocked, by_command): (Vec<_>, Vec<_>) =
            self.proven.iter().partition(|(_, proven)| proven.state.is_unlocked());
        let tried: HashSet<Uuid> = self.locked.values().map(|copy| copy.uuid).collect();
        let untried = by_command.iter().filter(|(uuid, _)| !tried.contains(uuid)).count();
        (unlocked.len(), self.locked.len() + untried)
    }

    pub(super) fn waits_for_provider(&self) -> bool {
        self.locked.values().any(|copy| copy.state.waits_for_provider())
    }
}
