//! The control socket of a mount: what other processes of the same user ask it, as lines of JSON.
//!
//! The socket lies in a directory that only its owner may enter, named by the mount's device number, so that it is found
//! without asking a mount that may not answer.

pub mod local;
pub mod mounts;
mod socket_dir;
mod status;
pub mod summary;
pub mod vm_task;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::gate::Principal;
use crate::metrics::Family;
use crate::progress::Progress;
use crate::sys::memory;
use crate::sys::socket::SocketPath;
use crate::sys::thread::{caught, may_fail};
use crate::text::{Show, quoted};
use mounts::Mounted;
use socket_dir::socket_dir;
pub use status::{
    ClearStatus, ComponentState, ComponentStatus, Components, LastFailure, MountStatus, NoticeStatus, UnusableStatus,
    components, status, status_of,
};
use vm_task::VmTask;

/// Longest line either side reads, in bytes: the status of tens of thousands of components.
const MAX_LINE: u64 = 64 << 20;
/// How long a mount may take to answer: unlocking waits for key servers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a mount may take to say that it is there, and what it serves.
const INTRODUCTION: Duration = Duration::from_secs(5);
/// How long a mount waits before it takes another request, where one could not be taken.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// What a mount says to a request of a version that is newer than its own.
const NOT_UNDERSTOOD: &str = "request not understood";

/// What can be asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Request {
    /// The components and their state.
    Status,
    /// What is mounted, and where; answered by `Serving`.
    Introduce,
    /// What its process counted; answered by `Metrics`.
    Metrics,
    /// Work on components; answered by `Progress`, any number of times, and at last `Done`. It stops at its next safe point when
    /// the asking side closes its sending half, or altogether.
    Work {
        /// What to do.
        work: VmTask,
    },
    /// Nothing is answered: the connection ends with the mount's process.
    WaitForEnd,
    /// Unlock what is locked at or below a path, or everything; answered by the state of what was meant.
    Unlock {
        /// Below the mount.
        #[serde(with = "crate::text::path", default)]
        path: Option<PathBuf>,
    },
    /// Forget the keys of what is at or below a path; answered as `Unlock`.
    Lock {
        /// Below the mount.
        #[serde(with = "crate::text::path", default)]
        path: Option<PathBuf>,
    },
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To `Introduce`.
    Serving {
        /// Process that serves the mount.
        pid: u32,
        /// Where.
        #[serde(with = "crate::text::path")]
        mountpoint: PathBuf,
        /// Device number of the mounted folder.
        device: u64,
        /// Its inode number.
        inode: u64,
        /// Whether nothing can be written through the mount.
        read_only: bool,
    },
    /// Progress of work.
    Progress {
        /// As of now.
        progress: Progress,
    },
    /// What came of work.
    Done {
        /// In the form of that work.
        outcome: serde_json::Value,
    },
    /// To `Metrics`.
    Metrics {
        /// All of them.
        families: Vec<Family>,
    },
    /// To every other request that does not fail.
    Status(MountStatus),
    /// The request failed.
    Error {
        /// Decides the exit code.
        kind: Kind,
        /// For people.
        message: String,
    },
}

fn socket_path((major, minor): (u32, u32)) -> Result<PathBuf> {
    Ok(socket_dir()?.join(format!("{major}-{minor}.sock")))
}

/// A process that asks, and the mount that it asks about.
pub struct Asking {
    stream: UnixStream,
    /// Device number of the mount.
    device: (u32, u32),
    /// Where it was mounted.
    mountpoint: PathBuf,
    /// When it was last told of work that only looks.
    looked: Option<Instant>,
}

/// How often who asks is told of work that only looks: it would be for each name.
const LOOKS: Duration = Duration::from_millis(50);

impl Asking {
    /// Where the mount is by now.
    pub fn mountpoint(&self) -> PathBuf {
        let mounts = mounts::all().unwrap_or_default();
        let of_all = |mount: &Mounted| mount.device == self.device && mount.root == Path::new("/");
        mounts.into_iter().find(of_all).map_or_else(|| self.mountpoint.clone(), |mount| mount.mountpoint)
    }

    /// The user that asks.
    ///
    /// # Errors
    /// `Io`.
    pub fn principal(&self) -> Result<Principal> {
        Principal::of_peer(&self.stream)
    }

    /// Reports the progress of its work.
    ///
    /// # Errors
    /// `Stopped` when it wants no more of it, or `Io`.
    pub fn tell(&mut self, progress: &Progress) -> Result<()> {
        if progress.is_looking() {
            if self.looked.is_some_and(|looked| looked.elapsed() < LOOKS) {
                return Ok(());
            }
            self.looked = Some(Instant::now());
        }
        let told = send(&mut self.stream, &Answer::Progress { progress: progress.clone() });
        if told.is_err() || self.has_ended()? {
            return Err(Error::new(Kind::Stopped, "stopped at the requester's wish; run it again to resume"));
        }
        Ok(())
    }

