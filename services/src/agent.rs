//! The agent: one process a host, which programs of this host ask over a socket.

mod boards;
mod clients;
mod notify;
pub mod options;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::error::{Context, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::provider::agent::{Answer, Hello, Request};
use vmcryptfs::sys::socket::SocketPath;
use vmcryptfs::sys::{memory, process};
use vmcryptfs::text::Show;

use boards::Boards;

/// The agent of this host.
pub(crate) struct Agent {
    /// Held for as long as it lives: a host has one agent.
    _lock: File,
    boards: Boards,
}

impl Agent {
    /// What is answered to a request.
    fn answer(&self, request: Request) -> Result<Answer> {
        match request {
            Request::Hello(_) => Ok(Answer::Hello(Hello::own())),
            Request::Board(call) => self.boards.answer(*call).map(Answer::Board),
        }
    }
}

/// Is the agent of the host with this configuration until a signal ends it.
///
/// # Errors
/// `Busy` when the host has an agent already, `Exists` when something that is not a socket is in its place, `Io`.
pub fn run(config: &Path, socket: &Path) -> Result<()> {
    memory::keep_little();
    process::ignore_signals(&[signal_hook::consts::SIGHUP, signal_hook::consts::SIGPIPE]);
    let mut signals = Signals::new([SIGINT, SIGTERM]).context(|| "catching signals".into())?;
    let agent = Arc::new(Agent { _lock: HostFiles::of(config).lock_agent()?, boards: Boards::default() });
    let (listener, path) =
        SocketPath::listen(socket).context(|| format!("making the socket of the agent {}", socket.shown()))?;
    clients::take(listener, Arc::clone(&agent))?;
    tracing::info!("listening on {}", socket.shown());
    Event::of(EventName::Agent).reason(format!("version {} began", env!("CARGO_PKG_VERSION"))).done();
    notify::ready();
    let signal = signals.forever().next();
    notify::stopping();
    drop(path); // a program that asks now finds no agent, rather than one that ends
    Event::of(EventName::Agent).reason(format!("ended by signal {}", signal.unwrap_or_default())).done();
    Ok(())
}
