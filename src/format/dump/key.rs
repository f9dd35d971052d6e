//! The dump key of a host: its public half, and the private one as the host key has wrapped it.

use uuid::Uuid;

use super::{check_start, put_start, put_text, text};
use crate::crypto::derive::sha256;
use crate::crypto::hpke::{self, SealKey};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::{Dek, Kek, KeyCheck, KeyId, ProviderName, WrappedDek};
use crate::sys::SecretBytes;
use crate::timestamp::Timestamp;

const MAGIC: [u8; 8] = *b"VMCRYPTY";
const CHECKSUM_LEN: usize = 32;
/// Bytes of the wrapped private half: KWP of 32 bytes.
const WRAPPED_LEN: usize = 40;
/// Longest dump key file in bytes.
pub const MAX_FILE_LEN: u64 = 4096;

/// What dumps are sealed to, and what opens them given the host key: a key record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DumpKey {
    /// Its UUID.
    pub uuid: Uuid,
    /// The public half.
    pub public: [u8; hpke::PUBLIC_LEN],
    /// What recognises the host key.
    pub check: KeyCheck,
    /// The private half under the host key.
    pub wrapped: WrappedDek,
    /// The host key.
    pub host_key: KeyId,
}

impl DumpKey {
    /// Wraps the private half of a key pair by the host key.
    ///
    /// # Errors
    /// Those of [`Kek::wrap`] and [`Kek::check`].
    pub fn wrap(uuid: Uuid, pair: &SealKey, host_key: KeyId, kek: &dyn Kek) -> Result<Self> {
        let mut private = SecretBytes::zeroed(hpke::PRIVATE_LEN);
        private.copy_from_slice(pair.private());
        // It is as long as a home's DEK, and KEKs wrap nothing else.
        let wrapped = kek.wrap(&Dek::new(private)?)?;
        Ok(Self { uuid, public: *pair.public(), check: kek.check()?, wrapped, host_key })
    }

    /// The key pair, given the host key.
    ///
    /// # Errors
    /// `KeyRejected` when it is another key than the one that wrapped it, `Corrupt` when the halves do not belong together.
    pub fn unwrap(&self, kek: &dyn Kek) -> Result<SealKey> {
        let key = &self.host_key;
        if kek.check()? != self.check {
            let found = format!("the provider's key {key} is not the host key that this was wrapped by");
            return Err(Error::new(Kind::KeyRejected, found));
        }
        let private = kek.unwrap(&self.wrapped).context(|| "unwrapping the private half of a dump key".into())?;
        let private = private.bytes().try_into().map_err(|_| {
            Error::new(Kind::Corrupt, format!("the private half of a dump key has {} bytes", private.bytes().len()))
        })?;
        let pair = SealKey::new(private, self.public);
        // A message to itself: it opens only where the halves belong together.
        let probe = hpke::seal(&self.public, b"", b"", &[0; 32])?;
        let opened = pair.open(b"", b"", &probe);
        opened.map(|_| pair).map_err(|error| {
            Error::with_source(Kind::Corrupt, "the halves of the dump key do not belong together", error)
        })
    }

    pub(super) fn write(&self, writer: &mut Writer) -> Result<()> {
        writer.put(self.uuid.as_bytes());
        writer.put(self.public);
        writer.put(self.check.0);
        if self.wrapped.0.len() != WRAPPED_LEN {
            let found = format!("a wrapped private half of {} bytes, expected {WRAPPED_LEN}", self.wrapped.0.len());
            return Err(Error::new(Kind::Invalid, found));
        }
        writer.put(&self.wrapped.0);
        put_text(writer, self.host_key.provider().as_str(), "bytes of a provider's name")?;
        writer.count_u16(self.host_key.id().len(), "bytes of a key id")?;
        writer.put(self.host_key.id());
        Ok(())
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let uuid = Uuid::from_bytes(reader.array()?);
        let public = reader.array()?;
        let check = KeyCheck(reader.array()?);
        let wrapped = WrappedDek(reader.bytes(WRAPPED_LEN)?.to_vec());
        let damaged = |error| Error::with_source(Kind::Corrupt, "a host key that has no valid name", error);
        let provider = ProviderName::new(text(reader, "the name of a provider")?).map_err(damaged)?;
        let len = usize::from(reader.u16()?);
        let host_key = KeyId::new(provider, reader.text(len, "a key id")?).map_err(damaged)?;
        Ok(Self { uuid, public, check, wrapped, host_key })
    }
}

/// The file in which a host has its dump key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DumpKeyFile {
    /// When it was made.
    pub made: Timestamp,
    /// The key.
    pub key: DumpKey,
}

impl DumpKeyFile {
    /// As it is stored.
    ///
    /// # Errors
    /// `Invalid` when a field does not fit.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        put_start(&mut writer, MAGIC);
        writer.put(self.made.since_1970().as_secs().to_le_bytes());
        self.key.write(&mut writer)?;
        Ok([writer.bytes(), &sha256(writer.bytes())].concat())
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_start(&mut Reader::new(bytes), MAGIC, "a dump key file")?;
        let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM_LEN>() else {
            return Err(Error::new(Kind::Corrupt, format!("a dump key file of {} bytes", bytes.len())));
        };
        if sha256(body) != *checksum {
            return Err(Error::new(Kind::Corrupt, "the dump key file is damaged: its checksum does not match"));
        }
        let mut reader = Reader::new(body);
        check_start(&mut reader, MAGIC, "a dump key file")?;
        let made = Timestamp::from_secs(reader.u64()?);
        let key = DumpKey::read(&mut reader)?;
        reader.end()?;
        Ok(Self { made, key })
    }
}
