//! Mounting a VM folder or a datastore, serving the mount, and taking it down.

mod ready;
mod signals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::control;
use crate::error::{Context, Error, Kind, Result};
use crate::event::{Event, EventName, limit};
use crate::fs::FileSystem;
use crate::fuse::mount::{MountSpec, Own, Unmount};
use crate::fuse::session::{self, Session};
use crate::gate::{Object, Operation, Trail};
use crate::metrics;
use crate::operations::answers::answer;
use crate::operations::unlocking::{keep_unlocking, tell_of_manifests};
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::serve::{Options, ServedFolder};
use crate::storage::BackingIo;
use crate::storage::claims::MountLocks;
use crate::storage::sharing::Sharing;
use crate::sys::socket::SocketPath;
use crate::sys::{memory, process};
use crate::text::Show;
pub use signals::ReopenLog;
use signals::{Caught, Reloaded};

/// Mounts and serves.
pub struct MountFolder<'a> {
    /// What is mounted, where and how. It is read-only where the folder's file system is.
    pub spec: MountSpec,
    /// How its disks are served.
    pub served: Options,
    /// How long it waits for keys.
    pub wait: Option<Duration>,
    /// Whether all that it finds must be usable then.
    pub require_unlocked: bool,
    /// Whether a folder without VMs is meant.
    pub empty: bool,
    /// Mount a folder although claims on it do not hold between hosts.
    pub force_locks: bool,
    /// Socket that answers HTTP requests with metrics.
    pub metrics: Option<&'a Path>,
    /// Configuration file.
    pub config: &'a Path,
    /// What SIGHUP does to the log.
    pub reopen_log: ReopenLog,
}

type Sockets = (SocketPath, Option<SocketPath>);

/// A mount that is there.
pub struct Serving {
    session: thread::JoinHandle<Result<()>>,
    folder: PathBuf,
    fs: Arc<FileSystem>,
    /// They are there for as long as the mount.
    _sockets: Sockets,
    /// The mount itself.
    pub own: Own,
    /// What of it cannot be used, or does not show, a line each.
    pub notes: Vec<String>,
}

impl Serving {
    /// Waits until it has ended, and its keys with it, and records that.
    ///
    /// # Errors
    /// `Io`, as of [`Session::serve`].
    pub fn wait(self) -> Result<()> {
        let failed = || Error::new(Kind::Io, "the mount's event loop failed: this is a bug, please report it");
        let served = self.session.join().unwrap_or_else(|_| Err(failed()));
        limit::report(Duration::ZERO);
        self.fs.close_all();
        let folder = self.fs.served();
        folder.close_all_manifests();
        tell_of_manifests(folder);
        folder.keyring().memory().keep(); // this process may end while a thread still has the file system
        Event::of(EventName::Unmount).component(&self.folder).outcome(&served);
        served
    }
}

impl Operation for MountFolder<'_> {
    const NAME: EventName = EventName::Mount;
    type Outcome = Serving;

    fn object(&self) -> Object {
        Object::Folder(self.spec.source.clone())
    }

    /// Returns once the mount answers.
    fn run(mut self, _: &mut Trail, _: OnProgress<'_>) -> Result<Serving> {
        // Before the mount is there, so that no signal in between leaves it.
        let mut signals = signals::catch()?;
        if let Err(error) = process::stay_alive() {
            let what = "the process has no place of its own when memory runs out";
            tracing::debug!("{}", Error::io(what, error).chain());
        }
        ready::check_source(&self.spec.source, self.empty)?;
        ready::check_mountpoint(&self.spec.source, &self.spec.mountpoint)?;
        process::raise_file_limit().context(|| "raising the limit on open files".into())?;
        process::clear_umask();
        memory::keep_little();
        let served = self.open(&mut signals)?;
        let fs = Arc::new(FileSystem::new(served, self.spec.options.durability())?);
        memory::return_freed();
        if memory::lock_was_refused() {
            tracing::warn!("the limit on locked memory is too low: keys could be swapped out (ulimit -l)");
        }
        keep_unlocking(&fs)?;
        let stop = &mut || signals.stop();
        let waiting = ready::Waiting { period: self.wait, required: self.require_unlocked, stop };
        let notes = waiting.unlock(&fs, &self.spec.mountpoint)?;
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        let session = Session::mount(&fs, &self.spec)?;
        let own = session.own();
        let (mountpoint, reopen_log) = (self.spec.mountpoint.clone(), self.reopen_log);
        let stops = signals.stops(Reloaded { fs: Arc::clone(&fs), reopen_log, mountpoint });
        let session = thread::Builder::new()
            .name("session".into())
            .spawn(move || session.serve(stops))
            .context(|| "starting the thread that serves the mount".into())?;
        // The mount is of no use without its socket, and the process that asked for it gets the reason.
        let _sockets = sockets(Arc::clone(&fs), own, &self.spec.mountpoint, self.metrics)
            .inspect_err(|_| _ = own.unmount(Unmount::WhenUnused))?;
        Ok(Serving { session, folder: self.spec.source, fs, _sockets, own, notes })
    }
}

impl MountFolder<'_> {
    fn open(&mut self, signals: &mut Caught) -> Result<Arc<ServedFolder>> {
        self.served.engine.self_test()?;
        if ready::is_read_only(&self.spec.source) {
            self.spec.options.make_read_only();
        }
        let mountpoint = std::path::absolute(&self.spec.mountpoint).unwrap_or_default();
        let sharing = Sharing::of(&self.spec.source)?;
        sharing.refuse_lost_locks(self.force_locks)?;
        let shared = self.served.shared || sharing.is_shared;
        let claims = Box::leak(Box::new(MountLocks { mountpoint, shared })); // for as long as the process lives
        let backing_io = if shared { BackingIo::Direct } else { self.served.backing_io };
        let read_only = self.spec.options.is_read_only();
        let served = Options { read_only, claims, shared, backing_io, ..self.served };
        let (folder, providers) = (self.spec.source.clone(), Providers::load(self.config)?);
        let open = move || ServedFolder::open(&folder, providers, served);
        ready::unless_stopped(&mut || signals.stop(), open).map(Arc::new)
    }
}

/// Opens the sockets of a mount that answers.
fn sockets(fs: Arc<FileSystem>, own: Own, mountpoint: &Path, metrics: Option<&Path>) -> Result<Sockets> {
    session::answers(mountpoint)?;
    let served = Arc::clone(&fs);
    let control = control::serve(mountpoint, own.device, move |request, asking| answer(&served, request, asking))?;
    let Some(path) = metrics else { return Ok((control, None)) };
    let mountpoint = std::path::absolute(mountpoint).context(|| format!("resolving {}", mountpoint.shown()))?;
    let text = move || metrics::text(vec![(mountpoint.clone(), metrics::of_mount(&fs))]);
    Ok((control, Some(metrics::serve(path, text)?)))
}
