//! The board, as the agent watches it: what the newest document asks of this host is done as soon as it is there.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::cluster::{Exchanged, Session, Standing};
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::event::{Event, EventName, limit};
use vmcryptfs::gate::{self, Principal, unwatched};
use vmcryptfs::key::ProviderName;
use vmcryptfs::operations::cluster::SyncCluster;
use vmcryptfs::provider::agent::AgentStatus;
use vmcryptfs::sys::thread::{caught, may_fail};
use vmcryptfs::timestamp::Timestamp;

use super::keys::Keys;
use super::mounts::Mounts;
use super::wake::Wake;

/// How often the board is looked at; one that tells of changes, at each as well.
const PERIOD: Duration = Duration::from_secs(2);
/// How often all is compared although there is no newer document: what the board has lost is put there again.
const WHOLE: Duration = Duration::from_secs(60);

/// What is known of the board.
pub(super) struct Watch {
    config: PathBuf,
    keys: Arc<Keys>,
    mounts: Mounts,
    /// Held while the board is looked at, so that it is by one thread at a time.
    looking: Mutex<Seen>,
    status: Mutex<AgentStatus>,
}

/// What was last seen and done.
#[derive(Default)]
struct Seen {
    epoch: Option<u64>,
    /// When that was new.
    changed: Option<Instant>,
    /// When all was compared.
    compared: Option<Instant>,
    /// How long to wait before it is tried again, where something was left to do.
    retry: Option<Duration>,
    /// Providers whose keys were wiped from files, as this host was removed.
    wiped: Vec<ProviderName>,
    trouble: Option<String>,
}

/// What the newest document says.
struct Newest {
    epoch: u64,
    /// That this host was removed.
    is_removed: bool,
    /// What the cluster shares.
    providers: Vec<ProviderName>,
}

impl Seen {
    fn is_due(&self, epoch: u64) -> bool {
        let age = self.compared.map(|compared| compared.elapsed());
        self.epoch != Some(epoch) || age.is_none_or(|age| age >= self.retry.unwrap_or(WHOLE))
    }

    /// Decides when all is compared again: soon where keys are awaited, later and later where something keeps failing.
    fn learn(&mut self, done: &Exchanged) {
        let is_new = self.epoch != Some(done.epoch);
        if is_new {
            self.changed = Some(Instant::now());
        }
        self.epoch = Some(done.epoch);
        self.compared = Some(Instant::now());
        // Soon after a change others say what they have, by which this host may make new keys by a new primary key.
        let is_settled = self.changed.is_some_and(|changed| changed.elapsed() >= WHOLE);
        self.retry = match (done.failed.is_empty(), done.awaited.is_empty() && is_settled) {
            (true, true) => None,
            (true, false) => Some(PERIOD),
            (false, _) => Some(self.retry.filter(|_| !is_new).map_or(PERIOD, |former| (2 * former).min(WHOLE))),
        };
    }
}

impl Watch {
    pub(super) fn new(config: PathBuf, keys: Arc<Keys>) -> Self {
        let (looking, status) = (Mutex::default(), Mutex::default());
        Self { config, keys, mounts: Mounts::default(), looking, status }
    }

    /// Looks at the board for as long as the process lives, on a thread of its own.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn begin(self: &Arc<Self>) -> Result<()> {
        let watch = Arc::clone(self);
        let work = move || {
            let mut wake = Wake::default();
            loop {
                let looked = caught(|| {
                    may_fail("watch");
                    watch.look();
                });
                if looked.is_none() {
                    tracing::error!("looking at the board failed within the agent: this is a bug, please report it");
                }
                limit::report(limit::PERIOD);
                wake.wait(&watch.config, PERIOD);
            }
        };
        thread::Builder::new()
            .name("watch".into())
            .spawn(work)
            .map(drop)
            .context(|| "starting the thread of the board".into())
    }

    /// What the agent says of itself.
    pub(super) fn status(&self) -> AgentStatus {
        AgentStatus { holds: self.keys.current_of_all(), ..self.status.lock().clone() }
    }

    /// Does what the newest document asks, in any case.
    ///
    /// # Errors
    /// Those of the board and of this host's files.
    pub(super) fn sync(&self, principal: Principal) -> Result<Exchanged> {
        self.exchange(&mut self.looking.lock(), principal)
    }

    /// Does what the newest document asks, if there is something to do.
    fn look(&self) {
        let mut seen = self.looking.lock();
        let looked = self.newest().and_then(|newest| {
            let Some(newest) = newest else { return Ok(()) };
            if seen.is_due(newest.epoch) {
                self.exchange(&mut seen, Principal::Process)?;
            }
            let gone =
                |name: &ProviderName| seen.wiped.contains(name) || self.keys.is_in_file(name).is_ok_and(|is| !is);
            let gone: Vec<ProviderName> = newest.providers.into_iter().filter(gone).collect();
            if newest.is_removed && !gone.is_empty() {
                // Again and again: what a guest has open now is locked once it is closed.
                self.mounts.lock(&gone);
            }
            Ok(())
        });
        self.tell(&mut seen, looked.err());
    }

    /// The newest document; `None` for a host in no cluster.
    fn newest(&self) -> Result<Option<Newest>> {
        let session = match Session::open(&self.config) {
            Err(error) if error.kind() == Kind::NotFound && HostFiles::of(&self.config).membership()?.is_none() => {
                return Ok(None);
            }
            session => session?,
        };
        let document = session.document();
        let mut status = self.status.lock();
        status.cluster = Some(document.name.to_string());
        status.board = Some(session.board_place().to_owned());
        status.seen = Some(Timestamp::now().to_millis());
        Ok(Some(Newest {
            epoch: document.epoch,
            is_removed: session.standing() == Standing::Removed,
            providers: document.providers.iter().map(|shared| shared.name.clone()).collect(),
        }))
    }

    fn exchange(&self, seen: &mut Seen, principal: Principal) -> Result<Exchanged> {
        let sync = SyncCluster { config: &self.config, keys: Some(&*self.keys), renew: WHOLE };
        let done = gate::perform(sync, principal, &mut unwatched)?;
        seen.learn(&done);
        let is_removed = done.standing == Standing::Removed;
        match is_removed {
            true => seen.wiped.extend(done.wiped.iter().map(|(name, _)| name.clone())),
            false => seen.wiped.clear(),
        }
        let mut status = self.status.lock();
        status.epoch = Some(done.epoch);
        status.removed = is_removed;
        status.trouble =
            done.failed.iter().map(|(name, error)| format!("provider {name}: {}", error.chain())).collect();
        for (name, uuid) in &done.received {
            tracing::info!("received primary key {uuid} of provider {name}");
        }
        for (name, uuid) in &done.wiped {
            tracing::warn!("wiped primary key {uuid} of provider {name}: this host was removed from the cluster");
        }
        Ok(done)
    }

    /// Reports trouble with the board once, until it is another or over.
    fn tell(&self, seen: &mut Seen, error: Option<Error>) {
        let text = error.as_ref().map(Error::chain);
        if seen.trouble == text {
            return;
        }
        match &error {
            Some(error) => {
                tracing::warn!("the board: {}", error.chain());
                self.status.lock().trouble = vec![error.chain()];
                Event::of(EventName::ClusterSync).failed(error);
            }
            None => {
                tracing::info!("the board: all is well again");
                self.status.lock().trouble.clear();
            }
        }
        seen.trouble = text;
    }
}
