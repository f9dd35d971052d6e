//! What this host has seen of components: so that an older state that is put back is noticed.
//!
//! A copy of a header that was valid once is genuine for ever, and nothing that lies beside it can say that it is the newest.
//! The host therefore remembers of each component that it opened how far it was. What is there may be the same or newer;
//! what is older has *gone back*, and may be read and not changed until that is accepted on purpose.
//!
//! [`Memory::meet`] compares and remembers, in this process at first; [`Memory::keep`] makes it durable, many components by one
//! write. A header must be durable before it is met, so a memory never claims what a power cut took away. Of a lost or
//! damaged memory a message says so, and a new one is begun: nothing is shut out. docs/CLI.md, "What a host has seen", describes the file.

mod file;
mod record;
mod servers;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::UnverifiedHeader;
use crate::key::KeyId;
use crate::provider::Providers;
use crate::provider::config;
use crate::text::Show;
use file::{Place, Stamp, Table};
use record::Record;
pub use record::{Comparison, Point};
use servers::Servers;

/// What this host has seen of components. Several processes may use one at once.
#[derive(Default)]
pub struct Memory {
    /// `None`: it ends with this process.
    place: Option<Place>,
    servers: Servers,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_loaded: bool,
    /// Of the file that `table` was read from; `None` where there was none.
    stamp: Option<Stamp>,
    table: Table,
    /// Met since the last flush, the latest last.
    met: Vec<Point>,
}

/// What knows how far disks are at least, beside memories: the list of a VM's disks.
pub trait Floor: Send + Sync {
    /// The least generation that the header of a disk has, and the least sequence of one of that generation; `None` where that is
    /// not known.
    ///
    /// # Errors
    /// `Corrupt` or `Io` when it cannot be read.
    fn least(&self, disk: Uuid) -> Result<Option<(u32, u64)>>;
}

/// Whether a component may be changed, by what this host has seen of it, and by the list of its VM's disks.
#[derive(Clone)]
pub struct Past {
    memory: Arc<Memory>,
    floor: Option<Arc<dyn Floor>>,
    gone_back: Option<GoneBack>,
}

/// A component that is older than what this host has seen of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GoneBack {
    /// As it is now.
    pub there: Point,
    seen: Record,
    known_by: KnownBy,
}

/// What knows that a component was further.
#[derive(Clone, Debug, Eq, PartialEq)]
enum KnownBy {
    Host,
    /// The holder of this key.
    Server(KeyId),
    ListOfDisks,
}

/// What was seen of a component, and how what is there compares. Field names are part of the stable JSON output.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Recalled {
    /// Generation of its data key.
    pub generation: u32,
    /// Sequence of its header.
    pub sequence: u64,
    /// How what is there compares.
    pub comparison: Comparison,
}

impl GoneBack {
    /// How a disk has gone back by what the list of its VM says, if it has.
    ///
    /// # Errors
    /// Those of the list.
    pub fn below(there: &Point, floor: &dyn Floor) -> Result<Option<Self>> {
        let least = floor.least(there.uuid)?.filter(|least| (there.generation, there.sequence) < *least);
        Ok(least.map(|least| Self {
            there: there.clone(),
            seen: Record::of_least(there, least),
            known_by: KnownBy::ListOfDisks,
        }))
    }

    /// What was seen and what is there.
    pub fn describe(&self) -> String {
        let by = match &self.known_by {
            KnownBy::Host => "this host has seen".to_owned(),
            KnownBy::Server(key_id) => format!("the server of key {key_id} remembers"),
            KnownBy::ListOfDisks => "the VM's list of disks has".to_owned(),
        };
        let (seen, there) = (self.there.describe_record(&self.seen), self.there.describe());
        let of = if self.there.is_list { "the list of its disks: " } else { "" };
        let lost = match self.seen.features & !self.there.features {
            0 => "",
            _ => ", without what `upgrade` added",
        };
        format!("{of}{by} {seen}, and what is there is older: {there}{lost}")
    }

    /// As what it is refused with.
    pub fn error(&self) -> Error {
        let advice = "it can only be read, until `vmcryptfs accept-rollback COMPONENT` accepts that";
        Error::new(Kind::ReadOnly, format!("{}; {advice}", self.describe()))
    }
}

impl Past {
    /// Why the component is older than it was, if it is.
    pub fn gone_back(&self) -> Option<&GoneBack> {
        self.gone_back.as_ref()
    }

    /// Refuses changes of a component that has gone back. One that was accepted since may be changed.
    ///
    /// # Errors
    /// `ReadOnly`, with what was seen and what is there.
    pub fn allow_changes(&self) -> Result<()> {
        match self.still_gone_back()? {
            Some(gone_back) => Err(gone_back.error()),
            None => Ok(()),
        }
    }

