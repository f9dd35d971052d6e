//! How long a file is known to be at least, by which one notices that it was cut off by others than a mount
//! (docs/FORMAT.md, section 9, "Known length").

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Context, Error, Kind, Result};
use crate::format::home_file::BLOCK;
use crate::sector::floor;
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;

/// What the header says, and how much more it may say before a sync.
pub(super) struct KnownLen {
    /// `None` in a file of the version that does not have it. Changed only with the gate of syncs held.
    len: Option<AtomicU64>,
    /// As much may be recorded without a sync: no length that a crash can bring back is smaller, but for those of a file of which
    /// nothing was ever synced.
    unsynced: AtomicU64,
}

impl KnownLen {
    pub(super) fn new(len: Option<u64>) -> Self {
        Self { len: len.map(AtomicU64::new), unsynced: AtomicU64::new(0) }
    }

    /// The file gets its header: nothing of it was ever synced.
    pub(super) fn begin(&self) {
        self.unsynced.store(u64::MAX, Ordering::Release);
    }

    fn forget(&self) {
        if let Some(len) = &self.len {
            len.store(0, Ordering::Release);
        }
    }

    /// From here on only a sync may record more.
    pub(super) fn synced(&self) {
        self.unsynced.store(0, Ordering::Release);
    }

    fn get(&self) -> u64 {
        self.len.as_ref().map_or(0, |len| len.load(Ordering::Acquire))
    }
}

impl<S: Storage> HomeFile<S> {
    /// Cuts the file to nothing, header included, of which it gets another one, with the same id, when it is written to before it is
    /// closed. Cheaper than [`set_len`](PlainFile::set_len), which has to sync, but what is bound to the id is lost with it.
    ///
    /// # Errors
    /// `Io`.
    pub fn begin_anew(&self) -> Result<()> {
        if self.known_len.get() == 0 {
            return self.set_len(0);
        }
        let _guard = self.locks.exclusive(0..u64::MAX);
        let _gate = self.unsynced.writing();
        let cut = self.storage.set_len(0);
        // One that failed may have been done all the same.
        if cut.is_ok() || self.storage.len().is_ok_and(|len| len == 0) {
            self.has_header.store(false, Ordering::Release);
            self.unsynced.cut_off(0);
            self.known_len.forget();
            self.plain_len.store(0, Ordering::Release);
        }
        cut
    }

    /// Records a length that was synced, for which the caller holds the gate.
    pub(super) fn raise_known_len(&self, synced_len: u64) {
        if synced_len > self.known_len.get() && self.has_header() {
            // The file was not changed by this: who set its times and then synced it finds them as they were.
            let written = self.write_known_len(synced_len, |header| self.storage.write_unnoticed(0, header));
            drop(written); // failing costs nothing: less is known then
        }
    }

    /// Records that the file grew, as far as that needs no sync.
    pub(super) fn note_growth(&self, len: u64) -> Result<()> {
        let _gate = self.unsynced.writing();
        let len = len.min(self.known_len.unsynced.load(Ordering::Acquire));
        if len <= self.known_len.get() {
            return Ok(());
        }
        self.write_known_len(len, |header| self.storage.write_at(0, header))
    }

    /// Before the file becomes so short: once that is durable. The caller holds the gate.
    pub(super) fn lower_known_len(&self, len: u64) -> Result<()> {
        if len >= self.known_len.get() {
            return Ok(());
        }
        // What was never synced is not worth a sync for each time that it becomes shorter.
        let was_synced = self.known_len.unsynced.load(Ordering::Acquire) == 0;
        self.write_known_len(if was_synced { len } else { 0 }, |header| self.storage.write_at(0, header))?;
        self.storage
            .sync()
            .inspect_err(|_| self.unsynced.fail())
            .context(|| "making it durable that the file becomes shorter".into())?;
        // This made the former length durable as well, so a crash brings back that one, or one from here on.
        let most = if len == 0 { self.plain_len() } else { 0 };
        self.known_len.unsynced.store(most, Ordering::Release);
        Ok(())
    }

    fn write_known_len(&self, len: u64, write: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let Some(known) = &self.known_len.len else { return Ok(()) };
        let written = write(&self.cipher.header(len));
        // One that failed may have been done all the same: then the larger one is what the file may have to be.
        let len = if written.is_ok() { len } else { len.max(self.known_len.get()) };
        known.store(len, Ordering::Release);
        written
    }

    /// Whether the file is shorter than it was.
    pub(super) fn is_cut_off(&self) -> bool {
        self.plain_len() < self.known_len.get()
    }

    /// # Errors
    /// `Corrupt` for a file that was cut off.
    pub(super) fn refuse_cut_off(&self) -> Result<()> {
        let (left, known) = (self.plain_len(), self.known_len.get());
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
