//! Requests for data, which a transport serves itself: reads and writes of open files, closing them, and syncs while those are quick.

use std::io;

use crate::error::{Error, Result};
use crate::fs::{FileSystem, Pending};
use crate::fuse::errno::{On, refuse};
use crate::fuse::opcode;
use crate::fuse::operations::{FileOperation, FileRequest};
use crate::fuse::transport::Shared;
use crate::fuse::transport::wire::{self, InHeader, Transfer};
use crate::fuse::{claims, damage};
use crate::store::plain_file::HEADROOM;
use crate::store::transfer::Begun;
use crate::sys::thread::caught;

/// The answer to a request; its payload lies at [`HEADROOM`] of the request's buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Answer {
    /// 0 for success.
    pub(super) errno: i32,
    pub(super) payload_len: usize,
}

impl Answer {
    pub(super) fn failed(errno: i32) -> Self {
        Self { errno, payload_len: 0 }
    }

    pub(super) fn header(self, unique: u64) -> [u8; wire::OUT_HEADER_LEN] {
        wire::out_header(unique, self.errno, self.payload_len)
    }
}

/// What became of a request.
pub(super) enum Served {
    Answered(Answer),
    /// A write through this handle, of this many bytes, that must be durable before it is answered. The sync may be slow, so the
    /// dispatcher does it ([`Relay::sync_write`](super::relay::Relay::sync_write)).
    ToSync {
        handle: u64,
        written: u32,
    },
}

/// State of a read or a write that was started.
pub(super) enum Outcome {
    Served(Served),
    /// The caller performs its I/O and then calls [`end`].
    UnderWay(Pending),
    /// Nothing was done: it has to wait, as [`serve`] does.
    MustWait,
}

/// Serves a read, a write, a last close or a quick sync; the buffer, a [`request_buffer`](crate::store::buffer::request_buffer), has
/// the data to write at [`HEADROOM`]. `None`: it is another operation.
///
/// The kernel does not wait for the reply to a last close. If it took the way through fuser, the next operation (a `lock` of the
/// component, a claim by another process) would find the file still open.
pub(super) fn serve(shared: &Shared, request: InHeader, argument: &[u8], buffer: &mut [u8]) -> Option<Served> {
    match request.opcode {
        opcode::READ | opcode::WRITE | opcode::RELEASE => {}
        opcode::FSYNC if shared.sync_latency.expects_quick() => {}
        _ => return None,
    }
    let fs = &shared.fs;
    let served = guarded(request, || match Transfer::decode(argument) {
        _ if request.opcode == opcode::FSYNC => Served::Answered(sync(shared, request, argument)),
        None => Served::Answered(Answer::failed(libc::EINVAL)),
        Some(closed) if request.opcode == opcode::RELEASE => {
            fs.close(closed.handle);
            Served::Answered(Answer { errno: 0, payload_len: 0 })
        }
        Some(from) if request.opcode == opcode::READ => {
            let read = fs.read(from.handle, from.offset, from.size, buffer).map(<[u8]>::len);
            finish(shared, request, from, read, buffer)
        }
        Some(to) => {
            let written = allow_write(fs, request, to).and_then(|()| fs.write(to.handle, to.offset, to.size, buffer));
            finish(shared, request, to, written.map(|()| to.size as usize), buffer)
        }
    });
    Some(served.unwrap_or_else(Served::Answered))
}

/// Whether a request may be given to [`begin`].
pub(super) fn is_read_or_write(request: InHeader) -> bool {
    matches!(request.opcode, opcode::READ | opcode::WRITE)
}

/// Like [`serve`] for a read or a write, but does not wait for other requests, and may leave the I/O to the caller.
pub(super) fn begin(shared: &Shared, request: InHeader, argument: &[u8], buffer: &mut [u8]) -> Outcome {
    let Some(transfer) = Transfer::decode(argument) else {
        return Outcome::Served(Served::Answered(Answer::failed(libc::EINVAL)));
    };
    let Transfer { handle, offset, size, .. } = transfer;
    let begun = guarded(request, || match request.opcode {
        opcode::READ => shared.fs.begin_read(handle, offset, size, buffer),
        _ => allow_write(&shared.fs, request, transfer)
            .and_then(|()| shared.fs.begin_write(handle, offset, size, buffer)),
    });
    let done = match begun {
        Err(failed) => return Outcome::Served(Served::Answered(failed)),
        Ok(Ok(Begun::UnderWay(pending))) => return Outcome::UnderWay(pending),
        Ok(Ok(Begun::MustWait)) => return Outcome::MustWait,
        Ok(Ok(Begun::Done(len))) => Ok(len),
        Ok(Err(error)) => Err(error),
    };
    let served = guarded(request, || finish(shared, request, transfer, done, buffer));
    Outcome::Served(served.unwrap_or_else(Served::Answered))
}

