//! Whether syncs are quick on what lies beneath: then whoever reads requests may carry them out itself.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A sync that takes longer would hold up others who ask for something.
const QUICK: Duration = Duration::from_micros(100);
/// So many quick ones in a row are believed: a disk that has nothing to write is quick now and then.
const BELIEVED: u32 = 16;

/// How many syncs in a row were quick.
#[derive(Debug, Default)]
pub(super) struct SyncTimes(AtomicU32);

impl SyncTimes {
    pub(super) fn took(&self, time: Duration) {
        let quick = self.0.load(Ordering::Relaxed);
        match time <= QUICK {
            // Two at once may count as one, which does no harm.
            true if quick < BELIEVED => self.0.store(quick + 1, Ordering::Relaxed),
            true => {}
            false => self.0.store(0, Ordering::Relaxed),
        }
    }

    pub(super) fn are_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= BELIEVED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_sync_is_enough_to_expect_more() {
        let times = SyncTimes::default();
        assert!(!times.are_quick(), "nothing is known");
        for _ in 0..BELIEVED {
            assert!(!times.are_quick());
            times.took(QUICK);
        }
        times.took(Duration::ZERO);
        assert!(times.are_quick());
        times.took(QUICK + Duration::from_micros(1));
        assert!(!times.are_quick());
        for _ in 1..BELIEVED {
            times.took(QUICK);
        }
        assert!(!times.are_quick());
        times.took(QUICK);
        assert!(times.are_quick());
    }
}
