//! File operations beyond std: sparse files, locks between processes and hosts, opening below a directory.

#![allow(
    unsafe_code,
    reason = "locks of open file descriptions and handles of files have no safe form in std or rustix"
)]

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FallocateFlags, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat};
use rustix::io::Errno;

use super::check;
use super::mount_table::refuse_ours;
use crate::error::NotAFile;

/// What `fallocate` does with a range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allocation {
    /// Reserve space without growing the file.
    Keep,
    /// Make the range a hole; the length does not change.
    Punch,
    /// Make the range read as zeros but keep it allocated; the length does not change.
    Zero,
}

/// `fallocate(2)`.
///
/// # Errors
/// The system's; `EOPNOTSUPP` if the file system cannot do it.
pub fn fallocate(file: &File, what: Allocation, offset: u64, len: u64) -> io::Result<()> {
    let flags = match what {
        Allocation::Keep => FallocateFlags::KEEP_SIZE,
        Allocation::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Allocation::Zero => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    };
    Ok(rustix::fs::fallocate(file, flags, offset, len)?)
}

/// Start of the first data at or after `offset`; `None` if only a hole follows.
///
/// # Errors
/// The system's.
pub fn seek_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    seek(file, SeekFrom::Data(offset))
}

/// Start of the first hole at or after `offset`; the end of the file counts as one. `None` if `offset` is past it.
///
/// # Errors
/// The system's.
pub fn seek_hole(file: &File, offset: u64) -> io::Result<Option<u64>> {
    seek(file, SeekFrom::Hole(offset))
}

/// Moves the file position, which is not used otherwise: all our reads and writes give their offset.
fn seek(file: &File, to: SeekFrom) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, to) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A lock on a range of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lock {
    /// None.
    None,
    /// Together with other such locks.
    Shared,
    /// Without any other.
    Exclusive,
}

