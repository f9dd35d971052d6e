//! The part of FUSE's wire format that a transport has to know: headers, and the arguments of requests for data.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::time::Instant;

use crate::fs::Caller;
use crate::fuse::{counters, opcode};

pub(super) const IN_HEADER_LEN: usize = 40;
pub(super) const OUT_HEADER_LEN: usize = 16;
/// Length of `struct fuse_fsync_in`.
const SYNC_LEN: usize = 16;
/// Length of `struct fuse_read_in` and `struct fuse_write_in`.
pub(super) const ARGUMENT_LEN: usize = 40;

/// Flag of a write: it clears the file's set-user-id and set-group-id bits.
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;

/// `struct fuse_in_header`, as far as it is used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct InHeader {
    /// Of the whole request, in bytes.
    pub(super) len: usize,
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    /// The caller.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
}

impl InHeader {
    /// `None` for a request that is shorter than a header.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let len = usize::try_from(u32_at(bytes, 0)?).ok()?;
        Some(Self {
            len,
            opcode: u32_at(bytes, 4)?,
            unique: u64_at(bytes, 8)?,
            node: u64_at(bytes, 16).filter(|_| bytes.len() >= IN_HEADER_LEN)?,
            uid: u32_at(bytes, 24)?,
            gid: u32_at(bytes, 28)?,
            pid: u32_at(bytes, 32)?,
        })
    }

    /// A request of our own, without arguments.
    pub(super) fn encode(self) -> [u8; IN_HEADER_LEN] {
        let mut bytes = [0; IN_HEADER_LEN];
        bytes[..4].copy_from_slice(&u32_of(self.len).to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.opcode.to_ne_bytes());
        bytes[8..16].copy_from_slice(&self.unique.to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.node.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.uid.to_ne_bytes());
        bytes[28..32].copy_from_slice(&self.gid.to_ne_bytes());
        bytes[32..36].copy_from_slice(&self.pid.to_ne_bytes());
        bytes
    }

    pub(super) fn caller(self) -> Caller {
        Caller { uid: self.uid, gid: self.gid, pid: self.pid }
    }
}

/// A request, and when it was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) header: InHeader,
    pub(super) at: Instant,
}

impl Received {
    /// It is answered: with this errno or 0, and a payload of this length.
    pub(super) fn count(self, errno: i32, payload_len: usize) {
        let InHeader { opcode, len, .. } = self.header;
        let moved =
            if opcode == opcode::WRITE { len.saturating_sub(IN_HEADER_LEN + ARGUMENT_LEN) } else { payload_len };
        counters::count(opcode, errno, moved, self.at.elapsed());
    }
}

/// Arguments of a read or write, which both have in the same places. A last close has its handle there, too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Transfer {
    pub(super) handle: u64,
    pub(super) offset: u64,
    pub(super) size: u32,
    pub(super) flags: u32,
    /// Flags of `open(2)`, of the file and of this one transfer.
    pub(super) open_flags: u32,
}

impl Transfer {
    pub(super) fn decode(argument: &[u8]) -> Option<Self> {
        Some(Self {
            handle: u64_at(argument, 0)?,
            offset: u64_at(argument, 8)?,
            size: u32_at(argument, 16)?,
            flags: u32_at(argument, 20)?,
            open_flags: u32_at(argument, 32).unwrap_or(0),
        })
    }
}

/// A `FUSE_FSYNC` of a handle, in place of the write that it makes durable.
pub(super) fn sync_request(instead_of: InHeader, handle: u64) -> [u8; IN_HEADER_LEN + SYNC_LEN] {
    const DATA_ONLY: u32 = 1;
    let mut bytes = [0; IN_HEADER_LEN + SYNC_LEN];
    let header = InHeader { len: bytes.len(), opcode: opcode::FSYNC, ..instead_of };
    bytes[..IN_HEADER_LEN].copy_from_slice(&header.encode());
    bytes[IN_HEADER_LEN..][..8].copy_from_slice(&handle.to_ne_bytes());
    bytes[IN_HEADER_LEN + 8..][..4].copy_from_slice(&DATA_ONLY.to_ne_bytes());
    bytes
}

/// The handle of a `FUSE_FSYNC`.
pub(super) fn synced_handle(argument: &[u8]) -> Option<u64> {
    u64_at(argument, 0)
}

/// How often `FUSE_FORGET` forgets its node.
pub(super) fn forget_count(argument: &[u8]) -> Option<u64> {
    u64_at(argument, 0)
}

/// Nodes and counts of a `FUSE_BATCH_FORGET`, of which `body` is what follows the header.
pub(super) fn forgets(body: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    let count = u32_at(body, 0).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    let (pairs, _) = body.get(8..).unwrap_or_default().as_chunks::<16>();
    pairs.iter().take(count).filter_map(|pair| Some((u64_at(pair, 0)?, u64_at(pair, 8)?)))
}

