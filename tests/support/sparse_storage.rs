//! A file in memory as long as a disk may be: only what was written takes space.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use vmcryptfs::error::Result;
use vmcryptfs::storage::Storage;

const PAGE: u64 = 512;
const PAGE_LEN: usize = 512;

/// Clones are handles on the same file.
#[derive(Clone, Default)]
pub(crate) struct SparseStorage(Arc<Mutex<File>>);

#[derive(Default)]
struct File {
    len: u64,
    pages: BTreeMap<u64, [u8; PAGE_LEN]>,
}

impl File {
    fn byte(&mut self, at: u64) -> &mut u8 {
        let page = self.pages.entry(at / PAGE).or_insert([0; PAGE_LEN]);
        &mut page[usize::try_from(at % PAGE).unwrap()]
    }
}

impl SparseStorage {
    /// A whole range, which must be there.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        assert_eq!(self.read_at(offset, &mut bytes).unwrap(), len);
        bytes
    }
}

impl Storage for SparseStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut file = self.0.lock();
        file.pages.retain(|page, _| page * PAGE < len);
        for at in len..len.next_multiple_of(PAGE) {
            *file.byte(at) = 0;
        }
        file.len = len;
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut file = self.0.lock();
        let len = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buffer.len());
        for (byte, at) in buffer[..len].iter_mut().zip(offset..) {
            *byte = *file.byte(at);
        }
        Ok(len)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut file = self.0.lock();
        for (byte, at) in data.iter().zip(offset..) {
            *file.byte(at) = *byte;
        }
        file.len = file.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn punch(&self, _offset: u64, _len: u64) -> Result<()> {
        unimplemented!("no vector discards")
    }

    fn zero(&self, _offset: u64, _len: u64) -> Result<()> {
        unimplemented!("no vector discards")
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        unimplemented!("no vector reserves space")
    }

    fn seek_data(&self, _offset: u64) -> Result<Option<u64>> {
        unimplemented!("no vector looks for holes")
    }

    fn seek_hole(&self, _offset: u64) -> Result<Option<u64>> {
        unimplemented!("no vector looks for holes")
    }
}
