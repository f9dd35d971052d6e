//! Little-endian fields, taken one after the other.

use crate::error::{Error, Result};

/// The bytes that are left. Nothing is taken past them.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// The next `len` bytes; `what` they are is named where they are missing.
    pub(crate) fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8]> {
        let (field, rest) = self
            .bytes
            .split_at_checked(len)
            .ok_or_else(|| Error::malformed(format!("{what} of {len} bytes: only {} are left", self.bytes.len())))?;
        self.bytes = rest;
        Ok(field)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut field = [0; N];
        field.copy_from_slice(self.take(N, what)?);
        Ok(field)
    }

    pub(crate) fn u8(&mut self, what: &str) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u16(&mut self, what: &str) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A place or length of 32 bits.
    pub(crate) fn size(&mut self, what: &str) -> Result<usize> {
        Ok(usize::try_from(self.u32(what)?).unwrap_or(usize::MAX))
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }
}
