//! Primary keys that the hosts of a cluster share: sealed to a host, opened by it, compared with what the cluster's
//! document says of them, and wiped.

use std::path::Path;

use uuid::Uuid;

use super::agent::client::AgentClient;
use super::backup::{install, primary_key_of};
use super::config::{self, Config};
use super::generations::Generations;
use super::primary_key::{self, PrimaryKey};
use crate::crypto::derive::hmac;
use crate::crypto::hpke::SealKey;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{Envelope, EnvelopeFor, Generation, HostIdentity, SharedProvider};
use crate::key::{KeyId, ProviderName};

const CHECK_PURPOSE: &[u8] = b"vmcryptfs cluster primary 1\0";

/// A primary key of this host that its cluster shares, or is to share.
pub struct SharedKey {
    provider: ProviderName,
    primary: PrimaryKey,
}

impl SharedKey {
    /// The current primary key of a provider of this host.
    ///
    /// # Errors
    /// `NotFound` when no such provider is configured, `Unsupported` when it keeps no primary key; those of
    /// [`PrimaryKey::load`].
    pub fn of(config: &Path, provider: &ProviderName) -> Result<Self> {
        Ok(Self { provider: provider.clone(), primary: generations(config, provider)?.current()? })
    }

    /// What this host has of a generation that the cluster shares: its primary key, if it is here.
    ///
    /// # Errors
    /// `KeyUnavailable` when the agent of this host has it; `Exists` when this host has another provider or primary key under that
    /// name, and those of [`of`](Self::of).
    pub fn held(config: &Path, cluster: Uuid, shared: &SharedProvider, wanted: &Generation) -> Result<Option<Self>> {
        let Some(generations) = generations_of(config, shared)? else { return Ok(None) };
        let Some((_, primary)) = generations.find(wanted.primary)? else { return Ok(None) };
        let found = Self { provider: shared.name.clone(), primary };
        if found.check(cluster) != wanted.check {
            return Err(Error::new(
                Kind::Exists,
                format!(
                    "primary key {} of this host is not the cluster's of that UUID: one was forged",
                    wanted.primary
                ),
            ));
        }
        Ok(Some(found))
    }

    /// Makes the primary key of the next generation, which is kept on this host. One that was made by an attempt which did not end
    /// in a document is taken.
    ///
    /// # Errors
    /// Those of [`of`](Self::of), `Io`.
    pub fn next(config: &Path, shared: &SharedProvider) -> Result<Self> {
        let generations = generations(config, &shared.name)?;
        let unknown = generations.coming()?.into_iter().find(|uuid| shared.number(*uuid).is_none());
        let primary = match unknown.map(|uuid| generations.find(uuid)).transpose()?.flatten() {
            Some((_, primary)) => primary,
            None => PrimaryKey::generate()?,
        };
        generations.keep_coming(&primary)?;
        Ok(Self { provider: shared.name.clone(), primary })
    }

    /// The UUID of the primary key.
    pub fn uuid(&self) -> Uuid {
        self.primary.uuid()
    }

    /// What the document says of the primary key, so that no host takes another.
    pub fn check(&self, cluster: Uuid) -> [u8; 32] {
        let uuid = self.primary.uuid();
        hmac(self.primary.bytes(), &[CHECK_PURPOSE, cluster.as_bytes(), uuid.as_bytes()].concat())
    }

    /// Makes a KEK for a VM, and names it.
    ///
    /// # Errors
    /// `Io` when the random generator fails.
    pub fn make_kek(&self) -> Result<(KeyId, LocalKek)> {
        let (id, kek) = self.primary.make_kek()?;
        Ok((KeyId::new(self.provider.clone(), id)?, kek))
    }

    /// The KEK of a key id of this primary key.
    ///
    /// # Errors
    /// `Corrupt` when the key id is damaged.
    pub fn find_kek(&self, key_id: &KeyId) -> Result<LocalKek> {
        self.primary.unwrap_kek(&primary_key::parse_id(key_id.id())?.1)
    }

    /// Seals the primary key to a host.
    ///
    /// # Errors
    /// Those of [`Envelope::seal`].
    pub fn seal(&self, cluster: Uuid, host: &HostIdentity) -> Result<Envelope> {
        let place = EnvelopeFor { cluster, provider: &self.provider, primary: self.uuid(), host: host.uuid };
        Envelope::seal(&place, &host.seal_key, self.primary.bytes())
    }

    /// Opens an envelope for this host, and compares the key with what the document says of it.
    ///
    /// # Errors
    /// `KeyRejected` when it is for another host or place, `Corrupt` when it holds another key.
    pub fn open(place: &EnvelopeFor<'_>, check: &[u8; 32], envelope: &Envelope, host: &SealKey) -> Result<Self> {
        let primary = PrimaryKey::new(place.primary, envelope.open(place, host)?)?;
        let received = Self { provider: place.provider.clone(), primary };
        match received.check(place.cluster) == *check {
            true => Ok(received),
            false => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "the envelope holds another key than primary key {} of the cluster: it is forged",
                    place.primary
                ),
            )),
        }
    }

    /// Keeps it in a file: as the primary key of its provider where that has none, else as one that is to come.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn keep(&self, config: &Path, shared: &SharedProvider) -> Result<()> {
        let generations = generations_of(config, shared)?;
        match generations.filter(|generations| !is_missing(generations)) {
            Some(generations) => generations.keep_coming(&self.primary),
            None => install(config, &self.provider, &self.primary, |settings| Ok(settings.clone())).map(drop),
        }
    }
}

