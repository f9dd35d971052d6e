//! The header of a dump: of which process it is, and its DEK, sealed to the host's dump key or under a passphrase.

use uuid::Uuid;

use super::key::DumpKey;
use super::{check_start, put_start, put_text, text};
use crate::crypto::hpke::{self, Sealed};
use crate::crypto::passphrase::{self, Cost};
use crate::crypto::{aead, random};
use crate::error::{Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::Kek;
use crate::sys::SecretBytes;
use crate::text::beginning;
use crate::timestamp::Timestamp;

const MAGIC: [u8; 8] = *b"VMCRYPTU";
const INFO: &[u8] = b"vmcryptfs dump 1";
/// Longest header in bytes.
pub const MAX_HEADER_LEN: usize = 4096;
/// A DEK of 32 bytes and its tag.
const SEALED_LEN: usize = 48;
const MAX_TEXT: usize = 255;
const HOST_KEY: u8 = 1;
const PASSPHRASE: u8 = 2;

/// Of which process a dump is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct About {
    /// The dump's UUID.
    pub uuid: Uuid,
    /// When it was taken.
    pub time: Timestamp,
    /// The process.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The signal that ended it.
    pub signal: u32,
    /// The program that it ran.
    pub program: String,
    /// The host's name.
    pub host: String,
}

/// How the DEK of a dump is locked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lock {
    /// Sealed to a host's dump key.
    HostKey {
        /// The dump key.
        key: DumpKey,
        /// The DEK.
        sealed: Sealed,
    },
    /// Sealed under a passphrase.
    Passphrase {
        /// What a guess costs.
        cost: Cost,
        /// Makes equal passphrases different.
        salt: [u8; 16],
        /// Of the sealing.
        nonce: [u8; 12],
        /// The DEK and its tag.
        sealed: [u8; SEALED_LEN],
    },
}

/// A header. Nothing proves it until its DEK is opened.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DumpHeader {
    /// Of which process the dump is.
    pub about: About,
    /// Its DEK.
    pub lock: Lock,
}

impl DumpHeader {
    /// That of a dump whose DEK, 32 bytes, is sealed to a dump key.
    ///
    /// # Errors
    /// `Invalid` when the public half is not a point of the curve.
    pub fn for_host(about: About, key: DumpKey, dek: &[u8]) -> Result<Self> {
        let associated = associated(&about, |writer| {
            writer.put([HOST_KEY]);
            key.write(writer)
        })?;
        let sealed = hpke::seal(&key.public, INFO, &associated, dek)?;
        Ok(Self { about, lock: Lock::HostKey { key, sealed } })
    }

    /// That of a dump whose DEK, 32 bytes, is sealed under a passphrase.
    ///
    /// # Errors
    /// `Invalid` for a cost outside the limits, `Io` when the random generator or memory fail.
    pub fn for_passphrase(about: About, passphrase: &[u8], cost: Cost, dek: &[u8]) -> Result<Self> {
        let (mut salt, mut nonce) = ([0; 16], [0; 12]);
        random::fill(&mut salt)?;
        random::fill(&mut nonce)?;
        let key = passphrase::derive(passphrase, &salt, &cost)?;
        let associated = associated(&about, |writer| put_passphrase(writer, cost, &salt, &nonce))?;
        let sealed = aead::seal(&key, &nonce, &associated, dek)?;
        let sealed = sealed.try_into().map_err(|_| Error::new(Kind::Invalid, "a DEK of another length than 32"))?;
        Ok(Self { about, lock: Lock::Passphrase { cost, salt, nonce, sealed } })
    }

    /// The DEK of a dump that is sealed to a dump key, given the host key.
    ///
    /// # Errors
    /// `Invalid` when it is sealed otherwise, those of [`DumpKey::unwrap`], `KeyRejected` when the header was changed.
    pub fn open_by_host_key(&self, kek: &dyn Kek) -> Result<SecretBytes> {
        let Lock::HostKey { key, sealed } = &self.lock else {
            return Err(Error::new(Kind::Invalid, "this dump is encrypted under a passphrase, not under a host key"));
        };
        key.unwrap(kek)?.open(INFO, &self.associated()?, sealed)
    }

