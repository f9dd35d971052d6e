//! Which mounts there are, and which one an open directory belongs to, without a request to the file system that is mounted: it may
//! not answer.

mod stacked;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
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
    // Nothing is asked for: a mount of another user would refuse it, and the kernel adds the number by itself (Linux 5.8).
    let found = statx(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    match StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID) {
        true => Ok(found.stx_mnt_id),
        false => Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel does not tell the number of a mount")),
    }
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

/// Whether a request to the mount with this number may reach a mount of ours: it is one, or it lies over files that one shows, as far
/// as the table shows (`stacked`).
///
/// # Errors
/// The system's.
pub fn leads_to_ours(mount_id: u64) -> io::Result<bool> {
    with_table(|table| {
        let Some(line) = line_of(table, mount_id) else { return false };
        if file_system_type(line).is_some_and(|found| found == MOUNT_TYPE.as_bytes()) {
            return true;
        }
        let ours = table.split(|&byte| byte == b'\n').filter_map(Line::parse).filter(|line| line.is_ours);
        stacked::lies_over(line, &ours.map(|line| line.mountpoint).collect::<Vec<_>>())
    })
}

/// Refuses a name in a directory that leads onto a mount of ours: a mount that sends itself a request waits for itself. An empty name
/// is the file itself, which may be a path.
///
/// # Errors
/// `ELOOP`, or the system's.
pub fn refuse_ours(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    // The kernel knows the mount without asking the file system.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(dir, name, flags, StatxFlags::MNT_ID)?;
    let known = found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    let may_be_ours = !known || found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    if may_be_ours && leads_to_ours(found.stx_mnt_id)? { Err(Errno::LOOP.into()) } else { Ok(()) }
}

/// Where a file or a folder lies: the number of the file system, and its path in that, whichever mount shows it. `None` if the
/// system does not say.
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

/// A file system that is mounted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileSystemMount {
    /// Where.
    pub mountpoint: PathBuf,
    /// Its type.
    pub kind: String,
    /// Its options, those that all its mounts have.
    pub options: String,
}

/// The file system on which a folder lies, if the system says that, and those that are mounted below the folder.
///
/// # Errors
/// The system's.
pub fn file_systems_of(folder: &Path) -> io::Result<Vec<FileSystemMount>> {
    let folder = std::fs::canonicalize(folder)?;
    let found = statx(rustix::fs::CWD, &folder, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    with_table(|table| file_systems_in(table, found.stx_mnt_id, &folder))
}

fn file_systems_in(table: &[u8], mount_id: u64, folder: &Path) -> Vec<FileSystemMount> {
    let lines = table.split(|&byte| byte == b'\n');
    let below = lines.filter(|line| mountpoint_of(line).is_some_and(|at| at != folder && at.starts_with(folder)));
    line_of(table, mount_id).into_iter().chain(below).filter_map(FileSystemMount::parse).collect()
}

/// Reads the table when it has changed.
fn with_table<T>(look: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
    static TABLE: Mutex<Option<(File, Vec<u8>)>> = Mutex::new(None);
    let mut known = TABLE.lock();
    let (file, table) = match &mut *known {
        Some(known) => known,
        None => known.insert((File::open("/proc/self/mountinfo")?, Vec::new())),
    };
    // The system reports changes as an urgent event (proc(5)).
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

/// A mount, as a line of mountinfo (proc(5)) describes it. Paths are any bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Its number.
    pub id: u64,
    /// Number of the mount that it is mounted on.
    pub parent: u64,
    /// Device number of the file system, major and minor: no two living mounts of FUSE have the same.
    pub device: (u32, u32),
    /// Which part of the file system is shown: all of it, `/`, or, for a bind mount, perhaps a folder.
    pub root: PathBuf,
    /// Where.
    pub mountpoint: PathBuf,
    /// Whether it is one of ours.
    pub is_ours: bool,
    /// What is mounted.
    pub source: PathBuf,
    /// Whether nothing can be written there: the file system is mounted read-only, or this mount of it.
    pub read_only: bool,
}

impl Line {
    /// `None` if it is not such a line.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
        let mut fields = line.split(|byte| *byte == b' ');
        let id = text(fields.next()?)?.parse().ok()?;
        let parent = text(fields.next()?)?.parse().ok()?;
        let device = text(fields.next()?)?;
        let (major, minor) = device.split_once(':')?;
        let device = (major.parse().ok()?, minor.parse().ok()?);
        let (root, mountpoint) = (unescape(fields.next()?), unescape(fields.next()?));
        let is_read_only = |options: &[u8]| options.split(|byte| *byte == b',').any(|option| option == b"ro");
        let is_mount_read_only = is_read_only(fields.next()?);
        // Blanks within fields are escaped, so the first lone hyphen after them ends the optional ones.
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let is_ours = rest.next()? == MOUNT_TYPE.as_bytes();
        let source = unescape(rest.next()?);
        let read_only = is_mount_read_only || rest.next().is_some_and(is_read_only);
        Some(Self { id, parent, device, root, mountpoint, is_ours, source, read_only })
    }

    /// The mount of `all` that hides this one's path: one on top of it, or over a folder above.
    pub fn hidden_by<'a>(&self, all: &'a [Self]) -> Option<&'a Self> {
        let mut below = self.mountpoint.as_path();
        let (mut on, mut from) = (self.id, self.id);
        // At most as long as the chain of mounts: the root's parent is in another table, or itself.
        for _ in 0..=all.len() {
            let hides = |other: &&Self| {
                other.parent == on && other.id != from && other.id != on && below.starts_with(&other.mountpoint)
            };
            if let Some(other) = all.iter().find(hides) {
                return Some(other);
            }
            let this = all.iter().find(|line| line.id == on)?;
            below = &this.mountpoint;
            (from, on) = (on, this.parent);
        }
        None
    }
}

