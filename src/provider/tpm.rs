//! Secrets that only the TPM 2.0 of this host gives out: sealed under its storage root key, and unsealed over a session that is
//! authenticated and encrypted (docs/FORMAT.md, section 5).
//!
//! Nine commands of the TPM 2.0 Library specification; docs/decisions/0060 says why they are spoken here. Programs that attest have
//! commands of their own, which they send by [`Tpm::command`].

#![allow(clippy::big_endian_bytes, reason = "numbers of a TPM are big-endian")]

mod commands;
mod device;
mod response_code;
mod session;
mod wire;

use std::path::Path;
use std::time::Duration;

pub use commands::{Answer, Authorization, Command, parameters_of};
pub use response_code::ResponseCode;
pub use wire::{Reader, Writer};

use device::Device;
use session::{DECRYPT, ENCRYPT, SessionType};

use crate::crypto::derive::sha256;
use crate::crypto::ecdh::Point;
use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

const ALG_AES: u16 = 0x0006;
const ALG_KEYEDHASH: u16 = 0x0008;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const ECC_NIST_P256: u16 = 0x0003;
const RH_OWNER: u32 = 0x4000_0001;
const RH_NULL: u32 = 0x4000_0007;
/// Where the storage root key is, if it is persistent (TCG, TPM v2.0 Provisioning Guidance, 7.8).
const PERSISTENT_ROOT: u32 = 0x8100_0001;
/// fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, decrypt.
const ROOT_ATTRIBUTES: u32 = 0x0003_0472;
/// fixedTPM, fixedParent, noDA.
const SEALED_ATTRIBUTES: u32 = 0x0000_0412;
const USER_WITH_AUTH: u32 = 0x0000_0040;

/// What a TPM may take for all that is asked of it at once. Slow ones take two seconds.
pub const LIMIT: Duration = Duration::from_secs(10);
/// Longest secret.
const MAX_SECRET: usize = 60;

/// PCRs of the SHA-256 bank, a bit each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pcrs(u32);

impl Pcrs {
    const COUNT: u32 = 24;

    /// Those with these bits.
    ///
    /// # Errors
    /// `Corrupt` when there is no such PCR.
    pub(super) fn from_bits(bits: u32) -> Result<Self> {
        match bits >> Self::COUNT {
            0 => Ok(Self(bits)),
            _ => Err(Error::new(Kind::Corrupt, format!("PCRs {bits:#x}, expected some of 0 to 23"))),
        }
    }

    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Those of a list of numbers with commas between.
    ///
    /// # Errors
    /// `Invalid` when one of them is not a number from 0 to 23.
    pub fn parse(text: &str) -> Result<Self> {
        let bit = |number: &str| match number.trim().parse::<u32>() {
            Ok(number) if number < Self::COUNT => Ok(1 << number),
            _ => Err(Error::new(Kind::Invalid, format!("PCR {number:?}, expected a number from 0 to 23"))),
        };
        text.split(',').map(bit).try_fold(0, |all, bit| bit.map(|bit: u32| all | bit)).map(Self)
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `TPML_PCR_SELECTION`.
    fn selection(self) -> Vec<u8> {
        let [low, middle, high, _] = self.0.to_le_bytes();
        Writer::default().u32(1).u16(ALG_SHA256).u8(3).raw(&[low, middle, high]).finish()
    }
}

/// A secret that one TPM can unseal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct SealedObject {
    /// Public point of the storage root key.
    pub(super) root: Point,
    /// PCRs that must have the values of then.
    pub(super) pcrs: Pcrs,
    /// `TPM2B_PRIVATE` without its length.
    pub(super) private: Vec<u8>,
    /// `TPMT_PUBLIC`.
    pub(super) public: Vec<u8>,
}

/// The TPM's storage root key, loaded.
struct Root {
    handle: u32,
    point: Point,
    name: Vec<u8>,
    /// Whether it takes memory of the TPM until it is flushed.
    transient: bool,
}

/// A TPM that was opened for one piece of work.
#[derive(Debug)]
pub struct Tpm {
    device: Device,
}

impl Tpm {
    /// Opens the TPM that `path` leads to. It has `limit` for all that is asked of it.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when this user may not use it, `Invalid` when it is something else.
    pub fn open(path: &Path, limit: Duration) -> Result<Self> {
        Ok(Self { device: Device::open(path, limit)? })
    }

