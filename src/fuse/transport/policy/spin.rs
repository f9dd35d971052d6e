//! When a reader of the device looks for the next request for a moment, instead of going to sleep at once.
//!
//! To be woken takes tens of microseconds, most of all where the CPU went idle, and a client with one request at a time asks for the
//! next one sooner than that. So who did not wait for long looks before it sleeps. Who did sleeps at once: an idle mount costs
//! nothing. Threads of rings, which may share a CPU with the client, have rules of their own ([`super::migration`]).

use std::thread;
use std::time::{Duration, Instant};

/// How long a reader looks.
const PATIENCE: Duration = Duration::from_micros(40);
/// A wait that was no longer than this, with the time that waking takes, could have been a look.
const SHORT: Duration = Duration::from_micros(80);

/// One reader's waits.
pub(in crate::fuse::transport) struct Looking {
    /// On the only CPU no client could ask meanwhile.
    has_company: bool,
    pays: bool,
}

impl Looking {
    pub(in crate::fuse::transport) fn new() -> Self {
        Self { has_company: thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1), pays: false }
    }

    /// Until when to look, in a wait that begins now; `None`: not at all.
    pub(in crate::fuse::transport) fn until(&self, now: Instant) -> Option<Instant> {
        self.pays.then(|| now + PATIENCE)
    }

    /// A wait is over that began then.
    pub(in crate::fuse::transport) fn ended(&mut self, start: Instant) {
        self.pays = self.has_company && start.elapsed() < SHORT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_long_does_not_look() {
        let now = Instant::now();
        let mut looking = Looking { has_company: true, pays: false };
        assert_eq!(looking.until(now), None, "nothing is known yet");
        looking.ended(Instant::now());
        assert_eq!(looking.until(now), Some(now + PATIENCE));
        looking.ended(now.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(looking.until(now), None);
        let mut alone = Looking { has_company: false, pays: false };
        alone.ended(Instant::now());
        assert_eq!(alone.until(now), None);
    }
}