/// Lowers the size that a read of a directory asks for. It is in the same place as that of a read of a file.
pub(super) fn limit_size(argument: &mut [u8], max: u32) {
    if let Some(size) = argument.get_mut(16..20)
        && u32_at(size, 0).is_some_and(|size| size > max)
    {
        size.copy_from_slice(&max.to_ne_bytes());
    }
}

/// `struct fuse_out_header`. `errno` is 0 or positive.
pub(super) fn out_header(unique: u64, errno: i32, payload_len: usize) -> [u8; OUT_HEADER_LEN] {
    let mut bytes = [0; OUT_HEADER_LEN];
    bytes[..4].copy_from_slice(&u32_of(OUT_HEADER_LEN + payload_len).to_ne_bytes());
    bytes[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// The request that a reply belongs to; 0 for a message that is not a reply.
pub(super) fn reply_unique(reply: &[u8]) -> Option<u64> {
    u64_at(reply, 8)
}

/// The error of a reply as a positive number; 0 for success.
pub(super) fn reply_errno(reply: &[u8]) -> Option<i32> {
    u32_at(reply, 4).map(|error| error.cast_signed().saturating_neg())
}

/// `struct fuse_write_out`.
pub(super) fn written(size: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&size.to_ne_bytes());
    bytes
}

/// Whether the kernel, in its `FUSE_INIT`, offers FUSE over io_uring.
pub(super) fn offers_ring(init: &[u8]) -> bool {
    let body = &init[IN_HEADER_LEN.min(init.len())..];
    let extended = u32_at(body, 12).is_some_and(|flags| flags & INIT_EXT != 0);
    extended && u32_at(body, 16).is_some_and(|flags| flags & OVER_IO_URING != 0)
}

/// Accepts it in the reply.
pub(super) fn accept_ring(reply: &mut [u8]) -> bool {
    let flags = OUT_HEADER_LEN + 12..OUT_HEADER_LEN + 16;
    let more = OUT_HEADER_LEN + 32..OUT_HEADER_LEN + 36;
    for (at, flag) in [(flags, INIT_EXT), (more, OVER_IO_URING)] {
        let Some(old) = u32_at(reply, at.start) else { return false };
        reply[at].copy_from_slice(&(old | flag).to_ne_bytes());
    }
    true
}

/// Flags of `FUSE_INIT`: that there are flags beyond 32 bits, and one of those.
const INIT_EXT: u32 = 1 << 30;
const OVER_IO_URING: u32 = 1 << 9;

/// Lengths on the wire are of one request.
pub(super) fn u32_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trip() {
        let header =
            InHeader { len: 40, opcode: opcode::DESTROY, unique: 1 << 40 | 6, node: 7, uid: 8, gid: 9, pid: 10 };
        assert_eq!(InHeader::decode(&header.encode()), Some(header));
        assert_eq!(InHeader::decode(&header.encode()[..39]), None);
    }

    #[test]
    fn batch_forget_is_limited_to_its_length() {
        let mut body = vec![0; 8 + 2 * 16];
        body[..4].copy_from_slice(&9_u32.to_ne_bytes());
        for (index, word) in [11_u64, 1, 12, 3].into_iter().enumerate() {
            body[8 + index * 8..][..8].copy_from_slice(&word.to_ne_bytes());
        }
        assert_eq!(forgets(&body).collect::<Vec<_>>(), [(11, 1), (12, 3)]);
        assert_eq!(forgets(&body[..30]).collect::<Vec<_>>(), [(11, 1)]);
        assert_eq!(forgets(&[]).count(), 0);
    }

    #[test]
    fn listing_size_is_limited() {
        let mut argument = [0; ARGUMENT_LEN];
        for (asked, limited) in [(1 << 20, 4096_u32), (100, 100)] {
            argument[16..20].copy_from_slice(&u32::to_ne_bytes(asked));
            limit_size(&mut argument, 4096);
            assert_eq!(u32_at(&argument, 16), Some(limited));
        }
        limit_size(&mut [], 1);
    }

    #[test]
    fn ring_is_accepted_if_the_reply_has_the_flags() {
        let mut reply = [0; OUT_HEADER_LEN + 64];
        assert!(accept_ring(&mut reply));
        assert_eq!((reply[OUT_HEADER_LEN + 15], reply[OUT_HEADER_LEN + 33]), (0x40, 0x02));
        assert!(!accept_ring(&mut reply[..OUT_HEADER_LEN + 24]));
        assert!(!offers_ring(&[]));
    }
}
