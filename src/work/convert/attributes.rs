//! What a file is beside its content: mode, owner, times and extended attributes, carried from one file to another.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Gid, Mode, Stat, Timestamps, Uid};

use crate::error::{Context, Kind, Result};
use crate::format::home_file::FileId;
use crate::store::home_file::{HomeKeys, Value, open_value, seal_value};
use crate::sys::file::proc_entry;
use crate::text::Show;
use crate::vm::acl;
use crate::vm::attributes::{give_owner, set_xattr, times_after, times_of, xattr, xattr_names};

const USER: &[u8] = b"user.";

/// How the values of `user.` xattrs are kept.
#[derive(Clone, Copy)]
pub(super) enum Sealing<'k> {
    /// As they are.
    Clear,
    /// Sealed by a home, bound to a file's id if it has one.
    By(&'k HomeKeys, Option<FileId>),
    /// As long as if sealed, by this many bytes more: to try whether they fit.
    Grown(usize),
}

impl Sealing<'_> {
    /// A stored value as programs see it.
    fn open(self, name: &OsStr, stored: Vec<u8>) -> Result<Vec<u8>> {
        match self {
            Self::By(keys, file) if is_user(name) => {
                open_value(keys, &Value::Xattr { file, name: name.as_bytes() }, &stored)
                    .context(|| format!("extended attribute {}", name.shown()))
            }
            Self::By(..) | Self::Clear | Self::Grown(_) => Ok(stored),
        }
    }

    /// What is stored of a value.
    fn seal(self, name: &OsStr, value: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::By(keys, file) if is_user(name) => {
                seal_value(keys, &Value::Xattr { file, name: name.as_bytes() }, value)
                    .context(|| format!("extended attribute {}", name.shown()))
            }
            Self::Grown(bytes) if is_user(name) => Ok([value, &vec![0; bytes]].concat()),
            Self::By(..) | Self::Clear | Self::Grown(_) => Ok(value.to_vec()),
        }
    }
}

/// What becomes of the time of last change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ChangeTime {
    /// It stays.
    Kept,
    /// It is now, and later by a second at least: a program that copies by size and time would not take other bytes of the same length.
    Later,
}

impl ChangeTime {
    /// The times of what takes the place of something with these attributes.
    pub(super) fn times(self, stat: &Stat) -> Timestamps {
        match self {
            Self::Kept => times_of(stat),
            Self::Later => times_after(stat),
        }
    }
}

/// Everything of a file or directory that is not content, with `user.` values as programs see them.
pub(super) struct Attributes {
    stat: Stat,
    acls: Vec<(OsString, Vec<u8>)>,
    /// All others.
    xattrs: Vec<(OsString, Vec<u8>)>,
    /// Values that are not this home's, as they are stored.
    foreign: Vec<(OsString, Vec<u8>)>,
}

impl Attributes {
    /// Reads them all.
    ///
    /// # Errors
    /// `Corrupt` for a sealed value that does not open, or `Io`.
    pub(super) fn read(file: &File, sealing: Sealing<'_>) -> Result<Self> {
        let stat = rustix::fs::fstat(file).context(|| "reading attributes".into())?;
        let mut xattrs = Vec::new();
        for name in xattr_names(file)? {
            let value = sealing.open(&name, xattr(file, &name)?)?;
            xattrs.push((name, value));
        }
        let (acls, xattrs) = xattrs.into_iter().partition(|(name, _)| acl::is_acl(name));
        Ok(Self { stat, acls, xattrs, foreign: Vec::new() })
    }

