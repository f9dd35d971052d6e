//! What a file is known to have at least: how long it is, and up to where it has no hole. By the one is noticed that it was cut
//! off, by the other that blocks were zeroed, by others than a mount (docs/FORMAT.md, section 9, "Known length" and "Filled
//! length").

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Context, Error, Kind, Result};
use crate::format::home_file::{BLOCK, BlockIndex, Known};
use crate::sector::{ceil, floor};
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;

/// What a header says.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Bounds {
    len: u64,
    filled: u64,
}

/// What the header says, and how much more it may say before a sync.
pub(super) struct KnownLengths {
    /// Whether the file's version has it.
    has_len: bool,
    has_filled: bool,
    /// As the header says. Changed only while `recorded_filled` is locked.
    len: AtomicU64,
    /// No block that begins below this is a hole, nor one of the ranges beyond it, which were written before what lies between.
    filled: AtomicU64,
    beyond: Mutex<Vec<Range<u64>>>,
    /// As much of it as the header says. A thread that writes the header has it locked.
    recorded_filled: Mutex<u64>,
    /// So long a length may be recorded without a sync: a crash can bring back none that is less. [`ANY`](Self::ANY) as long as
    /// nothing of the file was ever synced, for then nothing is lost.
    unsynced: AtomicU64,
}

/// Most ranges that are remembered: clients write side by side, but from the start to the end.
const MAX_GAPS: usize = 16;

impl KnownLengths {
    const ANY: u64 = u64::MAX;

    pub(super) fn new(known: Option<Known>) -> Self {
        let filled = known.and_then(|known| known.filled);
        Self {
            has_len: known.is_some(),
            has_filled: filled.is_some(),
            len: AtomicU64::new(known.map_or(0, |known| known.len)),
            filled: AtomicU64::new(filled.unwrap_or_default()),
            beyond: Mutex::default(),
            recorded_filled: Mutex::new(filled.unwrap_or_default()),
            unsynced: AtomicU64::new(0),
        }
    }

    /// The file gets its header: nothing of it was ever synced.
    pub(super) fn begin(&self) {
        self.unsynced.store(Self::ANY, Ordering::Release);
    }

    /// From here on only a sync may record more.
    pub(super) fn synced(&self) {
        self.unsynced.store(0, Ordering::Release);
    }

    /// What the header says now. `false`: it has another version than it had.
    pub(super) fn reset(&self, known: Option<Known>) -> bool {
        let filled = known.and_then(|known| known.filled);
        if (known.is_some(), filled.is_some()) != (self.has_len, self.has_filled) {
            return false;
        }
        let mut recorded_filled = self.recorded_filled.lock();
        *recorded_filled = filled.unwrap_or_default();
        self.beyond.lock().clear();
        self.filled.store(*recorded_filled, Ordering::Release);
        self.len.store(known.map_or(0, |known| known.len), Ordering::Release);
        self.synced();
        true
    }

    fn forget(&self) {
        let mut recorded_filled = self.recorded_filled.lock();
        *recorded_filled = 0;
        self.empty_from(0);
        self.len.store(0, Ordering::Release);
    }

    /// All blocks of this range were written; the caller still has them locked. Returns whether more is filled now.
    pub(super) fn fill(&self, start: u64, end: u64) -> bool {
        if !self.has_filled || end <= self.filled() {
            return false;
        }
        let mut beyond = self.beyond.lock();
        let mut range = floor(start, BLOCK)..end;
        beyond.retain(|other| {
            let apart = ceil(other.end, BLOCK) < range.start || ceil(range.end, BLOCK) < other.start;
            if !apart {
                range = range.start.min(other.start)..range.end.max(other.end);
            }
            apart
        });
        let filled = self.filled();
        if range.start > ceil(filled, BLOCK) {
            if beyond.len() < MAX_GAPS {
                beyond.push(range);
            }
            return false;
        }
        self.filled.fetch_max(range.end, Ordering::AcqRel) < range.end
    }

    /// Blocks from here on may become holes; the caller has them locked.
    fn empty_from(&self, start: u64) {
        let mut beyond = self.beyond.lock();
        beyond.retain(|range| range.end <= start);
        self.filled.fetch_min(start, Ordering::AcqRel);
    }

    /// Where the first hole may be.
    pub(super) fn filled(&self) -> u64 {
        self.filled.load(Ordering::Acquire)
    }

    /// Whether a hole in the place of this block is damage.
    pub(super) fn is_filled(&self, block: BlockIndex) -> bool {
        block.plain_start() < self.filled()
    }

    /// Known and filled length as the header says them, 0 where it does not.
    pub(super) fn recorded(&self) -> [u64; 2] {
        let filled = self.recorded_filled.lock();
        [self.len(), *filled]
    }

    fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    /// Raises what is recorded to this length, and to what is filled by now, but no more than this of it.
    fn raise(&self, bounds: &mut Bounds, len: u64, most_filled: u64) {
        bounds.len = bounds.len.max(len);
        bounds.filled = bounds.filled.max(self.filled().min(most_filled));
    }
}

impl<S: Storage> HomeFile<S> {
    /// Cuts the file to nothing, header included, of which it gets another one, with the same id, when it is written to before it is
    /// closed. Cheaper than [`set_len`](PlainFile::set_len), which has to sync, but what is bound to the id is lost with it.
    ///
    /// # Errors
    /// `Io`.
    pub fn reset_to_empty(&self) -> Result<()> {
        // One that lost its header stays a home file: it was not empty, so what is written next does not decide what it is.
        if self.known_lengths.len() == 0 && (self.unsynced.is_settled() || !self.has_header()) {
            return self.set_len(0);
        }
        let _guard = self.locks.exclusive(0..u64::MAX);
        let _gate = self.unsynced.writing();
        let cut = self.storage.set_len(0);
        // One that failed may have been done all the same.
        if cut.is_ok() || self.storage.len().is_ok_and(|len| len == 0) {
            self.has_header.store(false, Ordering::Release);
            self.unsynced.cut_off(0);
            self.known_lengths.forget();
            self.plain_len.store(0, Ordering::Release);
        }
        cut
    }

