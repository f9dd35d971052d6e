//! Encrypted dumps of processes (docs/FORMAT.md, section 20): the dump key of a host, the header of a dump, and the heads of its
//! pieces.
//!
//! Everything here may come from a place that others can write to. What a header says is believed when its DEK has been opened.

mod header;
mod key;
mod piece;

pub use header::{About, DumpHeader, Lock, MAX_HEADER_LEN};
pub use key::{DumpKey, DumpKeyFile, MAX_FILE_LEN};
pub use piece::{HEAD_LEN, PIECE_LEN, PieceHead, PieceKind};

use crate::error::{Error, Kind, Result};
use crate::format::{Reader, Writer};

const VERSION: u16 = 1;

/// Magic, version and reserved bytes.
fn put_start(writer: &mut Writer, magic: [u8; 8]) {
    writer.put(magic);
    writer.put(VERSION.to_le_bytes());
    writer.put([0; 6]);
}

fn check_start(reader: &mut Reader<'_>, magic: [u8; 8], what: &str) -> Result<()> {
    if reader.array()? != magic {
        let expected = String::from_utf8_lossy(&magic);
        return Err(Error::new(Kind::Corrupt, format!("not {what}: it does not begin with {expected}")));
    }
    let version = reader.u16()?;
    if version != VERSION {
        let found = format!("{what} of version {version}, expected {VERSION}: a newer vmcryptfs made it");
        return Err(Error::new(Kind::Unsupported, found));
    }
    reader.reserved(6)
}

fn text<'a>(reader: &mut Reader<'a>, of: &str) -> Result<&'a str> {
    let len = usize::from(reader.u8()?);
    reader.text(len, of)
}

fn put_text(writer: &mut Writer, text: &str, of: &str) -> Result<()> {
    writer.count_u8(text.len(), of)?;
    writer.put(text);
    Ok(())
}
