//! Attributes of backing files, with the time that they were made at, which tells files of one inode number apart.

use rustix::fs::{Statx, StatxFlags, makedev};

/// The set-group-id bit: on a directory, what is made in it gets its group.
pub(super) const SET_GID: u32 = 0o2000;

/// Attributes of a backing file, under the names of `stat(2)`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stat {
    pub(super) st_dev: u64,
    pub(super) st_ino: u64,
    pub(super) st_mode: u32,
    pub(super) st_nlink: u64,
    pub(super) st_uid: u32,
    pub(super) st_gid: u32,
    pub(super) st_rdev: u64,
    pub(super) st_size: i64,
    pub(super) st_blocks: i64,
    pub(super) st_atime: i64,
    pub(super) st_atime_nsec: u64,
    pub(super) st_mtime: i64,
    pub(super) st_mtime_nsec: u64,
    pub(super) st_ctime: i64,
    pub(super) st_ctime_nsec: u64,
    /// When the file was made, in seconds and nanoseconds; `None` where the file system does not say.
    pub(super) born: Option<(i64, u32)>,
}

/// What is asked of the system.
pub(super) const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

impl From<Statx> for Stat {
    fn from(found: Statx) -> Self {
        let knows_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
        Self {
            st_dev: makedev(found.stx_dev_major, found.stx_dev_minor),
            st_ino: found.stx_ino,
            st_mode: u32::from(found.stx_mode),
            st_nlink: u64::from(found.stx_nlink),
            st_uid: found.stx_uid,
            st_gid: found.stx_gid,
            st_rdev: makedev(found.stx_rdev_major, found.stx_rdev_minor),
            st_size: i64::try_from(found.stx_size).unwrap_or(i64::MAX),
            st_blocks: i64::try_from(found.stx_blocks).unwrap_or(i64::MAX),
            st_atime: found.stx_atime.tv_sec,
            st_atime_nsec: u64::from(found.stx_atime.tv_nsec),
            st_mtime: found.stx_mtime.tv_sec,
            st_mtime_nsec: u64::from(found.stx_mtime.tv_nsec),
            st_ctime: found.stx_ctime.tv_sec,
            st_ctime_nsec: u64::from(found.stx_ctime.tv_nsec),
            born: knows_birth.then_some((found.stx_btime.tv_sec, found.stx_btime.tv_nsec)),
        }
    }
}
