//! Primary keys that the hosts of a cluster share: sealed to a host, opened by it, compared with what the cluster's
//! document says of them, and wiped.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::backup::{install, primary_key_of};
use super::config::Config;
use super::primary_key::PrimaryKey;
use super::private_file;
use crate::crypto::derive::hmac;
use crate::crypto::hpke::SealKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{Envelope, EnvelopeFor, HostIdentity, SharedProvider};
use crate::key::ProviderName;

const CHECK_PURPOSE: &[u8] = b"vmcryptfs cluster primary 1\0";

/// A primary key of this host that its cluster shares, or is to share.
pub struct SharedKey {
    provider: ProviderName,
    primary: PrimaryKey,
    file: PathBuf,
}

impl SharedKey {
    /// The primary key of a provider of this host.
    ///
    /// # Errors
    /// `NotFound` when no such provider is configured, `Unsupported` when it keeps no primary key; those of
    /// [`PrimaryKey::load`].
    pub fn of(config: &Path, provider: &ProviderName) -> Result<Self> {
        let configured = Config::load(config)?;
        let settings = primary_key_of(configured.settings(provider)?)?;
        if settings.kek_share.is_some() {
            return Err(Error::new(
                Kind::Unsupported,
                format!("provider {provider} has a kek-share, which a cluster does not carry: share one without it"),
            ));
        }
        let file = settings.primary_key_of(config);
        Ok(Self { provider: provider.clone(), primary: PrimaryKey::load(&file)?, file })
    }

    /// What this host has in a file of a provider that the cluster shares: its primary key, if it is here.
    ///
    /// # Errors
    /// `KeyUnavailable` when the agent of this host has it; `Exists` when this host has another provider or primary key under that
    /// name, and those of [`of`](Self::of).
    pub fn held(config: &Path, cluster: Uuid, shared: &SharedProvider) -> Result<Option<Self>> {
        let configured = Config::load(config)?;
        let Some(settings) = configured.providers().get(&shared.name) else { return Ok(None) };
        if settings.kind().has_keys_from_agent() {
            let name = &shared.name;
            return Err(Error::new(
                Kind::KeyUnavailable,
                format!(
                    "the key of provider {name} is kept by the agent of this host, which does not run: start vmcryptfs-agent"
                ),
            ));
        }
        let found = match Self::of(config, &shared.name) {
            Err(error) if error.kind() == Kind::KeyUnavailable => return Ok(None),
            Err(error) if error.kind() == Kind::Unsupported => return Err(another(shared, "another", error)),
            found => found?,
        };
        if found.uuid() != shared.primary {
            return Err(Error::new(
                Kind::Exists,
                format!(
                    "provider {} of this host has primary key {}, that of the cluster {}: the two need different names",
                    shared.name,
                    found.uuid(),
                    shared.primary
                ),
            ));
        }
        if found.check(cluster) != shared.check {
            return Err(Error::new(
                Kind::Exists,
                format!(
                    "primary key {} of this host is not the cluster's of that UUID: one was forged",
                    shared.primary
                ),
            ));
        }
        Ok(Some(found))
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
        let received = Self { provider: place.provider.clone(), primary, file: PathBuf::new() };
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

    /// Keeps it in a file, as the primary key of its provider. Returns the file.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn install(&self, config: &Path) -> Result<PathBuf> {
        install(config, &self.provider, &self.primary, |settings| Ok(settings.clone()))
    }

    /// Destroys this host's file of the primary key. The provider stays configured, so that it says what is missing.
    ///
    /// # Errors
    /// `Io`.
    pub fn wipe(self) -> Result<()> {
        private_file::wipe(&self.file)
    }
}

fn another(shared: &SharedProvider, what: &str, error: Error) -> Error {
    let name = &shared.name;
    Error::with_source(
        Kind::Exists,
        format!("provider {name} of this host is {what} than the cluster's of that name"),
        error,
    )
}
