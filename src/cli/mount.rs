//! `mount`: a VM folder or a datastore, shown decrypted.

pub(super) mod helper;
mod ready;
mod words;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::signals::{self, Reloaded};
use crate::cli::{log, out};
use crate::control;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::event::{self, EventName};
use crate::fs::FileSystem;
use crate::fuse::mount::{MountSpec, Own, Unmount};
use crate::fuse::options::MountOptions;
use crate::fuse::session::{self, Session};
use crate::fuse::transport::Transport;
use crate::gate::{self, Object, Operation, Principal, Trail, unwatched};
use crate::metrics;
use crate::operations::mount_ended;
use crate::operations::unlocking::keep_unlocking;
use crate::progress::OnProgress;
use crate::provider::{Providers, config};
use crate::serve::{Options, ServedFolder};
use crate::storage::BackingIo;
use crate::sys::socket::SocketPath;
use crate::sys::{memory, process};
use crate::text::Show;

/// What to mount, where.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs mount web01 /mnt\n  vmcryptfs mount /vms /run/vms -o allow_other\n\n\
    Returns once the mount answers, even if a key provider does not: keys are waited for three seconds at most, or --wait.\n\
    Components whose key is unavailable are listed, but locked, and unlock by themselves when it comes: `vmcryptfs status`.\n\
    In /etc/fstab:\n  /vms /run/vms fuse.vmcryptfs allow_other,wait=60s,nofail,_netdev 0 0")]
pub(super) struct MountArgs {
    /// A VM folder, or a datastore that holds VM folders
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// An existing, empty directory
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: PathBuf,
    /// Mount options: ro, allow_other, allow_root, noexec, sync, those of mount(8); and config=FILE, wait=60s, transport=... for
    /// the options below. The last one counts
    #[arg(short = 'o', value_name = "OPTION,...")]
    options: Vec<String>,
    /// Stay in the foreground and log to standard error
    #[arg(short, long)]
    foreground: bool,
    /// Cipher engine: aws-lc, vaes or rustcrypto [default: the fastest on this CPU]
    #[arg(long, value_name = "ENGINE", value_parser = parse_engine)]
    engine: Option<Engine>,
    /// How requests come from the kernel: auto, dev-fuse or io-uring. io-uring is faster; it needs Linux 6.14 and the
    /// parameter enable_uring of the module fuse set to Y
    #[arg(long, default_value = "auto", value_name = "TRANSPORT", value_parser = parse_transport)]
    transport: Transport,
    /// I/O to the backing files of disks: buffered (page cache) or direct (O_DIRECT). Direct suits guests with a cache of their
    /// own and a fast medium
    #[arg(long, default_value = "buffered", value_name = "WAY", value_parser = parse_backing_io)]
    backing_io: BackingIo,
    /// Threads that serve reads and writes [default: two a CPU, 32 with direct backing I/O; with io-uring one a CPU]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<u16>,
    /// Wait until everything is unlocked, but not longer than this: 60s, 2m. Afterwards it mounts even if keys are missing
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait: Option<Duration>,
    /// Do not mount (exit code 4) if something remains locked
    #[arg(long)]
    require_unlocked: bool,
    /// Mount a folder as a datastore although it holds files and no VM folder
    #[arg(long)]
    empty: bool,
    /// Answer HTTP requests on this Unix socket with metrics (OpenMetrics text)
    #[arg(long, value_name = "unix:PATH", value_parser = parse_metrics)]
    metrics: Option<PathBuf>,
    /// Log file of a mount in the background
    #[arg(long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// Tell the parent on standard output how mounting went; `mount` sets it when it starts itself
    #[arg(long, hide = true)]
    report: bool,
}

impl MountArgs {
    /// Whether this process is the one that serves the mount.
    pub(super) fn serves(&self) -> bool {
        self.foreground
    }
}

fn parse_threads(text: &str) -> std::result::Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| format!("{text:?}, expected a number from 1 to 256"))
}

/// Seconds, unless it says something else.
fn parse_wait(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| format!("{text:?}, expected a duration such as 60s or 2m"))
}

fn parse_engine(text: &str) -> std::result::Result<Engine, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn parse_metrics(text: &str) -> std::result::Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| format!("{text:?}, expected unix:PATH"))
}

fn parse_transport(text: &str) -> std::result::Result<Transport, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

fn parse_backing_io(text: &str) -> std::result::Result<BackingIo, String> {
    text.parse().map_err(|error: Error| error.to_string())
}

