//! A VMDK as one raw image: the bytes of its extents, and of its parents', where `vmdk-layout` says that they are.
//!
//! The backing files stay as they are and may be in use elsewhere: what is written there shows here at once, and the
//! other way round. Only an image whose extents are all flat and RW can be written. This module knows neither names
//! nor folders.

mod files;
mod seek;

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;
use vmdk_layout::{Cache, Chain, Target};

use crate::error::{Error, Kind, Result};
use crate::store::buffer::RequestBuffer;
use crate::store::plain_file::{HEADROOM, PlainFile, index, range_end, too_far};

pub use files::{AsPlainFile, ImageFile, vmdk_error};

/// The raw image of a disk and its ancestors. All positions are on the virtual disk, in bytes.
pub struct RawImage<F> {
    chain: Chain,
    /// For each link of the chain the files of its layout.
    files: Vec<Vec<ImageFile<F>>>,
    /// Files that say where data is, and hold none: kept open, so that nobody else changes them in the meantime.
    descriptors: Vec<Arc<F>>,
    /// Pieces of grain tables, for as long as nobody writes to any of the files.
    tables: Mutex<Cache>,
    has_tables: bool,
}

impl<F: AsPlainFile> RawImage<F> {
    /// Joins a chain with the files that its layouts were opened with, and those of its descriptors.
    ///
    /// # Errors
    /// `Invalid` unless there is a list of files for each link.
    pub fn new(chain: Chain, files: Vec<Vec<ImageFile<F>>>, descriptors: Vec<Arc<F>>) -> Result<Self> {
        if chain.links().len() != files.len() {
            let message = format!("{} lists of files for {} disks", files.len(), chain.links().len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let has_tables = chain.links().iter().any(|link| link.sparse_extents().next().is_some());
        Ok(Self { chain, files, descriptors, tables: Mutex::default(), has_tables })
    }

    /// Whether every byte can be written in place.
    pub fn is_writable(&self) -> bool {
        self.chain.is_writable()
    }

    /// The files of the disk's own extents, not those of its parents.
    pub fn extents(&self) -> impl Iterator<Item = &Arc<F>> {
        self.files.first().into_iter().flatten().map(ImageFile::file)
    }

    /// The file that the image was opened by.
    pub fn descriptor(&self) -> Option<&F> {
        self.descriptors.first().map(Arc::as_ref)
    }

    /// Calls `work` with what is known of the tables. While a file may be written to, and while another request has what
    /// is known, it starts from nothing.
    fn with_tables<T>(&self, work: impl FnOnce(&mut Cache) -> T) -> T {
        let known = self.has_tables.then(|| self.tables.try_lock()).flatten();
        match known {
            Some(mut tables) if !self.files.iter().flatten().any(ImageFile::may_change) => work(&mut tables),
            Some(_) | None => work(&mut Cache::default()),
        }
    }

    /// Length of the first run of `range`, and what it is.
    fn first_run(&self, range: Range<u64>) -> Result<(u64, Place<'_, F>)> {
        let found = self.with_tables(|tables| self.chain.run_at(range, &self.files, tables)).map_err(vmdk_error)?;
        let place = match found.run.target {
            Target::Data { file, offset } => match self.files.get(found.link).and_then(|files| files.get(file)) {
                Some(file) => Place::InFile(file, offset),
                None => return Err(Error::new(Kind::Invalid, format!("file {file} of the disk is not open"))),
            },
            Target::Zero | Target::Parent => Place::Zero,
            Target::Compressed(_) | Target::NoAccess => Place::Other,
        };
        Ok((found.run.len, place))
    }

    /// Calls `work` with each extent file that a part of `range` lies in, the part's offset there, and the part, counted
    /// from the start of `range`.
    fn in_extents(
        &self,
        range: Range<u64>,
        mut work: impl FnMut(&dyn PlainFile, u64, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        if !self.is_writable() {
            return Err(Error::new(Kind::ReadOnly, "only a disk whose extents are all flat and RW can be written"));
        }
        let mut at = range.start;
        while at < range.end {
            let (len, place) = self.first_run(at..range.end)?;
            let Place::InFile(file, offset) = place else {
                return Err(Error::new(Kind::ReadOnly, format!("byte {at} of the disk is in no flat extent")));
            };
            work(file.plain_file(), offset, at - range.start..at - range.start + len)?;
            at += len;
        }
        Ok(())
    }

    /// The part of a range that is on the disk.
    fn clipped(&self, plain_offset: u64, len: u64) -> Range<u64> {
        let disk_len = self.plain_len();
        plain_offset.min(disk_len)..plain_offset.saturating_add(len).min(disk_len)
    }
}

/// Where a run of the disk is.
enum Place<'a, F> {
    /// In a file, as it is, from this offset on.
    InFile(&'a ImageFile<F>, u64),
    /// Nowhere: zeros.
    Zero,
    /// In a compressed grain, or where nobody may read.
    Other,
}

impl<F: AsPlainFile> PlainFile for RawImage<F> {
    fn plain_len(&self) -> u64 {
        self.chain.len()
    }

    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let end = range_end(plain_offset, len, u64::MAX)?.min(self.plain_len());
        if plain_offset >= end {
            return Ok(&[]);
        }
        let len = index(end - plain_offset);
        if let (run_len, Place::InFile(file, offset)) = self.first_run(plain_offset..end)?
            && run_len == end - plain_offset
        {
            return file.read_in_place(offset, len, buffer);
        }
        let wanted = &mut buffer[HEADROOM..][..len];
        self.with_tables(|tables| self.chain.read_at(plain_offset, wanted, &self.files, tables)).map_err(vmdk_error)?;
        Ok(&buffer[HEADROOM..][..len])
    }

    fn write_in_place(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<()> {
        let end = range_end(plain_offset, len, self.plain_len())?;
        self.in_extents(plain_offset..end, |file, offset, part| match part == (0..end - plain_offset) {
            true => file.write_in_place(offset, len, buffer),
            false => {
                let data = &buffer[HEADROOM..][index(part.start)..index(part.end)];
                file.write_at(offset, data, &mut RequestBuffer::take())
            }
        })
    }

    /// A disk is as long as its descriptor says: any other length is refused.
    fn set_len(&self, plain_len: u64) -> Result<()> {
        if plain_len == self.plain_len() {
            return Ok(());
        }
        let message =
            format!("the disk has {} bytes, as its descriptor says, and cannot have {plain_len}", self.plain_len());
        Err(Error::new(Kind::Denied, message))
    }

    fn prepare_writes(&self) -> Result<()> {
        self.extents().try_for_each(|file| file.plain_file().prepare_writes())
    }

    fn punch(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.in_extents(self.clipped(plain_offset, len), |file, offset, part| {
            file.punch(offset, part.end - part.start, buffer)
        })
    }

    fn zero(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.in_extents(self.clipped(plain_offset, len), |file, offset, part| {
            file.zero(offset, part.end - part.start, buffer)
        })
    }

    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        if grow && plain_offset.saturating_add(len) > self.plain_len() {
            return Err(too_far(plain_offset, self.plain_len()));
        }
        self.in_extents(self.clipped(plain_offset, len), |file, offset, part| {
            file.allocate(offset, part.end - part.start, false)
        })
    }

    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.next_data(plain_offset)
    }

    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.next_hole(plain_offset)
    }

    /// Syncs all files of the disk's own extents, even if one fails.
    fn sync(&self) -> Result<()> {
        if !self.is_writable() {
            return Ok(());
        }
        self.extents().map(|file| file.plain_file().sync()).fold(Ok(()), Result::and)
    }
}

#[cfg(test)]
mod tests;
