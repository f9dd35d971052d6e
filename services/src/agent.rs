//! The agent: one process a host, which programs of this host ask over a socket.

mod alive;
mod boards;
mod clients;
mod endless;
mod keeper;
mod keys;
mod moment;
mod mounts;
mod offline;
pub mod options;
mod pushed;
mod trust;
mod wake;
mod watch;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Context, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::gate::Principal;
use vmcryptfs::key::{KeyId, KeyName, ProviderName};
use vmcryptfs::provider::agent::{Answer, Hello, Request};
use vmcryptfs::provider::kinds::trusted::Settings;
use vmcryptfs::sys::socket::SocketPath;
use vmcryptfs::sys::{memory, process};
use vmcryptfs::text::Show;

use crate::notify;
use alive::Alive;
use boards::Boards;
use keys::Keys;
use pushed::{Found, Pushed};
use trust::Trust;
use watch::Watch;

/// How long an agent that ends waits for its record on the board to end.
const END_TIME: Duration = Duration::from_secs(2);

/// The agent of this host.
pub(crate) struct Agent {
    /// Held for as long as it lives: a host has one agent.
    _lock: File,
    boards: Arc<Boards>,
    keys: Arc<Keys>,
    pushed: Arc<Pushed>,
    trust: Trust,
    watch: Arc<Watch>,
}

/// What is answered to a request, and the KEK that follows it.
pub(crate) type Answered = (Answer, Option<LocalKek>);

impl Agent {
    fn new(config: &Path) -> Result<Self> {
        let lock = HostFiles::of(config).lock_agent()?;
        let boards = Arc::<Boards>::default();
        let pushed = Arc::new(Pushed::load(config)?);
        let keys = Arc::new(Keys::load(config, Arc::clone(&pushed))?);
        let watch = Arc::new(Watch::new(config.to_path_buf(), Arc::clone(&keys), Arc::clone(&boards))?);
        let trust = Trust::of(config);
        Ok(Self { _lock: lock, boards, keys, pushed, trust, watch })
    }

    /// The authority that gives the keys of a provider. What the agent has in memory depends on no file.
    fn authority_of(&self, provider: &ProviderName) -> Result<Option<Settings>> {
        if self.keys.has(provider) { Ok(None) } else { self.trust.settings(provider) }
    }

    /// What is answered to a request. Only an exchange with the board may take long.
    fn answer(&self, request: Request, principal: Principal) -> Result<Answered> {
        if matches!(request, Request::CreateKey { .. } | Request::FetchKey { .. } | Request::Prepare { .. }) {
            self.keys.notice_owner();
        }
        match request {
            Request::Board(call) => Ok((Answer::Board(self.boards.answer(*call)?), None)),
            Request::Hello(_) => Ok((Answer::Hello(Hello::own()), None)),
            Request::CreateKey { provider, purpose } => {
                let provider = ProviderName::new(provider)?;
                if self.pushed.has(&provider) {
                    self.pushed.make(&provider, purpose).map(found)
                } else if let Some(settings) = self.authority_of(&provider)? {
                    self.trust.make(&provider, &settings, purpose).map(kek)
                } else {
                    self.keys.make_kek(&provider).map(kek)
                }
            }
            Request::FetchKey { key } => {
                let key_id = key.to_key_id()?;
                if self.pushed.has(key_id.provider()) {
                    self.pushed.find(&key_id).map(found)
                } else if let Some(settings) = self.authority_of(key_id.provider())? {
                    self.trust.find(&settings, &key_id).map(|found| kek((key_id, found)))
                } else {
                    self.keys.find_kek(&key_id).map(|found| kek((key_id, found)))
                }
            }
            Request::Prepare { keys } => {
                let ids: Vec<KeyId> = keys.iter().map(KeyName::to_key_id).collect::<Result<_>>()?;
                self.pushed.prepare(&ids);
                self.trust.prepare(&ids)?;
                Ok((Answer::Prepared, None))
            }
            Request::Trust(call) => Ok((Answer::Trust(Box::new(self.trust.answer(*call)?)), None)),
            Request::Status => Ok((Answer::Status(self.watch.status()), None)),
            Request::Sync => Ok((Answer::Done { outcome: self.watch.sync(principal)?.to_json()? }, None)),
        }
    }
}

fn kek((key_id, kek): (KeyId, LocalKek)) -> Answered {
    (Answer::Kek { key: KeyName::of(&key_id), wraps: true }, Some(kek))
}

fn found(found: Found) -> Answered {
    match found {
        Found::Kek { id, kek, wraps } => (Answer::Kek { key: KeyName::of(&id), wraps }, Some(kek)),
        Found::Awaited(message) => (Answer::Awaited { message }, None),
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
    let agent = Arc::new(Agent::new(config)?);
    let (listener, path) =
        SocketPath::listen(socket).context(|| format!("making the socket of the agent {}", socket.shown()))?;
    clients::take(listener, Arc::clone(&agent))?;
    agent.watch.begin()?;
    agent.pushed.begin(Arc::clone(&agent.boards))?;
    keeper::begin(config, Arc::clone(&agent.boards))?;
    let (over, is_over) = mpsc::channel();
    let alive = Alive::new(config.to_path_buf()).begin(is_over)?;
    if memory::lock_was_refused() {
        tracing::warn!("memory for keys cannot be locked, so keys may reach swap: raise the limit on locked memory");
    }
    tracing::info!("listening on {}", socket.shown());
    Event::of(EventName::Agent).reason(format!("version {} began", env!("CARGO_PKG_VERSION"))).done();
    notify::ready();
    let signal = signals.forever().next();
    notify::stopping();
    drop(path); // a program that asks now finds no agent, rather than one that ends
    drop(over);
    alive.recv_timeout(END_TIME).ok(); // a board that hangs is not waited for: the record ends by itself
    Event::of(EventName::Agent).reason(format!("ended by signal {}", signal.unwrap_or_default())).done();
    Ok(())
}
