//! Files of one secret of 32 bytes and its UUID: primary keys, and shares of KEKs (docs/FORMAT.md, section 5).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

use super::private_file;
use crate::crypto::derive::sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::key::KEK_LEN;
use crate::sys::SecretBytes;
use crate::text::Show;

const VERSION: [u8; 2] = 1_u16.to_le_bytes();
const MAGIC_LEN: usize = 8;
/// Magic and version: what all versions begin with.
const START_LEN: usize = 10;
/// Magic, version, reserved bytes, uuid, secret; the checksum over them follows.
const BODY_LEN: usize = 64;
const UUID_AT: usize = 16;
const SECRET_AT: usize = 32;
const CHECKSUM_LEN: usize = 32;
const FILE_LEN: u64 = 96;

/// What tells one kind of file from another.
pub(super) struct Form {
    /// What it begins with.
    pub(super) magic: [u8; MAGIC_LEN],
    /// What people call what is in it.
    pub(super) called: &'static str,
}

/// What is in a file.
pub(super) struct Content {
    pub(super) uuid: Uuid,
    pub(super) secret: SecretBytes,
}

impl Form {
    /// Reads a file.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when others than its owner can read or change it, `Corrupt` when it
    /// is damaged, `Unsupported` when it is of a later version, `Io`.
    pub(super) fn load(&self, path: &Path) -> Result<Content> {
        let file = match private_file::open(path) {
            Err(error) if error.kind() == Kind::NotFound => Err(Error::with_source(
                Kind::KeyUnavailable,
                format!("no {} file {}: restore it from its backup", self.called, path.shown()),
                error,
            )),
            opened => opened,
        }?;
        let reading = || format!("reading the {} file {}", self.called, path.shown());
        self.read(&file).context(reading)
    }

    fn read(&self, file: &File) -> Result<Content> {
        let mut start = [0; START_LEN];
        let len = file.metadata().context(|| "asking for its length".into())?.len();
        if len >= START_LEN as u64 {
            file.read_exact_at(&mut start, 0).context(|| "its first bytes".into())?;
        }
        self.check_start(&start)?;
        if len != FILE_LEN {
            return Err(Error::new(Kind::Corrupt, format!("{len} bytes, expected {FILE_LEN}")));
        }
        let mut body = SecretBytes::zeroed(BODY_LEN);
        let mut checksum = [0; CHECKSUM_LEN];
        file.read_exact_at(&mut body, 0).context(|| "its content".into())?;
        file.read_exact_at(&mut checksum, BODY_LEN as u64).context(|| "its checksum".into())?;
        self.decode(&body, checksum)
    }

    /// Makes a file, readable only by this user.
    ///
    /// # Errors
    /// `Exists` when there is a file already, `Io`.
    pub(super) fn create(&self, path: &Path, uuid: Uuid, secret: &[u8]) -> Result<()> {
        private_file::create_folder(private_file::folder_of(path))?;
        let body = self.encode(uuid, secret);
        private_file::create(path, &[&body, &sha256(&body)])
    }

    /// Puts a whole file in the place of a damaged one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn replace(&self, path: &Path, uuid: Uuid, secret: &[u8]) -> Result<()> {
        let body = self.encode(uuid, secret);
        private_file::replace(path, &[&body, &sha256(&body)])
    }

    /// The UUID that a file says it has, be it damaged or not; `None` when it is not recognised as one.
    pub(super) fn claimed_uuid(&self, path: &Path) -> Result<Option<Uuid>> {
        let mut start = [0; SECRET_AT];
        let file = private_file::open(path)?;
        let claimed = file.read_exact_at(&mut start, 0).is_ok() && start.starts_with(&self.magic);
        Ok(claimed.then(|| Uuid::from_slice(&start[UUID_AT..]).ok()).flatten())
    }

    pub(super) fn encode(&self, uuid: Uuid, secret: &[u8]) -> SecretBytes {
        let mut body = SecretBytes::zeroed(BODY_LEN);
        body[..MAGIC_LEN].copy_from_slice(&self.magic);
        body[MAGIC_LEN..START_LEN].copy_from_slice(&VERSION);
        body[UUID_AT..SECRET_AT].copy_from_slice(uuid.as_bytes());
        body[SECRET_AT..].copy_from_slice(secret);
        body
    }

    pub(super) fn decode(&self, body: &SecretBytes, checksum: [u8; CHECKSUM_LEN]) -> Result<Content> {
        let called = self.called;
        if checksum != sha256(body) {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the {called} file is damaged: its checksum does not match"),
            ));
        }
        if body[START_LEN..UUID_AT] != [0; 6] {
            return Err(Error::new(Kind::Corrupt, format!("reserved bytes of the {called} file are set")));
        }
        let uuid = Uuid::from_slice(&body[UUID_AT..SECRET_AT])
            .map_err(|error| Error::with_source(Kind::Corrupt, format!("the {called}'s uuid"), error))?;
        let mut secret = SecretBytes::zeroed(KEK_LEN);
        secret.copy_from_slice(&body[SECRET_AT..]);
        Ok(Content { uuid, secret })
    }

    /// Another version may have another length, so this is judged first.
    fn check_start(&self, start: &[u8; START_LEN]) -> Result<()> {
        let (called, magic) = (self.called, String::from_utf8_lossy(&self.magic));
        if start[..MAGIC_LEN] != self.magic {
            return Err(Error::new(Kind::Corrupt, format!("not a {called} file: it does not begin with {magic}")));
        }
        if start[MAGIC_LEN..] != VERSION {
            return Err(Error::new(
                Kind::Unsupported,
                format!("a {called} file of another version, expected version 1"),
            ));
        }
        Ok(())
    }
}
