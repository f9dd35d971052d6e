//! What hosts and a trust authority say to each other: JSON over HTTP/1.1 and TLS 1.3 (docs/TRUST.md, "Calls").
//!
//! Unknown fields are refused: what one side means and the other does not know decides about keys. Binary values are base64url.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use vmcryptfs::error::{Error, Kind};
use vmcryptfs::provider::agent::Fault;

pub use crate::authority::hosts::HostState;

/// Longest body of a request or an answer, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Longest set that a host proposes, in bytes of its TOML.
pub const MAX_PROPOSAL: usize = 128 << 10;
/// Keys of one call.
pub const MAX_KEYS: usize = 256;
/// Purpose of the KEKs that are sealed to a host (`info` of RFC 9180).
pub const SEALED_KEK: &[u8] = b"vmcryptfs trusted kek 1";

/// Bytes, as base64url without padding.
#[derive(Clone, Eq, PartialEq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64URL_NOPAD.encode(&self.0))
    }
}

impl<'d> Deserialize<'d> for Blob {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes());
        bytes.map(Self).map_err(|error| serde::de::Error::custom(format!("expected base64url: {error}")))
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// `POST /v1/enrol`: a host with an enrolment token shows the keys of its TPM.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The token's name.
    pub token: Uuid,
    /// Its secret.
    pub secret: Blob,
    /// The host's name.
    pub name: String,
    /// Endorsement key (`TPM2B_PUBLIC`).
    pub ek_public: Blob,
    /// Its certificate in DER, if the TPM has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<Blob>,
    /// Certificates between it and a vendor's root.
    #[serde(default)]
    pub ek_chain: Vec<Blob>,
    /// Attestation key (`TPM2B_PUBLIC`).
    pub ak_public: Blob,
    /// How it was made (`TPM2B_CREATION_DATA`).
    pub creation_data: Blob,
    /// What TPM2_CertifyCreation says of that (`TPMS_ATTEST`), by the key itself.
    pub creation_statement: Blob,
    /// Its signature (`TPMT_SIGNATURE`).
    pub creation_signature: Blob,
}

/// The credential, which only a TPM with both keys opens (TPM2_ActivateCredential).
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EnrolAnswer {
    /// The enrolment: the next call is `POST /v1/enrol/ENROLMENT`.
    pub enrolment: Uuid,
    /// `TPM2B_ID_OBJECT`.
    pub id_object: Blob,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Blob,
}

/// `POST /v1/enrol/ENROLMENT`: what the TPM has made of the credential.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialAnswer {
    /// The secret in it.
    pub secret: Blob,
}

/// The host is known.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EnrolledHost {
    /// The authority.
    pub authority: Uuid,
    /// The host's UUID.
    pub host: Uuid,
    /// Whether it was approved, or waits for a person.
    pub state: HostState,
    /// What the authority signs checkpoints of its log with (Ed25519).
    pub log_key: Blob,
}

/// `POST /v1/challenge`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ChallengeRequest {
    /// The host.
    pub host: Uuid,
}

/// What a quote has to be made for. It is good once, and for a minute.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Challenge {
    /// The challenge.
    pub challenge: Blob,
    /// The bank that the quote has to be of, such as `sha256`.
    pub bank: String,
    /// Its registers that the quote has to be of, and no others; none where only the TPM counts.
    pub registers: Vec<u8>,
}

/// `POST /v1/attest`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AttestRequest {
    /// The host.
    pub host: Uuid,
    /// The challenge.
    pub challenge: Blob,
    /// Public key that KEKs are to be sealed to: an uncompressed point of P-256.
    pub hpke_key: Blob,
    /// `TPMS_ATTEST` of TPM2_Quote, whose extra data is bound to all of that (docs/ATTESTATION.md, "Quotes").
    pub quote: Blob,
    /// `TPMT_SIGNATURE` of it.
    pub signature: Blob,
    /// Values of the registers in ascending order.
    pub values: Blob,
    /// The firmware's event log.
    pub firmware_log: Blob,
    /// systemd's log; empty if there is none.
    pub userspace_log: Blob,
}

