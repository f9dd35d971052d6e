//! A backing file: through the page cache, or past it where that is wanted and possible.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;

use crate::error::{Context, Error, Kind, Result};
use crate::storage::Storage;
use crate::storage::claims::{Claim, Claims, FileLocks, Lost, may_be_sign};
use crate::storage::direct::{DirectFile, is_refusal};
use crate::sys::file::{self, Allocation};
use crate::text::Show;

/// Which way a disk's data take between us and the backing file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BackingIo {
    /// Through the page cache.
    #[default]
    Buffered,
    /// Past it, where the file system can and the request is aligned; else through it.
    Direct,
}

impl BackingIo {
    const ALL: [Self; 2] = [Self::Buffered, Self::Direct];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Buffered => "buffered",
            Self::Direct => "direct",
        }
    }
}

impl FromStr for BackingIo {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|way| way.name() == name)
            .ok_or_else(|| Error::new(Kind::Invalid, format!("backing I/O {name:?}, expected buffered or direct")))
    }
}

/// More than any request.
const MAX_PIECE: usize = 1 << 30;
/// A fraction of what the second level cache of today's CPUs holds, which is 512 KiB and more.
const CACHED_PIECE: usize = 128 << 10;

/// A backing file. A claim on it lasts as long as this value.
pub struct FileStorage {
    file: File,
    way: Box<Way>,
    claims: &'static dyn Claims,
    /// Whether the claims are lost. That does not change any more.
    lost: AtomicBool,
}

enum Way {
    /// Through the page cache, perhaps because nothing else is possible.
    Cached(Option<Error>),
    Past(DirectFile),
}

impl FileStorage {
    /// Takes over an open backing file, without a claim: enough to look at a header. It can be claimed by file locks.
    pub fn new(file: File) -> Self {
        Self::with_claims(file, &FileLocks)
    }

    /// The same for a file whose claims something else may keep.
    pub fn with_claims(file: File, claims: &'static dyn Claims) -> Self {
        Self { file, way: Box::new(Way::Cached(None)), claims, lost: AtomicBool::default() }
    }

    /// Lets aligned reads and writes go past the page cache from now on, where that is possible.
    pub fn bypass_cache(&mut self) {
        let opened =
            DirectFile::open(&self.file, self.claims).context(|| "opening the backing file with O_DIRECT".into());
        *self.way = opened.map_or_else(|error| Way::Cached(Some(error)), Way::Past);
    }

    /// Lets go of what this host has cached of the file, and asks the server about it: on NFS, opening a file does.
    ///
    /// # Errors
    /// `Io`.
    pub fn ask_anew(&self) -> Result<()> {
        let opened =
            file::reopen(&self.file, OFlags::RDONLY).context(|| "opening the backing file once more".into())?;
        // Advice: what is not dropped is what the server says is still so.
        let _ = rustix::fs::fadvise(&opened, 0, None, rustix::fs::Advice::DontNeed);
        Ok(())
    }

    /// Takes the same file, opened for writing as well, in place of the one that could only be read, with the same claim.
    ///
    /// # Errors
    /// `Busy`, or `Io`.
    pub fn widen(&self, wider: File, claim: Claim) -> Result<()> {
        let wider = Self::with_claims(wider, self.claims);
        wider.claim(claim)?;
        self.direct()
            .map_or(Ok(()), |direct| direct.widen(&wider.file, self.claims))
            .and_then(|()| file::lead_to(&self.file, &wider.file))
            .context(|| "opening the backing file for writing".into())
    }

    /// Why data go through the page cache although they should not.
    pub fn why_cached(&self) -> Option<&Error> {
        match self.way.as_ref() {
            Way::Cached(why) => why.as_ref(),
            Way::Past(_) => None,
        }
    }

    fn direct(&self) -> Option<&DirectFile> {
        match self.way.as_ref() {
            Way::Cached(_) => None,
            Way::Past(direct) => Some(direct),
        }
    }

    /// Whether its claims are lost. Then nothing is read or written through it any more: the file has to be opened again.
    pub fn has_lost_claims(&self) -> bool {
        if !self.is_lost() {
            let ways = [Some(&self.file), self.direct().map(DirectFile::file)];
            let are_lost = ways.into_iter().flatten().any(|way| self.claims.are_lost(way));
            self.lost.fetch_or(are_lost, Ordering::Relaxed);
        }
        self.is_lost()
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Does `work` on a file whose claims are not lost.
    fn claimed<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_lost() {
            return Err(Lost::error());
        }
        work().map_err(|error| self.raw_io_failed(error))
    }

