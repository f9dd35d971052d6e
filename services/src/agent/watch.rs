//! The board, as the agent watches it: what the newest document asks of this host is done as soon as it is there.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::cluster::{Exchanged, SharedKeys, Standing};
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName, limit};
use vmcryptfs::format::cluster::{Document, MemberState, SharedProvider};
use vmcryptfs::gate::{self, Principal, unwatched};
use vmcryptfs::key::ProviderName;
use vmcryptfs::operations::cluster::SyncCluster;
use vmcryptfs::provider::agent::AgentStatus;
use vmcryptfs::timestamp::Timestamp;

use super::boards::{Boards, HOST_TIME};
use super::endless;
use super::keys::Keys;
use super::mounts::Mounts;
use super::offline::Contact;
use super::wake::{Wake, Woken};

/// How often the board is looked at; one that reports changes, at each that concerns this host as well.
const PERIOD: Duration = Duration::from_secs(2);
/// How often all is compared although there is no newer document: what the board has lost is put there again.
const WHOLE: Duration = Duration::from_secs(60);
/// What is said of a host that an admin removed with its guests.
const EVICTED: &str =
    "this host was removed from the cluster, and its guests have to end: stop them, then `vmcryptfs umount MOUNTPOINT`";

/// What is known of the board.
pub(super) struct Watch {
    config: PathBuf,
    keys: Arc<Keys>,
    boards: Arc<Boards>,
    mounts: Mounts,
    contact: Contact,
    /// Keys were forgotten since all was compared, as the board was not reached for too long.
    has_forgotten: AtomicBool,
    /// Held while the board is looked at, so that it is by one thread at a time.
    looking: Mutex<Seen>,
    status: Mutex<AgentStatus>,
    trouble: Mutex<Trouble>,
}

/// What goes wrong, by what it belongs to: one kind that is over says nothing of the others.
#[derive(Default)]
struct Trouble {
    /// With looking at the board.
    board: Option<String>,
    /// With what the newest document asks.
    work: Vec<String>,
    /// That the guests of this host have to end.
    evicted: Option<String>,
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
}

/// What the newest document says of this host, or the last one that is known.
struct Newest {
    epoch: u64,
    /// That it was removed.
    is_removed: bool,
    /// That its guests have to end as well.
    is_evicted: bool,
    /// What the cluster shares.
    providers: Vec<SharedProvider>,
    /// Providers whose KEKs are pushed.
    pushed: Vec<ProviderName>,
}

impl Newest {
    fn of(document: &Document, host: Uuid) -> Self {
        let own = document.member(host);
        Self {
            epoch: document.epoch,
            is_removed: own.is_some_and(|own| own.state == MemberState::Removed),
            is_evicted: own.is_some_and(|own| own.removal.evicted),
            providers: document.providers.clone(),
            pushed: document.pushed.iter().map(|pushed| pushed.name.clone()).collect(),
        }
    }
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
        let is_well = done.failed.is_empty() && done.unsaid.is_none();
        self.retry = match (is_well, done.awaited.is_empty() && is_settled) {
            (true, true) => None,
            (true, false) => Some(PERIOD),
            (false, _) => Some(self.later(is_new)),
        };
    }

    /// The same where nothing could be done.
    fn fail(&mut self, epoch: u64) {
        let is_new = self.epoch != Some(epoch);
        self.retry = Some(self.later(is_new));
        (self.epoch, self.compared) = (Some(epoch), Some(Instant::now()));
    }

    fn later(&self, is_new: bool) -> Duration {
        self.retry.filter(|_| !is_new).map_or(PERIOD, |former| (2 * former).min(WHOLE))
    }
}

