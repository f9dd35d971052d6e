//! A watch of etcd that outlives its members: it resumes at another one, and says when something may have been missed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use vmcryptfs::cluster::board::{Change, Key, Watch};
use vmcryptfs::error::{Context, Error, Kind, Result};

use super::client::{CALL_TIME, Client};
use super::connection::{Call, Connection, within};
use super::failure::{Failure, Status};
use super::messages::{self, Watched, path};
use super::prefix::Prefix;

/// When a watch that says nothing is asked whether it is alive: a member that was stopped says nothing for ever.
const QUIET_TIME: Duration = Duration::from_secs(1);
/// How long it may take to answer that.
const ANSWER_TIME: Duration = Duration::from_secs(2);

/// A watch.
pub(super) struct EtcdWatch {
    client: Arc<Client>,
    prefix: Prefix,
    /// The member that is watched, or is tried next.
    member: usize,
    stream: Option<Stream>,
    /// From which revision on changes were not reported. 0: from the present one.
    next: u64,
    /// Changes may have been missed.
    is_lost: bool,
}

struct Stream {
    call: Call,
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
    pub(super) fn begin(client: Arc<Client>, prefix: Prefix) -> Result<Self> {
        let mut watch = Self { client, prefix, member: 0, stream: None, next: 0, is_lost: false };
        Arc::clone(&watch.client).runtime().block_on(watch.connect())?;
        Ok(watch)
    }

    /// Begins to watch at the first member that can be.
    async fn connect(&mut self) -> Result<()> {
        let members = self.client.endpoints().len();
        let mut troubles = vec![String::new(); members];
        for _ in 0..members {
            let member = self.member % members;
            match self.connect_to(member).await {
                Ok(()) => return Ok(()),
                Err(Failure::Unreachable(trouble) | Failure::Untrusted(trouble)) => troubles[member] = trouble,
                Err(Failure::Refused(status)) => return Err(status.into_error()),
                Err(Failure::Ours(error)) => {
                    let asked = || format!("member {} of the board's etcd", self.client.endpoints()[member]);
                    return Err(error).context(asked);
                }
            }
            self.member += 1;
        }
        Err(self.client.unreachable(&troubles))
    }

    async fn connect_to(&mut self, member: usize) -> std::result::Result<(), Failure> {
        let connection = self.client.connect(member).await?;
        let request = messages::watch(self.prefix.start(), self.prefix.end(), self.next);
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
        self.stream = Some(Stream { call, heard: Instant::now(), asked: None, _connection: connection });
        Ok(())
    }

    async fn wait_until(&mut self, end: Instant) -> Result<Change> {
        loop {
            if self.stream.is_none() {
                self.connect().await?;
            }
            if std::mem::take(&mut self.is_lost) {
                return Ok(Change::Unknown);
            }
            let Some(stream) = &mut self.stream else { continue };
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
        self.stream = None;
        self.member += 1;
    }

    /// Begins again with what is there then.
    fn restart(&mut self) {
        self.stream = None;
        (self.next, self.is_lost) = (0, true);
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
