//! What the holders of KEKs remember for all hosts: so that a host which never saw a component notices that it has gone back.
//!
//! A component is compared with what was there when its key was fetched. What is newer is sent when the memory is kept, to all
//! keys that opened the component in this process: those that a `rekey` has just taken away still open the header of before.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use uuid::Uuid;

use super::record::{Point, Record};
use super::{GoneBack, KnownBy};
use crate::error::Result;
use crate::key::{KeyId, SharedMemory};
use crate::provider::shared_memories::SharedMemories;

/// How long sending may take at a time. What is left is sent the next time, or by the process that opens the component next.
const SENDING: Duration = Duration::from_secs(5);
/// What replaces what was remembered of a component that is forgotten on purpose.
const FORGOTTEN: &str = "-";

/// The holders of the KEKs that this process has fetched.
#[derive(Default)]
pub(super) struct Servers {
    memories: Arc<SharedMemories>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Keys that opened a component in this process.
    keys: HashMap<Uuid, BTreeSet<KeyId>>,
    /// To be sent.
    pending: HashMap<Uuid, Point>,
    /// Gone back, as far as a holder says.
    behind: HashMap<Uuid, Point>,
}

impl Servers {
    pub(super) fn of(memories: &Arc<SharedMemories>) -> Self {
        Self { memories: Arc::clone(memories), state: Mutex::default() }
    }

    /// What one remembers of a component, the furthest, and which key's holder that is.
    pub(super) fn remembered(&self, there: &Point) -> Option<(KeyId, Record)> {
        let of_key = |key_id: &KeyId| {
            let text = self.memories.of(key_id)?.get(there.uuid)?;
            Some((key_id.clone(), Record::from_text(there.uuid, &text)?))
        };
        there.keys.iter().filter_map(of_key).max_by_key(|(_, record)| order(record))
    }

    /// What one remembers of a component, if that is further.
    pub(super) fn compare(&self, there: &Point) -> Option<GoneBack> {
        if self.state.lock().pending.get(&there.uuid) == Some(&of_header(there)) {
            return None; // an update of ours that they do not know yet
        }
        let (key_id, seen) = self.remembered(there).filter(|(_, seen)| seen.is_ahead_of(there))?;
        self.state.lock().behind.insert(there.uuid, there.clone());
        Some(GoneBack { there: there.clone(), seen, known_by: KnownBy::Server(key_id) })
    }

    /// Takes over a point that nothing is ahead of.
    pub(super) fn follow(&self, there: &Point) {
        let mut state = self.state.lock();
        let keys = state.keys.entry(there.uuid).or_default();
        keys.extend(there.keys.iter().filter(|key_id| self.memories.of(key_id).is_some()).cloned());
        let record = Record::of(there);
        let text = record.to_text();
        let mut is_news = false;
        for memory in keys.iter().filter_map(|key_id| self.memories.of(key_id)) {
            let known = memory.get(there.uuid);
            if known.as_deref() != Some(&text) {
                // Also what counts one less, as long as this process knows why: the copy that counted last is damaged.
                is_news |= known.is_none_or(|known| is_replaced(there.uuid, &known, &record));
                memory.assume(there.uuid, text.clone());
            }
        }
        if is_news {
            state.pending.insert(there.uuid, of_header(there));
        }
    }

    /// Sends what is newer than what was there, and reads again what had gone back: that may be accepted by now.
    pub(super) fn send(&self) {
        let begun = Instant::now();
        let (pending, behind) = {
            let state = self.state.lock();
            (state.pending.clone(), state.behind.clone())
        };
        for (uuid, there) in pending {
            if begun.elapsed() > SENDING {
                return;
            }
            let sent = self.send_one(&there);
            let mut state = self.state.lock();
            if sent.is_ok() && state.pending.get(&uuid) == Some(&there) {
                state.pending.remove(&uuid);
            }
        }
        for (uuid, there) in behind {
            if begun.elapsed() > SENDING {
                return;
            }
            let memories = there.keys.iter().filter_map(|key_id| self.memories.of(key_id));
            memories.for_each(|memory| drop(memory.refresh())); // then what was there counts
            self.state.lock().behind.remove(&uuid);
            self.compare(&there);
        }
    }

    fn send_one(&self, there: &Point) -> Result<()> {
        let keys = self.state.lock().keys.get(&there.uuid).cloned().unwrap_or_default();
        let record = Record::of(there);
        let store = |memory: Arc<dyn SharedMemory>| {
            memory.store(there.uuid, &record.to_text(), &|known| is_replaced(there.uuid, known, &record))
        };
        keys.iter().filter_map(|key_id| self.memories.of(key_id)).map(store).fold(Ok(()), Result::and)
    }

    /// Has what is there of a component remembered, although it is older.
    pub(super) fn accept(&self, there: &Point) -> Result<()> {
        let text = Record::of(there).to_text();
        for memory in there.keys.iter().filter_map(|key_id| self.memories.of(key_id)) {
            if memory.get(there.uuid).is_some() {
                memory.store(there.uuid, &text, &|_| true)?;
            }
        }
        self.state.lock().behind.remove(&there.uuid);
        Ok(())
    }

    /// Has a component forgotten.
    pub(super) fn forget(&self, uuid: Uuid) -> Result<()> {
        let mut state = self.state.lock();
        state.pending.remove(&uuid);
        state.behind.remove(&uuid);
        drop(state);
        let known = self.memories.all().into_iter().filter(|memory| memory.get(uuid).is_some());
        known.map(|memory| memory.store(uuid, FORGOTTEN, &|_| true)).fold(Ok(()), Result::and)
    }
}

/// What is sent of a point.
fn of_header(there: &Point) -> Point {
    Point { cursor: None, replaced: None, ..there.clone() }
}

fn order(record: &Record) -> (u32, u64) {
    (record.generation, record.sequence)
}

/// Whether a record is no less than what is there. What a later version of this program wrote stays.
fn is_replaced(uuid: Uuid, known: &str, record: &Record) -> bool {
    match Record::from_text(uuid, known) {
        Some(known) => order(record) >= order(&known) && record.features & known.features == known.features,
        None => known == FORGOTTEN,
    }
}

#[cfg(test)]
mod tests;
