//! AES-256-XTS (IEEE 1619-2018) by the crates `aes` and `xts-mode`.
//!
//! Short enough to be right by reading, in safe Rust: it shows what the fast engine must compute, and serves where that
//! one does not. The key schedule is wiped when dropped (`aes` with feature `zeroize`).

use aes::Aes256;
use aes::cipher::{Array, KeyInit};
use xts_mode::Xts128;

use super::{SectorCipher, check_len, check_lens, tweaks, wiping_stack};
use crate::error::{Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek};
use crate::sector::{SectorIndex, SectorSize};

pub(super) struct RustCrypto(Box<Xts128<Aes256>>);

impl RustCrypto {
    pub(super) fn new(dek: &Dek) -> Result<Self> {
        let (data_key, tweak_key) = dek.bytes().split_at(DISK_DEK_LEN / 2);
        let schedule = |key: &[u8]| {
            Aes256::new_from_slice(key)
                .map_err(|error| Error::with_source(Kind::Invalid, "AES-256 refused its key", error))
        };
        // The crates make schedules as values, of which each move leaves a copy, and take more round keys into registers at once than
        // there are.
        wiping_stack(|| Ok(Self(Box::new(Xts128::new(schedule(data_key)?, schedule(tweak_key)?)))))
    }
}

impl SectorCipher for RustCrypto {
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()> {
        check_lens(plain.len(), cipher.len())?;
        cipher.copy_from_slice(plain);
        self.encrypt_in_place(first, size, cipher)
    }

    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        check_len(data.len())?;
        let sectors = data.chunks_mut(size.in_memory()).zip(tweaks(first));
        wiping_stack(|| sectors.for_each(|(sector, tweak)| self.0.encrypt_sector(sector, Array(tweak))));
        Ok(())
    }

    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        check_len(data.len())?;
        let sectors = data.chunks_mut(size.in_memory()).zip(tweaks(first));
        wiping_stack(|| sectors.for_each(|(sector, tweak)| self.0.decrypt_sector(sector, Array(tweak))));
        Ok(())
    }
}

#[cfg(test)]
impl super::tests::AnyTweak for RustCrypto {
    fn unit(&self, encrypt: bool, tweak: [u8; 16], data: &[u8]) -> Vec<u8> {
        let mut result = data.to_vec();
        if encrypt {
            self.0.encrypt_sector(&mut result, Array(tweak));
        } else {
            self.0.decrypt_sector(&mut result, Array(tweak));
        }
        result
    }
}
