//! Primary keys: what a provider that needs no key server keeps on this host (docs/FORMAT.md, section 5).

use std::path::{Path, PathBuf};

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::private_file;
use super::secret_file::{Content, Form};
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::{KeyId, ProviderName};
use crate::sys::SecretBytes;

const FORM: Form = Form::new(*b"VMCRYPTP", "primary key");

/// What the configuration file says of a provider with a primary key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// File of the primary key, relative to the folder of the configuration file or absolute.
    pub primary_key: PathBuf,
    /// Whether a backup of the primary key was made and verified.
    #[serde(default)]
    pub backed_up: bool,
    /// File of the share that completes its KEKs, or `tpm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kek_share: Option<PathBuf>,
    /// The TPM that it is sealed to, if not the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<PathBuf>,
    /// Names that the provider had: headers may have its keys under them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_names: Vec<String>,
}

impl Settings {
    /// What a new provider of this name gets.
    pub fn of(name: &ProviderName) -> Self {
        Self {
            primary_key: format!("keys/{name}.key").into(),
            backed_up: false,
            kek_share: None,
            tpm: None,
            former_names: Vec::new(),
        }
    }

    /// File of the primary key, given the configuration file.
    pub fn primary_key_of(&self, config: &Path) -> PathBuf {
        private_file::folder_of(config).join(&self.primary_key)
    }
}

/// The key that wraps a host's KEKs, and the UUID that their key ids begin with.
pub struct PrimaryKey {
    uuid: Uuid,
    key: LocalKek,
}

impl PrimaryKey {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self { uuid: random::uuid()?, key: LocalKek::random()? })
    }

    /// The one with these bytes.
    ///
    /// # Errors
    /// `Invalid` when they are not 32.
    pub(super) fn new(uuid: Uuid, key: SecretBytes) -> Result<Self> {
        Ok(Self { uuid, key: LocalKek::new(key)? })
    }

    /// Its name, which is not secret.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// A new KEK, and the id by which this key finds it again: its own UUID, and the KEK wrapped under it.
    ///
    /// # Errors
    /// `Io` when the random generator fails.
    pub(super) fn make_kek(&self) -> Result<(String, LocalKek)> {
        let kek = LocalKek::random()?;
        let wrapped = BASE64URL_NOPAD.encode(&self.key.wrap_key(kek.bytes())?);
        Ok((format!("{}/{wrapped}", self.uuid.hyphenated()), kek))
    }

    /// A KEK that was wrapped under this key.
    ///
    /// # Errors
    /// `Corrupt` when it was not.
    pub(super) fn unwrap_kek(&self, wrapped: &[u8]) -> Result<LocalKek> {
        self.key.unwrap_key(wrapped).and_then(LocalKek::new).map_err(|error| {
            Error::with_source(
                Kind::Corrupt,
                format!("damaged key id: its KEK does not unwrap under primary key {}", self.uuid),
                error,
            )
        })
    }

    /// The key itself. Copy it nowhere.
    pub(super) fn bytes(&self) -> &[u8] {
        self.key.bytes()
    }

    /// Reads a primary key file.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when others than its owner can read or change it, `Corrupt` when it
    /// is damaged, `Unsupported` when it is of a later version, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let Content { uuid, secret } = FORM.load(path)?;
        Self::new(uuid, secret)
    }

    /// Makes a primary key file, readable only by this user.
    ///
    /// # Errors
    /// `Exists` when there is a file already, `Io`.
    pub fn create(&self, path: &Path) -> Result<()> {
        FORM.create(path, self.uuid, self.bytes())
    }

    /// Puts a whole primary key file in the place of a damaged one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn replace(&self, path: &Path) -> Result<()> {
        FORM.replace(path, self.uuid, self.bytes())
    }

    /// The UUID that a primary key file says it has, be it damaged or not; `None` when it is not recognised as one.
    pub(super) fn claimed_uuid(path: &Path) -> Result<Option<Uuid>> {
        FORM.claimed_uuid(path)
    }
}

/// The primary key by which a key was made.
///
/// # Errors
/// `Corrupt` for an id that no primary key has made.
pub fn primary_of(key_id: &KeyId) -> Result<Uuid> {
    parse_id(key_id.id()).map(|(primary, _)| primary)
}

/// The primary key and the wrapped KEK of an id that [`PrimaryKey::make_kek`] has made.
///
/// # Errors
/// `Corrupt` for what it would not have written so.
pub(super) fn parse_id(id: &str) -> Result<(Uuid, Vec<u8>)> {
    let parts = id.split_once('/').and_then(|(owner, wrapped)| {
        let uuid = Uuid::try_parse(owner).ok().filter(|uuid| uuid.hyphenated().to_string() == owner)?;
        Some((uuid, BASE64URL_NOPAD.decode(wrapped.as_bytes()).ok()?))
    });
    let expected = "<uuid of a primary key>/<wrapped KEK>";
    parts.ok_or_else(|| Error::new(Kind::Corrupt, format!("damaged key id {id:?}, expected {expected}")))
}

#[cfg(test)]
pub(super) mod tests;