    /// Whether it will send no more: a client that wants work to stop closes its sending half.
    fn has_ended(&mut self) -> Result<bool> {
        let doing = || "looking at the control socket".into();
        self.stream.set_nonblocking(true).context(doing)?;
        let ended = matches!(self.stream.read(&mut [0; 1]), Ok(0));
        self.stream.set_nonblocking(false).context(doing)?;
        Ok(ended)
    }
}

/// Takes requests about the mount with a device number, made on `mountpoint`, on a thread of its own, for as long as the process
/// lives, and sends what `answer` says to them. The socket is removed with what is returned.
///
/// # Errors
/// `Io`.
pub fn serve<A>(mountpoint: &Path, device: (u32, u32), answer: A) -> Result<SocketPath>
where
    A: Fn(Request, &mut Asking) -> Result<Answer> + Send + Sync + 'static,
{
    let (mountpoint, answer) = (mountpoint.to_path_buf(), Arc::new(answer));
    let path = socket_path(device)?;
    // A mount that ended may have had this one's number, and so its path.
    let (listener, socket) =
        SocketPath::replace(&path).context(|| format!("making control socket {}", path.shown()))?;
    // Each on its own thread: one may wait for a key server, another for the end of the mount.
    let on_own_thread = move |stream| {
        let (answer, asking) =
            (Arc::clone(&answer), Asking { stream, device, mountpoint: mountpoint.clone(), looked: None });
        let serve = move || {
            if let Err(error) = serve_one(asking, &*answer) {
                tracing::info!("control socket: {}", error.chain());
            }
        };
        thread::Builder::new().name("control-request".into()).spawn(serve).map(drop)
    };
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            for stream in listener.incoming() {
                // Without descriptors or threads there is nothing to do but to wait until there are some again.
                if let Err(error) = stream.and_then(&on_own_thread) {
                    tracing::warn!("{}", Error::io("control socket", error).chain());
                    thread::sleep(AFTER_FAILURE);
                }
            }
        })
        .context(|| "starting the control thread".into())?;
    Ok(socket)
}

fn serve_one(mut asking: Asking, answer: &dyn Fn(Request, &mut Asking) -> Result<Answer>) -> Result<()> {
    let line = receive(&asking.stream, Duration::from_secs(5))?;
    let answer = match serde_json::from_str(&line) {
        Ok(request) => caught(|| {
            may_fail("control");
            answer(request, &mut asking)
        })
        .unwrap_or_else(|| {
            Err(Error::new(Kind::Io, "the mount failed at this: this is a bug, please report it with the mount's log"))
        })
        .unwrap_or_else(|error| Answer::Error { kind: error.kind(), message: error.chain() }),
        Err(error) => Answer::Error { kind: Kind::Invalid, message: format!("{NOT_UNDERSTOOD}: {error}") },
    };
    let sent = send(&mut asking.stream, &answer);
    drop(answer);
    memory::return_freed();
    sent
}

/// Asks the process that serves a mount what is answered by `Status`.
///
/// # Errors
/// `NotFound` when nothing of ours is mounted there, `Io` when its process does not answer, or what it answers.
pub fn ask(mountpoint: &Path, request: &Request) -> Result<MountStatus> {
    let answer = answer_to(mountpoint, request)?;
    if let Answer::Status(status) = answer { Ok(status) } else { Err(other_version()) }
}

/// What the process that serves a mount has counted.
///
/// # Errors
/// As [`ask`]; `Unsupported` for a mount of a version that counts nothing.
pub fn metrics(mountpoint: &Path) -> Result<Vec<Family>> {
    match answer_to(mountpoint, &Request::Metrics) {
        Ok(Answer::Metrics { families }) => Ok(families),
        Ok(_) => Err(other_version()),
        Err(error) if error.kind() == Kind::Invalid && error.to_string().starts_with(NOT_UNDERSTOOD) => {
            let at = mountpoint.shown();
            let text =
                format!("the mount on {at} is of an older version of vmcryptfs, which has no metrics: mount it again");
            Err(Error::new(Kind::Unsupported, text))
        }
        Err(error) => Err(error),
    }
}

/// Mountpoints of all mounts that this user's processes serve.
///
/// # Errors
/// `Io`.
pub fn own_mountpoints() -> Result<Vec<PathBuf>> {
    let mut own = Vec::new();
    for mount in mounts::all()?.into_iter().filter(|mount| mount.root == Path::new("/")) {
        if socket_path(mount.device)?.exists() {
            own.push(mount);
        }
    }
    own.dedup_by_key(|mount| mount.device);
    Ok(own.into_iter().map(|mount| mount.mountpoint).collect())
}

fn other_version() -> Error {
    Error::new(Kind::Invalid, "an answer of another version of vmcryptfs")
}

