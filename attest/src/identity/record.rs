//! The record that binds a host, its endorsement key and its attestation key: one value, checked and kept as one.

use super::{AttestationKey, EndorsementKey, EndorsementProof, Fingerprint, Host, HostId};
use crate::authority_key::{AuthorityKey, KEY_LEN};
use crate::error::{Error, Result};
use crate::tpm::{Name, Public, Reader, Writer};

/// What the code of a record authenticates.
const PURPOSE: &[u8] = b"vmcryptfs attest record 1";
/// The version of records.
const VERSION: u16 = 1;
/// Bytes of the longest record.
const MAX_RECORD_LEN: usize = 4096;
const BY_CERTIFICATE: u16 = 1;
const BY_LIST: u16 = 2;

/// A host whose TPM holds both keys: it gave back the secret of a [credential](crate::credential) for them.
///
/// It is made by that check, or from a record of one that a member of this authority authenticated.
#[derive(Clone, Debug)]
pub struct Identity {
    host: Host,
    endorsement: Fingerprint,
    /// Why that key was believed when the host enrolled.
    proof: EndorsementProof,
    attestation: AttestationKey,
}

impl Identity {
    pub(crate) fn new(host: Host, endorsement: &EndorsementKey, attestation: AttestationKey) -> Self {
        Self { host, endorsement: endorsement.fingerprint(), proof: endorsement.proof(), attestation }
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The endorsement key of its TPM.
    pub fn endorsement(&self) -> Fingerprint {
        self.endorsement
    }

    /// Its attestation key.
    pub fn attestation(&self) -> &AttestationKey {
        &self.attestation
    }

    /// The record to keep, authenticated by the authority's key (docs/ATTESTATION.md, "Records").
    ///
    /// # Errors
    /// `Malformed` when a part is longer than its length can say, which none is that was checked.
    pub fn to_record(&self, key: &AuthorityKey) -> Result<Vec<u8>> {
        let proof = match self.proof {
            EndorsementProof::Certificate => BY_CERTIFICATE,
            EndorsementProof::Listed => BY_LIST,
        };
        let record = Writer::default()
            .u16(VERSION)
            .raw(self.host.id().as_bytes())
            .sized("the name of a host", self.host.name().as_bytes())?
            .raw(self.endorsement.as_bytes())
            .u16(proof)
            .sized("the public area of a key", self.attestation.public().as_bytes())?
            .sized("a qualified Name", self.attestation.qualified_name().as_bytes())?
            .finish();
        let code = key.authenticate(&[PURPOSE, &record]);
        Ok([&record[..], &code].concat())
    }

    /// The identity in a record.
    ///
    /// # Errors
    /// `Refused` when the authority's key did not authenticate it, or its attestation key is not accepted any more;
    /// `Malformed` and `Unsupported` when it does not follow its format.
    pub fn from_record(key: &AuthorityKey, bytes: &[u8]) -> Result<Self> {
        read(key, bytes).map_err(|error| error.within("the record of a host"))
    }
}

fn read(key: &AuthorityKey, bytes: &[u8]) -> Result<Identity> {
    if bytes.len() > MAX_RECORD_LEN {
        return Err(Error::malformed(format!("{} bytes: expected at most {MAX_RECORD_LEN}", bytes.len())));
    }
    let (record, code) = bytes
        .split_last_chunk::<KEY_LEN>()
        .ok_or_else(|| Error::malformed(format!("{} bytes: expected over {KEY_LEN}", bytes.len())))?;
    if !key.is_authentic(&[PURPOSE, record], code) {
        return Err(Error::refused("no member of this authority wrote it, or it was changed since"));
    }
    let mut reader = Reader::new(record);
    match reader.u16("its version")? {
        VERSION => {}
        other => return Err(Error::unsupported(format!("its version is {other}: expected {VERSION}"))),
    }
    let id = HostId::new(reader.array("the UUID of a host")?);
    let name = reader.sized("the name of a host", MAX_RECORD_LEN)?;
    let name = std::str::from_utf8(name).map_err(|_| Error::malformed("the name of a host is not UTF-8"))?;
    let endorsement = Fingerprint::from_bytes(reader.array("the fingerprint of an endorsement key")?);
    let proof = match reader.u16("the proof of an endorsement key")? {
        BY_CERTIFICATE => EndorsementProof::Certificate,
        BY_LIST => EndorsementProof::Listed,
        other => return Err(Error::malformed(format!("the proof {other} of an endorsement key: expected 1 or 2"))),
    };
    let public = Public::from_tpmt(reader.sized("the public area of a key", MAX_RECORD_LEN)?)?;
    let qualified_name = Name::from_bytes(reader.sized("a qualified Name", MAX_RECORD_LEN)?)?;
    reader.finish()?;
    let attestation = AttestationKey::from_record(public, qualified_name)?;
    Ok(Identity { host: Host::new(id, name)?, endorsement, proof, attestation })
}
