//! The primary keys that the cluster shares, in locked memory. On disk is only what is sealed to the host.

mod others;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;
use vmcryptfs::cluster::host::{HostFiles, Identity};
use vmcryptfs::cluster::kept::{KeptEnvelope, KeptEnvelopes};
use vmcryptfs::cluster::push::PushRole;
use vmcryptfs::cluster::{KeyFiles, SharedKeys};
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::format::cluster::{Document, EnvelopeFor, Generation, PushedProvider, SharedProvider};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::config::Config;
use vmcryptfs::provider::kinds::KINDS;
use vmcryptfs::provider::primary_key::primary_of;
use vmcryptfs::provider::shared_key::SharedKey;
use vmcryptfs::provider::{self, Arguments};
use vmcryptfs::text::Show;

use super::keeper;
use super::pushed::Pushed;

/// The primary keys of a provider.
#[derive(Default)]
struct Held {
    keys: BTreeMap<Uuid, Arc<SharedKey>>,
    /// The one by which new keys are made.
    current: Option<Uuid>,
}

/// The keys of the agent of a host. Programs that ask for a KEK wait for nothing but memory.
pub(super) struct Keys {
    config: PathBuf,
    pushed: Arc<Pushed>,
    held: RwLock<BTreeMap<ProviderName, Held>>,
    /// Envelopes, as they were last stored.
    kept: Mutex<Vec<KeptEnvelope>>,
    owner: Mutex<Owner>,
    /// Providers whose keys were forgotten, as they had come to another owner or the board was not reached.
    forgotten: Mutex<BTreeSet<ProviderName>>,
}

/// The host that the keys came to. It is another one when it has joined a cluster again.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
struct Owner {
    /// Its UUID; `None` for a host in no cluster.
    host: Option<Uuid>,
    /// The file of its identity, as it was when that was read.
    stamp: Option<(u64, u64, i64, i64)>,
}

impl Owner {
    /// The host as it is now.
    fn of(files: &HostFiles) -> Result<Self> {
        let stamp = files.identity_stamp(); // before it is read, so that a change is noticed
        let host = match stamp.and(files.membership()?) {
            Some(_) => Some(files.identity()?.uuid),
            None => None,
        };
        Ok(Self { host, stamp })
    }
}

impl Keys {
    /// Those of a host with this configuration: what its envelopes have that it has kept. One that does not open is not kept any longer.
    ///
    /// # Errors
    /// Those of the files.
    pub(super) fn load(config: &Path, pushed: Arc<Pushed>) -> Result<Self> {
        let files = HostFiles::of(config);
        let owner = Owner::of(&files)?;
        let (mut held, mut kept) = (BTreeMap::<_, Held>::new(), Vec::new());
        let stored = stored(config)?;
        let count = stored.len();
        if let Some(membership) = files.membership()? {
            let identity = files.identity()?;
            for envelope in stored {
                match open(&envelope, &identity, membership.cluster) {
                    Ok((name, key)) => {
                        let of_provider = held.entry(name).or_default();
                        of_provider.current = of_provider.current.or(envelope.is_current.then_some(envelope.primary));
                        of_provider.keys.insert(envelope.primary, Arc::new(key));
                        kept.push(envelope);
                    }
                    Err(error) => tracing::warn!("an envelope that was kept: {}", error.chain()),
                }
            }
        }
        if kept.len() < count {
            KeptEnvelopes::of(config).store(kept.clone())?;
        }
        let (owner, forgotten) = (Mutex::new(owner), Mutex::default());
        let (config, held, kept) = (config.to_path_buf(), RwLock::new(held), Mutex::new(kept));
        Ok(Self { config, pushed, held, kept, owner, forgotten })
    }

    /// Forgets all keys if the host has joined a cluster again, or has left it, since they came. Costs a look at one file.
    pub(super) fn notice_owner(&self) {
        let files = HostFiles::of(&self.config);
        if self.owner.lock().stamp == files.identity_stamp() {
            return;
        }
        match Owner::of(&files) {
            Ok(owner) => self.belong_to(owner),
            Err(error) => tracing::warn!("looking whose keys these are: {}", error.chain()),
        }
    }

