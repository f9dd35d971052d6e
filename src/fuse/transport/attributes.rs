//! Questions about names and attributes, and changes of attributes, answered by the thread that read them: on its way through the
//! dispatcher each would wake two more threads, and programs that work on many small files ask little else.
//!
//! What changes a length, or has to wait for a key, goes to the dispatcher all the same.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Result;
use crate::fs::{Attr, Changes, FileKind, FileSystem, TimeChange};
use crate::fuse::errno::refuse;
use crate::fuse::transport::hot::{Answer, guarded};
use crate::fuse::transport::wire::{InHeader, operation, u32_at, u64_at};
use crate::fuse::{BLOCK_SIZE, TTL, ttl};
use crate::store::plain_file::HEADROOM;
use crate::vm::keyring::Question;

/// Longest request of this kind, without its header: a name of 255 bytes, its end, and what is said about it.
pub(super) const MAX_BODY: usize = 288;

/// What to reply.
enum Reply {
    /// `struct fuse_entry_out`.
    Entry(Attr),
    /// `struct fuse_attr_out`, to be believed so long.
    Attributes(Attr, Duration),
    /// A value, or its length where no bytes of it are wanted.
    Value(Vec<u8>, usize),
}

/// Serves a request, of which `body` is all but the header; the reply's payload is put at [`HEADROOM`] of the buffer. `None`: it is
/// for the dispatcher.
pub(super) fn serve(fs: &FileSystem, request: InHeader, body: &[u8], buffer: &mut [u8]) -> Option<Answer> {
    let (name, done) = match guarded(request, || ask(fs, request, body)) {
        Ok(asked) => asked?,
        Err(failed) => return Some(failed),
    };
    match done {
        Err(error) if Question::of(&error).is_some() => None,
        Err(error) => Some(Answer::failed(refuse(name, &error).code())),
        Ok(reply) => Some(put(&reply, &mut buffer[HEADROOM..])),
    }
}

fn ask(fs: &FileSystem, request: InHeader, body: &[u8]) -> Option<(&'static str, Result<Reply>)> {
    let node = request.node;
    Some(match request.operation {
        operation::LOOKUP => ("lookup", fs.lookup(node, name(body)?).map(Reply::Entry)),
        operation::GETATTR => ("getattr", fs.attributes(node).map(with_ttl)),
        operation::GETXATTR => {
            let most = usize::try_from(u32_at(body, 0)?).ok()?;
            ("getxattr", fs.xattr(node, name(body.get(8..)?)?).map(|value| Reply::Value(value, most)))
        }
        operation::SETATTR => {
            let changes = changes(body, request.uid)?;
            ("setattr", fs.change(node, &changes).map(|attr| Reply::Attributes(attr, TTL)))
        }
        _ => return None,
    })
}

fn with_ttl(attr: Attr) -> Reply {
    let lasts = ttl(&attr);
    Reply::Attributes(attr, lasts)
}

/// A name with its end.
fn name(bytes: &[u8]) -> Option<&OsStr> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some(OsStr::from_bytes(&bytes[..end]))
}

/// `struct fuse_setattr_in`, where it asks for nothing but what is changed here.
fn changes(body: &[u8], uid: u32) -> Option<Changes> {
    const MODE: u32 = 1;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const HANDLE: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const CTIME: u32 = 1 << 10;
    const KNOWN: u32 = MODE | UID | GID | ATIME | MTIME | HANDLE | ATIME_NOW | MTIME_NOW | CTIME;
    let valid = u32_at(body, 0)?;
    if valid & !KNOWN != 0 {
        return None;
    }
    let number = |flag: u32, at: usize| if valid & flag == 0 { Some(None) } else { u32_at(body, at).map(Some) };
    let time = |flag: u32, now: u32, at: usize, nanos_at: usize| match (valid & flag, valid & now) {
        (0, _) => Some(None),
        (_, 0) => time_at(u64_at(body, at)?, u32_at(body, nanos_at)?).map(|time| Some(TimeChange::At(time))),
        _ => Some(Some(TimeChange::Now)),
    };
    Some(Changes {
        mode: number(MODE, 68)?,
        uid: number(UID, 76)?,
        gid: number(GID, 80)?,
        size: None,
        keep_privileges: uid == 0,
        accessed: time(ATIME, ATIME_NOW, 32, 56)?,
        modified: time(MTIME, MTIME_NOW, 40, 60)?,
    })
}

