//! A FUSE mount that shows one file, unchanged: what FUSE itself costs, without cryptography.
//!
//! The session is set up exactly as the product sets up its own (threads, capabilities, limits, open flags, one pooled
//! buffer per read, writes straight from the request), so what the product loses against this program is what its own
//! layers and the cipher cost. It gets no handicap: a change of one set-up belongs into the other as well.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Parser;
use crossbeam::queue::ArrayQueue;
use fuser::{
    BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyWrite, Request, Session, SessionUnmounter, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::mount::{UnmountFlags, unmount};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Largest request, in bytes; the kernel's own limit unless `fs.fuse.max_pages_limit` was raised.
const MAX_REQUEST: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 128;
const CONGESTION_THRESHOLD: u16 = 96;
const PAGE: usize = 4096;
/// Nobody changes the backing file behind the mount, so the kernel may keep what it knows.
const TTL: Duration = Duration::from_secs(1);
const FILE: INodeNo = INodeNo(2);
/// `whence` of lseek(2), as far as it reaches a FUSE file system.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Shows one file through FUSE, unchanged, until it is unmounted or gets SIGTERM.
#[derive(Parser)]
struct Args {
    /// The file to show; it appears under its own name
    backing_file: PathBuf,
    /// An empty directory
    mountpoint: PathBuf,
    /// Event loops [default: one per CPU, at least 2]
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program that runs in the foreground")]
fn report(error: &io::Error) {
    eprintln!("passthrough: {error}");
}

fn run(args: &Args) -> io::Result<()> {
    let threads = match args.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism()?.get().max(2),
    };
    let file = OpenOptions::new().read(true).write(true).open(&args.backing_file)?;
    let name = args.backing_file.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();

    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("passthrough".into()),
        MountOption::Subtype("vmcryptfs-bench".into()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
    ];
    config.n_threads = Some(threads);
    config.clone_fd = true;

    let signals = Signals::new([SIGTERM, SIGINT])?;
    let mut session = Session::new(Passthrough::new(file, name, threads), &args.mountpoint, &config)?;
    let unmounter = session.unmount_callable();
    let mountpoint = args.mountpoint.clone();
    std::thread::spawn(move || unmount_on_signal(signals, unmounter, &mountpoint));
    session.run()
}

/// A busy mount loses its name now and goes on serving whoever has the file open, so that nobody's I/O fails.
fn unmount_on_signal(mut signals: Signals, mut unmounter: SessionUnmounter, mountpoint: &Path) {
    for _ in signals.forever() {
        let unmounted = unmounter.unmount().or_else(|_busy| unmount(mountpoint, UnmountFlags::DETACH));
        if let Err(error) = unmounted {
            report(&error.into());
        }
    }
}

struct Passthrough {
    file: File,
    name: OsString,
    buffers: BufferPool,
}

impl Passthrough {
    fn new(file: File, name: OsString, threads: usize) -> Self {
        Self { file, name, buffers: BufferPool::new(threads) }
    }

    fn attr(&self, ino: INodeNo) -> Result<FileAttr, Errno> {
        let (kind, perm, nlink) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o755, 2),
            FILE => (FileType::RegularFile, 0o600, 1),
            _ => return Err(Errno::ENOENT),
        };
        let backing = self.file.metadata()?;
        let is_file = kind == FileType::RegularFile;
        Ok(FileAttr {
            ino,
            size: if is_file { backing.size() } else { 0 },
            blocks: if is_file { backing.blocks() } else { 0 },
            atime: time_or_epoch(backing.accessed()),
            mtime: time_or_epoch(backing.modified()),
            ctime: changed(&backing),
            crtime: SystemTime::UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: backing.uid(),
            gid: backing.gid(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<i64, Errno> {
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        let from = match whence {
            SEEK_DATA => SeekFrom::Data(offset),
            SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::EINVAL),
        };
        let found = rustix::fs::seek(&self.file, from).map_err(io::Error::from)?;
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }
}

impl Filesystem for Passthrough {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ASYNC_DIO | InitFlags::FUSE_PARALLEL_DIROPS | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        let within = "within the limits of fuser";
        config.add_capabilities(wanted & config.capabilities()).expect("only what the kernel offers");
        config.set_max_write(MAX_REQUEST).expect(within);
        config.set_max_readahead(u32::MAX).or_else(|most| config.set_max_readahead(most)).expect(within);
        config.set_max_background(MAX_BACKGROUND).expect(within);
        config.set_congestion_threshold(CONGESTION_THRESHOLD).expect(within);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent != INodeNo::ROOT || name != self.name {
            return reply.error(Errno::ENOENT);
        }
        match self.attr(FILE) {
            Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let resized = match size {
            Some(size) => self.file.set_len(size).map_err(Errno::from),
            None => Ok(()),
        };
        match resized.and_then(|()| self.attr(ino)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        if ino != INodeNo::ROOT {
            return reply.error(Errno::ENOTDIR);
        }
        let entries = [
            (INodeNo::ROOT, FileType::Directory, OsStr::new(".")),
            (INodeNo::ROOT, FileType::Directory, OsStr::new("..")),
            (FILE, FileType::RegularFile, &self.name),
        ];
        for (next, (ino, kind, name)) in (1..).zip(entries).filter(|(next, _)| *next > offset) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut buffer = self.buffers.take();
        match read_full(&self.file, buffer.first(size as usize), offset) {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(error.into()),
        }
        self.buffers.put_back(buffer);
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.file.write_all_at(data, offset) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("a request is at most MAX_REQUEST long")),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.file.sync_data() {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error.into()),
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        match rustix::fs::fallocate(&self.file, mode, offset, length) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(io::Error::from(error).into()),
        }
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        match self.seek(offset, whence) {
            Ok(found) => reply.offset(found),
            Err(error) => reply.error(error),
        }
    }
}

/// Reads until `buffer` is full or the file ends; the kernel takes a shorter answer for the end of the file.
fn read_full<'a>(file: &File, buffer: &'a mut [u8], offset: u64) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&buffer[..filled])
}

/// One buffer per event loop; none is allocated or zeroed while requests are served.
struct BufferPool(ArrayQueue<Buffer>);

impl BufferPool {
    fn new(count: usize) -> Self {
        let free = ArrayQueue::new(count);
        while free.push(Buffer::new()).is_ok() {}
        Self(free)
    }

    fn take(&self) -> Buffer {
        self.0.pop().unwrap_or_else(Buffer::new)
    }

    fn put_back(&self, buffer: Buffer) {
        // A full pool drops it.
        self.0.push(buffer).ok();
    }
}

/// Room for the largest request, starting at a page.
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn new() -> Self {
        let bytes = vec![0; MAX_REQUEST as usize + PAGE];
        let start = bytes.as_ptr().align_offset(PAGE);
        Self { bytes, start }
    }

    fn first(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..][..len]
    }
}

fn changed(backing: &Metadata) -> SystemTime {
    let since_epoch = u64::try_from(backing.ctime()).map_or(Duration::ZERO, Duration::from_secs);
    SystemTime::UNIX_EPOCH + since_epoch
}

fn time_or_epoch(time: io::Result<SystemTime>) -> SystemTime {
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}
