//! Times and extended attributes of files, as the system has them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{Stat, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// Linux's limit on a value and on the list of names, in bytes.
const XATTR_MAX: usize = 65_536;

/// The times that `stat` tells.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanoseconds).unwrap_or(0) };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Gives a file or directory the times that `stat` tells.
///
/// # Errors
/// `Io`.
pub(super) fn give_times(stat: &Stat, file: &File) -> Result<()> {
    rustix::fs::futimens(file, &times_of(stat)).map_err(io::Error::from).context(|| "setting times".into())
}

/// Names of all xattrs; none where the file system has none.
///
/// # Errors
/// `Io`.
pub(super) fn xattr_names(file: &File) -> Result<Vec<OsString>> {
    let mut list = vec![0_u8; XATTR_MAX];
    let len = match rustix::fs::flistxattr(file, list.as_mut_slice()) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(Error::io("listing extended attributes", error.into())),
    };
    let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(|name| OsStr::from_bytes(name).to_os_string()).collect())
}

/// The value of an xattr as it is stored.
///
/// # Errors
/// `Io`.
pub(super) fn xattr(file: &File, name: &OsStr) -> Result<Vec<u8>> {
    let mut value = vec![0; XATTR_MAX];
    let len = rustix::fs::fgetxattr(file, name, value.as_mut_slice())
        .map_err(io::Error::from)
        .context(|| format!("reading extended attribute {}", name.display()))?;
    value.truncate(len);
    Ok(value)
}

/// Whether an xattr has this value.
pub(super) fn is_set(file: &File, name: &OsStr, value: &[u8]) -> bool {
    xattr(file, name).is_ok_and(|found| found == value)
}
