//! The FUSE adapter: a request in fuser's types becomes a `FileRequest`, whose result becomes fuser's reply; nothing is
//! decided here. Reads and writes of open files, and closing them, do not come here: [`transport`] serves them, and in most cases
//! operations on names and attributes, too.

mod claims;
pub mod counters;
mod damage;
mod errno;
mod guarded;
mod kernel;
pub mod mount;
mod opcode;
mod operations;
pub mod options;
mod readahead;
mod respond;
pub mod session;
pub mod transport;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, FileHandle, Filesystem, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request, TimeOrNow, Version,
};

use crate::fs::{Caller, Changes, FileSystem, NewFile, TimeChange};
use crate::store::plain_file::MAX_REQUEST;
use errno::{On, refuse};
use guarded::Guard;
use kernel::Kernel;
use operations::{FileOperation as Op, FileRequest, Name};
use respond::{Respond, file_type};
use transport::policy::latency::SyncLatency;
use transport::times::without_head_start;

/// Maximum length of a request in bytes.
#[allow(clippy::cast_possible_truncation, reason = "a MiB fits")]
const MAX_LEN: u32 = MAX_REQUEST as u32;
/// Requests that the kernel queues without a waiting caller, such as asynchronous direct I/O.
const MAX_BACKGROUND: u16 = 128;
/// With this many of them the kernel holds back readahead.
const CONGESTION_THRESHOLD: u16 = 96;
/// Block size that `stat` suggests: below it I/O pays for whole sectors.
const BLOCK_SIZE: u32 = 4096;

/// The FUSE of Linux 6.18, where a mapping of a file shows what was written past the cache while its page was being read. Whether
/// earlier ones do is not known.
const KEEPS_MAPPINGS: Version = Version(7, 45);

/// Carries requests from the kernel to a [`FileSystem`].
pub(super) struct Adapter {
    fs: Arc<FileSystem>,
    kernel: Kernel,
    guard: Guard,
    sync_latency: Arc<SyncLatency>,
}

