//! The journal of a disk in transition: finding the record that counts, and writing the next one.

use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result};
use crate::format::header::{Header, Transition, TransitionId};
use crate::format::journal::{HEAD_LEN, Mark, PLACE_LEN, PLACES, Record, UnverifiedRecord, slot_offsets};
use crate::key::Dek;
use crate::storage::Storage;

/// Writes the records of one transition.
pub(super) struct Journal {
    key: Zeroizing<[u8; 32]>,
    uuid: Uuid,
    transition: TransitionId,
    /// Of the newest record.
    sequence: u64,
}

impl Journal {
    /// Writes the first record. The caller syncs before the header speaks of the transition.
    pub(super) fn start(
        storage: &dyn Storage,
        uuid: Uuid,
        transition: &Transition,
        new: &Dek,
    ) -> Result<(Self, Record)> {
        let mut journal = Self { key: transition.journal_key(new)?, uuid, transition: transition.id, sequence: 0 };
        let record = journal.append(storage, 0, Vec::new())?;
        Ok((journal, record))
    }

    /// Finds the record that counts.
    ///
    /// # Errors
    /// `Corrupt` when none is whole and genuine, or `Io`.
    pub(super) fn load(
        storage: &dyn Storage,
        header: &Header,
        transition: &Transition,
        new: &Dek,
    ) -> Result<(Self, Record)> {
        let key = transition.journal_key(new)?;
        let mut newest: Option<Record> = None;
        let mut refusals = Vec::new();
        for place in PLACES {
            match read_record(storage, place)?.and_then(|(r, table)| r.verify(&table, header.uuid, transition.id, &key))
            {
                Ok(record) if newest.as_ref().is_none_or(|newest| record.sequence > newest.sequence) => {
                    newest = Some(record);
                }
                Ok(_) => {}
                Err(error) => refusals.push(format!("at {place}: {}", error.chain())),
            }
        }
        let record = newest.ok_or_else(|| {
            let reasons = refusals.join("; ");
            Error::new(
                Kind::Corrupt,
                format!("the progress of the deep rekey is unknown: no record of it is intact ({reasons})"),
            )
        })?;
        Ok((Self { key, uuid: header.uuid, transition: transition.id, sequence: record.sequence }, record))
    }

    /// Writes the next record, not over the newest one. The caller syncs.
    pub(super) fn append(&mut self, storage: &dyn Storage, cursor: u64, table: Vec<Mark>) -> Result<Record> {
        let sequence = self.sequence + 1;
        let record = Record { uuid: self.uuid, transition: self.transition, sequence, cursor, table };
        let bytes = record.encode(&self.key)?;
        for place in slot_offsets(sequence) {
            storage.write_at(place, &bytes)?;
        }
        self.sequence = sequence;
        Ok(record)
    }
}

/// How far the newest record claims to be, with nothing proven; for showing.
pub(super) fn claimed_cursor(storage: &dyn Storage, header: &Header) -> Result<Option<u64>> {
    let Some(transition) = &header.transition else { return Ok(None) };
    let mut newest = None;
    for place in PLACES {
        let Ok(head) = read_head(storage, place)? else { continue };
        let claims = head.claims();
        if claims.uuid == header.uuid && claims.transition == transition.id {
            newest = newest.max(Some((claims.sequence, claims.cursor)));
        }
    }
    Ok(newest.map(|(_, cursor)| cursor))
}

/// Gives back the space of all records.
pub(super) fn scrub(storage: &dyn Storage) -> Result<()> {
    PLACES.into_iter().try_for_each(|place| storage.punch(place, PLACE_LEN))
}

/// The outer error is of the storage, the inner one of the bytes.
fn read_head(storage: &dyn Storage, place: u64) -> Result<Result<UnverifiedRecord>> {
    let mut head = [0; HEAD_LEN];
    storage.read_at(place, &mut head)?;
    Ok(UnverifiedRecord::decode(&head))
}

fn read_record(storage: &dyn Storage, place: u64) -> Result<Result<(UnverifiedRecord, Vec<u8>)>> {
    let record = match read_head(storage, place)? {
        Ok(record) => record,
        Err(error) => return Ok(Err(error)),
    };
    let mut table = vec![0; record.table_len()];
    let filled = storage.read_at(place + HEAD_LEN as u64, &mut table)?;
    table.truncate(filled);
    Ok(Ok((record, table)))
}
