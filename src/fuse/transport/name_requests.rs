//! Requests for names and attributes, which the thread that read them serves: lookups, changes of attributes, opening, making, renaming
//! and removing files. Programs that work on many small files send these most, and each would wake two more threads on its way
//! through the dispatcher.
//!
//! Requests that change a length, or have to wait for a key or for another mount, go to the dispatcher nevertheless.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fs::{Changes, FileSystem, NewFile, TimeChange};
use crate::fuse::opcode;
use crate::fuse::operations::{FileOperation as Op, FileRequest, Name};
use crate::fuse::transport::data_requests::{Answer, guarded};
use crate::fuse::transport::reply;
use crate::fuse::transport::wire::{InHeader, u32_at, u64_at};
use crate::serve::ServedFolder;
use crate::store::plain_file::HEADROOM;

/// Longest request of this kind, without its header: two names of 255 bytes with their ends, and the arguments.
pub(super) const MAX_BODY: usize = 16 + 2 * 256;

/// Whether the caller is admitted. With `restrict_to_uid`, requests of others than this user and root go to fuser, which refuses them.
pub(super) fn may_serve(request: InHeader, restrict_to_uid: Option<u32>) -> bool {
    restrict_to_uid.is_none_or(|owner| [0, owner].contains(&request.uid))
}

/// Serves a request; `body` is all of it but the header. The reply's payload is put at [`HEADROOM`] of the buffer. `None`: the request
/// is for the dispatcher.
pub(super) fn serve(fs: &FileSystem, request: InHeader, body: &[u8], buffer: &mut [u8]) -> Option<Answer> {
    let served = guarded(request, || {
        let (name, node, caller) = (opcode::name(request.opcode), request.node, request.caller());
        let asked = FileRequest { name, node, caller, operation: decode(request, body)? };
        let done = asked.run(fs);
        if done.as_ref().is_err_and(ServedFolder::must_wait) {
            return None;
        }
        Some(match asked.finish(fs, done) {
            Ok(value) => reply::put(&value, &mut buffer[HEADROOM..]),
            Err(errno) => Answer::failed(errno.code()),
        })
    });
    served.unwrap_or_else(Some)
}

/// What a request asks for. `None`: it is for the dispatcher.
fn decode(request: InHeader, body: &[u8]) -> Option<Op<'_>> {
    Some(match request.opcode {
        opcode::LOOKUP => Op::Lookup(name(body)?),
        opcode::GETATTR => Op::Attributes,
        opcode::SETATTR => Op::Change(changes(body)?),
        opcode::GETXATTR => Op::Xattr(name(body.get(8..)?)?, u32_at(body, 0)?),
        opcode::OPEN => Op::Open(u32_at(body, 0)?.cast_signed()),
        opcode::CREATE => {
            let new = NewFile { mode: u32_at(body, 4)?, umask: u32_at(body, 8)?, uid: request.uid, gid: request.gid };
            Op::Create(name(body.get(16..)?)?, new, u32_at(body, 0)?.cast_signed())
        }
        opcode::UNLINK => Op::Unlink(name(body)?),
        opcode::RMDIR => Op::RemoveDir(name(body)?),
        opcode::RENAME => rename(u64_at(body, 0)?, 0, body.get(8..)?)?,
        opcode::RENAME2 => rename(u64_at(body, 0)?, u32_at(body, 8)?, body.get(16..)?)?,
        _ => return None,
    })
}

/// A name, which a zero byte ends.
fn name(bytes: &[u8]) -> Option<Name<'_>> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some(OsStr::from_bytes(&bytes[..end]).into())
}

/// The old name comes before the new one.
fn rename(to: u64, flags: u32, names: &[u8]) -> Option<Op<'_>> {
    let old = name(names)?;
    let new = name(names.get(old.len() + 1..)?)?;
    Some(Op::Rename(old, to, new, flags))
}

/// `struct fuse_setattr_in`. `None` if it asks for changes that are not made here.
fn changes(body: &[u8]) -> Option<Changes> {
    const MODE: u32 = 1;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const HANDLE: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const CTIME: u32 = 1 << 10;
    // A change of the owner clears these bits in any case.
    const KILL_SUIDGID: u32 = 1 << 11;
    const KNOWN: u32 = MODE | UID | GID | ATIME | MTIME | HANDLE | ATIME_NOW | MTIME_NOW | CTIME | KILL_SUIDGID;
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
        accessed: time(ATIME, ATIME_NOW, 32, 56)?,
        modified: time(MTIME, MTIME_NOW, 40, 60)?,
    })
}

/// From seconds since 1970, negative before it, and nanoseconds, which count forward.
fn time_at(seconds: u64, nanos: u32) -> Option<SystemTime> {
    let seconds = seconds.cast_signed();
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    start?.checked_add(Duration::from_nanos(nanos.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::transport::reply::seconds_and_nanos;

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
    fn requested_attributes_change() {
        let all = changes(&body(0b1_0001_0111 | 1 << 5)).unwrap();
        assert_eq!((all.mode, all.uid, all.gid), (Some(0o640), Some(7), Some(8)));
        let before = UNIX_EPOCH - Duration::from_secs(2) + Duration::from_nanos(5);
        assert!(matches!(all.accessed, Some(TimeChange::At(time)) if time == before));
        assert!(matches!(all.modified, Some(TimeChange::Now)));
        let none = changes(&body(0)).unwrap();
        assert!(none.mode.is_none() && none.uid.is_none() && none.gid.is_none() && none.accessed.is_none());
    }

    #[test]
    fn unknown_or_short_setattr_is_for_the_dispatcher() {
        assert!(changes(&body(1 << 3)).is_none());
        assert!(changes(&body(1 << 20)).is_none());
        assert!(changes(&body(1)[..70]).is_none());
        assert!(name(b"without an end").is_none());
    }

    #[test]
    fn times_before_1970_survive() {
        for (seconds, nanos) in [(0_i64, 0), (1, 999_999_999), (-1, 0), (-1, 1), (-2, 999_999_999)] {
            let seconds = seconds.cast_unsigned();
            assert_eq!(seconds_and_nanos(time_at(seconds, nanos).unwrap()), (seconds, nanos));
        }
    }

    #[test]
    fn rename_has_both_names() {
        let renamed = rename(7, libc::RENAME_NOREPLACE, b"old\0new\0");
        assert!(
            matches!(renamed, Some(Op::Rename(old, 7, new, libc::RENAME_NOREPLACE)) if *old == *"old" && *new == *"new")
        );
        assert!(rename(7, 0, b"old\0new").is_none());
    }
}
