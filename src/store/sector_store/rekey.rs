//! Deep rekey of a disk: a new DEK, in place, while the disk is in use.
//!
//! Chunk by chunk the ciphertext is replaced, each chunk under a range lock and a record of the journal, so that at any
//! moment every unit is known to be under one DEK or the other. docs/FORMAT.md, section 10, has the argument.

use std::ops::Range;
use std::sync::Arc;

use super::journal::{self, Journal};
use super::two_keys::TwoKeys;
use super::{Cipher, SectorStore};
use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header, Slots, TRANSITION_ID_LEN, Transition, TransitionId};
use crate::format::journal::{CURSOR_STEP, DONE, MAX_UNITS, Mark};
use crate::key::Dek;
use crate::sector::{self, BLOCK, UNIT};
use crate::storage::Storage;
use crate::store::header_area;
use crate::store::plain_file::{PlainFile, index};
use crate::sys::AlignedBuffer;

/// Longest chunk in bytes.
pub const MAX_CHUNK_LEN: u64 = MAX_UNITS as u64 * UNIT;

/// A deep rekey that is under way.
pub(super) struct InTransition {
    keys: Arc<TwoKeys>,
    journal: Journal,
}

/// How far a deep rekey is, in bytes of plaintext.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    /// Under the new DEK, from the start on.
    pub done: u64,
    /// Length of the disk.
    pub plain_len: u64,
}

impl InTransition {
    /// What a header in transition and its journal say; `None` when all is under the new DEK.
    pub(super) fn load(
        storage: &dyn Storage,
        header: &Header,
        transition: &Transition,
        dek: &Dek,
        engine: Engine,
    ) -> Result<Option<Self>> {
        let Some(old) = transition.old_dek(dek)? else { return Ok(None) };
        let (journal, record) = Journal::load(storage, header, transition, dek)?;
        if record.cursor == DONE {
            return Ok(None);
        }
        let keys = Arc::new(TwoKeys::new(engine.cipher(&old)?, engine.cipher(dek)?, record));
        Ok(Some(Self { keys, journal }))
    }

    pub(super) fn cursor(&self) -> u64 {
        self.keys.cursor()
    }

    pub(super) fn cipher(&self) -> Cipher {
        Cipher::Two(Arc::clone(&self.keys))
    }
}

/// How far a disk's deep rekey claims to be, in bytes; nothing of it is proven. `None` when it is not in transition.
///
/// # Errors
/// `Io`.
pub fn claimed_progress(storage: &dyn Storage, header: &Header) -> Result<Option<u64>> {
    match &header.transition {
        Some(Transition { old: None, .. }) => Ok(Some(u64::MAX)),
        Some(_) | None => journal::claimed_cursor(storage, header),
    }
}

/// How far a disk's deep rekey is, in bytes, proven with its new DEK; all of `u64` when nothing but tidying up is left.
///
/// # Errors
/// `Corrupt` when the old DEK or the journal are damaged or were changed, or `Io`.
pub fn genuine_progress(storage: &dyn Storage, header: &Header, transition: &Transition, dek: &Dek) -> Result<u64> {
    match transition.old_dek(dek)? {
        Some(_) => Journal::load(storage, header, transition, dek).map(|(_, record)| record.cursor),
        None => Ok(u64::MAX),
    }
}

/// A disk whose DEK can be exchanged, whatever it is stored in.
pub trait RekeyInPlace: Sync {
    /// Puts the disk in transition from the DEK `old` to `new`, which `slots` hold wrapped. No data change yet.
    ///
    /// # Errors
    /// `Exists` when it is in transition already, `Corrupt` when `old` is not its DEK, or `Io`; after that the header may
    /// say either, and [`resume_deep_rekey`](Self::resume_deep_rekey) resumes where it says so.
    fn begin_deep_rekey(&self, old: &Dek, new: &Dek, slots: Slots) -> Result<()>;

    /// Makes sure that both header copies speak of the transition, before the cursor moves. Also takes up a transition whose
    /// start failed in this opening, after the header was written.
    ///
    /// # Errors
    /// `NotFound` when the disk is not in transition, `Corrupt` when `dek` is not its new DEK, or `Io`.
    fn resume_deep_rekey(&self, dek: &Dek) -> Result<()>;

    /// Re-encrypts what is left, and ends the transition; `dek` is the new DEK. Before each chunk of `chunk_len` bytes (a
    /// multiple of 4096, at most [`MAX_CHUNK_LEN`]) `go_on` is asked; returns whether all is done.
    ///
    /// # Errors
    /// `Invalid` for another chunk length, `NotFound` when the disk is not in transition, or `Io`; calling it again resumes.
    fn deep_rekey(&self, dek: &Dek, chunk_len: u64, go_on: &mut dyn FnMut(Progress) -> bool) -> Result<bool>;
}

