//! Primary keys: what a provider that needs no key server keeps on this host (docs/FORMAT.md, section 5).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::private_file;
use crate::crypto::derive::sha256;
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Context, Error, Kind, Result};
use crate::key::{KEK_LEN, ProviderName};
use crate::sys::SecretBytes;
use crate::text::Show;

const MAGIC: [u8; 8] = *b"VMCRYPTP";
const VERSION: [u8; 2] = 1_u16.to_le_bytes();
/// Magic and version: what all versions begin with.
const START_LEN: usize = 10;
/// Magic, version, reserved bytes, uuid, key; the checksum over them follows.
const BODY_LEN: usize = 64;
const UUID_AT: usize = 16;
const KEY_AT: usize = 32;
const CHECKSUM_LEN: usize = 32;
const FILE_LEN: u64 = 96;

/// What the configuration file says of a provider with a primary key.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// File of the primary key, relative to the folder of the configuration file or absolute.
    pub primary_key: PathBuf,
    /// Whether a backup of the primary key was made and verified.
    #[serde(default)]
    pub backed_up: bool,
}

impl Settings {
    /// What a new provider of this name gets.
    pub fn of(name: &ProviderName) -> Self {
        Self { primary_key: format!("keys/{name}.key").into(), backed_up: false }
    }

    /// File of the primary key, given the configuration file.
    pub fn primary_key_of(&self, config: &Path) -> PathBuf {
        private_file::folder_of(config).join(&self.primary_key)
    }
}

/// The key that wraps a host's KEKs, and the UUID that their key ids begin with.
pub struct PrimaryKey {
    uuid: Uuid,
    key: LocalKek,
}

impl PrimaryKey {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self { uuid: random::uuid()?, key: LocalKek::random()? })
    }

    /// The one with these bytes.
    ///
    /// # Errors
    /// `Invalid` when they are not 32.
    pub(super) fn new(uuid: Uuid, key: SecretBytes) -> Result<Self> {
        Ok(Self { uuid, key: LocalKek::new(key)? })
    }

    /// Its name, which is not secret.
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// What wraps KEKs.
    pub(super) fn kek(&self) -> &LocalKek {
        &self.key
    }

    /// The key itself. Copy it nowhere.
    pub(super) fn bytes(&self) -> &[u8] {
        self.key.bytes()
    }

    /// Reads a primary key file.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when others than its owner can read or change it, `Corrupt` when it
    /// is damaged, `Unsupported` when it is of a later version, `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let file = match private_file::open(path) {
            Err(error) if error.kind() == Kind::NotFound => Err(Error::with_source(
                Kind::KeyUnavailable,
                format!("no primary key file {}: restore it from its backup", path.shown()),
                error,
            )),
            opened => opened,
        }?;
        let reading = || format!("reading the primary key file {}", path.shown());
        Self::read(&file).context(reading)
    }

    fn read(file: &File) -> Result<Self> {
        let mut start = [0; START_LEN];
        let len = file.metadata().context(|| "asking for its length".into())?.len();
        if len >= START_LEN as u64 {
            file.read_exact_at(&mut start, 0).context(|| "its first bytes".into())?;
        }
        check_start(&start)?;
        if len != FILE_LEN {
            return Err(Error::new(Kind::Corrupt, format!("{len} bytes, expected {FILE_LEN}")));
        }
        let mut body = SecretBytes::zeroed(BODY_LEN);
        let mut checksum = [0; CHECKSUM_LEN];
        file.read_exact_at(&mut body, 0).context(|| "its content".into())?;
        file.read_exact_at(&mut checksum, BODY_LEN as u64).context(|| "its checksum".into())?;
        Self::decode(&body, checksum)
    }

    /// Makes a primary key file, readable only by this user.
    ///
    /// # Errors
    /// `Exists` when there is a file already, `Io`.
    pub fn create(&self, path: &Path) -> Result<()> {
        private_file::create_folder(private_file::folder_of(path))?;
        let body = self.encode();
        private_file::create(path, &[&body, &sha256(&body)])
    }

    /// Puts a whole primary key file in the place of a damaged one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn replace(&self, path: &Path) -> Result<()> {
        let body = self.encode();
        private_file::replace(path, &[&body, &sha256(&body)])
    }

    /// The UUID that a primary key file says it has, be it damaged or not; `None` when it is not recognised as one.
    pub(super) fn claimed_uuid(path: &Path) -> Result<Option<Uuid>> {
        let mut start = [0; KEY_AT];
        let file = private_file::open(path)?;
        let claimed = file.read_exact_at(&mut start, 0).is_ok() && start.starts_with(&MAGIC);
        Ok(claimed.then(|| Uuid::from_slice(&start[UUID_AT..]).ok()).flatten())
    }

    fn encode(&self) -> SecretBytes {
        let mut body = SecretBytes::zeroed(BODY_LEN);
        body[..8].copy_from_slice(&MAGIC);
        body[8..10].copy_from_slice(&VERSION);
        body[UUID_AT..KEY_AT].copy_from_slice(self.uuid.as_bytes());
        body[KEY_AT..].copy_from_slice(self.key.bytes());
        body
    }

    fn decode(body: &SecretBytes, checksum: [u8; CHECKSUM_LEN]) -> Result<Self> {
        if checksum != sha256(body) {
            return Err(Error::new(Kind::Corrupt, "the primary key file is damaged: its checksum does not match"));
        }
        if body[START_LEN..UUID_AT] != [0; 6] {
            return Err(Error::new(Kind::Corrupt, "reserved bytes of the primary key file are set"));
        }
        let uuid = Uuid::from_slice(&body[UUID_AT..KEY_AT])
            .map_err(|error| Error::with_source(Kind::Corrupt, "the primary key's uuid", error))?;
        let mut key = SecretBytes::zeroed(KEK_LEN);
        key.copy_from_slice(&body[KEY_AT..]);
        Self::new(uuid, key)
    }
}

/// Another version may have another length, so this is judged first.
fn check_start(start: &[u8; START_LEN]) -> Result<()> {
    let (magic, version) = start.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Error::new(Kind::Corrupt, "not a primary key file: it does not begin with VMCRYPTP"));
    }
    if version != VERSION {
        return Err(Error::new(Kind::Unsupported, "a primary key file of another version, expected version 1"));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