    fn belong_to(&self, owner: Owner) {
        let mut known = self.owner.lock();
        if known.host != owner.host {
            // Once more later, if the disk fails: what is in memory is gone in any case.
            if let Err(error) = self.forget("it came to this host before it left its cluster or joined again") {
                tracing::warn!("wiping envelopes that came before this host joined again: {}", error.chain());
                known.stamp = None;
                return;
            }
        }
        *known = owner;
    }

    /// Forgets all keys, as the board was not reached for this time. Returns whether there were any.
    pub(super) fn forget_offline(&self, age: Duration) -> bool {
        let has_pushed = self.pushed.counts().values().any(|&keks| keks > 0) || self.pushed.may_have_kept();
        if self.held.read().is_empty() && self.kept.lock().is_empty() && !has_pushed {
            return false;
        }
        let why = format!("the board was not reached for {} s, longer than max-offline", age.as_secs());
        if let Err(error) = self.forget(&why) {
            tracing::warn!("wiping envelopes, as the board was not reached for too long: {}", error.chain());
        }
        true
    }

    fn forget(&self, why: &str) -> Result<()> {
        let gone = std::mem::take(&mut *self.held.write());
        tell_forgotten(&gone, why);
        let pushed = self.pushed.forget(why);
        self.forgotten.lock().extend(gone.into_keys().chain(pushed));
        let wiped = self.pushed.wipe_kept();
        self.store(Vec::clear)?;
        self.wipe_left()?;
        wiped
    }

    /// Providers whose keys were forgotten, and did not come again. One that this host has a way of its own to is none of them any longer.
    pub(super) fn forgotten(&self) -> Vec<ProviderName> {
        let mut forgotten = self.forgotten.lock();
        forgotten.retain(|name| !self.is_in_file(name).unwrap_or(false));
        forgotten.iter().cloned().collect()
    }

    /// The providers whose keys are in memory, and the primary key of each by which new keys are made.
    pub(super) fn current_of_all(&self) -> BTreeMap<String, Uuid> {
        let held = self.held.read();
        held.iter().filter_map(|(name, held)| Some((name.to_string(), held.current?))).collect()
    }

    /// What keepers push to this host.
    pub(super) fn pushed(&self) -> &Pushed {
        &self.pushed
    }

    fn current_of(&self, name: &ProviderName) -> Option<Uuid> {
        self.held.read().get(name)?.current
    }

    /// Whether it has a primary key of a provider.
    pub(super) fn has(&self, name: &ProviderName) -> bool {
        self.held.read().contains_key(name)
    }

    /// Makes a KEK of a provider.
    pub(super) fn make_kek(&self, name: &ProviderName) -> Result<(KeyId, LocalKek)> {
        self.notice_owner();
        let key = |held: &Held| held.keys.get(&held.current?).map(Arc::clone);
        let key = self.held.read().get(name).and_then(key);
        key.ok_or_else(|| missing(name))?.make_kek()
    }

    /// The KEK of this id.
    pub(super) fn find_kek(&self, key_id: &KeyId) -> Result<LocalKek> {
        self.notice_owner();
        let name = key_id.provider();
        let primary = primary_of(key_id)?;
        let key = {
            let held = self.held.read();
            let held = held.get(name).filter(|held| !held.keys.is_empty()).ok_or_else(|| missing(name))?;
            held.keys.get(&primary).map(Arc::clone)
        };
        let other = || {
            Error::new(
                Kind::KeyUnavailable,
                format!(
                    "this key id belongs to primary key {primary}, which is none of provider {name} that the cluster shares now"
                ),
            )
        };
        key.ok_or_else(other)?.find_kek(key_id)
    }

    /// Whether the key of a provider is in a file of this host, as those are of native providers.
    pub(super) fn is_in_file(&self, name: &ProviderName) -> Result<bool> {
        let config = Config::load(&self.config)?;
        Ok(config.providers().get(name).is_some_and(|settings| !settings.kind().has_keys_from_agent()))
    }

