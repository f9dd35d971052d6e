//! Argon2id (RFC 9106, version 0x13): a key from what a person can remember.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use crate::error::{Error, Kind, Result};
use crate::sys::SecretBytes;

/// Bytes of the key.
const KEY_LEN: usize = 32;

/// What one guess costs: the limits are those of docs/FORMAT.md, section 5.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Cost {
    /// Memory in KiB, 8 to 4194304 and at least 8 a lane.
    pub memory_kib: u32,
    /// Passes over the memory, 1 to 64.
    pub passes: u32,
    /// Lanes, 1 to 16.
    pub lanes: u32,
}

/// The 32-byte key that `passphrase` stands for, with this salt and at this cost.
///
/// # Errors
/// `Invalid` when the cost is outside its limits, `Io` when its memory is unavailable.
pub fn derive(passphrase: &[u8], salt: &[u8; 16], cost: &Cost) -> Result<SecretBytes> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params(cost)?);
    let mut memory = Memory::with_blocks(argon2.params().block_count())?;
    let mut key = SecretBytes::zeroed(KEY_LEN);
    argon2
        .hash_password_into_with_memory(passphrase, salt, &mut key, memory.0.as_mut_slice())
        .map_err(|error| Error::with_source(Kind::Invalid, "Argon2id refused the passphrase", error))?;
    Ok(key)
}

impl Cost {
    /// Whether the format allows it. Beyond its limits a file could ask for any amount of time and memory.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(self) -> Result<()> {
        params(&self).map(drop)
    }
}

fn params(cost: &Cost) -> Result<Params> {
    let Cost { memory_kib, passes, lanes } = *cost;
    if !(8..=4_194_304).contains(&memory_kib) || !(1..=64).contains(&passes) || !(1..=16).contains(&lanes) {
        return Err(Error::new(
            Kind::Invalid,
            format!(
                "Argon2id with {memory_kib} KiB, {passes} passes and {lanes} lanes, expected 8 to 4194304 KiB, \
                 1 to 64 passes and 1 to 16 lanes"
            ),
        ));
    }
    Params::new(memory_kib, passes, lanes, Some(KEY_LEN)).map_err(|error| {
        let message = format!("Argon2id with {memory_kib} KiB for {lanes} lanes, expected at least 8 KiB for each");
        Error::with_source(Kind::Invalid, message, error)
    })
}

/// Argon2's working memory, from which the key could be computed: wiped when dropped.
struct Memory(Vec<Block>);

impl Memory {
    /// A failed allocation is an error, not the end of the process: the size comes from a file.
    fn with_blocks(count: usize) -> Result<Self> {
        let mut blocks = Vec::new();
        blocks
            .try_reserve_exact(count)
            .map_err(|error| Error::with_source(Kind::Io, format!("no memory for {count} KiB of Argon2id"), error))?;
        blocks.resize(count, Block::new());
        Ok(Self(blocks))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        for block in &mut self.0 {
            block.as_mut().zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;

    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 32, passes: 3, lanes: 4 };

    #[test]
    fn argon2id_gives_reference_values() {
        // The parameters of RFC 9106, 5.3, without its secret and associated data, which this format does not use;
        // values of OpenSSL's evpkdf_argon2 vectors.
        let key = derive(&[1; 32], &[2; 16], &CHEAP).unwrap();
        assert_eq!(HEXLOWER.encode(&key), "03aab965c12001c9d7d0d2de33192c0494b684bb148196d73c1df1acaf6d0c2e");
        let key = derive(b"", &[2; 16], &CHEAP).unwrap();
        assert_eq!(HEXLOWER.encode(&key), "0a34f1abde67086c82e785eaf17c68382259a264f4e61b91cd2763cb75ac189a");
    }

    #[test]
    fn everything_changes_the_key() {
        let costs = [Cost { memory_kib: 64, ..CHEAP }, Cost { passes: 2, ..CHEAP }, Cost { lanes: 2, ..CHEAP }];
        let key = derive(b"correct horse", &[2; 16], &CHEAP).unwrap();
        for cost in costs {
            assert_ne!(*derive(b"correct horse", &[2; 16], &cost).unwrap(), *key, "{cost:?}");
        }
        assert_ne!(*derive(b"correct horsf", &[2; 16], &CHEAP).unwrap(), *key);
        assert_ne!(*derive(b"correct horse", &[3; 16], &CHEAP).unwrap(), *key);
    }

    #[test]
    fn costs_outside_the_format_are_refused() {
        let costs = [
            Cost { memory_kib: 7, passes: 1, lanes: 1 },
            Cost { memory_kib: 4_194_305, passes: 1, lanes: 1 },
            Cost { memory_kib: u32::MAX, passes: u32::MAX, lanes: u32::MAX },
            Cost { passes: 0, ..CHEAP },
            Cost { passes: 65, ..CHEAP },
            Cost { lanes: 0, ..CHEAP },
            Cost { memory_kib: 1024, passes: 1, lanes: 17 },
            Cost { memory_kib: 31, passes: 1, lanes: 4 },
        ];
        for cost in costs {
            let refused = derive(b"x", &[0; 16], &cost).map(drop).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid, "{cost:?}");
        }
    }
}
