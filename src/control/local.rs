//! Whether something is served by a mount of this user, and the way to have that mount work on it.
//!
//! A mount has its open disks claimed, so that no other process can work on them: what a mount serves is worked on by its
//! process. Everything else is worked on here, under claims of its own, which refuse what another user, host or program uses.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use crate::control::mounts::{self, Mounted};
use crate::control::socket_dir::socket_dir;
use crate::control::vm_task::VmTask;
use crate::control::{
    ANSWER_TIMEOUT, Answer, INTRODUCTION, MAX_LINE, Request, has_died, other_version, receive, send, unanswered,
};
use crate::error::{Context, Error, Kind, Result};
use crate::progress::OnProgress;
use crate::text::Show;

/// A mount of this user that serves a path.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Its process.
    pub pid: u32,
    /// Whether nothing can be written through it.
    pub read_only: bool,
    /// The path, below the mount.
    pub below: PathBuf,
    socket: PathBuf,
}

/// The mount of this user that serves `path`, which may be of the backing side or of the mounted one. Of several, one that
/// can be written to.
///
/// # Errors
/// `NotFound` when nothing is at `path`, `Busy` when a mount that may serve it does not answer, or `Io`.
pub fn serving(path: &Path) -> Result<Option<Serving>> {
    let path = std::fs::canonicalize(path).context(|| format!("finding {}", path.shown()))?;
    let places = Arc::new(Places::around(&path)?);
    let mounts = mounts::all()?;
    let (answer, answers) = channel();
    let mut asked = Vec::new();
    for entry in std::fs::read_dir(socket_dir()?).context(|| "looking for mounts".into())? {
        let socket = entry.context(|| "looking for mounts".into())?.path();
        let Some(device) = device_of(&socket) else { continue };
        let mount = mounts.iter().find(|mount| mount.device == device);
        if places.may_be_of(device, mount) {
            // At once: one that does not answer holds up none of the others.
            let (places, answer, number) = (Arc::clone(&places), answer.clone(), asked.len());
            asked.push(mount.cloned());
            thread::Builder::new()
                .name("introduce".into())
                .spawn(move || answer.send((number, introduce(&socket, device, &places))))
                .context(|| "asking a mount".into())?;
        }
    }
    drop(answer);
    let (mut found, deadline): (Option<Serving>, _) = (None, Instant::now() + INTRODUCTION);
    while let Ok((number, serving)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        asked[number] = None;
        if serving.is_some() && found.as_ref().is_none_or(|found| found.read_only) {
            found = serving;
        }
    }
    match asked.into_iter().flatten().next() {
        // It may have the path's keys, and work with them.
        Some(mute) if found.is_none() => Err(Error::new(
            Kind::Busy,
            format!(
                "the mount of {} on {} does not answer, and may use it: see what its process waits for, or end that",
                mute.source.shown(),
                mute.mountpoint.shown()
            ),
        )),
        _ => Ok(found),
    }
}

/// The mountpoint of a mount whose process has died and which showed `path`, of the backing side, and the path below it.
///
/// # Errors
/// `NotFound` when nothing is at `path`, or `Io`.
pub fn dead(path: &Path) -> Result<Option<(PathBuf, PathBuf)>> {
    let path = std::fs::canonicalize(path).context(|| format!("finding {}", path.shown()))?;
    let below = |mount: &Mounted| {
        let root = mount.root.strip_prefix("/").unwrap_or(&mount.root);
        path.strip_prefix(mount.source.join(root)).map(Path::to_path_buf).ok()
    };
    let shown = mounts::all()?.into_iter().filter_map(|mount| Some((below(&mount)?, mount.mountpoint)));
    Ok(shown.map(|(below, mountpoint)| (mountpoint, below)).find(|(mountpoint, _)| has_died(mountpoint)))
}

