//! Looking for data and holes of an image, through to the holes of its flat extents.

use super::{AsPlainFile, Place, RawImage};
use crate::error::Result;
use crate::store::plain_file::PlainFile;

/// How far one look into grain tables goes, in bytes of the disk, and how many looks one search takes. Tables may come
/// from anyone, and can claim more than anyone has time for; beyond that everything counts as data, which is never wrong.
const STEP: u64 = 64 << 20;
const MAX_STEPS: usize = 1024;

impl<F: AsPlainFile> RawImage<F> {
    pub(super) fn next_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        let disk_len = self.plain_len();
        let mut at = plain_offset;
        for _ in 0..self.most_steps() {
            if at >= disk_len {
                return Ok(None);
            }
            let (len, place) = self.first_run(at..self.step_end(at))?;
            match place {
                Place::Zero => {}
                Place::Other => return Ok(Some(at)),
                Place::InFile(file, offset) => {
                    let found = file.plain_file().seek_data(offset)?.filter(|found| *found < offset + len);
                    if let Some(found) = found {
                        return Ok(Some(at + (found - offset)));
                    }
                }
            }
            at += len;
        }
        Ok(Some(at).filter(|at| *at < disk_len))
    }

    pub(super) fn next_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        let disk_len = self.plain_len();
        let mut at = plain_offset;
        for _ in 0..self.most_steps() {
            if at >= disk_len {
                break;
            }
            let (len, place) = self.first_run(at..self.step_end(at))?;
            match place {
                Place::Zero => return Ok(Some(at)),
                Place::Other => {}
                Place::InFile(file, offset) => {
                    let found = file.plain_file().seek_hole(offset)?.filter(|found| *found < offset + len);
                    if let Some(found) = found {
                        return Ok(Some(at + (found - offset)));
                    }
                }
            }
            at += len;
        }
        Ok((plain_offset < disk_len).then_some(disk_len))
    }

    fn step_end(&self, at: u64) -> u64 {
        let disk_len = self.plain_len();
        if self.has_tables { at.saturating_add(STEP).min(disk_len) } else { disk_len }
    }

    /// Without tables the number of runs is that of the extents.
    fn most_steps(&self) -> usize {
        if self.has_tables { MAX_STEPS } else { usize::MAX }
    }
}
