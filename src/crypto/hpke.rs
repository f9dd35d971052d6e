//! HPKE (RFC 9180), base mode, one message a context: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
//!
//! P-256, since that is the curve on which a TPM can hold the private key. The construction is rustls's, over aws-lc-rs.

use rustls::crypto::aws_lc_rs::hpke::DH_KEM_P256_HKDF_SHA256_AES_256;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

/// Bytes of a public key, and of an encapsulated one: an uncompressed point.
pub const PUBLIC_LEN: usize = 65;
/// Bytes of a private key.
pub const PRIVATE_LEN: usize = 32;
/// Bytes that a ciphertext is longer than its plaintext.
pub const TAG_LEN: usize = 16;

/// A key pair that messages are sealed to.
pub struct SealKey {
    private: HpkePrivateKey,
    public: [u8; PUBLIC_LEN],
}

/// A sealed message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sealed {
    /// The sender's ephemeral public key, `enc` of RFC 9180.
    pub enc: [u8; PUBLIC_LEN],
    /// The ciphertext and its tag.
    pub ciphertext: Vec<u8>,
}

impl SealKey {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the generator fails.
    pub fn generate() -> Result<Self> {
        let failed = |error| Error::with_source(Kind::Io, "making a P-256 key", error);
        let (public, private) = DH_KEM_P256_HKDF_SHA256_AES_256.generate_key_pair().map_err(failed)?;
        let public = public.0.as_slice().try_into();
        let public = public.map_err(|error| Error::with_source(Kind::Io, "a P-256 key of another length", error))?;
        Ok(Self { private, public })
    }

    /// The one with these bytes.
    pub fn new(private: &[u8; PRIVATE_LEN], public: [u8; PUBLIC_LEN]) -> Self {
        Self { private: private.to_vec().into(), public }
    }

    /// The public key.
    pub fn public(&self) -> &[u8; PUBLIC_LEN] {
        &self.public
    }

    /// The private key. Copy it nowhere.
    pub fn private(&self) -> &[u8] {
        self.private.secret_bytes()
    }

    /// Opens a key of 32 bytes that was sealed to this public key with the same `info` and `aad`.
    ///
    /// # Errors
    /// `KeyRejected` when it was sealed to another key, with other values, or was changed.
    pub fn open(&self, info: &[u8], aad: &[u8], sealed: &Sealed) -> Result<SecretBytes> {
        let enc = EncapsulatedSecret(sealed.enc.to_vec());
        let opened = DH_KEM_P256_HKDF_SHA256_AES_256
            .open(&enc, info, aad, &sealed.ciphertext, &self.private)
            .map(Zeroizing::new)
            .map_err(|error| {
                let why = "it was sealed to another key, for another purpose, or was changed";
                Error::with_source(Kind::KeyRejected, why, error)
            })?;
        if opened.len() != 32 {
            return Err(Error::new(Kind::Corrupt, format!("{} sealed bytes, expected 32", opened.len())));
        }
        let mut secret = SecretBytes::zeroed(32);
        secret.copy_from_slice(&opened);
        Ok(secret)
    }
}

/// Seals a secret to a public key.
///
/// # Errors
/// `Invalid` when the public key is not a point of P-256.
pub fn seal(public: &[u8; PUBLIC_LEN], info: &[u8], aad: &[u8], secret: &[u8]) -> Result<Sealed> {
    let recipient = HpkePublicKey(public.to_vec());
    let failed = |error| Error::with_source(Kind::Invalid, "sealing to a public key that is not one of P-256", error);
    let (enc, ciphertext) = DH_KEM_P256_HKDF_SHA256_AES_256.seal(info, aad, secret, &recipient).map_err(failed)?;
    let enc = enc.0.as_slice().try_into();
    let enc = enc.map_err(|error| Error::with_source(Kind::Invalid, "an encapsulated key of another length", error))?;
    Ok(Sealed { enc, ciphertext })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_recipient_opens_and_only_for_the_same_purpose() {
        let (host, other) = (SealKey::generate().unwrap(), SealKey::generate().unwrap());
        let sealed = seal(host.public(), b"info", b"aad", &[7; 32]).unwrap();
        assert_eq!(*host.open(b"info", b"aad", &sealed).unwrap(), [7; 32]);
        let copy = SealKey::new(host.private().try_into().unwrap(), *host.public());
        assert_eq!(*copy.open(b"info", b"aad", &sealed).unwrap(), [7; 32]);
        let refused = |key: &SealKey, info: &[u8], aad: &[u8], sealed: &Sealed| {
            key.open(info, aad, sealed).is_err_and(|error| error.kind() == Kind::KeyRejected)
        };
        assert!(refused(&other, b"info", b"aad", &sealed));
        assert!(refused(&host, b"infp", b"aad", &sealed));
        assert!(refused(&host, b"info", b"aae", &sealed));
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut wrong = sealed.clone();
            wrong.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&host, b"info", b"aad", &wrong), "bit {bit}");
        }
        let wrong = Sealed { enc: [4; PUBLIC_LEN], ..sealed };
        assert!(refused(&host, b"info", b"aad", &wrong));
    }

    #[test]
    fn what_is_not_a_public_key_is_refused() {
        assert_eq!(seal(&[4; PUBLIC_LEN], b"", b"", &[7; 32]).unwrap_err().kind(), Kind::Invalid);
        let host = SealKey::generate().unwrap();
        let sealed = seal(host.public(), b"", b"", &[7; 33]).unwrap();
        assert_eq!(host.open(b"", b"", &sealed).map(drop).unwrap_err().kind(), Kind::Corrupt);
    }
}