/// Device number of the mount that a socket belongs to.
fn device_of(socket: &Path) -> Option<(u32, u32)> {
    let (major, minor) = socket.file_name().and_then(OsStr::to_str)?.strip_suffix(".sock")?.split_once('-')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Asks one mount what it serves; none that is dead or of another version serves anything.
fn introduce(socket: &Path, device: (u32, u32), places: &Places) -> Option<Serving> {
    let mounted = rustix::fs::makedev(device.0, device.1);
    let mut stream = UnixStream::connect(socket).ok()?;
    send(&mut stream, &Request::Introduce).ok()?;
    // The asking thread has gone by then, if it does not answer.
    let answer = serde_json::from_str(&receive(&stream, 2 * INTRODUCTION).ok()?).ok()?;
    let Answer::Serving { pid, mountpoint, device, inode, read_only } = answer else { return None };
    let below = places.below(mounted, (device, inode))?.to_path_buf();
    Some(Serving { mountpoint, pid, read_only, below, socket: socket.to_path_buf() })
}

/// A path's directories, itself included, each with the rest of the path below it.
struct Places {
    by_id: HashMap<(u64, u64), PathBuf>,
    /// By device: the rest below the topmost directory on it, which on a mount is its root.
    by_device: HashMap<u64, PathBuf>,
}

impl Places {
    fn around(path: &Path) -> Result<Self> {
        let mut places = Self { by_id: HashMap::new(), by_device: HashMap::new() };
        for dir in path.ancestors() {
            let metadata = std::fs::metadata(dir).context(|| format!("looking at {}", dir.shown()))?;
            let rest = path.strip_prefix(dir).unwrap_or(Path::new("")).to_path_buf();
            places.by_device.insert(metadata.dev(), rest.clone()); // from below to above: the last one is the topmost
            places.by_id.insert((metadata.dev(), metadata.ino()), rest);
        }
        Ok(places)
    }

    /// Whether the mount with this device number, if it is in the table of mounts, can be one that serves the path. A mount that has
    /// been taken away, and still serves programs that have files of it open, is in no table; and a folder may have another name by now.
    fn may_be_of(&self, device: (u32, u32), mount: Option<&Mounted>) -> bool {
        let source = mount.filter(|mount| mount.source.is_absolute()).map(|mount| std::fs::metadata(&mount.source));
        match source {
            Some(Ok(source)) => {
                self.below(rustix::fs::makedev(device.0, device.1), (source.dev(), source.ino())).is_some()
            }
            Some(Err(_)) | None => true,
        }
    }

    fn below(&self, mounted: u64, root: (u64, u64)) -> Option<&Path> {
        self.by_id.get(&root).or_else(|| self.by_device.get(&mounted)).map(PathBuf::as_path)
    }
}

/// For work beside a mount on what it serves, which changes that.
///
/// # Errors
/// `ReadOnly` when it can only be read there, or those of [`serving`].
pub fn refuse_if_served_read_only(path: &Path) -> Result<()> {
    match serving(path)?.filter(|serving| serving.read_only) {
        None => Ok(()),
        Some(serving) => Err(Error::new(
            Kind::ReadOnly,
            format!(
                "{} is mounted read-only on {} (process {}): unmount it, or mount it writable",
                path.shown(),
                serving.mountpoint.shown(),
                serving.pid
            ),
        )),
    }
}

/// For work that cannot be done while a mount serves its object.
///
/// # Errors
/// `Busy`, naming the mount, or those of [`serving`].
pub fn refuse_if_served(path: &Path, what: &str) -> Result<()> {
    match serving(path)? {
        None => Ok(()),
        Some(serving) => Err(Error::new(
            Kind::Busy,
            format!(
                "{} is mounted on {} (process {}), and {what} needs it unmounted",
                path.shown(),
                serving.mountpoint.shown(),
                serving.pid
            ),
        )),
    }
}

impl Serving {
    /// Has the mount's process do a task, whose path is below the mount. An error of `on_progress` stops it at its next safe point.
    ///
    /// # Errors
    /// Those of the task; `Io` when the mount's process ends before it has answered.
    pub fn ask(&self, work: VmTask, on_progress: OnProgress<'_>) -> Result<serde_json::Value> {
        let doing = || format!("asking the mount on {} (process {})", self.mountpoint.shown(), self.pid);
        let mut stream = UnixStream::connect(&self.socket).context(doing)?;
        send(&mut stream, &Request::Work { work }).context(doing)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).context(doing)?;
        let mut lines = BufReader::new(&stream);
        let mut stopped = false;
        loop {
            match next_line(&mut lines).context(doing)? {
                Answer::Progress { progress } => {
                    if on_progress(&progress).is_err() && !stopped {
                        stopped = true;
                        stream.shutdown(Shutdown::Write).context(doing)?; // the work ends at its next safe point
                    }
                }
                Answer::Done { outcome } => return Ok(outcome),
                Answer::Error { kind, message } => return Err(Error::new(kind, message)),
                Answer::Status { .. } | Answer::Serving { .. } | Answer::Metrics { .. } => return Err(other_version()),
            }
        }
    }
}

fn next_line(lines: &mut BufReader<&UnixStream>) -> Result<Answer> {
    let mut line = String::new();
    let read = std::io::Read::take(&mut *lines, MAX_LINE).read_line(&mut line);
    read.map_err(|error| unanswered(error, ANSWER_TIMEOUT))?;
    if !line.ends_with('\n') {
        return Err(Error::new(Kind::Io, "the mount's process ended before the work did; run it again to resume"));
    }
    serde_json::from_str(&line)
        .map_err(|error| Error::with_source(Kind::Invalid, "an answer of another version of vmcryptfs", error))
}
