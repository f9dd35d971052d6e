//! A host that does not reach its board: `max-offline` of `[agent]` says for how long it keeps the keys of its cluster then.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::error::Result;
use vmcryptfs::provider::config::Config;
use vmcryptfs::timestamp::Timestamp;

/// How often the time of the last contact is stored, for an agent that begins without its board.
const STORE: Duration = Duration::from_secs(60);

/// When the board was reached last.
pub(super) struct Contact {
    config: PathBuf,
    last: Mutex<Last>,
}

struct Last {
    /// By a clock that nobody sets, which stands still while the host sleeps.
    seen: Instant,
    /// By the host's clock.
    time: Timestamp,
    stored: Option<Instant>,
}

impl Contact {
    /// That of a host with this configuration, which may be the one of an earlier agent. Without one it is now.
    ///
    /// # Errors
    /// Those of the host's files.
    pub(super) fn load(config: &Path) -> Result<Self> {
        let time = HostFiles::of(config).contact()?.unwrap_or_else(Timestamp::now);
        let last = Last { seen: Instant::now(), time, stored: None };
        Ok(Self { config: config.to_path_buf(), last: Mutex::new(last) })
    }

    /// The board was reached.
    pub(super) fn renew(&self) {
        let mut last = self.last.lock();
        (last.seen, last.time) = (Instant::now(), Timestamp::now());
        if last.stored.is_some_and(|stored| stored.elapsed() < STORE) {
            return;
        }
        match self.store(last.time) {
            Ok(true) => last.stored = Some(last.seen),
            Ok(false) => {}
            Err(error) => tracing::warn!("storing when the board was reached: {}", error.chain()),
        }
    }

    /// Returns whether that is needed.
    fn store(&self, time: Timestamp) -> Result<bool> {
        if Config::load(&self.config)?.agent().max_offline.is_none() {
            return Ok(false);
        }
        HostFiles::of(&self.config).keep_contact(time).map(|()| true)
    }

    /// For how long the board was not reached, if that is longer than it may be.
    pub(super) fn exceeded(&self) -> Option<Duration> {
        let max = match Config::load(&self.config) {
            Ok(config) => config.agent().max_offline?,
            Err(error) => {
                tracing::warn!("looking for max-offline: {}", error.chain());
                return None;
            }
        };
        let last = self.last.lock();
        let by_clock = Timestamp::now().since_1970().saturating_sub(last.time.since_1970());
        Some(last.seen.elapsed().max(by_clock)).filter(|age| *age >= max)
    }
}
