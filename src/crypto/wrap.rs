//! AES-256-KWP (RFC 5649, NIST SP 800-38F): wraps keys under a KEK whose bytes are at hand.

use std::fmt;

use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};

use super::{derive, random};
use crate::error::{Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek, KEK_LEN, Kek, KeyCheck, WrappedDek};
use crate::sys::SecretBytes;

/// Longest key that is wrapped, in bytes.
const MAX_KEY_LEN: usize = DISK_DEK_LEN;
/// KWP works in steps of this many bytes, and adds one of them.
const SEMIBLOCK: usize = 8;

/// Bytes of the key check that recognise the provider's key, of a KEK that is made of it and a share.
const PROVIDER_CHECK_LEN: usize = 4;

/// A KEK of 256 bits that this process holds itself.
pub struct LocalKek {
    key: SecretBytes,
    /// Where it is made of a provider's key and a share: what recognises the provider's key.
    of_provider: Option<[u8; PROVIDER_CHECK_LEN]>,
}

impl LocalKek {
    /// Takes over bytes that are already in locked memory.
    ///
    /// # Errors
    /// `Invalid` when they are not 32.
    pub fn new(bytes: SecretBytes) -> Result<Self> {
        if bytes.len() != KEK_LEN {
            return Err(Error::new(Kind::Invalid, format!("a KEK of {} bytes, expected {KEK_LEN}", bytes.len())));
        }
        Ok(Self { key: bytes, of_provider: None })
    }

    /// The KEK that is made of this key of a provider and of a share, 32 bytes, that is kept elsewhere: neither tells anything of it
    /// (docs/FORMAT.md, section 3).
    ///
    /// # Errors
    /// `Invalid` when the share has another length.
    pub fn with_share(&self, share: &[u8]) -> Result<Self> {
        if share.len() != KEK_LEN {
            return Err(Error::new(Kind::Invalid, format!("a share of {} bytes, expected {KEK_LEN}", share.len())));
        }
        let mut key = SecretBytes::zeroed(KEK_LEN);
        derive::hkdf(share, &self.key, "vmcryptfs v1 KEK of key and share", &mut key)?;
        let KeyCheck(check) = self.check()?;
        Ok(Self { key, of_provider: check.first_chunk().copied() })
    }

    /// A new KEK.
    ///
    /// # Errors
    /// `Io` when the random generator fails.
    pub fn random() -> Result<Self> {
        let mut bytes = SecretBytes::zeroed(KEK_LEN);
        random::fill(&mut bytes)?;
        Self::new(bytes)
    }

    /// The key itself, for a provider that stores it. Copy it nowhere.
    pub fn bytes(&self) -> &[u8] {
        &self.key
    }

    /// Wraps a key of 1 to 64 bytes.
    ///
    /// # Errors
    /// `Invalid` for any other length.
    pub fn wrap_key(&self, key: &[u8]) -> Result<Vec<u8>> {
        if !(1..=MAX_KEY_LEN).contains(&key.len()) {
            return Err(Error::new(
                Kind::Invalid,
                format!("wrapping a key of {} bytes, expected 1 to {MAX_KEY_LEN}", key.len()),
            ));
        }
        let mut wrapped = vec![0; key.len().next_multiple_of(SEMIBLOCK) + SEMIBLOCK];
        let len = self
            .cipher()?
            .wrap_with_padding(key, &mut wrapped)
            .map_err(|error| Error::with_source(Kind::Io, "AES-KWP failed to wrap a key", error))?
            .len();
        wrapped.truncate(len);
        Ok(wrapped)
    }

    /// Unwraps what [`wrap_key`](Self::wrap_key) made.
    ///
    /// # Errors
    /// `KeyRejected` when `wrapped` was not wrapped by this KEK, or was changed since.
    pub fn unwrap_key(&self, wrapped: &[u8]) -> Result<SecretBytes> {
        let longest = MAX_KEY_LEN + SEMIBLOCK;
        if !(2 * SEMIBLOCK..=longest).contains(&wrapped.len()) || !wrapped.len().is_multiple_of(SEMIBLOCK) {
            return Err(Error::new(
                Kind::KeyRejected,
                format!("a wrapped key of {} bytes, expected 16 to {longest} in steps of {SEMIBLOCK}", wrapped.len()),
            ));
        }
        // As long as the key with its padding; the key may be shorter.
        let mut padded = SecretBytes::zeroed(wrapped.len() - SEMIBLOCK);
        let len = self
            .cipher()?
            .unwrap_with_padding(wrapped, &mut padded)
            .map_err(|error| {
                let message = "this KEK did not wrap this key, or the wrapped key was changed";
                Error::with_source(Kind::KeyRejected, message, error)
            })?
            .len();
        let mut key = SecretBytes::zeroed(len);
        key.copy_from_slice(&padded[..len]);
        Ok(key)
    }

    fn cipher(&self) -> Result<AesKek> {
        AesKek::new(&AES_256, &self.key)
            .map_err(|error| Error::with_source(Kind::Io, "AES-KWP failed to set its key", error))
    }
}

impl Kek for LocalKek {
    fn wrap(&self, dek: &Dek) -> Result<WrappedDek> {
        self.wrap_key(dek.bytes()).map(WrappedDek)
    }

    fn unwrap(&self, wrapped: &WrappedDek) -> Result<Dek> {
        Dek::new(self.unwrap_key(&wrapped.0)?)
    }

    /// docs/FORMAT.md, section 3.
    fn check(&self) -> Result<KeyCheck> {
        let mut check = [0; 8];
        match self.of_provider {
            None => derive::hkdf(b"", &self.key, "vmcryptfs v1 key check", &mut check)?,
            Some(of_provider) => {
                let (first, second) = check.split_at_mut(PROVIDER_CHECK_LEN);
                first.copy_from_slice(&of_provider);
                derive::hkdf(b"", &self.key, "vmcryptfs v1 shared key check", second)?;
            }
        }
        Ok(KeyCheck(check))
    }
}

