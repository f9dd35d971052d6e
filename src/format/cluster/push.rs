//! What hosts without the credentials of a key server want of it, and what keepers answer (docs/FORMAT.md, section 18.1).

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::HEXLOWER;
use uuid::Uuid;

use super::{HostIdentity, MAX_RECORD_LEN, check_len, check_start, put_start, put_text, text};
use crate::crypto::hpke::{self, SealKey, Sealed};
use crate::crypto::random;
use crate::crypto::sign::{self, SigningKey, verifies};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::{KEK_LEN, KeyId, MAX_KEY_ID_LEN, ProviderName};
use crate::sys::SecretBytes;
use crate::text::beginning;

const WANT_MAGIC: [u8; 8] = *b"VMCRYPTW";
const WANT_PURPOSE: &[u8] = b"vmcryptfs cluster want 1\0";
const KEK_MAGIC: [u8; 8] = *b"VMCRYPTK";
const KEK_PURPOSE: &[u8] = b"vmcryptfs cluster kek 1\0";
const KEK_INFO: &[u8] = b"vmcryptfs kek 1";
/// Longest want in bytes.
const MAX_WANT_LEN: usize = 1 << 20;
/// Most wishes of a want.
pub const MAX_WISHES: usize = 1024;
/// Longest name of a VM, and longest reason of a refusal, in bytes.
const MAX_VM_NAME: usize = 255;
const MAX_WHY: usize = 1024;
const OF_KEK: u8 = 1;
const NEW_KEK: u8 = 2;

/// What a host calls a thing that it wants, and zeros for what it did not ask for.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Reference(pub [u8; 16]);

impl Reference {
    /// Of what was not asked for.
    pub const NONE: Self = Self([0; 16]);

    /// A new one.
    ///
    /// # Errors
    /// `Io` when the generator fails.
    pub fn new() -> Result<Self> {
        let mut bytes = [0; 16];
        random::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// As a UUID, by which a key server knows the key.
    pub fn uuid(self) -> Uuid {
        Uuid::from_bytes(self.0)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// One thing that a host wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Wish {
    /// A KEK that there is, by the provider's name of it.
    Key(String),
    /// A new KEK.
    New {
        /// UUID of the VM's home.
        vm: Uuid,
        /// Name of the VM.
        name: String,
    },
}

/// What a host wants of a provider.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Want {
    /// The cluster.
    pub cluster: Uuid,
    /// The host.
    pub host: Uuid,
    /// The provider.
    pub provider: ProviderName,
    /// What it wants: 1 to [`MAX_WISHES`].
    pub wishes: BTreeMap<Reference, Wish>,
}

impl Want {
    /// As it is stored, signed by the host.
    ///
    /// # Errors
    /// `Invalid` when a limit of the format is exceeded.
    pub fn encode(&self, host: &SigningKey) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        put_start(&mut writer, &WANT_MAGIC);
        writer.put(self.cluster.as_bytes());
        writer.put(self.host.as_bytes());
        put_text(&mut writer, self.provider.as_str())?;
        writer.count_u16(self.wishes.len(), "wishes")?;
        for (reference, wish) in &self.wishes {
            match wish {
                Wish::Key(id) => {
                    writer.put([OF_KEK]);
                    writer.put(reference.0);
                    put_long(&mut writer, id)?;
                }
                Wish::New { vm, name } => {
                    writer.put([NEW_KEK]);
                    writer.put(reference.0);
                    writer.put(vm.as_bytes());
                    put_text(&mut writer, beginning(name, MAX_VM_NAME))?;
                }
            }
        }
        let body = writer.bytes().to_vec();
        let bytes = [body.as_slice(), &host.sign(&[WANT_PURPOSE, &body].concat())].concat();
        check_len(&bytes, MAX_WANT_LEN, "a want").map(|()| bytes)
    }

    /// Reads the want of one host for one provider.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 want has, `Unsupported` for a later version, `Denied` when it is not of this cluster,
    /// provider and host, or not signed by the host.
    pub fn decode(bytes: &[u8], cluster: Uuid, provider: &ProviderName, host: &HostIdentity) -> Result<Self> {
        check_len(bytes, MAX_WANT_LEN, "a want")?;
        let mut reader = Reader::new(bytes);
        check_start(&mut reader, WANT_MAGIC, "a want")?;
        let (of_cluster, of_host) = (Uuid::from_bytes(reader.array()?), Uuid::from_bytes(reader.array()?));
        let of_provider = super::provider::provider_name(&mut reader)?;
        let count = usize::from(reader.u16()?);
        if !(1..=MAX_WISHES).contains(&count) {
            return Err(Error::new(Kind::Corrupt, format!("{count} wishes, expected 1 to {MAX_WISHES}")));
        }
        let mut wishes = BTreeMap::new();
        for _ in 0..count {
            let (reference, wish) = wish(&mut reader)?;
            if wishes.last_key_value().is_some_and(|(last, _)| *last >= reference) || reference == Reference::NONE {
                return Err(Error::new(Kind::Corrupt, "wishes are not in ascending order, each once"));
            }
            wishes.insert(reference, wish);
        }
        let body = verified(reader, bytes, WANT_PURPOSE, &host.sign_key)?;
        if body.is_none() || of_cluster != cluster || of_host != host.uuid || of_provider != *provider {
            return Err(Error::new(Kind::Denied, format!("a want that host {} did not write there", host.name)));
        }
        Ok(Self { cluster, host: of_host, provider: of_provider, wishes })
    }
}

