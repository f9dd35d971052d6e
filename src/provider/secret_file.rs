//! Files of one secret of 32 bytes and its UUID: primary keys, and shares of KEKs (docs/FORMAT.md, section 5).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use uuid::Uuid;

use super::private_file;
use crate::crypto::derive::sha256;
use crate::error::{Context, Error, Kind, Result};
use crate::format::secret_file::{CHECKSUM_LEN, START_LEN, SecretFile};
use crate::key::KEK_LEN;
use crate::sys::SecretBytes;
use crate::text::Show;

/// Magic, version, reserved bytes, uuid, secret; the checksum over them follows.
const BODY_LEN: usize = 64;
const UUID_AT: usize = 16;
const SECRET_AT: usize = 32;

/// What tells one kind of file from another.
pub(super) struct Form(SecretFile);

/// What is in a file.
pub(super) struct Content {
    pub(super) uuid: Uuid,
    pub(super) secret: SecretBytes,
}

impl Form {
    /// Files that begin with this magic. `called` is what people call what is in them.
    pub(super) const fn new(magic: [u8; 8], called: &'static str) -> Self {
        Self(SecretFile { magic, called, len: BODY_LEN + CHECKSUM_LEN })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `KeyUnavailable` when there is none, `Denied` when others than its owner can read or change it, `Corrupt` when it
    /// is damaged, `Unsupported` when it is of a later version, `Io`.
    pub(super) fn load(&self, path: &Path) -> Result<Content> {
        let file = match private_file::open(path) {
            Err(error) if error.kind() == Kind::NotFound => Err(Error::with_source(
                Kind::KeyUnavailable,
                format!("no {} file {}: restore it from its backup", self.0.called, path.shown()),
                error,
            )),
            opened => opened,
        }?;
        let reading = || format!("reading the {} file {}", self.0.called, path.shown());
        self.read(&file).context(reading)
    }

    fn read(&self, file: &File) -> Result<Content> {
        let mut start = [0; START_LEN];
        let len = file.metadata().context(|| "asking for its length".into())?.len();
        if len >= START_LEN as u64 {
            file.read_exact_at(&mut start, 0).context(|| "its first bytes".into())?;
        }
        self.0.check_start(&start, len)?;
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
        let claimed = file.read_exact_at(&mut start, 0).is_ok() && start.starts_with(&self.0.magic);
        Ok(claimed.then(|| Uuid::from_slice(&start[UUID_AT..]).ok()).flatten())
    }

    pub(super) fn encode(&self, uuid: Uuid, secret: &[u8]) -> SecretBytes {
        let mut body = SecretBytes::zeroed(BODY_LEN);
        body[..UUID_AT].copy_from_slice(&self.0.start());
        body[UUID_AT..SECRET_AT].copy_from_slice(uuid.as_bytes());
        body[SECRET_AT..].copy_from_slice(secret);
        body
    }

    pub(super) fn decode(&self, body: &SecretBytes, checksum: [u8; CHECKSUM_LEN]) -> Result<Content> {
        let mut reader = self.0.check_body(body, &checksum)?;
        let uuid = Uuid::from_bytes(reader.array()?);
        let mut secret = SecretBytes::zeroed(KEK_LEN);
        secret.copy_from_slice(reader.bytes(KEK_LEN)?);
        Ok(Content { uuid, secret })
    }
}
