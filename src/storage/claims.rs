//! Claims on backing files: which opener may use a component, among all on all hosts.
//!
//! The one seam for that. Mounts and work without a mount claim files by it, whatever keeps the claims: file locks are the first
//! implementation.

mod holder;
mod lost;

use std::error::Error as StdError;
use std::fmt::{self, Debug, Display};
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{io, iter, thread};

use crate::error::{Error, Kind, Result};
use crate::sys::file::{self, Lock};

pub use holder::Holder;
pub use lost::Lost;
pub(super) use lost::may_be_sign;

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
    /// The file, to read what others may be writing: its header and its key stay as they are.
    Peek,
    /// The file's data, to write them: the one writer, beside any number of [`Peek`](Self::Peek).
    Writer,
    /// The file, which nobody writes in the meantime.
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
    /// That of a file in use. A first write to a disk in transition changes more than what is written, so nobody else may use it
    /// in the meantime.
    pub fn in_use(access: Access, is_in_transition: bool) -> Self {
        match access {
            _ if is_in_transition => access.into(),
            Access::Read => Self::Peek,
            Access::Write => Self::Writer,
        }
    }
}

/// The cause of an error that passes when another opener closes the file, or ends what it does to it.
#[derive(Debug)]
pub struct InUse {
    /// Who has the claim that excludes another one, if that is known.
    pub holder: Option<Holder>,
}

impl InUse {
    /// Whether an operation ended with this.
    pub fn ended(error: &Error) -> bool {
        caused_by::<Self>(error)
    }
}

fn caused_by<C: StdError + 'static>(error: &Error) -> bool {
    let mut causes = iter::successors(StdError::source(error), |&cause| cause.source());
    causes.any(|cause| cause.is::<C>())
}

impl Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.holder {
            Some(holder) => Display::fmt(holder, f),
            None => f.write_str("another mount, process or host has it open"),
        }
    }
}

impl StdError for InUse {}