    /// Claims the file, or the home whose header it is, or changes the claim.
    ///
    /// # Errors
    /// `Busy` when another process, mount or host has a claim that excludes this one; a former claim of ours is kept then.
    pub fn claim(&self, claim: impl Into<Claim>) -> Result<()> {
        let claim = claim.into();
        if self.is_lost() {
            return Err(Lost::error()); // a new lock would look as if nothing had happened
        }
        match self.claims.try_claim(&self.file, claim).context(|| "locking the backing file".into())? {
            true => Ok(()),
            false => Err(claim.refused(|| self.claims.holder(&self.file))),
        }
    }

    /// The same for a file that was opened by a `path` below `dir`: `false` if another file has that name by now.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), or `Io`.
    pub fn claim_at(&self, dir: &File, path: &Path, claim: impl Into<Claim>) -> Result<bool> {
        self.claim(claim)?;
        file::is_at(dir, path, &self.file).context(|| format!("looking for {}", path.shown()))
    }

    /// Whether no other opener has the file claimed, for reading or for writing.
    ///
    /// # Errors
    /// `Io`.
    pub fn is_unclaimed(&self) -> Result<bool> {
        self.claims.is_unclaimed(&self.file).context(|| "asking for locks on the backing file".into())
    }

    /// Moves the time of last access as a program's read does, if the file system keeps that: reads of a file that was opened with
    /// `O_NOATIME` do not.
    pub fn note_access(&self) {
        let Ok(flags) = rustix::fs::fcntl_getfl(&self.file) else { return };
        if flags.contains(OFlags::NOATIME) && rustix::fs::fcntl_setfl(&self.file, flags - OFlags::NOATIME).is_ok() {
            // What fails here fails again in the read that this is for, or moves a time too often.
            let _ = rustix::io::pread(&self.file, &mut [0; 1], 0);
            let _ = rustix::fs::fcntl_setfl(&self.file, flags);
        }
    }

    /// The backing file, for what is not data: attributes, times, owners.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The backing file; a claim on it goes with it.
    pub fn into_file(self) -> File {
        self.file
    }

    /// The file past the page cache, if a transfer of this memory can go there.
    fn direct_for(&self, offset: u64, memory: &[u8]) -> Option<&Arc<File>> {
        self.direct().filter(|_| !self.is_lost())?.raw_io_target(offset, memory)
    }

