//! The operations that a transport serves itself: reads and writes of open files, closing them, and syncs where those are quick.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::Error;
use crate::fs::FileSystem;
use crate::fuse::damage;
use crate::fuse::errno::refuse;
use crate::fuse::transport::wire::{self, InHeader, Transfer, operation};
use crate::store::plain_file::HEADROOM;

/// What to reply; a payload lies at [`HEADROOM`] of the request's buffer.
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

/// Serves a read, a write, a last close or a quick sync; the buffer, a [`request_buffer`](crate::store::buffer::request_buffer), has
/// what is to be written at [`HEADROOM`]. `None`: it is none of these.
///
/// Nobody waits for the reply to a last close, so were it on its way through fuser, what comes next (a `lock` of the
/// component, a claim by another process) would find the file open.
pub(super) fn serve(fs: &FileSystem, request: InHeader, argument: &[u8], buffer: &mut [u8]) -> Option<Answer> {
    match request.operation {
        operation::READ | operation::WRITE | operation::RELEASE => {}
        operation::FSYNC if fs.syncs_are_quick() => {}
        _ => return None,
    }
    // A defect that one request meets must not end the mount.
    let served = catch_unwind(AssertUnwindSafe(|| match Transfer::decode(argument) {
        _ if request.operation == operation::FSYNC => sync(fs, request, argument),
        None => Answer::failed(libc::EINVAL),
        Some(closed) if request.operation == operation::RELEASE => {
            fs.close(closed.handle);
            Answer { errno: 0, payload_len: 0 }
        }
        Some(transfer) if request.operation == operation::READ => read(fs, request, transfer, buffer),
        Some(transfer) => write(fs, request, transfer, buffer),
    }));
    Some(served.unwrap_or_else(|_| {
        tracing::error!("a request failed within the program: this is a defect ({request:?})");
        Answer::failed(libc::EIO)
    }))
}

fn read(fs: &FileSystem, request: InHeader, from: Transfer, buffer: &mut [u8]) -> Answer {
    match fs.read(from.handle, from.offset, from.size, buffer) {
        Ok(data) => Answer { errno: 0, payload_len: data.len() },
        Err(error) => {
            damage::record(fs, request.node, &error);
            refused("read", fs, request, &error)
        }
    }
}

fn write(fs: &FileSystem, request: InHeader, to: Transfer, buffer: &mut [u8]) -> Answer {
    let forbidden = to.flags & wire::WRITE_KILL_SUIDGID != 0;
    let allowed = if forbidden { fs.drop_privileges(to.handle) } else { Ok(()) };
    match allowed.and_then(|()| fs.write(to.handle, to.offset, to.size, buffer)) {
        Ok(()) => {
            let answer = wire::written(to.size);
            buffer[HEADROOM..HEADROOM + answer.len()].copy_from_slice(&answer);
            Answer { errno: 0, payload_len: answer.len() }
        }
        Err(error) => refused("write", fs, request, &error),
    }
}

fn sync(fs: &FileSystem, request: InHeader, argument: &[u8]) -> Answer {
    let Some(handle) = wire::synced_handle(argument) else { return Answer::failed(libc::EINVAL) };
    match fs.sync(handle) {
        Ok(()) => Answer { errno: 0, payload_len: 0 },
        Err(error) => refused("fsync", fs, request, &error),
    }
}

fn refused(operation: &str, fs: &FileSystem, request: InHeader, error: &Error) -> Answer {
    Answer::failed(refuse(&format!("{operation} {}", fs.name(request.node)), error).code())
}