fn wish(reader: &mut Reader<'_>) -> Result<(Reference, Wish)> {
    let kind = reader.u8()?;
    let reference = Reference(reader.array()?);
    let wish = match kind {
        OF_KEK => Wish::Key(key_id(reader)?),
        NEW_KEK => Wish::New { vm: Uuid::from_bytes(reader.array()?), name: text(reader, "VM")?.to_owned() },
        _ => return Err(Error::new(Kind::Corrupt, format!("a wish of kind {kind}, expected 1 or 2"))),
    };
    Ok((reference, wish))
}

/// A key id that a slot can have: it goes to a key server, and into logs.
pub(super) fn key_id(reader: &mut Reader<'_>) -> Result<String> {
    let id = long(reader, "a key id")?;
    match (1..=MAX_KEY_ID_LEN).contains(&id.len()) && !id.chars().any(char::is_control) {
        true => Ok(id.to_owned()),
        false => Err(Error::new(
            Kind::Corrupt,
            format!("a key id of {} bytes, expected 1 to {MAX_KEY_ID_LEN} without control characters", id.len()),
        )),
    }
}

/// Reads the signature, which ends the record. Returns what it covers, if it is by this key.
fn verified<'b>(
    mut reader: Reader<'_>,
    bytes: &'b [u8],
    purpose: &[u8],
    key: &[u8; sign::PUBLIC_LEN],
) -> Result<Option<&'b [u8]>> {
    let signature: [u8; sign::SIGNATURE_LEN] = reader.array().context(|| "its signature".into())?;
    reader.end()?;
    let body = &bytes[..bytes.len() - signature.len()];
    Ok(verifies(key, &[purpose, body].concat(), &signature).then_some(body))
}

pub(super) fn put_long(writer: &mut Writer, text: &str) -> Result<()> {
    writer.count_u16(text.len(), "bytes of a text")?;
    writer.put(text);
    Ok(())
}

fn long<'a>(reader: &mut Reader<'a>, what: &str) -> Result<&'a str> {
    let len = usize::from(reader.u16()?);
    reader.text(len, what)
}

/// Why a keeper gives no KEK.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The key server does not have the key.
    Missing,
    /// The key server did not answer, or failed.
    Server,
    /// The key server does not give it out.
    Denied,
    /// The key was destroyed.
    Destroyed,
    /// Something else.
    Other,
}

impl Refusal {
    const CODES: [(Self, u8); 5] =
        [(Self::Missing, 16), (Self::Server, 17), (Self::Denied, 18), (Self::Destroyed, 19), (Self::Other, 20)];

    /// Whether it is said of the key, so that a host has to wipe what it has of it.
    pub fn is_of_key(self) -> bool {
        matches!(self, Self::Missing | Self::Denied | Self::Destroyed)
    }
}

/// What a keeper gives a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Given {
    /// A KEK, sealed to the host.
    Kek {
        /// Whether it may wrap: it is active at its server.
        wraps: bool,
        /// The sealed KEK.
        sealed: SealedKek,
    },
    /// None.
    Refused {
        /// Why.
        refusal: Refusal,
        /// For people.
        why: String,
    },
}

/// A KEK, sealed to one host and one record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SealedKek {
    sealed: Sealed,
    associated: Vec<u8>,
}

impl SealedKek {
    /// The bytes of the KEK.
    ///
    /// # Errors
    /// `KeyRejected` when it was sealed to another host or record.
    pub fn open(&self, host: &SealKey) -> Result<SecretBytes> {
        host.open(KEK_INFO, &self.associated, &self.sealed)
    }
}

/// What a keeper's answer belongs to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parcel {
    /// The cluster.
    pub cluster: Uuid,
    /// The host that writes it.
    pub keeper: Uuid,
    /// The host that it is for.
    pub host: Uuid,
    /// UUID of the provider.
    pub provider: Uuid,
    /// The wish that it answers, or [`Reference::NONE`].
    pub reference: Reference,
    /// The provider's name of the KEK; `None` where a new one could not be made.
    pub key: Option<String>,
}

