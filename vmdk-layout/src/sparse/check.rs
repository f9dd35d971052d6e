//! A full check of one sparse extent: every table and grain within the file, none on top of another.

use super::marker::{self, GRAIN_MARKER_LEN};
use super::{Grain, Sparse};
use crate::cache::{Cache, FileId};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR_LEN;
use crate::source::Source;

/// What a sparse extent holds, as counted by [`Sparse::check`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Grains with data of their own.
    pub allocated: u64,
    /// Grains recorded as zeros.
    pub zero: u64,
    /// Grains never written.
    pub unallocated: u64,
}

/// Sectors of the file looked at in one pass: 64 GiB, a bitmap of 16 MiB. Longer files take several passes, so that
/// memory is bounded whatever a sparse file's length claims.
const WINDOW: u64 = 1 << 27;

/// Longest file that is checked, 64 TiB, as large as a seSparse file can be: it bounds the passes.
const MAX_CHECKED_LEN: u64 = 64 << 40;

impl Sparse {
    /// Walks all tables. A lookup cannot see that two grains share their bytes; this can.
    ///
    /// # Errors
    /// `Corrupt` with the offset of the first sector that two grains, or a grain and a table, both claim, and for
    /// everything that a lookup would refuse; `Unsupported` for files beyond 64 TiB.
    pub fn check<S: Source + ?Sized>(&self, source: &S) -> Result<Usage> {
        if self.file_len > MAX_CHECKED_LEN {
            let message = format!("the file has {} bytes, expected at most {MAX_CHECKED_LEN} to check", self.file_len);
            return Err(Error::new(Kind::Unsupported, message));
        }
        let mut usage;
        let mut start = 0;
        loop {
            let mut taken = Taken { start, words: vec![0; usize::try_from(WINDOW / 64).expect("WINDOW is small")] };
            usage = self.pass(source, &mut taken)?;
            start += WINDOW;
            if start * SECTOR_LEN >= self.file_len {
                return Ok(usage);
            }
        }
    }

    fn pass<S: Source + ?Sized>(&self, source: &S, taken: &mut Taken) -> Result<Usage> {
        let id = FileId { link: 0, file: 0 };
        let mut cache = Cache::new(16);
        let mut usage = Usage::default();
        taken.claim(0, self.header_len(), "the header")?;
        let directory_len = self.tables() * self.entry_len();
        taken.claim(self.directory, directory_len, "the grain directory")?;
        for index in 0..self.tables() {
            let grains = index * self.entries_per_table..self.end_of_table(index);
            let Some(table) = self.table(id, source, &mut cache, index)? else {
                usage.unallocated += grains.end - grains.start;
                continue;
            };
            let len = (grains.end - grains.start) * self.entry_len();
            taken.claim(table, len, &format!("grain table {index}"))?;
            for grain in grains {
                let found = self.grain(id, source, &mut cache, table, grain)?;
                let (offset, len) = match found {
                    Grain::Unallocated => {
                        usage.unallocated += 1;
                        continue;
                    }
                    Grain::Zero => {
                        usage.zero += 1;
                        continue;
                    }
                    Grain::Data(offset) => (offset, self.len_of_grain(grain)),
                    Grain::Compressed(offset) => {
                        let grain_len = usize::try_from(self.grain_len()).expect("at most MAX_GRAIN_SECTORS");
                        let sector = grain * self.grain_sectors;
                        let len = marker::stream_len(source, self.file_len, offset, sector, grain_len)?;
                        (offset, (GRAIN_MARKER_LEN + len) as u64)
                    }
                };
                usage.allocated += 1;
                taken.claim(offset, len, &format!("grain {grain}"))?;
            }
        }
        Ok(usage)
    }
}

/// Sectors of the file that something lies in, from `start` on.
struct Taken {
    start: u64,
    words: Vec<u64>,
}

impl Taken {
    fn claim(&mut self, offset: u64, len: u64, what: &str) -> Result<()> {
        let first = (offset / SECTOR_LEN).max(self.start);
        let end = offset.saturating_add(len).div_ceil(SECTOR_LEN).min(self.start + WINDOW);
        for sector in first..end {
            let bit = sector - self.start;
            let word = usize::try_from(bit / 64).ok().and_then(|word| self.words.get_mut(word));
            let word = word.expect("the sector is within the window");
            let mask = 1 << (bit % 64);
            if *word & mask != 0 {
                let message = format!("{what} overlaps a grain or a table that lies there already");
                return Err(Error::new(Kind::Corrupt, message).at_offset(sector * SECTOR_LEN));
            }
            *word |= mask;
        }
        Ok(())
    }
}
