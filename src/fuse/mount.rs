//! Mounting and unmounting: with the system calls if allowed, else with fusermount3.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::ErrorKind::PermissionDenied;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use fuser::SessionACL;
use rustix::fs::{AtFlags, CWD, FlockOperation, StatxFlags, flock, statx};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg, socketpair,
};
use rustix::process::{getegid, geteuid};

use crate::error::{Context, Error, Kind, Result};
use crate::fuse::options::MountOptions;
use crate::fuse::transport::Transport;
use crate::sys::mount_table::{self, Line, MOUNT_TYPE};
use crate::text::{Show, quoted};

const SUBTYPE: &str = "vmcryptfs";

/// Where and how to mount.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// What is mounted, as /proc/mounts shows it.
    pub source: PathBuf,
    /// Words of `-o`.
    pub options: MountOptions,
    /// How requests come and replies go.
    pub transport: Transport,
    /// Threads that serve reads and writes; `None` for two per CPU, or one if each has a ring.
    pub threads: Option<usize>,
}

/// Mounts, and returns the kernel's end of the mount.
///
/// # Errors
/// `Unsupported` without /dev/fuse, `Denied` when neither this process nor fusermount3 may, or `Io`.
pub(super) fn mount(spec: &MountSpec) -> Result<OwnedFd> {
    match mount_by_call(spec)? {
        Some(device) => Ok(device),
        None => mount_by_fusermount(spec),
    }
}

/// `None` when this process may not mount; fusermount3 may.
fn mount_by_call(spec: &MountSpec) -> Result<Option<OwnedFd>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let device = File::options().read(true).write(true).open("/dev/fuse").map_err(|error| {
        Error::with_source(Kind::Unsupported, "opening /dev/fuse (is the kernel module fuse loaded?)", error)
    })?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        geteuid().as_raw(),
        getegid().as_raw()
    );
    // The kernel can admit all users or the owner; for `allow_root`, fuser refuses all users but root and the owner.
    if spec.options.acl != SessionACL::Owner {
        data.push_str(",allow_other");
    }
    let data = std::ffi::CString::new(data).map_err(|error| Error::with_source(Kind::Invalid, "mount data", error))?;
    match rustix::mount::mount(&spec.source, &spec.mountpoint, MOUNT_TYPE, spec.options.flags, Some(data.as_c_str())) {
        Ok(()) => Ok(Some(device.into())),
        Err(Errno::PERM) => Ok(None),
        Err(error) => Err(Error::errno(format!("mounting on {}", spec.mountpoint.shown()), error)),
    }
}

/// Mounts with fusermount3. If that ends before it has passed the descriptor on, what it mounted is dead and is unmounted.
fn mount_by_fusermount(spec: &MountSpec) -> Result<OwnedFd> {
    if spec.options.flags.contains(MountFlags::NOSYMFOLLOW) {
        return Err(Error::new(Kind::Denied, "mount option \"nosymfollow\" needs root: fusermount3 does not know it"));
    }
    let doing = || format!("resolving {}", spec.mountpoint.shown());
    let at = std::fs::canonicalize(&spec.mountpoint).context(doing)?;
    ask_fusermount(spec).inspect_err(|_| {
        let is_there = |line: &Line| line.is_ours && line.mountpoint == at && line.source == spec.source;
        if mount_table::all().is_ok_and(|all| all.iter().any(is_there))
            && let Err(error) = unmount(&at, Unmount::WhenUnused)
        {
            tracing::error!("{}", error.chain());
        }
    })
}

/// fusermount3 opens the device, mounts, and sends the descriptor through a socket that it inherits.
fn ask_fusermount(spec: &MountSpec) -> Result<OwnedFd> {
    let doing = || "making a socket pair to fusermount3".into();
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).context(doing)?;
    fcntl_setfd(&theirs, FdFlags::empty()).context(doing)?;
    let mut words = vec![OsStr::new("default_permissions")];
    words.extend(spec.options.for_fusermount().map(OsStr::new));
    if spec.options.acl != SessionACL::Owner {
        words.push(OsStr::new("allow_other"));
    }
    let mut list = OsString::from(format!("subtype={SUBTYPE},fsname="));
    list.push(escaped(&spec.source));
    words.iter().for_each(|word| {
        list.push(",");
        list.push(word);
    });
    let mut command = Command::new("fusermount3");
    command.arg("-o").arg(list).arg("--").arg(&spec.mountpoint);
    command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
    let output = command.output().context(|| "running fusermount3 (Debian package fuse3)".into())?;
    drop(theirs);
    if !output.status.success() {
        let said = said(&output);
        return Err(Error::new(Kind::Denied, format!("fusermount3 could not mount: {said}")));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(&ours, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).context(doing)?;
    let mut received = ancillary.drain().filter_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message { descriptors.next() } else { None }
    });
    received.next().ok_or_else(|| Error::new(Kind::Io, "fusermount3 mounted, but sent no descriptor"))
}

