//! The DEKs of a mount: which components are unlocked, and why the others are not.
//!
//! Key servers may take long to answer, or never do. A keyring of a mount therefore asks none on its own while a request waits
//! for it: it says what has to be asked first (a [`PendingFetch`]), and a thread that may wait asks.

mod by_place;
mod missing_keys;
mod pending_fetch;
mod states;
mod unlock;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

pub use by_place::ByPlace;
pub use pending_fetch::PendingFetch;
pub use states::{LastFailure, LockState};
pub use unlock::{fetch_for, first_kek, kek_of, opens, refuse_forged, slot_for, unlock, unlock_by};

use crate::error::{Error, Kind, Result};
use crate::format::header::{ComponentKind, CopyDigest, Header, HeaderPlace, UnverifiedHeader};
use crate::key::{Dek, Kek, KeyId};
pub use crate::provider::FetchedKeks;
use crate::provider::{Notice, Providers};
use crate::seen::{Floor, Memory, Past, Point};
use missing_keys::MissingKeys;
use states::States;
use unlock::{Unlocked, Waiting, refuse_other_key, unlock_through};

/// Most notices that are kept; the oldest go first.
const MAX_NOTICES: usize = 32;

/// What happened to keys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NoticeSubject {
    /// A component was unlocked, or could not be.
    Unlock,
    /// A component was locked, by command.
    Lock,
    /// A KEK could not be fetched, or could again.
    FetchKey,
    /// A component is older than what this host has seen of it.
    GoneBack,
}

/// Something that happened to keys. The same failure, met again and again, is reported once.
pub struct Change<'a> {
    /// What.
    pub what: NoticeSubject,
    /// Of the component with this header, which may be unverified.
    pub header: Option<&'a UnverifiedHeader>,
    /// The KEK that it was done with, or that is missing.
    pub key_id: Option<&'a KeyId>,
    /// Why it failed.
    pub error: Option<&'a Error>,
}

/// A KEK and its name.
pub type NamedKek = (KeyId, Arc<dyn Kek>);

/// What of a component has gone back.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
enum OfWhat {
    Header,
    ListOfDisks,
}

/// By the copy of a header, what of its component has gone back, and where the header was read.
type GoneBack = HashMap<(CopyDigest, OfWhat, Option<HeaderPlace>), (UnverifiedHeader, Past)>;

