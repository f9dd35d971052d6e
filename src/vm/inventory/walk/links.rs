//! Symbolic links: where they lead is looked at once, after all that lies below the folder itself.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Place, Walk, classify, mount_of, open, stat, too_deep};
use crate::error::{Context, Error, Kind, Result};
use crate::sys::file::kind_of;
use crate::sys::mount_table;
use crate::vm::inventory::{MAX_DEPTH, What};

/// What is known while links are followed.
#[derive(Default)]
pub(super) struct Followed {
    /// Links that are still to be followed: path, depth, and whether the name is a reserved one.
    pub(super) waiting: Vec<(PathBuf, usize, bool)>,
    /// Device and inode number of what was looked at.
    pub(super) seen: HashSet<(u64, u64)>,
    /// Whether links are followed now, rather than what lies below the folder looked at.
    under_way: bool,
}

impl Followed {
    /// Whether this was looked at before. Below the folder itself, where nothing leads in circles, everything is looked at.
    pub(super) fn is_known(&self, stat: &Stat) -> bool {
        self.under_way && self.seen.contains(&(stat.st_dev, stat.st_ino))
    }
}

impl Walk<'_> {
    /// Adds what the links lead to, and those that are found on the way. What cannot be looked at is an entry all the same.
    pub(super) fn follow_links(&mut self) {
        while let Some((path, depth, reserved)) = self.next_link().filter(|_| self.stopped.is_none()) {
            let place = Place { path: &path, depth, reserved, vm: None, disk_names: self.disk_names };
            let before = self.entries.len();
            if let Err(error) = self.follow(&place) {
                self.entries.truncate(before);
                self.add_unseen(&place, What::Unreadable(error));
            }
        }
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
    }

    fn next_link(&mut self) -> Option<(PathBuf, usize, bool)> {
        let followed = self.followed.as_mut()?;
        followed.under_way = true;
        followed.waiting.pop()
    }

    fn follow(&mut self, place: &Place<'_>) -> Result<()> {
        let target = match self.open_target(place.path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => return Ok(()), // it leads nowhere
            target => target.context(|| "following a symbolic link".into())?,
        };
        let its_mount = mount_of(&target)?;
        if mount_table::leads_to_ours(its_mount).context(|| "reading the table of mounts".into())? {
            self.add_unseen(place, What::Mount);
            return Ok(());
        }
        let stat = stat(&target)?;
        if self.followed.as_ref().is_some_and(|followed| followed.is_known(&stat)) {
            return Ok(());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if place.depth > MAX_DEPTH => Err(too_deep()),
            FileType::Directory if self.is_below(&target)? => {
                Err(Error::new(Kind::Unsupported, "a symbolic link to a folder above, which was not looked at"))
            }
            FileType::Directory => {
                let dir = open(&target, OsStr::new("."), OFlags::RDONLY | OFlags::DIRECTORY)?;
                self.folder(&dir, its_mount, stat, place)
            }
            FileType::RegularFile => {
                let file = self.open_target(place.path, OFlags::RDONLY | OFlags::NONBLOCK);
                let file = file.context(|| "opening it".into())?;
                let what = classify(file, place.path.file_name().unwrap_or_default(), place.disk_names)?;
                self.add(place, stat, what);
                Ok(())
            }
            kind @ (FileType::Symlink
            | FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => {
                self.add(place, stat, What::Special(kind_of(kind)));
                Ok(())
            }
        }
    }

    fn open_target(&self, path: &Path, flags: OFlags) -> rustix::io::Result<File> {
        rustix::fs::openat(self.root, path, flags | OFlags::CLOEXEC, Mode::empty()).map(File::from)
    }

    /// Whether the folder at which all began lies below this one.
    fn is_below(&self, above: &File) -> Result<bool> {
        Ok(path_of(self.root)?.starts_with(path_of(above)?))
    }
}

fn path_of(file: &File) -> Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).context(|| "finding the path of a folder".into())
}
