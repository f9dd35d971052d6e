//! Mounting and unmounting: by the system calls where allowed, else by fusermount3.

use std::fs::File;
use std::io::ErrorKind::PermissionDenied;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use fuser::{Config, MountOption, SessionACL};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{getegid, geteuid};

use crate::error::{Context, Error, Kind, Result};

/// File system type of our mounts, as /proc/mounts shows it.
pub const MOUNT_TYPE: &str = "fuse.vmcryptfs";
const SUBTYPE: &str = "vmcryptfs";

/// What `-o` understands, as the kernel and as fusermount3 want it.
const OPTIONS: [(&str, MountFlags, MountOption); 8] = [
    ("ro", MountFlags::RDONLY, MountOption::RO),
    ("rw", MountFlags::empty(), MountOption::RW),
    ("noexec", MountFlags::NOEXEC, MountOption::NoExec),
    ("exec", MountFlags::empty(), MountOption::Exec),
    ("noatime", MountFlags::NOATIME, MountOption::NoAtime),
    ("atime", MountFlags::empty(), MountOption::Atime),
    ("sync", MountFlags::SYNCHRONOUS, MountOption::Sync),
    ("dirsync", MountFlags::DIRSYNC, MountOption::DirSync),
];
/// What fstab and systemd add for themselves.
const IGNORED: [&str; 7] = ["defaults", "nodev", "nosuid", "auto", "noauto", "nofail", "_netdev"];

/// Where and how to mount.
#[derive(Clone, Debug)]
pub struct MountSpec {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// What is mounted, as /proc/mounts shows it.
    pub source: String,
    /// Words of `-o`.
    pub options: Vec<String>,
    /// Event loops; `None` for one a CPU, at least two.
    pub threads: Option<usize>,
}

/// `-o`, understood.
pub(super) struct Options {
    pub(super) config: Config,
    flags: MountFlags,
}

impl Options {
    /// # Errors
    /// `Invalid` for a word that is none of ours.
    pub(super) fn parse(spec: &MountSpec) -> Result<Self> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(spec.source.clone()),
            MountOption::Subtype(SUBTYPE.into()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        config.clone_fd = true;
        let mut options = Self { config, flags: MountFlags::NODEV | MountFlags::NOSUID };
        spec.options.iter().try_for_each(|word| options.add(word))?;
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Result<()> {
        if let Some((_, flag, option)) = OPTIONS.iter().find(|(name, ..)| *name == word) {
            self.flags |= *flag;
            self.config.mount_options.push(option.clone());
            return Ok(());
        }
        match word {
            "allow_other" => self.config.acl = SessionACL::All,
            "allow_root" => self.config.acl = SessionACL::RootAndOwner,
            _ if IGNORED.contains(&word) || word.starts_with("x-") => {}
            _ => {
                let known: Vec<&str> = OPTIONS.iter().map(|(name, ..)| *name).collect();
                return Err(Error::new(
                    Kind::Invalid,
                    format!("mount option {word:?}, expected allow_other, allow_root, {}", known.join(", ")),
                ));
            }
        }
        Ok(())
    }
}

/// Mounts by the system call. Unlike fuser's own way it gives the mount our type, by which it is found again. `None` when
/// this process may not; fusermount3 may.
///
/// # Errors
/// `Unsupported` without /dev/fuse, or `Io`.
pub(super) fn mount(spec: &MountSpec, options: &Options) -> Result<Option<OwnedFd>> {
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
    // The kernel knows all or the owner; fuser keeps everyone but root and the owner out for `allow_root`.
    if options.config.acl != SessionACL::Owner {
        data.push_str(",allow_other");
    }
    let data = std::ffi::CString::new(data).map_err(|error| Error::with_source(Kind::Invalid, "mount data", error))?;
    match rustix::mount::mount(spec.source.as_str(), &spec.mountpoint, MOUNT_TYPE, options.flags, Some(data.as_c_str()))
    {
        Ok(()) => Ok(Some(device.into())),
        Err(rustix::io::Errno::PERM) => Ok(None),
        Err(error) => Err(Error::io(format!("mounting on {}", spec.mountpoint.display()), error.into())),
    }
}

/// Whether this process may not open /dev/fuse, which even mounting by fusermount3 takes.
pub(super) fn needs_open_device() -> bool {
    File::options().read(true).write(true).open("/dev/fuse").is_err_and(|error| error.kind() == PermissionDenied)
}

/// Refuses what cannot, or should not, be mounted on.
///
/// # Errors
/// `NotFound`, `Invalid` for no directory, `Busy` for one that is not empty.
pub(super) fn check_mountpoint(mountpoint: &Path) -> Result<()> {
    let doing = || format!("mountpoint {}", mountpoint.display());
    if !std::fs::metadata(mountpoint).context(doing)?.is_dir() {
        return Err(Error::new(Kind::Invalid, format!("{} is no directory", doing())));
    }
    if std::fs::read_dir(mountpoint).context(doing)?.next().is_some() {
        return Err(Error::new(Kind::Busy, format!("{} is not empty: what is in it would be hidden", doing())));
    }
    Ok(())
}

/// When a mount goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unmount {
    /// Now, or not at all when something uses it.
    Now,
    /// Its name now, the rest when nothing uses it any more.
    WhenUnused,
}

/// Unmounts.
///
/// # Errors
/// `Busy` when something uses the mount, `Invalid` when nothing is mounted there, or `Io`.
pub fn unmount(mountpoint: &Path, when: Unmount) -> Result<()> {
    let flags = match when {
        Unmount::Now => UnmountFlags::NOFOLLOW,
        Unmount::WhenUnused => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    match rustix::mount::unmount(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => unmount_by_fusermount(mountpoint, when),
        Err(rustix::io::Errno::BUSY) => {
            Err(Error::new(Kind::Busy, format!("{} is in use: close its files first", mountpoint.display())))
        }
        Err(rustix::io::Errno::INVAL) => {
            Err(Error::new(Kind::Invalid, format!("{} is not a mountpoint", mountpoint.display())))
        }
        Err(error) => Err(Error::io(format!("unmounting {}", mountpoint.display()), error.into())),
    }
}

fn unmount_by_fusermount(mountpoint: &Path, when: Unmount) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u").args((when == Unmount::WhenUnused).then_some("-z")).arg("--").arg(mountpoint);
    let output = command.output().context(|| "running fusermount3 (Debian package fuse3)".into())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let kind = if said.contains("busy") { Kind::Busy } else { Kind::Io };
    Err(Error::new(kind, format!("fusermount3 could not unmount {}: {}", mountpoint.display(), said.trim())))
}
