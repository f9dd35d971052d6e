//! Claims that a file system lost: NFSv4 and CephFS do so when a host was silent for too long, and another host may have the file by then.
//!
//! They answer `EIO` from then on to whatever is asked through an open file description that had a lock, and only to those. So a failed
//! request is a sign, and another one for the beginning of the file, which is there in any case, tells a lost claim from a bad sector.

use std::fmt::{self, Display};
use std::fs::File;
use std::num::NonZero;
use std::ops::Range;
use std::{error, io};

use rustix::fs::Advice;

use super::{HOME, caused_by};
use crate::error::{Error, Kind};
use crate::sys::AlignedBuffer;
use crate::sys::file::{self, Lock};

/// One byte past a home's lock. All who lock it share it.
const SIGN: Range<i64> = HOME.end..HOME.end + 1;
/// What every way to a file takes, also that past the page cache.
const PROBE_LEN: usize = 4096;

/// The cause of an error that does not pass: the file has to be opened again.
#[derive(Debug)]
pub struct Lost;

impl Lost {
    /// Whether an operation ended with this.
    pub fn ended(error: &Error) -> bool {
        caused_by::<Self>(error)
    }

    /// The error of whatever is asked of such a file.
    pub fn error() -> Error {
        Error::with_source(Kind::Io, "the claim on the backing file is lost", Self)
    }
}

impl Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its file system does not serve this open file any more, and another host may have it: close it and open it again")
    }
}

impl error::Error for Lost {}

/// Whether an error may be the sign of a lost claim.
pub(in crate::storage) fn may_be_sign(error: &Error) -> bool {
    matches!(error.os_error(), Some(libc::EIO | libc::ESHUTDOWN))
}

/// Whether not even the beginning of a file can be read any more.
pub(super) fn is_given_up(file: &File) -> bool {
    // From the cache it could be read all the same.
    let _ = rustix::fs::fadvise(file, 0, NonZero::new(PROBE_LEN as u64), Advice::DontNeed);
    let mut beginning = AlignedBuffer::zeroed(PROBE_LEN);
    let read = rustix::io::pread(file, &mut beginning[..], 0);
    read.is_err_and(|error| may_be_sign(&Error::errno("reading the beginning", error)))
}

/// Gives an open file description that has no lock one that hinders nobody, by which the file system knows it.
pub(super) fn mark(file: &File) -> io::Result<()> {
    match file::try_lock(file, SIGN, Lock::Shared)? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::WouldBlock, "another opener keeps the sign of a claim from it")),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::OFlags;

    use super::*;
    use crate::storage::claims::{Claim, MountLocks};
    use crate::storage::{FileStorage, Storage};

    fn storage(file: File, shared: bool) -> FileStorage {
        FileStorage::with_claims(file, Box::leak(Box::new(MountLocks { mountpoint: "/mnt".into(), shared })))
    }

    /// Memory of this process as a file: where there is none, reading gives `EIO`, as all of a file does whose lock was lost.
    #[test]
    fn a_lost_claim_is_final_and_a_bad_place_is_not() {
        let there = [7; 16];
        let (at, nowhere) = (there.as_ptr().addr() as u64, 0);
        let is_lost = |done: Result<usize, Error>| done.is_err_and(|error| Lost::ended(&error));
        for shared in [true, false] {
            let storage = storage(File::open("/proc/self/mem").unwrap(), shared);
            storage.claim(Claim::Peek).unwrap();
            let read = |from| storage.read_at(from, &mut [0; 16]);
            assert_eq!(read(at).unwrap(), 16);
            let error = read(nowhere).unwrap_err();
            assert_eq!((Lost::ended(&error), error.kind()), (shared, Kind::Io));
            assert_eq!(is_lost(read(at)), shared, "final, where another host may write");
            assert_eq!(is_lost(storage.sync().map(|()| 0)), shared);
            assert_eq!(storage.claim(Claim::Shared).is_err(), shared);
        }
        // The beginning of this one can be read.
        let file = tempfile::tempfile().unwrap();
        file.set_len(8192).unwrap();
        let storage = storage(file, true);
        let failed = Error::errno("reading a bad sector", rustix::io::Errno::IO);
        assert!(!Lost::ended(&storage.raw_io_failed(failed)));
        assert_eq!(storage.read_at(0, &mut [0; 16]).unwrap(), 16);
    }

    /// The way past the page cache is an open file description of its own, which fails only for a lock of its own.
    #[test]
    fn both_ways_to_a_shared_file_have_a_lock_that_can_be_lost() {
        for shared in [true, false] {
            let file = tempfile::tempfile().unwrap();
            let mut storage = storage(file.try_clone().unwrap(), shared);
            storage.bypass_cache();
            if storage.why_cached().is_some() {
                return crate::sys::not_run::not_run("no way past the page cache");
            }
            let open = || file::reopen(&file, OFlags::RDWR).unwrap();
            let is_free = || file::is_unlocked(&open(), SIGN).unwrap();
            assert_eq!(is_free(), !shared);
            storage.widen(open(), Claim::Peek).unwrap();
            assert_eq!(is_free(), !shared);
            drop(storage);
            assert!(is_free());
        }
        let file = tempfile::tempfile().unwrap();
        let other = file::reopen(&file, OFlags::RDWR).unwrap();
        assert!(file::try_lock(&other, SIGN, Lock::Exclusive).unwrap());
        let mut storage = storage(file, true);
        storage.bypass_cache();
        assert!(storage.why_cached().is_some(), "without the lock data stays on the way that has some");
    }
}