/// Why fusermount3 failed: in its own words, if it had any.
fn said(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    match output.status.signal() {
        Some(signal) => format!("it was ended by signal {signal} {words}").trim_end().to_owned(),
        None if words.is_empty() => format!("it said nothing ({})", output.status),
        None => words,
    }
}

/// A path as a value among options: commas and backslashes are escaped.
fn escaped(path: &Path) -> OsString {
    let escape = |byte: &u8| [b'\\', *byte].into_iter().skip(usize::from(!matches!(byte, b'\\' | b',')));
    OsString::from_vec(path.as_os_str().as_bytes().iter().flat_map(escape).collect())
}

/// Whether this process may not open /dev/fuse, which is needed for fusermount3 as well.
pub(super) fn needs_open_device() -> bool {
    File::options().read(true).write(true).open("/dev/fuse").is_err_and(|error| error.kind() == PermissionDenied)
}

/// Refuses folders that cannot or must not be mounted, and mountpoints that cannot or must not be mounted on. As long as the returned
/// file is open, this program makes no other mount on the mountpoint.
///
/// # Errors
/// `NotFound`, `Invalid` for a mountpoint that is not a directory, one within the folder, or a folder that a mount of ours shows, `Busy`
/// for one that is not empty, or that has a mount or is about to get one.
pub(super) fn check_mountpoint(spec: &MountSpec) -> Result<File> {
    let mountpoint = spec.mountpoint.as_path();
    let doing = || format!("mountpoint {}", mountpoint.shown());
    // The kernel may have attributes of a moment ago, when there was a process.
    let asked = statx(CWD, mountpoint, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS);
    if asked.is_err_and(|error| matches!(error, Errno::NOTCONN | Errno::CONNABORTED)) {
        let text = format!(
            "{}: the process of the mount there has died: use `vmcryptfs umount --lazy {}` first",
            doing(),
            quoted(mountpoint)
        );
        return Err(Error::new(Kind::Busy, text));
    }
    let metadata = std::fs::metadata(mountpoint);
    if !metadata.context(doing)?.is_dir() {
        return Err(Error::new(Kind::Invalid, format!("{} is not a directory", doing())));
    }
    let lock = lock(mountpoint)?;
    refuse_within(&spec.source, mountpoint)?;
    if std::fs::read_dir(mountpoint).context(doing)?.next().is_some() {
        return Err(Error::new(Kind::Busy, format!("{} is not empty: what is in it would be hidden", doing())));
    }
    Ok(lock)
}

/// Of two mounts that start at once on one mountpoint, the second one finds it locked, or mounted on.
fn lock(mountpoint: &Path) -> Result<File> {
    let doing = || format!("locking mountpoint {}", mountpoint.shown());
    let dir = File::open(mountpoint).context(doing)?;
    match flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) if mount_table::device_of_ours(mountpoint).is_ok() => {
            Err(Error::new(Kind::Busy, format!("mountpoint {} has a mount already", mountpoint.shown())))
        }
        Ok(()) => Ok(dir),
        Err(Errno::WOULDBLOCK) => Err(Error::new(
            Kind::Busy,
            format!("mountpoint {} is about to have a mount already, or a program has it locked", mountpoint.shown()),
        )),
        Err(error) => Err(Error::errno(doing(), error)),
    }
}

/// A mount within the folder that it shows would send requests to itself, and wait for itself for ever.
fn refuse_within(folder: &Path, mountpoint: &Path) -> Result<()> {
    let doing = || format!("looking where {} and {} lie", folder.shown(), mountpoint.shown());
    let id = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).context(doing);
    let root = File::options().read(true).custom_flags(libc::O_PATH).open(folder).context(doing)?;
    if mount_table::leads_to_ours(mount_table::mount_id(&root).context(doing)?).context(doing)? {
        let text = format!("{} is in a mount of vmcryptfs: mount its backing folder instead", folder.shown());
        return Err(Error::new(Kind::Invalid, text));
    }
    // Whichever path leads there, also one of another mount of the same file system.
    let absolute = std::fs::canonicalize(mountpoint).context(doing)?;
    let own = id(folder)?;
    let mut within = false;
    for above in absolute.ancestors() {
        within |= id(above)? == own;
    }
    if let (Some((device, at)), Some((same, top))) =
        (mount_table::place_of(&absolute).context(doing)?, mount_table::place_of(folder).context(doing)?)
    {
        within |= device == same && at.starts_with(top);
    }
    if within {
        let text = format!("mountpoint {} lies in {}: the mount would show itself", mountpoint.shown(), folder.shown());
        return Err(Error::new(Kind::Invalid, text));
    }
    Ok(())
}

/// When a mount is gone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unmount {
    /// Now, or not at all if something uses it.
    Now,
    /// Its name now, the rest once nothing uses it any more.
    WhenUnused,
}

