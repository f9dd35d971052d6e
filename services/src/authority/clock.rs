//! The time by which nonces and tokens end.

use std::time::{Duration, Instant};

use vmcryptfs::timestamp::Timestamp;

/// The time of the system's clock when the process began, and what went by since: setting the clock lengthens no token's life.
#[derive(Clone, Copy)]
pub struct Clock {
    begun: Instant,
    time: Duration,
}

impl Clock {
    /// One that begins now.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), time: Timestamp::now().since_1970() }
    }

    /// Since 1970.
    pub fn now(&self) -> Duration {
        self.time + self.begun.elapsed()
    }

    /// Seconds since 1970.
    pub fn seconds(&self) -> u64 {
        self.now().as_secs()
    }

    /// One that is this much ahead.
    #[cfg(test)]
    pub(crate) fn ahead(&self, by: Duration) -> Self {
        Self { begun: self.begun, time: self.time + by }
    }
}
