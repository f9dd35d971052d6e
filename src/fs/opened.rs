//! What a program's open says of reads through it, and of mappings.

use std::sync::atomic::Ordering;

use crate::fs::FileSystem;
use crate::fs::handle::{Handle, HandleNumber};

impl FileSystem {
    /// Remembers what the flags of `open(2)` say of a handle.
    pub fn heed_open_flags(&self, handle: HandleNumber, open_flags: i32) {
        self.heed_sync_flags(handle, open_flags);
        let Ok(handle) = self.handles.get(handle) else { return };
        if let Handle::File(open, _) = handle.as_ref().as_ref() {
            if open_flags & libc::O_NOATIME == 0 {
                open.unread.store(true, Ordering::Relaxed);
            }
            if open_flags & libc::O_ACCMODE == libc::O_RDWR {
                open.mappable.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether a mapping may have changed the file without this being known here: it can be mapped for writing, and what a
    /// mapping changes the kernel keeps for a while.
    pub fn may_be_mapped(&self, handle: HandleNumber) -> bool {
        self.handles.get(handle).is_ok_and(|handle| match handle.as_ref().as_ref() {
            Handle::File(open, _) => open.mappable.load(Ordering::Relaxed),
            Handle::Image(_) | Handle::Directory(_) => false,
        })
    }
}

impl Handle {
    /// Called before a read. The first one after an open moves the time of last access; header reads, and those that a write
    /// takes, do not.
    pub(super) fn note_read(&self) {
        if let Self::File(open, _) = self
            && open.unread.load(Ordering::Relaxed)
            && open.unread.swap(false, Ordering::Relaxed)
        {
            open.storage().note_access();
        }
    }
}
