//! The cipher of a disk in transition: which sector is under which DEK (docs/FORMAT.md, section 10).
//!
//! A cipher like any other to the disk. Only a thread that holds a range's lock may ask it about that range; then the
//! cursor stands still as far as the range can tell.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::crypto::xts::SectorCipher;
use crate::error::{Error, Kind, Result};
use crate::format::journal::{CURSOR_STEP, MARK_LEN, Mark, Record};
use crate::sector::{SectorIndex, SectorSize, UNIT, UNIT_LEN};
use crate::store::holes;
use crate::store::plain_file::index;

/// Old and new DEK of a disk, and the progress from one to the other.
pub(super) struct TwoKeys {
    old: Box<dyn SectorCipher>,
    new: Box<dyn SectorCipher>,
    /// Plaintext position; all before it is under the new DEK.
    cursor: AtomicU64,
    /// Behind the chunk whose units are under either DEK; at or before the cursor when there is none.
    mixed_end: AtomicU64,
    /// Tells the units of that chunk apart. It began where the cursor is.
    table: RwLock<Vec<Mark>>,
}

/// Bytes of a range that are under the new DEK, of either, and under the old DEK, in this order.
struct Parts {
    new: usize,
    mixed: usize,
}

impl TwoKeys {
    pub(super) fn new(old: Box<dyn SectorCipher>, new: Box<dyn SectorCipher>, record: Record) -> Self {
        Self {
            old,
            new,
            cursor: AtomicU64::new(record.cursor),
            mixed_end: AtomicU64::new(record.chunk_end()),
            table: RwLock::new(record.table),
        }
    }

    pub(super) fn cursor(&self) -> u64 {
        self.cursor.load(Ordering::Acquire)
    }

    /// Where the chunk ends whose units are under either DEK, if there is one.
    pub(super) fn mixed_end(&self) -> Option<u64> {
        Some(self.mixed_end.load(Ordering::Acquire)).filter(|&end| end > self.cursor())
    }

    /// From now on, and until the cursor passes it, units of the chunk at the cursor are told apart by this table.
    pub(super) fn mix(&self, table: Vec<Mark>) {
        let end = self.cursor() + table.len() as u64 * UNIT;
        *self.table.write() = table;
        self.mixed_end.store(end, Ordering::Release);
    }

    /// All before `cursor` is under the new DEK now, and all after it under the old one.
    pub(super) fn advance(&self, cursor: u64) {
        self.cursor.store(cursor, Ordering::Release);
        self.mixed_end.store(cursor, Ordering::Release);
    }

    /// Turns ciphertext that starts at `start`, a multiple of 4096 at or after the cursor, into that under the new DEK, and
    /// returns its table. Holes stay as they are.
    pub(super) fn reencrypt(&self, start: u64, size: SectorSize, data: &mut [u8]) -> Result<Vec<Mark>> {
        let first = SectorIndex(start / size.bytes());
        let solid: Vec<usize> = data.chunks(UNIT_LEN).map(holes::solid_len).collect();
        self.decrypt_in_place(first, size, data)?;
        self.new.encrypt_in_place(first, size, data)?;
        for (unit, solid) in data.chunks_mut(UNIT_LEN).zip(solid) {
            unit[solid..].fill(0);
        }
        let units_per_step = index(CURSOR_STEP / UNIT);
        let mut table: Vec<Mark> = data.chunks(UNIT_LEN).map(mark).collect();
        table.resize(table.len().next_multiple_of(units_per_step), [0; MARK_LEN]);
        Ok(table)
    }

    fn parts(&self, first: SectorIndex, size: SectorSize, len: usize) -> Parts {
        let start = first.0 * size.bytes();
        let before = |position: u64| index(position.saturating_sub(start)).min(len);
        let new = before(self.cursor());
        let mixed_end = before(self.mixed_end.load(Ordering::Acquire)).max(new);
        Parts { new, mixed: mixed_end - new }
    }

    fn decrypt_mixed(&self, start: u64, size: SectorSize, data: &mut [u8]) -> Result<()> {
        let table = self.table.read();
        let mut unit = index((start - self.cursor()) / UNIT);
        let mut as_new = [0; 4096];
        for (sector, number) in data.chunks_mut(size.in_memory()).zip(start / size.bytes()..) {
            let as_new = &mut as_new[..sector.len()];
            as_new.copy_from_slice(sector);
            let is_new: Vec<bool> =
                sector.chunks(UNIT_LEN).zip(&table[unit..]).map(|(unit, expected)| mark(unit) == *expected).collect();
            self.new.decrypt_in_place(SectorIndex(number), size, as_new)?;
            self.old.decrypt_in_place(SectorIndex(number), size, sector)?;
            for ((old, new), is_new) in sector.chunks_mut(UNIT_LEN).zip(as_new.chunks(UNIT_LEN)).zip(&is_new) {
                if *is_new {
                    old.copy_from_slice(new);
                }
            }
            unit += is_new.len();
        }
        Ok(())
    }
}

/// Splits a run of sectors after `bytes` bytes, which are whole sectors.
fn after(first: SectorIndex, size: SectorSize, bytes: usize) -> SectorIndex {
    SectorIndex(first.0 + bytes as u64 / size.bytes())
}

fn mark(unit: &[u8]) -> Mark {
    unit.first_chunk().copied().unwrap_or_default()
}

/// Only an error, or a disk that is open for reading, leaves such a chunk behind; the next process that opens the disk for writing
/// completes it first.
fn unfinished() -> Error {
    Error::new(
        Kind::Io,
        "this part of the disk was being re-encrypted when an error stopped it: `vmcryptfs rekey --deep VM_FOLDER` resumes that",
    )
}

impl SectorCipher for TwoKeys {
    fn encrypt(&self, first: SectorIndex, size: SectorSize, plain: &[u8], cipher: &mut [u8]) -> Result<()> {
        let parts = self.parts(first, size, plain.len());
        if parts.mixed > 0 {
            return Err(unfinished());
        }
        let (plain_new, plain_old) = plain.split_at(parts.new);
        let (cipher_new, cipher_old) = cipher.split_at_mut(parts.new.min(cipher.len()));
        if !plain_new.is_empty() {
            self.new.encrypt(first, size, plain_new, cipher_new)?;
        }
        if !plain_old.is_empty() {
            self.old.encrypt(after(first, size, parts.new), size, plain_old, cipher_old)?;
        }
        Ok(())
    }

    fn encrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        let parts = self.parts(first, size, data.len());
        if parts.mixed > 0 {
            return Err(unfinished());
        }
        let (new, old) = data.split_at_mut(parts.new);
        if !new.is_empty() {
            self.new.encrypt_in_place(first, size, new)?;
        }
        if !old.is_empty() {
            self.old.encrypt_in_place(after(first, size, parts.new), size, old)?;
        }
        Ok(())
    }

    fn decrypt_in_place(&self, first: SectorIndex, size: SectorSize, data: &mut [u8]) -> Result<()> {
        let parts = self.parts(first, size, data.len());
        let (new, rest) = data.split_at_mut(parts.new);
        let (mixed, old) = rest.split_at_mut(parts.mixed);
        if !new.is_empty() {
            self.new.decrypt_in_place(first, size, new)?;
        }
        let first = after(first, size, parts.new);
        if !mixed.is_empty() {
            self.decrypt_mixed(first.0 * size.bytes(), size, mixed)?;
        }
        if !old.is_empty() {
            self.old.decrypt_in_place(after(first, size, parts.mixed), size, old)?;
        }
        Ok(())
    }
}
