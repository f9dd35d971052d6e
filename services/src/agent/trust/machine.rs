//! This machine, as it attests: its TPM, and the logs of what was measured.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::config::Config;
use vmcryptfs::provider::private_file::open_regular;
use vmcryptfs::text::Show;
use vmcryptfs_attest::pcr::PcrSelection;

use crate::tpm::HostTpm;

const TPM: &str = "/dev/tpmrm0";
const FIRMWARE_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const USERSPACE_LOG: &str = "/run/log/systemd/tpm2-measure.log";
/// Longest log that is sent: an authority takes requests of 1 MiB, in which it is base64.
const MAX_LOG: u64 = 700 << 10;
/// The log of a firmware that has measured nothing (TCG PC Client Platform Firmware Profile, "Event Logging").
const EMPTY_LOG: &[u8] = b"\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x21\0\0\0Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";

/// What of this machine attests.
pub(super) struct Machine {
    config: PathBuf,
    /// One conversation with the TPM at a time: an emulator takes no other.
    talking: Mutex<()>,
}

/// The TPM, while this process talks with it.
pub(super) struct Talk<'m> {
    pub(super) tpm: HostTpm,
    _talking: MutexGuard<'m, ()>,
}

/// What was measured.
pub(super) struct Logs {
    pub(super) firmware: Vec<u8>,
    pub(super) userspace: Vec<u8>,
}

impl Machine {
    pub(super) fn of(config: &Path) -> Self {
        Self { config: config.to_path_buf(), talking: Mutex::default() }
    }

    /// Begins to talk with the TPM.
    ///
    /// # Errors
    /// Those of the configuration and of [`HostTpm::open`].
    pub(super) fn talk(&self, limit: Duration) -> Result<Talk<'_>> {
        let config = Config::load(&self.config)?;
        let path = config.agent().tpm.as_deref().unwrap_or(Path::new(TPM));
        let talking = self.talking.lock();
        Ok(Talk { tpm: HostTpm::open(path, limit)?, _talking: talking })
    }

    /// The logs that go with a quote of these registers. Where none are quoted there need be no log.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Invalid` when one is too long, `Io`.
    pub(super) fn logs(&self, quoted: PcrSelection) -> Result<Logs> {
        let config = Config::load(&self.config)?;
        let place = config.agent().firmware_log.as_deref().unwrap_or(Path::new(FIRMWARE_LOG));
        let firmware = match read(place)? {
            Some(log) => log,
            None if quoted.is_empty() => EMPTY_LOG.to_vec(),
            None => {
                let found = format!("the firmware's event log is not at {}: is securityfs mounted?", place.shown());
                return Err(Error::new(Kind::NotFound, found));
            }
        };
        let place = config.agent().userspace_log.as_deref().unwrap_or(Path::new(USERSPACE_LOG));
        Ok(Logs { firmware, userspace: read(place)?.unwrap_or_default() })
    }
}

/// What is in a file, if there is one. Files of the kernel do not say how long they are.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let reading = || format!("reading {}", path.shown());
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.context(reading)?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_LOG + 1).read_to_end(&mut bytes).context(reading)?;
    match bytes.len() as u64 {
        ..=MAX_LOG => Ok(Some(bytes)),
        _ => Err(Error::new(Kind::Invalid, format!("{} has over {MAX_LOG} bytes", path.shown()))),
    }
}

/// A file that is booted.
///
/// # Errors
/// `NotFound`, `Invalid` when it is longer than such files are or not a regular file, `Denied`, `Io`.
pub(super) fn boot_file(path: &Path) -> Result<Vec<u8>> {
    const MAX: u64 = 1 << 30;
    let (file, metadata) = open_regular(path)?;
    let len = metadata.len();
    if len > MAX {
        return Err(Error::new(Kind::Invalid, format!("{} has {len} bytes, expected at most {MAX}", path.shown())));
    }
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes).context(|| format!("reading {}", path.shown()))?;
    Ok(bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn what_is_booted_is_a_file_and_nothing_without_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        std::fs::write(&path, [7; 5000]).unwrap();
        assert_eq!(boot_file(&path).unwrap(), [7; 5000]);
        assert_eq!(boot_file(&folder.path().join("initrd")).unwrap_err().kind(), Kind::NotFound);
        for other in [Path::new("/dev/null"), folder.path()] {
            assert_eq!(boot_file(other).unwrap_err().kind(), Kind::Invalid, "{other:?}");
        }
    }
}