impl fmt::Debug for LocalKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalKek(32 bytes)")
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    fn kek(hex: &str) -> LocalKek {
        LocalKek::new(secret(&HEXLOWER.decode(hex.as_bytes()).unwrap())).unwrap()
    }

    fn secret(bytes: &[u8]) -> SecretBytes {
        let mut secret = SecretBytes::zeroed(bytes.len());
        secret.copy_from_slice(bytes);
        secret
    }

    #[test]
    fn kwp_gives_nist_values() {
        // NIST CAVP, KWP_AE_256 and KWP_AD_256. (RFC 5649's own examples have a 192-bit KEK.)
        let values = [
            (
                "3517f0efa7f0c4d74f91af83ece5e7503bcc5ab82907a6e4b7ed34d87b69ab1d",
                "897e0456b289ad31",
                "0b06a9b635d50cda9d4210cb3a71f990",
            ),
            (
                "70da43aac823c6dd37d1109f5b18feb4503c973288989745e2cc1cc21d9570c6",
                "edf17d966ed896aee3",
                "d67b5b2ad15c645450e23b5e7b6d682f8ae20e716d470db7",
            ),
            (
                "e9bb7f44c7baafbf392ab912589a2f8db53268106eafb74689bb1833136e6113",
                "ffe952604834bff899e63658f34246815c91597eb40a21729e0a8a959b61f2",
                "15b9f06fbc765e5e3d55d6b824616f21921d2a6918ee7bf1406b524274e170b4a78333ca5ee92af5",
            ),
        ];
        for (key, plain, wrapped) in values {
            let plain = HEXLOWER.decode(plain.as_bytes()).unwrap();
            let made = kek(key).wrap_key(&plain).unwrap();
            assert_eq!(HEXLOWER.encode(&made), wrapped);
            assert_eq!(*kek(key).unwrap_key(&made).unwrap(), plain[..]);
        }
        let key = "8c35fb77766d04f48d5b52275c5c5f31f568078419e5c2335918965fbe53cedd";
        let wrapped = "bacccb1714dbaa4908c2654aa8dbb1ddbddd8ab819429b026619fb1c0fa75a8247372b2feeab1e1d";
        let refused = kek(key).unwrap_key(&HEXLOWER.decode(wrapped.as_bytes()).unwrap()).map(drop).unwrap_err();
        assert_eq!(refused.kind(), Kind::KeyRejected);
    }

    #[test]
    fn every_length_up_to_a_disk_dek_comes_back() {
        let kek = LocalKek::random().unwrap();
        for len in 1..=MAX_KEY_LEN {
            let key: Vec<u8> = (0..).take(len).collect();
            let wrapped = kek.wrap_key(&key).unwrap();
            assert_eq!(wrapped.len(), len.next_multiple_of(8) + 8);
            assert_eq!(*kek.unwrap_key(&wrapped).unwrap(), key[..]);
        }
        for len in [0, MAX_KEY_LEN + 1] {
            assert_eq!(kek.wrap_key(&vec![0; len]).unwrap_err().kind(), Kind::Invalid, "{len} bytes");
        }
    }

    #[test]
    fn deks_come_back_in_the_lengths_of_the_format() {
        let kek = LocalKek::random().unwrap();
        for (dek, wrapped_len) in [(random::disk_dek().unwrap(), 72), (random::home_dek().unwrap(), 40)] {
            let wrapped = kek.wrap(&dek).unwrap();
            assert_eq!(wrapped.0.len(), wrapped_len);
            assert_eq!(kek.unwrap(&wrapped).unwrap().bytes(), dek.bytes());
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let kek = LocalKek::random().unwrap();
        let wrapped = kek.wrap(&random::disk_dek().unwrap()).unwrap();
        for bit in 0..wrapped.0.len() * 8 {
            let mut wrong = wrapped.clone();
            wrong.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(kek.unwrap(&wrong).unwrap_err().kind(), Kind::KeyRejected, "bit {bit}");
        }
    }

    #[test]
    fn other_keys_and_other_lengths_are_refused() {
        let kek = LocalKek::random().unwrap();
        let wrapped = kek.wrap_key(&[7; 32]).unwrap();
        let other = LocalKek::random().unwrap();
        assert_eq!(other.unwrap_key(&wrapped).map(drop).unwrap_err().kind(), Kind::KeyRejected);
        for len in (0..100).filter(|&len| len != wrapped.len()) {
            let mut wrong = wrapped.clone();
            wrong.resize(len, 0);
            assert_eq!(kek.unwrap_key(&wrong).map(drop).unwrap_err().kind(), Kind::KeyRejected, "{len} bytes");
        }
        for len in (0..=64).filter(|&len| len != KEK_LEN) {
            assert_eq!(LocalKek::new(SecretBytes::zeroed(len)).unwrap_err().kind(), Kind::Invalid, "{len} bytes");
        }
    }

    #[test]
    fn check_is_the_hkdf_of_the_format() {
        // Computed from FORMAT.md with Python's hmac.
        let kek = kek("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
        assert_eq!(HEXLOWER.encode(&kek.check().unwrap().0), "ac25d370ceb2a1ee");
        assert_eq!(kek.bytes(), (0..32).collect::<Vec<u8>>());
        assert_ne!(kek.check().unwrap(), LocalKek::random().unwrap().check().unwrap());
    }

    #[test]
    fn a_kek_does_not_print() {
        assert_eq!(format!("{:?}", LocalKek::random().unwrap()), "LocalKek(32 bytes)");
    }
}
