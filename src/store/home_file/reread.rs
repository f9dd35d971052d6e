//! A home file that other mounts or hosts may have written: what is known of it is read again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::home_file::{self, HEADER_LEN, Known, MAX_PLAIN_LEN};
use crate::storage::Storage;
use crate::storage::claims::{LOCAL_PAUSE, retry_while};
use crate::store::home_file::{HomeFile, has_content};
use crate::store::plain_file::PlainFile;

/// For how long what is not authentic is read again while another opener writes the file: it may have been met half written.
const SETTLES_WITHIN: Duration = Duration::from_millis(500);

impl<S: Storage> HomeFile<S> {
    /// Whether others may write the file from now on, since it is only read through this.
    pub fn follow_others(&self, follows: bool) {
        self.follows.store(follows, Ordering::Release);
    }

    fn follows(&self) -> bool {
        self.follows.load(Ordering::Acquire)
    }

    /// Takes over what the backing file says by now. What was known beyond that may no longer hold.
    ///
    /// # Errors
    /// `ESTALE` when it became another file: then it has to be opened again. Else as [`open`](Self::open).
    pub fn reread(&self) -> Result<()> {
        let _guard = self.locks.exclusive(0..u64::MAX);
        let _gate = self.unsynced.syncing();
        let backing_len = self.storage.len()?;
        let mut header = [0; HEADER_LEN];
        if backing_len > 0 {
            self.storage.read_at(0, &mut header)?;
        }
        let known = match home_file::decode_header(&header)? {
            Some(header) if header.claimed_id() == self.cipher.id => self.cipher.known(header)?,
            None if backing_len == 0 => Some(Known::NOTHING),
            None if self.lost_header && !self.has_header() => return Ok(()),
            Some(_) | None => return Err(stale()),
        };
        if !self.known_lengths.reset(known) {
            return Err(stale());
        }
        self.has_header.store(backing_len > 0, Ordering::Release);
        self.unsynced.forget(has_content(backing_len));
        self.tail_unclean.store(backing_len > 0, Ordering::Release);
        self.plain_len.store(home_file::plain_len(backing_len).min(MAX_PLAIN_LEN), Ordering::Release);
        if self.plain_len() == 0 { self.refuse_cut_off() } else { Ok(()) }
    }

    /// The same for a file that is only read, if its length shows that another opener has written it.
    ///
    /// # Errors
    /// As [`reread`](Self::reread).
    pub fn follow_len(&self) -> Result<()> {
        if !self.follows() || home_file::plain_len(self.storage.len()?).min(MAX_PLAIN_LEN) == self.plain_len() {
            return Ok(());
        }
        self.reread()
    }

    /// Reads what others may write. What is not authentic then is damage only if it stays so.
    pub(super) fn read_following(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<usize> {
        if !self.follows() {
            return self.read_once(plain_offset, len, buffer);
        }
        self.follow_len()?;
        let first = self.read_once(plain_offset, len, buffer);
        if !is_corrupt(&first) {
            return first;
        }
        let passes = |error: &Error| error.kind() == Kind::Corrupt && self.storage.is_claimed_elsewhere();
        retry_while((SETTLES_WITHIN, LOCAL_PAUSE), passes, || {
            self.reread()?;
            self.read_once(plain_offset, len, buffer)
        })
    }
}

fn is_corrupt<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == Kind::Corrupt)
}

/// The error of a file that others have made another one.
pub fn stale() -> Error {
    Error::errno("another mount or host has made it a new file; it has to be opened again", Errno::STALE)
}
