//! Envelopes that the agent of a host keeps: after a restart it has the keys also without its board. They are sealed to the host, as
//! they are on the board.

use std::path::{Path, PathBuf};

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::host::{Identity, folder};
use crate::error::{Context, Error, Kind, Result};
use crate::format::cluster::{Envelope, EnvelopeFor};
use crate::key::ProviderName;
use crate::provider::private_file;
use crate::provider::shared_key::SharedKey;
use crate::text::Show;

const VERSION: u16 = 1;
/// Longest file in bytes: some hundred envelopes.
const MAX_LEN: u64 = 1 << 20;

/// An envelope, and what its key must be.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeptEnvelope {
    /// The cluster.
    pub cluster: Uuid,
    provider: String,
    /// UUID of the primary key.
    pub primary: Uuid,
    /// Whether new keys are made by it.
    pub is_current: bool,
    /// What the document says of the primary key, in hex.
    check: String,
    /// As it is on the board, in base64.
    envelope: String,
}

impl KeptEnvelope {
    /// An envelope that has been opened.
    pub fn new(place: &EnvelopeFor<'_>, check: &[u8; 32], envelope: &[u8]) -> Self {
        Self {
            cluster: place.cluster,
            provider: place.provider.to_string(),
            primary: place.primary,
            is_current: false,
            check: HEXLOWER.encode(check),
            envelope: BASE64.encode(envelope),
        }
    }

    /// The provider whose primary key is in it.
    ///
    /// # Errors
    /// `Corrupt` when it is not a provider's name.
    pub fn provider(&self) -> Result<ProviderName> {
        ProviderName::new(&self.provider)
            .map_err(|error| Error::with_source(Kind::Corrupt, "an envelope that was kept", error))
    }

    /// Whether it is of this primary key of a provider.
    pub fn is_of(&self, provider: &ProviderName, primary: Uuid) -> bool {
        self.primary == primary && self.provider().is_ok_and(|own| own == *provider)
    }

    /// The primary key.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged, `KeyRejected` when it is for another host.
    pub fn open(&self, host: &Identity) -> Result<SharedKey> {
        let damaged = || Error::new(Kind::Corrupt, "an envelope that was kept is damaged: it is not in hex and base64");
        let check = HEXLOWER.decode(self.check.as_bytes()).ok().and_then(|check| check.try_into().ok());
        let envelope = BASE64.decode(self.envelope.as_bytes()).map_err(|_| damaged())?;
        let provider = self.provider()?;
        let place = EnvelopeFor { cluster: self.cluster, provider: &provider, primary: self.primary, host: host.uuid };
        SharedKey::open(&place, &check.ok_or_else(damaged)?, &Envelope::decode(&envelope)?, &host.seal)
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u16,
    envelopes: Vec<KeptEnvelope>,
}

/// The file of a host.
pub struct KeptEnvelopes {
    path: PathBuf,
}

impl KeptEnvelopes {
    /// That of a host with this configuration.
    pub fn of(config: &Path) -> Self {
        Self { path: folder(config).join("envelopes.json") }
    }

    /// What is kept.
    ///
    /// # Errors
    /// `Denied` when others can read or change the file, `Corrupt`, `Unsupported` for a later version, `Io`.
    pub fn load(&self) -> Result<Vec<KeptEnvelope>> {
        let Some(bytes) = private_file::read_if_there(MAX_LEN, &self.path)? else { return Ok(Vec::new()) };
        let damaged = |error| Error::with_source(Kind::Corrupt, format!("{} is damaged", self.path.shown()), error);
        let content: Content = serde_json::from_slice(&bytes).map_err(damaged)?;
        match content.version == VERSION {
            true => Ok(content.envelopes),
            false => Err(Error::new(
                Kind::Unsupported,
                format!("{} of version {}, expected {VERSION}", self.path.shown(), content.version),
            )),
        }
    }

    /// Keeps these, and no others: what was there is overwritten. Two callers at once must hold a lock.
    ///
    /// # Errors
    /// `Io`.
    pub fn store(&self, envelopes: Vec<KeptEnvelope>) -> Result<()> {
        if envelopes.is_empty() && !self.path.exists() {
            return Ok(()); // the folder may be gone
        }
        let bytes = serde_json::to_vec_pretty(&Content { version: VERSION, envelopes })
            .map_err(|error| Error::with_source(Kind::Invalid, "envelopes that have no JSON form", error))?;
        private_file::replace_and_wipe(&self.path, &[&bytes])
    }

    /// Keeps those of another generation of a provider only. Returns whether there were others.
    ///
    /// # Errors
    /// Those of [`load`](Self::load) and [`store`](Self::store).
    pub fn forget(&self, provider: &ProviderName, primary: Uuid) -> Result<bool> {
        let (of_others, of_it): (Vec<_>, Vec<_>) =
            self.load()?.into_iter().partition(|kept| !kept.is_of(provider, primary));
        if !of_it.is_empty() {
            self.store(of_others)?;
        }
        self.wipe_left()?;
        Ok(!of_it.is_empty())
    }

    /// Puts a damaged file out of the way, for an administrator to look at. Returns its new path.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_aside(&self) -> Result<PathBuf> {
        self.wipe_left()?;
        let aside = self.damaged_path();
        std::fs::rename(&self.path, &aside)
            .context(|| format!("renaming {} to {}", self.path.shown(), aside.shown()))?;
        Ok(aside)
    }

    /// Overwrites and removes what a crash left of former envelopes, and a damaged file that was put out of the way: envelopes of keys that
    /// have to go may be in them. Two callers at once, or one that stores, must hold a lock.
    ///
    /// # Errors
    /// `Io`.
    pub fn wipe_left(&self) -> Result<()> {
        self.end_crash()?;
        private_file::wipe(&self.damaged_path()).map(drop)
    }

    /// Overwrites and removes what a crash left of former envelopes.
    ///
    /// # Errors
    /// `Io`.
    pub fn end_crash(&self) -> Result<()> {
        private_file::wipe_former(&self.path).map(drop)
    }

    fn damaged_path(&self) -> PathBuf {
        self.path.with_extension("json.damaged")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_left_of_envelopes_goes_with_a_key_that_has_to_go_also_where_none_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.toml");
        let (kept, name) = (KeptEnvelopes::of(&config), ProviderName::new("shared").unwrap());
        private_file::create_folder(&folder(&config)).unwrap();
        kept.store(Vec::new()).unwrap();
        let left = [".envelopes.json.former", ".envelopes.json.new"].map(|name| folder(&config).join(name));
        left.iter().for_each(|left| std::fs::write(left, "envelopes").unwrap());
        assert!(!kept.forget(&name, Uuid::nil()).unwrap());
        assert!(left.iter().all(|left| !left.exists()));
    }
}