    fn files(&self) -> KeyFiles<'_> {
        KeyFiles { config: &self.config }
    }

    /// Lets this host's programs know the provider. A configuration that cannot be written is the administrator's own.
    fn configure(&self, name: &ProviderName) -> Result<()> {
        if Config::load(&self.config)?.providers().contains_key(name) {
            return Ok(());
        }
        let Some(kind) = KINDS.into_iter().find(|kind| kind.has_keys_from_agent()) else { return Ok(()) };
        if let Err(error) = provider::add(&self.config, name, kind.name(), &Arguments::default(), false) {
            tracing::warn!("adding provider {name} to the configuration: {}", error.chain());
        }
        Ok(())
    }

    /// Stores envelopes as `change` leaves them.
    fn store(&self, change: impl FnOnce(&mut Vec<KeptEnvelope>)) -> Result<()> {
        let mut kept = self.kept.lock();
        let mut now = kept.clone();
        change(&mut now);
        if *kept != now {
            KeptEnvelopes::of(&self.config).store(now.clone())?;
            *kept = now;
        }
        Ok(())
    }

    /// Wipes what is not kept any longer, and a crash or damage left on disk.
    fn wipe_left(&self) -> Result<()> {
        let _kept = self.kept.lock();
        KeptEnvelopes::of(&self.config).wipe_left()
    }
}

fn missing(name: &ProviderName) -> Error {
    Error::new(
        Kind::KeyUnavailable,
        format!(
            "the agent of this host does not have the key of provider {name}: `vmcryptfs cluster status` says whether the host is a member of \
             its cluster and whether that shares the provider"
        ),
    )
}

/// What the host has kept. A damaged file does not keep the agent from beginning: what was in it comes again from the board.
fn stored(config: &Path) -> Result<Vec<KeptEnvelope>> {
    let kept = KeptEnvelopes::of(config);
    if let Err(error) = kept.end_crash() {
        tracing::warn!("wiping envelopes that were kept before a crash: {}", error.chain());
    }
    match kept.load() {
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) => {
            let aside = kept.set_aside()?;
            tracing::error!("{}: it is {} now, and the keys are taken from the board", error.chain(), aside.shown());
            Event::of(EventName::Agent).failed(&error);
            Ok(Vec::new())
        }
        stored => stored,
    }
}

fn tell_forgotten(gone: &BTreeMap<ProviderName, Held>, why: &str) {
    for (name, primary) in gone.iter().flat_map(|(name, held)| held.keys.keys().map(move |primary| (name, primary))) {
        tracing::warn!("wiped primary key {primary} of provider {name}: {why}");
        Event::of(EventName::ClusterSync).provider(name).reason(format!("wiped primary key {primary}: {why}")).done();
    }
}

fn open(envelope: &KeptEnvelope, identity: &Identity, cluster: Uuid) -> Result<(ProviderName, SharedKey)> {
    if envelope.cluster != cluster {
        return Err(Error::new(Kind::KeyRejected, format!("of cluster {}, expected {cluster}", envelope.cluster)));
    }
    Ok((envelope.provider()?, envelope.open(identity)?))
}

impl SharedKeys for Keys {
    fn begin(&self, host: Uuid) {
        self.belong_to(Owner { host: Some(host), stamp: HostFiles::of(&self.config).identity_stamp() });
    }

    fn held(&self, cluster: Uuid, shared: &SharedProvider, generation: &Generation) -> Result<Option<Arc<SharedKey>>> {
        if self.is_in_file(&shared.name)? {
            return self.files().held(cluster, shared, generation);
        }
        let found = |held: &Held| held.keys.get(&generation.primary).map(Arc::clone);
        let held = self.held.read().get(&shared.name).and_then(found);
        let held = held.filter(|key| key.check(cluster) == generation.check);
        if held.is_some() {
            self.configure(&shared.name)?;
        }
        Ok(held)
    }

