//! File operations beyond std: sparse files, locks between processes and hosts, opening below a directory.

#![allow(unsafe_code, reason = "fallocate, lseek, fcntl and openat2 have no safe form in std")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// What `fallocate` shall do with a range.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Allocation {
    /// Reserve space; the file grows to hold the range.
    Grow,
    /// Reserve space without growing the file.
    Keep,
    /// Make the range a hole; the length stays.
    Punch,
    /// Make the range read as zeros but keep it allocated; the length stays.
    Zero,
}

/// `fallocate(2)`.
///
/// # Errors
/// The system's; `EOPNOTSUPP` where the file system cannot do it.
pub fn fallocate(file: &File, what: Allocation, offset: u64, len: u64) -> io::Result<()> {
    let mode = match what {
        Allocation::Grow => 0,
        Allocation::Keep => libc::FALLOC_FL_KEEP_SIZE,
        Allocation::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
        Allocation::Zero => libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE,
    };
    // SAFETY: the descriptor is open for the whole call; the other arguments are plain numbers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), mode, signed(offset)?, signed(len)?) }).map(drop)
}

/// Start of the first data at or behind `offset`; `None` when only a hole follows.
///
/// # Errors
/// The system's.
pub fn seek_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    seek(file, offset, libc::SEEK_DATA)
}

/// Start of the first hole at or behind `offset`; the end of the file counts as one. `None` when `offset` is behind it.
///
/// # Errors
/// The system's.
pub fn seek_hole(file: &File, offset: u64) -> io::Result<Option<u64>> {
    seek(file, offset, libc::SEEK_HOLE)
}

fn seek(file: &File, offset: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: the descriptor is open for the whole call. The file position it moves is used by nobody: all our reads
    // and writes name their position.
    let found = unsafe { libc::lseek(file.as_raw_fd(), signed(offset)?, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// How a file is claimed against other openers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claim {
    /// Together with others who claim it so.
    Shared,
    /// Alone.
    Exclusive,
}

/// Claims the whole file by an open-file-description lock, without waiting. It is released when `file` is closed.
/// Claiming again changes the claim. On network file systems it holds across hosts. `false`: someone else has it.
///
/// # Errors
/// The system's.
pub fn try_claim(file: &File, claim: Claim) -> io::Result<bool> {
    // SAFETY: `flock` is plain data for which all-zero bytes are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    let kind = match claim {
        Claim::Shared => libc::F_RDLCK,
        Claim::Exclusive => libc::F_WRLCK,
    };
    lock.l_type = i16::try_from(kind).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    lock.l_whence = 0; // SEEK_SET, with start 0 and length 0: the whole file
    // SAFETY: the descriptor is open for the whole call, and `lock` outlives it.
    match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens `path` below the directory `root` and never outside of it: no symbolic link is followed, no `..` leaves it
/// (`openat2` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS`). `flags` as for `open(2)`.
///
/// # Errors
/// The system's; `ELOOP` for a symbolic link, `EXDEV` for an escape.
pub fn open_beneath(root: &File, path: &Path, flags: i32, mode: u32) -> io::Result<File> {
    let path = c_path(if path.as_os_str().is_empty() { Path::new(".") } else { path })?;
    // SAFETY: `open_how` is plain data for which all-zero bytes are valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    how.mode = if flags & libc::O_CREAT == 0 { 0 } else { u64::from(mode & 0o7777) };
    how.resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;
    // SAFETY: path and `how` outlive the call, and the size is that of `how`.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, root.as_raw_fd(), path.as_ptr(), &raw mut how, size_of::<libc::open_how>())
    };
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    check(fd)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn signed(value: u64) -> io::Result<i64> {
    i64::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn a_claim_shuts_out_the_second_opener_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let first = open();
        assert!(try_claim(&first, Claim::Shared).unwrap());
        assert!(try_claim(&open(), Claim::Shared).unwrap(), "readers share");
        assert!(try_claim(&first, Claim::Exclusive).unwrap(), "the other reader is closed again");
        assert!(!try_claim(&open(), Claim::Shared).unwrap());
        drop(first);
        assert!(try_claim(&open(), Claim::Exclusive).unwrap());
    }

    #[test]
    fn nothing_outside_the_root_opens() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("root")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::fs::write(dir.path().join("root/inside"), "y").unwrap();
        std::os::unix::fs::symlink("inside", dir.path().join("root/link")).unwrap();
        let root = File::open(dir.path().join("root")).unwrap();
        assert!(open_beneath(&root, Path::new("inside"), libc::O_RDONLY, 0).is_ok());
        for escape in ["../secret", "link", "/etc/passwd"] {
            assert!(open_beneath(&root, Path::new(escape), libc::O_RDONLY, 0).is_err(), "{escape}");
        }
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