    /// Seals a secret. It can be unsealed while the PCRs have the values that they have now.
    ///
    /// # Errors
    /// `KeyUnavailable` when the TPM does not answer or refuses, `Denied` when its owner hierarchy has a password.
    pub(super) fn seal(&mut self, secret: &SecretBytes, pcrs: Pcrs) -> Result<SealedObject> {
        let root = match self.persistent_root()? {
            Some(root) => root,
            None => self.primary_root()?,
        };
        let sealed = self.seal_under(&root, secret, pcrs);
        self.release(&root, sealed)
    }

    /// Unseals a secret.
    ///
    /// # Errors
    /// `KeyUnavailable` when this is another TPM, its PCRs have other values, it does not answer or refuses; `Corrupt` when
    /// the object is damaged, or an answer was changed on its way; `Denied`.
    pub(super) fn unseal(&mut self, object: &SealedObject) -> Result<SecretBytes> {
        let root = self.root_of(object)?;
        let secret = self.unseal_under(&root, object);
        self.release(&root, secret)
    }

    fn root_of(&mut self, object: &SealedObject) -> Result<Root> {
        if let Some(root) = self.persistent_root()?.filter(|root| root.point == object.root) {
            return Ok(root);
        }
        let root = self.primary_root()?;
        if root.point == object.root {
            return Ok(root);
        }
        let another =
            Error::new(Kind::KeyUnavailable, "it was sealed to another TPM, or to this one before it was cleared");
        self.release(&root, Err(another))
    }

    fn seal_under(&mut self, root: &Root, secret: &SecretBytes, pcrs: Pcrs) -> Result<SealedObject> {
        if secret.len() > MAX_SECRET {
            return Err(Error::new(Kind::Invalid, format!("a secret of {} bytes, at most {MAX_SECRET}", secret.len())));
        }
        let (policy, attributes) = match pcrs.is_empty() {
            true => (Vec::new(), SEALED_ATTRIBUTES | USER_WITH_AUTH),
            false => (self.policy_of(pcrs)?, SEALED_ATTRIBUTES),
        };
        let template = Writer::default().u16(ALG_KEYEDHASH).u16(ALG_SHA256).u32(attributes).sized(&policy);
        let template = template.u16(ALG_NULL).sized(&[]).finish();
        // TPMS_SENSITIVE_CREATE: no password, and the secret.
        let mut sensitive = SecretBytes::zeroed(secret.len() + 4);
        sensitive[3] = u8::try_from(secret.len()).unwrap_or(u8::MAX);
        sensitive[4..].copy_from_slice(secret);

        let mut session = self.start_salted(root, SessionType::Hmac)?;
        session.renew()?;
        session.encrypt(&mut sensitive)?;
        let parameters = Writer::default().sized(&sensitive).sized(&template).sized(&[]).u32(0).finish();
        let created =
            self.authorized(&mut session, commands::CREATE, (root.handle, &root.name), &parameters, DECRYPT)?;
        let mut created = Reader::new(&created);
        let (private, public) = (created.sized()?.to_vec(), created.sized()?.to_vec());
        Ok(SealedObject { root: root.point, pcrs, private, public })
    }

    fn unseal_under(&mut self, root: &Root, object: &SealedObject) -> Result<SecretBytes> {
        let handle = self.load(root.handle, &object.private, &object.public)?;
        let secret = self.unseal_loaded(root, object, handle);
        let flushed = self.flush(handle);
        secret.and_then(|secret| flushed.map(|()| secret))
    }

    fn unseal_loaded(&mut self, root: &Root, object: &SealedObject, handle: u32) -> Result<SecretBytes> {
        let kind = if object.pcrs.is_empty() { SessionType::Hmac } else { SessionType::Policy };
        let mut session = self.start_salted(root, kind)?;
        if kind == SessionType::Policy {
            let held = self.policy_pcr(session.handle, object.pcrs);
            self.flush_unless(session.handle, held)?;
        }
        session.renew()?;
        let name = name_of(&object.public);
        let answer = self.authorized(&mut session, commands::UNSEAL, (handle, &name), &[], ENCRYPT)?;
        let mut answer = Reader::new(&answer);
        let sealed = answer.sized()?;
        answer.finish()?;
        if sealed.len() > MAX_SECRET {
            return Err(Error::new(Kind::Corrupt, format!("{} bytes were sealed, at most {MAX_SECRET}", sealed.len())));
        }
        let mut secret = SecretBytes::zeroed(sealed.len());
        secret.copy_from_slice(sealed);
        session.decrypt(&mut secret)?;
        Ok(secret)
    }
}

/// The name of an object: it is what authorizations are about.
fn name_of(public: &[u8]) -> Vec<u8> {
    [&ALG_SHA256.to_be_bytes()[..], &sha256(public)].concat()
}

#[cfg(test)]
mod tests;