    /// Records what was synced while the file had this length. The caller holds the gate.
    pub(super) fn record_synced(&self, synced_len: u64) {
        // The file was not changed by this: a program that set its times and then synced it finds them as they were.
        let write = |header: &[u8]| self.storage.write_preserving_mtime(0, header);
        let recorded = self.record(write, |bounds| self.known_lengths.raise(bounds, synced_len, synced_len));
        drop(recorded); // failing costs nothing: less is known then
    }

    /// Records that the file has this length now, or that more of it is filled, as far as that needs no sync.
    pub(super) fn record_unsynced(&self, len: u64) -> Result<()> {
        let _gate = self.unsynced.writing();
        let unsynced = self.known_lengths.unsynced.load(Ordering::Acquire);
        let len = len.min(unsynced);
        let most_filled = if unsynced == KnownLengths::ANY { len } else { 0 };
        let write = |header: &[u8]| self.storage.write_at(0, header);
        self.record(write, |bounds| self.known_lengths.raise(bounds, len, most_filled))
    }

    /// Before the file becomes so short: once that is durable. The caller holds the gate.
    pub(super) fn lower_known_len(&self, len: u64) -> Result<()> {
        self.known_lengths.empty_from(len);
        if len >= self.known_lengths.len() {
            return Ok(());
        }
        // What was never synced is not worth a sync for each time that it becomes shorter.
        let was_synced = self.known_lengths.unsynced.load(Ordering::Acquire) == 0;
        let kept = if was_synced { len } else { 0 };
        self.record_durably(|bounds| *bounds = Bounds { len: kept, filled: bounds.filled.min(kept) })
            .context(|| "making it durable that the file becomes shorter".into())?;
        // This made the former length durable as well, so a crash brings back that one, or one from here on.
        let most = if len == 0 { self.plain_len() } else { 0 };
        self.known_lengths.unsynced.store(most, Ordering::Release);
        Ok(())
    }

    /// Before blocks from here on become holes: once that is durable. The caller holds the gate, and has them locked.
    pub(super) fn record_lower_fill(&self, start: u64) -> Result<()> {
        self.known_lengths.empty_from(start);
        if start >= *self.known_lengths.recorded_filled.lock() && self.unsynced.is_settled() {
            return Ok(());
        }
        self.record_durably(|bounds| bounds.filled = bounds.filled.min(start))
            .context(|| "making it durable that the file gets a hole".into())
    }

    /// Before the file becomes so short on purpose: a killed process may have said so before, without the sync.
    pub(super) fn settle_known_len(&self, len: u64) -> Result<()> {
        if len < self.known_lengths.len() || self.unsynced.is_settled() {
            return Ok(()); // lowering it syncs
        }
        self.storage.sync().inspect_err(|_| self.unsynced.fail())
    }

    fn record_durably(&self, change: impl FnOnce(&mut Bounds)) -> Result<()> {
        self.record(|header| self.storage.write_at(0, header), change)?;
        self.storage.sync().inspect_err(|_| self.unsynced.fail())
    }

    /// Writes the header, if there is one, and what it says changes.
    fn record(&self, write: impl FnOnce(&[u8]) -> Result<()>, change: impl FnOnce(&mut Bounds)) -> Result<()> {
        let known_lengths = &self.known_lengths;
        let mut recorded_filled = known_lengths.recorded_filled.lock();
        let old = Bounds { len: known_lengths.len(), filled: *recorded_filled };
        let mut new = old;
        change(&mut new);
        if new == old || !known_lengths.has_len || !self.has_header() {
            return Ok(());
        }
        let known = Known { len: new.len, filled: known_lengths.has_filled.then_some(new.filled) };
        let written = write(&self.cipher.header(known));
        if written.is_err() {
            // It may have been done all the same: then the larger one is what the file may have to be.
            new = Bounds { len: new.len.max(old.len), filled: new.filled.max(old.filled) };
        }
        known_lengths.len.store(new.len, Ordering::Release);
        *recorded_filled = new.filled;
        written
    }

    /// Whether the file is shorter than it was.
    pub(super) fn is_cut_off(&self) -> bool {
        self.plain_len() < self.known_lengths.len()
    }

    /// # Errors
    /// `Corrupt` for a file that was cut off.
    pub(super) fn refuse_cut_off(&self) -> Result<()> {
        let (left, known) = (self.plain_len(), self.known_lengths.len());
        if left >= known {
            return Ok(());
        }
        let message = format!("cut off: {left} bytes are left of at least {known}");
        Err(Error::new(
            Kind::Corrupt,
            if left == 0 { message } else { format!("block {} is {message}", (left - 1) / BLOCK) },
        ))
    }

    /// Its last block says, instead of an end, that there was more.
    ///
    /// # Errors
    /// `Corrupt` for a file that was cut off, if what is read up to `end` comes to its last block.
    pub(super) fn refuse_end_of_cut_off(&self, end: u64) -> Result<()> {
        let last_block = floor(self.plain_len().saturating_sub(1), BLOCK);
        if end > last_block { self.refuse_cut_off() } else { Ok(()) }
    }
}
