//! AES-256-XTS (IEEE 1619-2018, NIST SP 800-38E) over the sectors of a disk, by one of three engines.
//!
//! A sector is IEEE 1619's data unit, its index the tweak, as 128-bit little-endian ("plain64" of dm-crypt). Ciphertext
//! stealing never happens: all lengths are multiples of a block. Engines give the same bytes; only their speed differs.

mod aws_lc;
mod known_answer;
mod rustcrypto;
#[cfg(target_arch = "x86_64")]
mod vaes;

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroize;

use crate::error::{Context, Error, Kind, Result};
use crate::key::{DISK_DEK_LEN, Dek};
use crate::sector::{BLOCK, SectorIndex, SectorSize};

/// Encrypts and decrypts the sectors of one disk, from any number of threads at once.
///
/// All data starts at the start of sector `first`, and is a multiple of 16 bytes long; the last sector may be short.
pub trait SectorCipher: Send + Sync {
    /// Encrypts `plain` into `cipher`.
    ///
    /// # Errors
    /// `Invalid` when the lengths differ or are not a multiple of 16; `Io` when the engine fails.
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()>;

    /// Encrypts `data` where it lies.
    ///
    /// # Errors
    /// `Invalid` when the length is not a multiple of 16; `Io` when the engine fails.
    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()>;

    /// Decrypts `data` where it lies.
    ///
    /// # Errors
    /// `Invalid` when the length is not a multiple of 16; `Io` when the engine fails.
    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()>;
}

/// What does AES-256-XTS.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Engine {
    /// AWS-LC: assembler for each CPU, with registers of up to 512 bits where there is AVX-512.
    AwsLc,
    /// Instructions for registers of 256 bits: for x86-64 CPUs that have VAES, and twice as fast as AWS-LC on those of
    /// them that have no AVX-512.
    Vaes,
    /// The crates `aes` and `xts-mode`: plain Rust, slow, and the oracle for the others.
    RustCrypto,
}

/// The fastest one on this CPU.
impl Default for Engine {
    fn default() -> Self {
        #[cfg(target_arch = "x86_64")]
        if vaes::is_fastest() {
            return Self::Vaes;
        }
        Self::AwsLc
    }
}

impl Engine {
    const ALL: [Self; 3] = [Self::AwsLc, Self::Vaes, Self::RustCrypto];

    /// All engines that work on this CPU.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|engine| engine.is_available())
    }

    fn is_available(self) -> bool {
        match self {
            Self::AwsLc | Self::RustCrypto => true,
            #[cfg(target_arch = "x86_64")]
            Self::Vaes => vaes::is_supported(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Vaes => false,
        }
    }

    /// Its name on the command line and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws-lc",
            Self::Vaes => "vaes",
            Self::RustCrypto => "rustcrypto",
        }
    }

    /// Checks known answers on this machine's CPU; to be run once, before the engine touches data.
    ///
    /// # Errors
    /// `Unsupported` when the engine does not compute AES-256-XTS here.
    pub fn self_test(self) -> Result<()> {
        known_answer::check(self).context(|| format!("self-test of the cipher engine {self}"))
    }

    /// A cipher under a disk's DEK, of which it holds its own copy.
    ///
    /// # Errors
    /// `Invalid` when `dek` is not a disk's, of 64 bytes; `Unsupported` when this CPU does not have what the engine needs.
    pub fn cipher(self, dek: &Dek) -> Result<Box<dyn SectorCipher>> {
        let len = dek.bytes().len();
        if len != DISK_DEK_LEN {
            return Err(Error::new(Kind::Invalid, format!("an XTS key of {len} bytes, expected {DISK_DEK_LEN}")));
        }
        Ok(match self {
            Self::AwsLc => Box::new(aws_lc::AwsLc::new(dek)?),
            #[cfg(target_arch = "x86_64")]
            Self::Vaes => Box::new(vaes::Vaes::new(dek)?),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Vaes => return Err(Error::new(Kind::Unsupported, "the cipher engine vaes is for x86-64 CPUs")),
            Self::RustCrypto => Box::new(rustcrypto::RustCrypto::new(dek)?),
        })
    }
}

impl FromStr for Engine {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name).ok_or_else(|| {
            Error::new(Kind::Invalid, format!("cipher engine {name:?}, expected aws-lc, vaes or rustcrypto"))
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Refuses lengths that have no XTS without ciphertext stealing, before an engine sees them.
fn check_len(len: usize) -> Result<()> {
    if !(len as u64).is_multiple_of(BLOCK) {
        return Err(Error::new(Kind::Invalid, format!("XTS over {len} bytes, expected a multiple of {BLOCK}")));
    }
    Ok(())
}

/// [`check_len`] for data that moves.
fn check_lens(plain: usize, cipher: usize) -> Result<()> {
    if plain != cipher {
        return Err(Error::new(Kind::Invalid, format!("XTS of {plain} bytes into {cipher}, expected equal lengths")));
    }
    check_len(plain)
}

/// Does `work`, which has keys in its frames, and overwrites these.
fn wiping_stack<T>(work: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn run<T>(work: impl FnOnce() -> T) -> T {
        work()
    }
    #[inline(never)]
    fn wipe() {
        [0_u8; 16 << 10].zeroize();
    }
    let result = run(work);
    wipe();
    result
}

/// The tweaks of consecutive sectors. Beyond the last `u64` they count on, as IEEE 1619's 128-bit numbers do.
fn tweaks(first: SectorIndex) -> impl Iterator<Item = [u8; 16]> {
    (u128::from(first.0)..).map(u128::to_le_bytes)
}

#[cfg(test)]
mod tests;
