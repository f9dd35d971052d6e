//! The FUSE adapter: translate a request, delegate it to [`FileSystem`], reply. Every handler has this shape; nothing is
//! decided here. What may need a key goes through `waiting`. Reads and writes of open files, and closing them, do not come
//! here: [`transport`] serves them, and by /dev/fuse most of what is done to names and attributes.

mod damage;
mod errno;
mod guarded;
mod kernel;
pub mod mount;
pub mod options;
mod readahead;
pub mod session;
pub mod transport;
mod waiting;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request, TimeOrNow, Version,
};

use crate::fs::{
    Attr, CacheMode, Caller, Changes, FileKind, FileSystem, NewFile, OpenMode, RenameMode, Seek, Space, TimeChange,
    XattrMode,
};
use crate::store::plain_file::MAX_REQUEST;
use errno::{On, refuse};
use kernel::Kernel;
use transport::times::without_head_start;
use waiting::{answer, answer_later};

/// How long the kernel may believe what it was told of names and attributes: another host may change the folder.
const TTL: Duration = Duration::from_secs(1);
/// Most bytes of one request.
#[allow(clippy::cast_possible_truncation, reason = "a MiB fits")]
const MAX_LEN: u32 = MAX_REQUEST as u32;
/// Requests that the kernel queues without anyone waiting for them, such as asynchronous direct I/O.
const MAX_BACKGROUND: u16 = 128;
/// From here on the kernel holds back readahead.
const CONGESTION_THRESHOLD: u16 = 96;
/// Block size that `stat` suggests: below it I/O pays for whole sectors.
const BLOCK_SIZE: u32 = 4096;

/// QEMU opens disks with O_DIRECT: no second cache of the plaintext, writes side by side.
const DIRECT_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);

/// The FUSE of Linux 6.18, where a mapping of a file shows what was written past the cache while its page was being read. Of
/// earlier ones this is not known.
const KEEPS_MAPPINGS: Version = Version(7, 45);

