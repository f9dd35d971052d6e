//! Big-endian numbers, and byte strings after their 16-bit length.

use crate::error::{Error, Result};
use crate::pcr::{HashAlgorithm, PCR_COUNT, PcrIndex, PcrSelection};

/// Reads fields one after the other. Each is named, so that an error can say which one is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn raw(&mut self, field: &str, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| cut(field, len, self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self, field: &str) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(|| cut(field, N, self.0.len()))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &str) -> Result<u8> {
        self.array(field).map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self, field: &str) -> Result<u16> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &str) -> Result<u32> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &str) -> Result<u64> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A flag: the byte 0 or 1, and no other (`TPMI_YES_NO`).
    pub(crate) fn flag(&mut self, field: &str) -> Result<bool> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Error::malformed(format!("{field} is {other}: expected 0 or 1"))),
        }
    }

    /// A byte string after its length, of at most `most` bytes.
    pub(crate) fn sized(&mut self, field: &str, most: usize) -> Result<&'a [u8]> {
        let len = usize::from(self.u16(field)?);
        if len > most {
            return Err(Error::malformed(format!("{field} of {len} bytes: expected at most {most}")));
        }
        self.raw(field, len)
    }

    /// A hash algorithm that is known here.
    pub(crate) fn hash(&mut self, field: &str) -> Result<HashAlgorithm> {
        let id = self.u16(field)?;
        HashAlgorithm::from_id(id)
            .ok_or_else(|| Error::unsupported(format!("{field} is the unknown hash algorithm {id:#06x}")))
    }

    /// `TPML_PCR_SELECTION`: registers of some banks.
    pub(crate) fn selections(&mut self) -> Result<Vec<PcrSelection>> {
        let count = self.u32("the number of selections of PCRs")?;
        if count > MAX_SELECTIONS {
            return Err(Error::malformed(format!("{count} selections of PCRs: expected at most {MAX_SELECTIONS}")));
        }
        (0..count).map(|_| self.selection()).collect()
    }

    fn selection(&mut self) -> Result<PcrSelection> {
        let bank = self.hash("the bank of PCRs")?;
        let len = self.u8("the length of a selection of PCRs")?;
        if len > MAX_SELECT_LEN {
            return Err(Error::malformed(format!(
                "a selection of PCRs of {len} bytes: expected at most {MAX_SELECT_LEN}"
            )));
        }
        let bits = self.raw("a selection of PCRs", len.into())?;
        let numbers = (0_u32..)
            .zip(bits)
            .flat_map(|(place, byte)| (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| 8 * place + bit));
        Ok(PcrSelection::new(bank, numbers.map(PcrIndex::new).collect::<Result<Vec<_>>>()?))
    }

    /// All that was not read yet.
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Nothing may follow the structure.
    pub(crate) fn finish(self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(Error::malformed(format!("{more} bytes after the end"))),
        }
    }
}

/// Banks that a TPM may have. The specification's limit is the number of its hash algorithms.
const MAX_SELECTIONS: u32 = 16;
/// Bytes of a selection: 24 registers, and room for 8 that no TPM of the PC client profile has.
const MAX_SELECT_LEN: u8 = PCR_COUNT / 8 + 1;

fn cut(field: &str, expected: usize, found: usize) -> Error {
    Error::malformed(format!("it ends within {field}: expected {expected} bytes, found {found}"))
}

/// Writes fields one after the other.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A byte string after its length.
    ///
    /// # Errors
    /// `Malformed` when it is longer than 65,535 bytes.
    pub(crate) fn sized(self, field: &str, bytes: &[u8]) -> Result<Self> {
        let len = u16::try_from(bytes.len())
            .map_err(|_| Error::malformed(format!("{field} of {} bytes: expected at most 65535", bytes.len())))?;
        Ok(self.u16(len).raw(bytes))
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}
