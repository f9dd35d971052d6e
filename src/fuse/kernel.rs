//! Notifications from a mount to the kernel.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use crate::error::Error;
use crate::fs::NodeNumber;

/// `FUSE_NOTIFY_INVAL_INODE`, in place of a reply's error.
const INVALIDATE: i32 = 2;
/// A message: the header of a reply to no request, and `struct fuse_notify_inval_inode_out`.
const LEN: u32 = 16 + 24;

/// The kernel at the other end of a mount's device.
pub(super) struct Kernel(Weak<OwnedFd>);

impl Kernel {
    pub(super) fn of(device: &Arc<OwnedFd>) -> Self {
        Self(Arc::downgrade(device))
    }

    /// Returns once all changes that were made through mappings of a file are written, and the kernel has nothing of it cached. The
    /// writes are requests of their own, so a thread that serves those must not call this.
    pub(super) fn write_back(&self, number: NodeNumber) {
        let Some(device) = self.0.upgrade() else { return };
        let mut message = [0; LEN as usize];
        message[..4].copy_from_slice(&LEN.to_ne_bytes());
        message[4..8].copy_from_slice(&INVALIDATE.to_ne_bytes());
        message[16..24].copy_from_slice(&number.to_ne_bytes());
        // From offset 0 on, of any length: both stay 0.
        if let Err(error) = rustix::io::write(device, &message) {
            tracing::debug!("{}", Error::errno("asking the kernel to write back a file", error).chain());
        }
    }
}
