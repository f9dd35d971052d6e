//! Records of a disk's journal: the progress of a deep rekey, and what is being re-encrypted (docs/FORMAT.md, section 10).
//!
//! As with headers, anyone could have written what was decoded; [`UnverifiedRecord::verify`] proves it.

use uuid::Uuid;

use crate::crypto::derive;
use crate::error::{Error, Kind, Result};
use crate::format::header::TransitionId;
use crate::format::{Reader, Writer};
use crate::sector::{MAX_OFFSET, UNIT};

/// Where records may lie; two places for each parity of the sequence.
pub const PLACES: [u64; 4] = [1 << 20, 2 << 20, 5 << 20, 6 << 20];
/// Bytes of a place.
pub const PLACE_LEN: u64 = 1 << 20;
/// Bytes of a record before its table.
pub const HEAD_LEN: usize = 128;
/// Maximum units of a chunk: 32 MiB.
pub const MAX_UNITS: usize = 65_536;
/// Positions of the cursor are multiples of this many bytes, whatever the sector size.
pub const CURSOR_STEP: u64 = 4096;
/// The cursor when all is done: past any length that a disk can have.
pub const DONE: u64 = MAX_OFFSET;

const MAGIC: [u8; 8] = *b"VMCRYPTJ";
const VERSION: u16 = 1;
const AUTHENTICATED_LEN: usize = 96;
const UNITS_PER_STEP: u32 = 8;

/// How a unit of the chunk begins once it is under the new DEK; zeros for a hole.
pub type Mark = [u8; MARK_LEN];
/// Bytes of a [`Mark`].
pub const MARK_LEN: usize = 8;

/// One state of a deep rekey.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Record {
    /// The disk.
    pub uuid: Uuid,
    /// The transition.
    pub transition: TransitionId,
    /// At least 1; of two records the larger is the newer one.
    pub sequence: u64,
    /// Plaintext position; all before it is under the new DEK.
    pub cursor: u64,
    /// A mark for each unit of the chunk, which begins at the cursor.
    pub table: Vec<Mark>,
}

/// Offsets of the two places of a record.
pub fn slot_offsets(sequence: u64) -> [u64; 2] {
    let odd = usize::from(!sequence.is_multiple_of(2));
    [PLACES[odd], PLACES[2 + odd]]
}

impl Record {
    /// The chunk's end, in plaintext.
    pub fn chunk_end(&self) -> u64 {
        self.cursor + self.table.len() as u64 * UNIT
    }

    /// The bytes of the record, authenticated by the transition's journal key.
    ///
    /// # Errors
    /// `Invalid` when a field is outside its limits.
    pub fn encode(&self, key: &[u8; 32]) -> Result<Vec<u8>> {
        let units = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        check(self.sequence, self.cursor, units).map_err(|what| Error::new(Kind::Invalid, what))?;
        let mut w = Writer::default();
        w.put(MAGIC);
        w.put(VERSION.to_le_bytes());
        w.put([0; 6]); // reserved
        w.put(self.uuid.as_bytes());
        w.put(self.transition.0);
        w.put(self.sequence.to_le_bytes());
        w.put(self.cursor.to_le_bytes());
        w.put(units.to_le_bytes());
        w.pad_to(AUTHENTICATED_LEN)?;
        let mut bytes = w.bytes().to_vec();
        let table = self.table.as_flattened();
        bytes.reserve_exact(HEAD_LEN - AUTHENTICATED_LEN + table.len());
        let hmac = authenticate(key, &bytes, table);
        bytes.extend_from_slice(&hmac);
        bytes.extend_from_slice(table);
        Ok(bytes)
    }
}

/// The head of a record, which says how long its table is. Anyone could have written it.
#[derive(Debug)]
pub struct UnverifiedRecord {
    record: Record,
    head: [u8; HEAD_LEN],
    units: usize,
}

impl UnverifiedRecord {
    /// Reads a record's head.
    ///
    /// # Errors
    /// `Corrupt` for what is none.
    pub fn decode(head: &[u8; HEAD_LEN]) -> Result<Self> {
        let mut r = Reader::new(head);
        if r.array()? != MAGIC {
            return Err(Error::new(Kind::Corrupt, "no record of a journal"));
        }
        let version = r.u16()?;
        if version != VERSION {
            return Err(Error::new(Kind::Corrupt, format!("journal version {version}, expected {VERSION}")));
        }
        r.reserved(6)?;
        let uuid = Uuid::from_bytes(r.array()?);
        let transition = TransitionId(r.array()?);
        let (sequence, cursor, units) = (r.u64()?, r.u64()?, r.u32()?);
        r.reserved(28)?;
        check(sequence, cursor, units).map_err(|what| Error::new(Kind::Corrupt, what))?;
        let record = Record { uuid, transition, sequence, cursor, table: Vec::new() };
        Ok(Self { record, head: *head, units: units as usize })
    }

