//! From our errors to what a system call returns. The one place that logs a refused request.

use std::fmt;

use fuser::Errno;

use crate::error::{Error, Kind};
use crate::event::limit;
use crate::fs::{FileSystem, NodeNumber};

/// An operation, and the node that it is on, for messages.
pub(super) struct On<'a>(pub(super) &'static str, pub(super) &'a FileSystem, pub(super) NodeNumber);

impl fmt::Display for On<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.1.name(self.2))
    }
}

/// Logs why a request is refused and says it in an errno.
pub(super) fn refuse(operation: On<'_>, error: &Error) -> Errno {
    let (chain, errno) = (error.chain(), errno(error));
    // Data fails block by block, with a text for each; what else fails, fails for a reason that its text names.
    let kind = if matches!(operation.0, "read" | "write") { errno.code().to_string() } else { chain.clone() };
    let expected = match error.kind() {
        Kind::Corrupt | Kind::KeyRejected | Kind::Busy | Kind::Denied | Kind::KeyUnavailable | Kind::Unsupported => {
            false
        }
        // Programs ask for files that do not exist, or that they may not have, all the time; a failing or full disk is noteworthy.
        Kind::Exists | Kind::Invalid | Kind::NotFound | Kind::ReadOnly | Kind::Stopped => true,
        Kind::Io => error.os_error().is_some_and(|number| !NOTEWORTHY.contains(&number)),
    };
    if expected {
        tracing::debug!("{operation}: {chain}");
    } else if limit::allows_line(operation.to_string(), kind, &chain) {
        if matches!(error.kind(), Kind::Corrupt | Kind::KeyRejected) {
            tracing::error!("{operation}: {chain}");
        } else {
            tracing::warn!("{operation}: {chain}");
        }
    }
    errno
}

/// Errors of the system below, as opposed to requests that a program made in vain.
const NOTEWORTHY: [i32; 7] =
    [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::ENOMEM, libc::EMFILE, libc::ENFILE, libc::EBADF];

/// Exhaustive on purpose: a new kind must choose its errno here.
fn errno(error: &Error) -> Errno {
    match error.kind() {
        Kind::Busy => Errno::EBUSY,
        Kind::Corrupt => Errno::EIO,
        Kind::Denied => error.os_error().map_or(Errno::EPERM, Errno::from_i32),
        Kind::Exists => Errno::EEXIST,
        Kind::Invalid => Errno::EINVAL,
        Kind::Io => error.os_error().map_or(Errno::EIO, Errno::from_i32), // ENOSPC must arrive as ENOSPC
        Kind::KeyRejected => Errno::from_i32(libc::EKEYREJECTED),
        Kind::KeyUnavailable => Errno::from_i32(libc::ENOKEY), // as fscrypt does for a file whose key is absent
        Kind::NotFound => Errno::ENOENT,
        Kind::ReadOnly => Errno::EROFS,
        Kind::Stopped => Errno::EINTR,
        Kind::Unsupported => Errno::EOPNOTSUPP,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_of_the_system_is_kept() {
        for number in [libc::ENOSPC, libc::EIO, libc::ENOTEMPTY, libc::EXDEV, libc::EACCES, libc::EDQUOT] {
            let error = Error::errno("writing", rustix::io::Errno::from_raw_os_error(number));
            assert_eq!(errno(&error).code(), number);
        }
    }

    #[test]
    fn locked_component_is_enokey() {
        assert_eq!(errno(&Error::new(Kind::KeyUnavailable, "locked")).code(), libc::ENOKEY);
    }
}
