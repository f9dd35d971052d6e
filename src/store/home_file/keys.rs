//! The keys of a home's files, and of what else it seals.

use crate::crypto::derive;
use crate::crypto::random;
use crate::crypto::xaes::{KEY_LEN, Opener, Sealer, Xaes256Gcm};
use crate::error::{Error, Kind, Result};
use crate::format::header::Header;
use crate::format::home_file::{
    BlockIndex, Entry, FILE_ID_LEN, FileId, HEADER_LEN, Known, UnverifiedHeader, encode_header,
};
use crate::key::{Dek, HOME_DEK_LEN};
use crate::sys::SecretBytes;

/// What is derived for a file: its encryption key, then its authentication key.
const FILE_KEYS_LEN: usize = 64;
const FILE_INFO: &str = "vmcryptfs v1 home file";
const VALUES_INFO: &str = "vmcryptfs v1 home values";

/// An unlocked home's DEK, and the key for its small values. One serves all files of a home.
pub struct HomeKeys {
    dek: Dek,
    values: Xaes256Gcm,
    /// During a deep rekey: what is not under this DEK yet.
    old: Option<Box<HomeKeys>>,
}

impl HomeKeys {
    /// Derives what all files share. Holds its own copy of the DEK.
    ///
    /// # Errors
    /// `Invalid` when `dek` is not a home's: 32 bytes.
    pub fn new(dek: &Dek) -> Result<Self> {
        let len = dek.bytes().len();
        if len != HOME_DEK_LEN {
            return Err(Error::new(Kind::Invalid, format!("a home's DEK of {len} bytes, expected {HOME_DEK_LEN}")));
        }
        let mut key = SecretBytes::zeroed(KEY_LEN);
        derive::hkdf(b"", dek.bytes(), VALUES_INFO, &mut key)?;
        Ok(Self { dek: dek.duplicate(), values: Xaes256Gcm::new(&key)?, old: None })
    }

    /// The keys of a home whose header was verified with `dek`. During a deep rekey they open what is under the old DEK as
    /// well; what is sealed is sealed under the new one.
    ///
    /// # Errors
    /// As [`new`](Self::new); `Corrupt` when the old DEK is damaged.
    pub fn of(header: &Header, dek: &Dek) -> Result<Self> {
        let old = match &header.transition {
            Some(transition) => transition.old_dek(dek)?,
            None => None,
        };
        let old = old.map(|old| Self::new(&old).map(Box::new)).transpose()?;
        Ok(Self { old, ..Self::new(dek)? })
    }

    /// The keys before a deep rekey that is under way.
    pub fn old(&self) -> Option<&Self> {
        self.old.as_deref()
    }

    /// The cipher of a file that is being made with an id.
    pub(super) fn new_file_of(&self, id: FileId) -> Result<FileCipher> {
        FileCipher::new(id, &self.derive(id)?)
    }

    pub(super) fn values(&self) -> &Xaes256Gcm {
        &self.values
    }

    /// The cipher of a file that is being made.
    pub(super) fn new_file(&self) -> Result<FileCipher> {
        let mut id = [0; FILE_ID_LEN];
        random::fill(&mut id)?;
        self.new_file_of(FileId(id))
    }

    /// The cipher of a file that exists, once its header is verified, and what the header says is known of it.
    pub(super) fn file(&self, header: UnverifiedHeader) -> Result<(FileCipher, Option<Known>)> {
        let keys = self.derive(header.claimed_id())?;
        match (header.clone().verify(&keys[KEY_LEN..]), &self.old) {
            (Ok(header), _) => Ok((FileCipher::new(header.id, &keys)?, header.known)),
            (Err(_), Some(old)) => old.file(header),
            (Err(error), None) => Err(error),
        }
    }

    fn derive(&self, id: FileId) -> Result<SecretBytes> {
        let mut keys = SecretBytes::zeroed(FILE_KEYS_LEN);
        derive::hkdf(&id.0, self.dek.bytes(), FILE_INFO, &mut keys)?;
        Ok(keys)
    }
}

/// Seals and opens the blocks of one file.
pub(super) struct FileCipher {
    pub(super) id: FileId,
    pub(super) blocks: Xaes256Gcm,
    authentication: SecretBytes,
}

impl FileCipher {
    fn new(id: FileId, keys: &[u8]) -> Result<Self> {
        let (encryption, authentication) = keys.split_at(KEY_LEN);
        let mut kept = SecretBytes::zeroed(authentication.len());
        kept.copy_from_slice(authentication);
        Ok(Self { id, blocks: Xaes256Gcm::new(encryption)?, authentication: kept })
    }

    /// What a header of this file says is known of it.
    pub(super) fn known(&self, header: UnverifiedHeader) -> Result<Option<Known>> {
        Ok(header.verify(&self.authentication)?.known)
    }

    /// The header of a file of which so much is known.
    pub(super) fn header(&self, known: Known) -> [u8; HEADER_LEN] {
        encode_header(self.id, known, &self.authentication)
    }

    #[cfg(test)]
    pub(super) fn header_of_second_version(&self, len: u64) -> [u8; HEADER_LEN] {
        self.header(Known { len, filled: None })
    }

    #[cfg(test)]
    pub(super) fn header_of_first_version(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..32].copy_from_slice(&self.header(Known::NOTHING)[..32]);
        header[8] = 1;
        let tag = derive::hmac(&self.authentication, &header[..32]);
        header[32..64].copy_from_slice(&tag);
        header
    }

    /// Seals one version of a block.
    pub(super) fn seal(
        &self,
        sealer: &mut Sealer,
        block: BlockIndex,
        version: u64,
        plain: &[u8],
        cipher: &mut [u8],
    ) -> Result<Entry> {
        let seal = sealer.seal(&self.associated(block, version), plain, cipher)?;
        Ok(Entry { version, seal })
    }

    /// Opens a block's ciphertext in place. `false`: it is not what `entry` describes, and `data` is zeros now.
    pub(super) fn open(
        &self,
        opener: &mut Opener<'_>,
        block: BlockIndex,
        entry: &Entry,
        data: &mut [u8],
    ) -> Result<bool> {
        opener.open(&entry.seal, &self.associated(block, entry.version), data)
    }

    /// Binds a block to its file, its place in it, and its version.
    fn associated(&self, block: BlockIndex, version: u64) -> [u8; 32] {
        let mut associated = [0; 32];
        associated[..16].copy_from_slice(&self.id.0);
        associated[16..24].copy_from_slice(&block.0.to_le_bytes());
        associated[24..].copy_from_slice(&version.to_le_bytes());
        associated
    }
}