/// The request that a quote for an authority is bound to: one for another authority is not good here.
pub fn quoted_for(authority: Uuid) -> Vec<u8> {
    format!("POST /v1/attest {authority}").into_bytes()
}

/// The host has attested.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AttestedHost {
    /// For the calls about keys.
    pub token: String,
    /// For how many seconds it is good.
    pub seconds: u64,
    /// The trust level that was proved.
    pub level: String,
    /// The policy that was satisfied.
    pub policy: String,
    /// Its approved sets that the host matches.
    pub sets: Vec<String>,
}

/// `POST /v1/propose`: what the host is going to measure, so that it is approved before the host boots it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProposeRequest {
    /// What `/v1/attest` gave.
    pub token: String,
    /// The set as TOML (docs/ATTESTATION.md, "Policies"; `ApprovedSet::to_text`), of at most [`MAX_PROPOSAL`] bytes. Its name and date are
    /// suggestions. `ignored`, `keep` and `note` are an administrator's, and refused.
    pub set: String,
}

/// What became of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum ProposedSet {
    /// It waits for an administrator.
    Waiting {
        /// What it is called at the authority.
        proposal: String,
    },
    /// The policy in force has it.
    Approved {
        /// The set's name there.
        set: String,
    },
}

/// `POST /v1/keys/new`: KEKs are to be made.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NewKeys {
    /// What `/v1/attest` gave.
    pub token: String,
    /// Random: the answer is bound to it.
    pub request: Uuid,
    /// What each is for.
    pub keys: Vec<KeyPurpose>,
}

/// What a KEK is for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPurpose {
    /// Name of the VM.
    pub vm_name: String,
    /// UUID of the VM's home.
    pub vm_uuid: Uuid,
}

/// `POST /v1/keys/unwrap`: KEKs that were made before are wanted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UnwrapKeys {
    /// What `/v1/attest` gave.
    pub token: String,
    /// Random: the answer is bound to it.
    pub request: Uuid,
    /// Their key ids.
    pub key_ids: Vec<String>,
}

/// What both are answered, in the order of the request.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ReleasedKeys {
    /// Each key, or why it is not given.
    pub keys: Vec<ReleasedKey>,
}

/// One of them.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleasedKey {
    /// The KEK.
    Key {
        /// Its key id at the authority.
        key_id: String,
        /// The ephemeral public key (`enc` of RFC 9180).
        enc: Blob,
        /// The KEK, sealed to the host's HPKE key for [`SEALED_KEK`] and [`sealed_to`].
        ciphertext: Blob,
    },
    /// There is none.
    Refused {
        /// Its key id, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_id: Option<String>,
        /// Why.
        error: Refusal,
    },
}

/// What the seal of a KEK is bound to (`aad` of RFC 9180): an answer to another host, request or key id does not open.
pub fn sealed_to(authority: Uuid, host: Uuid, request: Uuid, key_id: &str) -> Vec<u8> {
    [authority.as_bytes(), host.as_bytes(), request.as_bytes(), key_id.as_bytes()].concat()
}

/// Why something is refused.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// What a caller can do about it.
    pub kind: Kind,
    /// For people.
    pub message: String,
    /// What is wrong with the key or its server, if that is it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

impl Refusal {
    /// That of an error, with these words for people.
    pub fn of(error: &Error, message: String) -> Self {
        Self { kind: error.kind(), message, fault: Fault::of(error) }
    }
}

/// The body of an answer whose status is not 200.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Refused {
    /// Why.
    pub error: Refusal,
}

/// `GET /v1/log/entries?first=N&count=N`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LogEntries {
    /// Number of the first one.
    pub first: usize,
    /// Their bytes, as the tree has them.
    pub entries: Vec<String>,
}

/// `GET /v1/log/proof/inclusion?index=N&size=N` and `GET /v1/log/proof/consistency?old=N&size=N`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LogProof {
    /// Nodes of the tree (RFC 9162, 2.1.3 and 2.1.4).
    pub nodes: Vec<Blob>,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Health {
    /// The authority.
    pub authority: Uuid,
    /// Its version.
    pub version: String,
    /// What does not work; nothing if all does.
    pub lacks: Vec<String>,
}
