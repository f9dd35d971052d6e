//! Platform configuration registers: their numbers, the digests in them, and which of them are meant.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::error::{Error, Kind, Result};

/// How many registers a TPM of the PC client profile has in each bank.
pub const PCR_COUNT: u8 = 24;

/// Bytes of the longest digest.
const MAX_DIGEST_LEN: usize = 64;

/// A hash algorithm of TPMs and event logs.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum HashAlgorithm {
    /// SHA-1. Event logs still have it; nothing that is trusted is made with it.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The algorithm with this `TPM_ALG_ID`, if it is known here.
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.id() == id)
    }

    /// Its `TPM_ALG_ID` (TCG Algorithm Registry).
    pub fn id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// Bytes of its digests.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => MAX_DIGEST_LEN,
        }
    }

    /// Its name, as tpm2-tools write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    fn implementation(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == text).ok_or_else(|| {
            Error::unsupported(format!("unknown hash algorithm {text:?}: expected sha1, sha256, sha384 or sha512"))
        })
    }
}

/// A digest, always exactly as long as those of its algorithm are. Its text is `sha256:` and hexadecimal digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Digest {
    algorithm: HashAlgorithm,
    /// Zeros past the algorithm's length.
    bytes: [u8; MAX_DIGEST_LEN],
}

impl Digest {
    /// A digest that was read somewhere.
    ///
    /// # Errors
    /// `Malformed` when it is not as long as digests of `algorithm` are.
    pub fn new(algorithm: HashAlgorithm, bytes: &[u8]) -> Result<Self> {
        if bytes.len() != algorithm.digest_len() {
            return Err(Error::malformed(format!(
                "a {algorithm} digest of {} bytes: expected {}",
                bytes.len(),
                algorithm.digest_len()
            )));
        }
        Ok(Self::from_exact(algorithm, bytes))
    }

    /// What a register holds that nothing was measured into.
    pub fn zero(algorithm: HashAlgorithm) -> Self {
        Self { algorithm, bytes: [0; MAX_DIGEST_LEN] }
    }

    /// The digest of these parts, one after the other.
    pub fn of(algorithm: HashAlgorithm, parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(algorithm.implementation());
        for part in parts {
            context.update(part);
        }
        Self::from_exact(algorithm, context.finish().as_ref())
    }

    /// What a register with this value holds after `measured` was extended into it.
    ///
    /// # Errors
    /// `Invalid` when `measured` is of another algorithm.
    pub fn extended(&self, measured: &Self) -> Result<Self> {
        if measured.algorithm != self.algorithm {
            return Err(Error::new(
                Kind::Invalid,
                format!("a {} digest cannot extend a register of the {} bank", measured.algorithm, self.algorithm),
            ));
        }
        Ok(Self::of(self.algorithm, &[self.as_bytes(), measured.as_bytes()]))
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// Its bytes: as many as digests of its algorithm have.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    fn from_exact(algorithm: HashAlgorithm, found: &[u8]) -> Self {
        let mut bytes = [0; MAX_DIGEST_LEN];
        bytes[..found.len()].copy_from_slice(found);
        Self { algorithm, bytes }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, HEXLOWER.encode(self.as_bytes()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (algorithm, digits) = text
            .split_once(':')
            .ok_or_else(|| Error::malformed(format!("not a digest: {text:?}: expected sha256: and its digits")))?;
        let algorithm: HashAlgorithm = algorithm.parse()?;
        if digits.len() != 2 * algorithm.digest_len() {
            return Err(Error::malformed(format!(
                "a {algorithm} digest of {} digits: expected {}",
                digits.len(),
                2 * algorithm.digest_len()
            )));
        }
        let bytes = HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .map_err(|error| Error::malformed(format!("not a digest: {text:?}: {error}")))?;
        Self::new(algorithm, &bytes)
    }
}

/// The number of a register, 0 to 23.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PcrIndex(u8);

impl PcrIndex {
    /// The register with this number.
    ///
    /// # Errors
    /// `Malformed` when there is none.
    pub fn new(number: u32) -> Result<Self> {
        match u8::try_from(number) {
            Ok(number) if number < PCR_COUNT => Ok(Self(number)),
            _ => Err(Error::malformed(format!("PCR {number}: there are 0 to {}", PCR_COUNT - 1))),
        }
    }

    /// Its number, below [`PCR_COUNT`].
    pub fn number(self) -> u8 {
        self.0
    }

