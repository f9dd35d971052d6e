//! Replies in FUSE's wire format, for what a transport answers itself.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fs::{Attr, CacheMode, FileKind, HandleNumber};
use crate::fuse::transport::data_requests::Answer;
use crate::fuse::{BLOCK_SIZE, open_flags, ttl};

/// What to reply.
pub(super) enum Reply {
    Nothing,
    /// `struct fuse_entry_out`.
    Entry(Attr),
    /// `struct fuse_attr_out`, to be believed so long.
    Attributes(Attr, Duration),
    /// `struct fuse_open_out`.
    Opened(HandleNumber, CacheMode),
    /// `struct fuse_entry_out`, then `struct fuse_open_out`.
    Created(Attr, HandleNumber, CacheMode),
    /// A value, or its length where no bytes of it are wanted.
    Value(Vec<u8>, usize),
}

impl Reply {
    /// Puts it where a payload begins.
    pub(super) fn put(&self, payload: &mut [u8]) -> Answer {
        let mut writer = Writer { bytes: payload, len: 0 };
        match self {
            Self::Nothing => {}
            Self::Entry(attr) => writer.entry(attr),
            Self::Attributes(attr, lasts) => {
                writer.u64s([lasts.as_secs()]);
                writer.u32s([lasts.subsec_nanos(), 0]);
                writer.attr(attr);
            }
            Self::Opened(handle, cache) => writer.open(*handle, *cache),
            Self::Created(attr, handle, cache) => {
                writer.entry(attr);
                writer.open(*handle, *cache);
            }
            Self::Value(value, 0) => match u32::try_from(value.len()) {
                Ok(len) => writer.u32s([len, 0]),
                Err(_) => return Answer::failed(libc::ERANGE),
            },
            Self::Value(value, most) if value.len() <= *most => writer.put(value),
            Self::Value(..) => return Answer::failed(libc::ERANGE),
        }
        Answer { errno: 0, payload_len: writer.len }
    }
}

/// Puts numbers one behind the other.
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

/// Seconds since 1970, before it negative ones, and nanoseconds that count forward.
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
    fn values_are_measured_given_or_refused() {
        let mut payload = [0; 16];
        let value = || b"value".to_vec();
        assert_eq!(Reply::Value(value(), 0).put(&mut payload), Answer { errno: 0, payload_len: 8 });
        assert_eq!(u32_at(&payload, 0), Some(5));
        assert_eq!(Reply::Value(value(), 4).put(&mut payload), Answer::failed(libc::ERANGE));
        assert_eq!(Reply::Value(value(), 5).put(&mut payload), Answer { errno: 0, payload_len: 5 });
        assert_eq!(&payload[..5], b"value");
    }
}
