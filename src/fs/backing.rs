//! The backing directory tree, reached by paths below its root that can never leave it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, Stat, Timestamps};
use rustix::fs::{Gid, Uid};

use crate::error::{Context, Result};
use crate::sys::file::open_beneath;

/// The root of all that a mount shows.
pub(super) struct Backing(File);

impl Backing {
    pub(super) fn new(root: File) -> Self {
        Self(root)
    }

    pub(super) fn root(&self) -> &File {
        &self.0
    }

    /// A directory, for operations on names in it.
    pub(super) fn dir(&self, path: &Path) -> Result<File> {
        open_beneath(&self.0, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .context(|| format!("opening folder {}", path.display()))
    }

    /// A regular file. `NONBLOCK` keeps a fifo that was put in its place from stopping us.
    pub(super) fn file(&self, path: &Path, flags: OFlags) -> Result<File> {
        open_beneath(&self.0, path, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty())
            .context(|| format!("opening {}", path.display()))
    }

    /// A handle on anything, good for attributes alone.
    pub(super) fn any(&self, path: &Path) -> Result<File> {
        open_beneath(&self.0, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
            .context(|| format!("opening {}", path.display()))
    }
}

pub(super) fn stat(file: &File) -> Result<Stat> {
    rustix::fs::fstat(file).map_err(io::Error::from).context(|| "reading attributes".into())
}

pub(super) fn stat_at(dir: &File, name: &OsStr) -> Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)
        .context(|| format!("reading attributes of {}", name.display()))
}

/// Changes permission bits through any handle. `fchmod` refuses handles that are good for attributes alone, but their
/// entry under /proc leads to the same file, whatever name it has by now.
pub(super) fn set_mode(file: &File, mode: u32) -> Result<()> {
    use std::os::fd::AsRawFd;
    let entry = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmod(entry, Mode::from_raw_mode(mode & 0o7777))
        .map_err(io::Error::from)
        .context(|| format!("setting mode {mode:o}"))
}

pub(super) fn set_owner(file: &File, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    rustix::fs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH)
        .map_err(io::Error::from)
        .context(|| "setting the owner".into())
}

pub(super) fn set_times(file: &File, times: &Timestamps) -> Result<()> {
    rustix::fs::utimensat(file, "", times, AtFlags::EMPTY_PATH)
        .map_err(io::Error::from)
        .context(|| "setting times".into())
}

pub(super) fn remove(dir: &File, name: &OsStr, flags: AtFlags) -> Result<()> {
    rustix::fs::unlinkat(dir, name, flags).map_err(io::Error::from).context(|| format!("removing {}", name.display()))
}

pub(super) fn make_dir(dir: &File, name: &OsStr, mode: u32) -> Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777))
        .map_err(io::Error::from)
        .context(|| format!("creating folder {}", name.display()))
}

pub(super) fn rename(from: (&File, &OsStr), to: (&File, &OsStr), flags: RenameFlags) -> Result<()> {
    rustix::fs::renameat_with(from.0, from.1, to.0, to.1, flags)
        .map_err(io::Error::from)
        .context(|| format!("renaming {} to {}", from.1.display(), to.1.display()))
}
