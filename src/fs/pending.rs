//! Reads and writes that are begun by one call and ended by another, with their I/O carried out in between by the caller.

use std::io;

use crate::error::{Error, Kind, Result};
use crate::fs::FileSystem;
use crate::fs::handle::{Handle, HandleNumber, HandleUse};
use crate::storage::BackingIo;
use crate::store::transfer::{Begun, Transfer};

/// A request whose I/O is to be carried out, with the handle that it came by: that stays open until then.
pub struct Pending {
    handle: HandleUse,
    transfer: Option<Transfer>,
}

impl FileSystem {
    /// Whether requests can be begun and ended: for others [`read`](Self::read) and [`write`](Self::write) are quicker.
    pub fn defers_io(&self) -> bool {
        self.served.options().backing_io == BackingIo::Direct
    }

    /// As [`read`](Self::read), but waits for no other request. Data that are there lie where they do after that.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub fn begin_read(
        &self,
        handle: HandleNumber,
        offset: u64,
        size: u32,
        buffer: &mut [u8],
    ) -> Result<Begun<Pending>> {
        self.begin(handle, |handle| {
            handle.note_read();
            handle.file()?.begin_read(offset, size as usize, buffer)
        })
    }

    /// As [`write`](Self::write), but waits for no other request.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn begin_write(
        &self,
        handle: HandleNumber,
        offset: u64,
        size: u32,
        buffer: &mut [u8],
    ) -> Result<Begun<Pending>> {
        self.begin(handle, |handle| handle.file()?.begin_write(offset, size as usize, buffer))
    }

    fn begin(
        &self,
        handle: HandleNumber,
        request: impl FnOnce(&Handle) -> Result<Begun<Transfer>>,
    ) -> Result<Begun<Pending>> {
        let handle = self.handles.get(handle)?;
        Ok(match request(&handle)? {
            Begun::Done(len) => Begun::Done(len),
            Begun::UnderWay(transfer) => Begun::UnderWay(Pending { handle, transfer: Some(transfer) }),
            Begun::MustWait => Begun::MustWait,
        })
    }
}

impl Pending {
    /// What is to be carried out; `None` when it was ended.
    pub fn transfer(&self) -> Option<&Transfer> {
        self.transfer.as_ref()
    }

    /// Does the rest after the I/O, which `moved` this many bytes, and returns how many bytes the request has.
    ///
    /// # Errors
    /// Those of [`FileSystem::read`] and [`FileSystem::write`].
    pub fn end(mut self, moved: io::Result<usize>, buffer: &mut [u8]) -> Result<usize> {
        let transfer = self.transfer.take().ok_or_else(|| Error::new(Kind::Invalid, "a request that was ended"))?;
        self.handle.file()?.end_transfer(transfer, moved, buffer)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Given up, but its range of the file must not stay locked.
        if let (Some(transfer), Ok(file)) = (self.transfer.take(), self.handle.file()) {
            let _ = file.end_transfer(transfer, Err(io::Error::from_raw_os_error(libc::ECANCELED)), &mut []);
        }
    }
}