    /// Why the component has gone back, unless that was accepted since.
    ///
    /// # Errors
    /// Those of the VM's list of disks.
    pub fn still_gone_back(&self) -> Result<Option<GoneBack>> {
        let Some(GoneBack { there, .. }) = &self.gone_back else { return Ok(None) };
        match (self.memory.gone_back(there), &self.floor) {
            (None, Some(floor)) => GoneBack::below(there, floor.as_ref()),
            (gone_back, _) => Ok(gone_back),
        }
    }
}

impl Memory {
    /// That of the host whose providers these are.
    pub fn of(providers: &Providers) -> Arc<Self> {
        let place = standard_place(providers);
        if let Err(error) = &place {
            tell(Some(format!("what this host has seen of components is not remembered: {}", error.chain())));
        }
        let servers = Servers::of(providers.shared_memories());
        Arc::new(Self { place: place.ok(), servers, state: Mutex::default() })
    }

    /// Compares a component with what was seen of it, and remembers what it is now unless it has gone back.
    pub fn meet(self: &Arc<Self>, there: Point) -> Past {
        self.meet_above(there, None)
    }

    /// The same for a disk whose VM has a list of its disks, of which it may be known by that how far it is at least.
    pub fn meet_above(self: &Arc<Self>, there: Point, floor: Option<Arc<dyn Floor>>) -> Past {
        // A list that cannot be read lets no disk be opened.
        let below = floor.as_ref().and_then(|floor| GoneBack::below(&there, floor.as_ref()).ok().flatten());
        let mut state = self.current();
        let gone_back = state.table.compare(&there).or_else(|| self.servers.compare(&there)).or(below);
        if gone_back.is_none() {
            self.servers.follow(&there);
            if state.table.follow(&there) {
                state.met.push(there);
            }
        }
        drop(state);
        Past { memory: Arc::clone(self), floor, gone_back }
    }

    /// As [`meet`](Self::meet), for the list of a home's disks, whose newest copy may not be durable: `durable` is what a power cut
    /// leaves at least, if that is known, and what is remembered.
    pub fn meet_list(self: &Arc<Self>, there: &Point, durable: Option<Point>) -> Past {
        let mut state = self.current();
        let gone_back = state.table.compare(there).or_else(|| self.servers.compare(there));
        // Before its first change nothing could be put back.
        if gone_back.is_none()
            && let Some(durable) = durable.filter(|durable| durable.sequence > 1)
        {
            let is_ahead = |(_, seen): (KeyId, Record)| seen.is_ahead_of(&durable);
            if !self.servers.remembered(&durable).is_some_and(is_ahead) {
                self.servers.follow(&durable);
            }
            if state.table.compare(&durable).is_none() && state.table.follow(&durable) {
                state.met.push(durable);
            }
        }
        drop(state);
        Past { memory: Arc::clone(self), floor: None, gone_back }
    }

    /// The largest sequence of the list of a home's disks that is known here.
    pub fn list_sequence(&self, there: &Point) -> u64 {
        let shared = self.servers.remembered(there).map(|(_, record)| record.sequence);
        let known = self.current().table.get(there.uuid).map(|record| record.sequence);
        known.max(shared).unwrap_or_default()
    }

    /// As [`meet`](Self::meet), for what is only to be let through.
    ///
    /// # Errors
    /// `ReadOnly` when it has gone back.
    pub fn allow(&self, there: Point) -> Result<()> {
        self.gone_back(&there).map_or(Ok(()), |gone_back| Err(gone_back.error()))
    }

    /// What was seen of a component, for people.
    pub fn describe(&self, uuid: Uuid) -> Option<String> {
        self.current().table.get(uuid).map(Record::describe)
    }

    /// The number of the newest manifest of a home that was seen.
    pub fn manifest_counter(&self, home: Uuid) -> Option<u64> {
        self.current().table.get(record::manifest_uuid(home)).map(|seen| seen.sequence)
    }

