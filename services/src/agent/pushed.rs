//! KEKs that keepers of the cluster push to this host, in locked memory, and kept over a restart where that is allowed. What is not here is
//! asked of them.

mod ask;
mod held;
mod keep;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::cluster::push::{PushRole, keepers};
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::format::cluster::{Document, KeptKeks, MAX_WISHES, PushedProvider, Reference, Wish};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::agent::Purpose;
use vmcryptfs::provider::{Failure, Trouble};
use vmcryptfs::sys::SecretBytes;

use super::boards::Boards;
use super::endless;
use held::{Held, Outcome, Refused, Wished};
use keep::Keeping;

/// How long a program waits in one request. It asks again then.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long a refusal is repeated to programs before a keeper is asked again.
const REPEATED: Duration = Duration::from_secs(5);
/// Most refusals that are remembered.
const MAX_REFUSED: usize = 16_384;

/// What a program gets.
pub(super) enum Found {
    /// A KEK.
    Kek {
        /// Its key id.
        id: KeyId,
        /// The KEK.
        kek: LocalKek,
        /// Whether it may wrap.
        wraps: bool,
    },
    /// A keeper has been asked; what is known of it.
    Awaited(String),
}

/// The KEKs that keepers have given to this host, and what it waits for.
pub(super) struct Pushed {
    config: PathBuf,
    state: Mutex<State>,
    /// Something was wished for, or has come.
    changed: Condvar,
    keeping: Keeping,
}

#[derive(Default)]
struct State {
    /// The providers whose KEKs are pushed to this host, and the names of their keepers.
    providers: BTreeMap<ProviderName, (PushedProvider, Vec<String>)>,
    keks: HashMap<KeyId, Held>,
    wishes: BTreeMap<Reference, Wished>,
    refused: HashMap<KeyId, Refused>,
    /// What an earlier agent kept, until the TPM has given it back.
    pending: Option<KeptKeks>,
    /// Why the board cannot be asked.
    trouble: Option<String>,
}

impl Pushed {
    /// Those of a host with this configuration: none yet, as what was kept is still sealed. The providers are those of the last document that
    /// it has seen.
    ///
    /// # Errors
    /// Those of the host's files.
    pub(super) fn load(config: &Path) -> Result<Self> {
        let (state, changed, keeping) = (Mutex::default(), Condvar::new(), Keeping::of(config));
        let pushed = Self { config: config.to_path_buf(), state, changed, keeping };
        let files = HostFiles::of(config);
        let Some(membership) = files.membership()? else { return Ok(pushed) };
        if let Some(document) = files.document(&membership)? {
            let host = files.identity()?.uuid;
            let mut state = pushed.state.lock();
            state.pending = pushed.keeping.load(membership.cluster, host)?;
            for provider in &document.pushed {
                if PushRole::of(&document, provider, host) == Some(PushRole::Receiver) {
                    state.receive(&document, provider);
                }
            }
        }
        Ok(pushed)
    }