fn answer_to(mountpoint: &Path, request: &Request) -> Result<Answer> {
    let path = socket_path(mounts::find(mountpoint)?.device)?;
    let doing = || format!("asking the mount on {} through {}", mountpoint.shown(), path.shown());
    // A request may take its time, but whether there is anyone to take it shows soon.
    let mut stream = connect(&path, mountpoint).context(doing)?;
    send(&mut stream, &Request::Introduce).context(doing)?;
    receive(&stream, INTRODUCTION).context(doing)?;
    let mut stream = connect(&path, mountpoint).context(doing)?;
    send(&mut stream, request).context(doing)?;
    let line = receive(&stream, ANSWER_TIMEOUT).context(doing)?;
    match serde_json::from_str(&line) {
        Ok(Answer::Error { kind, message }) => Err(Error::new(kind, message)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(Error::with_source(Kind::Invalid, "an answer of another version of vmcryptfs", error)),
    }
}

/// A connection that ends when the process that serves the mount does.
///
/// # Errors
/// As [`ask`].
pub fn watch(mountpoint: &Path) -> Result<UnixStream> {
    let path = socket_path(mounts::find(mountpoint)?.device)?;
    let mut stream = connect(&path, mountpoint)?;
    send(&mut stream, &Request::WaitForEnd)?;
    Ok(stream)
}

/// Whether the process of the mount on a path has died, or is dying. The kernel is asked only where there is no socket: once a ring
/// has that request, not even SIGKILL takes it back from a process that is stopped.
pub fn has_died(mountpoint: &Path) -> bool {
    let socket = mounts::find(mountpoint).and_then(|mount| socket_path(mount.device));
    let Ok(mut stream) = socket.and_then(|socket| connect(&socket, mountpoint)) else {
        return mounts::has_died(mountpoint);
    };
    // A process that is only stopped does not close its sockets.
    let answer = send(&mut stream, &Request::Introduce).and_then(|()| receive(&stream, mounts::LOOK));
    answer.is_err_and(|error| error.kind() != Kind::Busy)
}

fn connect(socket: &Path, mountpoint: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).or_else(|error| {
        let has_died = error.kind() == std::io::ErrorKind::ConnectionRefused || mounts::has_died(mountpoint);
        if has_died {
            let at = quoted(mountpoint);
            return Err(Error::new(Kind::Io, format!("its process has died: `vmcryptfs umount --lazy {at}` first")));
        }
        Err(error).context(|| format!("connecting to {}", socket.shown()))
    })
}

fn send(stream: &mut UnixStream, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message)
        .map_err(|error| Error::with_source(Kind::Invalid, "a message that has no JSON form", error))?;
    line.push(b'\n');
    stream.write_all(&line).context(|| "writing to the control socket".into())
}

/// What it means that nothing, or not all, could be read.
fn unanswered(error: std::io::Error, patience: Duration) -> Error {
    if error.kind() == std::io::ErrorKind::WouldBlock {
        let text = format!("no answer in {} s: the process is stopped, or waits for its storage", patience.as_secs());
        return Error::new(Kind::Busy, text);
    }
    Error::io("reading from the control socket", error)
}

fn receive(stream: &UnixStream, patience: Duration) -> Result<String> {
    stream.set_read_timeout(Some(patience)).context(|| "limiting the wait".into())?;
    let mut line = String::new();
    let read = BufReader::new(stream.take(MAX_LINE)).read_line(&mut line);
    read.map_err(|error| unanswered(error, patience))?;
    if line.ends_with('\n') {
        return Ok(line);
    }
    Err(Error::new(Kind::Invalid, format!("the control socket was closed after {} bytes of a line", line.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_does_not_answer_in_time_is_told_from_one_that_has_ended() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let patience = Duration::from_millis(20);
        let error = receive(&ours, patience).unwrap_err();
        assert!(error.kind() == Kind::Busy && error.to_string().contains("no answer"), "{error}");
        drop(theirs);
        assert!(receive(&ours, patience).unwrap_err().to_string().contains("closed after 0 bytes"));
    }

    #[test]
    fn looking_at_many_names_is_told_seldom_and_stops_soon() {
        let (client, stream) = UnixStream::pair().unwrap();
        let mut asking = Asking { stream, device: (0, 0), mountpoint: PathBuf::new(), looked: None };
        // Nobody reads them: a line for each would fill the socket and wait for ever.
        (0..100_000).for_each(|_| asking.tell(&Progress::looking()).unwrap());
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let ended = Instant::now();
        while asking.tell(&Progress::looking()).is_ok() {
            assert!(ended.elapsed() < Duration::from_secs(20));
        }
        // What is done is told each time.
        let done = Progress { what: String::new(), done: 1, total: 2, unit: crate::progress::Unit::Components };
        assert_eq!(asking.tell(&done).unwrap_err().kind(), Kind::Stopped);
    }
}