impl Claim {
    /// The error of a claim that was refused, by what `holder` finds.
    pub(super) fn refused(self, holder: impl FnOnce() -> Option<Holder>) -> Error {
        match self {
            Self::Peek | Self::Writer | Self::Shared | Self::Exclusive => {
                Error::with_source(Kind::Busy, "in use", InUse { holder: holder() })
            }
            Self::HomeInUse => Error::new(
                Kind::Busy,
                "another process or host exchanges the keys of this VM folder's home, or converts its files",
            ),
            Self::HomeExclusive => Error::new(
                Kind::Busy,
                "a mount of another user or host, or one that cannot be asked, uses the VM folder: unmount it there first",
            ),
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

    /// Whether another opener has claimed the file for more than a peek.
    ///
    /// # Errors
    /// The system's.
    fn is_data_claimed(&self, file: &File) -> io::Result<bool>;

    /// Another opener that has claimed the file for more than a peek, if there is one and its name is known.
    fn holder(&self, file: &File) -> Option<Holder>;

    /// Whether what keeps the claims has lost those that were made through this file, or such a [`second_way`](Self::second_way).
    fn are_lost(&self, file: &File) -> bool;

    /// Lets a claimed file that was opened once more fail, too, when its claims are lost.
    ///
    /// # Errors
    /// The system's.
    fn second_way(&self, file: &File) -> io::Result<()>;
}

/// Claims as locks of the open file description. On NFSv4 and cluster file systems they hold across hosts.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileLocks;

/// The same, of a mount: its mountpoint is shown to those who are refused.
#[derive(Clone, Debug)]
pub struct MountLocks {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Whether other hosts may use the files: then the file system may lose claims.
    pub shared: bool,
}

/// Data are claimed below this byte, the header and the key from here on. Locks are on numbers: what a file has there, or whether,
/// does not matter.
const HEADER_START: i64 = 1 << 61;
/// First byte of a home's lock, after all bytes of the file's.
const HOME_START: i64 = 1 << 62;
const DATA: Range<i64> = 0..HEADER_START;
const HEADER: Range<i64> = HEADER_START..HOME_START;
const HOME: Range<i64> = HOME_START..HOME_START + 1;

impl Claims for FileLocks {
    fn try_claim(&self, file: &File, claim: Claim) -> io::Result<bool> {
        claim.try_lock(file, Path::new(""))
    }

    fn is_unclaimed(&self, file: &File) -> io::Result<bool> {
        file::is_unlocked(file, 0..HOME_START)
    }

    fn is_data_claimed(&self, file: &File) -> io::Result<bool> {
        file::is_unlocked(file, DATA).map(|is_free| !is_free)
    }

    fn holder(&self, file: &File) -> Option<Holder> {
        Holder::of(file)
    }

    fn are_lost(&self, _: &File) -> bool {
        false // they end with the host
    }

    fn second_way(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

impl Claims for MountLocks {
    fn try_claim(&self, file: &File, claim: Claim) -> io::Result<bool> {
        claim.try_lock(file, &self.mountpoint)
    }

    fn is_unclaimed(&self, file: &File) -> io::Result<bool> {
        FileLocks.is_unclaimed(file)
    }

    fn is_data_claimed(&self, file: &File) -> io::Result<bool> {
        FileLocks.is_data_claimed(file)
    }

    fn holder(&self, file: &File) -> Option<Holder> {
        FileLocks.holder(file)
    }

    fn are_lost(&self, file: &File) -> bool {
        self.shared && lost::is_given_up(file)
    }

    fn second_way(&self, file: &File) -> io::Result<()> {
        if self.shared { lost::mark(file) } else { Ok(()) }
    }
}

impl Claim {
    fn try_lock(self, file: &File, mountpoint: &Path) -> io::Result<bool> {
        let (header, data) = match self {
            Self::Peek => (Lock::Shared, Lock::None),
            Self::Writer => (Lock::Shared, Lock::Exclusive),
            Self::Shared => (Lock::Shared, Lock::Shared),
            Self::Exclusive => (Lock::Exclusive, Lock::Exclusive),
            Self::HomeInUse => return file::try_lock(file, HOME, Lock::Shared),
            Self::HomeExclusive => return file::try_lock(file, HOME, Lock::Exclusive),
        };
        let is_claimed = file::try_lock(file, HEADER, header)? && file::try_lock(file, DATA, data)?;
        if is_claimed {
            // Whatever is wrong with a name, the claim holds.
            let _ = match data {
                Lock::None => holder::hide(file),
                Lock::Shared | Lock::Exclusive => Holder::this_process(mountpoint).show(file),
            };
        } else if header == Lock::Exclusive {
            file::try_lock(file, HEADER, Lock::Shared)?;
        }
        Ok(is_claimed)
    }
}

/// How long who waits for a claim lets pass between two tries.
pub const LOCAL_PAUSE: Duration = Duration::from_millis(5);
/// The same where each try is a request to a server.
pub const SHARED_PAUSE: Duration = Duration::from_millis(20);

/// Does `task` again, for at most `time`, while what it claims is in use.
///
/// # Errors
/// Those of `task`.
pub fn wait_for_claim<T>(time: Duration, task: impl Fn() -> Result<T>) -> Result<T> {
    retry_while((time, LOCAL_PAUSE), |error: &Error| error.kind() == Kind::Busy, task)
}

/// Does `task` again, for at most `time`, with a pause before each try, while it ends with an error that `passes`.
///
/// # Errors
/// Those of `task`.
pub fn retry_while<T, E>(
    (time, pause): (Duration, Duration),
    passes: impl Fn(&E) -> bool,
    mut task: impl FnMut() -> std::result::Result<T, E>,
) -> std::result::Result<T, E> {
    let start = Instant::now();
    loop {
        match task() {
            Err(error) if passes(&error) && start.elapsed() < time => thread::sleep(pause),
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

    /// Which claims two openers may have at once.
    #[test]
    fn one_writer_beside_peekers_and_stable_readers_without_a_writer() {
        use Claim::{Exclusive, Peek, Shared, Writer};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let together = [(Peek, Peek), (Peek, Writer), (Peek, Shared), (Shared, Shared)];
        for first in [Peek, Writer, Shared, Exclusive] {
            for second in [Peek, Writer, Shared, Exclusive] {
                let expected = together.contains(&(first, second)) || together.contains(&(second, first));
                let (one, other) = (open(), open());
                assert!(FileLocks.try_claim(&one, first).unwrap());
                assert_eq!(FileLocks.try_claim(&other, second).unwrap(), expected, "{first:?}, then {second:?}");
                drop((one, other));
                // The same with claims that were other ones before.
                let (one, other) = (open(), open());
                assert!(FileLocks.try_claim(&one, Exclusive).unwrap());
                assert!(FileLocks.try_claim(&one, first).unwrap(), "{first:?} instead of the exclusive one");
                let is_there = second == Peek || FileLocks.try_claim(&other, Peek).unwrap();
                let is_claimed = is_there && FileLocks.try_claim(&other, second).unwrap();
                assert_eq!(is_claimed, expected, "{first:?}, then {second:?} instead of Peek");
                if second != Peek && is_there && !is_claimed {
                    assert!(FileLocks.try_claim(&open(), Peek).unwrap(), "a refused claim leaves what was there");
                }
            }
        }
    }
}
