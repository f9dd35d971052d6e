//! Limits on how often the same failure is logged and recorded. Forged data, or a program that asks in vain again and again, must
//! neither fill the disk nor push everything else out of the logs.
//!
//! The first failures of a kind are reported one by one, the others of the same minute are counted. The same failure again is
//! neither. [`report`] reports the counts.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Event;
use crate::error::{Error, Kind};
use crate::text;

/// For this long failures of one kind are counted together.
pub const PERIOD: Duration = Duration::from_secs(60);
/// At most this many kinds at once have counts of their own.
const MAX_KINDS: usize = 256;
/// At most this many failures of a kind are remembered; beyond them the same one counts again.
const MAX_REMEMBERED: usize = 4096;

/// Log lines, by what they are about and the kind of failure.
static LINES: Limit<(String, String)> = Limit::new();
/// Events, by the event that is left in place of those that are counted.
static EVENTS: Limit<(Event, Kind)> = Limit::new();

/// Whether the log should have a line about a failure of `what`: once a minute for each kind.
pub fn allows_line(what: String, kind: String, failure: &str) -> bool {
    LINES.allows((what, kind), 1, &failure)
}

fn more_failures(count: u64) -> String {
    text::count(count, "more failure", "more failures")
}

/// Logs and records how many failures of each kind were counted, for kinds that are older than this.
pub fn report(age: Duration) {
    for (kind, count) in LINES.take(age) {
        match kind {
            Some((what, _)) => tracing::warn!("{what}: {} of this kind", more_failures(count)),
            None => tracing::warn!("{}, of too many kinds to name them", more_failures(count)),
        }
    }
    for (kind, count) in EVENTS.take(age) {
        match kind {
            Some((event, kind)) => {
                event.failed(&Error::new(kind, format!("and {} of this kind", more_failures(count))))
            }
            None => tracing::error!("not in the event log: {}, of other components", more_failures(count)),
        }
    }
}

impl Event {
    /// Records a failure that forged data can cause any number of times, if it is one of the first `most` of its group and kind within
    /// a minute, and says so. The others are counted: `group` is the event that reports their number.
    pub fn failed_as_one_of(&self, group: Event, most: u64, error: &Error) -> bool {
        let allowed = EVENTS.allows((group, error.kind()), most, &(self, error.chain()));
        if allowed {
            self.failed(error);
        }
        allowed
    }
}

/// Counts by kind; `None` is all kinds beyond [`MAX_KINDS`].
struct Limit<K>(Mutex<BTreeMap<Option<K>, Count>>);

struct Count {
    since: Instant,
    /// Hashes of the failures that were met.
    met: BTreeSet<u64>,
    reported: u64,
    counted: u64,
}

impl<K: Clone + Ord> Limit<K> {
    const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Whether a failure is reported. If not, it is counted, unless it is one that was met before.
    fn allows(&self, kind: K, most: u64, failure: &impl Hash) -> bool {
        let (mut counts, kind) = (self.0.lock(), Some(kind));
        let has_own = counts.len() < MAX_KINDS || counts.contains_key(&kind);
        let (kind, most) = if has_own { (kind, most) } else { (None, 0) };
        let new = || Count { since: Instant::now(), met: BTreeSet::new(), reported: 0, counted: 0 };
        let count = counts.entry(kind).or_insert_with(new);
        let mut hasher = DefaultHasher::new();
        failure.hash(&mut hasher);
        if count.met.contains(&hasher.finish()) {
            return false;
        }
        if count.met.len() < MAX_REMEMBERED {
            count.met.insert(hasher.finish());
        }
        let allowed = count.reported < most;
        *(if allowed { &mut count.reported } else { &mut count.counted }) += 1;
        allowed
    }

    /// Forgets the kinds that are older than this, and returns those of which some were counted.
    fn take(&self, age: Duration) -> Vec<(Option<K>, u64)> {
        let mut taken = Vec::new();
        self.0.lock().retain(|kind, count| {
            let is_young = count.since.elapsed() < age;
            if !is_young && count.counted > 0 {
                taken.push((kind.clone(), count.counted));
            }
            is_young
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_are_reported_and_the_others_counted() {
        let limit = Limit::new();
        let reported = (0..2000).chain(0..2000).filter(|block| limit.allows("a", 2, block)).count();
        assert_eq!((reported, limit.allows("b", 1, &0)), (2, true), "each kind has a limit of its own");
        assert_eq!(limit.take(PERIOD), [], "the minute is not over");
        assert_eq!(limit.take(Duration::ZERO), [(Some("a"), 1998)]);
        assert!(limit.allows("a", 2, &0), "a new minute");
    }

    #[test]
    fn any_number_of_kinds_is_reported_as_few() {
        let limit = Limit::new();
        let reported = (0..4000).filter(|kind| limit.allows(*kind, 1, kind)).count();
        assert_eq!(reported, MAX_KINDS);
        assert_eq!(limit.take(Duration::ZERO), [(None, 4000 - MAX_KINDS as u64)]);
    }
}
