//! `mount`: a VM folder or a datastore, shown decrypted.

pub(super) mod helper;
mod words;

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::progress::perform;
use crate::cli::{log, out};
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::event;
use crate::fuse::mount::{MountSpec, Unmount};
use crate::fuse::options::MountOptions;
use crate::fuse::transport::Transport;
use crate::operations::mount::MountFolder;
use crate::provider::config;
use crate::serve::Options;
use crate::storage::BackingIo;
use crate::sys::process;
use crate::text::Show;

/// How often a manifest is renewed where that is not said.
const DEFAULT_MINUTES: &str = "10";

/// What to mount, where.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs mount web01 /mnt\n  vmcryptfs mount /vms /run/vms -o allow_other\n\n\
    Returns once the mount answers, even if a key provider does not: keys are waited for three seconds at most, or --wait. \
    Components whose key is unavailable are listed, but locked, and unlock by themselves when it comes: `vmcryptfs status`. \
    In /etc/fstab:\n  /vms /run/vms fuse.vmcryptfs allow_other,wait=60s,nofail,_netdev 0 0")]
pub(super) struct MountArgs {
    /// A VM folder, or a datastore that holds VM folders
    #[arg(value_name = "FOLDER")]
    pub(super) folder: PathBuf,
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
    #[arg(long, value_name = "ENGINE", value_parser = Engine::from_str)]
    engine: Option<Engine>,
    /// How requests come from the kernel: auto, dev-fuse or io-uring. io-uring is faster; it needs Linux 6.14 and the
    /// parameter enable_uring of the module fuse set to Y
    #[arg(long, default_value = "auto", value_name = "TRANSPORT", value_parser = Transport::from_str)]
    transport: Transport,
    /// I/O to the backing files of disks: buffered (page cache) or direct (O_DIRECT). Direct suits guests with a cache of their
    /// own and a fast medium
    #[arg(long, default_value = "buffered", value_name = "WAY", value_parser = BackingIo::from_str)]
    backing_io: BackingIo,
    /// Threads that serve reads and writes [default: two a CPU, 32 with direct backing I/O; with io-uring one a CPU]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<u16>,
    /// Wait until everything is unlocked, but not longer than this: 60s, 2m. Afterwards it mounts even if keys are missing
    #[arg(long, value_name = "DURATION", value_parser = parse_wait)]
    wait: Option<Duration>,
    /// How long opening a file waits for another mount or host that has it open for writing, as a guest that migrates has for
    /// a moment
    #[arg(long, default_value = "10s", value_name = "DURATION", value_parser = parse_wait)]
    hand_over: Duration,
    /// Other hosts may use the folder at the same time: nothing of it is cached that they could change. Goes without saying on NFS,
    /// CephFS, GlusterFS, GFS2, OCFS2 and BeeGFS
    #[arg(long)]
    shared: bool,
    /// Mount a folder on a file system whose locks do not hold between hosts. That no other host uses it is then up to you
    #[arg(long)]
    force_locks: bool,
    /// Seal in each home that is used what its tree holds, when it is unmounted and every MINUTES while it changes. By that is
    /// noticed what others change. A home that has a manifest keeps it in mounts without this, too
    #[arg(long, value_name = "MINUTES", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_MINUTES,
          value_parser = parse_minutes)]
    manifest: Option<Duration>,
    /// Do not mount (exit code 4) if something cannot be used: it remains locked, is damaged, erased or missing, does not lie where
    /// its VM's list of disks has it, has lost its header, or is older than what this host has seen
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
    /// Whether another process has started this one, and waits for what becomes of the mount.
    pub(super) fn reports(&self) -> bool {
        self.report
    }

    /// Whether this process is the one that serves the mount.
    pub(super) fn serves(&self) -> bool {
        self.foreground
    }

    fn operation<'a>(&'a self, config: &'a Path) -> Result<MountFolder<'a>> {
        let log = self.log_file.clone().filter(|log| self.report && !log.starts_with(&self.mountpoint));
        Ok(MountFolder {
            spec: MountSpec {
                mountpoint: self.mountpoint.clone(),
                source: absolute(&self.folder)?,
                options: MountOptions::parse(self.options.iter().map(String::as_str))?,
                transport: self.transport,
                threads: self.threads.map(usize::from),
            },
            served: Options {
                engine: self.engine.unwrap_or_default(),
                backing_io: self.backing_io,
                hand_over: self.hand_over,
                shared: self.shared,
                manifest: self.manifest,
                ..Options::default()
            },
            wait: self.wait,
            require_unlocked: self.require_unlocked,
            empty: self.empty,
            force_locks: self.force_locks,
            metrics: self.metrics.as_deref(),
            config,
            // Through the mount, lines about a request would be requests.
            reopen_log: Box::new(move || log.iter().try_for_each(|log| log::reopen(log))),
        })
    }
}

fn parse_threads(text: &str) -> std::result::Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| format!("{text:?}, expected a number from 1 to 256"))
}

fn parse_minutes(text: &str) -> std::result::Result<Duration, String> {
    let minutes = text.parse().ok().filter(|minutes| (1..=10_080).contains(minutes));
    let minutes: u64 = minutes.ok_or_else(|| format!("{text:?}, expected minutes, from 1 to 10080"))?;
    Ok(Duration::from_secs(minutes * 60))
}

/// Seconds, unless it says something else.
fn parse_wait(text: &str) -> std::result::Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or_else(|| format!("{text:?}, expected a duration such as 60s or 2m"))
}

fn parse_metrics(text: &str) -> std::result::Result<PathBuf, String> {
    let path = text.strip_prefix("unix:").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| format!("{text:?}, expected unix:PATH"))
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
    if let Some(named) = &chosen {
        config::refuse_missing(named)?;
    }
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
    let mounted = args.operation(config).and_then(perform).and_then(|serving| {
        let told = if args.report { report(&Report::Ready { notes: serving.notes.clone() }) } else { Ok(()) };
        // Where that fails, the process that asked for the mount has gone, and expects none.
        told.inspect_err(|_| _ = serving.own.unmount(Unmount::WhenUnused)).map(|()| serving)
    });
    match mounted {
        Ok(serving) => serving.wait(),
        Err(error) if args.report => {
            report(&Report::Failed { kind: error.kind(), message: error.chain() })?;
            Err(error)
        }
        Err(error) => Err(error),
    }
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
    let periods = [("wait", args.wait), ("hand-over", Some(args.hand_over))];
    let given = periods.into_iter().filter_map(|(name, period)| Some(format!("--{name}={}ms", period?.as_millis())));
    command.args(given);
    command.args(args.manifest.map(|period| format!("--manifest={}", period.as_secs() / 60)));
    if let Some(metrics) = &args.metrics {
        let mut socket = OsString::from("--metrics=unix:");
        socket.push(absolute(metrics)?);
        command.arg(socket);
    }
    command.args(args.shared.then_some("--shared")).args(args.force_locks.then_some("--force-locks"));
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
