//! Sessions that prove to both sides that nobody between them changed a command or its response, and that encrypt its first
//! parameter (TCG, TPM 2.0 Library, part 1, 17 to 19).
//!
//! The session's key comes of a salt that only the holder of the storage root key can read. That key was remembered when the
//! share was sealed. So a device on the bus of the TPM neither reads the share nor gives another one.

use zeroize::Zeroizing;

use super::wire::{Reader, Writer};
use super::{ALG_AES, ALG_CFB, ALG_SHA256};
use crate::crypto::derive::{hmac, hmac_verifies, sha256};
use crate::crypto::ecdh::{Point, agree_once};
use crate::crypto::{cfb, random};
use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

const NONCE_LEN: usize = 32;
const KEY_LEN: usize = 32;
/// Session attributes: the command's first parameter is encrypted; or the response's is.
pub(super) const DECRYPT: u8 = 0x20;
pub(super) const ENCRYPT: u8 = 0x40;

/// What a session is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SessionType {
    /// Authorizes by the password of an object, which is empty here.
    Hmac = 0,
    /// Authorizes by what has happened in it.
    Policy = 1,
    /// Only computes a policy.
    Trial = 3,
}

/// The caller's half of a session that is to be started.
pub(super) struct Salted {
    nonce: [u8; NONCE_LEN],
    public: Point,
    salt: SecretBytes,
}

/// A session that was started.
pub(super) struct Session {
    pub(super) handle: u32,
    key: SecretBytes,
    nonce_caller: [u8; NONCE_LEN],
    nonce_tpm: Vec<u8>,
}

/// Parameters of `StartAuthSession`.
pub(super) fn start_parameters(of: SessionType, nonce: &[u8], encrypted_salt: &[u8]) -> Vec<u8> {
    Writer::default()
        .sized(nonce)
        .sized(encrypted_salt)
        .u8(of as u8)
        .u16(ALG_AES)
        .u16(128)
        .u16(ALG_CFB)
        .u16(ALG_SHA256)
        .finish()
}

impl Salted {
    /// A salt for the holder of the storage root key with this public point.
    pub(super) fn new(root: &Point) -> Result<Self> {
        let mut nonce = [0; NONCE_LEN];
        random::fill(&mut nonce)?;
        let (public, shared) = agree_once(root)?;
        let mut salt = SecretBytes::zeroed(KEY_LEN);
        salt.copy_from_slice(&*kdf_e(&shared, "SECRET", &public.x, &root.x));
        Ok(Self { nonce, public, salt })
    }

    pub(super) fn parameters(&self, of: SessionType) -> Vec<u8> {
        let encrypted = Writer::default().sized(&self.public.x).sized(&self.public.y).finish();
        start_parameters(of, &self.nonce, &encrypted)
    }

    /// The session that the TPM answered with.
    pub(super) fn started(self, handle: u32, mut response: Reader<'_>) -> Result<Session> {
        let nonce_tpm = response.sized()?.to_vec();
        response.finish()?;
        let mut key = SecretBytes::zeroed(KEY_LEN);
        key.copy_from_slice(&*kdf_a(&self.salt, "ATH", &nonce_tpm, &self.nonce));
        Ok(Session { handle, key, nonce_caller: self.nonce, nonce_tpm })
    }
}

impl Session {
    /// Begins another command.
    pub(super) fn renew(&mut self) -> Result<()> {
        random::fill(&mut self.nonce_caller)
    }

    /// Encrypts a command's first parameter, without its length.
    pub(super) fn encrypt(&self, data: &mut [u8]) -> Result<()> {
        let (key, iv) = self.parameter_key(&self.nonce_caller, &self.nonce_tpm);
        cfb::encrypt(&key, iv, data)
    }

    /// The authorization area of a command with these names of handles and these parameters.
    pub(super) fn authorize(&self, code: u32, names: &[&[u8]], parameters: &[u8], attributes: u8) -> Vec<u8> {
        let of_command = sha256(&[&code.to_be_bytes()[..], &names.concat(), parameters].concat());
        let proof = [&of_command[..], &self.nonce_caller, &self.nonce_tpm, &[attributes]].concat();
        let tag = hmac(&self.key, &proof);
        Writer::default().u32(self.handle).sized(&self.nonce_caller).u8(attributes).sized(&tag).finish()
    }

    /// Checks a response against its authorization area.
    pub(super) fn verify(&mut self, code: u32, parameters: &[u8], mut area: Reader<'_>) -> Result<()> {
        let (nonce, attributes, tag) = (area.sized()?.to_vec(), area.u8()?, area.sized()?);
        area.finish()?;
        let of_response = sha256(&[&0_u32.to_be_bytes()[..], &code.to_be_bytes(), parameters].concat());
        let proof = [&of_response[..], &nonce, &self.nonce_caller, &[attributes]].concat();
        if !hmac_verifies(&self.key, &proof, tag) {
            return Err(Error::new(
                Kind::Corrupt,
                "a response of the TPM was changed on its way, or is not of the TPM that the share was sealed to",
            ));
        }
        self.nonce_tpm = nonce;
        Ok(())
    }

    /// Decrypts the first parameter of a response that was checked.
    pub(super) fn decrypt(&self, data: &mut [u8]) -> Result<()> {
        let (key, iv) = self.parameter_key(&self.nonce_tpm, &self.nonce_caller);
        cfb::decrypt(&key, iv, data)
    }

    fn parameter_key(&self, newer: &[u8], older: &[u8]) -> (SecretBytes, [u8; cfb::IV_LEN]) {
        let both = kdf_a(&self.key, "CFB", newer, older);
        let mut key = SecretBytes::zeroed(cfb::KEY_LEN);
        key.copy_from_slice(&both[..cfb::KEY_LEN]);
        let mut iv = [0; cfb::IV_LEN];
        iv.copy_from_slice(&both[cfb::KEY_LEN..]);
        (key, iv)
    }
}

/// KDFa of part 1, 11.4.10.2 (NIST SP 800-108, HMAC-SHA-256 in counter mode), 256 bits.
fn kdf_a(key: &[u8], label: &str, newer: &[u8], older: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
    let input = [&1_u32.to_be_bytes()[..], label.as_bytes(), &[0], newer, older, &256_u32.to_be_bytes()].concat();
    Zeroizing::new(hmac(key, &input))
}

/// KDFe of part 1, 11.4.10.3 (NIST SP 800-56A, SHA-256), 256 bits.
fn kdf_e(shared: &[u8], label: &str, ours: &[u8], theirs: &[u8]) -> Zeroizing<[u8; KEY_LEN]> {
    let input = [&1_u32.to_be_bytes()[..], shared, label.as_bytes(), &[0], ours, theirs].concat();
    Zeroizing::new(sha256(&Zeroizing::new(input)))
}