/// Locks a range of a file for its open file description, without waiting, or changes that lock; it is released when `file` is closed.
/// On network file systems it holds across hosts. `false`: another one has a lock that excludes this one; a former lock is kept.
///
/// # Errors
/// The system's.
pub fn try_lock(file: &File, range: Range<i64>, lock: Lock) -> io::Result<bool> {
    let lock = lock_on(
        range,
        match lock {
            Lock::None => libc::F_UNLCK,
            Lock::Shared => libc::F_RDLCK,
            Lock::Exclusive => libc::F_WRLCK,
        },
    )?;
    // SAFETY: the descriptor is open for the whole call, and `lock` outlives it.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether no other open file description has a lock in this range.
///
/// # Errors
/// The system's.
pub fn is_unlocked(file: &File, range: Range<i64>) -> io::Result<bool> {
    locked_from(file, range).map(|start| start.is_none())
}

/// Where a lock begins that another open file description has in this range; `None` where there is none.
///
/// # Errors
/// The system's.
pub fn locked_from(file: &File, range: Range<i64>) -> io::Result<Option<i64>> {
    let mut lock = lock_on(range, libc::F_WRLCK)?;
    // SAFETY: the descriptor is open for the whole call, and `lock` outlives it.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok((libc::c_int::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_start))
}

fn lock_on(range: Range<i64>, kind: libc::c_int) -> io::Result<libc::flock> {
    // SAFETY: `flock` is plain data for which all-zero bytes are valid. Zero as `l_whence` is SEEK_SET.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_start, lock.l_len) = (range.start, range.end - range.start);
    lock.l_type = i16::try_from(kind).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(lock)
}

/// Lets the descriptor of `file` lead to what `other` has open. Calls in progress finish with what it led to before.
///
/// # Errors
/// The system's.
pub fn lead_to(file: &File, other: &File) -> io::Result<()> {
    // SAFETY: both descriptors are open for the whole call; that of `file` stays open, and its owner's.
    check(unsafe { libc::dup3(other.as_raw_fd(), file.as_raw_fd(), libc::O_CLOEXEC) }).map(|_| ())
}

/// The identity that the file system itself gives to a file, among all that it ever had: the handle that it has for NFS servers.
/// Without a name, that of `dir` itself. `None` if the file system has no handles.
pub fn file_handle(dir: &File, name: &OsStr) -> Option<Vec<u8>> {
    const MAX_LEN: usize = 128;
    #[repr(C)]
    struct Handle {
        len: libc::c_uint,
        kind: libc::c_int,
        bytes: [u8; MAX_LEN],
    }
    let name = CString::new(name.as_bytes()).ok()?;
    let mut handle = Handle { len: libc::c_uint::try_from(MAX_LEN).ok()?, kind: 0, bytes: [0; MAX_LEN] };
    let mut mount = 0;
    let place = (&raw mut handle).cast::<libc::file_handle>();
    // SAFETY: name, handle and mount outlive the call, and `len` says how much room there is after `kind`.
    let done =
        unsafe { libc::name_to_handle_at(dir.as_raw_fd(), name.as_ptr(), place, &raw mut mount, libc::AT_EMPTY_PATH) };
    check(done).ok()?;
    let bytes = handle.bytes.get(..usize::try_from(handle.len).ok()?)?;
    Some([&handle.kind.to_le_bytes(), bytes].concat())
}

/// Some calls refuse handles that are good only for attributes, but the handle's entry under /proc leads to the same file,
/// whatever its name is by now.
pub fn proc_entry(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// Path of an open file, as the system has it now; empty if it cannot be read.
pub fn path_of(file: &File) -> PathBuf {
    let path =
        rustix::fs::readlink(proc_entry(file), Vec::new()).map(std::ffi::CString::into_bytes).unwrap_or_default();
    PathBuf::from(OsString::from_vec(path))
}

/// A file of which there is a handle, opened once more; as by [`open_unnoticed`].
///
/// # Errors
/// The system's.
pub fn reopen(file: &File, flags: OFlags) -> io::Result<File> {
    let file = rustix::fs::open(proc_entry(file), flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    Ok(File::from(file)).inspect(read_unnoticed)
}

/// Opens a file in a directory, so that reading it does not change the time of its last access, if this process may: its owner
/// and root may. With `NONBLOCK`, a fifo that was put in its place does not block us.
///
/// # Errors
/// The system's.
pub fn open_unnoticed(dir: impl AsFd, name: &OsStr, flags: OFlags) -> io::Result<File> {
    let open = |more| {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | more;
        open_beneath(&dir, Path::new(name), flags, Mode::empty())
    };
    match open(OFlags::NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(OFlags::empty()),
        opened => opened,
    }
}

/// Makes an open file behave like one of [`open_unnoticed`].
pub fn read_unnoticed(file: &File) {
    let flags = rustix::fs::fcntl_getfl(file);
    // If it is refused, reads change the time of last access, which is harmless.
    let _ = flags.and_then(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::NOATIME));
}

/// Opens a directory for listing or syncing that may have been opened only for operations on names. Through its entry under /proc, since
/// its own name `.` requires the right to search it as well.
///
/// # Errors
/// The system's.
pub fn readable(dir: &File) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(proc_entry(dir), flags, Mode::empty())?.into())
}

/// The entries of a [`readable`] directory.
///
/// # Errors
/// The system's.
pub fn entries(dir: &File) -> io::Result<Dir> {
    Ok(Dir::new(readable(dir)?)?)
}

/// Opens `path` below the directory `root` and never outside of it: no symbolic link is followed, no `..` leaves it, and other
/// file systems are entered, but no mount of ours: it would wait for itself. An empty path is `root` itself.
///
/// # Errors
/// The system's; `ELOOP` for a symbolic link or a mount of ours, `EXDEV` for an escape.
pub fn open_beneath(root: impl AsFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = flags | OFlags::CLOEXEC;
    match rustix::fs::openat2(&root, path, flags, mode, BENEATH | ResolveFlags::NO_XDEV) {
        Err(Errno::XDEV) => open_across(root.as_fd(), path, flags, mode),
        opened => Ok(opened?.into()),
    }
}

/// Opens a file for reading, as [`regular_beneath`] does.
///
/// # Errors
/// As that.
pub fn file_beneath(root: impl AsFd, path: &Path) -> io::Result<File> {
    regular_beneath(root, path, OFlags::RDONLY)
}

