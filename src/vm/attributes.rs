//! Owner, permissions, times and extended attributes of files, as the system has them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Gid, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use crate::text::Show;
use crate::timestamp::Timestamp;

/// Linux's limit on a value and on the list of names, in bytes.
pub(crate) const XATTR_MAX: usize = 65_536;

/// The times that `stat` tells.
pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// The times of what takes the place of something with these attributes and may have the same length: changed now, and later than
/// that by a second at least. What copies files by size and time mostly compares whole seconds.
pub(crate) fn times_after(stat: &Stat) -> Timestamps {
    let mut times = times_of(stat);
    times.last_modification.tv_sec += 1;
    if let Ok(now) = Timespec::try_from(Timestamp::now().since_1970())
        && now.tv_sec >= times.last_modification.tv_sec
    {
        times.last_modification = now;
    }
    times
}

/// Gives a file or directory the times that `stat` tells.
///
/// # Errors
/// `Io`.
pub(crate) fn give_times(stat: &Stat, file: &File) -> Result<()> {
    rustix::fs::futimens(file, &times_of(stat)).context(|| "setting times".into())
}

/// Gives a file or directory the owner that `stat` tells. Only where it is another one, which only root may set. This
/// clears some bits of the mode, and capabilities.
///
/// # Errors
/// `Io`.
pub(crate) fn give_owner(stat: &Stat, file: &File) -> Result<()> {
    let made = rustix::fs::fstat(file).context(|| "reading attributes".into())?;
    if (made.st_uid, made.st_gid) == (stat.st_uid, stat.st_gid) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(file, Some(uid), Some(gid))
        .context(|| format!("giving the file to user {}, group {}", stat.st_uid, stat.st_gid))
}

/// Names of all xattrs; none where the file system has none.
///
/// # Errors
/// `Io`.
pub(crate) fn xattr_names(file: &File) -> Result<Vec<OsString>> {
    let mut list = vec![0_u8; XATTR_MAX];
    let len = match rustix::fs::flistxattr(file, list.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(Error::errno("listing extended attributes", error)),
    };
    let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_os_string()).collect())
}

/// The value of an xattr as it is stored.
///
/// # Errors
/// `Io`.
pub(crate) fn xattr(file: &File, name: &OsStr) -> Result<Vec<u8>> {
    let mut value = vec![0; XATTR_MAX];
    let len = rustix::fs::fgetxattr(file, name, value.as_mut_slice())
        .context(|| format!("reading extended attribute {}", name.shown()))?;
    value.truncate(len);
    Ok(value)
}

/// Stores the value of an xattr. One that the system gives to each new file, such as a label, need not be set again, which it
/// may forbid.
///
/// # Errors
/// `Io`.
pub(crate) fn set_xattr(file: &File, name: &OsStr, value: &[u8]) -> Result<()> {
    match rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) if xattr(file, name).is_ok_and(|found| found == value) => {
            Ok(())
        }
        Err(error) => Err(Error::errno(format!("setting extended attribute {}", name.shown()), error)),
    }
}
