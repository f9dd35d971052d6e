//! The keeper: where this host has the credentials of a key server, it gives its KEKs to the other hosts of the cluster.

mod refusals;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::cluster::push::{Giver, LEASE, PushBoard, keepers};
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::format::cluster::{HostIdentity, PushedProvider, Reference, Refusal, Wish};
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::config::Config;
use vmcryptfs::provider::{ExportedKek, KeyProvider, NewKey, Providers};
use vmcryptfs::sys::thread::side_by_side;

use super::boards::Boards;
use super::endless;
use refusals::{patience, refusal_of};

/// How often a keeper looks for wants.
const LOOK: Duration = Duration::from_millis(250);
/// How often a host that is not a keeper looks whether it has become one.
const PERIOD: Duration = Duration::from_secs(2);
/// How long each keeper leaves a wish to the one before it.
const TURN: Duration = Duration::from_secs(1);
/// How long the configuration that was read is good.
const RELOAD: Duration = Duration::from_secs(30);
/// Keys that are fetched side by side, and most that are made in one look.
const FETCHES_AT_ONCE: usize = 8;
/// What the threads do, for people.
const DOING: &str = "giving keys to other hosts";
/// Forged wants of one minute that have events of their own.
const MAX_NAMED: u64 = 16;

/// Gives KEKs for as long as the process lives. Each provider has a thread of its own: a key server that hangs, or a record that the board
/// does not give, must not keep hosts from the keys of another provider.
///
/// # Errors
/// `Io`.
pub(super) fn begin(config: &Path, boards: Arc<Boards>) -> Result<()> {
    let (config, mut trouble) = (config.to_path_buf(), Told::default());
    let at_work = AtWork::default();
    endless::begin("keepers", DOING, move || {
        let begun = kept(&config).and_then(|names| {
            names.into_iter().try_for_each(|name| begin_one(&config, Arc::clone(&boards), name, &at_work))
        });
        trouble.tell(begun.err(), DOING);
        thread::sleep(PERIOD);
    })
}

/// The providers that have a thread.
type AtWork = Arc<Mutex<BTreeSet<ProviderName>>>;

/// Gives KEKs of one provider for as long as this host is a keeper of it, unless that is done already.
fn begin_one(config: &Path, boards: Arc<Boards>, name: ProviderName, at_work: &AtWork) -> Result<()> {
    if !at_work.lock().insert(name.clone()) {
        return Ok(());
    }
    let (mut keeper, mut trouble) = (Keeper::of(config, boards, name.clone()), Told::default());
    let (all, own) = (Arc::clone(at_work), name.clone());
    let begun = endless::begin_while("keeper", DOING, move || {
        let (wait, now) = match keeper.look() {
            Ok(true) => (LOOK, None),
            Ok(false) => {
                all.lock().remove(&own);
                return false;
            }
            Err(error) => (PERIOD, Some(error)),
        };
        trouble.tell(now, &format!("giving keys of provider {own} to other hosts"));
        thread::sleep(wait);
        true
    });
    if begun.is_err() {
        at_work.lock().remove(&name);
    }
    begun
}

/// Trouble is told once, until it is another or over.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    fn tell(&mut self, now: Option<Error>, doing: &str) {
        let now = now.map(|error| error.chain());
        if now != self.0 {
            now.iter().for_each(|why| tracing::warn!("{doing}: {why}"));
            self.0 = now;
        }
    }
}

/// The providers that this host is a keeper of, as far as it has seen: its own file says so without the board.
fn kept(config: &Path) -> Result<Vec<ProviderName>> {
    let files = HostFiles::of(config);
    let Some(membership) = files.membership()? else { return Ok(Vec::new()) };
    let Some(document) = files.document(&membership)? else { return Ok(Vec::new()) };
    let host = files.identity()?.uuid;
    let is_own = |pushed: &&PushedProvider| keepers(&document, pushed).any(|keeper| keeper.uuid == host);
    Ok(document.pushed.iter().filter(is_own).map(|pushed| pushed.name.clone()).collect())
}

/// A provider, or why it cannot be used.
type Opened = std::result::Result<Arc<dyn KeyProvider>, Arc<Error>>;

/// What a keeper of a provider remembers from one look to the next.
struct Keeper {
    name: ProviderName,
    config: PathBuf,
    boards: Arc<Boards>,
    board: Option<(Instant, PushBoard)>,
    providers: Option<(Instant, Providers)>,
    /// When a wish was answered.
    answered: BTreeMap<Reference, Instant>,
    /// When a wish was seen first, and last tried.
    seen: BTreeMap<Reference, (Instant, Option<Instant>)>,
    /// This host has to give keys and cannot, and that was said.
    is_unready: bool,
}