/// Handlers: what fuser passes, the reply that it expects, and the operation that it is.
macro_rules! handlers {
    ($($name:ident($request:ident, $node:ident $(, $argument:ident: $type:ty)*; $reply:ty) => $operation:expr;)+) => {
        $(fn $name(&self, $request: &Request, $node: INodeNo, $($argument: $type,)* reply: $reply) {
            self.answer(stringify!($name), $request, $node, $operation, reply);
        })+
    };
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if self.fs.has_acls() {
            // The kernel then checks ACLs and leaves the umask to us, since a default ACL replaces it. Both are needed: ACLs that are
            // stored and not checked would give a file's group what their mask gives to others.
            config
                .add_capabilities(InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK)
                .map_err(|missing| io::Error::other(format!("this kernel's FUSE lacks {missing:?}")))?;
        }
        // One at a time: if an older kernel lacks one, the others are used.
        let wanted = [
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            // Without it the kernel asks for `security.capability` before each buffered write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ];
        for wanted in wanted {
            match config.add_capabilities(wanted) {
                Ok(()) if wanted == InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP && config.kernel_abi() >= KEEPS_MAPPINGS => {
                    self.fs.allow_uncached_homes();
                }
                Ok(()) => {}
                Err(missing) => tracing::info!("this kernel's FUSE lacks {missing:?}"),
            }
        }
        let limits = [
            config.set_max_write(MAX_LEN).map(drop),
            // At most what a request holds, or the kernel would want larger buffers than we have.
            config.set_max_readahead(MAX_LEN).or_else(|max| config.set_max_readahead(max.min(MAX_LEN))).map(drop),
        ];
        let queue = [
            config.set_max_background(MAX_BACKGROUND).map(drop),
            config.set_congestion_threshold(CONGESTION_THRESHOLD).map(drop),
        ];
        for nearest in limits.into_iter().filter_map(Result::err) {
            tracing::info!("the kernel bounds a request at {nearest} bytes");
        }
        for nearest in queue.into_iter().filter_map(Result::err) {
            tracing::info!("the kernel bounds its queue at {nearest} requests");
        }
        Ok(())
    }

    handlers! {
        lookup(request, parent, name: &OsStr; ReplyEntry) => Op::Lookup(owned(name));
        getattr(request, node, _handle: Option<FileHandle>; ReplyAttr) => Op::Attributes;
        setattr(request, node, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
            accessed: Option<TimeOrNow>, modified: Option<TimeOrNow>, _changed: Option<SystemTime>,
            _handle: Option<FileHandle>, _created: Option<SystemTime>, _checked: Option<SystemTime>,
            _backed_up: Option<SystemTime>, _flags: Option<BsdFileFlags>; ReplyAttr) => {
            Op::Change(Changes { mode, uid, gid, size, accessed: time_change(accessed), modified: time_change(modified) })
        };
        mkdir(request, parent, name: &OsStr, mode: u32, umask: u32; ReplyEntry) =>
            Op::MakeDir(owned(name), new_file(request, mode, umask));
        mknod(request, parent, name: &OsStr, mode: u32, umask: u32, device: u32; ReplyEntry) =>
            Op::MakeNode(owned(name), new_file(request, mode, umask), device);
        symlink(request, parent, name: &OsStr, target: &Path; ReplyEntry) =>
            Op::MakeSymlink(owned(name), target.to_owned(), new_file(request, 0o777, 0));
        readlink(request, node; ReplyData) => Op::ReadSymlink;
        link(request, node, parent: INodeNo, name: &OsStr; ReplyEntry) => Op::Link(parent.0, owned(name));
        setxattr(request, node, name: &OsStr, value: &[u8], flags: i32, _position: u32; ReplyEmpty) =>
            Op::SetXattr(owned(name), value.to_owned(), flags);
        getxattr(request, node, name: &OsStr, size: u32; ReplyXattr) => Op::Xattr(owned(name), size);
        listxattr(request, node, size: u32; ReplyXattr) => Op::XattrNames(size);
        removexattr(request, node, name: &OsStr; ReplyEmpty) => Op::RemoveXattr(owned(name));
        unlink(request, parent, name: &OsStr; ReplyEmpty) => Op::Unlink(owned(name));
        rmdir(request, parent, name: &OsStr; ReplyEmpty) => Op::RemoveDir(owned(name));
        rename(request, parent, name: &OsStr, new_parent: INodeNo, new_name: &OsStr, flags: RenameFlags; ReplyEmpty) =>
            Op::Rename(owned(name), new_parent.0, owned(new_name), flags.bits());
        open(request, node, flags: OpenFlags; ReplyOpen) => Op::Open(flags.0);
        create(request, parent, name: &OsStr, mode: u32, umask: u32, flags: i32; ReplyCreate) =>
            Op::Create(owned(name), new_file(request, mode, umask), flags);
        flush(request, node, _handle: FileHandle, _owner: LockOwner; ReplyEmpty) => Op::Flush;
        fsync(request, node, handle: FileHandle, _data_only: bool; ReplyEmpty) => Op::Sync(handle.0);
        opendir(request, node, _flags: OpenFlags; ReplyOpen) => Op::OpenDir;
        releasedir(request, node, handle: FileHandle, _flags: OpenFlags; ReplyEmpty) => Op::Close(handle.0);
        fsyncdir(request, node, _handle: FileHandle, _data_only: bool; ReplyEmpty) => Op::SyncDir;
        statfs(request, node; ReplyStatfs) => Op::Capacity;
        fallocate(request, node, handle: FileHandle, offset: u64, len: u64, mode: i32; ReplyEmpty) =>
            Op::Allocate(handle.0, [offset, len], mode);
        lseek(request, node, handle: FileHandle, offset: i64, whence: i32; ReplyLseek) =>
            Op::Seek(handle.0, offset, whence);
    }

    fn forget(&self, _request: &Request, node: INodeNo, count: u64) {
        self.guard.run("forget", || self.fs.forget(node.0, count));
    }

    fn readdir(&self, _request: &Request, node: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        self.guard.run("readdir", move || {
            let listed = self.fs.list(handle.0, offset, |entry| {
                !reply.add(INodeNo(entry.number), entry.next, file_type(entry.kind), &entry.name)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse(On("readdir", &self.fs, node.0), &error)),
            }
        });
    }
}

impl Adapter {
    fn answer(&self, name: &'static str, from: &Request, node: INodeNo, operation: Op<'static>, reply: impl Respond) {
        let caller = Caller { uid: from.uid(), gid: from.gid(), pid: from.pid() };
        self.guard.run(name, || {
            if let Op::Seek(handle, ..) = operation
                && self.fs.may_be_mapped(handle)
            {
                self.kernel.write_back(node.0); // the kernel asks without having done so
            }
            let request = FileRequest { name, node: node.0, caller, operation };
            if let Op::Sync(_) = request.operation {
                let done = self.sync_latency.measure(|| request.run(&self.fs));
                return reply.respond(request.finish(&self.fs, done));
            }
            waiting::answer(&self.fs, request, reply);
        });
    }
}

fn owned(name: &OsStr) -> Name<'static> {
    name.to_owned().into()
}

fn new_file(request: &Request, mode: u32, umask: u32) -> NewFile {
    NewFile { mode, umask, uid: request.uid(), gid: request.gid() }
}

fn time_change(time: Option<TimeOrNow>) -> Option<TimeChange> {
    time.map(|time| match time {
        TimeOrNow::SpecificTime(time) => TimeChange::At(without_head_start(time)),
        TimeOrNow::Now => TimeChange::Now,
    })
}