    /// Forgets the manifest of a home, durably: it has none on purpose.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn forget_manifest(&self, home: Uuid) -> Result<()> {
        self.forget(record::manifest_uuid(home))
    }

    /// What was seen of the component with this header, which may be unverified: without its data key less is compared.
    pub fn recall(&self, header: &UnverifiedHeader) -> Option<Recalled> {
        let state = self.current();
        let record = state.table.get(header.claims().uuid)?;
        let comparison = record.compare_unverified(header);
        Some(Recalled { generation: record.generation, sequence: record.sequence, comparison })
    }

    /// What was seen of a component, if it has gone back.
    pub fn gone_back(&self, there: &Point) -> Option<GoneBack> {
        self.current().table.compare(there).or_else(|| self.servers.compare(there))
    }

    /// What the server of a component's key remembers of it, for people.
    pub fn describe_shared(&self, there: &Point) -> Option<String> {
        let (key_id, record) = self.servers.remembered(there)?;
        Some(format!("what the server of key {key_id} remembers, {}", record.describe()))
    }

    /// Takes what is there of a component as what was seen, durably, also at the server of its key.
    ///
    /// # Errors
    /// `Denied` for a memory that others can change, `Io`, or `KeyUnavailable`; then it is not accepted by this host.
    pub fn accept(&self, gone_back: &GoneBack) -> Result<()> {
        self.servers.accept(&gone_back.there)?;
        self.change(|table| table.replace(&gone_back.there))
    }

    /// Forgets a component, durably: what is seen of it next is taken for the newest.
    ///
    /// # Errors
    /// As [`accept`](Self::accept).
    pub fn forget(&self, uuid: Uuid) -> Result<()> {
        if let Err(error) = self.servers.forget(uuid) {
            tell(Some(format!("a key server still remembers what `accept-rollback` will ask for: {}", error.chain())));
        }
        let known = self.current().table.get(uuid).is_some();
        if known { self.change(|table| table.remove(uuid)).map(drop) } else { Ok(()) }
    }

    /// Makes durable what was met, and sends it to key servers, for some seconds at most. Waits for other processes that do. Where
    /// that fails, what was met is still known in this process, and [`trouble`] says why.
    pub fn keep(&self) {
        if !self.state.lock().met.is_empty()
            && let Err(error) = self.change(|_| ())
        {
            tell(Some(format!("what this host has seen of components is not remembered: {}", error.chain())));
        }
        self.servers.send();
    }

    /// Changes the file, together with all that was met. Requests that meet something do not wait for it.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> Result<T> {
        let Some(place) = &self.place else { return Ok(change(&mut self.state.lock().table)) };
        let _locked = place.lock()?;
        let met = self.state.lock().met.clone();
        let (mut table, lost) = place.load()?;
        if lost.is_some() {
            place.set_aside()?;
        }
        tell(lost);
        table.follow_all(&met);
        let changed = change(&mut table);
        let stamp = place.store(&table)?;
        let mut state = self.state.lock();
        state.met.drain(..met.len());
        table.follow_all(&state.met);
        (state.table, state.stamp, state.is_loaded) = (table, stamp, true);
        Ok(changed)
    }

    /// The state, with what other processes have changed since.
    fn current(&self) -> parking_lot::MutexGuard<'_, State> {
        let mut state = self.state.lock();
        let Some(place) = &self.place else { return state };
        let stamp = place.stamp();
        if state.is_loaded && stamp == state.stamp {
            return state;
        }
        match place.load() {
            Ok((mut table, lost)) => {
                tell(lost);
                table.follow_all(&state.met);
                (state.table, state.stamp, state.is_loaded) = (table, stamp, true);
            }
            Err(error) => tell(Some(error.chain())),
        }
        state
    }
}

/// What was met lately is not lost with the process, unless that is killed.
impl Drop for Memory {
    fn drop(&mut self) {
        self.keep();
    }
}

static TROUBLE: Mutex<Option<String>> = Mutex::new(None);

fn tell(trouble: Option<String>) {
    if trouble.is_some() {
        *TROUBLE.lock() = trouble;
    }
}

/// Why this process could not compare with, or keep, what the host has seen, if it could not: for people.
pub fn trouble() -> Option<String> {
    TROUBLE.lock().clone()
}

/// Where the memory of the host is that has this configuration: the configured file, else `/var/lib/vmcryptfs/seen` for root and
/// `vmcryptfs/seen` in the XDG state folder for others. A configuration of another place has its own memory beside it.
fn standard_place(providers: &Providers) -> Result<Place> {
    let config = providers.config_path();
    let key = config.with_file_name("memory.key");
    let file = match providers.memory_file() {
        Some(file) => file.to_path_buf(),
        None if config::locate(None).is_ok_and(|standard| standard == config) => state_folder()?.join("vmcryptfs/seen"),
        None => config.with_file_name("seen"),
    };
    Ok(Place { file, key })
}

fn state_folder() -> Result<PathBuf> {
    if crate::sys::process::effective_uid() == 0 {
        return Ok(PathBuf::from("/var/lib"));
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|folder: &PathBuf| folder.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .ok_or_else(|| Error::new(Kind::NotFound, "neither XDG_STATE_HOME nor HOME is set"))
}

fn shown(path: &Path) -> String {
    path.shown().to_string()
}

#[cfg(test)]
mod tests;