/// Carries requests from the kernel to a [`FileSystem`].
pub struct Adapter(Arc<FileSystem>, Kernel);

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        if self.0.has_acls() {
            // The kernel heeds them, and leaves the umask to us, for which a default ACL comes instead. Not without it: ACLs
            // that are stored and not heeded would give a file's group what their mask gives to others.
            config
                .add_capabilities(InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK)
                .map_err(|missing| io::Error::other(format!("this kernel's FUSE lacks {missing:?}")))?;
        }
        // Each on its own: what an older kernel lacks is no reason to go without the rest.
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
                    self.0.allow_uncached_homes();
                }
                Ok(()) => {}
                Err(missing) => tracing::info!("this kernel's FUSE lacks {missing:?}"),
            }
        }
        let limits = [
            config.set_max_write(MAX_LEN).map(drop),
            // No more than one request holds, or the kernel would want larger buffers than we have.
            config.set_max_readahead(MAX_LEN).or_else(|most| config.set_max_readahead(most.min(MAX_LEN))).map(drop),
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

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(parent.0, name) {
            Ok(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), generation(&attr)),
            Err(error) => reply.error(refuse(On("lookup", &self.0, parent.0), &error)),
        }
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.0.forget(number.0, count);
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.attributes(number.0) {
            Ok(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)),
            Err(error) => reply.error(refuse(On("getattr", &self.0, number.0), &error)),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _changed: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _created: Option<SystemTime>,
        _checked: Option<SystemTime>,
        _backed_up: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes =
            Changes { mode, uid, gid, size, accessed: accessed.map(time_change), modified: modified.map(time_change) };
        let caller = caller(request);
        answer(
            &self.0,
            move |fs| fs.change(number.0, &changes, &caller),
            move |fs, changed| match changed {
                Ok(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)),
                Err(error) => reply.error(refuse(On("setattr", fs, number.0), &error)),
            },
        );
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (name, new) = (name.to_owned(), new_file(request, mode, umask));
        let work = move |fs: &FileSystem| fs.make_dir(parent.0, &name, new);
        let reply = move |fs: &FileSystem, made: crate::error::Result<Attr>| match made {
            Ok(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), generation(&attr)),
            Err(error) => reply.error(refuse(On("mkdir", fs, parent.0), &error)),
        };
        match self.0.holds_vm_folders(parent.0) {
            true => answer_later(&self.0, work, reply),
            false => answer(&self.0, work, reply),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (name, new) = (name.to_owned(), new_file(request, mode, umask));
        answer(
            &self.0,
            move |fs| fs.make_node(parent.0, &name, new, device),
            move |fs, made| match made {
                Ok(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), generation(&attr)),
                Err(error) => reply.error(refuse(On("mknod", fs, parent.0), &error)),
            },
        );
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (name, target, new) = (name.to_owned(), target.to_owned(), new_file(request, 0o777, 0));
        answer(
            &self.0,
            move |fs| fs.make_symlink(parent.0, &name, &target, new),
            move |fs, made| match made {
                Ok(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), generation(&attr)),
                Err(error) => reply.error(refuse(On("symlink", fs, parent.0), &error)),
            },
        );
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        answer(
            &self.0,
            move |fs| fs.read_symlink(number.0),
            move |fs, target| match target {
                Ok(target) => reply.data(target.as_bytes()),
                Err(error) => reply.error(refuse(On("readlink", fs, number.0), &error)),
            },
        );
    }

    fn link(&self, _request: &Request, number: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.link(number.0, parent.0, name) {
            Ok(attr) => reply.entry(&ttl(&attr), &file_attr(&attr), generation(&attr)),
            Err(error) => reply.error(refuse(On("link", &self.0, number.0), &error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Set,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let (name, value, caller) = (name.to_owned(), value.to_owned(), caller(request));
        answer(
            &self.0,
            move |fs| fs.set_xattr(number.0, &name, &value, mode, &caller),
            move |fs, set| match set {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(refuse(On("setxattr", fs, number.0), &error)),
            },
        );
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        answer(
            &self.0,
            move |fs| fs.xattr(number.0, &name),
            move |fs, value| match value {
                Ok(value) => xattr_reply(&value, size, reply),
                Err(error) => reply.error(refuse(On("getxattr", fs, number.0), &error)),
            },
        );
    }

    fn listxattr(&self, request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        match self.0.xattr_names(number.0, &caller(request)) {
            Ok(names) => xattr_reply(&names, size, reply),
            Err(error) => reply.error(refuse(On("listxattr", &self.0, number.0), &error)),
        }
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.0.remove_xattr(number.0, name) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("removexattr", &self.0, number.0), &error)),
        }
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.0.remove(parent.0, name, false) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("unlink", &self.0, parent.0), &error)),
        }
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.0.remove(parent.0, name, true) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("rmdir", &self.0, parent.0), &error)),
        }
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            flags if flags.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::KeepExisting,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        match self.0.rename((parent.0, name), (new_parent.0, new_name), mode) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("rename", &self.0, parent.0), &error)),
        }
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (mode, caller) = (OpenMode::of_flags(flags.0), caller(request));
        answer(
            &self.0,
            move |fs| fs.open_file(number.0, mode, &caller),
            move |fs, opened| match opened {
                Ok((handle, cache)) => {
                    after_open(fs, number.0, handle, flags.0);
                    reply.opened(FileHandle(handle), open_flags(cache));
                }
                Err(error) => {
                    damage::record(fs, number.0, &error);
                    reply.error(refuse(On("open", fs, number.0), &error));
                }
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (name, new, mode) = (name.to_owned(), new_file(request, mode, umask), OpenMode::of_flags(flags));
        answer(
            &self.0,
            move |fs| fs.create(parent.0, &name, new, mode),
            move |fs, created| match created {
                Ok((attr, handle, cache)) => {
                    after_open(fs, attr.number, handle, flags);
                    reply.created(
                        &ttl(&attr),
                        &file_attr(&attr),
                        generation(&attr),
                        FileHandle(handle),
                        open_flags(cache),
                    );
                }
                Err(error) => reply.error(refuse(On("create", fs, parent.0), &error)),
            },
        );
    }

    fn flush(&self, _request: &Request, _number: INodeNo, _handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok(); // nothing is held back: each write is with the backing file when it is answered
    }

    fn fsync(&self, _request: &Request, number: INodeNo, handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        match self.0.sync(handle.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("fsync", &self.0, number.0), &error)),
        }
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.0.open_dir(number.0, &caller(request)) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(refuse(On("opendir", &self.0, number.0), &error)),
        }
    }

    fn readdir(&self, _request: &Request, number: INodeNo, handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.0.list(handle.0, offset, |entry| {
            !reply.add(INodeNo(entry.number), entry.next, file_type(entry.kind), &entry.name)
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("readdir", &self.0, number.0), &error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.close(handle.0);
        reply.ok();
    }

    fn fsyncdir(&self, _request: &Request, number: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        match self.0.sync_dir(number.0) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("fsyncdir", &self.0, number.0), &error)),
        }
    }

    fn statfs(&self, _request: &Request, number: INodeNo, reply: ReplyStatfs) {
        match self.0.capacity(number.0) {
            Ok(capacity) => {
                let [blocks, free, available] = capacity.blocks;
                let [files, free_files] = capacity.files;
                reply.statfs(blocks, free, available, files, free_files, BLOCK_SIZE, 255, capacity.block_size);
            }
            Err(error) => reply.error(refuse(On("statfs", &self.0, number.0), &error)),
        }
    }

    fn fallocate(
        &self,
        request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let what = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => Space::Allocate { keep_size },
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => Space::Punch,
            libc::FALLOC_FL_ZERO_RANGE => Space::Zero { keep_size },
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        match self.0.allocate(handle.0, offset, len, what, &caller(request)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(refuse(On("fallocate", &self.0, number.0), &error)),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        if self.0.may_be_mapped(handle.0) {
            self.1.write_back(number.0); // the kernel asks without having done so
        }
        match self.0.seek(handle.0, offset, what) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(refuse(On("lseek", &self.0, number.0), &error)),
        }
    }
}

