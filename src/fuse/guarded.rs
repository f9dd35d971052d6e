//! A defect that one request meets must not end the thread that serves it: fuser does not replace a thread that unwound, and
//! with the last of them nothing is answered any more.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::error::{Error, Kind, Result};
use crate::sys::thread::{caught, may_fail};

/// A file system whose handlers never unwind: a reply that is dropped on the way out is an I/O error. A thread of fuser that
/// ends all the same says so.
pub(super) struct Guarded<F> {
    within: F,
    ended: Sender<Result<()>>,
}

impl<F> Guarded<F> {
    pub(super) fn new(within: F, ended: Sender<Result<()>>) -> Self {
        Self { within, ended }
    }

    fn guard(&self, operation: &str, work: impl FnOnce(&F)) {
        ENDING.with(|ending| {
            ending.get_or_init(|| Ending(self.ended.clone()));
        });
        let done = caught(|| {
            may_fail("handler");
            work(&self.within);
        });
        if done.is_none() {
            tracing::error!("{operation}: a request failed within the program: this is a defect");
        }
        may_fail("fuser");
    }
}

/// Goes with its thread.
struct Ending(Sender<Result<()>>);

impl Drop for Ending {
    fn drop(&mut self) {
        // Of a mount that ends nobody listens any more.
        let _ = self.0.send(Err(Error::new(Kind::Io, "a thread of the dispatcher ended before the mount")));
    }
}

thread_local! {
    static ENDING: OnceCell<Ending> = const { OnceCell::new() };
}

macro_rules! delegate {
    ($($operation:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $operation(&self, request: &Request, $($argument: $type),*) {
            self.guard(stringify!($operation), |within| within.$operation(request, $($argument),*));
        })*
    };
}

impl<F: Filesystem> Filesystem for Guarded<F> {
    fn init(&mut self, request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.within.init(request, config)
    }

    fn destroy(&mut self) {
        self.within.destroy();
    }

    // All there are on Linux, also those that have nothing to do yet.
    delegate! {
        lookup(parent: INodeNo, name: &OsStr, reply: ReplyEntry);
        forget(number: INodeNo, count: u64);
        getattr(number: INodeNo, handle: Option<FileHandle>, reply: ReplyAttr);
        setattr(number: INodeNo, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
            accessed: Option<TimeOrNow>, modified: Option<TimeOrNow>, changed: Option<SystemTime>,
            handle: Option<FileHandle>, created: Option<SystemTime>, checked: Option<SystemTime>,
            backed_up: Option<SystemTime>, flags: Option<BsdFileFlags>, reply: ReplyAttr);
        readlink(number: INodeNo, reply: ReplyData);
        mknod(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, device: u32, reply: ReplyEntry);
        mkdir(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
        unlink(parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
        rmdir(parent: INodeNo, name: &OsStr, reply: ReplyEmpty);
        symlink(parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry);
        rename(parent: INodeNo, name: &OsStr, new_parent: INodeNo, new_name: &OsStr, flags: RenameFlags,
            reply: ReplyEmpty);
        link(number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry);
        open(number: INodeNo, flags: OpenFlags, reply: ReplyOpen);
        read(number: INodeNo, handle: FileHandle, offset: u64, size: u32, flags: OpenFlags, owner: Option<LockOwner>,
            reply: ReplyData);
        write(number: INodeNo, handle: FileHandle, offset: u64, data: &[u8], how: WriteFlags, flags: OpenFlags,
            owner: Option<LockOwner>, reply: ReplyWrite);
        flush(number: INodeNo, handle: FileHandle, owner: LockOwner, reply: ReplyEmpty);
        release(number: INodeNo, handle: FileHandle, flags: OpenFlags, owner: Option<LockOwner>, flush: bool,
            reply: ReplyEmpty);
        fsync(number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty);
        opendir(number: INodeNo, flags: OpenFlags, reply: ReplyOpen);
        readdir(number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectory);
        readdirplus(number: INodeNo, handle: FileHandle, offset: u64, reply: ReplyDirectoryPlus);
        releasedir(number: INodeNo, handle: FileHandle, flags: OpenFlags, reply: ReplyEmpty);
        fsyncdir(number: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty);
        statfs(number: INodeNo, reply: ReplyStatfs);
        setxattr(number: INodeNo, name: &OsStr, value: &[u8], flags: i32, position: u32, reply: ReplyEmpty);
        getxattr(number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr);
        listxattr(number: INodeNo, size: u32, reply: ReplyXattr);
        removexattr(number: INodeNo, name: &OsStr, reply: ReplyEmpty);
        access(number: INodeNo, mask: AccessFlags, reply: ReplyEmpty);
        create(parent: INodeNo, name: &OsStr, mode: u32, umask: u32, flags: i32, reply: ReplyCreate);
        getlk(number: INodeNo, handle: FileHandle, owner: LockOwner, start: u64, end: u64, kind: i32, pid: u32,
            reply: ReplyLock);
        setlk(number: INodeNo, handle: FileHandle, owner: LockOwner, start: u64, end: u64, kind: i32, pid: u32,
            sleep: bool, reply: ReplyEmpty);
        bmap(number: INodeNo, block_size: u32, index: u64, reply: ReplyBmap);
        ioctl(number: INodeNo, handle: FileHandle, flags: IoctlFlags, command: u32, input: &[u8], output_len: u32,
            reply: ReplyIoctl);
        poll(number: INodeNo, handle: FileHandle, notifier: PollNotifier, events: PollEvents, flags: PollFlags,
            reply: ReplyPoll);
        fallocate(number: INodeNo, handle: FileHandle, offset: u64, len: u64, mode: i32, reply: ReplyEmpty);
        lseek(number: INodeNo, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
        copy_file_range(from: INodeNo, from_handle: FileHandle, from_offset: u64, to: INodeNo, to_handle: FileHandle,
            to_offset: u64, len: u64, flags: CopyFileRangeFlags, reply: ReplyWrite);
    }
}
