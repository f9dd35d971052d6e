//! How often operations were done by this process, how they ended, and how long they took.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::event::EventName;

/// How an operation ended.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Ending {
    /// It was done.
    Ok,
    /// It might not be done.
    Refused,
    /// It was tried.
    Failed,
}

impl Ending {
    /// As metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// Upper bounds of the times that are counted together, in seconds: from a header that is rewritten to a disk that is encrypted.
pub const BOUNDS: [f64; 8] = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0];

/// Operations of one name that ended in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    /// How many took no longer than each of [`BOUNDS`], and longer than the one before; the last one is of those above all.
    pub by_time: [u64; BOUNDS.len() + 1],
    /// How long all of them took.
    pub total: Duration,
}

static COUNTS: Mutex<BTreeMap<(&'static str, Ending), Count>> = Mutex::new(BTreeMap::new());

pub(super) fn add(name: EventName, ending: Ending, took: Duration) {
    let place = BOUNDS.iter().position(|bound| took.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
    let mut counts = COUNTS.lock();
    let count = counts.entry((name.word(), ending)).or_default();
    count.by_time[place] += 1;
    count.total += took;
}

/// All counts of this process, by the name of the operation.
pub fn all() -> Vec<(&'static str, Ending, Count)> {
    COUNTS.lock().iter().map(|((name, ending), count)| (*name, *ending, *count)).collect()
}