impl Watch {
    /// The watch of a host. Keys that it may not have any longer, as its board was not reached for too long, are forgotten at once.
    ///
    /// # Errors
    /// Those of the host's files.
    pub(super) fn new(config: PathBuf, keys: Arc<Keys>, boards: Arc<Boards>) -> Result<Self> {
        let (looking, status, trouble) = (Mutex::default(), Mutex::default(), Mutex::default());
        let contact = Contact::load(&config)?;
        let (mounts, has_forgotten) = (Mounts::default(), AtomicBool::new(false));
        let watch = Self { config, keys, boards, mounts, contact, has_forgotten, looking, status, trouble };
        watch.forget_if_offline();
        Ok(watch)
    }

    /// Forgets the keys if the board was not reached for longer than `max-offline`. They come again with the board.
    fn forget_if_offline(&self) {
        if let Some(age) = self.contact.exceeded()
            && self.keys.forget_offline(age)
        {
            self.has_forgotten.store(true, Ordering::Release);
        }
    }

    /// Looks at the board for as long as the process lives, on a thread of its own. Another one forgets and locks what has to go: it waits
    /// for no board and for no lock of the host, either of which may hang.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn begin(self: &Arc<Self>) -> Result<()> {
        self.begin_forgetting()?;
        let watch = Arc::clone(self);
        let (mut wake, mut woken) = (Wake::default(), Woken::Timeout);
        endless::begin("watch", "looking at the board", move || {
            watch.look(woken);
            limit::report(limit::PERIOD);
            woken = wake.wait(&watch.config, PERIOD);
        })
    }

    fn begin_forgetting(self: &Arc<Self>) -> Result<()> {
        let watch = Arc::clone(self);
        endless::begin("forget", "forgetting keys", move || {
            thread::sleep(PERIOD);
            watch.forget_if_offline();
            watch.lock_forgotten();
        })
    }

    /// What the agent says of itself.
    pub(super) fn status(&self) -> AgentStatus {
        let trouble = {
            let now = self.trouble.lock();
            now.evicted.iter().chain(&now.board).chain(&now.work).cloned().chain(self.keys.pushed().trouble()).collect()
        };
        let pushed = self.keys.pushed().counts();
        AgentStatus { holds: self.keys.current_of_all(), pushed, trouble, ..self.status.lock().clone() }
    }

    /// Does what the newest document asks, in any case.
    ///
    /// # Errors
    /// `Busy` when the board keeps the agent waiting, those of the board and of this host's files.
    pub(super) fn sync(&self, principal: Principal) -> Result<Exchanged> {
        let hangs = || {
            let waited =
                format!("the agent has been looking at its board for {} s: does that answer?", HOST_TIME.as_secs());
            Error::new(Kind::Busy, waited)
        };
        let mut seen = self.looking.try_lock_for(HOST_TIME).ok_or_else(hangs)?;
        self.exchange(&mut seen, principal)
    }

    /// Does what the newest document asks, if there is something to do.
    fn look(&self, woken: Woken) {
        let mut seen = self.looking.lock();
        self.keys.notice_owner(); // also where the board cannot be asked
        let (newest, trouble) = match self.newest() {
            Ok(newest) => {
                self.contact.renew();
                (newest, None)
            }
            Err(error) => (self.last_known(), Some(error)),
        };
        if let Some(newest) = &newest {
            if trouble.is_none() && self.has_forgotten.swap(false, Ordering::Acquire) {
                seen.compared = None;
            }
            if trouble.is_none()
                && (woken == Woken::Key || seen.is_due(newest.epoch))
                && let Err(error) = self.exchange(&mut seen, Principal::Process)
            {
                tracing::warn!("what document {} asks: {}", newest.epoch, error.chain());
                seen.fail(newest.epoch);
                self.trouble.lock().work = vec![error.chain()];
            }
            self.tell_eviction(newest.is_evicted);
            self.lock_gone(newest);
        }
        self.tell(trouble);
    }

    /// Locks what opens by keys that this host has no longer as it was removed. Again and again: what a guest has open now is locked once
    /// it is closed. What is here decides, so that it goes on after a restart, and without a board.
    fn lock_gone(&self, newest: &Newest) {
        let is_gone = |shared: &&SharedProvider| self.keys.current(shared).is_ok_and(|current| current.is_none());
        let gone: Vec<ProviderName> = newest
            .providers
            .iter()
            .filter(|_| newest.is_removed)
            .filter(is_gone)
            .map(|shared| shared.name.clone())
            .chain(newest.pushed.iter().filter(|name| newest.is_removed && self.is_without(name)).cloned())
            .collect();
        self.lock(gone);
    }

    /// The same for keys that this host got before it joined again, and, where the board was not reached for too long, for all that come
    /// from it: an agent that began without its board has forgotten none.
    fn lock_forgotten(&self) {
        let mut gone = self.keys.forgotten();
        if self.contact.exceeded().is_some()
            && let Some(newest) = self.last_known()
        {
            let names = newest.providers.iter().map(|shared| &shared.name).chain(&newest.pushed);
            gone.extend(names.filter(|name| self.is_without(name)).cloned());
        }
        self.lock(gone);
    }

    fn lock(&self, gone: Vec<ProviderName>) {
        if !gone.is_empty() {
            self.mounts.lock(&gone);
        }
    }

    /// Whether this host has no way of its own to the keys of a provider.
    fn is_without(&self, name: &ProviderName) -> bool {
        self.keys.is_in_file(name).is_ok_and(|has_own| !has_own)
    }

    /// What the last document says that this host has seen, where the board cannot be asked.
    fn last_known(&self) -> Option<Newest> {
        let files = HostFiles::of(&self.config);
        let membership = files.membership().ok()??;
        let document = files.document(&membership).ok()??;
        Some(Newest::of(&document, files.identity().ok()?.uuid))
    }

    /// The newest document; `None` for a host in no cluster.
    fn newest(&self) -> Result<Option<Newest>> {
        let session = match self.boards.session(&self.config) {
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
        Ok(Some(Newest::of(document, session.host())))
    }

    fn exchange(&self, seen: &mut Seen, principal: Principal) -> Result<Exchanged> {
        let sync = SyncCluster {
            config: &self.config,
            keys: Some(&*self.keys),
            open: &|config| self.boards.session(config),
            renew: WHOLE,
        };
        let done = gate::perform(sync, principal, &mut unwatched)?;
        seen.learn(&done);
        {
            let mut status = self.status.lock();
            status.epoch = Some(done.epoch);
            status.removed = done.standing == Standing::Removed;
        }
        let failed = done.failed.iter().map(|(name, error)| format!("provider {name}: {}", error.chain()));
        self.trouble.lock().work = failed.chain(done.unsaid.as_ref().map(Error::chain)).collect();
        for (name, uuid) in &done.received {
            tracing::info!("received primary key {uuid} of provider {name}");
        }
        for (name, uuid) in &done.wiped {
            tracing::warn!("wiped primary key {uuid} of provider {name}: this host was removed from the cluster");
        }
        Ok(done)
    }

    /// Reports trouble with the board once, until it is another or over.
    fn tell(&self, error: Option<Error>) {
        let text = error.as_ref().map(Error::chain);
        if self.trouble.lock().board == text {
            return;
        }
        match &error {
            Some(error) => {
                tracing::warn!("the board: {}", error.chain());
                Event::of(EventName::ClusterSync).failed(error);
            }
            None => tracing::info!("the board: all is well again"),
        }
        self.trouble.lock().board = text;
    }

    /// Reports once that the guests of this host have to end.
    fn tell_eviction(&self, is_evicted: bool) {
        if self.trouble.lock().evicted.is_some() == is_evicted {
            return;
        }
        let error = Error::new(Kind::Denied, EVICTED);
        if is_evicted {
            tracing::warn!("{EVICTED}");
            Event::of(EventName::ClusterSync).failed(&error);
        }
        self.trouble.lock().evicted = is_evicted.then(|| error.chain());
    }
}