    /// The DEK of a dump that is sealed under a passphrase.
    ///
    /// # Errors
    /// `Invalid` when it is sealed otherwise, `KeyRejected` when the passphrase is another one or the header was changed.
    pub fn open_by_passphrase(&self, passphrase: &[u8]) -> Result<SecretBytes> {
        let Lock::Passphrase { cost, salt, nonce, sealed } = &self.lock else {
            return Err(Error::new(Kind::Invalid, "this dump is encrypted under a host key, not under a passphrase"));
        };
        let key = passphrase::derive(passphrase, salt, cost)?;
        let associated = self.associated()?;
        aead::open(&key, nonce, &associated, sealed).map_err(|error| {
            Error::with_source(Kind::KeyRejected, "the passphrase is wrong, or the dump's header was changed", error)
        })
    }

    /// What the sealing covers.
    fn associated(&self) -> Result<Vec<u8>> {
        associated(&self.about, |writer| match &self.lock {
            Lock::HostKey { key, .. } => {
                writer.put([HOST_KEY]);
                key.write(writer)
            }
            Lock::Passphrase { cost, salt, nonce, .. } => put_passphrase(writer, *cost, salt, nonce),
        })
    }

    /// As it stands before the pieces.
    ///
    /// # Errors
    /// `Invalid` when a field does not fit.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = self.associated()?;
        match &self.lock {
            Lock::HostKey { sealed, .. } => {
                bytes.extend_from_slice(&sealed.enc);
                bytes.extend_from_slice(&sealed.ciphertext);
            }
            Lock::Passphrase { sealed, .. } => bytes.extend_from_slice(sealed),
        }
        Ok(bytes)
    }

    /// Reads the header that `bytes` begin with: the first [`MAX_HEADER_LEN`] of a dump, or all of a shorter one. Returns its length as well.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize)> {
        let mut reader = Reader::new(&bytes[..bytes.len().min(MAX_HEADER_LEN)]);
        check_start(&mut reader, MAGIC, "a dump")?;
        let about = About {
            uuid: Uuid::from_bytes(reader.array()?),
            time: Timestamp::from_secs(reader.u64()?),
            pid: reader.u32()?,
            uid: reader.u32()?,
            gid: reader.u32()?,
            signal: reader.u32()?,
            program: text(&mut reader, "the name of a program")?.to_owned(),
            host: text(&mut reader, "the name of a host")?.to_owned(),
        };
        let lock = match reader.u8()? {
            HOST_KEY => {
                let key = DumpKey::read(&mut reader)?;
                let sealed = Sealed { enc: reader.array()?, ciphertext: reader.bytes(SEALED_LEN)?.to_vec() };
                Lock::HostKey { key, sealed }
            }
            PASSPHRASE => {
                let cost = Cost { memory_kib: reader.u32()?, passes: reader.u32()?, lanes: reader.u32()? };
                let damaged = |error| Error::with_source(Kind::Corrupt, "a dump of a cost that none has", error);
                cost.check().map_err(damaged)?;
                Lock::Passphrase { cost, salt: reader.array()?, nonce: reader.array()?, sealed: reader.array()? }
            }
            lock => {
                let found =
                    format!("a dump with lock {lock}, expected {HOST_KEY} (host key) or {PASSPHRASE} (passphrase)");
                return Err(Error::new(Kind::Corrupt, found));
            }
        };
        Ok((Self { about, lock }, reader.taken()))
    }
}

fn put_passphrase(writer: &mut Writer, cost: Cost, salt: &[u8; 16], nonce: &[u8; 12]) -> Result<()> {
    writer.put([PASSPHRASE]);
    [cost.memory_kib, cost.passes, cost.lanes].into_iter().for_each(|number| writer.put(number.to_le_bytes()));
    writer.put(salt);
    writer.put(nonce);
    Ok(())
}

/// All of a header that stands before its sealed DEK. Names that are too long are cut: they come from processes.
fn associated(about: &About, lock: impl FnOnce(&mut Writer) -> Result<()>) -> Result<Vec<u8>> {
    let mut writer = Writer::default();
    put_start(&mut writer, MAGIC);
    writer.put(about.uuid.as_bytes());
    writer.put(about.time.since_1970().as_secs().to_le_bytes());
    [about.pid, about.uid, about.gid, about.signal].into_iter().for_each(|number| writer.put(number.to_le_bytes()));
    put_text(&mut writer, beginning(&about.program, MAX_TEXT), "bytes of a program's name")?;
    put_text(&mut writer, beginning(&about.host, MAX_TEXT), "bytes of a host's name")?;
    lock(&mut writer)?;
    Ok(writer.bytes().to_vec())
}