    fn keep(&self, place: &EnvelopeFor<'_>, shared: &SharedProvider, key: SharedKey, envelope: &[u8]) -> Result<()> {
        let name = &shared.name;
        if self.is_in_file(name)? {
            return self.files().keep(place, shared, key, envelope);
        }
        // Only the thread that exchanges changes keys. Programs do not wait for the disk in the meantime.
        let mut fresh = KeptEnvelope::new(place, &key.check(place.cluster), envelope);
        fresh.is_current = self.current_of(name).is_none();
        self.store(|kept| {
            kept.retain(|kept| !kept.is_of(name, place.primary));
            kept.push(fresh);
        })?;
        self.forgotten.lock().remove(name);
        let mut held = self.held.write();
        let held = held.entry(name.clone()).or_default();
        held.keys.insert(place.primary, Arc::new(key));
        held.current = held.current.or(Some(place.primary));
        Ok(())
    }

    fn next(&self, shared: &SharedProvider) -> Result<Arc<SharedKey>> {
        let name = &shared.name;
        match self.is_in_file(name)? {
            true => self.files().next(shared),
            false => Err(Error::new(
                Kind::Unsupported,
                format!(
                    "the agent of this host makes no primary keys: rotate {name} on a host that has its key in a file"
                ),
            )),
        }
    }

    fn make_current(&self, shared: &SharedProvider, generation: &Generation) -> Result<bool> {
        let name = &shared.name;
        if self.is_in_file(name)? {
            return self.files().make_current(shared, generation);
        }
        let is_here = self.held.read().get(name).is_some_and(|held| held.keys.contains_key(&generation.primary));
        let now = self.current_of(name).and_then(|current| shared.number(current));
        if !is_here || now >= shared.number(generation.primary) {
            return Ok(false);
        }
        self.store(|kept| {
            let of_provider = kept.iter_mut().filter(|kept| kept.provider().is_ok_and(|provider| provider == *name));
            of_provider.for_each(|kept| kept.is_current = kept.primary == generation.primary);
        })?;
        if let Some(held) = self.held.write().get_mut(name) {
            held.current = Some(generation.primary);
        }
        Ok(true)
    }

    fn current(&self, shared: &SharedProvider) -> Result<Option<Uuid>> {
        match self.is_in_file(&shared.name)? {
            true => self.files().current(shared),
            false => Ok(self.current_of(&shared.name)),
        }
    }

    fn wipe(&self, cluster: Uuid, shared: &SharedProvider, generation: &Generation) -> Result<bool> {
        let (name, primary) = (&shared.name, generation.primary);
        // From memory first: no program gets another KEK of it.
        let wiped = {
            let mut all = self.held.write();
            let held = all.entry(name.clone()).or_default();
            held.current = held.current.filter(|current| *current != primary);
            let wiped = held.keys.remove(&primary).is_some();
            if held.keys.is_empty() {
                all.remove(name);
            }
            wiped
        };
        self.store(|kept| kept.retain(|kept| !kept.is_of(name, primary)))?;
        self.wipe_left()?;
        match self.is_in_file(name)? {
            true => Ok(self.files().wipe(cluster, shared, generation)? || wiped),
            false => Ok(wiped),
        }
    }

    fn act_on_pushed(&self, document: &Document, pushed: &PushedProvider, role: PushRole) -> Result<bool> {
        let name = &pushed.name;
        let has_own = self.is_in_file(name)?;
        match role {
            PushRole::Receiver if !has_own => {
                self.pushed.receive(document, pushed);
                self.forgotten.lock().remove(name);
                self.configure(name)?;
                Ok(false)
            }
            PushRole::Receiver | PushRole::Keeper => {
                self.pushed.wipe(name, "this host has the credentials of its key server")?;
                if role == PushRole::Keeper { keeper::is_ready(&self.config, name) } else { Ok(false) }
            }
            PushRole::Removed => {
                self.pushed.wipe(name, "this host was removed from the cluster")?;
                self.pushed.wipe_kept()?;
                Ok(false)
            }
        }
    }

    fn forget_others(&self, document: &Document) -> Vec<(ProviderName, Error)> {
        self.wipe_others(document)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests;
