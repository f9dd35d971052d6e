//! Commands and responses of a TPM as bytes (TCG, TPM 2.0 Library, parts 1 to 3): big-endian numbers, and byte strings
//! after their 16-bit length.

use crate::error::{Error, Kind, Result};

/// Writes what commands are made of.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A number of 8 bits.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// A number of 16 bits.
    pub fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// A number of 32 bits.
    pub fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    /// Bytes as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A byte string after its length. Those of our commands are far shorter than the 64 KiB that it can say.
    pub fn sized(self, bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(len).raw(&bytes[..usize::from(len)])
    }

    /// Bytes after their 32-bit length, as authorizations are.
    pub fn long(self, bytes: &[u8]) -> Self {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX)).raw(bytes)
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads what responses are made of. What is missing or too much is an error, never a panic.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// As many bytes.
    ///
    /// # Errors
    /// `Io` when there are fewer; so have all that follow.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(|| cut(len, self.0.len()))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| cut(N, self.0.len()))?;
        self.0 = rest;
        Ok(*taken)
    }

    /// A number of 8 bits.
    ///
    /// # Errors
    /// `Io`.
    pub fn u8(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A number of 16 bits.
    ///
    /// # Errors
    /// `Io`.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// `Io`.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// A byte string after its length.
    ///
    /// # Errors
    /// `Io`.
    pub fn sized(&mut self) -> Result<&'a [u8]> {
        let len = self.u16()?;
        self.raw(len.into())
    }

    /// All that was not read yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Ends: nothing may be left.
    ///
    /// # Errors
    /// `Io` when there is.
    pub fn finish(self) -> Result<()> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(Error::new(Kind::Io, format!("{more} bytes too many in a response of the TPM"))),
        }
    }
}

fn cut(expected: usize, found: usize) -> Error {
    Error::new(Kind::Io, format!("a response of the TPM ends early: expected {expected} bytes more, found {found}"))
}
