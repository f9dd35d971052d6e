//! Fixed little-endian fields and length-prefixed texts, read and written one after another.

use crate::error::{Error, Kind, Result};

/// Takes fields off the front of a slice. Running out of bytes is damage, not a panic.
pub struct Reader<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes` from their start.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, taken: 0 }
    }

    /// Bytes that were taken so far.
    pub fn taken(&self) -> usize {
        self.taken
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self.rest.split_first_chunk().ok_or_else(|| self.cut_short(N))?;
        self.rest = rest;
        self.taken += N;
        Ok(*field)
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (field, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.cut_short(len))?;
        self.rest = rest;
        self.taken += len;
        Ok(field)
    }

    /// The next byte.
    ///
    /// # Errors
    /// `Corrupt` when none is left.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `len` bytes that are UTF-8. `what` names the field in the error.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left, or they are not UTF-8.
    pub fn text(&mut self, len: usize, what: &str) -> Result<&'a str> {
        let at = self.taken;
        std::str::from_utf8(self.bytes(len)?)
            .map_err(|error| Error::with_source(Kind::Corrupt, format!("{what} at byte {at} is not UTF-8"), error))
    }

    /// Checks that `len` reserved bytes are zero.
    ///
    /// # Errors
    /// `Corrupt` when one is not.
    pub fn reserved(&mut self, len: usize) -> Result<()> {
        let at = self.taken;
        match self.bytes(len)?.iter().position(|&byte| byte != 0) {
            None => Ok(()),
            Some(set) => Err(Error::new(Kind::Corrupt, format!("reserved byte {} is set, expected 0", at + set))),
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// `Corrupt` when something is.
    pub fn end(&self) -> Result<()> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Error::new(Kind::Corrupt, format!("{left} bytes after the last field, expected none"))),
        }
    }

    fn cut_short(&self, wanted: usize) -> Error {
        Error::new(
            Kind::Corrupt,
            format!("a field of {wanted} bytes at byte {}, but {} are left", self.taken, self.rest.len()),
        )
    }
}

/// Appends fields to a buffer; mirrors [`Reader`].
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Appends bytes as they are.
    pub fn put(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.extend_from_slice(bytes.as_ref());
    }

    /// Appends zeros up to a total length of `len`.
    ///
    /// # Errors
    /// `Invalid` when there are more bytes already.
    pub fn pad_to(&mut self, len: usize) -> Result<()> {
        if self.0.len() > len {
            return Err(Error::new(Kind::Invalid, format!("{} bytes of fields, at most {len} fit", self.0.len())));
        }
        self.0.resize(len, 0);
        Ok(())
    }

    /// Appends a byte that counts `items` and is followed by them.
    ///
    /// # Errors
    /// `Invalid` when the count does not fit a byte.
    pub fn count_u8(&mut self, items: usize, what: &str) -> Result<()> {
        let count = u8::try_from(items)
            .map_err(|_| Error::new(Kind::Invalid, format!("{items} {what}, at most 255 can be stored")))?;
        self.put([count]);
        Ok(())
    }

    /// Appends a 16-bit count of `items`.
    ///
    /// # Errors
    /// `Invalid` when the count does not fit.
    pub fn count_u16(&mut self, items: usize, what: &str) -> Result<()> {
        let count = u16::try_from(items)
            .map_err(|_| Error::new(Kind::Invalid, format!("{items} {what}, at most 65535 can be stored")))?;
        self.put(count.to_le_bytes());
        Ok(())
    }

    /// What was written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gives_back_what_a_writer_put() {
        let mut writer = Writer::default();
        writer.put(7u16.to_le_bytes());
        writer.count_u8(2, "letters").unwrap();
        writer.put("hi");
        writer.pad_to(8).unwrap();
        let mut reader = Reader::new(writer.bytes());
        assert_eq!(reader.u16().unwrap(), 7);
        let len = reader.u8().unwrap();
        assert_eq!(reader.text(usize::from(len), "greeting").unwrap(), "hi");
        reader.reserved(3).unwrap();
        reader.end().unwrap();
    }

    #[test]
    fn running_out_of_bytes_is_damage() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32().unwrap_err().kind(), Kind::Corrupt);
        assert_eq!(reader.u16().unwrap(), 0x0201);
        assert!(reader.end().is_err());
        assert!(reader.bytes(usize::MAX).is_err());
    }

    #[test]
    fn a_set_reserved_byte_is_named() {
        let error = Reader::new(&[0, 0, 9]).reserved(3).unwrap_err();
        assert!(error.to_string().contains("reserved byte 2"), "{error}");
    }
}