impl<S: Storage> RekeyInPlace for SectorStore<S> {
    fn begin_deep_rekey(&self, old: &Dek, new: &Dek, slots: Slots) -> Result<()> {
        let mut state = self.transition.lock();
        let _guard = self.locks.exclusive(0..u64::MAX);
        let stored = header_area::load(&self.storage, ComponentKind::Disk)?;
        let in_use = stored.in_use;
        let header = stored.header.verify(old)?;
        if state.is_some() || header.transition.is_some() {
            return Err(Error::new(Kind::Exists, "a deep rekey is under way already"));
        }
        let dek_generation = header.next_dek_generation()?;
        let mut id = TransitionId([0; TRANSITION_ID_LEN]);
        random::fill(&mut id.0)?;
        let transition = Transition::new(id, old, new)?;
        let (journal, record) = Journal::start(&self.storage, header.uuid, &transition, new)?;
        self.sync()?;
        let keys = Arc::new(TwoKeys::new(self.engine.cipher(old)?, self.engine.cipher(new)?, record));
        let header = Header { dek_generation, slots, transition: Some(transition), ..header };
        header_area::update_both(&self.storage, in_use, header, new, &|| self.sync())?;
        let begun = InTransition { keys, journal };
        self.cipher.store(Arc::new(begun.cipher()));
        *state = Some(begun);
        Ok(())
    }

    fn resume_deep_rekey(&self, dek: &Dek) -> Result<()> {
        let mut state = self.transition.lock();
        let _guard = self.locks.exclusive(0..u64::MAX);
        let stored = header_area::load(&self.storage, ComponentKind::Disk)?;
        let in_use = stored.in_use;
        let header = stored.header.verify(dek)?;
        let Some(transition) = &header.transition else {
            return Err(Error::new(Kind::NotFound, "no deep rekey is under way"));
        };
        if state.is_none()
            && let Some(begun) = InTransition::load(&self.storage, &header, transition, dek, self.engine)?
        {
            if begun.keys.cursor() > 0 || begun.keys.mixed_end().is_some() {
                return Err(Error::new(Kind::Busy, "another process re-encrypts this disk"));
            }
            self.cipher.store(Arc::new(begun.cipher()));
            *state = Some(begun);
        }
        header_area::update_both(&self.storage, in_use, header, dek, &|| self.sync()).map(drop)
    }

    fn deep_rekey(&self, dek: &Dek, chunk_len: u64, go_on: &mut dyn FnMut(Progress) -> bool) -> Result<bool> {
        if !(CURSOR_STEP..=MAX_CHUNK_LEN).contains(&chunk_len) || !chunk_len.is_multiple_of(CURSOR_STEP) {
            return Err(Error::new(
                Kind::Invalid,
                format!("chunks of {chunk_len} bytes, expected a multiple of {CURSOR_STEP} up to {MAX_CHUNK_LEN}"),
            ));
        }
        let mut buffer = AlignedBuffer::zeroed(index(chunk_len));
        loop {
            let mut state = self.transition.lock();
            let Some(active) = state.as_mut() else { return self.tidy_up(dek).map(|()| true) };
            let progress = Progress { done: active.keys.cursor().min(self.plain_len()), plain_len: self.plain_len() };
            if active.keys.mixed_end().is_none() && progress.done == progress.plain_len && self.all_is_new(active)? {
                self.cipher.store(Arc::new(Cipher::One(self.engine.cipher(dek)?)));
                *state = None;
                continue;
            }
            if !go_on(progress) {
                return Ok(false);
            }
            self.next_step(active, chunk_len, &mut buffer)?;
        }
    }
}

impl<S: Storage> SectorStore<S> {
    /// Completes the chunk that a crash has left under two DEKs, and makes durable what was found, before anything is
    /// written by it.
    pub(super) fn complete_chunk(&self) -> Result<()> {
        let mut state = self.transition.lock();
        let Some(active) = state.as_mut() else { return Ok(()) };
        self.sync()?;
        let cursor = active.keys.cursor();
        let Some(end) = active.keys.mixed_end() else { return Ok(()) };
        let mut buffer = AlignedBuffer::zeroed(index(end - cursor));
        self.reencrypt_chunk(active, cursor..end, &mut buffer)
            .context(|| "completing the chunk of a deep rekey that was interrupted".into())
    }

