//! Claims on backing files: which opener may use a component, among all on all hosts.
//!
//! The one seam for that. Mounts and work without a mount claim files by it, whatever keeps the claims: file locks are the first
//! implementation.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Kind, Result};
use crate::sys::file;

/// What the backing file may be used for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Access {
    /// Reading only; several openers may have it.
    Read,
    /// Reading and writing; one opener, on all hosts.
    Write,
}

/// A claim on a file. Claims on the file and claims on the home whose header it is do not hinder each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// The file, together with other readers.
    Shared,
    /// The file, without any other opener.
    Exclusive,
    /// The home whose header the file is, together with others that use its keys. The header itself, whose slots change while the home
    /// is in use, is not claimed by this.
    HomeInUse,
    /// The home whose header the file is, to exchange its keys or to convert its files.
    HomeExclusive,
}

impl From<Access> for Claim {
    fn from(access: Access) -> Self {
        match access {
            Access::Read => Self::Shared,
            Access::Write => Self::Exclusive,
        }
    }
}

impl Claim {
    /// Why the claim was refused.
    pub(super) fn refusal(self) -> &'static str {
        match self {
            Self::Shared | Self::Exclusive => "in use: another mount, process or host has it open",
            Self::HomeInUse => {
                "another process or host exchanges the keys of this VM folder's home, or converts its files"
            }
            Self::HomeExclusive => {
                "a mount of another user or host, or one that cannot be asked, uses the VM folder: unmount it there first"
            }
        }
    }
}

/// What keeps claims. A claim lasts until the file that it was made through is closed.
pub trait Claims: Debug + Send + Sync {
    /// Claims a file without waiting. A claim of this file that there is already is upgraded or downgraded to this one. `false`:
    /// another opener has a claim that excludes this one; then what was claimed before stays claimed.
    ///
    /// # Errors
    /// The system's.
    fn try_claim(&self, file: &File, claim: Claim) -> io::Result<bool>;

    /// Whether no other opener has claimed the file.
    ///
    /// # Errors
    /// The system's.
    fn is_unclaimed(&self, file: &File) -> io::Result<bool>;
}

/// Claims as locks of the open file description. On NFSv4 and cluster file systems they hold across hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileLocks;

/// First byte of a home's lock, after all bytes of the file's. Locks are on numbers: what a file has there, or whether, does not matter.
const HOME_START: i64 = 1 << 62;

impl Claims for FileLocks {
    fn try_claim(&self, file: &File, claim: Claim) -> io::Result<bool> {
        let (range, is_exclusive) = match claim {
            Claim::Shared => (0..HOME_START, false),
            Claim::Exclusive => (0..HOME_START, true),
            Claim::HomeInUse => (HOME_START..HOME_START + 1, false),
            Claim::HomeExclusive => (HOME_START..HOME_START + 1, true),
        };
        file::try_lock(file, range, is_exclusive)
    }

    fn is_unclaimed(&self, file: &File) -> io::Result<bool> {
        file::is_unlocked(file, 0..HOME_START)
    }
}

/// Does `task` again, for at most `time`, while what it claims is in use.
///
/// # Errors
/// Those of `task`.
pub fn wait_for_claim<T>(time: Duration, task: impl Fn() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match task() {
            Err(error) if error.kind() == Kind::Busy && start.elapsed() < time => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_shuts_out_the_second_opener_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let try_claim = |file: &File, claim| FileLocks.try_claim(file, claim).unwrap();
        let is_unclaimed = |file: &File| FileLocks.is_unclaimed(file).unwrap();
        let first = open();
        assert!(try_claim(&first, Claim::Shared));
        assert!(try_claim(&open(), Claim::Shared), "readers share");
        assert!(try_claim(&first, Claim::Exclusive), "the other reader is closed again");
        assert!(!try_claim(&open(), Claim::Shared));
        assert!(is_unclaimed(&first), "an own claim is not someone else's");
        assert!(!is_unclaimed(&open()));
        let other = open();
        assert!(try_claim(&other, Claim::HomeExclusive), "of the home, nothing was claimed");
        assert!(!try_claim(&first, Claim::HomeInUse));
        drop(first);
        assert!(is_unclaimed(&open()), "a home is claimed, its header's file is not");
        assert!(try_claim(&open(), Claim::Exclusive));
    }
}