/// Sets which primary key of a shared provider is the current one on this host. `wanted` is the one of the newest generation that
/// may be used; an older one than the current is not taken. Returns whether it was not the current one before.
///
/// # Errors
/// Those of the provider's files.
pub fn make_current(config: &Path, shared: &SharedProvider, wanted: &Generation) -> Result<bool> {
    let Some(generations) = generations_of(config, shared)? else { return Ok(false) };
    let current = if is_missing(&generations) { None } else { Some(generations.current()?.uuid()) };
    let (now, then) = (current.and_then(|uuid| shared.number(uuid)), shared.number(wanted.primary));
    if now >= then {
        return Ok(false);
    }
    // The backup that there may be is of another key.
    config::update(config, |configured| {
        let settings = configured.settings(&shared.name)?.not_backed_up()?;
        configured.set(&shared.name, settings)
    })?;
    generations.make_current(wanted.primary)?;
    for older in generations.coming()?.into_iter().filter(|uuid| shared.number(*uuid).is_some_and(|at| Some(at) < then))
    {
        generations.make_former(older)?;
    }
    Ok(true)
}

/// The primary key by which this host makes new keys of a shared provider, if it is here.
///
/// # Errors
/// `Exists` when this host has another provider under that name, and those of its files.
pub fn current(config: &Path, shared: &SharedProvider) -> Result<Option<Uuid>> {
    let generations = generations_of(config, shared)?.filter(|generations| !is_missing(generations));
    generations.map(|generations| generations.current().map(|key| key.uuid())).transpose()
}

/// Destroys this host's files of a generation, also where its current primary key is another than the cluster's. The provider stays
/// configured, so that it says what is missing. Returns whether there was one.
///
/// # Errors
/// `Exists` when this host has a provider of another kind under that name, `Io`.
pub fn wipe(config: &Path, shared: &SharedProvider, generation: &Generation) -> Result<bool> {
    match configured(config, shared)? {
        Some(generations) => generations.wipe(generation.primary),
        None => Ok(false),
    }
}

/// The primary keys of a provider of this host.
fn generations(config: &Path, provider: &ProviderName) -> Result<Generations> {
    let configured = Config::load(config)?;
    let settings = configured.settings(provider)?;
    if settings.kind().has_keys_from_agent() {
        let message = match AgentClient::of(config)?.is_there() {
            true => format!(
                "the key of provider {provider} is kept by the agent of this host, and not in a file: do it on a host that has the key file"
            ),
            false => format!(
                "the key of provider {provider} is kept by the agent of this host, which does not run: start vmcryptfs-agent"
            ),
        };
        return Err(Error::new(Kind::KeyUnavailable, message));
    }
    let settings = primary_key_of(settings)?;
    if settings.kek_share.is_some() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("provider {provider} has a kek-share, which a cluster does not carry: share one without it"),
        ));
    }
    Ok(Generations::of(settings.primary_key_of(config)))
}

/// Those of the native provider of this name, whatever primary keys it has; `None` where this host has no provider of that name.
fn configured(config: &Path, shared: &SharedProvider) -> Result<Option<Generations>> {
    if !Config::load(config)?.providers().contains_key(&shared.name) {
        return Ok(None);
    }
    match generations(config, &shared.name) {
        Err(error) if error.kind() == Kind::Unsupported => Err(another(shared, "another", error)),
        generations => generations.map(Some),
    }
}

/// Those of a provider that the cluster shares; `None` where this host has no provider of that name.
fn generations_of(config: &Path, shared: &SharedProvider) -> Result<Option<Generations>> {
    let Some(generations) = configured(config, shared)? else { return Ok(None) };
    if is_missing(&generations) {
        return Ok(Some(generations));
    }
    let current = generations.current()?.uuid();
    match shared.number(current) {
        Some(_) => Ok(Some(generations)),
        None => Err(Error::new(
            Kind::Exists,
            format!(
                "provider {} of this host has primary key {current}, that of the cluster {}: the two need different names. \
                 `vmcryptfs provider rename {} NEW_NAME` gives this host's another one, and its VMs open as before; then run \
                 `vmcryptfs cluster sync` again",
                shared.name,
                shared.newest().primary,
                shared.name
            ),
        )),
    }
}

fn is_missing(generations: &Generations) -> bool {
    generations.current().is_err_and(|error| error.kind() == Kind::KeyUnavailable)
}

fn another(shared: &SharedProvider, what: &str, error: Error) -> Error {
    let name = &shared.name;
    Error::with_source(
        Kind::Exists,
        format!("provider {name} of this host is {what} than the cluster's of that name"),
        error,
    )
}
