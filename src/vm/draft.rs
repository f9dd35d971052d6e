//! Something that is made under a temporary name, and gets its own name once it is whole.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::crypto::derive::sha256;
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::NEW_PREFIX;
use crate::sys::file::{folder_beneath, is_at, proc_entry};
use crate::text::Show;

/// A temporary name in a directory. What has it is removed with this, unless it got its own name.
pub(crate) struct Draft<'d> {
    dir: &'d File,
    /// Empty once it has its own.
    name: OsString,
    /// Of what is made, if it is a folder.
    folder: Option<File>,
}

impl<'d> Draft<'d> {
    /// A name that is free. By `kind`, its beginning, a later run knows what an interrupted one left.
    ///
    /// # Errors
    /// `Io` without random numbers.
    pub(crate) fn new(dir: &'d File, kind: &str) -> Result<Self> {
        Ok(Self { dir, name: format!("{NEW_PREFIX}{kind}{}", random::uuid()?).into(), folder: None })
    }

    /// Makes an empty folder that is to get the name `own`, locked against others that make one for that. What an interrupted
    /// attempt at it left is removed: its temporary name is the same for each.
    ///
    /// # Errors
    /// `Busy` when another process makes one, or `Io`.
    pub(crate) fn of_folder(dir: &'d File, kind: &str, own: &OsStr) -> Result<Self> {
        let hash = data_encoding::HEXLOWER.encode(&sha256(own.as_bytes())[..16]);
        let name = OsString::from(format!("{NEW_PREFIX}{kind}{hash}"));
        let busy = || Error::new(Kind::Busy, format!("another process makes {} now", own.shown()));
        let open = || folder_beneath(dir, Path::new(&name));
        if let Ok(left) = open() {
            if !lock(&left, dir, &name)? {
                return Err(busy());
            }
            remove(dir, &name).context(|| format!("removing {}, which was left unfinished", name.shown()))?;
        }
        match rustix::fs::mkdirat(dir, &name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => return Err(busy()),
            made => made.context(|| format!("making {}", name.shown()))?,
        }
        let folder = open().map_err(|_| busy())?;
        if lock(&folder, dir, &name)? { Ok(Self { dir, name, folder: Some(folder) }) } else { Err(busy()) }
    }

    /// The folder that is made.
    ///
    /// # Errors
    /// `Invalid` for a file.
    pub(crate) fn folder(&self) -> Result<&File> {
        self.folder.as_ref().ok_or_else(|| Error::new(Kind::Invalid, "a file is made, and no folder"))
    }

    /// The directory that it is made in.
    pub(crate) fn dir(&self) -> &File {
        self.dir
    }

    /// The temporary name.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Makes an empty file of that name.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn make_file(&self, mode: Mode) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir, &self.name, flags, mode).context(|| "making a new file".into())?;
        Ok(File::from(file))
    }

    /// Opens the file again, for reading.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn open(&self) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.dir, &self.name, flags, Mode::empty());
        file.map(File::from).context(|| "opening the new file again".into())
    }

    /// Gives it its own name, in place of what has that now.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn replace(mut self, dir: &File, name: &OsStr) -> Result<()> {
        rustix::fs::renameat(self.dir, &self.name, dir, name).context(|| "giving the new file its name".into())?;
        self.name.clear();
        Ok(())
    }

    /// Gives it its own name in its directory, which must be free.
    ///
    /// # Errors
    /// `Exists`, or `Io`.
    pub(crate) fn publish(mut self, name: &OsStr) -> Result<()> {
        let renamed = match rustix::fs::renameat_with(self.dir, &self.name, self.dir, name, RenameFlags::NOREPLACE) {
            // Some network file systems cannot refuse to replace; a link of that name can.
            Err(Errno::INVAL | Errno::NOSYS) if self.folder.is_some() => {
                // An empty folder is all that could be replaced.
                rustix::fs::renameat(self.dir, &self.name, self.dir, name)
            }
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(self.dir, &self.name, self.dir, name, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty()))
            }
            renamed => renamed,
        };
        match renamed {
            Err(Errno::EXIST) => Err(taken(name)),
            renamed => {
                renamed.context(|| format!("giving {} its name", name.shown()))?;
                self.name.clear();
                Ok(())
            }
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // The error at hand says more than that this could not be removed; the next run removes it.
            let _ = match self.folder {
                None => rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty()).map_err(Into::into),
                Some(_) => remove(self.dir, &self.name),
            };
        }
    }
}

/// Removes a folder with all that it holds.
fn remove(dir: &File, name: &OsStr) -> std::io::Result<()> {
    fs::remove_dir_all(Path::new(&proc_entry(dir)).join(name))
}

/// Locks a folder that is made; `false` when another process has it, or removed it between its opening and the lock.
fn lock(made: &File, dir: &File, name: &OsStr) -> Result<bool> {
    match rustix::fs::flock(made, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(false),
        locked => locked.context(|| "locking the new folder".into())?,
    }
    is_at(dir, Path::new(name), made).context(|| format!("looking for {}", name.shown()))
}

/// What a new file is refused with whose name another one has.
pub(crate) fn taken(name: &OsStr) -> Error {
    Error::new(Kind::Exists, format!("{} exists already", name.shown()))
}
