//! A header that was saved outside of its component (docs/FORMAT.md, section 12).

use crate::crypto::derive::sha256;
use crate::error::{Error, Kind, Result};
use crate::format::header::{COPY_LEN, UnverifiedHeader};
use crate::format::{Reader, Writer};
use crate::timestamp::Timestamp;

/// Bytes of the file.
pub const SAVED_LEN: usize = COPY_AT + COPY_LEN + CHECKSUM_LEN;

const MAGIC: [u8; 8] = *b"VMCRYPTS";
const VERSION: u16 = 1;
const COPY_AT: usize = 32;
const CHECKSUM_LEN: usize = 32;

/// Whether a file that begins like this is a saved header, intact or not.
pub fn begins(prefix: &[u8]) -> bool {
    prefix.starts_with(&MAGIC)
}

/// What a saved header holds.
#[derive(Debug)]
pub struct SavedHeader {
    /// When it was saved.
    pub time: Timestamp,
    /// The copy that was in use. Anyone can write one: its DEK verifies it.
    pub header: UnverifiedHeader,
}

impl SavedHeader {
    /// The bytes of the file.
    ///
    /// # Errors
    /// `Invalid`; it does not happen for a header that was decoded.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        w.put(MAGIC);
        w.put(VERSION.to_le_bytes());
        w.pad_to(16)?; // reserved
        w.put(self.time.since_1970().as_secs().to_le_bytes());
        w.pad_to(COPY_AT)?; // reserved
        w.put(self.header.bytes());
        w.put(sha256(w.bytes()));
        Ok(w.bytes().to_vec())
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// `Corrupt` for anything else, `Unsupported` when the file or the header in it is of a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut r = Reader::new(bytes);
        if !bytes.starts_with(&MAGIC) {
            return Err(Error::new(Kind::Corrupt, "not a saved header: it does not begin with \"VMCRYPTS\""));
        }
        r.bytes(MAGIC.len())?;
        let version = r.u16()?;
        if version != VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("a saved header of version {version}, this program knows {VERSION}"),
            ));
        }
        if bytes.len() != SAVED_LEN {
            return Err(Error::new(
                Kind::Corrupt,
                format!("a saved header of {} bytes, expected {SAVED_LEN}", bytes.len()),
            ));
        }
        if sha256(&bytes[..SAVED_LEN - CHECKSUM_LEN]) != bytes[SAVED_LEN - CHECKSUM_LEN..] {
            return Err(Error::new(Kind::Corrupt, "the saved header's checksum does not match its content"));
        }
        r.reserved(6)?;
        let time = Timestamp::from_secs(r.u64()?);
        r.reserved(8)?;
        let copy = r.bytes(COPY_LEN)?;
        // Inside its own frame, what does not begin like a header is damage, not a foreign file.
        let header = UnverifiedHeader::decode(copy).map_err(|error| {
            let kind = if error.kind() == Kind::Unsupported { Kind::Unsupported } else { Kind::Corrupt };
            Error::with_source(kind, "the header in the saved one", error)
        })?;
        Ok(Self { time, header })
    }
}
