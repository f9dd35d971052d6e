//! Shares of KEKs: what a host or a cluster keeps, so that the key of a provider opens nothing without it (docs/FORMAT.md, section 5).

use std::path::Path;

use uuid::Uuid;

use super::secret_file::{Content, Form};
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::Result;
use crate::key::KEK_LEN;
use crate::sys::SecretBytes;

const FORM: Form = Form::new(*b"VMCRYPTK", "kek-share");

/// Half of every KEK of a provider.
pub struct KekShare {
    uuid: Uuid,
    secret: SecretBytes,
}

impl KekShare {
    /// Makes a new one in a file that only this user can read.
    ///
    /// # Errors
    /// `Exists` when there is a file already, `Io`.
    pub fn create(path: &Path) -> Result<Self> {
        let (uuid, mut secret) = (random::uuid()?, SecretBytes::zeroed(KEK_LEN));
        random::fill(&mut secret)?;
        FORM.create(path, uuid, &secret)?;
        Ok(Self { uuid, secret })
    }

    /// Reads one.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when others than its owner can read or change it, `Corrupt` when it
    /// is damaged, `Unsupported` when it is of a later version, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let Content { uuid, secret } = FORM.load(path)?;
        Ok(Self { uuid, secret })
    }

    /// The one with these bytes.
    pub(super) fn new(uuid: Uuid, secret: SecretBytes) -> Self {
        Self { uuid, secret }
    }

    /// The share itself. Copy it nowhere.
    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Its name, which is not secret.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// The KEK that is made of it and a provider's key.
    ///
    /// # Errors
    /// Those of [`LocalKek::with_share`].
    pub fn complete(&self, key: &LocalKek) -> Result<LocalKek> {
        key.with_share(&self.secret)
    }
}

/// The KEK of a provider's key, and of the share if there is one.
pub(super) fn kek_of(key: LocalKek, share: Option<&KekShare>) -> Result<LocalKek> {
    match share {
        Some(share) => share.complete(&key),
        None => Ok(key),
    }
}
