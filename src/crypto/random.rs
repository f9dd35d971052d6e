//! Random bytes for keys, nonces and UUIDs (RFC 9562, version 4): AWS-LC's generator (CTR-DRBG of NIST SP 800-90A,
//! seeded by the CPU and the kernel).

use aws_lc_rs::rand;

use crate::error::{Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek, HOME_DEK_LEN};
use crate::sys::SecretBytes;

/// Fills `bytes` with random ones.
///
/// # Errors
/// `Io` when the generator fails; then nothing may be made from `bytes`.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    rand::fill(bytes).map_err(|error| Error::with_source(Kind::Io, "the random generator failed", error))
}

/// A new DEK for a disk: two AES-256 keys that differ, as IEEE 1619-2018 demands.
///
/// # Errors
/// `Io` when the generator fails.
pub fn disk_dek() -> Result<Dek> {
    let mut bytes = SecretBytes::zeroed(DISK_DEK_LEN);
    fill(&mut bytes)?;
    if bytes[..DISK_DEK_LEN / 2] == bytes[DISK_DEK_LEN / 2..] {
        return Err(Error::new(Kind::Io, "the random generator gave the same 32 bytes twice: it is broken"));
    }
    Dek::new(bytes)
}

/// A new DEK for a home.
///
/// # Errors
/// `Io` when the generator fails.
pub fn home_dek() -> Result<Dek> {
    let mut bytes = SecretBytes::zeroed(HOME_DEK_LEN);
    fill(&mut bytes)?;
    Dek::new(bytes)
}

/// A new UUID of version 4.
///
/// # Errors
/// `Io` when the generator fails.
pub fn uuid() -> Result<uuid::Uuid> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn keys_have_the_lengths_of_the_format_and_differ() {
        let disks: HashSet<Vec<u8>> = (0..100).map(|_| disk_dek().unwrap().bytes().to_vec()).collect();
        let homes: HashSet<Vec<u8>> = (0..100).map(|_| home_dek().unwrap().bytes().to_vec()).collect();
        assert_eq!((disks.len(), homes.len()), (100, 100));
        assert!(disks.iter().all(|dek| dek.len() == DISK_DEK_LEN && dek[..32] != dek[32..]));
        assert!(homes.iter().all(|dek| dek.len() == HOME_DEK_LEN));
    }

    #[test]
    fn every_byte_is_filled() {
        let mut seen = [0_u8; 100];
        for _ in 0..20 {
            let mut bytes = [0; 100];
            fill(&mut bytes).unwrap();
            seen.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte);
        }
        assert!(seen.iter().all(|&byte| byte != 0));
    }

    #[test]
    fn uuids_are_random_and_say_so() {
        let uuids: HashSet<uuid::Uuid> = (0..100).map(|_| uuid().unwrap()).collect();
        assert_eq!(uuids.len(), 100);
        for uuid in uuids {
            assert_eq!((uuid.get_version_num(), uuid.get_variant()), (4, uuid::Variant::RFC4122));
        }
    }
}
