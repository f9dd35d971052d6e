//! A watch of etcd that outlives its members: it resumes at another one, and says when something may have been missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};
use vmcryptfs::cluster::board::{Change, Key, Watch};
use vmcryptfs::error::{Context, Error, Kind, Result};

use super::client::{CALL_TIME, CONNECT_TIME, Client};
use super::connection::{Call, Connection, within};
use super::failure::{Failure, Status};
use super::messages::{self, Watched, path};
use super::prefix::Prefix;

/// When a watch that says nothing is asked whether it is alive: a member that was stopped says nothing for ever.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// How long no member is connected to after a stream that ended early, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A watch.
pub(super) struct EtcdWatch {
    client: Arc<Client>,
    prefix: Prefix,
    /// What of it is watched.
    range: Prefix,
    /// The member that is watched, or is tried next.
    member: usize,
    stream: Option<Stream>,
    /// From which revision on changes were not reported. 0: from the present one.
    next: u64,
    /// Changes may have been missed.
    is_lost: bool,
    /// What went wrong with each member since one was last watched.
    troubles: Vec<String>,
    /// After a stream that ended early: when the next one may begin, and how long that was.
    not_before: Instant,
    pause: Duration,
}

struct Stream {
    call: Call,
    begun: Instant,
    /// When it last said something, and when it was asked to.
    heard: Instant,
    asked: Option<Instant>,
    _connection: Connection,
}

impl Stream {
    fn deadline(&self) -> Instant {
        self.asked.map_or(self.heard + QUIET_TIME, |asked| asked + ANSWER_TIME)
    }
}

/// What comes after a message.
enum Next {
    /// Nothing that concerns the caller.
    Wait,
    Report(BTreeSet<Key>),
    /// The watch has ended: what it would report is gone, or the member cannot tell.
    Restart,
}

impl EtcdWatch {
    pub(super) fn begin(client: Arc<Client>, prefix: Prefix, range: Prefix) -> Result<Self> {
        let troubles = vec![String::new(); client.endpoints().len()];
        let (not_before, pause) = (Instant::now(), Duration::ZERO);
        let mut watch = Self {
            client,
            prefix,
            range,
            member: 0,
            stream: None,
            next: 0,
            is_lost: false,
            troubles,
            not_before,
            pause,
        };
        let client = Arc::clone(&watch.client);
        // Each member once, whatever they answer: the caller pauses.
        for _ in client.endpoints() {
            client.runtime().block_on(watch.connect(Instant::now() + CONNECT_TIME + CALL_TIME))?;
            if watch.stream.is_some() {
                return Ok(watch);
            }
        }
        Err(client.unreachable(&watch.troubles))
    }

    /// Tries to watch at the next member, until `end`, but at least for as long as a member may take to be connected to. When all have failed
    /// in turn, that is an error.
    async fn connect(&mut self, end: Instant) -> Result<()> {
        let member = self.member % self.client.endpoints().len();
        let limit = end.max(Instant::now() + CONNECT_TIME);
        let connected = timeout_at(limit, self.connect_to(member)).await;
        match connected.unwrap_or_else(|_| Err(Failure::Unreachable("beginning to watch: no answer in time".into()))) {
            Ok(()) => {
                self.troubles.iter_mut().for_each(String::clear);
                return Ok(());
            }
            Err(Failure::Unreachable(trouble) | Failure::Untrusted(trouble)) => self.troubles[member] = trouble,
            Err(Failure::Refused(status)) => return Err(status.into_error()),
            Err(Failure::Ours(error)) => {
                let asked = || format!("member {} of the board's etcd", self.client.endpoints()[member]);
                return Err(error).context(asked);
            }
        }
        self.member += 1;
        if self.troubles.iter().any(String::is_empty) {
            return Ok(());
        }
        let error = self.client.unreachable(&self.troubles);
        self.troubles.iter_mut().for_each(String::clear);
        Err(error)
    }

    async fn connect_to(&mut self, member: usize) -> std::result::Result<(), Failure> {
        let connection = self.client.connect(member).await?;
        let request = messages::watch(self.range.start(), self.range.end(), self.next);
        let (call, revision) = within(CALL_TIME, "beginning to watch", async {
            let mut call = connection.begin(path::WATCH, &request, false).await?;
            let created = call.next().await?;
            let created = created.ok_or_else(|| Failure::Unreachable("beginning to watch: it ends at once".into()))?;
            let created = Watched::decode(&created).map_err(Failure::Ours)?;
            match created {
                Watched { canceled: true, reason, .. } => Err(refused(reason)),
                Watched { created: true, revision, .. } => Ok((call, revision)),
                _ => {
                    Err(Failure::Ours(Error::new(Kind::Corrupt, "etcd's answer is not one: it has not begun to watch")))
                }
            }
        })
        .await?;
        if self.next > revision + 1 {
            // The store has gone back, or this member lags: what it will report under the same numbers is not known.
            (self.next, self.is_lost) = (0, true);
            return Err(Failure::Unreachable(format!("its store is at revision {revision}, behind what was seen")));
        }
        if self.next == 0 {
            self.next = revision + 1;
        }
        let begun = Instant::now();
        self.stream = Some(Stream { call, begun, heard: begun, asked: None, _connection: connection });
        Ok(())
    }

