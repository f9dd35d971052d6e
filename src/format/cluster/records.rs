//! What one host writes for another: envelopes, join requests, acknowledgements.

use uuid::Uuid;

use super::{
    HostIdentity, MAX_RECORD_LEN, TokenId, check_len, check_start, check_start_of, put_start, put_start_of, put_text,
};
use crate::crypto::derive::{hmac, hmac_verifies};
use crate::crypto::hpke::{self, SealKey, Sealed};
use crate::crypto::sign::{self, SigningKey, verifies};
use crate::error::{Context, Error, Kind, Result};
use crate::format::{Reader, Writer};
use crate::key::{KEK_LEN, ProviderName};
use crate::sys::SecretBytes;
use crate::timestamp::Timestamp;

const ENVELOPE_MAGIC: [u8; 8] = *b"VMCRYPTE";
/// The only suite: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
const SUITE: u16 = 1;
const ENVELOPE_INFO: &[u8] = b"vmcryptfs primary 1";
const JOIN_MAGIC: [u8; 8] = *b"VMCRYPTR";
const ACK_MAGIC: [u8; 8] = *b"VMCRYPTA";
const ACK_PURPOSE: &[u8] = b"vmcryptfs cluster ack 1\0";

/// What an envelope is bound to: in another place it does not open.
#[derive(Clone, Copy, Debug)]
pub struct EnvelopeFor<'a> {
    /// The cluster.
    pub cluster: Uuid,
    /// The provider whose primary key is in it.
    pub provider: &'a ProviderName,
    /// The UUID of that primary key.
    pub primary: Uuid,
    /// The host that it is for.
    pub host: Uuid,
}

impl EnvelopeFor<'_> {
    fn associated(&self) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        writer.put(self.cluster.as_bytes());
        writer.put(self.primary.as_bytes());
        writer.put(self.host.as_bytes());
        put_text(&mut writer, self.provider.as_str())?;
        Ok(writer.bytes().to_vec())
    }
}

/// A primary key, sealed to one host.
#[derive(Debug)]
pub struct Envelope(Sealed);

impl Envelope {
    /// Seals the bytes of a primary key.
    ///
    /// # Errors
    /// `Invalid` when the host's key is not one.
    pub fn seal(place: &EnvelopeFor<'_>, host: &[u8; hpke::PUBLIC_LEN], primary: &[u8]) -> Result<Self> {
        hpke::seal(host, ENVELOPE_INFO, &place.associated()?, primary).map(Self)
    }

    /// The bytes of the primary key. That they are the right ones is for the caller to check, against the document.
    ///
    /// # Errors
    /// `KeyRejected` when it is for another host or place, or was changed.
    pub fn open(&self, place: &EnvelopeFor<'_>, host: &SealKey) -> Result<SecretBytes> {
        host.open(ENVELOPE_INFO, &place.associated()?, &self.0)
    }

    /// As it is stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        put_start(&mut writer, &ENVELOPE_MAGIC);
        writer.put(SUITE.to_le_bytes());
        writer.put(self.0.enc);
        writer.put(&self.0.ciphertext);
        writer.bytes().to_vec()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// `Corrupt` for other bytes, `Unsupported` for a later version or another suite.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        check_start(&mut reader, ENVELOPE_MAGIC, "an envelope")?;
        let suite = reader.u16()?;
        if suite != SUITE {
            return Err(Error::new(Kind::Unsupported, format!("an envelope of suite {suite}, expected {SUITE}")));
        }
        let enc = reader.array()?;
        let ciphertext = reader.bytes(KEK_LEN + hpke::TAG_LEN)?.to_vec();
        reader.end()?;
        Ok(Self(Sealed { enc, ciphertext }))
    }
}

/// What a host asks with to become a member.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JoinRequest {
    /// The cluster.
    pub cluster: Uuid,
    /// The token that it has.
    pub token: TokenId,
    /// When that token ends, as it says itself.
    pub expires: Timestamp,
    /// The host.
    pub host: HostIdentity,
}

impl JoinRequest {
    /// As it is stored, with the MAC by the token's secret.
    ///
    /// # Errors
    /// `Invalid` when a limit of the format is exceeded.
    pub fn encode(&self, secret: &[u8]) -> Result<Vec<u8>> {
        let mut writer = Writer::default();
        put_start(&mut writer, &JOIN_MAGIC);
        writer.put(self.cluster.as_bytes());
        writer.put(self.token.0);
        writer.put(self.expires.since_1970().as_secs().to_le_bytes());
        self.host.write(&mut writer)?;
        let body = writer.bytes().to_vec();
        Ok([body.as_slice(), &hmac(secret, &body)].concat())
    }
}

/// A request of the right form. Nothing in it is proven: anyone who can write to the board can leave one.
pub struct UnverifiedRequest {
    request: JoinRequest,
    body: Vec<u8>,
    mac: [u8; 32],
}

