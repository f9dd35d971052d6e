//! What signals do to the process of a mount: they end it where that is asked for, and nowhere else.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use crate::control::{self, ComponentState, summary};
use crate::error::{Context, Error, Result};
use crate::fs::FileSystem;
use crate::sys::process;
use crate::text::{self, Show};

/// Signals that come from now on, and are waited for.
pub(super) struct Caught {
    signals: Signals,
    /// Those that came before there was a mount that heeds them.
    early: Vec<i32>,
}

/// Lets what is logged from now on go to the log file that has the log's name by now.
pub type ReopenLog = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// What a mount rereads or reports on request.
pub(super) struct Reloaded {
    pub(super) fs: Arc<FileSystem>,
    pub(super) reopen_log: ReopenLog,
    pub(super) mountpoint: PathBuf,
}

/// Catches the signals that mean something to a mount; all others that could end or stop it are ignored.
///
/// # Errors
/// `Io`.
pub(super) fn catch() -> Result<Caught> {
    // A program that was mounted for a guest must not end with a limit on CPU time, an alarm, or a key pressed at its terminal.
    let idle = [
        libc::SIGUSR2,
        libc::SIGALRM,
        libc::SIGVTALRM,
        libc::SIGPROF,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGXCPU,
        libc::SIGIO,
        libc::SIGPWR,
        libc::SIGSTKFLT,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
    ];
    process::ignore_signals(&idle);
    process::ignore_signals(&(libc::SIGRTMIN()..=libc::SIGRTMAX()).collect::<Vec<_>>());
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGUSR1]).context(|| "catching signals".into())?;
    Ok(Caught { signals, early: Vec::new() })
}

impl Caught {
    /// Whether a signal came that takes a mount down, or keeps it from being made. At the others is done what they ask for once it
    /// is there.
    pub(super) fn stop(&mut self) -> bool {
        self.early.extend(self.signals.pending());
        self.early.iter().any(|signal| matches!(*signal, SIGINT | SIGTERM))
    }

    /// The signals that take the mount down, as they come. At the others is done what they ask for.
    pub(super) fn stops(self, reloaded: Reloaded) -> impl Iterator<Item = i32> + Send + 'static {
        let reloaded = Arc::new(reloaded);
        let Self { mut signals, early } = self;
        let mut early = early.into_iter();
        std::iter::from_fn(move || {
            early.by_ref().chain(signals.forever()).find(|signal| match *signal {
                SIGHUP => reloaded.on_own_thread("reload", Reloaded::reload),
                SIGUSR1 => reloaded.on_own_thread("state", Reloaded::tell),
                _ => true,
            })
        })
    }
}

impl Reloaded {
    /// What may take its time, or fail, holds up no signal that comes after it. `false`, as the signal stops nothing.
    fn on_own_thread(self: &Arc<Self>, name: &str, work: fn(&Self)) -> bool {
        let own = Arc::clone(self);
        if let Err(error) = thread::Builder::new().name(name.into()).spawn(move || work(&own)) {
            tracing::error!("{}", Error::io(format!("starting the thread {name}"), error).chain());
        }
        false
    }

    fn reload(&self) {
        if let Err(error) = (self.reopen_log)() {
            tracing::error!("the log file is unchanged: {}", error.chain());
        }
        match self.fs.served().keyring().reload_providers() {
            Ok(()) => {
                tracing::warn!("signal {SIGHUP}: the log is reopened and the configuration of key providers reread")
            }
            Err(error) => tracing::error!("the configuration is unchanged: {}", error.chain()),
        }
    }

    fn tell(&self) {
        let status = match control::status(&self.fs) {
            Ok(status) => status,
            Err(error) => return tracing::error!("the state of the mount is unknown: {}", error.chain()),
        };
        let locked = status.components.iter().filter(|component| component.state() == ComponentState::Locked).count();
        tracing::warn!(
            "state of {}: process {}, {}, {} of them locked",
            self.mountpoint.shown(),
            status.pid,
            text::count(status.components.len(), "component", "components"),
            locked
        );
        for group in summary::groups(&status.components) {
            for component in group.components {
                tracing::warn!("state: {} is {}: {}", component.path.shown(), group.state.word(), group.reason);
            }
        }
        for place in status.unusable {
            tracing::warn!("state: {}: {}", place.path.shown(), place.what);
        }
        for notice in status.notices {
            tracing::warn!("state: {} {}", notice.time, notice.text);
        }
    }
}