/// A mount of ours, wherever it is shown by now: it may have been moved, or bound to another place as well.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Own {
    /// Device number, major and minor: no two living mounts have the same.
    pub device: (u32, u32),
}

impl Own {
    /// The mount that was just made.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn on(mountpoint: &Path) -> Result<Self> {
        let device = mount_table::device_of_ours(mountpoint);
        Ok(Self { device: device.context(|| format!("looking for the new mount on {}", mountpoint.shown()))? })
    }

    /// Unmounts it from all places that this process sees it in, and nothing else.
    ///
    /// # Errors
    /// `NotFound` when it is shown nowhere; those of [`unmount`].
    pub fn unmount(self, when: Unmount) -> Result<()> {
        self.at_each_place(|mountpoint| unmount_path(mountpoint, when))
    }

    /// Unmounts it when nothing serves it any more, as far as this user may.
    pub(super) fn abandon(self) {
        let done = self.at_each_place(|mountpoint| {
            // Force breaks the connection to the kernel first, so that no caller waits for an answer any more.
            rustix::mount::unmount(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE)
                .or_else(|_| unmount_path(mountpoint, Unmount::WhenUnused))
        });
        if let Err(error) = done {
            tracing::error!("{}", error.chain());
        }
    }

    /// In all places, even if one fails; returns the first error.
    fn at_each_place(self, take_down: impl Fn(&Path) -> Result<()>) -> Result<()> {
        let all = mount_table::all().context(|| "reading /proc/self/mountinfo".into())?;
        let places = || all.iter().rev().filter(|line| line.is_ours && line.device == self.device);
        if places().next().is_none() {
            return Err(Error::new(
                Kind::NotFound,
                "the mount is visible nowhere to its process: it ends when its last file is closed, or with the namespace that it is visible in",
            ));
        }
        let outcomes: Vec<_> =
            places().map(|line| refuse_hidden(line, &all).and_then(|()| take_down(&line.mountpoint))).collect();
        outcomes.into_iter().collect()
    }
}

/// A path unmounts the mount that is visible there.
fn refuse_hidden(line: &Line, all: &[Line]) -> Result<()> {
    let Some(other) = line.hidden_by(all) else { return Ok(()) };
    let text = format!(
        "the mount on {} is hidden by another one, of {} on {}: unmount that first",
        line.mountpoint.shown(),
        other.source.shown(),
        other.mountpoint.shown()
    );
    Err(Error::new(Kind::Busy, text))
}

/// Unmounts the mount of ours on a path, as mountinfo has it.
///
/// # Errors
/// `Busy` when something uses the mount or hides it, `Invalid` when nothing of ours is mounted there, or `Io`.
pub fn unmount(mountpoint: &Path, when: Unmount) -> Result<()> {
    let all = mount_table::all().context(|| "reading /proc/self/mountinfo".into())?;
    match all.iter().rfind(|line| line.is_ours && line.mountpoint == mountpoint) {
        Some(line) => refuse_hidden(line, &all).and_then(|()| unmount_path(mountpoint, when)),
        None => Err(Error::new(Kind::Invalid, format!("{} is not a mountpoint", mountpoint.shown()))),
    }
}

/// How often, and at which interval, unmounting is tried again while the mount is in use.
const BUSY_TRIES: usize = 10;
const BUSY_PAUSE: std::time::Duration = std::time::Duration::from_millis(30);

fn unmount_path(mountpoint: &Path, when: Unmount) -> Result<()> {
    let flags = match when {
        Unmount::Now => UnmountFlags::NOFOLLOW,
        Unmount::WhenUnused => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    // A program that just looked at the mount, such as one that lists all mounts, uses it for a moment.
    let mut done = rustix::mount::unmount(mountpoint, flags);
    for _ in 0..BUSY_TRIES {
        if done != Err(Errno::BUSY) {
            break;
        }
        std::thread::sleep(BUSY_PAUSE);
        done = rustix::mount::unmount(mountpoint, flags);
    }
    match done {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => unmount_by_fusermount(mountpoint, when),
        Err(Errno::BUSY) => Err(Error::new(
            Kind::Busy,
            format!("{} is in use: close its files first, or use --lazy", mountpoint.shown()),
        )),
        Err(Errno::INVAL) => Err(Error::new(Kind::Invalid, format!("{} is not a mountpoint", mountpoint.shown()))),
        Err(error) => Err(Error::errno(format!("unmounting {}", mountpoint.shown()), error)),
    }
}

fn unmount_by_fusermount(mountpoint: &Path, when: Unmount) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args((when == Unmount::WhenUnused).then_some("-z")).arg("--").arg(mountpoint);
    let output = command.output().context(|| "running fusermount3 (Debian package fuse3)".into())?;
    if output.status.success() {
        return Ok(());
    }
    let said = said(&output);
    let kind = if said.contains("busy") { Kind::Busy } else { Kind::Io };
    Err(Error::new(kind, format!("fusermount3 could not unmount {}: {}", mountpoint.shown(), said)))
}