/// All mounts that this process sees; those on top come later.
///
/// # Errors
/// The system's.
pub fn all() -> io::Result<Vec<Line>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(Line::parse).collect())
}

/// Device number of the mount on a path. It gets no request, so it need not serve yet.
///
/// # Errors
/// The system's; `InvalidData` where it is none of ours.
pub fn device_of_ours(mountpoint: &Path) -> io::Result<(u32, u32)> {
    let found = statx(rustix::fs::CWD, mountpoint, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    match is_ours(found.stx_mnt_id)? {
        true => Ok((found.stx_dev_major, found.stx_dev_minor)),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "another mount is there")),
    }
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
fn of_file_system(line: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut fields = line.split(|&byte| byte == b' ');
    fields.find(|field| field == b"-")?;
    Some(fields)
}

fn file_system_type(line: &[u8]) -> Option<&[u8]> {
    of_file_system(line)?.next()
}

fn mountpoint_of(line: &[u8]) -> Option<PathBuf> {
    line.split(|&byte| byte == b' ').nth(4).map(unescape)
}

impl FileSystemMount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = of_file_system(line)?.map(|field| String::from_utf8_lossy(field).into_owned());
        let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { mountpoint: mountpoint_of(line)?, kind, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hiding_mount_is_found() {
        let of = |lines: &[&str]| -> Vec<Line> {
            lines.iter().map(|line| Line::parse(format!("{line} rw - x y rw").as_bytes()).unwrap()).collect()
        };
        let hides = |more: &[&str]| {
            let base = ["1 0 0:1 / /", "2 1 0:2 / /vms", "3 2 0:3 / /vms/m", "4 1 0:3 / /bind"];
            let all = of(&[&base[..], more].concat());
            all[2].hidden_by(&all).map(|line| line.id)
        };
        assert_eq!(hides(&["5 3 0:5 / /vms/m/sub", "6 2 0:6 / /vms/mm", "7 1 0:6 / /v"]), None);
        assert_eq!(hides(&["5 3 0:5 / /vms/m"]), Some(5), "on top");
        assert_eq!(hides(&["5 2 0:5 / /vms"]), Some(5), "over the folder above");
        assert_eq!(hides(&["5 1 0:5 / /"]), Some(5));
        assert_eq!(hides(&["5 1 0:5 / /vms/m"]), None, "was there before what is above");
    }

    #[test]
    fn mount_is_known_by_its_number() {
        let proc = mount_id(&File::open("/proc").unwrap()).unwrap();
        assert_ne!(proc, mount_id(&File::open("/").unwrap()).unwrap());
        assert!(!is_ours(proc).unwrap());
        let line = b"36 35 0:98 / /mnt/\xe9 rw,nosuid shared:1 - fuse.vmcryptfs /vms rw";
        assert_eq!(file_system_type(line), Some(&b"fuse.vmcryptfs"[..]));
        assert_eq!(file_system_type(b"36 35 0:98 / /mnt rw"), None);
        assert_eq!(FileSystemMount::parse(b"36 35 0:98 / /mnt rw - x y"), None);
    }

    #[test]
    fn file_systems_of_a_folder_are_its_own_and_those_below() {
        let table = b"28 1 8:1 / / rw - ext4 /dev/sda rw\n\
            41 28 0:37 / /vms rw,nosuid shared:9 - nfs4 nas:/vms rw,vers=4.2,local_lock=none\n\
            42 41 0:38 / /vms/web\\04001 rw - ceph a:/ rw,acl\n\
            43 28 0:39 / /vms2 rw - nfs nas:/vms2 rw,vers=3\n";
        let found = |id, folder: &str| {
            let found = file_systems_in(table, id, Path::new(folder));
            found
                .into_iter()
                .map(|one| format!("{} {} {}", one.mountpoint.to_str().unwrap(), one.kind, one.options))
                .collect()
        };
        let (own, below) = ("/vms nfs4 rw,vers=4.2,local_lock=none", "/vms/web 01 ceph rw,acl");
        let all: Vec<String> = found(41, "/vms");
        assert_eq!(all, [own, below]);
        assert_eq!(found(41, "/vms/web"), [own]);
        assert_eq!(found(42, "/vms/web 01"), [below]);
        assert_eq!(found(28, "/"), ["/ ext4 rw", own, below, "/vms2 nfs rw,vers=3"]);
        assert_eq!(file_systems_of(Path::new("/proc")).unwrap()[0].kind, "proc");
    }
}