    fn next_step(&self, active: &mut InTransition, chunk_len: u64, buffer: &mut AlignedBuffer) -> Result<()> {
        let cursor = active.keys.cursor();
        if let Some(end) = active.keys.mixed_end() {
            if buffer.len() < index(end - cursor) {
                *buffer = AlignedBuffer::zeroed(index(end - cursor));
            }
            return self.reencrypt_chunk(active, cursor..end, buffer);
        }
        let data = self.next_data_block(cursor)?;
        if data > cursor {
            self.pass_hole(active, cursor..data)
        } else {
            self.reencrypt_chunk(active, cursor..cursor + chunk_len, buffer)
        }
    }

    /// Where the next block of 4096 bytes with data begins, or after the disk's last one.
    fn next_data_block(&self, from: u64) -> Result<u64> {
        let end = sector::ceil(self.plain_len(), CURSOR_STEP);
        Ok(self.seek_data(from)?.map_or(end, |data| sector::floor(data, CURSOR_STEP).min(end)))
    }

    /// Moves the cursor over a hole. The guest may have written to it since it was found.
    fn pass_hole(&self, active: &mut InTransition, hole: Range<u64>) -> Result<()> {
        let _guard = self.locks.exclusive(self.changed_with(hole.clone()));
        let end = self.next_data_block(hole.start)?.min(hole.end);
        if end > hole.start { self.advance(active, end) } else { Ok(()) }
    }

    fn reencrypt_chunk(&self, active: &mut InTransition, chunk: Range<u64>, buffer: &mut [u8]) -> Result<()> {
        let _guard = self.locks.exclusive(self.changed_with(chunk.clone()));
        let end = chunk.end.min(sector::ceil(self.plain_len(), BLOCK));
        let data = &mut buffer[..index(end.saturating_sub(chunk.start))];
        if data.is_empty() {
            // The disk was cut off before it; a chunk that an error had left under two DEKs is none any more.
            return if active.keys.mixed_end().is_some() { self.advance(active, chunk.start) } else { Ok(()) };
        }
        let filled = self.storage.read_at(self.cipher_offset(chunk.start), data)?;
        if filled < data.len() {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the backing file ends within the chunk at {}", chunk.start),
            ));
        }
        let table = active.keys.reencrypt(chunk.start, self.sector_size, data)?;
        let past = chunk.start + table.len() as u64 * UNIT;
        if table.iter().any(|&mark| mark != Mark::default()) {
            active.journal.append(&self.storage, chunk.start, table.clone())?;
            self.sync()?;
            active.keys.mix(table); // until the cursor is past it, whatever happens
            for run in data_runs(data) {
                self.storage.write_at(self.cipher_offset(chunk.start) + run.start as u64, &data[run])?;
            }
            self.sync()?;
        }
        self.advance(active, past)
    }

    /// Moves the cursor, durably.
    fn advance(&self, active: &mut InTransition, cursor: u64) -> Result<()> {
        active.journal.append(&self.storage, cursor, Vec::new())?;
        self.sync()?;
        active.keys.advance(cursor);
        Ok(())
    }

    /// Moves the cursor beyond all lengths, if the disk has not grown beyond it.
    fn all_is_new(&self, active: &mut InTransition) -> Result<bool> {
        let _guard = self.locks.exclusive(0..u64::MAX);
        if active.keys.cursor() < self.plain_len() {
            return Ok(false);
        }
        self.advance(active, DONE).map(|()| true)
    }

    /// What is left once all is under the new DEK: the wrapped old DEK and the journal go, and only then the flag that says
    /// that there is something to do.
    fn tidy_up(&self, dek: &Dek) -> Result<()> {
        let stored = header_area::load(&self.storage, ComponentKind::Disk)?;
        let in_use = stored.in_use;
        let header = stored.header.verify(dek)?;
        let Some(transition) = header.transition.clone() else {
            return Err(Error::new(Kind::NotFound, "no deep rekey is under way"));
        };
        let without_old = Header { transition: Some(Transition { old: None, ..transition }), ..header };
        let (in_use, header) = header_area::update_both(&self.storage, in_use, without_old, dek, &|| self.sync())?;
        journal::scrub(&self.storage)?;
        self.sync()?;
        header_area::update_both(&self.storage, in_use, Header { transition: None, ..header }, dek, &|| self.sync())
            .map(drop)
    }
}

/// Runs of 4096-byte blocks that hold any data: what is written, so that holes stay holes.
fn data_runs(data: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for block in data.chunks(index(CURSOR_STEP)) {
        let end = at + block.len();
        if block.iter().any(|&byte| byte != 0) {
            match runs.last_mut() {
                Some(run) if run.end == at => run.end = end,
                _ => runs.push(at..end),
            }
        }
        at = end;
    }
    runs
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod torn_storage;
