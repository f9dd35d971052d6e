//! AES-256-GCM (NIST SP 800-38D) under a given 96-bit nonce: seals one key for storage outside this host.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::error::{Error, Kind, Result};
use crate::key::DISK_DEK_LEN;
use crate::sys::SecretBytes;

/// Bytes of the tag after the ciphertext.
const TAG_LEN: usize = 16;
/// Longest secret in bytes.
const MAX_SECRET_LEN: usize = DISK_DEK_LEN;

/// The ciphertext of `secret` and its tag, which covers `associated` as well. `key` is 32 bytes.
///
/// A nonce must never serve twice under one key.
///
/// # Errors
/// `Invalid` when `key` is not 32 bytes, or `secret` is longer than 64.
pub fn seal(key: &[u8], nonce: &[u8; 12], associated: &[u8], secret: &[u8]) -> Result<Vec<u8>> {
    check_secret_len(secret.len())?;
    // Room for the tag from the start: growing would leave plaintext in freed memory.
    let mut sealed = Vec::with_capacity(secret.len() + TAG_LEN);
    sealed.extend_from_slice(secret);
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(*nonce), Aad::from(associated), &mut sealed)
        .map_err(|error| Error::with_source(Kind::Io, "AES-GCM failed to seal", error))?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

/// Opens what [`seal`] made of the same associated data.
///
/// # Errors
/// `KeyRejected` when `sealed` does not authenticate under this key and nonce; `Invalid` when `key` is not 32 bytes, or
/// the secret would be longer than 64.
pub fn open(key: &[u8], nonce: &[u8; 12], associated: &[u8], sealed: &[u8]) -> Result<SecretBytes> {
    let Some((ciphertext, tag)) = sealed.split_last_chunk::<TAG_LEN>() else {
        return Err(Error::new(
            Kind::KeyRejected,
            format!("{} sealed bytes, expected at least {TAG_LEN}", sealed.len()),
        ));
    };
    check_secret_len(ciphertext.len())?;
    let mut secret = SecretBytes::zeroed(ciphertext.len());
    cipher(key)?
        .open_separate_gather(Nonce::assume_unique_for_key(*nonce), Aad::from(associated), ciphertext, tag, &mut secret)
        .map_err(|error| {
            Error::with_source(Kind::KeyRejected, "the key is not the one that sealed this, or it was changed", error)
        })?;
    Ok(secret)
}

fn cipher(key: &[u8]) -> Result<LessSafeKey> {
    let key = UnboundKey::new(&AES_256_GCM, key).map_err(|error| {
        Error::with_source(Kind::Invalid, format!("an AES-256-GCM key of {} bytes, expected 32", key.len()), error)
    })?;
    Ok(LessSafeKey::new(key))
}

fn check_secret_len(len: usize) -> Result<()> {
    if len > MAX_SECRET_LEN {
        return Err(Error::new(Kind::Invalid, format!("a secret of {len} bytes, at most {MAX_SECRET_LEN} are sealed")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    const KEY: [u8; 32] = [1; 32];
    const NONCE: [u8; 12] = [2; 12];

    #[test]
    fn gcm_gives_published_values() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 and 14.
        let zero = [0; 32];
        let sealed = seal(&zero, &[0; 12], b"", b"").unwrap();
        assert_eq!(HEXLOWER.encode(&sealed), "530f8afbc74536b9a963b4f1c4cb738b");
        let sealed = seal(&zero, &[0; 12], b"", &[0; 16]).unwrap();
        assert_eq!(HEXLOWER.encode(&sealed), "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919");
    }

    #[test]
    fn every_length_comes_back() {
        for len in 0..=MAX_SECRET_LEN {
            let secret: Vec<u8> = (0..).take(len).collect();
            let sealed = seal(&KEY, &NONCE, b"header", &secret).unwrap();
            assert_eq!(sealed.len(), len + TAG_LEN);
            assert_eq!(*open(&KEY, &NONCE, b"header", &sealed).unwrap(), secret[..]);
        }
    }

    #[test]
    fn whatever_was_changed_is_refused() {
        let sealed = seal(&KEY, &NONCE, b"header", &[3; 32]).unwrap();
        let refused = |key: &[u8], nonce, associated: &[u8], sealed: &[u8]| {
            open(key, nonce, associated, sealed).is_err_and(|error| error.kind() == Kind::KeyRejected)
        };
        for bit in 0..sealed.len() * 8 {
            let mut wrong = sealed.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert!(refused(&KEY, &NONCE, b"header", &wrong), "bit {bit}");
        }
        assert!((0..sealed.len()).all(|len| refused(&KEY, &NONCE, b"header", &sealed[..len])));
        assert!(refused(&[9; 32], &NONCE, b"header", &sealed));
        assert!(refused(&KEY, &[9; 12], b"header", &sealed));
        assert!(refused(&KEY, &NONCE, b"other", &sealed));
    }

    #[test]
    fn lengths_that_no_caller_has_are_invalid() {
        assert_eq!(seal(&KEY, &NONCE, b"", &[0; 65]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(open(&KEY, &NONCE, b"", &[0; 81]).map(drop).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(seal(&KEY[..31], &NONCE, b"", b"").unwrap_err().kind(), Kind::Invalid);
        assert_eq!(open(&KEY[..16], &NONCE, b"", &[0; 48]).map(drop).unwrap_err().kind(), Kind::Invalid);
    }
}