    /// Makes a call past the page cache if it may go there, and through it otherwise, or where the system refuses.
    fn either(
        &self,
        direct: Option<&Arc<File>>,
        mut call: impl FnMut(&File) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match direct.map(|file| call(file)) {
            None => call(&self.file),
            Some(Err(error)) if is_refusal(&error) => call(&self.file),
            Some(done) => done,
        }
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

/// Writes until nothing is left: one call may take less than there is.
fn drain(data: &[u8], offset: u64, mut write: impl FnMut(&[u8], u64) -> io::Result<usize>) -> io::Result<()> {
    let mut written = 0;
    while written < data.len() {
        match write(&data[written..], offset + written as u64) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Storage for FileStorage {
    fn inode(&self) -> Option<(u64, u64)> {
        rustix::fs::fstat(&self.file).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.file.metadata().context(|| "reading the backing file's length".into())?.len())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.claimed(|| self.file.set_len(len).context(|| format!("setting the backing file's length to {len}")))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let read = |rest: &mut [u8], at| {
            self.either(self.direct_for(at, rest), |file| Ok(rustix::io::pread(file, &mut *rest, at)?))
        };
        self.claimed(|| {
            fill(buffer, offset, read)
                .context(|| format!("reading {} bytes of the backing file at {offset}", buffer.len()))
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let write =
            |rest: &[u8], at| self.either(self.direct_for(at, rest), |file| Ok(rustix::io::pwrite(file, rest, at)?));
        self.claimed(|| {
            drain(data, offset, write)
                .context(|| format!("writing {} bytes to the backing file at {offset}", data.len()))
        })
    }

    fn write_preserving_mtime(&self, offset: u64, data: &[u8]) -> Result<()> {
        let modified = self.file.metadata().and_then(|before| before.modified());
        self.write_at(offset, data)?;
        // Only the owner may, and root; for others the file was changed, then.
        let _ = modified.and_then(|modified| self.file.set_modified(modified));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.claimed(|| self.file.sync_data().context(|| "syncing the backing file".into()))
    }

    fn is_claimed_elsewhere(&self) -> bool {
        self.claims.is_data_claimed(&self.file).unwrap_or(false)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.claimed(|| {
            self.zeros_where_unsupported(Allocation::Punch, offset, len)
                .context(|| format!("punching {len} bytes out of the backing file at {offset}"))
        })
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.claimed(|| {
            self.zeros_where_unsupported(Allocation::Zero, offset, len)
                .context(|| format!("zeroing {len} bytes of the backing file at {offset}"))
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.claimed(|| {
            file::fallocate(&self.file, Allocation::Keep, offset, len)
                .context(|| format!("reserving {len} bytes of the backing file at {offset}"))
        })
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        file::seek_data(&self.file, offset).context(|| format!("seeking data in the backing file from {offset}"))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        file::seek_hole(&self.file, offset).context(|| format!("seeking a hole in the backing file from {offset}"))
    }

    fn raw_io_target(&self, offset: u64, memory: &[u8]) -> Option<Arc<File>> {
        self.direct_for(offset, memory).cloned()
    }

    fn raw_io_failed(&self, error: Error) -> Error {
        if may_be_sign(&error) && self.has_lost_claims() { Lost::error() } else { error }
    }

    /// A medium wants large requests, and copies from its cache want small ones.
    fn read_piece_len(&self) -> usize {
        if self.direct().is_some() { MAX_PIECE } else { CACHED_PIECE }
    }

    fn write_atom(&self) -> u64 {
        self.direct().map_or(1, DirectFile::write_atom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::page_cache::is_cached;

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

    /// A file of 64 KiB on a medium, and whether its content can be kept out of the page cache.
    fn file_past_the_cache() -> Option<(File, FileStorage)> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 << 10).unwrap();
        let mut storage = FileStorage::new(file.try_clone().unwrap());
        let is_memory = rustix::fs::fstatfs(&file).unwrap().f_type == libc::TMPFS_MAGIC;
        storage.bypass_cache();
        if storage.why_cached().is_some() || is_memory {
            crate::sys::not_run::not_run("no way past the page cache");
            return None;
        }
        Some((file, storage))
    }

    #[test]
    fn what_is_aligned_goes_past_the_page_cache_and_all_else_agrees_with_it() {
        let Some((file, storage)) = file_past_the_cache() else { return };
        let mut memory = crate::sys::AlignedBuffer::zeroed(16 << 10);
        memory.fill(7);
        storage.write_at(8192, &memory[..8192]).unwrap();
        memory.fill(0);
        assert_eq!(storage.read_at(8192, &mut memory[..8192]).unwrap(), 8192);
        assert!(memory[..8192].iter().all(|&byte| byte == 7));
        assert!(!is_cached(&file, 8192));
        // Neither its place nor its length, nor its memory.
        storage.write_at(8193, &[8; 100]).unwrap();
        assert!(is_cached(&file, 8192));
        storage.write_at(12_288, &memory[1..4097]).unwrap();
        assert_eq!(storage.read_at(8192, &mut memory[..8192]).unwrap(), 8192);
        assert_eq!((memory[0], memory[1], memory[100], memory[101]), (7, 8, 8, 7));
        assert_eq!(storage.read_at((60 << 10) + 1, &mut memory).unwrap(), 4095, "up to the end of the file");
        // A file that ends anywhere is read to its end.
        storage.write_at(64 << 10, &[9; 700]).unwrap();
        assert_eq!(storage.read_at(60 << 10, &mut memory[..8192]).unwrap(), 4096 + 700);
        assert!(memory[4096..4796].iter().all(|&byte| byte == 9));
        assert_eq!(FileStorage::new(file).write_atom(), 1);
        assert!(storage.write_atom() >= 4096);
    }

    /// What a real sync does cannot be seen without a power cut; that the kernel is asked can: it refuses to sync a pipe.
    #[test]
    fn a_sync_reaches_the_kernel() {
        let (pipe, _other_end) = io::pipe().unwrap();
        let error = FileStorage::new(File::from(std::os::fd::OwnedFd::from(pipe))).sync().unwrap_err();
        assert_eq!(error.os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn short_and_interrupted_writes_are_retried() {
        let mut written = Vec::new();
        let mut interrupted = false;
        drain(&[1, 2, 3, 4, 5, 6, 7], 10, |rest, at| {
            interrupted = !interrupted;
            if interrupted {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = rest.len().min(3);
            written.push((at, rest[..len].to_vec()));
            Ok(len)
        })
        .unwrap();
        assert_eq!(written, [(10, vec![1, 2, 3]), (13, vec![4, 5, 6]), (16, vec![7])]);
        assert_eq!(drain(&[1], 0, |_, _| Ok(0)).unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn short_and_interrupted_reads_are_retried() {
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