impl Parcel {
    fn start(&self, outcome: u8) -> Result<Writer> {
        let mut writer = Writer::default();
        put_start(&mut writer, &KEK_MAGIC);
        for uuid in [self.cluster, self.keeper, self.host, self.provider] {
            writer.put(uuid.as_bytes());
        }
        writer.put(self.reference.0);
        writer.put([outcome]);
        put_long(&mut writer, self.key.as_deref().unwrap_or_default())?;
        Ok(writer)
    }

    /// The record of a KEK, sealed to a host and signed by a keeper.
    ///
    /// # Errors
    /// `Invalid` when the host's key is not one, or the key id is too long.
    pub fn seal(&self, kek: &[u8], wraps: bool, host: &[u8; hpke::PUBLIC_LEN], keeper: &SigningKey) -> Result<Vec<u8>> {
        let mut writer = self.start(if wraps { 1 } else { 2 })?;
        let sealed = hpke::seal(host, KEK_INFO, writer.bytes(), kek)?;
        writer.put(sealed.enc);
        writer.put(&sealed.ciphertext);
        Ok(signed(&writer, keeper))
    }

    /// The record that says why there is no KEK, signed by a keeper.
    ///
    /// # Errors
    /// `Invalid` when the key id is too long.
    pub fn refuse(&self, refusal: Refusal, why: &str, keeper: &SigningKey) -> Result<Vec<u8>> {
        let code = Refusal::CODES.iter().find(|(found, _)| *found == refusal).map_or(u8::MAX, |(_, code)| *code);
        let mut writer = self.start(code)?;
        put_long(&mut writer, beginning(why, MAX_WHY))?;
        Ok(signed(&writer, keeper))
    }

    /// Reads a record. `keeper` finds the host that may have written it.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 record has, `Unsupported` for a later version; `Denied` when it is not signed by a keeper
    /// that is known.
    pub fn decode<'k>(bytes: &[u8], keeper: impl Fn(Uuid) -> Option<&'k HostIdentity>) -> Result<(Self, Given)> {
        check_len(bytes, MAX_RECORD_LEN, "a KEK")?;
        let mut reader = Reader::new(bytes);
        check_start(&mut reader, KEK_MAGIC, "a KEK")?;
        let [cluster, by, host, provider] = [(); 4].map(|()| reader.array().map(Uuid::from_bytes));
        let (cluster, by, host, provider) = (cluster?, by?, host?, provider?);
        let (reference, outcome) = (Reference(reader.array()?), reader.u8()?);
        let key = Some(long(&mut reader, "a key id")?.to_owned()).filter(|key| !key.is_empty());
        let parcel = Self { cluster, keeper: by, host, provider, reference, key };
        let given = parcel.given(&mut reader, outcome)?;
        let known = keeper(by);
        let key = known.map(|known| known.sign_key).unwrap_or_default();
        match verified(reader, bytes, KEK_PURPOSE, &key)?.filter(|_| known.is_some()) {
            Some(_) => Ok((parcel, given)),
            None => Err(Error::new(Kind::Denied, format!("a KEK that keeper {by} did not sign, or no keeper did"))),
        }
    }

    fn given(&self, reader: &mut Reader<'_>, outcome: u8) -> Result<Given> {
        if matches!(outcome, 1 | 2) {
            if self.key.is_none() {
                return Err(Error::new(Kind::Corrupt, "a KEK without a key id"));
            }
            let enc = reader.array()?;
            let ciphertext = reader.bytes(KEK_LEN + hpke::TAG_LEN)?.to_vec();
            let associated = self.start(outcome)?.bytes().to_vec();
            let sealed = SealedKek { sealed: Sealed { enc, ciphertext }, associated };
            return Ok(Given::Kek { wraps: outcome == 1, sealed });
        }
        let refusal = Refusal::CODES.iter().find(|(_, code)| *code == outcome).map(|(refusal, _)| *refusal);
        let refusal = refusal.ok_or_else(|| {
            Error::new(Kind::Corrupt, format!("a KEK of outcome {outcome}, expected 1, 2 or 16 to 20"))
        })?;
        let why = long(reader, "why there is no KEK")?;
        check_len(why.as_bytes(), MAX_WHY, "why there is no KEK")?;
        Ok(Given::Refused { refusal, why: why.to_owned() })
    }

    /// The key id, whose provider has this name.
    ///
    /// # Errors
    /// `Corrupt` when it is not one.
    pub fn key_id(&self, provider: &ProviderName) -> Result<Option<KeyId>> {
        let key = self.key.clone().map(|key| KeyId::new(provider.clone(), key)).transpose();
        key.map_err(|error| Error::with_source(Kind::Corrupt, "the key id of a KEK", error))
    }
}

fn signed(writer: &Writer, keeper: &SigningKey) -> Vec<u8> {
    let body = writer.bytes();
    [body, &keeper.sign(&[KEK_PURPOSE, body].concat())].concat()
}
