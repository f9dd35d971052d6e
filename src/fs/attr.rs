//! Attributes of what a mount shows.

use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::fs::NodeNumber;
use crate::fs::stat::Stat;

/// The bits of a mode that give a process that executes a file the rights of its owner or its group.
const SET_IDS: u32 = 0o6000;

/// What kind of thing has attributes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileKind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix domain socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// From the type bits of a mode; what has no name in POSIX is not a kind.
    pub(super) fn of(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::Directory => Self::Directory,
            FileType::RegularFile => Self::Regular,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Unknown => return None,
        })
    }
}

/// Attributes of the plain side.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// The node.
    pub number: NodeNumber,
    /// Tells it from another node that has, or had, its number.
    pub generation: u32,
    /// Its kind.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Space taken, in units of 512 bytes; holes take none.
    pub blocks: u64,
    /// Permission bits.
    pub mode: u16,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of a device.
    pub device: u32,
    /// Last access, last change of the content, last change of anything.
    pub times: [SystemTime; 3],
    /// Whether this may be believed for a while. What is not on disk follows the files that it is made of at once, a disk goes over to
    /// other mounts, and set-id bits go with the next write, which the kernel is not told.
    pub lasting: bool,
}

impl Attr {
    /// Attributes of a backing file or directory, with its plain size and space.
    pub(super) fn new(
        (number, generation): (NodeNumber, u32),
        kind: FileKind,
        stat: &Stat,
        size: u64,
        blocks: u64,
    ) -> Self {
        Self {
            number,
            generation,
            kind,
            size,
            blocks,
            mode: u16::try_from(stat.st_mode & 0o7777).unwrap_or(0),
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: kernel_device(stat.st_rdev),
            times: [
                time(stat.st_atime, stat.st_atime_nsec),
                time(stat.st_mtime, stat.st_mtime_nsec),
                time(stat.st_ctime, stat.st_ctime_nsec),
            ],
            lasting: kind != FileKind::Regular || stat.st_mode & SET_IDS == 0,
        }
    }
}

/// Device numbers as FUSE carries them: 12 bits of major and 20 of minor (`new_encode_dev` of Linux).
fn kernel_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12
}

/// The inverse of what FUSE carries.
pub(super) fn system_device(device: u32) -> u64 {
    rustix::fs::makedev(device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00)
}

fn time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let nanoseconds = Duration::from_nanos(nanoseconds);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base =
        if seconds < 0 { SystemTime::UNIX_EPOCH.checked_sub(whole) } else { SystemTime::UNIX_EPOCH.checked_add(whole) };
    base.and_then(|base| base.checked_add(nanoseconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A new time stamp.
#[derive(Clone, Copy, Debug)]
pub enum TimeChange {
    /// The moment of the change.
    Now,
    /// A given moment.
    At(SystemTime),
}

/// What `setattr` changes; `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub accessed: Option<TimeChange>,
    /// Last change of the content.
    pub modified: Option<TimeChange>,
}

impl Changes {
    /// The time stamps as the system takes them; `None` when both stay.
    pub(super) fn timestamps(&self) -> Option<Timestamps> {
        (self.accessed.is_some() || self.modified.is_some())
            .then(|| Timestamps { last_access: timespec(self.accessed), last_modification: timespec(self.modified) })
    }
}

fn timespec(change: Option<TimeChange>) -> Timespec {
    match change {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeChange::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeChange::At(time)) => match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(after.subsec_nanos()),
            },
            Err(before) => before_epoch(before.duration()),
        },
    }
}

/// Nanoseconds count upwards even before 1970.
fn before_epoch(before: Duration) -> Timespec {
    let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
    match i64::from(before.subsec_nanos()) {
        0 => Timespec { tv_sec: -seconds, tv_nsec: 0 },
        nanoseconds => Timespec { tv_sec: -seconds - 1, tv_nsec: 1_000_000_000 - nanoseconds },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for (seconds, nanoseconds) in [(0, 0), (1, 5), (-1, 999_999_999), (-5, 0), (i64::from(u32::MAX) + 9, 1)] {
            let at = time(seconds, nanoseconds);
            let back = timespec(Some(TimeChange::At(at)));
            assert_eq!((back.tv_sec, back.tv_nsec), (seconds, i64::try_from(nanoseconds).unwrap()));
        }
    }
}
