//! What a mount looks at before it is there: whether this can be meant, and what of it is locked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{OFlags, StatVfsMountFlags};

use crate::control::{self, ComponentState, Components, mounts, summary};
use crate::error::{Context, Error, Kind, Result};
use crate::fs::FileSystem;
use crate::store::header_area::RESTORE_HOME;
use crate::text::{self, Show, quoted};
use crate::vm::inventory::NO_SIGN;
use crate::vm::{folder, scan};

/// How often what waits for its keys is tried again before the mount is there.
const RETRY_PERIOD: Duration = Duration::from_secs(1);
/// How soon a signal ends the wait.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// Refuses a folder that is shown by a mount of ours, or that holds something but no VM folder, unless that is meant (`empty`).
///
/// # Errors
/// `Invalid`, `NotFound`, or `Io`.
pub(super) fn check_source(source: &Path, empty: bool) -> Result<()> {
    let backing = mounts::backing(source.to_path_buf());
    if backing != source {
        let message =
            format!("{} is in a mount of vmcryptfs: mount the backing folder, {}", source.shown(), backing.shown());
        return Err(Error::new(Kind::Invalid, message));
    }
    refuse_file(source)?;
    if empty {
        return Ok(());
    }
    let root = folder::open_dir(source)?;
    if scan::has_home(&root) {
        return Ok(());
    }
    let mut entries = 0_usize;
    for entry in std::fs::read_dir(source).context(|| format!("reading {}", source.shown()))? {
        let name = entry.context(|| format!("reading {}", source.shown()))?.file_name();
        let opened = rustix::fs::openat(&root, &name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW, 0.into());
        if opened.is_ok_and(|folder| scan::has_home(&File::from(folder))) {
            return Ok(());
        }
        entries += usize::from(name != "lost+found");
    }
    match entries {
        0 => Ok(()),
        _ => Err(Error::new(
            Kind::NotFound,
            format!(
                "{} holds {}, but no encrypted VM folder: `vmcryptfs encrypt VM_FOLDER` makes one of a VM, `vmcryptfs \
                 header restore VM_FOLDER FILE --force` brings back a lost vmcryptfs.home, `--empty` mounts it as a datastore without VMs",
                source.shown(),
                text::count(entries, "file or folder", "files and folders")
            ),
        )),
    }
}

/// One line that names the folders whose home header is lost: they do not show in the mount.
fn without_home(fs: &FileSystem) -> Option<String> {
    let folders = fs.served().folders_without_home();
    let said = format!(
        "{} not shown, since the home header is missing: {} ({RESTORE_HOME})",
        text::count(folders.len(), "folder with encrypted files is", "folders with encrypted files are"),
        names(folders)
    );
    (!folders.is_empty()).then_some(said)
}

/// One line that names files that may be disks whose header was overwritten: the mount opens none of them.
fn without_sign(fs: &FileSystem) -> Option<String> {
    let files = fs.served().files_without_sign();
    let said = format!("{}: {NO_SIGN}; such a file cannot be opened in the mount", names(files));
    (!files.is_empty()).then_some(said)
}

/// The first ones.
fn names(paths: &[PathBuf]) -> String {
    const MAX_NAMED: usize = 5;
    let names: Vec<String> = paths.iter().take(MAX_NAMED).map(|path| path.shown().to_string()).collect();
    names.join(", ") + if paths.len() > MAX_NAMED { ", ..." } else { "" }
}

/// Refuses a mountpoint that has a mount of ours already. One whose process has died is refused by mounting itself, with that reason.
///
/// # Errors
/// `Busy`.
pub(super) fn check_mountpoint(source: &Path, mountpoint: &Path) -> Result<()> {
    let Ok(mounted) = mounts::find(mountpoint) else { return Ok(()) };
    if control::has_died(mountpoint) {
        return Ok(());
    }
    let message = match mounted.source == source {
        true => format!("{} is mounted on {} already", source.shown(), mountpoint.shown()),
        false => format!("{} has the mount of {} already", mountpoint.shown(), mounted.source.shown()),
    };
    Err(Error::new(Kind::Busy, message))
}

/// Whether nothing can be written on the file system of a folder.
pub(super) fn is_read_only(source: &Path) -> bool {
    rustix::fs::statvfs(source).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// What can only be read, since it is older than what this host has seen of it.
fn gone_back(fs: &FileSystem) -> Option<String> {
    let served = fs.served();
    let gone_back = served.keyring().all_gone_back();
    let first = gone_back.first().and_then(|header| served.component_path(header))?;
    let more = if gone_back.len() > 1 { format!(" and {} more", gone_back.len() - 1) } else { String::new() };
    Some(format!("older than what this host has seen, so that it can only be read: {}{more}", first.shown()))
}

/// How a mount that is not there yet waits for its keys.
pub(super) struct Waiting<'a> {
    /// How long.
    pub(super) period: Option<Duration>,
    /// Whether all must be usable then.
    pub(super) required: bool,
    /// Whether the wait is to end at once, without a mount.
    pub(super) stop: &'a mut dyn FnMut() -> bool,
}