type Watcher = Box<dyn Fn(&Change<'_>) + Send + Sync>;

/// DEKs by component, and the providers to get more from.
pub struct Keyring {
    providers: RwLock<Arc<Providers>>,
    states: RwLock<States>,
    /// KEKs of unlocked homes: what is made in a VM is wrapped by its KEK, also while the provider cannot be reached.
    keks: RwLock<HashMap<Uuid, ByPlace<NamedKek>>>,
    /// Keys that opened something. Anyone can write other key ids into headers, so they are asked for before those.
    proven_keys: RwLock<HashSet<KeyId>>,
    missing_keys: Mutex<MissingKeys>,
    notices: Mutex<Vec<Notice>>,
    watcher: OnceLock<Watcher>,
    /// Whether it asks a provider that may not answer at once.
    may_ask: bool,
    memory: Arc<Memory>,
    /// What has gone back, as the watcher was told.
    gone_back: Mutex<GoneBack>,
}

impl Keyring {
    /// An empty ring that asks providers whenever it needs to.
    pub fn new(providers: Providers) -> Self {
        Self::with(providers, true)
    }

    /// An empty ring of a mount: its callers get a [`PendingFetch`] where a provider would have to be waited for.
    pub fn of_mount(providers: Providers) -> Self {
        Self::with(providers, false)
    }

    fn with(providers: Providers, may_ask: bool) -> Self {
        Self {
            memory: Memory::of(&providers),
            gone_back: Mutex::default(),
            providers: RwLock::new(Arc::new(providers)),
            states: RwLock::default(),
            keks: RwLock::default(),
            proven_keys: RwLock::default(),
            missing_keys: Mutex::default(),
            notices: Mutex::default(),
            watcher: OnceLock::new(),
            may_ask,
        }
    }

    /// Tells `watcher` of everything that happens to keys from now on. One may watch.
    pub fn watch(&self, watcher: impl Fn(&Change<'_>) + Send + Sync + 'static) {
        let _ = self.watcher.set(Box::new(watcher));
    }

    /// Tells the watcher.
    pub fn tell(&self, change: &Change<'_>) {
        if let Some(watcher) = self.watcher.get() {
            watcher(change);
        }
    }

    /// Where the KEKs come from.
    pub fn providers(&self) -> Arc<Providers> {
        Arc::clone(&self.providers.read())
    }

    /// Reads the configuration of the providers again.
    ///
    /// # Errors
    /// Those of [`Providers::load`]; the former ones stay then.
    pub fn reload_providers(&self) -> Result<()> {
        let reloaded = self.providers().reload()?;
        *self.providers.write() = Arc::new(reloaded);
        Ok(())
    }

    /// Unlocks every component whose KEK is available, each as soon as its KEK is there. Each KEK is fetched once, side by
    /// side; what stays locked keeps its reason. A server that said within the last minute that there is no such key for this
    /// host is not asked for it again: headers can name any number of keys.
    pub fn unlock_all<'h>(&self, headers: impl Iterator<Item = &'h UnverifiedHeader> + Clone) {
        let waiting = Mutex::new(Waiting::new(headers.clone()));
        let fetched = |id, kek| {
            let decided = waiting.lock().fetched(id, kek);
            for (header, result) in decided {
                self.decide(header, result);
            }
        };
        let mut unsettled = Vec::new();
        for id in self.in_order(headers) {
            let settled = self.missing_keys.lock().settled(&id);
            match settled {
                Some(error) => fetched(id, Err(error)),
                None => unsettled.push(id),
            }
        }
        self.providers().fetch_each(unsettled, &|id, kek| {
            self.tell_of_key(&id, kek.as_ref().err());
            fetched(id, kek);
        });
    }

    /// As [`unlock_all`](Self::unlock_all), and asks again for keys that were missing.
    pub fn unlock_again<'h>(&self, headers: impl Iterator<Item = &'h UnverifiedHeader> + Clone) {
        self.missing_keys.lock().unsettle();
        self.unlock_all(headers);
    }

    /// The keys of these headers: first those that opened something, then those of homes, of which a VM folder has one.
    fn in_order<'h>(&self, headers: impl Iterator<Item = &'h UnverifiedHeader> + Clone) -> Vec<KeyId> {
        let proven = self.proven_keys.read();
        let homes = headers.clone().filter(|header| header.claims().shape.kind() == ComponentKind::Home);
        let ids_of = |header: &'h UnverifiedHeader| header.claims().slots.key_ids();
        let first = headers.clone().flat_map(ids_of).filter(|id| proven.contains(id));
        let mut seen = HashSet::new();
        let all = first.chain(homes.flat_map(ids_of)).chain(headers.clone().flat_map(ids_of));
        all.filter(|id| seen.insert(*id)).cloned().collect()
    }

    fn decide(&self, header: &UnverifiedHeader, result: Result<Unlocked>) {
        let told = Change { what: NoticeSubject::Unlock, header: Some(header), key_id: None, error: None };
        match result {
            Ok(Unlocked { dek, key_id, kek }) => {
                let _ = self.past(header, &dek, None); // what is damaged is refused when it is opened
                if header.claims().shape.kind() == ComponentKind::Home {
                    self.add_kek(header.claims().uuid, header.place(), (key_id.clone(), kek));
                }
                self.proven_keys.write().insert(key_id.clone());
                let is_news = self.states.write().unlocked(header, dek);
                if is_news {
                    self.tell(&Change { key_id: Some(&key_id), ..told });
                }
            }
            Err(error) => {
                let is_news = self.states.write().failed(header, &error);
                if is_news {
                    let key_id = Some(header.claims().slots.first_key());
                    self.tell(&Change { key_id, error: Some(&error), ..told });
                }
            }
        }
    }

    /// Compares a component with what this host has seen of it, and tells the watcher if it has gone back. `dek` verified the header;
    /// `cursor` is the progress of a deep rekey, if that is known.
    ///
    /// # Errors
    /// `Corrupt` for a transition whose former data key is damaged.
    pub fn past(&self, header: &UnverifiedHeader, dek: &Dek, cursor: Option<u64>) -> Result<Past> {
        self.past_above(header, dek, cursor, None)
    }

    /// The same for a disk of a VM whose list of disks is known.
    ///
    /// # Errors
    /// As [`past`](Self::past).
    pub fn past_above(
        &self,
        header: &UnverifiedHeader,
        dek: &Dek,
        cursor: Option<u64>,
        floor: Option<Arc<dyn Floor>>,
    ) -> Result<Past> {
        let past = self.memory.meet_above(Point::of(header, dek)?.at(cursor), floor);
        self.note(header, OfWhat::Header, &past);
        Ok(past)
    }

    /// Tells the watcher if the list of a home's disks has gone back.
    pub fn note_list(&self, home: &UnverifiedHeader, past: Option<Past>) {
        if let Some(past) = past {
            self.note(home, OfWhat::ListOfDisks, &past);
        }
    }

    /// The list of a home's disks is again what it was, or newer. The home is known by its UUID and its header's file.
    pub fn forget_note_of_list(&self, home: Uuid, place: Option<HeaderPlace>) {
        let is_of_list = |what, header: &UnverifiedHeader| {
            what == OfWhat::ListOfDisks && header.claims().uuid == home && header.place() == place
        };
        self.gone_back.lock().retain(|(_, what, _), (header, _)| !is_of_list(*what, header));
    }

    fn note(&self, header: &UnverifiedHeader, what: OfWhat, past: &Past) {
        let place = (header.digest(), what, header.place());
        let mut known = self.gone_back.lock();
        let before = known.remove(&place);
        if let Some(gone_back) = past.gone_back() {
            known.insert(place, (header.clone(), past.clone()));
            drop(known);
            if before.is_none_or(|(_, before)| before.gone_back() != Some(gone_back)) {
                let (what, error) = (NoticeSubject::GoneBack, Some(&gone_back.error()));
                self.tell(&Change { what, header: Some(header), key_id: None, error });
            }
        }
    }

    /// What this host has seen of components.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Headers that were met and can only be read.
    pub fn all_gone_back(&self) -> Vec<UnverifiedHeader> {
        self.gone_back.lock().values().map(|(header, _)| header.clone()).collect()
    }

    /// Why the component with this header can only be read, if it has gone back.
    pub fn gone_back(&self, header: &UnverifiedHeader) -> Option<String> {
        let of = |what| self.gone_back.lock().get(&(header.digest(), what, header.place())).cloned();
        let known = [OfWhat::Header, OfWhat::ListOfDisks].into_iter().filter_map(of);
        let said: Vec<String> =
            known.filter_map(|(_, past)| past.allow_changes().err()).map(|error| error.chain()).collect();
        (!said.is_empty()).then(|| said.join("; "))
    }

    fn tell_of_key(&self, key_id: &KeyId, error: Option<&Error>) {
        let is_news = self.missing_keys.lock().learn(key_id, error);
        if is_news {
            self.tell(&Change { what: NoticeSubject::FetchKey, header: None, key_id: Some(key_id), error });
        }
    }

    /// The DEK that opens this header. Asks the providers only for components that were never seen, or whose key was
    /// changed by someone else.
    ///
    /// # Errors
    /// `KeyUnavailable` when the component is locked, with the reason, or with a [`PendingFetch`] that must be asked first;
    /// `KeyRejected` or `Corrupt` when its key or header are wrong.
    pub fn dek(&self, header: &UnverifiedHeader) -> Result<Arc<Dek>> {
        if let Some(known) = self.known(header) {
            return known;
        }
        if let Some(unlocked) = self.by_kept_kek(header) {
            self.decide(header, Ok(unlocked));
        } else if self.must_not_ask(header.claims().slots.key_ids()) {
            return Err(PendingFetch::Unlock(Box::new(header.clone())).into());
        } else {
            self.unlock_all(std::iter::once(header));
        }
        let removed = || Err(Error::new(Kind::KeyUnavailable, "locked: its key was just removed"));
        self.known(header).unwrap_or_else(removed)
    }

    fn known(&self, header: &UnverifiedHeader) -> Option<Result<Arc<Dek>>> {
        match self.state(header)? {
            LockState::Unlocked(dek) => Some(Ok(dek)),
            LockState::Locked { kind, reason, .. } => Some(Err(Error::new(kind, format!("locked: {reason}")))),
        }
    }

    /// By the KEK of a home that is unlocked: a disk that was made beside the mount needs no provider.
    fn by_kept_kek(&self, header: &UnverifiedHeader) -> Option<Unlocked> {
        let keks = self.keks.read();
        let kept = |id: &KeyId| {
            keks.values()
                .flat_map(ByPlace::values)
                .find(|(kept, _)| kept == id)
                .map(|(_, kek)| (id.clone(), Ok(Arc::clone(kek))))
        };
        let fetched: FetchedKeks = header.claims().slots.key_ids().filter_map(kept).collect();
        unlock_through(header, &fetched).ok()
    }

    fn must_not_ask<'k>(&self, mut keys: impl Iterator<Item = &'k KeyId>) -> bool {
        let providers = self.providers();
        !self.may_ask && keys.any(|key_id| providers.may_wait(key_id.provider()))
    }

    /// The KEK that new components of an unlocked VM are wrapped by: that of its home's first slot, or if that cannot be
    /// had, the one that unlocked it.
    ///
    /// # Errors
    /// As the provider's, or `KeyUnavailable` with a [`PendingFetch`] that must be asked first.
    pub fn kek(&self, home: &Header) -> Result<(KeyId, Arc<dyn Kek>)> {
        let kept = self.kept_kek(home);
        match kept {
            Some((key_id, kek)) if self.may_ask || kek.wraps_at_once() => Ok((key_id, kek)),
            _ if self.must_not_ask(home.slots.key_ids()) => Err(PendingFetch::Wrap(Box::new(home.clone())).into()),
            Some(kept) => Ok(kept),
            None => self.fetch_kek(home),
        }
    }

    fn kept_kek(&self, home: &Header) -> Option<(KeyId, Arc<dyn Kek>)> {
        let keks = self.keks.read();
        let is_its = |(key_id, kek): &&NamedKek| {
            home.slots.iter().any(|slot| slot.key_id == *key_id && refuse_other_key(slot, kek.as_ref()).is_ok())
        };
        keks.get(&home.uuid)?.values().find(is_its).cloned()
    }

    fn add_kek(&self, home: Uuid, place: Option<HeaderPlace>, kek: NamedKek) {
        self.keks.write().entry(home).or_default().insert(place, kek);
    }

    fn fetch_kek(&self, home: &Header) -> Result<(KeyId, Arc<dyn Kek>)> {
        let kek = first_kek(home, &self.providers())?;
        self.add_kek(home.uuid, None, kek.clone());
        Ok(kek)
    }

    /// Asks a provider what an operation has to know before it continues, and waits for the answer.
    ///
    /// # Errors
    /// `KeyUnavailable` when a new component cannot be wrapped. Its state says that one remains locked.
    pub fn ask(&self, fetch: &PendingFetch) -> Result<()> {
        match fetch {
            PendingFetch::Unlock(header) => {
                self.unlock_all(std::iter::once(&**header));
                Ok(())
            }
            PendingFetch::Wrap(home) => {
                let (_, kek) = self.kept_kek(home).map_or_else(|| self.fetch_kek(home), Ok)?;
                kek.prepare_wrap()
            }
        }
    }

    /// Asks for the state of the keys that new components would be wrapped by, so that it is known when their server is lost.
    /// May take long; a provider says whether a key still wraps.
    pub fn confirm_keys(&self) {
        let kept: Vec<NamedKek> = self.keks.read().values().flat_map(ByPlace::values).cloned().collect();
        for (_, kek) in kept {
            kek.refresh_state();
        }
    }

    /// Whether the component with this header is unlocked, as far as known.
    pub fn state(&self, header: &UnverifiedHeader) -> Option<LockState> {
        match self.known_dek(header) {
            Some(dek) => Some(LockState::Unlocked(dek)),
            None => self.states.read().locked(header),
        }
    }

    /// The DEK in memory that verifies a header.
    pub fn known_dek(&self, header: &UnverifiedHeader) -> Option<Arc<Dek>> {
        self.states.read().dek(header)
    }

    /// Whether a DEK of the component with this UUID, whose header this file has, is in memory.
    pub fn has_dek(&self, uuid: Uuid, place: Option<HeaderPlace>) -> bool {
        self.states.read().has_dek(uuid, place)
    }

    /// The last time that the component with this header could not be unlocked.
    pub fn last_failure(&self, header: &UnverifiedHeader) -> Option<LastFailure> {
        self.states.read().last_failure(header)
    }

    /// How many components are known to be unlocked, and locked.
    pub fn count(&self) -> (usize, usize) {
        self.states.read().count()
    }

    /// Whether a component waits for its provider, rather than for a command or a repair.
    pub fn waits_for_provider(&self) -> bool {
        self.states.read().waits_for_provider()
    }

    /// Makes a component known whose key is about to be fetched.
    pub fn expect(&self, header: &UnverifiedHeader) {
        self.states.write().expect(header);
    }

    /// Forgets why headers did not open that are not among these.
    pub fn retain<'h>(&self, headers: impl Iterator<Item = &'h UnverifiedHeader>) {
        self.states.write().retain(headers);
    }

    /// Forgets a component's DEK, and a home's KEK.
    pub fn lock(&self, header: &UnverifiedHeader) {
        let (uuid, place) = (header.claims().uuid, header.place());
        let mut states = self.states.write();
        states.lock(header);
        if !states.has_dek(uuid, place)
            && let Some(keks) = self.keks.write().get_mut(&uuid)
        {
            keks.retain(|known, _| states.is_another(known, place));
        }
        drop(states);
        self.tell(&Change { what: NoticeSubject::Lock, header: Some(header), key_id: None, error: None });
    }

    /// Adds a component that was just made, with the key it was made with, and the file that its header has.
    pub fn insert(&self, uuid: Uuid, place: Option<HeaderPlace>, dek: Dek) {
        self.states.write().made(uuid, place, dek, None);
    }

    /// What providers have had to tell since this was last asked, without what they reported before.
    pub fn new_notices(&self) -> Vec<Notice> {
        let mut kept = self.notices.lock();
        let mut fresh = Vec::new();
        for notice in self.providers().take_notices() {
            let known = kept.iter().position(|old| (&old.provider, &old.text) == (&notice.provider, &notice.text));
            match known {
                Some(index) => drop(kept.remove(index)),
                None => fresh.push(notice.clone()),
            }
            kept.push(notice);
        }
        let surplus = kept.len().saturating_sub(MAX_NOTICES);
        kept.drain(..surplus);
        fresh
    }

    /// What providers had to tell, the latest last.
    pub fn notices(&self) -> Vec<Notice> {
        self.notices.lock().clone()
    }
}

#[cfg(test)]
mod tests;
