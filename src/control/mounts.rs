//! Which of our mounts are there: /proc/self/mountinfo, read without touching the mounts themselves.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::fuse::mount::MOUNT_TYPE;

/// A mount of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mounted {
    /// Where.
    pub mountpoint: PathBuf,
    /// Device number, major and minor: no two living mounts have the same.
    pub device: (u32, u32),
    /// What is mounted.
    pub source: String,
}

/// The mount of ours on `mountpoint`.
///
/// # Errors
/// `NotFound` when there is none.
pub fn find(mountpoint: &Path) -> Result<Mounted> {
    // A mount whose process died cannot be resolved, but its absolute name still finds it.
    let path = std::fs::canonicalize(mountpoint)
        .or_else(|_| std::path::absolute(mountpoint))
        .context(|| format!("mountpoint {}", mountpoint.display()))?;
    let found = all()?.into_iter().rfind(|mount| mount.mountpoint == path);
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("no VM folder or datastore is mounted on {}", mountpoint.display()))
    })
}

/// All mounts of ours that this process sees.
///
/// # Errors
/// `Io`.
pub fn all() -> Result<Vec<Mounted>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context(|| "reading /proc/self/mountinfo".into())?;
    Ok(table.lines().filter_map(parse_line).collect())
}

/// A line of mountinfo (proc(5)), if it is a mount of ours.
fn parse_line(line: &str) -> Option<Mounted> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut rest = rest.split(' ');
    if rest.next()? != MOUNT_TYPE {
        return None;
    }
    let source = rest.next()?.to_owned();
    let mut fields = fields.split(' ').skip(2);
    let (major, minor) = fields.next()?.split_once(':')?;
    let mountpoint = unescape(fields.nth(1)?);
    Some(Mounted { mountpoint, device: (major.parse().ok()?, minor.parse().ok()?), source })
}

/// Blanks and the like are written as `\040`.
fn unescape(field: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_mounts_are_recognised() {
        let line = r"36 35 0:98 / /mnt/with\040blank rw,nosuid - fuse.vmcryptfs /vms rw,user_id=0";
        let mount = parse_line(line).unwrap();
        assert_eq!(mount.mountpoint, Path::new("/mnt/with blank"));
        assert_eq!((mount.device, mount.source.as_str()), ((0, 98), "/vms"));
    }

    #[test]
    fn other_mounts_and_nonsense_are_not() {
        for line in
            ["", "36 35 0:98 / /mnt rw - ext4 /dev/vda rw", "36 - fuse.vmcryptfs x", "a b c:d / /x - fuse.vmcryptfs y"]
        {
            assert_eq!(parse_line(line), None, "{line}");
        }
    }
}