    /// All of them in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PCR_COUNT).map(Self)
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}", self.0)
    }
}

/// Registers of one bank. Its text is that of tpm2-tools: `sha256:0,2,7`.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct PcrSelection {
    bank: HashAlgorithm,
    /// Bit n is register n.
    mask: u32,
}

impl PcrSelection {
    /// These registers of a bank. One that is named twice is selected once.
    pub fn new(bank: HashAlgorithm, registers: impl IntoIterator<Item = PcrIndex>) -> Self {
        Self { bank, mask: registers.into_iter().fold(0, |mask, index| mask | 1 << index.0) }
    }

    /// The bank.
    pub fn bank(self) -> HashAlgorithm {
        self.bank
    }

    /// Whether this register is selected.
    pub fn contains(self, index: PcrIndex) -> bool {
        self.mask & 1 << index.0 != 0
    }

    /// The selected registers in ascending order.
    pub fn iter(self) -> impl Iterator<Item = PcrIndex> {
        PcrIndex::all().filter(move |index| self.contains(*index))
    }

    /// Bit n is register n.
    pub(crate) fn mask(self) -> u32 {
        self.mask
    }

    /// How many are selected.
    pub fn len(self) -> usize {
        self.iter().count()
    }

    /// Whether none is selected.
    pub fn is_empty(self) -> bool {
        self.mask == 0
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.bank)?;
        for (place, index) in self.iter().enumerate() {
            write!(f, "{}{}", if place == 0 { "" } else { "," }, index.0)?;
        }
        Ok(())
    }
}

impl fmt::Debug for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for PcrSelection {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let malformed =
            || Error::malformed(format!("not a selection of PCRs: {text:?}: expected such as sha256:0,2,7"));
        let (bank, registers) = text.split_once(':').ok_or_else(malformed)?;
        let registers = registers
            .split(',')
            .map(|number| number.trim().parse().map_err(|_| malformed()).and_then(PcrIndex::new))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self::new(bank.parse()?, registers))
    }
}

/// Hexadecimal digits of the name of values: too many for two boots to be made that have one name.
const NAME_LEN: usize = 40;

/// The values of some registers of one bank. Nothing says where they come from: those of a quote are
/// in what its check returns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PcrValues {
    selection: PcrSelection,
    /// In the order of the selection.
    values: Vec<Digest>,
}

impl PcrValues {
    /// Values of a selection, in ascending order of the registers.
    ///
    /// # Errors
    /// `Malformed` when there are more or fewer than selected registers, or one of another algorithm.
    pub fn new(selection: PcrSelection, values: Vec<Digest>) -> Result<Self> {
        if values.len() != selection.len() {
            return Err(Error::malformed(format!(
                "{} values of PCRs: expected {}, for {selection}",
                values.len(),
                selection.len()
            )));
        }
        if let Some(other) = values.iter().find(|value| value.algorithm != selection.bank) {
            return Err(Error::malformed(format!("a value of {}: expected {}", other.algorithm, selection.bank)));
        }
        Ok(Self { selection, values })
    }

    /// The registers and their bank.
    pub fn selection(&self) -> PcrSelection {
        self.selection
    }

    /// The bank.
    pub fn bank(&self) -> HashAlgorithm {
        self.selection.bank
    }

    /// The value of a register, if it is among these.
    pub fn get(&self, index: PcrIndex) -> Option<&Digest> {
        self.iter().find(|(register, _)| *register == index).map(|(_, value)| value)
    }

    /// All of them in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = (PcrIndex, &Digest)> {
        self.selection.iter().zip(&self.values)
    }

    /// What people call the values of some of these registers: the beginning of the SHA-256 digest of them, one after the other.
    pub fn name_of(&self, registers: PcrSelection) -> String {
        let values = self.iter().filter(|(register, _)| registers.contains(*register));
        let values: Vec<&[u8]> = values.map(|(_, value)| value.as_bytes()).collect();
        let mut name = HEXLOWER.encode(Digest::of(HashAlgorithm::Sha256, &values).as_bytes());
        name.truncate(NAME_LEN);
        name
    }

    /// The digest that a quote has of them: of all values, one after the other.
    pub fn digest(&self, algorithm: HashAlgorithm) -> Digest {
        let parts: Vec<&[u8]> = self.values.iter().map(Digest::as_bytes).collect();
        Digest::of(algorithm, &parts)
    }
}

#[cfg(test)]
#[path = "pcr/tests.rs"]
mod tests;
