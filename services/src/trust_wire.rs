//! What hosts and a trust authority say to each other: JSON over HTTP/1.1 and TLS 1.3 (docs/TRUST.md, "Calls").
//!
//! Unknown fields are refused: what one side means and the other does not know decides about keys. Binary values are base64url.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;
use vmcryptfs::error::Kind;

/// Longest body of a request or an answer, in bytes.
pub const MAX_BODY: usize = 1 << 20;
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
