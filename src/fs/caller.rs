//! The credentials behind an operation.

use std::fs::File;

use crate::error::Result;
use crate::fs::modes;
use crate::fs::stat::SET_GID;
use crate::sys::process;

/// The thread that asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group; it may have more.
    pub gid: u32,
    /// Its number, for as long as it waits for the answer.
    pub pid: u32,
}

impl Caller {
    pub(super) fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Takes the set-group-id bit from a file that got an ACL from someone who could not have set that bit. The backing file
    /// system leaves it: it sees our process, not the caller.
    pub(super) fn drop_set_gid(&self, file: &File) -> Result<()> {
        modes::change(file, |stat| {
            let mode = stat.st_mode & 0o7777;
            let stays = mode & SET_GID == 0 || self.is_root() || self.is_in(stat.st_gid);
            if stays { mode } else { mode & !SET_GID }
        })
    }

    /// Takes the set-user-id and set-group-id bits from a file that the caller changes. The set-group-id bit of a file that its group
    /// may not execute is not a privilege: it once marked mandatory locking, and members of the group leave it there.
    pub(super) fn drop_privileges(&self, file: &File) -> Result<()> {
        const SET_UID: u32 = 0o4000;
        const GROUP_EXECUTE: u32 = 0o010;
        modes::change(file, |stat| {
            let mode = stat.st_mode & 0o7777;
            let is_lock = || mode & GROUP_EXECUTE == 0 && self.is_in(stat.st_gid);
            mode & if mode & SET_GID != 0 && is_lock() { !SET_UID } else { !(SET_UID | SET_GID) }
        })
    }

    fn is_in(&self, group: u32) -> bool {
        // Whose groups cannot be read is in none of them.
        self.gid == group || process::groups_of(self.pid).is_ok_and(|groups| groups.contains(&group))
    }
}
