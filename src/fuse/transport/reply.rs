//! Replies in FUSE's wire format, to requests that a transport answers itself.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::error::Error;
use crate::fs::{Attr, CacheMode, FileKind, HandleNumber};
use crate::fuse::BLOCK_SIZE;
use crate::fuse::operations::{Reply, open_flags, ttl};
use crate::fuse::transport::data_requests::Answer;

/// Puts a reply where a payload begins.
pub(super) fn put(reply: &Reply, payload: &mut [u8]) -> Answer {
    let mut writer = Writer { bytes: payload, len: 0 };
    match reply {
        Reply::Nothing => {}
        Reply::Entry(attr) => writer.entry(attr),
        Reply::Attributes(attr) => {
            let lasts = ttl(attr);
            writer.u64s([lasts.as_secs()]);
            writer.u32s([lasts.subsec_nanos(), 0]);
            writer.attr(attr);
        }
        Reply::Opened(handle, cache) => writer.open(*handle, *cache),
        Reply::Created(attr, handle, cache) => {
            writer.entry(attr);
            writer.open(*handle, *cache);
        }
        Reply::Bytes(bytes) => writer.put(bytes),
        Reply::Length(len) => writer.u32s([*len, 0]),
        // Only the dispatcher has their operations.
        Reply::OpenedDir(_) | Reply::Capacity(_) | Reply::Offset(_) => return Answer::failed(libc::ENOSYS),
    }
    Answer { errno: 0, payload_len: writer.len }
}

/// Writes a whole reply to the device.
pub(super) fn write_reply(device: &OwnedFd, reply: &[u8]) {
    match rustix::io::write(device, reply) {
        Ok(_) => {}
        // Nothing waits for it any more: the request was interrupted, or the mount is gone.
        Err(Errno::NOENT | Errno::NODEV) => {}
        Err(error) => tracing::error!("{}", Error::errno("replying to the kernel", error).chain()),
    }
}

/// Puts numbers one after the other.
struct Writer<'b> {
    bytes: &'b mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn u64s<const N: usize>(&mut self, numbers: [u64; N]) {
        numbers.iter().for_each(|number| self.put(&number.to_ne_bytes()));
    }

    fn u32s<const N: usize>(&mut self, numbers: [u32; N]) {
        numbers.iter().for_each(|number| self.put(&number.to_ne_bytes()));
    }

    /// `struct fuse_entry_out`.
    fn entry(&mut self, attr: &Attr) {
        let lasts = ttl(attr);
        self.u64s([attr.number, attr.generation.into(), lasts.as_secs(), lasts.as_secs()]);
        self.u32s([lasts.subsec_nanos(), lasts.subsec_nanos()]);
        self.attr(attr);
    }

    /// `struct fuse_open_out`.
    fn open(&mut self, handle: HandleNumber, cache: CacheMode) {
        self.u64s([handle]);
        self.u32s([open_flags(cache).bits(), 0]);
    }

    /// `struct fuse_attr`.
    fn attr(&mut self, attr: &Attr) {
        let [accessed, modified, changed] = attr.times.map(seconds_and_nanos);
        self.u64s([attr.number, attr.size, attr.blocks, accessed.0, modified.0, changed.0]);
        self.u32s([accessed.1, modified.1, changed.1, type_bits(attr.kind) | u32::from(attr.mode)]);
        self.u32s([attr.links, attr.uid, attr.gid, attr.device, BLOCK_SIZE, 0]);
    }
}

fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Regular => libc::S_IFREG,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// Seconds since 1970, negative before it, and nanoseconds, which count forward.
pub(super) fn seconds_and_nanos(time: SystemTime) -> (u64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs(), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let borrowed = u64::from(before.subsec_nanos() > 0);
            let nanos = if borrowed == 0 { 0 } else { 1_000_000_000 - before.subsec_nanos() };
            (0_u64.wrapping_sub(before.as_secs()).wrapping_sub(borrowed), nanos)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::transport::wire::u32_at;

    #[test]
    fn xattr_reply_is_its_length_or_its_bytes() {
        let mut payload = [0; 16];
        assert_eq!(put(&Reply::Length(5), &mut payload), Answer { errno: 0, payload_len: 8 });
        assert_eq!(u32_at(&payload, 0), Some(5));
        assert_eq!(put(&Reply::Bytes(b"value".to_vec()), &mut payload), Answer { errno: 0, payload_len: 5 });
        assert_eq!(&payload[..5], b"value");
    }
}