/// Ends a request after its I/O, which moved this many bytes from or to its buffer.
pub(super) fn end(
    shared: &Shared,
    request: InHeader,
    argument: &[u8],
    pending: Pending,
    moved: io::Result<usize>,
    buffer: &mut [u8],
) -> Served {
    let ended = guarded(request, || {
        let done = pending.end(moved, buffer);
        match Transfer::decode(argument) {
            Some(transfer) => finish(shared, request, transfer, done, buffer),
            None => Served::Answered(Answer::failed(libc::EINVAL)),
        }
    });
    ended.unwrap_or_else(Served::Answered)
}

/// A bug that one request triggers must not end the mount.
pub(super) fn guarded<T>(request: InHeader, work: impl FnOnce() -> T) -> std::result::Result<T, Answer> {
    caught(work).ok_or_else(|| {
        tracing::error!("a request failed within the program: this is a bug, please report it ({request:?})");
        Answer::failed(libc::EIO)
    })
}

/// A write by this caller may have to clear setuid bits.
fn allow_write(fs: &FileSystem, request: InHeader, to: Transfer) -> Result<()> {
    if to.flags & wire::WRITE_KILL_SUIDGID == 0 {
        return Ok(());
    }
    fs.drop_privileges(to.handle, &request.caller())
}

/// Finishes a read or a write, which moved this many bytes: it may have to be made durable.
fn finish(shared: &Shared, request: InHeader, transfer: Transfer, done: Result<usize>, buffer: &mut [u8]) -> Served {
    let Transfer { handle, open_flags, .. } = transfer;
    let Shared { fs, sync_latency, .. } = shared;
    let done = match done {
        Ok(len) if request.opcode == opcode::WRITE && fs.syncs_write(handle, open_flags) => {
            if !sync_latency.expects_quick() {
                return Served::ToSync { handle, written: wire::u32_of(len) };
            }
            sync_latency.measure(|| fs.sync(handle)).map(|()| len)
        }
        done => done,
    };
    Served::Answered(answer(fs, request, done, buffer))
}

/// The answer to a read or a write, which moved this many bytes.
fn answer(fs: &FileSystem, request: InHeader, done: Result<usize>, buffer: &mut [u8]) -> Answer {
    let is_read = request.opcode == opcode::READ;
    match done {
        Ok(len) if is_read => Answer { errno: 0, payload_len: len },
        Ok(len) => {
            let answer = wire::written(wire::u32_of(len));
            buffer[HEADROOM..HEADROOM + answer.len()].copy_from_slice(&answer);
            Answer { errno: 0, payload_len: answer.len() }
        }
        Err(error) if is_read => {
            damage::record(fs, request.node, &error);
            refused("read", fs, request, &error)
        }
        Err(error) => refused("write", fs, request, &error),
    }
}

fn sync(shared: &Shared, request: InHeader, argument: &[u8]) -> Answer {
    let Some(handle) = wire::synced_handle(argument) else { return Answer::failed(libc::EINVAL) };
    let (name, node, caller) = (opcode::name(request.opcode), request.node, request.caller());
    let asked = FileRequest { name, node, caller, operation: FileOperation::Sync(handle) };
    let done = shared.sync_latency.measure(|| asked.run(&shared.fs));
    Answer { errno: asked.finish(&shared.fs, done).map_or_else(fuser::Errno::code, |_| 0), payload_len: 0 }
}

fn refused(operation: &'static str, fs: &FileSystem, request: InHeader, error: &Error) -> Answer {
    claims::record(fs, request.node, error);
    Answer::failed(refuse(On(operation, fs, request.node), error).code())
}
