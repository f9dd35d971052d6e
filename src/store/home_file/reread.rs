//! A home file that other mounts or hosts may have written: what is known of it is read again.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::home_file::{self, HEADER_LEN, Known, MAX_PLAIN_LEN};
use crate::storage::Storage;
use crate::storage::claims::{LOCAL_PAUSE, retry_while};
use crate::store::home_file::blocks::Versions;
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

    /// Reads what others may write. What is not authentic then is damage only if it stays so, and what a block was before only if its
    /// newest version never opens: the writer may have been met while it overwrote that.
    pub(super) fn read_following(&self, plain_offset: u64, len: usize, buffer: &mut [u8]) -> Result<usize> {
        if !self.follows() {
            return self.read_once(plain_offset, len, buffer).map(|(read, _)| read);
        }
        self.follow_len()?;
        let mut is_first = true;
        let read = || {
            if !std::mem::take(&mut is_first) {
                self.reread().map_err(Doubtful::Failed)?;
            }
            match self.read_once(plain_offset, len, buffer) {
                Ok((read, Versions::Newest)) => Ok(read),
                Ok((read, Versions::SomeOlder)) => Err(Doubtful::Older(read)),
                Err(error) => Err(Doubtful::Failed(error)),
            }
        };
        // A writer that is gone afterwards may have been there before.
        let was_claimed = Cell::new(true);
        let passes = |found: &Doubtful| {
            let may_settle = !matches!(found, Doubtful::Failed(error) if error.kind() != Kind::Corrupt);
            may_settle && (was_claimed.replace(self.storage.is_claimed_elsewhere()) || was_claimed.get())
        };
        match retry_while((SETTLES_WITHIN, LOCAL_PAUSE), passes, read) {
            Ok(read) | Err(Doubtful::Older(read)) => Ok(read),
            Err(Doubtful::Failed(error)) => Err(error),
        }
    }
}

/// What a reader may have met half written.
enum Doubtful {
    Failed(Error),
    /// This many bytes were read, some of them from an older version of their block.
    Older(usize),
}

/// The error of a file that others have made another one.
pub fn stale() -> Error {
    Error::errno("another mount or host has made it a new file; it has to be opened again", Errno::STALE)
}