/// Seconds since 1970, before it negative ones, and nanoseconds that count forward.
fn time_at(seconds: u64, nanos: u32) -> Option<SystemTime> {
    let seconds = seconds.cast_signed();
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    start?.checked_add(Duration::from_nanos(nanos.into()))
}

/// The reverse of [`time_at`].
fn seconds_and_nanos(time: SystemTime) -> (u64, u32) {
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

fn put(reply: &Reply, payload: &mut [u8]) -> Answer {
    let mut writer = Writer { bytes: payload, len: 0 };
    match reply {
        Reply::Entry(attr) => {
            let lasts = ttl(attr);
            writer.u64s([attr.number, 0, lasts.as_secs(), lasts.as_secs()]);
            writer.u32s([lasts.subsec_nanos(), lasts.subsec_nanos()]);
            writer.attr(attr);
        }
        Reply::Attributes(attr, lasts) => {
            writer.u64s([lasts.as_secs()]);
            writer.u32s([lasts.subsec_nanos(), 0]);
            writer.attr(attr);
        }
        Reply::Value(value, 0) => match u32::try_from(value.len()) {
            Ok(len) => writer.u32s([len, 0]),
            Err(_) => return Answer::failed(libc::ERANGE),
        },
        Reply::Value(value, most) if value.len() <= *most => writer.put(value),
        Reply::Value(..) => return Answer::failed(libc::ERANGE),
    }
    Answer { errno: 0, payload_len: writer.len }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn body(valid: u32) -> Vec<u8> {
        let mut body = vec![0; 88];
        body[..4].copy_from_slice(&valid.to_ne_bytes());
        body[32..40].copy_from_slice(&(-2_i64).to_ne_bytes());
        body[56..60].copy_from_slice(&5_u32.to_ne_bytes());
        body[68..72].copy_from_slice(&0o640_u32.to_ne_bytes());
        body[76..80].copy_from_slice(&7_u32.to_ne_bytes());
        body[80..84].copy_from_slice(&8_u32.to_ne_bytes());
        body
    }

    #[test]
    fn changes_are_those_that_were_asked_for() {
        let all = changes(&body(0b1_0001_0111 | 1 << 5), 0).unwrap();
        assert_eq!((all.mode, all.uid, all.gid, all.keep_privileges), (Some(0o640), Some(7), Some(8), true));
        let before = UNIX_EPOCH - Duration::from_secs(2) + Duration::from_nanos(5);
        assert!(matches!(all.accessed, Some(TimeChange::At(time)) if time == before));
        assert!(matches!(all.modified, Some(TimeChange::Now)));
        let none = changes(&body(0), 1000).unwrap();
        assert!(none.mode.is_none() && none.uid.is_none() && none.gid.is_none() && none.accessed.is_none());
        assert!(!none.keep_privileges);
    }

    #[test]
    fn a_change_of_length_or_of_something_new_or_cut_short_is_for_the_dispatcher() {
        assert!(changes(&body(1 << 3), 0).is_none());
        assert!(changes(&body(1 << 20), 0).is_none());
        assert!(changes(&body(1)[..70], 0).is_none());
        assert!(name(b"without an end").is_none());
    }

    #[test]
    fn times_before_1970_come_back() {
        for (seconds, nanos) in [(0_i64, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 999_999_999)] {
            let seconds = seconds.cast_unsigned();
            assert_eq!(seconds_and_nanos(time_at(seconds, nanos).unwrap()), (seconds, nanos));
        }
    }

    #[test]
    fn values_are_measured_given_or_refused() {
        let mut payload = [0; 16];
        let value = || b"value".to_vec();
        assert_eq!(put(&Reply::Value(value(), 0), &mut payload), Answer { errno: 0, payload_len: 8 });
        assert_eq!(u32_at(&payload, 0), Some(5));
        assert_eq!(put(&Reply::Value(value(), 4), &mut payload), Answer::failed(libc::ERANGE));
        assert_eq!(put(&Reply::Value(value(), 5), &mut payload), Answer { errno: 0, payload_len: 5 });
        assert_eq!(&payload[..5], b"value");
    }
}
