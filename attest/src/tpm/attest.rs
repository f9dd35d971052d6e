//! Statements that a TPM signs: quotes of registers, and where a key was made.

use super::public::name;
use super::{MAX_DIGEST_LEN, MAX_NAME_LEN, Name, Reader};
use crate::error::{Error, Result};
use crate::pcr::PcrSelection;

/// What a statement begins with: `\xffTCG`. A restricted key signs nothing else from outside that begins with it.
const GENERATED: u32 = 0xff54_4347;
const ATTEST_QUOTE: u16 = 0x8018;
const ATTEST_CREATION: u16 = 0x801a;

/// The clock of a TPM, and how often it was started.
///
/// Unless the signing key is of the endorsement or platform hierarchy, the TPM adds a secret number of that key to both
/// counts: they can be compared with those of the same key, and say nothing else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClockInfo {
    /// Milliseconds that the TPM had power.
    pub clock: u64,
    /// How often it was reset: each boot of the host is one more.
    pub reset_count: u32,
    /// How often it was restarted or resumed since then.
    pub restart_count: u32,
    /// Whether no greater value of the clock was ever reported. Not so after a loss of power, for a while.
    pub safe: bool,
}

/// What a statement is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Statement {
    /// Values of registers.
    Quote(Quote),
    /// Where a key was made.
    Creation(Creation),
}

/// Values of registers (`TPMS_QUOTE_INFO`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote {
    /// Which registers, by bank.
    pub selections: Vec<PcrSelection>,
    /// The digest of their values.
    pub digest: Vec<u8>,
}

/// Where a key was made (`TPMS_CREATION_INFO`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Creation {
    /// The Name of the key.
    pub name: Name,
    /// The digest of its creation data.
    pub hash: Vec<u8>,
}

/// A statement as a TPM signs it (`TPMS_ATTEST`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attestation {
    /// The qualified Name of the signing key: its own Name and those of all its parents.
    pub signer: Name,
    /// What the caller of the TPM gave: proves when, and for what, the statement was asked for.
    pub extra_data: Vec<u8>,
    /// The clock.
    pub clock: ClockInfo,
    /// The version of the TPM's firmware, as its vendor counts. The TPM obscures it as it does the counts in [`ClockInfo`].
    pub firmware_version: u64,
    /// What it says.
    pub statement: Statement,
}

impl Attestation {
    /// Reads a `TPMS_ATTEST`.
    ///
    /// # Errors
    /// `Malformed` when it does not follow its format or does not begin as statements of TPMs do; `Unsupported` when it
    /// is neither of the two kinds, or has an unknown hash algorithm.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        read(bytes).map_err(|error| error.within("a statement of a TPM"))
    }
}

fn read(bytes: &[u8]) -> Result<Attestation> {
    let mut reader = Reader::new(bytes);
    let magic = reader.u32("its first bytes")?;
    if magic != GENERATED {
        return Err(Error::malformed(format!("it begins with {magic:#010x}: expected {GENERATED:#010x}")));
    }
    let kind = reader.u16("its type")?;
    let signer = name(&mut reader, "the Name of its signer")?;
    let extra_data = reader.sized("its extra data", MAX_NAME_LEN)?.to_vec();
    let clock = ClockInfo {
        clock: reader.u64("the clock")?,
        reset_count: reader.u32("the count of resets")?,
        restart_count: reader.u32("the count of restarts")?,
        safe: reader.flag("whether the clock is safe")?,
    };
    let firmware_version = reader.u64("the version of the firmware")?;
    let statement = match kind {
        ATTEST_QUOTE => Statement::Quote(Quote {
            selections: reader.selections()?,
            digest: reader.sized("the digest of PCRs", MAX_DIGEST_LEN)?.to_vec(),
        }),
        ATTEST_CREATION => Statement::Creation(Creation {
            name: name(&mut reader, "the Name of a key")?,
            hash: reader.sized("the digest of creation data", MAX_DIGEST_LEN)?.to_vec(),
        }),
        other => {
            return Err(Error::unsupported(format!("it is of type {other:#06x}: expected a quote or a creation")));
        }
    };
    reader.finish()?;
    Ok(Attestation { signer, extra_data, clock, firmware_version, statement })
}
