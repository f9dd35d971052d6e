//! When a reader of the device spins for a moment, looking for the next request, instead of going to sleep at once.
//!
//! Waking a thread takes tens of microseconds, most of all when its CPU went idle, and a client with one request at a time sends the
//! next one sooner than that. So a thread whose last wait was short spins before sleeping; one that waited long sleeps at once: an idle
//! mount costs nothing. Threads of rings, which may share a CPU with the client, have rules of their own ([`super::migration`]).

use std::thread;
use std::time::{Duration, Instant};

/// How long a reader spins.
const SPIN_TIME: Duration = Duration::from_micros(40);
/// A wait that was no longer than this, the time to wake up included, could have been spent spinning.
const SHORT: Duration = Duration::from_micros(80);

/// One reader's waits.
pub(in crate::fuse::transport) struct SpinPolicy {
    /// With a single CPU no client can run while we spin.
    other_cpus: bool,
    pays: bool,
}

impl SpinPolicy {
    pub(in crate::fuse::transport) fn new() -> Self {
        Self { other_cpus: thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1), pays: false }
    }

    /// Until when to spin, in a wait that begins now; `None`: not at all.
    pub(in crate::fuse::transport) fn until(&self, now: Instant) -> Option<Instant> {
        self.pays.then(|| now + SPIN_TIME)
    }

    /// A wait that began then is over.
    pub(in crate::fuse::transport) fn ended(&mut self, start: Instant) {
        self.pays = self.other_cpus && start.elapsed() < SHORT;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_wait_ends_spinning() {
        let now = Instant::now();
        let mut spin = SpinPolicy { other_cpus: true, pays: false };
        assert_eq!(spin.until(now), None, "nothing is known yet");
        spin.ended(Instant::now());
        assert_eq!(spin.until(now), Some(now + SPIN_TIME));
        spin.ended(now.checked_sub(Duration::from_millis(1)).unwrap());
        assert_eq!(spin.until(now), None);
        let mut alone = SpinPolicy { other_cpus: false, pays: false };
        alone.ended(Instant::now());
        assert_eq!(alone.until(now), None);
    }
}
