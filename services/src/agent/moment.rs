//! Points in time that a host may have slept since.

use std::time::{Duration, Instant};

use vmcryptfs::timestamp::Timestamp;

/// A point in time, by two clocks.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    /// By one that nobody sets, which stands still while the host sleeps.
    seen: Instant,
    /// By the host's clock.
    time: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self::at(Timestamp::now())
    }

    /// One of this time, of which the first clock knows nothing: before this process began, or the host slept.
    pub(super) fn at(time: Timestamp) -> Self {
        Self { seen: Instant::now(), time }
    }

    /// By the host's clock.
    pub(super) fn time(&self) -> Timestamp {
        self.time
    }

    /// For how long it is over, by the clock that says more.
    pub(super) fn age(&self) -> Duration {
        let by_clock = Timestamp::now().since_1970().saturating_sub(self.time.since_1970());
        self.seen.elapsed().max(by_clock)
    }
}
