//! How many events this process had, and how many of them it could not record.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::EventName;

/// By name, and whether they report a failure.
static EVENTS: Mutex<BTreeMap<(&'static str, bool), u64>> = Mutex::new(BTreeMap::new());
static UNRECORDED: AtomicU64 = AtomicU64::new(0);

pub(super) fn add(name: EventName, failed: bool) {
    *EVENTS.lock().entry((name.word(), failed)).or_default() += 1;
}

pub(super) fn add_unrecorded() {
    UNRECORDED.fetch_add(1, Ordering::Relaxed);
}

/// All events: their name, whether they report a failure, and how many there were.
pub fn all() -> Vec<(&'static str, bool, u64)> {
    EVENTS.lock().iter().map(|((name, failed), count)| (*name, *failed, *count)).collect()
}

/// Events that could not be recorded, or not in time.
pub fn unrecorded() -> u64 {
    UNRECORDED.load(Ordering::Relaxed)
}
