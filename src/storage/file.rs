//! A backing file through the page cache.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::error::{Context, Error, Kind, Result};
use crate::storage::Storage;
use crate::sys::file::{self, Allocation, Claim, Scope};

/// What the backing file may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reading alone; several openers may have it.
    Read,
    /// Reading and writing; one opener, on all hosts.
    Write,
}

/// A backing file. A claim on it lasts as long as this value.
pub struct FileStorage {
    file: File,
}

impl FileStorage {
    /// Takes over an open backing file, without a claim: enough to look at a header.
    pub fn new(file: File) -> Self {
        Self { file }
    }

    /// Claims the file against other openers, or changes the claim.
    ///
    /// # Errors
    /// `Busy` when another process, mount or host has claimed it; a former claim of ours is kept then.
    pub fn claim(&self, access: Access) -> Result<()> {
        if self.try_claim(Scope::File, access)? {
            return Ok(());
        }
        Err(Error::new(Kind::Busy, "in use: another mount, process or host has it open"))
    }

    /// Claims the home whose header this file is: to use its keys, together with others, or to exchange them, alone. Says nothing
    /// of the header itself, which changes its slots while the home is in use.
    ///
    /// # Errors
    /// `Busy`.
    pub fn claim_home(&self, access: Access) -> Result<()> {
        if self.try_claim(Scope::Home, access)? {
            return Ok(());
        }
        Err(Error::new(
            Kind::Busy,
            match access {
                Access::Read => {
                    "another process or host exchanges the keys of this VM folder's home, or converts its files"
                }
                Access::Write => {
                    "a mount of another user or host, or one that cannot be asked, uses the VM folder: unmount it there first"
                }
            },
        ))
    }

    fn try_claim(&self, scope: Scope, access: Access) -> Result<bool> {
        let claim = match access {
            Access::Read => Claim::Shared,
            Access::Write => Claim::Exclusive,
        };
        file::try_claim(&self.file, scope, claim).context(|| "locking the backing file".into())
    }

    /// Whether nobody else has the file claimed, for reading or for writing.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_unclaimed(&self) -> Result<bool> {
        file::is_unclaimed(&self.file).context(|| "asking for locks on the backing file".into())
    }

    /// Bytes that the file occupies on its medium.
    ///
    /// # Errors
    /// `Io`.
    pub fn allocated(&self) -> Result<u64> {
        Ok(self.file.metadata().context(|| "reading attributes of the backing file".into())?.blocks() * 512)
    }

    /// The backing file, for what is not data: attributes, times, owners.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The backing file; a claim on it goes with it.
    pub fn into_file(self) -> File {
        self.file
    }

    fn zeros_where_unsupported(&self, what: Allocation, offset: u64, len: u64) -> io::Result<()> {
        match file::fallocate(&self.file, what, offset, len) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.write_zeros(offset, len),
            other => other,
        }
    }

    /// Literal zeros are a hole to the format, so they serve where the file system cannot punch. Never grows the file.
    fn write_zeros(&self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
        let end = (offset + len).min(self.file.metadata()?.len());
        let mut at = offset;
        while at < end {
            let step = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.file.write_all_at(&ZEROS[..step], at)?;
            at += step as u64;
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends: one call may give less than there is.
fn fill(
    buffer: &mut [u8],
    offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl Storage for FileStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().context(|| "reading the backing file's length".into())?.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).context(|| format!("setting the backing file's length to {len}"))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        fill(buffer, offset, |rest, at| self.file.read_at(rest, at))
            .context(|| format!("reading {} bytes of the backing file at {offset}", buffer.len()))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.file
            .write_all_at(data, offset)
            .context(|| format!("writing {} bytes to the backing file at {offset}", data.len()))
    }

    fn sync(&self) -> Result<()> {
        self.file.sync_data().context(|| "syncing the backing file".into())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.zeros_where_unsupported(Allocation::Punch, offset, len)
            .context(|| format!("punching {len} bytes out of the backing file at {offset}"))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.zeros_where_unsupported(Allocation::Zero, offset, len)
            .context(|| format!("zeroing {len} bytes of the backing file at {offset}"))
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        file::fallocate(&self.file, Allocation::Keep, offset, len)
            .context(|| format!("reserving {len} bytes of the backing file at {offset}"))
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        file::seek_data(&self.file, offset).context(|| format!("seeking data in the backing file from {offset}"))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        file::seek_hole(&self.file, offset).context(|| format!("seeking a hole in the backing file from {offset}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of `content` that gives a few bytes at a time, and is interrupted before each.
    fn reluctant(content: &[u8]) -> impl FnMut(&mut [u8], u64) -> io::Result<usize> {
        let mut interrupted = false;
        move |buffer, offset| {
            interrupted = !interrupted;
            if interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let rest = usize::try_from(offset).map_or(&[][..], |at| content.get(at..).unwrap_or_default());
            let len = rest.len().min(buffer.len()).min(3);
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    #[test]
    fn short_and_interrupted_reads_are_gone_on_with() {
        let content: Vec<u8> = (0..100).collect();
        let mut buffer = [0xff; 40];
        assert_eq!(fill(&mut buffer, 10, reluctant(&content)).unwrap(), 40);
        assert_eq!(buffer, content[10..50]);
        assert_eq!(fill(&mut buffer, 90, reluctant(&content)).unwrap(), 10, "the end of the file");
        assert_eq!(buffer[..10], content[90..]);
        assert_eq!(fill(&mut buffer, 200, reluctant(&content)).unwrap(), 0);
        let failing = |_: &mut [u8], _| Err(io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(fill(&mut buffer, 0, failing).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
}
