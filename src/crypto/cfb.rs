//! AES-128 in full-block cipher feedback mode (NIST SP 800-38A): what a TPM encrypts the parameters of its commands with.

use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::iv::FixedLength;

use crate::error::{Error, Kind, Result};

/// Bytes of a key.
pub const KEY_LEN: usize = 16;
/// Bytes of an initialization vector.
pub const IV_LEN: usize = 16;

/// Encrypts `data` in place. A pair of key and vector must never encrypt twice.
///
/// # Errors
/// `Invalid` when the key has another length.
pub fn encrypt(key: &[u8], iv: [u8; IV_LEN], data: &mut [u8]) -> Result<()> {
    let key = EncryptingKey::cfb128(unbound(key)?).map_err(failed)?;
    key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv))).map(drop).map_err(failed)
}

/// Decrypts `data` in place. What was changed decrypts to something else, and nothing tells.
///
/// # Errors
/// As [`encrypt`].
pub fn decrypt(key: &[u8], iv: [u8; IV_LEN], data: &mut [u8]) -> Result<()> {
    let key = DecryptingKey::cfb128(unbound(key)?).map_err(failed)?;
    key.decrypt(data, DecryptionContext::Iv128(FixedLength::from(iv))).map(drop).map_err(failed)
}

fn unbound(key: &[u8]) -> Result<UnboundCipherKey> {
    UnboundCipherKey::new(&AES_128, key).map_err(failed)
}

fn failed(error: Unspecified) -> Error {
    Error::with_source(Kind::Invalid, "AES-128-CFB", error)
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    #[test]
    fn it_gives_the_values_of_sp_800_38a() {
        // F.3.13: CFB128-AES128, the first two blocks, and a part of the second.
        let key = HEXLOWER.decode(b"2b7e151628aed2a6abf7158809cf4f3c").unwrap();
        let iv: [u8; IV_LEN] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let plain = HEXLOWER.decode(b"6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51").unwrap();
        let cipher = HEXLOWER.decode(b"3b3fd92eb72dad20333449f8e83cfb4ac8a64537a0b3a93fcde3cdad9f1ce58b").unwrap();
        for len in [32, 21, 0] {
            let mut data = plain[..len].to_vec();
            encrypt(&key, iv, &mut data).unwrap();
            assert_eq!(data, cipher[..len], "{len} bytes");
            decrypt(&key, iv, &mut data).unwrap();
            assert_eq!(data, plain[..len], "{len} bytes");
        }
        assert_eq!(encrypt(&key[1..], iv, &mut []).unwrap_err().kind(), Kind::Invalid);
    }
}