/// A wish of a host that is to be answered now.
struct Task {
    host: HostIdentity,
    reference: Reference,
    wish: Wish,
}

/// What the key server gave for tasks, by key ids, and by references of what was made.
struct Fetched {
    tasks: Vec<Task>,
    keys: HashMap<String, Result<ExportedKek>>,
    made: BTreeMap<Reference, Result<(KeyId, LocalKek)>>,
}

impl Keeper {
    fn of(config: &Path, boards: Arc<Boards>, name: ProviderName) -> Self {
        let (answered, seen) = (BTreeMap::new(), BTreeMap::new());
        Self {
            name,
            config: config.to_path_buf(),
            boards,
            board: None,
            providers: None,
            answered,
            seen,
            is_unready: false,
        }
    }

    /// Answers what hosts want. Returns whether this host is a keeper of the provider.
    fn look(&mut self) -> Result<bool> {
        if !kept(&self.config)?.contains(&self.name) {
            return Ok(false);
        }
        let mut board = match self.board.take().filter(|(opened, _)| opened.elapsed() < PERIOD) {
            Some(board) => board,
            None => self.open()?,
        };
        self.answered.retain(|_, at| at.elapsed() < LEASE); // what lies there is looked at again
        let mut wanted = BTreeSet::new();
        if !self.tasks(&board.1, &mut wanted)?.is_empty() && self.may_answer() {
            // Who is a member is judged by the newest document.
            board = self.open()?;
            let tasks = self.tasks(&board.1, &mut wanted)?;
            if let Some(pushed) = self.own(&board.1).cloned() {
                let fetched = self.fetch(&board.1, &pushed, tasks);
                if !fetched.tasks.is_empty() {
                    // Hosts may have been removed while the key server was asked.
                    board = self.open()?;
                    self.seal(&board.1, pushed.uuid, fetched)?;
                }
            }
        }
        self.answered.retain(|reference, _| wanted.contains(reference));
        self.seen.retain(|reference, _| wanted.contains(reference));
        self.board = Some(board);
        Ok(true)
    }

    fn open(&self) -> Result<(Instant, PushBoard)> {
        Ok((Instant::now(), self.boards.session(&self.config)?.into_push_board()))
    }

