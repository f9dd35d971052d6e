//! Which of our mounts are there: /proc/self/mountinfo, read without touching the mounts themselves.

use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount_table::{self, Line};
use crate::text::Show;

/// A mount of ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mounted {
    /// Where.
    pub mountpoint: PathBuf,
    /// Device number, major and minor: no two living mounts have the same.
    pub device: (u32, u32),
    /// What is mounted: the backing folder.
    pub source: PathBuf,
    /// What of it shows there: all of it, `/`, or of a bind mount perhaps a part.
    pub root: PathBuf,
}

/// The mount of ours on `mountpoint`.
///
/// # Errors
/// `NotFound` when there is none.
pub fn find(mountpoint: &Path) -> Result<Mounted> {
    // A mount whose process died cannot be resolved, but its absolute name still finds it.
    let path = std::fs::canonicalize(mountpoint)
        .or_else(|_| std::path::absolute(mountpoint))
        .context(|| format!("mountpoint {}", mountpoint.shown()))?;
    let found = all()?.into_iter().rfind(|mount| mount.mountpoint == path);
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("no VM folder or datastore is mounted on {}", mountpoint.shown()))
    })
}

/// All mounts of ours that this process sees.
///
/// # Errors
/// `Io`.
pub fn all() -> Result<Vec<Mounted>> {
    let lines = mount_table::all().context(|| "reading /proc/self/mountinfo".into())?;
    Ok(lines.into_iter().filter_map(ours).collect())
}

fn ours(line: Line) -> Option<Mounted> {
    let Line { mountpoint, device, source, root, is_ours, .. } = line;
    is_ours.then_some(Mounted { mountpoint, device, source, root })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn parse_line(line: &[u8]) -> Option<Mounted> {
        Line::parse(line).and_then(ours)
    }

    #[test]
    fn our_mounts_are_recognised() {
        let line = r"36 35 0:98 / /mnt/with\040blank rw,nosuid shared:7 - fuse.vmcryptfs /v\134ms\0403 rw,user_id=0";
        let mount = parse_line(line.as_bytes()).unwrap();
        assert_eq!(mount.mountpoint, Path::new("/mnt/with blank"));
        assert_eq!((mount.device, mount.source.as_path()), ((0, 98), Path::new(r"/v\ms 3")));
        assert_eq!(mount.root, Path::new("/"));
    }

    #[test]
    fn names_are_any_bytes() {
        let mount = parse_line(b"36 35 0:98 / /m\xe9\\012t rw - fuse.vmcryptfs /v\xff\\011s rw").unwrap();
        assert_eq!(mount.mountpoint.as_os_str().as_bytes(), b"/m\xe9\nt");
        assert_eq!(mount.source.as_os_str().as_bytes(), b"/v\xff\ts");
        assert_eq!(parse_line(b"36 35 0:98 / /m\xe9 rw - tmpfs \xe9 rw"), None);
    }

    #[test]
    fn other_mounts_and_nonsense_are_not() {
        for line in [
            "",
            "36 35 0:98 / /mnt rw - ext4 /dev/vda rw",
            "36 35 0:98 / /mnt rw - ext4 fuse.vmcryptfs rw",
            "36 35 0:98 / /mnt rw - fuse.vmcryptfs",
            "36 - fuse.vmcryptfs x",
            "a b c:d / /x - fuse.vmcryptfs y",
        ] {
            assert_eq!(parse_line(line.as_bytes()), None, "{line}");
        }
    }
}
