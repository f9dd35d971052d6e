//! A key of this host that only its TPM gives back: what is sealed by it does not leave the host with its disks.

use std::path::{Path, PathBuf};

use super::config::Config;
use super::kek_share::KekShare;
use super::kind::TPM_DEVICE;
use super::sealed_share::SealedShare;
use super::tpm::Pcrs;
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::key::KEK_LEN;
use crate::sys::SecretBytes;

/// The TPM of the agent's host, and what it binds keys to: `tpm` and `tpm-pcrs` of `[agent]` in the configuration.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentTpm {
    path: PathBuf,
    pcrs: Pcrs,
}

/// A key, and what the TPM makes it of.
pub struct TpmKey {
    share: KekShare,
    /// In the form of a sealed kek-share.
    sealed: Vec<u8>,
}

impl AgentTpm {
    /// That of a host with this configuration.
    ///
    /// # Errors
    /// Those of the configuration; `Invalid` when its PCRs are not PCRs.
    pub fn of(config: &Path) -> Result<Self> {
        let configured = Config::load(config)?;
        let settings = configured.agent();
        let pcrs = settings.tpm_pcrs.as_deref().map(Pcrs::parse).transpose();
        Ok(Self {
            path: settings.tpm.clone().unwrap_or_else(|| TPM_DEVICE.into()),
            pcrs: pcrs.context(|| "tpm-pcrs of [agent] in the configuration".into())?.unwrap_or_default(),
        })
    }

    /// Makes a key.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is no TPM, or it does not answer or refuses; `Denied` when this user may not use it.
    pub fn make(&self) -> Result<TpmKey> {
        let mut secret = SecretBytes::zeroed(KEK_LEN);
        random::fill(&mut secret)?;
        let share = KekShare::new(random::uuid()?, secret);
        let sealed = SealedShare::seal(&share, &self.path, self.pcrs)?.encode()?;
        Ok(TpmKey { share, sealed })
    }

    /// The key that was made as these bytes say.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is no TPM, it is another one, its PCRs have other values, it does not answer or refuses, or the key was not
    /// bound to the PCRs that the configuration names now; `Corrupt`, `Denied`.
    pub fn open(&self, sealed: &[u8]) -> Result<TpmKey> {
        let found = SealedShare::decode(sealed)?;
        if found.parts().1 != self.pcrs.bits() {
            return Err(Error::new(
                Kind::KeyUnavailable,
                "it was bound to other PCRs than the configuration names now",
            ));
        }
        Ok(TpmKey { share: found.unseal(&self.path)?, sealed: sealed.to_vec() })
    }
}

impl TpmKey {
    /// The key, of 32 bytes. Copy it nowhere.
    pub fn secret(&self) -> &[u8] {
        self.share.secret()
    }

    /// What gives it back where the TPM is.
    pub fn sealed(&self) -> &[u8] {
        &self.sealed
    }
}
