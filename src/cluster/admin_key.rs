//! The key with which an admin signs changes of a cluster: a file under a passphrase (docs/FORMAT.md, section 18).

use std::path::Path;

use crate::crypto::derive::sha256;
use crate::crypto::passphrase::{self, Cost};
use crate::crypto::sign::SigningKey;
use crate::crypto::{aead, random};
use crate::error::{Context, Error, Kind, Result};
use crate::format::Writer;
use crate::format::secret_file::{CHECKSUM_LEN, SecretFile};
use crate::provider::private_file;
use crate::text::Show;

/// The cost of each guess at the passphrase: the second recommendation of RFC 9106, section 4.
pub const COST: Cost = Cost { memory_kib: 65_536, passes: 3, lanes: 4 };

const CLEAR_LEN: usize = 88;
const SEALED_LEN: usize = 48;
const FORM: SecretFile =
    SecretFile { magic: *b"VMCRYPTC", called: "admin key", len: CLEAR_LEN + SEALED_LEN + CHECKSUM_LEN };

/// Makes a file with an admin key.
///
/// # Errors
/// `Exists` when there is a file already, `Io`.
pub fn create(path: &Path, key: &SigningKey, passphrase: &[u8], cost: Cost) -> Result<()> {
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    random::fill(&mut salt)?;
    random::fill(&mut nonce)?;
    let mut writer = Writer::default();
    writer.put(FORM.start());
    for parameter in [cost.memory_kib, cost.passes, cost.lanes] {
        writer.put(parameter.to_le_bytes());
    }
    writer.put(salt);
    writer.put(nonce);
    writer.put(key.public());
    let sealing = passphrase::derive(passphrase, &salt, &cost)?;
    let sealed = aead::seal(&sealing, &nonce, writer.bytes(), key.seed())?;
    writer.put(sealed);
    let checksum = sha256(writer.bytes());
    writer.put(checksum);
    private_file::create(path, &[writer.bytes()])
}

/// An admin key whose passphrase was not tried yet.
pub struct SealedAdminKey {
    bytes: Vec<u8>,
    cost: Cost,
    salt: [u8; 16],
    nonce: [u8; 12],
    public: [u8; 32],
}

impl SealedAdminKey {
    /// Reads an admin key file.
    ///
    /// # Errors
    /// `NotFound`, `Denied` when others can read the file, `Corrupt` when it is damaged, `Unsupported` for a later version.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the admin key {}", path.shown());
        let file = private_file::open(path)?;
        let bytes = private_file::read_at_most(4096, path, file)?;
        Self::decode(&bytes).context(reading)
    }

    /// Reads the bytes of such a file.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = FORM.check(bytes)?;
        let cost = Cost { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
        let (salt, nonce, public) = (reader.array()?, reader.array()?, reader.array()?);
        Ok(Self { bytes: bytes.to_vec(), cost, salt, nonce, public })
    }

    /// Its public key.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Opens it.
    ///
    /// # Errors
    /// `KeyRejected` when the passphrase is wrong, `Corrupt` when its cost is outside the limits of the format.
    pub fn open(&self, passphrase: &[u8]) -> Result<SigningKey> {
        let key = passphrase::derive(passphrase, &self.salt, &self.cost)
            .map_err(|error| Error::with_source(Kind::Corrupt, "an admin key of a cost that none has", error))?;
        let sealed = &self.bytes[CLEAR_LEN..CLEAR_LEN + SEALED_LEN];
        let seed = aead::open(&key, &self.nonce, &self.bytes[..CLEAR_LEN], sealed)
            .map_err(|_| Error::new(Kind::KeyRejected, "the passphrase of the admin key is wrong"))?;
        let key = SigningKey::new(seed)?;
        if key.public() != self.public {
            return Err(Error::new(Kind::Corrupt, "the admin key and its public key do not belong together"));
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Cost = Cost { memory_kib: 32, passes: 1, lanes: 4 };

    #[test]
    fn a_key_comes_back_by_its_passphrase_only_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.key");
        let key = SigningKey::generate().unwrap();
        create(&path, &key, b"correct horse", CHEAP).unwrap();
        assert_eq!(create(&path, &key, b"correct horse", CHEAP).unwrap_err().kind(), Kind::Exists);
        let sealed = SealedAdminKey::read(&path).unwrap();
        assert_eq!(sealed.public(), key.public());
        assert_eq!(sealed.open(b"correct horse").unwrap().seed(), key.seed());
        assert_eq!(sealed.open(b"correct house").map(drop).unwrap_err().kind(), Kind::KeyRejected);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), FORM.len);
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            assert!(SealedAdminKey::decode(&wrong).is_err(), "byte {at}");
            assert!(SealedAdminKey::decode(&bytes[..at]).is_err(), "{at} bytes");
        }
    }
}
