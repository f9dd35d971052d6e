//! Something that is made under a temporary name, and gets its own name once it is whole.

use std::ffi::{OsStr, OsString};
use std::fs::File;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::NEW_PREFIX;
use crate::text::Show;

/// A temporary name in a directory. What has it is removed with this, unless it got its own name.
pub(crate) struct Draft<'d> {
    dir: &'d File,
    /// Empty once it has its own.
    name: OsString,
}

impl<'d> Draft<'d> {
    /// A name that is free. By `kind`, its beginning, a later run knows what an interrupted one left.
    ///
    /// # Errors
    /// `Io` without random numbers.
    pub(crate) fn new(dir: &'d File, kind: &str) -> Result<Self> {
        Ok(Self { dir, name: format!("{NEW_PREFIX}{kind}{}", random::uuid()?).into() })
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
            Err(Errno::INVAL | Errno::NOSYS) => {
                rustix::fs::linkat(self.dir, &self.name, self.dir, name, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty()))
            }
            renamed => renamed,
        };
        match renamed {
            Err(Errno::EXIST) => Err(Error::new(Kind::Exists, format!("{} exists already", name.shown()))),
            renamed => {
                renamed.context(|| "giving the new file its name".into())?;
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
            let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
        }
    }
}
