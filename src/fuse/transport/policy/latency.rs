//! Whether operations are quick enough for a thread that reads requests: syncs for each, and operations on names and attributes for a
//! thread without a stand-in.
//!
//! They take microseconds, but when a journal is full, or a medium slow, one of them can take as long as many reads and writes, which
//! would have to wait for it. So after a slow one, the next ones go to the dispatcher.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// An operation that takes longer holds up others.
const SLOW: Duration = Duration::from_micros(500);
/// How many operations the dispatcher gets after the first slow one, and at most, as powers of two.
const FIRST_BITS: u32 = 4;
const MAX_BITS: u32 = 12;
/// After this many quick ones in a row a slow one counts as the first again.
const QUICK_STREAK: u32 = 64;

/// How long the last operations took.
#[derive(Debug, Default)]
pub(in crate::fuse::transport) struct LatencyPolicy {
    /// Slow ones that are remembered.
    slow: u32,
    /// Quick ones since the last of them.
    quick: u32,
    /// Operations that are still to go to the dispatcher.
    to_dispatcher: u32,
}

impl LatencyPolicy {
    /// Whether the thread serves the next one itself.
    pub(in crate::fuse::transport) fn expects_quick(&mut self) -> bool {
        let expects_quick = self.to_dispatcher == 0;
        self.to_dispatcher = self.to_dispatcher.saturating_sub(1);
        expects_quick
    }

    /// The thread served one, in this time.
    pub(in crate::fuse::transport) fn took(&mut self, time: Duration) {
        if time > SLOW {
            self.to_dispatcher = 1 << (FIRST_BITS + self.slow).min(MAX_BITS);
            (self.slow, self.quick) = (self.slow.saturating_add(1), 0);
        } else {
            self.quick += 1;
            if self.quick >= QUICK_STREAK {
                (self.slow, self.quick) = (0, 0);
            }
        }
    }
}

/// A sync that takes longer would hold up others.
const QUICK_SYNC: Duration = Duration::from_micros(100);
/// This many quick syncs in a row count as evidence: a disk that has nothing to write is quick now and then.
const QUICK_SYNC_STREAK: u32 = 16;

/// How many syncs in a row were quick.
#[derive(Debug, Default)]
pub(in crate::fuse) struct SyncLatency(AtomicU32);

impl SyncLatency {
    /// Does a sync.
    pub(in crate::fuse) fn measure<T>(&self, sync: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = sync();
        self.took(start.elapsed());
        done
    }

    fn took(&self, time: Duration) {
        let quick = self.0.load(Ordering::Relaxed);
        match time <= QUICK_SYNC {
            // Two at once may count as one, which is harmless.
            true if quick < QUICK_SYNC_STREAK => self.0.store(quick + 1, Ordering::Relaxed),
            true => {}
            false => self.0.store(0, Ordering::Relaxed),
        }
    }

    /// Whether the next sync is likely to be quick, so that a thread that reads requests may do it.
    pub(in crate::fuse::transport) fn expects_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= QUICK_SYNC_STREAK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_to_dispatcher(latency: &mut LatencyPolicy) -> u32 {
        (0..).find(|_| latency.expects_quick()).unwrap()
    }

    #[test]
    fn slow_medium_is_tried_less_and_less() {
        let mut latency = LatencyPolicy::default();
        assert!(latency.expects_quick(), "what is not known is tried");
        let tried: Vec<u32> = (0..20)
            .map(|_| {
                latency.took(SLOW * 2);
                sent_to_dispatcher(&mut latency)
            })
            .collect();
        assert_eq!(tried[..3], [1 << FIRST_BITS, 2 << FIRST_BITS, 4 << FIRST_BITS]);
        assert_eq!(tried.last(), Some(&(1 << MAX_BITS)));
    }

    #[test]
    fn slow_operations_of_long_ago_are_forgotten() {
        let mut latency = LatencyPolicy::default();
        for _ in 0..3 {
            latency.took(SLOW * 2);
            assert_eq!(sent_to_dispatcher(&mut latency), 1 << FIRST_BITS);
            (0..QUICK_STREAK).for_each(|_| latency.took(SLOW));
            assert!(latency.expects_quick());
        }
    }

    #[test]
    fn one_slow_sync_is_enough_to_expect_more() {
        let latency = SyncLatency::default();
        assert!(!latency.expects_quick(), "nothing is known");
        for _ in 0..QUICK_SYNC_STREAK {
            assert!(!latency.expects_quick());
            latency.took(QUICK_SYNC);
        }
        latency.took(Duration::ZERO);
        assert!(latency.expects_quick());
        latency.took(QUICK_SYNC + Duration::from_micros(1));
        assert!(!latency.expects_quick());
        for _ in 1..QUICK_SYNC_STREAK {
            latency.took(QUICK_SYNC);
        }
        assert!(!latency.expects_quick());
        latency.took(QUICK_SYNC);
        assert!(latency.expects_quick());
    }
}