    /// What the head claims; its table is empty.
    pub fn claims(&self) -> &Record {
        &self.record
    }

    /// Bytes of the table, which follows the head.
    pub fn table_len(&self) -> usize {
        self.units * MARK_LEN
    }

    /// Proves with the journal key that the transition's owner wrote this record and its table.
    ///
    /// # Errors
    /// `Corrupt` for any other one, also of another disk or transition.
    pub fn verify(self, table: &[u8], uuid: Uuid, transition: TransitionId, key: &[u8; 32]) -> Result<Record> {
        let (fields, tag) = self.head.split_at(AUTHENTICATED_LEN);
        let ours = self.record.uuid == uuid && self.record.transition == transition;
        let authenticated = [fields, table].concat();
        if !ours || table.len() != self.table_len() || !derive::hmac_verifies(key, &authenticated, tag) {
            return Err(Error::new(Kind::Corrupt, "a record that is torn, was changed, or belongs elsewhere"));
        }
        let (marks, _) = table.as_chunks::<MARK_LEN>();
        Ok(Record { table: marks.to_vec(), ..self.record })
    }
}

fn check(sequence: u64, cursor: u64, units: u32) -> std::result::Result<(), String> {
    if sequence == 0 {
        return Err("journal sequence 0, expected at least 1".into());
    }
    if cursor > DONE || !cursor.is_multiple_of(CURSOR_STEP) {
        return Err(format!("cursor {cursor}, expected a multiple of {CURSOR_STEP} up to 2^62"));
    }
    if units as usize > MAX_UNITS || !units.is_multiple_of(UNITS_PER_STEP) {
        return Err(format!("a chunk of {units} units, expected a multiple of {UNITS_PER_STEP} up to {MAX_UNITS}"));
    }
    Ok(())
}

fn authenticate(key: &[u8; 32], fields: &[u8], table: &[u8]) -> [u8; 32] {
    derive::hmac(key, &[fields, table].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 32] = [3; 32];
    const UUID: Uuid = Uuid::from_bytes([1; 16]);
    const ID: TransitionId = TransitionId([2; 16]);

    fn record() -> Record {
        Record { uuid: UUID, transition: ID, sequence: 7, cursor: 8192, table: [[9; 8], [0; 8]].repeat(4) }
    }

    fn decode(bytes: &[u8], key: &[u8; 32]) -> Result<Record> {
        let (head, table) = bytes.split_first_chunk().unwrap();
        UnverifiedRecord::decode(head)?.verify(table, UUID, ID, key)
    }

    #[test]
    fn a_record_comes_back() {
        let bytes = record().encode(&KEY).unwrap();
        assert_eq!(decode(&bytes, &KEY).unwrap(), record());
        assert_eq!(record().chunk_end(), 8192 + 4096);
        let empty = Record { table: Vec::new(), cursor: DONE, ..record() };
        assert_eq!(decode(&empty.encode(&KEY).unwrap(), &KEY).unwrap(), empty);
    }

    #[test]
    fn every_flipped_byte_and_every_other_owner_is_refused() {
        let good = record().encode(&KEY).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert_eq!(decode(&bad, &KEY).unwrap_err().kind(), Kind::Corrupt, "byte {at}");
        }
        assert!(decode(&good, &[4; 32]).is_err());
        let of = |record: Record| decode(&record.encode(&KEY).unwrap(), &KEY);
        assert!(of(Record { uuid: Uuid::from_bytes([5; 16]), ..record() }).is_err());
        assert!(of(Record { transition: TransitionId([5; 16]), ..record() }).is_err());
    }

    #[test]
    fn what_a_reader_refuses_is_not_written() {
        let bad = [
            Record { sequence: 0, ..record() },
            Record { cursor: 512, ..record() },
            Record { cursor: DONE + CURSOR_STEP, ..record() },
            Record { table: vec![[1; 8]; 9], ..record() },
            Record { table: vec![[1; 8]; MAX_UNITS + 8], ..record() },
        ];
        for record in bad {
            assert_eq!(record.encode(&KEY).unwrap_err().kind(), Kind::Invalid);
        }
    }

    #[test]
    fn records_fit_their_places_and_places_lie_between_the_header_copies() {
        assert!((HEAD_LEN + MAX_UNITS * MARK_LEN) as u64 <= PLACE_LEN);
        assert_eq!([8, 9].map(slot_offsets), [[1 << 20, 5 << 20], [2 << 20, 6 << 20]], "even and odd sequences");
        for sequence in 1..5 {
            for (place, next) in slot_offsets(sequence).into_iter().zip(slot_offsets(sequence + 1)) {
                assert!(place >= PLACE_LEN && place.abs_diff(next) == PLACE_LEN);
                assert!(!(place..place + PLACE_LEN).contains(&(4 << 20)) && place + PLACE_LEN <= 8 << 20);
            }
        }
    }
}
