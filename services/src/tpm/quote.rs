//! Quotes, and the clock of the TPM.

use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::provider::tpm::{Authorization, Reader, Writer, parameters_of};
use vmcryptfs_attest::pcr::{Digest, HashAlgorithm, PcrSelection, PcrValues};
use vmcryptfs_attest::tpm::{Attestation, Statement};

use super::commands::{ALG_NULL, PCR_READ, QUOTE, READ_CLOCK};
use super::{AttestationSeed, HostTpm};

/// How often a quote is made again when a register was extended between its values and it.
const TRIES: usize = 5;

/// A quote and the values that it has the digest of.
#[derive(Clone, Debug)]
pub struct QuotedHost {
    /// `TPMS_ATTEST`.
    pub statement: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
    /// The values in ascending order of the registers.
    pub values: Vec<u8>,
}

/// How often a TPM began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TpmClock {
    /// `resetCount`.
    pub resets: u32,
    /// `restartCount`.
    pub restarts: u32,
}

impl HostTpm {
    /// A quote of these registers by the attestation key of this seed.
    ///
    /// # Errors
    /// `Unsupported` when a register's bank is not active, `KeyUnavailable` when the TPM does not answer or refuses, `Denied` when its
    /// endorsement hierarchy has a password, `Busy` when a register changes all the time, `Io`.
    pub fn quote(&mut self, seed: &AttestationSeed, selection: PcrSelection, extra_data: &[u8]) -> Result<QuotedHost> {
        let parameters = Writer::default().sized(extra_data).u16(ALG_NULL).raw(&list_of(selection)).finish();
        self.with_primary(&seed.template(), |own, key| {
            for _ in 0..TRIES {
                let values = own.values(selection)?;
                let answer = own.send(QUOTE, &[key.handle], &[Authorization::Password], &parameters)?;
                let mut answer = parameters_of(&mut Reader::new(&answer))?;
                let (statement, signature) = (answer.sized()?.to_vec(), answer.rest().to_vec());
                if is_of(&statement, &values)? {
                    let values = values.iter().flat_map(|(_, value)| value.as_bytes().to_vec()).collect();
                    return Ok(QuotedHost { statement, signature, values });
                }
            }
            Err(Error::new(Kind::Busy, "the registers of the TPM changed with each quote: try again"))
        })
    }

    /// How often the TPM began.
    ///
    /// # Errors
    /// `KeyUnavailable`, `Io`.
    pub fn clock(&mut self) -> Result<TpmClock> {
        let answer = self.send(READ_CLOCK, &[], &[], &[])?;
        let mut answer = Reader::new(&answer);
        let (_time, _clock) = (answer.raw(8)?, answer.raw(8)?);
        Ok(TpmClock { resets: answer.u32()?, restarts: answer.u32()? })
    }

    /// Values of these registers. A TPM gives some of them with each answer.
    ///
    /// # Errors
    /// As [`quote`](Self::quote).
    pub fn values(&mut self, selection: PcrSelection) -> Result<PcrValues> {
        let bank = selection.bank();
        let (mut left, mut found) = (selection, Vec::new());
        while !left.is_empty() {
            let answer = self.send(PCR_READ, &[], &[], &list_of(left))?;
            let mut answer = Reader::new(&answer);
            let _updates = answer.u32()?;
            let read = selection_of(&mut answer, bank)?;
            let count = answer.u32()?;
            let registers: Vec<_> = left.iter().filter(|register| read.contains(*register)).collect();
            if registers.is_empty() || u32::try_from(registers.len()) != Ok(count) {
                return Err(Error::new(
                    Kind::Unsupported,
                    format!("the TPM does not give the registers {left}: is its bank {bank} active?"),
                ));
            }
            for register in registers {
                let value = Digest::new(bank, answer.sized()?).map_err(of_check)?;
                found.push((register, value));
            }
            left = PcrSelection::new(bank, left.iter().filter(|register| !read.contains(*register)));
        }
        found.sort_by_key(|(register, _)| register.number());
        PcrValues::new(selection, found.into_iter().map(|(_, value)| value).collect()).map_err(of_check)
    }
}

/// `TPML_PCR_SELECTION`.
fn list_of(selection: PcrSelection) -> Vec<u8> {
    let bits = selection.iter().fold(0_u32, |bits, register| bits | 1 << register.number());
    let [low, middle, high, _] = bits.to_le_bytes();
    Writer::default().u32(1).u16(selection.bank().id()).u8(3).raw(&[low, middle, high]).finish()
}

/// The registers of one bank in a `TPML_PCR_SELECTION`.
fn selection_of(list: &mut Reader<'_>, bank: HashAlgorithm) -> Result<PcrSelection> {
    let mut registers = Vec::new();
    for _ in 0..list.u32()?.min(16) {
        let (id, len) = (list.u16()?, list.u8()?);
        let bits = list.raw(len.into())?;
        if id == bank.id() {
            let is_set =
                |number: &u8| bits.get(usize::from(number / 8)).is_some_and(|byte| byte >> (number % 8) & 1 == 1);
            registers.extend((0..24).filter(is_set));
        }
    }
    let registers = registers.into_iter().map(|number| vmcryptfs_attest::pcr::PcrIndex::new(u32::from(number)));
    Ok(PcrSelection::new(bank, registers.collect::<vmcryptfs_attest::Result<Vec<_>>>().map_err(of_check)?))
}

/// Whether a quote has the digest of these values.
fn is_of(statement: &[u8], values: &PcrValues) -> Result<bool> {
    let Statement::Quote(quote) = Attestation::read(statement).map_err(of_check)?.statement else {
        return Err(Error::new(Kind::Io, "the TPM answered with something else than a quote"));
    };
    Ok(quote.digest == values.digest(HashAlgorithm::Sha256).as_bytes())
}

/// What is wrong with an answer of the TPM.
fn of_check(error: vmcryptfs_attest::Error) -> Error {
    Error::with_source(Kind::Io, "an answer of the TPM that is not understood", error)
}
