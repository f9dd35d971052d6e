//! Primary keys: what a provider that needs no key server keeps on this host (docs/FORMAT.md, section 5).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::private_file;
use super::secret_file::{Content, Form};
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::Result;
use crate::key::ProviderName;
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
}

impl Settings {
    /// What a new provider of this name gets.
    pub fn of(name: &ProviderName) -> Self {
        Self { primary_key: format!("keys/{name}.key").into(), backed_up: false, kek_share: None, tpm: None }
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

    /// What wraps KEKs.
    pub(super) fn kek(&self) -> &LocalKek {
        &self.key
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

#[cfg(test)]
pub(super) mod tests;
