//! The dump key of this host: made with its host key, and kept where the handler of dumps finds the public half.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::cluster::host;
use crate::crypto::hpke::SealKey;
use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::dump::{DumpKey, DumpKeyFile, MAX_FILE_LEN};
use crate::key::ProviderName;
use crate::provider::{KeyHost, Providers, private_file};
use crate::sys::process::host_name;
use crate::text::Show;
use crate::timestamp::Timestamp;

/// The file of a host's dump key.
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// That of a host with this configuration.
    pub fn of(config: &Path) -> Self {
        Self { path: host::folder(config).join("dump-key") }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until no other process changes it; the lock ends when the file is closed.
    ///
    /// # Errors
    /// `Io`.
    pub fn lock(&self) -> Result<File> {
        private_file::create_folder(private_file::folder_of(&self.path))?;
        private_file::lock(&self.path)
    }

    /// What is in it; `None` where this host has none.
    ///
    /// # Errors
    /// `Denied` when others could have put another key there, `Corrupt`, `Unsupported`, `Io`.
    pub fn load(&self) -> Result<Option<DumpKeyFile>> {
        let Some(bytes) = private_file::read_if_there(MAX_FILE_LEN, &self.path)? else { return Ok(None) };
        DumpKeyFile::decode(&bytes).map(Some).context(|| format!("reading {}", self.path.shown()))
    }

    /// Keeps a key in place of the one that is there. Dumps that were encrypted to that one open as before.
    ///
    /// # Errors
    /// `Io`.
    pub fn keep(&self, key: &DumpKeyFile) -> Result<()> {
        private_file::replace(&self.path, &[&key.encode()?])
    }
}

/// Makes a host key of a provider, and a dump key whose private half it wraps. The host key is fetched again, and has to open what it
/// has wrapped, before anything is encrypted.
///
/// # Errors
/// `KeyUnavailable` when the provider makes no key or does not give it out, `Io`.
pub fn make(providers: &Providers, provider: &ProviderName) -> Result<DumpKeyFile> {
    let host = KeyHost { name: host_name().shown().to_string(), hardware: hardware()? };
    let (host_key, kek) = providers.provider(provider)?.create_host_key(&host)?;
    let pair = SealKey::generate()?;
    let key = DumpKey::wrap(random::uuid()?, &pair, host_key, kek.as_ref())?;
    let proven = providers.fetch(&key.host_key).and_then(|kek| key.unwrap(kek.as_ref()));
    proven.context(|| format!("proving the new host key {}", key.host_key))?;
    Ok(DumpKeyFile { made: Timestamp::now(), key })
}

/// The UUID of this machine: that of its firmware, else that of its system.
fn hardware() -> Result<Uuid> {
    const PLACES: [&str; 2] = ["/sys/class/dmi/id/product_uuid", "/etc/machine-id"];
    let found = PLACES.iter().filter_map(|place| fs::read_to_string(place).ok()).find_map(|text| machine_uuid(&text));
    found.ok_or_else(|| {
        let message = format!("neither {} nor {} has a UUID of this host", PLACES[0], PLACES[1]);
        Error::new(Kind::NotFound, message)
    })
}

/// Some firmware has the same digit all over.
fn machine_uuid(text: &str) -> Option<Uuid> {
    text.trim().parse().ok().filter(|uuid: &Uuid| !uuid.is_nil() && !uuid.is_max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_of_machines_are_read_in_both_forms() {
        let uuid = Uuid::from_u128(0x4c4c_4544_0051_3810_8052_b8c0_4f4e_3532);
        for text in ["4C4C4544-0051-3810-8052-B8C04F4E3532\n", "4c4c4544005138108052b8c04f4e3532\n"] {
            assert_eq!(machine_uuid(text), Some(uuid), "{text}");
        }
        for text in ["", "To be filled by O.E.M.", &"0".repeat(32), "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF"] {
            assert_eq!(machine_uuid(text), None, "{text}");
        }
    }
}
