//! What an erased component has in place of each header copy (docs/FORMAT.md, section 13).

use uuid::Uuid;

use crate::crypto::derive::sha256;
use crate::error::{Error, Kind, Result};
use crate::format::component::ComponentKind;
use crate::format::{Reader, Writer};
use crate::timestamp::Timestamp;

/// Bytes of the mark: what a medium writes at once, so it is never torn.
pub const MARK_LEN: usize = 512;
/// What a mark begins with.
pub(super) const MAGIC: [u8; 8] = *b"VMCRYPTX";

const VERSION: u16 = 1;
const CHECKSUM_OFFSET: usize = 480;

/// A mark that a component was erased. Not proven: anyone who can write the file can write this.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Erasure {
    /// What it was.
    pub kind: ComponentKind,
    /// When.
    pub time: Timestamp,
    /// Its UUID, if a header copy could still be read.
    pub uuid: Option<Uuid>,
}

impl Erasure {
    /// The bytes of the mark.
    ///
    /// # Errors
    /// None: all fields fit.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut w = Writer::default();
        w.put(MAGIC);
        w.put(VERSION.to_le_bytes());
        w.put([self.kind.code()]);
        w.pad_to(16)?;
        w.put(self.time.since_1970().as_secs().to_le_bytes());
        w.put(self.uuid.unwrap_or_default().as_bytes());
        w.pad_to(CHECKSUM_OFFSET)?;
        w.put(sha256(w.bytes()));
        Ok(w.bytes().to_vec())
    }

    /// Reads what stands where a header copy would. `None`: no mark.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mark = bytes.get(..MARK_LEN).filter(|mark| mark.starts_with(&MAGIC))?;
        if sha256(&mark[..CHECKSUM_OFFSET]) != mark[CHECKSUM_OFFSET..] {
            return None;
        }
        let mut r = Reader::new(&mark[MAGIC.len()..CHECKSUM_OFFSET]);
        let version = r.u16().ok()?;
        let kind = ComponentKind::of_code(r.u8().ok()?).filter(|_| version == VERSION)?;
        r.reserved(5).ok()?;
        let time = Timestamp::from_secs(r.u64().ok()?);
        let uuid = Uuid::from_bytes(r.array().ok()?);
        r.reserved(CHECKSUM_OFFSET - 40).ok()?;
        Some(Self { kind, time, uuid: (!uuid.is_nil()).then_some(uuid) })
    }

    /// Since when nothing opens it any more, for people: `erased on 2026-11-29T19:24:06Z`.
    pub fn describe(&self) -> String {
        // A time that no calendar has is an absurd mark's, and shown as it is.
        self.time.to_seconds().map_or_else(
            || format!("erased, {} seconds after 1970", self.time.since_1970().as_secs()),
            |time| format!("erased on {time}"),
        )
    }

    /// The answer to the one that asks for a key.
    pub(crate) fn error(&self) -> Error {
        Error::new(Kind::KeyUnavailable, format!("{}: no key opens it", self.describe()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_no_flipped_byte_is_one() {
        let mark = Erasure {
            kind: ComponentKind::Disk,
            time: Timestamp::from_secs(1_795_980_246),
            uuid: Some(Uuid::from_bytes([7; 16])),
        };
        let bytes = mark.encode().unwrap();
        assert_eq!((bytes.len(), Erasure::decode(&bytes)), (MARK_LEN, Some(mark)));
        assert_eq!(mark.describe(), "erased on 2026-11-29T19:24:06Z");
        for at in 0..MARK_LEN {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert_eq!(Erasure::decode(&bad), None, "byte {at}");
        }
        let absurd = Erasure { time: Timestamp::from_secs(u64::MAX), uuid: None, ..mark };
        assert_eq!(Erasure::decode(&absurd.encode().unwrap()), Some(absurd));
        assert!(absurd.describe().starts_with("erased, "));
    }
}
