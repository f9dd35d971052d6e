//! What files of secrets begin and end with (docs/FORMAT.md, sections 5 and 18): magic, version and reserved bytes, and a
//! SHA-256 over all before it.

use super::field::Reader;
use crate::crypto::derive::sha256;
use crate::error::{Error, Kind, Result};

const VERSION: u16 = 1;
const MAGIC_LEN: usize = 8;
/// Magic and version: what all versions begin with.
pub const START_LEN: usize = 10;
/// Bytes of the SHA-256 at the end.
pub const CHECKSUM_LEN: usize = 32;
const RESERVED_LEN: usize = 6;

/// What tells one kind of such files from another.
#[derive(Clone, Copy, Debug)]
pub struct SecretFile {
    /// What it begins with.
    pub magic: [u8; MAGIC_LEN],
    /// What people call what is in it.
    pub called: &'static str,
    /// All its bytes, the checksum included.
    pub len: usize,
}

impl SecretFile {
    /// Magic, version and reserved bytes.
    pub fn start(&self) -> [u8; START_LEN + RESERVED_LEN] {
        let mut start = [0; START_LEN + RESERVED_LEN];
        start[..MAGIC_LEN].copy_from_slice(&self.magic);
        start[MAGIC_LEN..START_LEN].copy_from_slice(&VERSION.to_le_bytes());
        start
    }

    /// Checks magic, version and length, in this order: another version may have another length. `start` is the first
    /// [`START_LEN`] bytes, or all of a shorter file, and `len` its length.
    ///
    /// # Errors
    /// `Corrupt` for another kind of file and for another length, `Unsupported` for a later version.
    pub fn check_start(&self, start: &[u8], len: u64) -> Result<()> {
        let called = self.called;
        if !start.starts_with(&self.magic) {
            let magic = String::from_utf8_lossy(&self.magic);
            return Err(Error::new(Kind::Corrupt, format!("not a {called} file: it does not begin with {magic}")));
        }
        let version = Reader::new(&start[MAGIC_LEN..]).u16()?;
        if version != VERSION {
            let found = format!("a {called} file of version {version}, expected {VERSION}");
            return Err(Error::new(Kind::Unsupported, found));
        }
        match len == self.len as u64 {
            true => Ok(()),
            false => Err(Error::new(Kind::Corrupt, format!("{len} bytes, expected {}", self.len))),
        }
    }

    /// Checks a checksum, then the reserved bytes. Returns a reader of what follows them in `body`, which is all before the
    /// checksum.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn check_body<'b>(&self, body: &'b [u8], checksum: &[u8]) -> Result<Reader<'b>> {
        if sha256(body) != *checksum {
            let found = format!("the {} file is damaged: its checksum does not match", self.called);
            return Err(Error::new(Kind::Corrupt, found));
        }
        let mut reader = Reader::new(body);
        reader.bytes(START_LEN)?;
        reader.reserved(RESERVED_LEN)?;
        Ok(reader)
    }

    /// Checks all of that of a whole file. Returns a reader of what follows the reserved bytes.
    ///
    /// # Errors
    /// Those of [`check_start`](Self::check_start) and [`check_body`](Self::check_body).
    pub fn check<'b>(&self, bytes: &'b [u8]) -> Result<Reader<'b>> {
        self.check_start(bytes.get(..START_LEN).unwrap_or(bytes), bytes.len() as u64)?;
        let (body, checksum) = bytes.split_at(self.len - CHECKSUM_LEN);
        self.check_body(body, checksum)
    }
}