impl UnverifiedRequest {
    /// Reads what [`JoinRequest::encode`] wrote.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 request has, `Unsupported` for a later version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        check_len(bytes, MAX_RECORD_LEN, "a join request")?;
        let mut reader = Reader::new(bytes);
        check_start(&mut reader, JOIN_MAGIC, "a join request")?;
        let cluster = Uuid::from_bytes(reader.array()?);
        let (token, expires) = (TokenId(reader.array()?), Timestamp::from_secs(reader.u64()?));
        let host = HostIdentity::read(&mut reader)?;
        let mac: [u8; 32] = reader.array()?;
        reader.end()?;
        let body = bytes[..bytes.len() - mac.len()].to_vec();
        Ok(Self { request: JoinRequest { cluster, token, expires, host }, body, mac })
    }

    /// What it says.
    pub fn claims(&self) -> &JoinRequest {
        &self.request
    }

    /// Whether it is by the token with this secret.
    pub fn is_by(&self, secret: &[u8]) -> bool {
        hmac_verifies(secret, &self.body, &self.mac)
    }
}

/// What a host says that it has.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ack {
    /// The cluster.
    pub cluster: Uuid,
    /// The host.
    pub host: Uuid,
    /// The newest document that it has acted on.
    pub epoch: u64,
    /// The hash of that.
    pub document: [u8; 32],
    /// When, by that host's clock.
    pub time: Timestamp,
    /// The shared primary keys that it has, in ascending order.
    pub holds: Vec<Uuid>,
    /// Those by which it makes new keys, in ascending order; none where the document has one generation of each.
    pub makes: Vec<Uuid>,
}

impl Ack {
    /// As it is stored, signed by the host.
    ///
    /// # Errors
    /// `Invalid` when it holds more than 255 keys.
    pub fn encode(&self, host: &SigningKey) -> Result<Vec<u8>> {
        let version = if self.makes.is_empty() { 1 } else { 2 };
        let mut writer = Writer::default();
        put_start_of(&mut writer, &ACK_MAGIC, version);
        writer.put(self.cluster.as_bytes());
        writer.put(self.host.as_bytes());
        writer.put(self.epoch.to_le_bytes());
        writer.put(self.document);
        writer.put(self.time.since_1970().as_secs().to_le_bytes());
        writer.count_u8(self.holds.len(), "primary keys")?;
        self.holds.iter().for_each(|uuid| writer.put(uuid.as_bytes()));
        if version > 1 {
            writer.count_u8(self.makes.len(), "primary keys")?;
            self.makes.iter().for_each(|uuid| writer.put(uuid.as_bytes()));
        }
        let body = writer.bytes().to_vec();
        Ok([body.as_slice(), &host.sign(&[ACK_PURPOSE, &body].concat())].concat())
    }

    /// Reads the acknowledgement of one host.
    ///
    /// # Errors
    /// `Corrupt` for bytes that no version 1 acknowledgement has, `Unsupported` for a later version, `Denied` when it is
    /// not of this cluster and host, or not signed by it.
    pub fn decode(bytes: &[u8], cluster: Uuid, host: &HostIdentity) -> Result<Self> {
        check_len(bytes, MAX_RECORD_LEN + 512 * 16, "an acknowledgement")?;
        let mut reader = Reader::new(bytes);
        let version = check_start_of(&mut reader, ACK_MAGIC, 1..=2, "an acknowledgement")?;
        let found = Self {
            cluster: Uuid::from_bytes(reader.array()?),
            host: Uuid::from_bytes(reader.array()?),
            epoch: reader.u64()?,
            document: reader.array()?,
            time: Timestamp::from_secs(reader.u64()?),
            holds: uuids(&mut reader)?,
            makes: if version > 1 { uuids(&mut reader)? } else { Vec::new() },
        };
        let signature: [u8; sign::SIGNATURE_LEN] = reader.array().context(|| "its signature".into())?;
        reader.end()?;
        let body = &bytes[..bytes.len() - signature.len()];
        if version > 1 && found.makes.is_empty() {
            return Err(Error::new(
                Kind::Corrupt,
                "an acknowledgement of version 2 that says nothing which version 1 cannot",
            ));
        }
        let is_signed = verifies(&host.sign_key, &[ACK_PURPOSE, body].concat(), &signature);
        if found.cluster != cluster || found.host != host.uuid || !is_signed {
            return Err(Error::new(Kind::Denied, format!("an acknowledgement that host {} did not write", host.name)));
        }
        Ok(found)
    }
}

fn uuids(reader: &mut Reader<'_>) -> Result<Vec<Uuid>> {
    let uuids: Vec<Uuid> = (0..reader.u8()?).map(|_| reader.array().map(Uuid::from_bytes)).collect::<Result<_>>()?;
    match uuids.is_sorted_by(|a, b| a < b) {
        true => Ok(uuids),
        false => Err(Error::new(Kind::Corrupt, "primary keys are not in ascending order, each once")),
    }
}