    /// The provider, if this host is its keeper by this board's document.
    fn own<'b>(&self, board: &'b PushBoard) -> Option<&'b PushedProvider> {
        let (document, host) = (board.document(), board.host());
        let is_own = |pushed: &&PushedProvider| {
            pushed.name == self.name && keepers(document, pushed).any(|keeper| keeper.uuid == host)
        };
        document.pushed.iter().find(is_own)
    }

    /// Whether this host can say anything of the keys. Without credentials it could only refuse what another keeper gives.
    fn may_answer(&mut self) -> bool {
        let ready = is_ready(&self.config, &self.name);
        if let Err(error) = &ready
            && !self.is_unready
        {
            tracing::warn!("giving keys of provider {} to other hosts: {}", self.name, error.chain());
        }
        self.is_unready = ready.is_err();
        ready.unwrap_or(false)
    }

    /// The wishes that it is this keeper's turn to answer. References of all wishes are added to `wanted`.
    fn tasks(&mut self, board: &PushBoard, wanted: &mut BTreeSet<Reference>) -> Result<Vec<Task>> {
        let Some(pushed) = self.own(board) else { return Ok(Vec::new()) };
        let name = &pushed.name;
        let place = keepers(board.document(), pushed).position(|keeper| keeper.uuid == board.host());
        let turn = TURN * u32::try_from(place.unwrap_or(0)).unwrap_or(u32::MAX);
        let mut tasks = Vec::new();
        for (host, want) in board.wants(pushed)? {
            let want = match want {
                Ok(want) => want,
                Err(error) => {
                    tracing::warn!("what host {} wants of provider {name}: {}", host.name, error.chain());
                    let mut event = Event::of(EventName::ClusterPush);
                    event.provider(name).failed_as_one_of(Event::of(EventName::ClusterPush), MAX_NAMED, &error);
                    continue;
                }
            };
            for (reference, wish) in want.wishes {
                wanted.insert(reference);
                let (first, last) = *self.seen.entry(reference).or_insert((Instant::now(), None));
                let is_due = first.elapsed() >= turn && last.is_none_or(|last| last.elapsed() >= TURN);
                if is_due && !self.answered.contains_key(&reference) {
                    tasks.push(Task { host: host.clone(), reference, wish });
                }
            }
        }
        Ok(tasks)
    }

    /// Asks the key server for what is not answered yet.
    fn fetch(&mut self, board: &PushBoard, pushed: &PushedProvider, tasks: Vec<Task>) -> Fetched {
        let (mut open, mut new) = (Vec::new(), 0);
        for task in tasks {
            match board.is_answered(pushed, task.host.uuid, task.reference) {
                Ok(true) => _ = self.answered.insert(task.reference, Instant::now()),
                Ok(false) => open.push(task),
                Err(error) => tracing::warn!("what lies there for host {}: {}", task.host.name, error.chain()),
            }
        }
        // The others are made in the next look: the first ones do not wait for all.
        open.retain(|task| {
            new += usize::from(matches!(task.wish, Wish::New { .. }));
            matches!(task.wish, Wish::Key(_)) || new <= FETCHES_AT_ONCE
        });
        let provider = self.provider();
        let keys = export(&provider, &pushed.name, &open);
        let make = |task: &Task| match &task.wish {
            Wish::Key(_) => None,
            Wish::New { vm, name } => {
                let purpose = NewKey { vm_name: name.clone(), vm_uuid: *vm };
                let made =
                    usable(&provider).and_then(|provider| provider.create_exported(task.reference.uuid(), &purpose));
                Some((task.reference, made))
            }
        };
        let made = open.iter().filter_map(make).collect();
        Fetched { tasks: open, keys, made }
    }

    /// Gives what was fetched to those that are members by this board's document.
    fn seal(&mut self, board: &PushBoard, uuid: Uuid, fetched: Fetched) -> Result<()> {
        let Some(pushed) = self.own(board).filter(|pushed| pushed.uuid == uuid) else { return Ok(()) };
        let Fetched { tasks, keys, mut made } = fetched;
        let mut giver = board.give(pushed)?;
        let patience = |refusal| patience(refusal, keepers(board.document(), pushed).count());
        let is_member = |task: &&Task| board.document().active().any(|member| member.host == task.host);
        for task in tasks.iter().filter(is_member) {
            let made = made.remove(&task.reference);
            // Whatever becomes of it: what fails is not tried again at once.
            if let Some((_, last)) = self.seen.get_mut(&task.reference) {
                *last = Some(Instant::now());
            }
            match self.answer_one(&mut giver, pushed, task, &keys, made, &patience) {
                Ok(Some((id, kek))) => push_to_others(board, &mut giver, pushed, &task.host, &id, &kek),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        "giving a key of provider {} to host {}: {}",
                        pushed.name,
                        task.host.name,
                        error.chain()
                    );
                }
            }
        }
        Ok(())
    }

    /// Returns the KEK that was made, if one was.
    fn answer_one(
        &mut self,
        giver: &mut Giver<'_>,
        pushed: &PushedProvider,
        task: &Task,
        keys: &HashMap<String, Result<ExportedKek>>,
        made: Option<Result<(KeyId, LocalKek)>>,
        patience: &dyn Fn(Refusal) -> Duration,
    ) -> Result<Option<(KeyId, LocalKek)>> {
        let (host, reference) = (&task.host, task.reference);
        let mut event = Event::of(EventName::ClusterPush);
        event.provider(&pushed.name);
        let (id, failure) = match &task.wish {
            Wish::Key(id) => {
                let id = KeyId::new(pushed.name.clone(), id.clone())?;
                match keys.get(id.id()) {
                    Some(Ok(exported)) => {
                        giver.kek(host, reference, &id, &exported.kek, exported.wraps)?;
                        self.answered.insert(reference, Instant::now());
                        event.key(&id).reason(format!("sealed to host {} ({})", host.name, host.uuid)).done();
                        return Ok(None);
                    }
                    Some(Err(error)) => (Some(id), vmcryptfs::provider::reword(error, error.chain())),
                    None => return Ok(None),
                }
            }
            Wish::New { vm, name } => match made {
                None => return Ok(None),
                Some(Ok((id, kek))) => {
                    giver.kek(host, reference, &id, &kek, true)?;
                    self.answered.insert(reference, Instant::now());
                    let reason = format!("made for VM {name}, and sealed to host {} ({})", host.name, host.uuid);
                    event.key(&id).uuid(*vm).reason(reason).done();
                    return Ok(Some((id, kek)));
                }
                Some(Err(error)) => (None, error),
            },
        };
        let now = Instant::now();
        let refusal = refusal_of(&failure);
        let first = self.seen.get(&reference).map_or(now, |(first, _)| *first);
        if first.elapsed() < patience(refusal) {
            return Ok(None);
        }
        giver.refuse(host, reference, id.as_ref(), refusal, &failure.chain())?;
        self.answered.insert(reference, now);
        id.iter().for_each(|id| _ = event.key(id));
        event.failed(&failure);
        Ok(None)
    }

    /// The provider, as it is configured now.
    fn provider(&mut self) -> Opened {
        let former = self.providers.take().filter(|(loaded, _)| loaded.elapsed() < RELOAD);
        let (loaded, providers) = match former {
            Some(loaded) => loaded,
            None => (Instant::now(), Providers::load(&self.config).map_err(Arc::new)?),
        };
        let provider = providers.provider(&self.name).map_err(Arc::new);
        // What failed is read again: its administrator may have mended it.
        self.providers = provider.is_ok().then_some((loaded, providers));
        provider
    }
}

