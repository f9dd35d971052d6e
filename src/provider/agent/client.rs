//! Programs of this host that ask its agent. One that is absent, hangs, is of another version or answers nonsense is reported in
//! seconds, and asked again later: a mount continues in the meantime.

use std::error::Error as _;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{Answer, Hello, MAX_ANSWER, MAX_REQUEST, PROTOCOL, Request, receive, send, socket_of};
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind, Result};
use crate::key::{KEK_LEN, KeyId};
use crate::provider::timed::{Deadline, TimedStream};
use crate::provider::{Failure, Trouble, reword};
use crate::sys::SecretBytes;
use crate::sys::socket::connect_at_once;
use crate::text::Show;

/// How long the agent may take for what it has in memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long keepers are waited for: for a look at a folder, and a key server that is slow.
const KEEPER_PATIENCE: Duration = Duration::from_secs(12);
/// How long it may take for KEKs of a trust authority: its members are asked for ten seconds.
const AUTHORITY_PATIENCE: Duration = Duration::from_secs(12);
/// How long it may take to enrol: a TPM may need a minute and a half for its key, and the authority half a minute a call.
const TRUST_PATIENCE: Duration = Duration::from_secs(180);
/// How long it may take for an exchange with its board.
const SYNC_PATIENCE: Duration = Duration::from_secs(120);
/// How long it may take for one call of a board: it waits for its members, for up to seven seconds a step.
const BOARD_PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may rest before it is used again. The agent closes its side later.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// For this long after a failure the agent is not asked again: of many keys that are fetched together, one waits for it.
const PAUSE: Duration = Duration::from_secs(1);

type Attempted<T> = std::result::Result<T, Failure>;

/// The agent of this host, as one that may be asked. A connection is kept for a while.
pub struct AgentClient {
    socket: PathBuf,
    /// How long it may take for what it has in memory.
    patience: Duration,
    state: Mutex<State>,
}

/// A KEK of the agent.
#[derive(Debug)]
pub struct AgentKek {
    /// Its key id.
    pub id: KeyId,
    /// The KEK.
    pub kek: LocalKek,
    /// Whether it may wrap.
    pub wraps: bool,
}

#[derive(Default)]
struct State {
    resting: Option<Connection>,
    /// When it last failed, and how.
    failed: Option<(Instant, Failure)>,
}

struct Connection {
    stream: TimedStream<UnixStream>,
    hello: Hello,
    used: Instant,
}

impl AgentClient {
    /// The agent of a host with this configuration. It is not asked yet.
    ///
    /// # Errors
    /// Those of [`socket_of`].
    pub fn of(config: &Path) -> Result<Self> {
        socket_of(config).map(Self::at)
    }

    /// As [`of`](Self::of), for KEKs that it asks an authority for.
    ///
    /// # Errors
    /// Those of [`socket_of`].
    pub fn of_authority(config: &Path) -> Result<Self> {
        socket_of(config).map(|socket| Self::patient(socket, AUTHORITY_PATIENCE))
    }

    /// The agent that listens at this socket.
    pub(crate) fn at(socket: PathBuf) -> Self {
        Self::patient(socket, PATIENCE)
    }

    fn patient(socket: PathBuf, patience: Duration) -> Self {
        Self { socket, patience, state: Mutex::default() }
    }

    /// Whether there is an agent, be it one that does not answer.
    pub fn is_there(&self) -> bool {
        let no_agent = |error: &io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused);
        !connect_at_once(&self.socket).as_ref().is_err_and(no_agent)
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// `KeyUnavailable` when it does not answer, or not in terms of this version.
    pub fn hello(&self) -> Result<Hello> {
        self.exchange(|connection| Ok(connection.hello.clone()))
    }

