//! A host that does not reach its board: `max-offline` of `[agent]` says for how long it keeps the keys of its cluster then.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::error::Result;
use vmcryptfs::provider::config::Config;
use vmcryptfs::timestamp::Timestamp;

use super::moment::Moment;

/// How often the time of the last contact is stored, for an agent that begins without its board.
const STORE: Duration = Duration::from_secs(60);

/// The board is looked at every two seconds, and a look takes its time: a shorter time without it says nothing.
const LEAST: Duration = Duration::from_secs(6);

/// When the board was reached last.
pub(super) struct Contact {
    config: PathBuf,
    last: Mutex<Moment>,
    /// When that was stored.
    stored: Mutex<Option<Instant>>,
    max: Mutex<Max>,
}

/// `max-offline` as it was read last: a configuration that was damaged since then must not prolong anything.
#[derive(Default)]
struct Max {
    time: Option<Duration>,
    /// That it could not be read is told once.
    is_told: bool,
}

impl Contact {
    /// That of a host with this configuration, which may be the one of an earlier agent. Without one it is now.
    ///
    /// # Errors
    /// Those of the host's files.
    pub(super) fn load(config: &Path) -> Result<Self> {
        let time = HostFiles::of(config).contact()?.unwrap_or_else(Timestamp::now);
        let (last, stored) = (Mutex::new(Moment::at(time)), Mutex::default());
        let contact = Self { config: config.to_path_buf(), last, stored, max: Mutex::default() };
        contact.max();
        Ok(contact)
    }

    /// The board was reached.
    pub(super) fn renew(&self) {
        let now = Moment::now();
        *self.last.lock() = now;
        let mut stored = self.stored.lock();
        if stored.is_some_and(|stored| stored.elapsed() < STORE) {
            return;
        }
        match self.store(now.time()) {
            Ok(true) => *stored = Some(Instant::now()),
            Ok(false) => {}
            Err(error) => tracing::warn!("storing when the board was reached: {}", error.chain()),
        }
    }

    /// Returns whether that is needed.
    fn store(&self, time: Timestamp) -> Result<bool> {
        if self.max().is_none() {
            return Ok(false);
        }
        HostFiles::of(&self.config).keep_contact(time).map(|()| true)
    }

    /// For how long the board was not reached, if that is longer than it may be.
    pub(super) fn exceeded(&self) -> Option<Duration> {
        let max = self.max()?;
        Some(self.last.lock().age()).filter(|age| *age >= max.max(LEAST))
    }

    fn max(&self) -> Option<Duration> {
        let found = Config::load(&self.config);
        let mut max = self.max.lock();
        match found {
            Ok(config) => *max = Max { time: config.agent().max_offline, is_told: false },
            Err(error) if !max.is_told => {
                tracing::warn!("looking for max-offline, which stays as it was: {}", error.chain());
                max.is_told = true;
            }
            Err(_) => {}
        }
        max.time
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_configuration_that_is_damaged_later_does_not_switch_the_limit_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("[agent]\nmax-offline = \"1h\"\n");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let contact = Contact::load(&path).unwrap();
        *contact.last.lock() = Moment::at(Timestamp::now().before(Duration::from_secs(7200)));
        assert!(contact.exceeded().is_some());
        write("[agent\nmax-offline");
        assert!(contact.exceeded().is_some());
        write("[agent]\nmax-offline = \"3h\"\n");
        assert!(contact.exceeded().is_none());
        write("[agent]\nmax-offline = \"1s\"\n");
        for (seconds, is_exceeded) in [(3, false), (7, true)] {
            *contact.last.lock() = Moment::at(Timestamp::now().before(Duration::from_secs(seconds)));
            assert_eq!(contact.exceeded().is_some(), is_exceeded, "between two looks at the board, {seconds} s");
        }
        write("");
        *contact.last.lock() = Moment::at(Timestamp::from_secs(0));
        assert!(contact.exceeded().is_none());
    }
}