/// Whether this host can be the keeper of a provider.
///
/// # Errors
/// `NotFound` when it has none of that name whose keys can be pushed, `Unsupported` when it has a share of their KEKs, and those of the
/// configuration.
pub(super) fn is_ready(config: &Path, name: &ProviderName) -> Result<bool> {
    let configured = Config::load(config)?;
    let own = configured.providers().get(name).filter(|settings| settings.kind().can_be_pushed());
    match own {
        Some(settings) if settings.has_kek_share() => Err(Error::new(
            Kind::Unsupported,
            format!(
                "this host is a keeper of provider {name}, and its own has a kek-share, which a cluster does not carry: use one without it, \
                 or `vmcryptfs cluster share {name} --no-keeper HOST --admin-key FILE` with this host's name"
            ),
        )),
        Some(_) => Ok(true),
        None => Err(Error::new(
            Kind::NotFound,
            format!(
                "this host is a keeper of provider {name}, and has none of that name whose keys can be pushed: `vmcryptfs provider add kmip \
                 {name} --server HOST:5696 --ca FILE --cert FILE --key FILE`, or `vmcryptfs cluster share {name} --no-keeper HOST --admin-key FILE` with this host's name"
            ),
        )),
    }
}

fn usable(provider: &Opened) -> Result<&Arc<dyn KeyProvider>> {
    provider.as_ref().map_err(|error| vmcryptfs::provider::reword(error, error.chain()))
}

/// Fetches each key that is wished for once, several side by side.
fn export(provider: &Opened, name: &ProviderName, tasks: &[Task]) -> HashMap<String, Result<ExportedKek>> {
    let wanted = tasks.iter().filter_map(|task| if let Wish::Key(id) = &task.wish { Some(id.clone()) } else { None });
    let ids: Vec<String> = wanted.collect::<BTreeSet<_>>().into_iter().collect();
    let found = Mutex::new(HashMap::new());
    side_by_side(&ids, FETCHES_AT_ONCE, |id| {
        let key = KeyId::new(name.clone(), id.clone());
        let exported = key.and_then(|key| usable(provider)?.export_key(&key));
        found.lock().insert(id.clone(), exported);
    });
    found.into_inner()
}

/// Gives a new KEK to all hosts that get KEKs from keepers, so that each of them can run the VM while no keeper is there.
fn push_to_others(
    board: &PushBoard,
    giver: &mut Giver<'_>,
    pushed: &PushedProvider,
    wisher: &HostIdentity,
    id: &KeyId,
    kek: &LocalKek,
) {
    let others = board.document().active().map(|member| &member.host);
    let (mut given, mut failure) = (0_usize, None);
    for host in others.filter(|host| host.uuid != wisher.uuid && !pushed.keepers.contains(&host.uuid)) {
        match giver.kek(host, Reference::NONE, id, kek, true) {
            Ok(()) => given += 1,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    let mut event = Event::of(EventName::ClusterPush);
    event.key(id);
    if given > 0 {
        event.reason(format!("sealed to {given} other hosts")).done();
    }
    if let Some(error) = failure {
        tracing::warn!("giving key {id} to the other hosts: {}", error.chain());
        event.failed(&error);
    }
}
