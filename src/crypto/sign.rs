//! Ed25519 signatures (RFC 8032).

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::crypto::random;
use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

/// Bytes of a private key, which is the seed of RFC 8032.
pub const SEED_LEN: usize = 32;
/// Bytes of a public key.
pub const PUBLIC_LEN: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;

/// A private key.
pub struct SigningKey {
    seed: SecretBytes,
    pair: Ed25519KeyPair,
}

impl SigningKey {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the generator fails.
    pub fn generate() -> Result<Self> {
        let mut seed = SecretBytes::zeroed(SEED_LEN);
        random::fill(&mut seed)?;
        Self::new(seed)
    }

    /// The one with this seed.
    ///
    /// # Errors
    /// `Invalid` when it is not 32 bytes.
    pub fn new(seed: SecretBytes) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|error| {
            let found = format!("an Ed25519 seed of {} bytes, expected {SEED_LEN}", seed.len());
            Error::with_source(Kind::Invalid, found, error)
        })?;
        Ok(Self { seed, pair })
    }

    /// The seed. Copy it nowhere.
    pub fn seed(&self) -> &[u8] {
        &self.seed
    }

    /// The public key.
    pub fn public(&self) -> [u8; PUBLIC_LEN] {
        self.pair.public_key().as_ref().try_into().expect("an Ed25519 public key is 32 bytes")
    }

    /// The signature of a message.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.pair.sign(message).as_ref().try_into().expect("an Ed25519 signature is 64 bytes")
    }
}

/// Whether a signature of a message is by the private key of this public one.
pub fn verifies(public: &[u8; PUBLIC_LEN], message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn signatures_are_those_of_rfc_8032() {
        // RFC 8032, 7.1, tests 1 and 3.
        for (seed, public, message, signature) in [
            (
                "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
                "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
                "",
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            ),
            (
                "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
                "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
                "af82",
                "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
            ),
        ] {
            let bytes = |text: &str| HEXLOWER.decode(text.as_bytes()).unwrap();
            let mut given = SecretBytes::zeroed(SEED_LEN);
            given.copy_from_slice(&bytes(seed));
            let key = SigningKey::new(given).unwrap();
            assert_eq!(key.public().as_slice(), bytes(public));
            assert_eq!(key.sign(&bytes(message)).as_slice(), bytes(signature));
            assert!(verifies(&key.public(), &bytes(message), &key.sign(&bytes(message))));
        }
    }

    #[test]
    fn whatever_was_changed_does_not_verify() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let signature = key.sign(b"message");
        assert!(!verifies(&key.public(), b"messagf", &signature));
        assert!(!verifies(&other.public(), b"message", &signature));
        for bit in 0..SIGNATURE_LEN * 8 {
            let mut wrong = signature;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(!verifies(&key.public(), b"message", &wrong), "bit {bit}");
        }
    }
}
