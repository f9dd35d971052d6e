//! A second way to a backing file, past the page cache (`O_DIRECT`).

use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::storage::claims::Claims;
use crate::sys::file::{lead_to, proc_entry};

/// What every file system that knows `O_DIRECT` takes, for those that do not tell what they want.
const USUAL_ALIGN: u64 = 4096;

/// A backing file that is opened once more, with `O_DIRECT`.
pub(super) struct DirectFile {
    file: Arc<File>,
    memory_align: u64,
    offset_align: u64,
}

impl DirectFile {
    /// Opens the same file, for what it is open for already. It fails when that one's claims are lost.
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` where the file system has no way past the page cache.
    pub(super) fn open(buffered: &File, claims: &dyn Claims) -> io::Result<Self> {
        let access = rustix::fs::fcntl_getfl(buffered)? & OFlags::RWMODE;
        let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(proc_entry(buffered), flags, Mode::empty())?);
        let (memory_align, offset_align) = alignments(&file)?;
        claims.second_way(&file)?;
        Ok(Self { file: Arc::new(file), memory_align, offset_align })
    }

    /// Reopens it, for what `buffered` is open for.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn widen(&self, buffered: &File, claims: &dyn Claims) -> io::Result<()> {
        lead_to(&self.file, &Self::open(buffered, claims)?.file)
    }

    /// The file itself.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The file, if what lies at `offset` can be transferred from or to this memory past the page cache.
    pub(super) fn raw_io_target(&self, offset: u64, memory: &[u8]) -> Option<&Arc<File>> {
        let place = offset | memory.len() as u64;
        let fits = place.is_multiple_of(self.offset_align)
            && (memory.as_ptr().addr() as u64).is_multiple_of(self.memory_align);
        fits.then_some(&self.file)
    }

    /// Buffered writers write whole pages, and every writer whole device blocks.
    pub(super) fn write_atom(&self) -> u64 {
        self.offset_align.max(rustix::param::page_size() as u64)
    }
}

/// Whether the system says by an error that a transfer cannot go past the page cache.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Alignments of memory, and of offsets and lengths, in bytes.
fn alignments(file: &File) -> io::Result<(u64, u64)> {
    let aligns = match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
        Ok(stat) if StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::DIOALIGN) => {
            (u64::from(stat.stx_dio_mem_align), u64::from(stat.stx_dio_offset_align))
        }
        Ok(_) | Err(Errno::NOSYS | Errno::INVAL) => (USUAL_ALIGN, USUAL_ALIGN),
        Err(error) => return Err(error.into()),
    };
    match aligns {
        (0, _) | (_, 0) => Err(Errno::OPNOTSUPP.into()),
        aligns => Ok(aligns),
    }
}