    async fn wait_until(&mut self, end: Instant) -> Result<Change> {
        let mut is_first = true;
        loop {
            // Neither a stream that always says something nor one that always ends may keep the caller.
            if !std::mem::take(&mut is_first) && Instant::now() >= end {
                return Ok(Change::Nothing);
            }
            if self.stream.is_none() {
                sleep_until(self.not_before.min(end)).await;
                if self.not_before > end {
                    return Ok(Change::Nothing);
                }
                self.connect(end).await?;
            }
            let Some(stream) = &mut self.stream else { continue };
            if std::mem::take(&mut self.is_lost) {
                return Ok(Change::Unknown);
            }
            let deadline = stream.deadline();
            let Ok(heard) = timeout_at(deadline.min(end), stream.call.next()).await else {
                if deadline > end {
                    return Ok(Change::Nothing);
                }
                self.ask();
                continue;
            };
            match heard {
                Ok(Some(message)) => {
                    (stream.heard, stream.asked) = (Instant::now(), None);
                    match self.heard(&message) {
                        Ok(Next::Wait) => {}
                        Ok(Next::Report(keys)) => return Ok(Change::Records(keys)),
                        Ok(Next::Restart) => self.restart(),
                        Err(error) => {
                            self.restart();
                            return Err(error);
                        }
                    }
                }
                Ok(None) | Err(Failure::Unreachable(_)) => self.leave(),
                Err(failure) => {
                    self.restart();
                    return Err(match failure {
                        Failure::Refused(status) => status.into_error(),
                        Failure::Ours(error) => error,
                        Failure::Unreachable(trouble) | Failure::Untrusted(trouble) => Error::new(Kind::Io, trouble),
                    });
                }
            }
        }
    }

    /// A stream that is quiet is asked; one that was asked is left.
    fn ask(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        if stream.asked.is_some() || stream.call.send(&messages::progress()).is_err() {
            return self.leave();
        }
        stream.asked = Some(Instant::now());
    }

    /// Goes to another member, and on from where it is.
    fn leave(&mut self) {
        self.end_stream();
        self.member += 1;
    }

    /// Begins again with what is there then.
    fn restart(&mut self) {
        self.end_stream();
        (self.next, self.is_lost) = (0, true);
    }

    /// The next stream begins at once if this one was good for a while, else after longer and longer pauses.
    fn end_stream(&mut self) {
        let Some(stream) = self.stream.take() else { return };
        let was_good = stream.begun.elapsed() >= QUIET_TIME;
        self.pause = if was_good { Duration::ZERO } else { (2 * self.pause).clamp(FIRST_PAUSE, MAX_PAUSE) };
        self.not_before = Instant::now() + self.pause;
    }

    fn heard(&mut self, message: &[u8]) -> Result<Next> {
        let watched = Watched::decode(message)?;
        if watched.canceled {
            return match (watched.compacted, refused(watched.reason)) {
                (0, Failure::Refused(status)) => Err(status.into_error()),
                _ => Ok(Next::Restart),
            };
        }
        // Revisions of events only: that of an answer without events may be ahead of events that are still to come.
        let last = watched.changed.iter().map(|event| event.revision).max();
        if let Some(last) = last.filter(|_| !watched.is_part) {
            self.next = self.next.max(last + 1);
        }
        let keys: BTreeSet<Key> = watched.changed.iter().filter_map(|event| self.prefix.key(event.key)).collect();
        Ok(if keys.is_empty() { Next::Wait } else { Next::Report(keys) })
    }
}

fn refused(reason: &str) -> Failure {
    const PERMISSION_DENIED: u32 = 7;
    const UNAVAILABLE: u32 = 14;
    let code = if reason.contains("permission denied") { PERMISSION_DENIED } else { UNAVAILABLE };
    Status { code, reason: format!("it does not watch: {reason}") }.failure()
}

impl Watch for EtcdWatch {
    fn wait(&mut self, time: Duration) -> Result<Change> {
        let client = Arc::clone(&self.client);
        client.runtime().block_on(self.wait_until(Instant::now() + time))
    }
}
