//! A home file as any other plain file.

use crate::error::Result;
use crate::storage::Storage;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;

impl<S: Storage> PlainFile for HomeFile<S> {
    fn plain_len(&self) -> u64 {
        self.len()
    }

    fn read_at<'b>(&self, plain_offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        self.read_at(plain_offset, len, buffer)
    }

    fn write_at(&self, plain_offset: u64, data: &[u8], buffer: &mut [u8]) -> Result<()> {
        self.write_at(plain_offset, data, buffer)
    }

    fn set_len(&self, plain_len: u64) -> Result<()> {
        self.set_len(plain_len)
    }

    fn prepare_writes(&self) -> Result<()> {
        Ok(()) // what a crash left behind the end is mended when the file first grows
    }

    fn punch(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.punch(plain_offset, len, buffer)
    }

    fn zero(&self, plain_offset: u64, len: u64, buffer: &mut [u8]) -> Result<()> {
        self.zero(plain_offset, len, buffer)
    }

    fn allocate(&self, plain_offset: u64, len: u64, grow: bool) -> Result<()> {
        self.allocate(plain_offset, len, grow)
    }

    fn seek_data(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.seek_data(plain_offset)
    }

    fn seek_hole(&self, plain_offset: u64) -> Result<Option<u64>> {
        self.seek_hole(plain_offset)
    }

    fn sync(&self) -> Result<()> {
        self.sync()
    }
}
