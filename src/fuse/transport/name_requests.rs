//! What programs that work on many small files ask most, answered by the thread that read it: names and attributes are looked up
//! and changed, files opened, made, renamed and removed. On its way through the dispatcher each would wake two more threads.
//!
//! What changes a length, or has to wait for a key, goes to the dispatcher all the same.

#![allow(clippy::host_endian_bytes, reason = "the kernel speaks the byte order of its host")]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Result;
use crate::fs::{Attr, Changes, FileSystem, NewFile, OpenMode, RenameMode, TimeChange};
use crate::fuse::errno::{On, refuse};
use crate::fuse::transport::data_requests::{Answer, guarded};
use crate::fuse::transport::reply::Reply;
use crate::fuse::transport::wire::{InHeader, operation, u32_at, u64_at};
use crate::fuse::{after_open, damage, ttl};
use crate::store::plain_file::HEADROOM;
use crate::vm::keyring::Question;

/// Longest request of this kind, without its header: two names of 255 bytes, their ends, and what is said about them.
pub(super) const MAX_BODY: usize = 16 + 2 * 256;

/// Whether who asks need not be refused. With `owner_alone`, whoever else asks is fuser's to refuse, other than root.
pub(super) fn lets_in(request: InHeader, owner_alone: Option<u32>) -> bool {
    owner_alone.is_none_or(|owner| [0, owner].contains(&request.uid))
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
        Err(error) => Some(Answer::failed(refuse(On(name, fs, request.node), &error).code())),
        Ok(reply) => Some(reply.put(&mut buffer[HEADROOM..])),
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
            let changes = changes(body)?;
            ("setattr", fs.change(node, &changes, &request.caller()).map(with_ttl))
        }
        operation::OPEN => ("open", open(fs, request, u32_at(body, 0)?)),
        operation::CREATE => ("create", create(fs, request, body)?),
        operation::UNLINK => ("unlink", fs.remove(node, name(body)?, false).map(|()| Reply::Nothing)),
        operation::RMDIR => ("rmdir", fs.remove(node, name(body)?, true).map(|()| Reply::Nothing)),
        operation::RENAME => ("rename", rename(fs, node, u64_at(body, 0)?, RenameMode::Replace, body.get(8..)?)?),
        operation::RENAME2 => {
            ("rename", rename(fs, node, u64_at(body, 0)?, rename_mode(u32_at(body, 8)?)?, body.get(16..)?)?)
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

/// `struct fuse_open_in` has the flags of `open(2)`.
fn open(fs: &FileSystem, request: InHeader, flags: u32) -> Result<Reply> {
    let node = request.node;
    let flags = flags.cast_signed();
    let (handle, cache) = fs
        .open_file(node, OpenMode::of_flags(flags), &request.caller())
        .inspect_err(|error| damage::record(fs, node, error))?;
    after_open(fs, node, handle, flags);
    Ok(Reply::Opened(handle, cache))
}

/// `struct fuse_create_in`, and a name.
fn create(fs: &FileSystem, request: InHeader, body: &[u8]) -> Option<Result<Reply>> {
    let new = NewFile { mode: u32_at(body, 4)?, umask: u32_at(body, 8)?, uid: request.uid, gid: request.gid };
    let flags = u32_at(body, 0)?.cast_signed();
    let created = fs.create(request.node, name(body.get(16..)?)?, new, OpenMode::of_flags(flags));
    Some(created.map(|(attr, handle, cache)| {
        after_open(fs, attr.number, handle, flags);
        Reply::Created(attr, handle, cache)
    }))
}

/// The old name lies before the new one.
fn rename(fs: &FileSystem, from: u64, to: u64, mode: RenameMode, names: &[u8]) -> Option<Result<Reply>> {
    let old = name(names)?;
    let new = name(names.get(old.len() + 1..)?)?;
    Some(fs.rename((from, old), (to, new), mode).map(|()| Reply::Nothing))
}

fn rename_mode(flags: u32) -> Option<RenameMode> {
    match flags {
        0 => Some(RenameMode::Replace),
        libc::RENAME_NOREPLACE => Some(RenameMode::KeepExisting),
        libc::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        _ => None,
    }
}

/// `struct fuse_setattr_in`, where it asks for nothing but what is changed here.
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
    // A change of the owner takes these bits in any case.
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

/// Seconds since 1970, before it negative ones, and nanoseconds that count forward.
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
    fn changes_are_those_that_were_asked_for() {
        let all = changes(&body(0b1_0001_0111 | 1 << 5)).unwrap();
        assert_eq!((all.mode, all.uid, all.gid), (Some(0o640), Some(7), Some(8)));
        let before = UNIX_EPOCH - Duration::from_secs(2) + Duration::from_nanos(5);
        assert!(matches!(all.accessed, Some(TimeChange::At(time)) if time == before));
        assert!(matches!(all.modified, Some(TimeChange::Now)));
        let none = changes(&body(0)).unwrap();
        assert!(none.mode.is_none() && none.uid.is_none() && none.gid.is_none() && none.accessed.is_none());
    }

    #[test]
    fn a_change_of_length_or_of_something_new_or_cut_short_is_for_the_dispatcher() {
        assert!(changes(&body(1 << 3)).is_none());
        assert!(changes(&body(1 << 20)).is_none());
        assert!(changes(&body(1)[..70]).is_none());
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
    fn a_rename_that_the_kernel_may_not_ask_for_is_for_the_dispatcher() {
        assert_eq!(rename_mode(libc::RENAME_EXCHANGE), Some(RenameMode::Exchange));
        assert_eq!(rename_mode(libc::RENAME_WHITEOUT), None);
    }
}