/// What a mount in the background reports to the process that started it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Report {
    /// The mount answers; what of it is locked, or does not show, a line each.
    Ready {
        notes: Vec<String>,
    },
    Failed {
        kind: Kind,
        message: String,
    },
}

pub(super) fn mount(mut args: MountArgs, config: Option<&Path>, verbose: u8) -> Result<()> {
    let chosen = args.take_settings()?;
    let config = config::locate(chosen.as_deref().or(config))?;
    if chosen.is_some() {
        event::use_config(&config);
    }
    serve(&args, &config, verbose)
}

fn serve(args: &MountArgs, config: &Path, verbose: u8) -> Result<()> {
    if !args.foreground {
        return mount_in_background(args, config, verbose);
    }
    let mounted = gate::perform(MountFolder { args, config }, Principal::Process, &mut unwatched).and_then(|ready| {
        if args.report
            && let Err(error) = report(&Report::Ready { notes: ready.notes.clone() })
        {
            // The process that asked for the mount has gone, and expects none.
            let _ = ready.own.unmount(Unmount::WhenUnused);
            return Err(error);
        }
        Ok(ready)
    });
    match mounted {
        Ok(Serving { session, _sockets, .. }) => {
            let failed = || Error::new(Kind::Io, "the mount's event loop failed: this is a bug, please report it");
            let served = session.join().unwrap_or_else(|_| Err(failed()));
            mount_ended(&args.folder, &served);
            served
        }
        Err(error) if args.report => {
            report(&Report::Failed { kind: error.kind(), message: error.chain() })?;
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// Mounts and serves.
struct MountFolder<'a> {
    args: &'a MountArgs,
    config: &'a Path,
}

impl Operation for MountFolder<'_> {
    const NAME: EventName = EventName::Mount;
    type Outcome = Serving;

    fn object(&self) -> Object {
        Object::Folder(self.args.folder.clone())
    }

    fn run(self, _: &mut Trail, _: OnProgress<'_>) -> Result<Serving> {
        start(self.args, self.config)
    }
}

/// A mount that is there.
struct Serving {
    session: thread::JoinHandle<Result<()>>,
    /// They are there for as long as the mount.
    _sockets: (SocketPath, Option<SocketPath>),
    own: Own,
    /// What of it is locked, or does not show, a line each.
    notes: Vec<String>,
}

/// Mounts and serves; returns once the mount answers.
fn start(args: &MountArgs, config: &Path) -> Result<Serving> {
    // Before the mount is there, so that no signal in between leaves it.
    let mut signals = signals::catch()?;
    if let Err(error) = process::stay_alive() {
        let what = "the process has no place of its own when memory runs out";
        tracing::debug!("{}", Error::io(what, error).chain());
    }
    let source = std::path::absolute(&args.folder).context(|| format!("resolving {}", args.folder.shown()))?;
    ready::check_source(&source, args.empty)?;
    ready::check_mountpoint(&source, &args.mountpoint)?;
    process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    process::clear_umask();
    memory::keep_little();
    let engine = args.engine.unwrap_or_default();
    engine.self_test()?;
    let mut mount_options = MountOptions::parse(args.options.iter().map(String::as_str))?;
    if ready::is_read_only(&source) {
        mount_options.make_read_only();
    }
    let options =
        Options { read_only: mount_options.is_read_only(), engine, backing_io: args.backing_io, ..Options::default() };
    let (folder, providers) = (args.folder.clone(), Providers::load(config)?);
    let open = move || ServedFolder::open(&folder, providers, options);
    let served = ready::unless_stopped(&mut || signals.stop(), open)?;
    let fs = Arc::new(FileSystem::new(Arc::new(served), mount_options.durability())?);
    memory::return_freed();
    if memory::lock_was_refused() {
        tracing::warn!("the limit on locked memory is too low: keys could be swapped out (ulimit -l)");
    }
    let spec = MountSpec {
        mountpoint: args.mountpoint.clone(),
        source,
        options: mount_options,
        transport: args.transport,
        threads: args.threads.map(usize::from),
    };
    keep_unlocking(&fs)?;
    let waiting = ready::Waiting { period: args.wait, required: args.require_unlocked, stop: &mut || signals.stop() };
    let notes: Vec<String> =
        waiting.unlock(&fs, &args.mountpoint)?.into_iter().chain(ready::without_home(&fs)?).collect();
    notes.iter().for_each(|note| tracing::warn!("{note}"));
    let session = Session::mount(&fs, &spec)?;
    let own = session.own();
    let log = args.log_file.clone().filter(|_| args.report);
    let stops = signals.stops(Reloaded { fs: Arc::clone(&fs), log, mountpoint: args.mountpoint.clone() });
    let serving = thread::Builder::new()
        .name("session".into())
        .spawn(move || session.serve(stops))
        .context(|| "starting the thread that serves the mount".into())?;
    let ready = session::answers(&args.mountpoint)
        .and_then(|()| Ok((control::serve(Arc::clone(&fs), &args.mountpoint, own.device)?, serve_metrics(args, fs)?)));
    match ready {
        Ok(_sockets) => Ok(Serving { session: serving, _sockets, own, notes }),
        Err(error) => {
            // The mount is of no use without its socket, and the process that asked for it gets the reason.
            let _ = own.unmount(Unmount::WhenUnused);
            Err(error)
        }
    }
}

fn serve_metrics(args: &MountArgs, fs: Arc<FileSystem>) -> Result<Option<SocketPath>> {
    let Some(path) = &args.metrics else { return Ok(None) };
    let mountpoint = absolute(&args.mountpoint)?;
    let text = move || metrics::text(vec![(mountpoint.clone(), metrics::of_mount(&fs))]);
    metrics::serve(path, text).map(Some)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).context(|| format!("resolving {}", path.shown()))
}

