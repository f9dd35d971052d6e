//! Space that work takes beyond what is taken now: known, and refused if need be, before it begins.

use std::fs::File;

use rustix::io::Errno;

use crate::error::{Context, Error, Result};

/// Bytes that work takes at once beyond what is taken now, and bytes that there are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Space {
    /// At most.
    pub needed: u64,
    /// That an ordinary user can still write; `u64::MAX` where the file system does not say, as those of FUSE need not. Quotas are not
    /// looked at: whose they are, and what counts, each file system decides for itself.
    pub free: u64,
}

impl Space {
    /// What is free where a folder lies.
    ///
    /// # Errors
    /// `Io`.
    pub fn at(dir: &File, needed: u64) -> Result<Self> {
        let stat = rustix::fs::fstatvfs(dir).context(|| "reading free space".into())?;
        let free = if stat.f_blocks == 0 { u64::MAX } else { stat.f_bavail.saturating_mul(stat.f_frsize) };
        Ok(Self { needed, free })
    }

    /// Refuses to begin without the space; `what` needs it.
    ///
    /// # Errors
    /// `Io`, with `ENOSPC`.
    pub fn check(self, what: &str) -> Result<()> {
        let Self { needed, free } = self;
        if needed <= free {
            return Ok(());
        }
        let message = format!("not enough space: {what} needs {needed} more bytes, and {free} are available");
        Err(Error::foreseen(message, Errno::NOSPC))
    }
}