    /// Reads them all; sealed values that do not open are kept as they are.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn read_with_foreign(file: &File, sealing: Sealing<'_>) -> Result<Self> {
        let mut read = Self::read(file, Sealing::Clear)?;
        for (name, stored) in std::mem::take(&mut read.xattrs) {
            match sealing.open(&name, stored.clone()) {
                Ok(value) => read.xattrs.push((name, value)),
                Err(error) if error.kind() == Kind::Corrupt => read.foreign.push((name, stored)),
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    /// Gives them all to another file. The owner before the mode and the capabilities, both of which it would clear; the
    /// permissions when all else is set, which they may forbid; the times last.
    ///
    /// # Errors
    /// `E2BIG` for a value that cannot be sealed, or `Io`.
    pub(super) fn give(&self, file: &File, sealing: Sealing<'_>, time: ChangeTime) -> Result<()> {
        give_owner(&self.stat, file)?;
        for (name, value) in &self.xattrs {
            set_xattr(file, name, &sealing.seal(name, value)?)?;
        }
        self.foreign.iter().try_for_each(|(name, stored)| set_xattr(file, name, stored))?;
        acl::give_permissions(&self.stat, &self.acls, file)?;
        rustix::fs::futimens(file, &time.times(&self.stat)).context(|| "setting times".into())
    }

    /// Gives only the values that a home seals, as long as `sealing` makes each.
    ///
    /// # Errors
    /// As [`give`](Self::give).
    pub(super) fn give_user_xattrs<'k>(
        &self,
        file: &File,
        sealing: impl Fn(&OsStr, &[u8]) -> Sealing<'k>,
    ) -> Result<()> {
        let mut values = self.xattrs.iter().filter(|(name, _)| is_user(name));
        values.try_for_each(|(name, value)| set_xattr(file, name, &sealing(name, value).seal(name, value)?))
    }

    /// Whether there are neither xattrs nor ACLs.
    pub(super) fn are_plain(&self) -> bool {
        self.xattrs.is_empty() && self.acls.is_empty()
    }

    /// Whether a value is there that a home would seal.
    pub(super) fn has_user_xattrs(&self) -> bool {
        self.xattrs.iter().any(|(name, _)| is_user(name))
    }
}

/// Whether the value of a directory's xattr is one that this home sealed.
pub(super) fn is_sealed(keys: &HomeKeys, name: &OsStr, value: &[u8]) -> bool {
    Sealing::By(keys, None).open(name, value.to_vec()).is_ok()
}

/// Whether a directory has a sealed value of an xattr that opens to what looks like another one.
///
/// # Errors
/// `Io`.
pub(super) fn has_nested_values(dir: &File, keys: &HomeKeys) -> Result<bool> {
    for name in xattr_names(dir)?.into_iter().filter(|name| is_user(name)) {
        let opened = Sealing::By(keys, None).open(&name, xattr(dir, &name)?);
        if opened.is_ok_and(|value| is_sealed(keys, &name, &value)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Converts the `user.` xattrs of something that is not replaced, one after the other; those that have the new form already
/// stay. `first` is done before any changes, so that a run that takes up this one need not know of it. Returns whether any changed.
///
/// # Errors
/// `E2BIG` for a value that cannot be sealed, those of `first`, or `Io`.
pub(super) fn convert_in_place(
    file: &File,
    from: Sealing<'_>,
    to: Sealing<'_>,
    first: impl Fn() -> Result<()>,
) -> Result<bool> {
    let mut changed = false;
    for name in xattr_names(file)?.into_iter().filter(|name| is_user(name)) {
        let stored = xattr(file, &name)?;
        let is_done = matches!(to, Sealing::By(..)) && to.open(&name, stored.clone()).is_ok();
        if !is_done && let Ok(value) = from.open(&name, stored) {
            if !changed {
                first()?;
            }
            set_xattr(file, &name, &to.seal(&name, &value)?)?;
            changed = true;
        }
    }
    Ok(changed)
}

/// Whether all `user.` xattrs have this form.
///
/// # Errors
/// `Io`.
pub(super) fn all_open(file: &File, sealing: Sealing<'_>) -> Result<bool> {
    for name in xattr_names(file)?.into_iter().filter(|name| is_user(name)) {
        if sealing.open(&name, xattr(file, &name)?).is_err() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives the owner and the times of a symbolic link, `stat`, to another one in an open directory.
///
/// # Errors
/// `Io`.
pub(super) fn give_to_link(stat: &Stat, dir: &File, name: &OsStr, time: ChangeTime) -> Result<()> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(dir, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
        .and_then(|()| rustix::fs::utimensat(dir, name, &time.times(stat), AtFlags::SYMLINK_NOFOLLOW))
        .context(|| "giving a symbolic link its owner and times".into())
}

/// Gives the owner, the ACL, the mode and the times of a fifo, socket or device, `stat`, to another one. Both handles are good
/// only for attributes.
///
/// # Errors
/// `Io`.
pub(super) fn give_to_special(stat: &Stat, from: &File, to: &File) -> Result<()> {
    let owner = (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    rustix::fs::chownat(to, "", owner.0, owner.1, AtFlags::EMPTY_PATH).context(|| "setting the owner".into())?;
    acl::copy(from, to)?;
    rustix::fs::chmod(proc_entry(to), Mode::from_raw_mode(stat.st_mode & 0o7777))
        .and_then(|()| rustix::fs::utimensat(to, "", &times_of(stat), AtFlags::EMPTY_PATH))
        .context(|| "setting mode and times".into())
}

pub(super) fn is_user(name: &OsStr) -> bool {
    name.as_bytes().starts_with(USER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::random;
    use crate::error::Error;

    /// A run that stops between the two is taken up by one that finds the values done: what had to be first was done then.
    #[test]
    fn no_value_changes_before_what_must_be_first() {
        let folder = tempfile::tempdir().unwrap();
        let dir = File::open(folder.path()).unwrap();
        let [old, new] = [(); 2].map(|()| HomeKeys::new(&random::home_dek().unwrap()).unwrap());
        let (name, old, new) = (OsStr::new("user.note"), Sealing::By(&old, None), Sealing::By(&new, None));
        set_xattr(&dir, name, &old.seal(name, b"text").unwrap()).unwrap();
        let stop = || Err(Error::new(Kind::Stopped, "stopped"));
        assert_eq!(convert_in_place(&dir, old, new, stop).unwrap_err().kind(), Kind::Stopped);
        assert_eq!(old.open(name, xattr(&dir, name).unwrap()).unwrap(), b"text");
        assert!(convert_in_place(&dir, old, new, || Ok(())).unwrap());
        assert_eq!(new.open(name, xattr(&dir, name).unwrap()).unwrap(), b"text");
        assert!(!convert_in_place(&dir, old, new, stop).unwrap(), "nothing is left to do");
    }
}