    /// What it answers to a request that no KEK is answered to.
    ///
    /// # Errors
    /// `KeyUnavailable` when it does not answer, or not in terms of this version; and what it answers.
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        let patience = match request {
            Request::Sync => SYNC_PATIENCE,
            Request::Board(_) => BOARD_PATIENCE,
            Request::Trust(_) => TRUST_PATIENCE,
            Request::Hello(_)
            | Request::CreateKey { .. }
            | Request::FetchKey { .. }
            | Request::Prepare { .. }
            | Request::Status => self.patience,
        };
        refused(self.exchange(|connection| connection.ask(request, patience))?)
    }

    /// The KEK that it answers. Where it asks other hosts for it, it is asked again until it has come, but not for ever.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn kek(&self, request: &Request) -> Result<AgentKek> {
        let begun = Instant::now();
        loop {
            match self.kek_now(request)? {
                Ok(kek) => return Ok(kek),
                Err(_) if begun.elapsed() < KEEPER_PATIENCE => {}
                Err(message) => {
                    let failure = Failure::new(Trouble::Silent, message);
                    return Err(failure.into_error("the agent of this host waits for a keeper"));
                }
            }
        }
    }

    /// The KEK, or what is known of the one that it waits for.
    fn kek_now(&self, request: &Request) -> Result<std::result::Result<AgentKek, String>> {
        let (answer, kek) = self.exchange(|connection| {
            let answer = connection.ask(request, self.patience)?;
            let mut kek = SecretBytes::zeroed(KEK_LEN);
            if matches!(answer, Answer::Kek { .. }) {
                connection.stream.read_exact(&mut kek).map_err(|error| failure(&error))?;
            }
            Ok((answer, kek))
        })?;
        match refused(answer)? {
            Answer::Kek { key, wraps } => Ok(Ok(AgentKek { id: key.to_key_id()?, kek: LocalKek::new(kek)?, wraps })),
            Answer::Awaited { message } => Ok(Err(message)),
            Answer::Hello(_)
            | Answer::Board(_)
            | Answer::Prepared
            | Answer::Status(_)
            | Answer::Done { .. }
            | Answer::Trust(_)
            | Answer::Error { .. } => Err(self.unavailable(not_understood())),
        }
    }

    /// Does something over the connection that rests, or a new one. Callers wait for each other, and share a failure.
    fn exchange<T>(&self, talk: impl Fn(&mut Connection) -> Attempted<T>) -> Result<T> {
        let begun = Instant::now();
        let mut state = self.state.lock();
        if let Some((when, failure)) = &state.failed
            && (*when >= begun || when.elapsed() < PAUSE)
        {
            return Err(self.unavailable(failure.clone()));
        }
        let resting = state.resting.take().filter(|connection| connection.used.elapsed() < MAX_IDLE);
        match self.talk_over(resting, talk) {
            Ok((result, connection)) => {
                *state = State { resting: Some(connection), failed: None };
                Ok(result)
            }
            Err(failure) => {
                state.failed = Some((Instant::now(), failure.clone()));
                Err(self.unavailable(failure))
            }
        }
    }

    fn talk_over<T>(
        &self,
        resting: Option<Connection>,
        talk: impl Fn(&mut Connection) -> Attempted<T>,
    ) -> Attempted<(T, Connection)> {
        if let Some(mut connection) = resting {
            match talk(&mut connection) {
                // Another agent has taken the place of the one that it was with.
                Err(failure) if failure.trouble() == Trouble::Unreachable => {}
                talked => return talked.map(|result| (result, connection.used_now())),
            }
        }
        let mut connection = Connection::open(&self.socket, self.patience)?;
        talk(&mut connection).map(|result| (result, connection.used_now()))
    }

    fn unavailable(&self, failure: Failure) -> Error {
        failure.into_error(format!("asking the agent of this host through {}", self.socket.shown()))
    }
}

impl Connection {
    fn open(socket: &Path, patience: Duration) -> Attempted<Self> {
        let stream = connect_at_once(socket).map_err(|error| failure(&error))?;
        let stream = TimedStream::new(stream, Deadline::after(patience));
        let mut connection = Self { stream, hello: Hello::own(), used: Instant::now() };
        match connection.ask(&Request::Hello(Hello::own()), patience)? {
            Answer::Hello(hello) if hello.protocol == PROTOCOL => Ok(Self { hello, ..connection }),
            Answer::Hello(Hello { protocol, version, .. }) => Err(Failure::new(
                Trouble::Faulty,
                format!(
                    "it has version {version} and speaks version {protocol} of the protocol, expected {PROTOCOL}: install agent \
                     and programs of one version, then restart the agent"
                ),
            )),
            Answer::Error { message, .. } => Err(Failure::new(Trouble::Faulty, message)),
            Answer::Board(_)
            | Answer::Kek { .. }
            | Answer::Awaited { .. }
            | Answer::Prepared
            | Answer::Status(_)
            | Answer::Done { .. }
            | Answer::Trust(_) => Err(not_understood()),
        }
    }

    fn used_now(self) -> Self {
        Self { used: Instant::now(), ..self }
    }

    fn ask(&mut self, request: &Request, patience: Duration) -> Attempted<Answer> {
        let deadline = Deadline::after(patience);
        self.stream.set_deadline(deadline);
        match send(&mut self.stream, request, MAX_REQUEST).map_err(|error| failure_of(&error)) {
            // An agent that refuses before it reads has said why.
            Err(failure) if failure.trouble() == Trouble::Unreachable => {}
            sent => sent?,
        }
        let answer = receive(&mut self.stream, (deadline, patience), MAX_ANSWER);
        answer.map_err(|error| failure_of(&error))?.ok_or_else(closed)
    }
}

fn refused(answer: Answer) -> Result<Answer> {
    let Answer::Error { kind, message, fault } = answer else { return Ok(answer) };
    Err(match fault {
        None => Error::new(kind, message),
        Some(fault) => reword(&Error::with_source(kind, "", Failure::new(fault.trouble(), "")), message),
    })
}

fn not_understood() -> Failure {
    Failure::new(Trouble::Garbled, "an answer that does not fit the request: is it the agent that listens there?")
}

fn closed() -> Failure {
    Failure::new(Trouble::Unreachable, "it has closed the connection: has it ended?")
}

fn failure_of(error: &Error) -> Failure {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    let garbled = || Failure::new(Trouble::Garbled, error.chain());
    cause.filter(|_| error.kind() == Kind::Io).map_or_else(garbled, failure)
}

fn failure(error: &io::Error) -> Failure {
    let is_one_of = |kinds: &[ErrorKind]| kinds.contains(&error.kind());
    if is_one_of(&[ErrorKind::NotFound, ErrorKind::ConnectionRefused]) {
        Failure::new(Trouble::Unreachable, "it does not run: start vmcryptfs-agent")
    } else if is_one_of(&[ErrorKind::PermissionDenied]) {
        Failure::new(Trouble::Denied, "only root may ask it")
    } else if is_one_of(&[ErrorKind::TimedOut, ErrorKind::WouldBlock]) {
        Failure::new(Trouble::Silent, "it does not answer: is it stopped?")
    } else if is_one_of(&[ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe, ErrorKind::ConnectionReset]) {
        closed()
    } else {
        Failure::new(Trouble::Unreachable, error.to_string())
    }
}

#[cfg(test)]
mod tests;