    /// Asks keepers for as long as the process lives, on a thread of its own. Another one keeps what may be kept.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn begin(self: &Arc<Self>, boards: Arc<Boards>) -> Result<()> {
        let keeping = Arc::clone(self);
        endless::begin("kept", "keeping pushed keys", move || keeping.keep())?;
        let (pushed, mut asker) = (Arc::clone(self), ask::Asker::new(boards));
        endless::begin("pushed", "asking keepers", move || asker.turn(&pushed))
    }

    /// Whether keepers push the KEKs of this provider to this host.
    pub(super) fn has(&self, name: &ProviderName) -> bool {
        self.state.lock().providers.contains_key(name)
    }

    /// The providers whose KEKs are pushed, and how many of each are here.
    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        let state = self.state.lock();
        let count = |name: &ProviderName| state.keks.keys().filter(|id| id.provider() == name).count();
        state.providers.keys().map(|name| (name.to_string(), count(name))).collect()
    }

    /// Why keepers cannot be asked, and keys not be kept.
    pub(super) fn trouble(&self) -> Vec<String> {
        let kept = self.keeping.trouble();
        let state = self.state.lock();
        let asked = state.trouble.as_ref().filter(|_| !state.providers.is_empty());
        asked.map(|why| format!("pushed keys: {why}")).into_iter().chain(kept).collect()
    }

    /// The KEK of this id. A keeper is asked for one that is not here, and waited for a moment.
    ///
    /// # Errors
    /// `KeyUnavailable` when a keeper has refused it, or there is none.
    pub(super) fn find(&self, id: &KeyId) -> Result<Found> {
        let until = Instant::now() + PATIENCE;
        let mut state = self.state.lock();
        loop {
            if let Some(found) = state.found(id) {
                return found;
            }
            let reference = state.wish_for(id)?;
            if let Some(awaited) = self.wait(&mut state, reference, until) {
                return Ok(awaited);
            }
        }
    }

    /// The KEK that was made for a request, or is being made.
    ///
    /// # Errors
    /// `KeyUnavailable` when no keeper makes one.
    pub(super) fn make(&self, provider: &ProviderName, purpose: Purpose) -> Result<Found> {
        let until = Instant::now() + PATIENCE;
        let reference = Reference(purpose.request.into_bytes());
        let mut state = self.state.lock();
        loop {
            match state.wishes.get(&reference).and_then(|wished| wished.outcome.as_ref()) {
                Some(Outcome::Kek(id)) => {
                    let id = id.clone();
                    return state.found(&id).unwrap_or_else(|| state.refuse_without_keeper(provider));
                }
                Some(Outcome::Refused(refused)) => {
                    return Err(refused.error(&format!("provider {provider} made no key")));
                }
                None => {}
            }
            if !state.wishes.contains_key(&reference) {
                let wish = Wish::New { vm: purpose.vm_uuid, name: purpose.vm_name.clone() };
                state.wish(provider, reference, wish)?;
            }
            if let Some(awaited) = self.wait(&mut state, reference, until) {
                return Ok(awaited);
            }
        }
    }

    /// Waits until something has changed. If that takes too long, a program asks again for what it wished for, and is told what is known.
    fn wait(&self, state: &mut MutexGuard<'_, State>, reference: Reference, until: Instant) -> Option<Found> {
        let wished = state.wishes.get_mut(&reference)?;
        let provider = wished.provider.clone();
        if wished.touch() {
            self.changed.notify_all();
        }
        let timed_out = self.changed.wait_until(state, until).timed_out();
        timed_out.then(|| Found::Awaited(state.awaited(&provider)))
    }

    /// Asks for these keys together, those that are here and of other providers left out. Nobody waits.
    pub(super) fn prepare(&self, ids: &[KeyId]) {
        let mut state = self.state.lock();
        for id in ids.iter().take(MAX_WISHES / 2) {
            if state.providers.contains_key(id.provider()) && state.found(id).is_none() {
                // What cannot be wished for is said when it is asked for.
                let Ok(reference) = state.wish_for(id) else { return };
                state.wishes.get_mut(&reference).map(Wished::touch);
            }
        }
        self.changed.notify_all();
    }

    /// This host gets KEKs of the provider from keepers.
    pub(super) fn receive(&self, document: &Document, pushed: &PushedProvider) {
        self.state.lock().receive(document, pushed);
        self.changed.notify_all();
    }

    /// This host gets no KEKs of the provider from keepers any longer: what is here is wiped, from memory first. `why` is for the event.
    ///
    /// # Errors
    /// `Io` when what was kept could not be wiped.
    pub(super) fn wipe(&self, name: &ProviderName, why: &str) -> Result<()> {
        let wiped = {
            let mut state = self.state.lock();
            state.wishes.retain(|_, wished| wished.provider != *name);
            state.refused.retain(|id, _| id.provider() != name);
            let before = state.keks.len();
            state.keks.retain(|id, _| id.provider() != name);
            (state.providers.remove(name).is_some()).then_some(before - state.keks.len())
        };
        self.changed.notify_all();
        if let Some(count) = wiped {
            tracing::warn!("wiped {count} pushed keys of provider {name}: {why}");
            Event::of(EventName::ClusterSync).provider(name).reason(format!("wiped {count} pushed keys: {why}")).done();
        }
        self.store(wiped.is_some())
    }

    /// Wipes the KEKs of providers that are not in the document any longer, or are others under the same name. Returns those providers, and
    /// one whose KEKs are still on disk.
    pub(super) fn wipe_others(
        &self,
        document: &Document,
        why: &str,
    ) -> (Vec<ProviderName>, Option<(ProviderName, Error)>) {
        let is_gone = |known: &PushedProvider| document.pushed.iter().all(|pushed| pushed.uuid != known.uuid);
        let gone: Vec<ProviderName> = {
            let state = self.state.lock();
            let known = state.providers.values().map(|(known, _)| known);
            known.filter(|known| is_gone(known)).map(|known| known.name.clone()).collect()
        };
        let wipe = |name: &ProviderName| self.wipe(name, why).err().map(|error| (name.clone(), error));
        let failed = gone.iter().filter_map(wipe).next_back();
        (gone, failed)
    }

    /// This host gets no KEKs of any provider any longer. Returns the providers whose KEKs it got. What was kept goes by
    /// [`wipe_kept`](Self::wipe_kept).
    pub(super) fn forget(&self, why: &str) -> Vec<ProviderName> {
        let names: Vec<ProviderName> = self.state.lock().providers.keys().cloned().collect();
        for name in &names {
            if let Err(error) = self.wipe(name, why) {
                tracing::warn!("wiping pushed keys of provider {name}: {}", error.chain());
            }
        }
        names
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn receive(&mut self, document: &Document, pushed: &PushedProvider) {
        let names = keepers(document, pushed).map(|keeper| keeper.name.to_string()).collect();
        self.providers.insert(pushed.name.clone(), (pushed.clone(), names));
    }

    /// The KEK, or why there is none; `None` if a keeper is to be asked.
    fn found(&self, id: &KeyId) -> Option<Result<Found>> {
        if let Some(held) = self.keks.get(id).filter(|held| self.is_alive(id, held)) {
            return Some(held.copy().map(|kek| Found::Kek { id: id.clone(), kek, wraps: held.wraps }));
        }
        let refused = self.refused.get(id).filter(|refused| refused.at.elapsed() < REPEATED)?;
        Some(Err(refused.error(&format!("key {id} is unavailable"))))
    }

    /// For how long a KEK may be used: for no time at all, where its provider is not pushed any longer.
    fn life_of(&self, id: &KeyId) -> Duration {
        self.providers.get(id.provider()).map_or(Duration::ZERO, |(provider, _)| provider.life)
    }

    fn is_alive(&self, id: &KeyId, held: &Held) -> bool {
        held.is_alive(self.life_of(id))
    }

    fn refuse_without_keeper(&self, provider: &ProviderName) -> Result<Found> {
        let failure = Failure::new(Trouble::Unreachable, "the key was wiped before it was fetched: try again");
        Err(Error::with_source(Kind::KeyUnavailable, format!("provider {provider}"), failure))
    }

    /// Remembers a refusal. Of too many, those go that are no longer told to programs and say nothing of a key, and then the oldest one.
    fn remember(&mut self, id: KeyId, refused: Refused) {
        self.refused.insert(id, refused);
        if self.refused.len() > MAX_REFUSED {
            self.refused.retain(|_, refused| refused.refusal.is_of_key() || refused.at.elapsed() < REPEATED);
        }
        if self.refused.len() > MAX_REFUSED {
            let oldest = self.refused.iter().min_by_key(|(_, refused)| refused.at).map(|(id, _)| id.clone());
            oldest.iter().for_each(|id| _ = self.refused.remove(id));
        }
    }

    /// The wish for a key, which is made if there is none.
    fn wish_for(&mut self, id: &KeyId) -> Result<Reference> {
        let is_it = |wished: &Wished| {
            wished.outcome.is_none()
                && wished.provider == *id.provider()
                && wished.wish == Wish::Key(id.id().to_owned())
        };
        if let Some((reference, _)) = self.wishes.iter().find(|(_, wished)| is_it(wished)) {
            return Ok(*reference);
        }
        let reference = Reference::new()?;
        self.wish(id.provider(), reference, Wish::Key(id.id().to_owned()))?;
        Ok(reference)
    }

    fn wish(&mut self, provider: &ProviderName, reference: Reference, wish: Wish) -> Result<()> {
        let (_, names) = self.providers.get(provider).ok_or_else(|| {
            let message =
                format!("no keeper gives keys of provider {provider} to this host: see `vmcryptfs cluster status`");
            Error::new(Kind::KeyUnavailable, message)
        })?;
        if names.is_empty() {
            let failure = Failure::new(
                Trouble::Unreachable,
                format!(
                    "it has no keeper: on a host with the credentials of its key server, `vmcryptfs cluster share {provider} --admin-key FILE`"
                ),
            );
            return Err(Error::with_source(
                Kind::KeyUnavailable,
                format!("provider {provider} gives no keys"),
                failure,
            ));
        }
        if self.wishes.values().filter(|wished| wished.outcome.is_none()).count() >= MAX_WISHES {
            let message = format!("this host waits for {MAX_WISHES} keys already");
            return Err(Error::new(Kind::Busy, message));
        }
        self.wishes.insert(reference, Wished::new(provider, wish));
        Ok(())
    }

    /// What is to be known of a wish that waits.
    fn awaited(&self, provider: &ProviderName) -> String {
        match (&self.trouble, self.providers.get(provider)) {
            (Some(why), _) => format!("no keeper can be asked: {why}"),
            (None, Some((_, names))) => format!(
                "no answer from {}, keepers of provider {provider}: does vmcryptfs-agent run there, and reach the board and its key server?",
                names.join(", ")
            ),
            (None, None) => format!("provider {provider} is not pushed to this host any longer"),
        }
    }
}

/// A second owner of a KEK.
fn copied(kek: &LocalKek) -> Result<LocalKek> {
    let mut bytes = SecretBytes::zeroed(kek.bytes().len());
    bytes.copy_from_slice(kek.bytes());
    LocalKek::new(bytes)
}
