//! Which of our mounts are there: /proc/self/mountinfo, read without touching the mounts themselves.

use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::sys::mount_table::{self, Line};
use crate::text::Show;

/// How long a mount may take to show whether its process is there.
pub(super) const LOOK: Duration = Duration::from_secs(2);

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
    /// Whether nothing can be written there.
    pub read_only: bool,
}

/// The mount of ours on `mountpoint`.
///
/// # Errors
/// `NotFound` when there is none.
pub fn find(mountpoint: &Path) -> Result<Mounted> {
    let mounts = all()?;
    let path = resolve(mountpoint, &mounts, true)?;
    let found = mounts.into_iter().rfind(|mount| mount.mountpoint == path);
    found.ok_or_else(|| {
        Error::new(Kind::NotFound, format!("no VM folder or datastore is mounted on {}", mountpoint.shown()))
    })
}

/// The mount of ours that shows a path, and where below the mounted folder that is.
///
/// # Errors
/// `Io`.
pub fn showing(path: &Path) -> Result<Option<(Mounted, PathBuf)>> {
    let mounts = all()?;
    // Links are followed, but first not one that the path itself is.
    for follow_last in [false, true] {
        let whole = resolve(path, &mounts, follow_last)?;
        let shows = |mount: &&Mounted| whole.starts_with(&mount.mountpoint);
        let deepest = mounts.iter().filter(shows).max_by_key(|mount| mount.mountpoint.components().count());
        if let Some(mount) = deepest {
            let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
            let rest = whole.strip_prefix(&mount.mountpoint).unwrap_or(Path::new(""));
            return Ok(Some((mount.clone(), root.join(rest).components().collect())));
        }
    }
    Ok(None)
}

/// The backing path of a path that a mount of ours shows; any other path as it is. Mounts are not touched: one of them may not
/// answer. A verb on a VM or a disk may so be given either path.
pub fn backing(path: PathBuf) -> PathBuf {
    match showing(&path) {
        Ok(Some((mount, below))) => mount.backing(below),
        Ok(None) | Err(_) => path,
    }
}

/// As [`backing`], of a path that is about to be changed: one that a read-only mount shows stays as it is.
pub fn backing_to_change(path: PathBuf) -> PathBuf {
    match showing(&path) {
        Ok(Some((mount, below))) if !mount.read_only => mount.backing(below),
        Ok(_) | Err(_) => path,
    }
}

/// Refuses to change what was named by its path in a read-only mount.
///
/// # Errors
/// `ReadOnly`, with the other path; or `Io`.
pub fn refuse_read_only(path: &Path) -> Result<()> {
    match showing(path)? {
        Some((mount, below)) if mount.read_only => Err(Error::new(
            Kind::ReadOnly,
            format!(
                "{} is in a read-only mount, on {}: mount it writable, or unmount it and name the backing path, {}",
                path.shown(),
                mount.mountpoint.shown(),
                mount.backing(below).shown()
            ),
        )),
        _ => Ok(()),
    }
}

/// Follows links as far as no mount of ours has to be asked: one of them may not answer. What is below a mount is not resolved.
fn resolve(path: &Path, mounts: &[Mounted], follow_last: bool) -> Result<PathBuf> {
    const MAX_LINKS: usize = 40; // as the system follows
    let path = std::path::absolute(path).context(|| format!("resolving {}", path.shown()))?;
    let parts = |path: &Path| path.components().rev().map(|part| part.as_os_str().to_owned()).collect::<Vec<_>>();
    let (mut rest, mut at, mut links) = (parts(&path), PathBuf::from("/"), 0);
    while let Some(part) = rest.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(part); // of the root it makes the root
        let may_ask = !mounts.iter().any(|mount| next.starts_with(&mount.mountpoint));
        if may_ask
            && links < MAX_LINKS
            && (follow_last || !rest.is_empty())
            && let Ok(target) = std::fs::read_link(&next)
        {
            links += 1;
            rest.extend(parts(&target));
        } else {
            at = next;
        }
    }
    Ok(at)
}

/// Whether the process of the mount on a path has died. One that does not answer may live.
pub(super) fn has_died(mountpoint: &Path) -> bool {
    let (answer, answers) = channel();
    let path = mountpoint.to_path_buf();
    // Cached answers of the kernel are of no use, and the process that is asked may be stopped.
    let ask = move || answer.send(statx(CWD, &path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS).map(drop));
    let asking = thread::Builder::new().name("look".into()).spawn(ask);
    // A caller that asks while it dies gets ECONNABORTED.
    let tells_of_death = |error| matches!(error, Errno::NOTCONN | Errno::CONNABORTED);
    asking.is_ok() && answers.recv_timeout(LOOK).is_ok_and(|found| found.is_err_and(tells_of_death))
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
    let Line { mountpoint, device, source, root, is_ours, read_only, .. } = line;
    is_ours.then_some(Mounted { mountpoint, device, source, root, read_only })
}

impl Mounted {
    fn backing(&self, below: PathBuf) -> PathBuf {
        self.source.join(below).components().collect()
    }
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
        assert_eq!((mount.root.as_path(), mount.read_only), (Path::new("/"), false));
        for options in ["ro,nosuid - fuse.vmcryptfs /vms rw", "rw - fuse.vmcryptfs /vms ro,user_id=0"] {
            assert!(parse_line(format!("36 35 0:98 / /mnt {options}").as_bytes()).unwrap().read_only, "{options}");
        }
        assert!(!parse_line(b"36 35 0:98 / /mnt rw,ronly - fuse.vmcryptfs ro rw").unwrap().read_only);
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