fn report(report: &Report) -> Result<()> {
    out::json(report)?;
    std::io::stdout().flush().context(|| "reporting to the parent process".into())
}

/// Starts this program again in the foreground of a session of its own, and waits for its report.
fn mount_in_background(args: &MountArgs, config: &Path, verbose: u8) -> Result<()> {
    let (log, log_path) = open_log(args.log_file.as_deref())?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("vmcryptfs"); // what process lists show
    command.arg("--config").arg(absolute(config)?).args(std::iter::repeat_n("-v", usize::from(verbose)));
    command.args(["mount", "--foreground", "--report", "--log-file"]).arg(absolute(&log_path)?);
    if let Some(engine) = args.engine {
        command.args(["--engine", engine.name()]);
    }
    command.args(["--transport", args.transport.name(), "--backing-io", args.backing_io.name()]);
    command.args(args.threads.map(|threads| format!("--threads={threads}")));
    command.args(args.wait.map(|wait| format!("--wait={}ms", wait.as_millis())));
    if let Some(metrics) = &args.metrics {
        let mut socket = OsString::from("--metrics=unix:");
        socket.push(absolute(metrics)?);
        command.arg(socket);
    }
    command.args(args.require_unlocked.then_some("--require-unlocked")).args(args.empty.then_some("--empty"));
    command.args(args.options.iter().flat_map(|option| ["-o", option]));
    command.arg("--").arg(absolute(&args.folder)?).arg(absolute(&args.mountpoint)?);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).current_dir("/");
    let mut child = process::detach(&mut command).spawn().context(|| "starting the mount's process".into())?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout.take(1 << 20)).read_line(&mut line).context(|| "waiting for the mount".into())?;
    }
    match serde_json::from_str(&line) {
        Ok(Report::Ready { notes }) => {
            notes.iter().for_each(|note| eprintln!("vmcryptfs: {note}"));
            Ok(())
        }
        Ok(Report::Failed { kind, message }) => {
            let _ = child.wait();
            Err(Error::new(kind, message))
        }
        Err(_) => {
            let status = child.wait().context(|| "waiting for the mount's process".into())?;
            Err(Error::new(Kind::Io, format!("the mount's process ended ({status}); {} may say why", log_path.shown())))
        }
    }
}

fn open_log(chosen: Option<&Path>) -> Result<(File, PathBuf)> {
    let path = match chosen {
        Some(path) => path.to_path_buf(),
        None if process::effective_uid() == 0 => PathBuf::from("/var/log/vmcryptfs.log"),
        None => {
            let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
            let state =
                std::env::var_os("XDG_STATE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
            let state = state.ok_or_else(|| Error::new(Kind::Invalid, "HOME is not set: use --log-file"))?;
            std::fs::create_dir_all(&state).context(|| format!("creating {}", state.shown()))?;
            state.join("vmcryptfs.log")
        }
    };
    Ok((log::open(&path)?, path))
}
