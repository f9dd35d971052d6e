//! Which mount an open directory is of, found out without asking the file system that is mounted: it may not answer.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

/// The file system type of our mounts.
pub const MOUNT_TYPE: &str = "fuse.vmcryptfs";

/// Number of the mount that a file was opened through; a path (`O_PATH`) is enough.
///
/// # Errors
/// The system's.
pub fn mount_id(file: &File) -> io::Result<u64> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).and_then(|id| id.trim().parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no number of the mount in /proc/self/fdinfo"))
}

/// Whether the mount with this number is one of ours.
///
/// # Errors
/// The system's.
pub fn is_ours(mount_id: u64) -> io::Result<bool> {
    with_table(|table| {
        line_of(table, mount_id).and_then(file_system_type).is_some_and(|found| found == MOUNT_TYPE.as_bytes())
    })
}

/// Refuses a name in a directory that leads onto a mount of ours: a mount that asks itself waits for itself. An empty name is the
/// file itself, which may be a path.
///
/// # Errors
/// `ELOOP`, or the system's.
pub fn refuse_ours(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    // Which mount it is of is known without asking the file system.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(dir, name, flags, StatxFlags::MNT_ID)?;
    let known = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    let may_be_ours = !known || found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    if may_be_ours && is_ours(found.stx_mnt_id)? { Err(Errno::LOOP.into()) } else { Ok(()) }
}

/// Where a file or a folder lies: the number of the file system, and its path in that, whichever mount shows it. `None` where the
/// system does not tell.
///
/// # Errors
/// The system's.
pub fn place_of(path: &Path) -> io::Result<Option<(String, PathBuf)>> {
    let path = std::fs::canonicalize(path)?;
    let found = statx(rustix::fs::CWD, &path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    with_table(|table| {
        let line = line_of(table, found.stx_mnt_id)?;
        let mut fields = line.split(|&byte| byte == b' ').skip(2);
        let device = String::from_utf8_lossy(fields.next()?).into_owned();
        let (root, mountpoint) = (unescape(fields.next()?), unescape(fields.next()?));
        let below = path.strip_prefix(mountpoint).ok()?;
        Some((device, root.join(below)))
    })
}

/// Reads the table when it has changed.
fn with_table<T>(look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    static TABLE: Mutex<Option<(File, Vec<u8>)>> = Mutex::new(None);
    let mut known = TABLE.lock();
    let (file, table) = match &mut *known {
        Some(known) => known,
        None => known.insert((File::open("/proc/self/mountinfo")?, Vec::new())),
    };
    // The system tells changes as an urgent event (proc(5)).
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let changed = poll(&mut [PollFd::new(&*file, PollFlags::PRI)], Some(&now))? > 0;
    if changed || table.is_empty() {
        table.clear();
        file.rewind()?;
        file.read_to_end(table)?;
    }
    Ok(look(table))
}

fn line_of(table: &[u8], mount_id: u64) -> Option<&[u8]> {
    let start = format!("{mount_id} ");
    table.split(|&byte| byte == b'\n').find(|line| line.starts_with(start.as_bytes()))
}

/// A path of mountinfo: blanks and the like are written as `\040`.
pub fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.first_chunk::<3>().filter(|_| first == b'\\');
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// Of a line of mountinfo (proc(5)): the fields that are optional end with a dash.
fn file_system_type(line: &[u8]) -> Option<&[u8]> {
    let mut fields = line.split(|&byte| byte == b' ');
    fields.find(|field| field == b"-")?;
    fields.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_known_by_its_number() {
        let proc = mount_id(&File::open("/proc").unwrap()).unwrap();
        assert_ne!(proc, mount_id(&File::open("/").unwrap()).unwrap());
        assert!(!is_ours(proc).unwrap());
        let line = b"36 35 0:98 / /mnt/\xe9 rw,nosuid shared:1 - fuse.vmcryptfs /vms rw";
        assert_eq!(file_system_type(line), Some(&b"fuse.vmcryptfs"[..]));
        assert_eq!(file_system_type(b"36 35 0:98 / /mnt rw"), None);
    }
}
