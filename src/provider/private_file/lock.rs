//! Locks that belong to private files. They lie beside them, since a file that is replaced takes its lock with it.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::{FILE_MODE, beside};
use crate::error::{Context, Error, Kind, Result};
use crate::text::Show;

/// How often a lock that is waited for is looked at.
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until no other process holds the lock that belongs to `path`; it is released when the file is closed.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let lock = beside(path, ".lock");
    open_lock(&lock).and_then(|file| file.lock().map(|()| file)).context(|| format!("locking {}", lock.shown()))
}

/// Takes the lock that belongs to `path`; `None` where another process holds it.
///
/// # Errors
/// `Io`.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    let lock = beside(path, ".lock");
    let locking = || format!("locking {}", lock.shown());
    let file = open_lock(&lock).context(locking)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context(locking),
    }
}

/// As [`lock`], for `time` at most.
///
/// # Errors
/// `Busy` when another process has held it for that long, `Io`.
pub(crate) fn lock_within(time: Duration, path: &Path) -> Result<File> {
    let begun = Instant::now();
    loop {
        match try_lock(path)? {
            Some(file) => return Ok(file),
            None if begun.elapsed() < time => thread::sleep(LOCK_INTERVAL),
            None => {
                let lock = beside(path, ".lock");
                let found = format!("{}: another process has held this lock for {} s", lock.shown(), time.as_secs());
                return Err(Error::new(Kind::Busy, found));
            }
        }
    }
}

fn open_lock(lock: &Path) -> io::Result<File> {
    // Neither a file elsewhere, nor a FIFO that would be waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    File::options().write(true).create(true).truncate(false).mode(FILE_MODE).custom_flags(flags).open(lock)
}
