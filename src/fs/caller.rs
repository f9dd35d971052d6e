//! Who asks for an operation.

use std::fs::File;

use crate::error::Result;
use crate::fs::backing;
use crate::fs::namespace::SET_GID;
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
        let stat = backing::stat(file)?;
        if stat.st_mode & SET_GID == 0 || self.is_root() || self.is_in(stat.st_gid) {
            return Ok(());
        }
        backing::set_mode(file, stat.st_mode & !SET_GID)
    }

    fn is_in(&self, group: u32) -> bool {
        // Whose groups cannot be read is in none of them.
        self.gid == group || process::groups_of(self.pid).is_ok_and(|groups| groups.contains(&group))
    }
}
