//! Storage in memory, and the variants that tests need: one that fails, one that loses power, one whose process is killed.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod fault;
#[cfg(test)]
mod stops;

#[cfg(test)]
pub use crash::CrashStorage;
#[cfg(test)]
pub use fault::{Countdown, Fault, FaultStorage};
#[cfg(test)]
pub use stops::StopStorage;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::storage::Storage;

/// What a medium writes at once: a power cut leaves each such piece old or new.
const SECTOR: usize = 512;
const SECTOR_LEN: u64 = SECTOR as u64;

/// The content of a file in memory. Copying it is cheap: sectors are shared until they change, and holes take no memory.
#[derive(Clone, Default)]
pub struct Image {
    len: u64,
    /// Sectors by number; what is absent is zeros, as is what lies past the end.
    sectors: BTreeMap<u64, Arc<[u8; SECTOR]>>,
}

impl Image {
    /// All bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; index(self.len)];
        self.read(0, &mut bytes);
        bytes
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let len = index(self.len.saturating_sub(offset)).min(buffer.len());
        buffer[..len].fill(0);
        let end = offset + len as u64;
        for (number, sector) in self.sectors.range(offset / SECTOR_LEN..end.div_ceil(SECTOR_LEN)) {
            let start = number * SECTOR_LEN;
            let (from, to) = (start.max(offset), (start + SECTOR_LEN).min(end));
            buffer[index(from - offset)..index(to - offset)]
                .copy_from_slice(&sector[index(from - start)..index(to - start)]);
        }
        len
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.len = self.len.max(offset + data.len() as u64);
        for (start, piece) in pieces(offset, data) {
            let sector = self.sectors.entry(start / SECTOR_LEN).or_insert_with(|| Arc::new([0; SECTOR]));
            let at = index(start % SECTOR_LEN);
            Arc::make_mut(sector)[at..at + piece.len()].copy_from_slice(piece);
        }
    }

    /// Zeros a range that need not lie within the file; the length stays.
    fn clear(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let touched: Vec<u64> =
            self.sectors.range(offset / SECTOR_LEN..end.div_ceil(SECTOR_LEN)).map(|(&number, _)| number).collect();
        for number in touched {
            let start = number * SECTOR_LEN;
            let (from, to) = (start.max(offset), (start + SECTOR_LEN).min(end));
            if to - from == SECTOR_LEN {
                self.sectors.remove(&number);
            } else if let Some(sector) = self.sectors.get_mut(&number) {
                Arc::make_mut(sector)[index(from - start)..index(to - start)].fill(0);
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.clear(len, u64::MAX - len);
        }
        self.len = len;
    }

    #[cfg(test)]
    fn holds(&self, offset: u64, data: &[u8]) -> bool {
        let mut found = vec![0; data.len()];
        self.read(offset, &mut found) == data.len() && found == data
    }

    fn is_zero(&self, number: u64) -> bool {
        self.sectors.get(&number).is_none_or(|sector| sector.iter().all(|&byte| byte == 0))
    }

    /// First position from `offset` on whose sector is, or is not, all zeros.
    fn seek(&self, offset: u64, zero: bool) -> Option<u64> {
        if offset >= self.len {
            return None;
        }
        let first = offset / SECTOR_LEN;
        let found = if zero {
            (first..self.len.div_ceil(SECTOR_LEN)).find(|&number| self.is_zero(number))
        } else {
            self.sectors.range(first..).map(|(&number, _)| number).find(|&number| !self.is_zero(number))
        };
        found.map(|number| (number * SECTOR_LEN).max(offset))
    }
}

impl From<Vec<u8>> for Image {
    fn from(bytes: Vec<u8>) -> Self {
        let mut image = Self { len: bytes.len() as u64, ..Self::default() };
        for (start, piece) in pieces(0, &bytes).filter(|(_, piece)| piece.iter().any(|&byte| byte != 0)) {
            image.write(start, piece);
        }
        image
    }
}

/// Splits a write at the borders of sectors.
fn pieces(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = data;
    let mut at = offset;
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(rest.len().min(SECTOR - index(at % SECTOR_LEN)));
        let start = at;
        rest = after;
        at += piece.len() as u64;
        (!piece.is_empty()).then_some((start, piece))
    })
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// A file in memory. Zero sectors count as holes.
#[derive(Default)]
pub struct MemoryStorage(Mutex<Image>);

impl MemoryStorage {
    /// A file that holds `image`.
    pub fn new(image: impl Into<Image>) -> Self {
        Self(Mutex::new(image.into()))
    }

    /// All bytes.
    pub fn image(&self) -> Vec<u8> {
        self.0.lock().bytes()
    }

    /// What it holds now, to make other files of.
    pub fn snapshot(&self) -> Image {
        self.0.lock().clone()
    }
}

impl Storage for MemoryStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.lock().set_len(len);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        Ok(self.0.lock().read(offset, buffer))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.lock().write(offset, data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.0.lock().clear(offset, len);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok(self.0.lock().seek(offset, false))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        let image = self.0.lock();
        let end = (offset < image.len).then_some(image.len);
        Ok(image.seek(offset, true).or(end))
    }
}

#[cfg(test)]
mod tests;