/// Opens a regular file as [`open_beneath`] does, and nothing else: opening a fifo or a device may wait, or do something.
///
/// # Errors
/// The system's; [`NotAFile`] for anything else, a symbolic link at the end of the path included.
pub fn regular_beneath(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<File> {
    let handle = open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
    regular_of(&handle, flags)
}

/// Opens a regular file that someone has named: its path may lead through symbolic links.
///
/// # Errors
/// As [`regular_beneath`].
pub fn regular_at(path: &Path) -> io::Result<File> {
    let handle = File::from(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    regular_of(&handle, OFlags::RDONLY)
}

/// Opens what a handle leads to, if that is a regular file.
fn regular_of(handle: &File, flags: OFlags) -> io::Result<File> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(handle)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::other(NotAFile(kind_of(kind))));
    }
    let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(proc_entry(handle), flags, Mode::empty())?.into())
}

/// What is not a regular file, for people.
pub fn kind_of(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "a file",
        FileType::Directory => "a folder",
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Unknown => "something of an unknown type",
    }
}

/// Opens a directory for listing, as [`open_beneath`] does.
///
/// # Errors
/// The system's.
pub fn folder_beneath(root: impl AsFd, path: &Path) -> io::Result<File> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Attributes of a name in a directory, also of a symbolic link.
///
/// # Errors
/// The system's; `ELOOP` for a mount of ours.
pub fn stat_at(dir: impl AsFd, name: &OsStr) -> io::Result<Stat> {
    refuse_ours(&dir, name)?;
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Step by step, as on the way there is another mount.
fn open_across(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<File> {
    let step = |dir: BorrowedFd<'_>, name: &OsStr| {
        let step =
            rustix::fs::openat2(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), BENEATH)?;
        refuse_ours(&step, OsStr::new(""))?;
        io::Result::Ok(step)
    };
    let Some(name) = path.file_name() else { return Err(Errno::XDEV.into()) };
    let mut dir: Option<OwnedFd> = None;
    for part in path.parent().into_iter().flat_map(Path::iter) {
        dir = Some(step(dir.as_ref().map_or(root, AsFd::as_fd), part)?);
    }
    let dir = dir.as_ref().map_or(root, AsFd::as_fd);
    match step(dir, name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(rustix::fs::openat2(dir, name, flags, mode, BENEATH)?.into()),
    }
}

/// Whether `path` below `root` still leads to an open file: it may have been renamed, removed or replaced since it was opened.
///
/// # Errors
/// The system's, except for a path that leads nowhere.
pub fn is_at(root: impl AsFd, path: &Path, file: &File) -> io::Result<bool> {
    let named = match open_beneath(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Ok(named) => named,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let (named, own) = (rustix::fs::fstat(&named)?, rustix::fs::fstat(file)?);
    Ok((named.st_dev, named.st_ino) == (own.st_dev, own.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use std::os::unix::fs::FileExt;

    #[test]
    fn nothing_outside_the_root_opens() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(dir.path().join("root/inside"), "y").unwrap();
        std::os::unix::fs::symlink("inside", dir.path().join("root/link")).unwrap();
        let root = File::open(dir.path().join("root")).unwrap();
        assert!(open_beneath(&root, Path::new("inside"), OFlags::RDONLY, Mode::empty()).is_ok());
        for escape in ["../secret", "link", "/etc/passwd"] {
            assert!(open_beneath(&root, Path::new(escape), OFlags::RDONLY, Mode::empty()).is_err(), "{escape}");
        }
    }

    #[test]
    fn only_regular_files_open_as_such_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("file"), "x").unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let root = File::open(dir.path()).unwrap();
        for flags in [OFlags::RDONLY, OFlags::RDWR] {
            assert!(regular_beneath(&root, Path::new("file"), flags).is_ok());
            for (name, what) in
                [("folder", "folder"), ("link", "symbolic link"), ("socket", "socket"), ("fifo", "fifo")]
            {
                let refused = Error::io(name, regular_beneath(&root, Path::new(name), flags).unwrap_err());
                assert_eq!(refused.kind(), Kind::Corrupt);
                assert!(refused.chain().contains(&format!("a {what} lies there")), "{}", refused.chain());
            }
        }
        assert!(regular_at(&path("link")).is_ok() && regular_at(&path("fifo")).is_err());
    }

    #[test]
    fn holes_are_found_and_made() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[1; 65_536], 262_144).unwrap();
        assert_eq!(seek_data(&file, 0).unwrap(), Some(262_144));
        assert_eq!(seek_hole(&file, 262_144).unwrap(), Some(327_680));
        fallocate(&file, Allocation::Punch, 262_144, 65_536).unwrap();
        assert_eq!(seek_data(&file, 0).unwrap(), None);
    }
}
