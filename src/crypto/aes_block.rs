//! Single blocks of AES-256 (FIPS 197), by AWS-LC.
//!
//! The key schedule is made where it lies until it is wiped, in a box: a value that moved would leave a copy of itself on the stack.

#![allow(unsafe_code, reason = "aws-lc-rs has no AES of single blocks; AWS-LC's C interface has")]

use aws_lc_sys::{AES_KEY, AES_encrypt, AES_set_encrypt_key};
use zeroize::Zeroize;

use crate::error::{Error, Kind, Result};

/// Bytes of a key.
pub(super) const KEY_LEN: usize = 32;
/// Bytes of a block.
pub(super) const BLOCK_LEN: usize = 16;

pub(super) struct AesBlock(Box<AES_KEY>);

impl AesBlock {
    /// # Errors
    /// `Invalid` for a key that is not 32 bytes long.
    pub(super) fn new(key: &[u8]) -> Result<Self> {
        let key: &[u8; KEY_LEN] = key.try_into().map_err(|error| {
            Error::with_source(
                Kind::Invalid,
                format!("an AES-256 key of {} bytes, expected {KEY_LEN}", key.len()),
                error,
            )
        })?;
        let mut schedule = Box::new(AES_KEY { rd_key: [0; 60], rounds: 0 });
        // SAFETY: the key is 256 readable bits, and the schedule is ours to write.
        match unsafe { AES_set_encrypt_key(key.as_ptr(), 256, &raw mut *schedule) } {
            0 => Ok(Self(schedule)),
            _ => Err(Error::new(Kind::Io, "AWS-LC refused an AES-256 key")),
        }
    }

    /// Encrypts a block where it lies.
    pub(super) fn encrypt(&self, block: &mut [u8; BLOCK_LEN]) {
        let block = block.as_mut_ptr();
        // SAFETY: a block is 16 bytes, which AES reads as a whole before it writes them; the schedule was set.
        unsafe { AES_encrypt(block, block, &raw const *self.0) };
    }
}

impl Drop for AesBlock {
    fn drop(&mut self) {
        self.0.rd_key.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_the_published_one() {
        // FIPS 197, appendix C.3.
        let key: Vec<u8> = (0..32).collect();
        let mut block: [u8; 16] = (0..16).map(|at| at * 0x11).collect::<Vec<_>>().try_into().unwrap();
        AesBlock::new(&key).unwrap().encrypt(&mut block);
        assert_eq!(data_encoding::HEXLOWER.encode(&block), "8ea2b7ca516745bfeafc49904b496089");
        assert_eq!(AesBlock::new(&key[1..]).map(drop).unwrap_err().kind(), Kind::Invalid);
    }
}