impl Waiting<'_> {
    /// Waits until nothing is locked for want of a key, and says what cannot be used then, or not as it should, a line for each kind of
    /// reason.
    ///
    /// # Errors
    /// `Io`; `Stopped`; `KeyUnavailable` if anything cannot be used that must.
    pub(super) fn unlock(mut self, fs: &Arc<FileSystem>, mountpoint: &Path) -> Result<Vec<String>> {
        let start = Instant::now();
        loop {
            let found = match fs.served().is_all_unlocked() {
                true => fs.served().take_first_found(),
                false => None,
            };
            let found = found.map_or_else(|| fs.served().components().map(Arc::new), Ok)?;
            let Components { all, unusable } = control::components(&found, fs);
            // A damaged header is none that a key could open.
            let may_unlock = all.iter().any(|component| component.state() == ComponentState::Locked);
            if may_unlock && self.period.is_some_and(|period| start.elapsed() < period) {
                self.retry(fs)?;
                continue;
            }
            drop(fs.served().take_first_found());
            let source = fs.served().path();
            let advised: summary::Advised<'_> =
                &|below, text| scan::advised(below.map(|below| source.join(below)).as_deref(), Some(mountpoint), text);
            let of_components = [
                summary::locked(&all, advised),
                summary::unusable(&all, &unusable, advised),
                summary::missing(&unusable, advised),
            ];
            let of_components: Vec<String> = of_components.into_iter().chain([gone_back(fs)]).flatten().collect();
            let hidden: Vec<String> = [without_home(fs), without_sign(fs)].into_iter().flatten().collect();
            if self.required && !(of_components.is_empty() && hidden.is_empty()) {
                return Err(Error::new(Kind::KeyUnavailable, [of_components, hidden].concat().join("; ")));
            }
            let shown = of_components.into_iter().chain(summary::damaged_copies(&all));
            let advice = |said| format!("{said}; see `vmcryptfs status {}`", quoted(mountpoint));
            return Ok(shown.map(advice).chain(hidden).chain(summary::copies(&all)).collect());
        }
    }

    /// Asks the providers once more.
    fn retry(&mut self, fs: &Arc<FileSystem>) -> Result<()> {
        let fs = Arc::clone(fs);
        let retry = move || {
            thread::sleep(RETRY_PERIOD);
            fs.served().retry_locked()
        };
        unless_stopped(self.stop, retry).map(drop)
    }
}

/// Does what may wait for a key server, on a thread that nothing waits for any more once `stop` says so: a server may be mute.
///
/// # Errors
/// `Stopped`, `Io`, or those of `work`.
pub(super) fn unless_stopped<T: Send + 'static>(
    stop: &mut dyn FnMut() -> bool,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (done, on_done) = channel();
    let asking = thread::Builder::new().name("unlock".into()).spawn(move || done.send(work()));
    asking.context(|| "starting a thread that asks for keys".into())?;
    loop {
        match on_done.recv_timeout(LOOK_PERIOD) {
            Ok(outcome) => return outcome,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(
                    Kind::Io,
                    "asking for keys failed within the program: this is a bug, please report it",
                ));
            }
            Err(RecvTimeoutError::Timeout) if stop() => {
                let why = "stopped by a signal while it waited for keys: nothing is mounted";
                return Err(Error::new(Kind::Stopped, why));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// A mount shows folders.
fn refuse_file(source: &Path) -> Result<()> {
    if !source.is_file() {
        return Ok(());
    }
    let path = source.shown();
    let message = match scan::folder_around(source) {
        Some(folder) => format!("{path} is a file; its VM folder is {}", folder.shown()),
        None => format!("{path} is a file, expected a VM folder or a datastore"),
    };
    Err(Error::new(Kind::Invalid, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_heeded_while_a_key_server_is_mute() {
        let start = Instant::now();
        let (_keep, mute) = channel::<()>();
        let mut looks = 0;
        let mut stop = || {
            looks += 1;
            looks > 2
        };
        let stopped = unless_stopped(&mut stop, move || mute.recv().map_err(|_| Error::new(Kind::Io, "not reached")));
        assert_eq!(stopped.unwrap_err().kind(), Kind::Stopped);
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(unless_stopped(&mut || false, || Ok(7)).unwrap(), 7);
    }
}