fn generation(attr: &Attr) -> Generation {
    Generation(attr.generation.into())
}

fn ttl(attr: &Attr) -> Duration {
    if attr.lasting { TTL } else { Duration::ZERO }
}

/// Size 0 asks how long the answer is.
fn xattr_reply(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(len) if size == 0 => reply.size(len),
        Ok(len) if len <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

fn new_file(request: &Request, mode: u32, umask: u32) -> NewFile {
    NewFile { mode, umask, uid: request.uid(), gid: request.gid() }
}

/// What every open ends with: `flags` are those of `open(2)`.
fn after_open(fs: &FileSystem, number: u64, handle: u64, flags: i32) {
    fs.heed_open_flags(handle, flags);
    if let Some(why) = fs.why_cached(handle) {
        tracing::warn!("data of {} go through the page cache: {why}", fs.name(number));
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::SpecificTime(time) => TimeChange::At(without_head_start(time)),
        TimeOrNow::Now => TimeChange::Now,
    }
}

/// Nothing is held back until a file is closed, so nothing needs to be flushed then.
fn open_flags(cache: CacheMode) -> FopenFlags {
    let flags = FopenFlags::FOPEN_NOFLUSH;
    match cache {
        CacheMode::Direct => flags | DIRECT_FLAGS,
        CacheMode::Kernel => flags,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Regular => FileType::RegularFile,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let [accessed, modified, changed] = attr.times;
    FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.blocks,
        atime: accessed,
        mtime: modified,
        ctime: changed,
        crtime: changed,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.device,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}
