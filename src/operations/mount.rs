//! Mounting a VM folder or a datastore, serving the mount, and taking it down.

mod ready;
mod signals;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::control;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::event::{Event, EventName};
use crate::fs::FileSystem;
use crate::fuse::mount::{MountSpec, Own, Unmount};
use crate::fuse::options::MountOptions;
use crate::fuse::session::{self, Session};
use crate::fuse::transport::Transport;
use crate::gate::{Object, Operation, Trail};
use crate::metrics;
use crate::operations::answers::answer;
use crate::operations::unlocking::keep_unlocking;
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::serve::{Options, ServedFolder};
use crate::storage::BackingIo;
use crate::sys::socket::SocketPath;
use crate::sys::{memory, process};
use crate::text::Show;
pub use signals::ReopenLog;
use signals::{Caught, Reloaded};

/// Mounts and serves.
pub struct MountFolder<'a> {
    /// A VM folder or a datastore.
    pub folder: &'a Path,
    /// An empty directory.
    pub mountpoint: &'a Path,
    /// Words of `-o`.
    pub words: &'a [String],
    /// What encrypts disks.
    pub engine: Engine,
    /// How requests come.
    pub transport: Transport,
    /// How backing files of disks are read and written.
    pub backing_io: BackingIo,
    /// As of [`MountSpec`].
    pub threads: Option<usize>,
    /// How long it waits for keys.
    pub wait: Option<Duration>,
    /// Whether nothing may be locked then.
    pub require_unlocked: bool,
    /// Whether a folder without VMs is meant.
    pub empty: bool,
    /// Socket that answers HTTP requests with metrics.
    pub metrics: Option<&'a Path>,
    /// Configuration file.
    pub config: &'a Path,
    /// What SIGHUP does to the log.
    pub reopen_log: ReopenLog,
}

/// A mount that is there.
pub struct Serving {
    session: thread::JoinHandle<Result<()>>,
    folder: PathBuf,
    /// They are there for as long as the mount.
    _sockets: (SocketPath, Option<SocketPath>),
    /// The mount itself.
    pub own: Own,
    /// What of it is locked, or does not show, a line each.
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
        Event::of(EventName::Unmount).component(&self.folder).outcome(&served);
        served
    }
}

impl Operation for MountFolder<'_> {
    const NAME: EventName = EventName::Mount;
    type Outcome = Serving;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    /// Returns once the mount answers.
    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<Serving> {
        // Before the mount is there, so that no signal in between leaves it.
        let mut signals = signals::catch()?;
        if let Err(error) = process::stay_alive() {
            let what = "the process has no place of its own when memory runs out";
            tracing::debug!("{}", Error::io(what, error).chain());
        }
        let spec = self.spec()?;
        process::raise_file_limit().context(|| "raising the limit on open files".into())?;
        process::clear_umask();
        memory::keep_little();
        let fs = self.open(&spec.options, &mut signals)?;
        memory::return_freed();
        if memory::lock_was_refused() {
            tracing::warn!("the limit on locked memory is too low: keys could be swapped out (ulimit -l)");
        }
        keep_unlocking(&fs)?;
        let stop = &mut || signals.stop();
        let waiting = ready::Waiting { period: self.wait, required: self.require_unlocked, stop };
        let locked = waiting.unlock(&fs, self.mountpoint)?;
        let notes: Vec<String> = locked.into_iter().chain(ready::without_home(&fs)?).collect();
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        let session = Session::mount(&fs, &spec)?;
        let own = session.own();
        let (mountpoint, reopen_log) = (self.mountpoint.to_path_buf(), Arc::clone(&self.reopen_log));
        let stops = signals.stops(Reloaded { fs: Arc::clone(&fs), reopen_log, mountpoint });
        let session = thread::Builder::new()
            .name("session".into())
            .spawn(move || session.serve(stops))
            .context(|| "starting the thread that serves the mount".into())?;
        // The mount is of no use without its socket, and the process that asked for it gets the reason.
        let _sockets = self.sockets(&fs, own).inspect_err(|_| _ = own.unmount(Unmount::WhenUnused))?;
        Ok(Serving { session, folder: self.folder.to_path_buf(), _sockets, own, notes })
    }
}

impl MountFolder<'_> {
    /// What is mounted where, if it can be meant.
    fn spec(&self) -> Result<MountSpec> {
        let source = std::path::absolute(self.folder).context(|| format!("resolving {}", self.folder.shown()))?;
        ready::check_source(&source, self.empty)?;
        ready::check_mountpoint(&source, self.mountpoint)?;
        let mut options = MountOptions::parse(self.words.iter().map(String::as_str))?;
        if ready::is_read_only(&source) {
            options.make_read_only();
        }
        let (mountpoint, transport, threads) = (self.mountpoint.to_path_buf(), self.transport, self.threads);
        Ok(MountSpec { mountpoint, source, options, transport, threads })
    }

    fn open(&self, options: &MountOptions, signals: &mut Caught) -> Result<Arc<FileSystem>> {
        self.engine.self_test()?;
        let (engine, backing_io) = (self.engine, self.backing_io);
        let served = Options { read_only: options.is_read_only(), engine, backing_io, ..Options::default() };
        let (folder, providers) = (self.folder.to_path_buf(), Providers::load(self.config)?);
        let open = move || ServedFolder::open(&folder, providers, served);
        let served = ready::unless_stopped(&mut || signals.stop(), open)?;
        Ok(Arc::new(FileSystem::new(Arc::new(served), options.durability())?))
    }

    /// Opens the sockets of a mount that answers.
    fn sockets(&self, fs: &Arc<FileSystem>, own: Own) -> Result<(SocketPath, Option<SocketPath>)> {
        session::answers(self.mountpoint)?;
        let own_fs = Arc::clone(fs);
        let control =
            control::serve(self.mountpoint, own.device, move |request, asking| answer(&own_fs, request, asking))?;
        let metrics = self.metrics.map(|path| {
            let at =
                std::path::absolute(self.mountpoint).context(|| format!("resolving {}", self.mountpoint.shown()))?;
            let fs = Arc::clone(fs);
            metrics::serve(path, move || metrics::text(vec![(at.clone(), metrics::of_mount(&fs))]))
        });
        Ok((control, metrics.transpose()?))
    }
}
