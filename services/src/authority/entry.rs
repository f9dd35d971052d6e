//! The entries of an authority's log. They can be read over its port, so a key is named by the digest of its key id.

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::timestamp::Timestamp;

/// An entry. Fields and kinds may be added, not changed or removed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// When, RFC 3339, by the authority's clock.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum What {
    /// The authority was made.
    Begun {
        /// Its UUID.
        authority: Uuid,
        /// Its top-level key: UUID of the primary key, or the provider's name.
        provider: String,
    },
    /// A token for a host was made.
    TokenMade {
        /// The token's name.
        token: Uuid,
        /// Name of the host that it is for.
        host: String,
        /// Whether the host needs no approval.
        approves: bool,
        /// The host whose TPM is another one then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<Uuid>,
        /// Who made it.
        by: String,
    },
    /// A host's TPM has proved its keys.
    Enrolled {
        /// The host.
        host: Uuid,
        /// Its name.
        name: String,
        /// Fingerprint of the endorsement key.
        ek: String,
        /// Name of the attestation key.
        ak_name: String,
        /// `pending` or `approved`.
        state: String,
        /// The token that let it in.
        token: Uuid,
    },
    /// A host has another TPM, or other keys of it.
    Replaced {
        /// The host, as before.
        host: Uuid,
        /// Its name.
        name: String,
        /// Fingerprint of the endorsement key.
        ek: String,
        /// Name of the attestation key.
        ak_name: String,
        /// Fingerprint of the endorsement key of before.
        former_ek: String,
        /// `pending` or `approved`.
        state: String,
        /// The token that let it in.
        token: Uuid,
    },
    /// A person approved a host.
    Approved {
        /// The host.
        host: Uuid,
        /// Its name.
        name: String,
        /// Who did.
        by: String,
    },
    /// A person removed a host.
    Removed {
        /// The host.
        host: Uuid,
        /// Its name.
        name: String,
        /// Who did.
        by: String,
    },
    /// A policy was approved.
    PolicyApproved {
        /// Its name.
        policy: String,
        /// SHA-256 of its text, in hex.
        sha256: String,
        /// Who did.
        by: String,
    },
    /// A set was approved, and put into the policy.
    SetApproved {
        /// The policy's name.
        policy: String,
        /// SHA-256 of its text with the set, in hex.
        sha256: String,
        /// The set's name.
        set: String,
        /// The class that it was approved for.
        class: String,
        /// Who did.
        by: String,
    },
    /// All hosts have left a set, and it was taken out of the policy.
    SetRetired {
        /// The policy's name.
        policy: String,
        /// SHA-256 of its text without the set, in hex.
        sha256: String,
        /// The set's name.
        set: String,
    },
    /// A set was proposed. It counts for nothing until it is approved.
    SetProposed {
        /// Names the proposal.
        proposal: String,
        /// The class that it is for.
        class: String,
        /// Who did: a host, or an administrator.
        by: String,
    },
    /// A proposal was rejected.
    ProposalRejected {
        /// Names the proposal.
        proposal: String,
        /// Who did.
        by: String,
    },
    /// A host has attested.
    Attested {
        /// The host.
        host: Uuid,
        /// The trust level.
        level: String,
        /// The policy.
        policy: String,
        /// How often its TPM was reset.
        resets: u32,
        /// How often it was restarted since.
        restarts: u32,
        /// The token that it got.
        token: Uuid,
    },
    /// A host's own TPM has spoken, and what it said was refused.
    AttestationRefused {
        /// The host.
        host: Uuid,
        /// Why.
        reason: String,
    },
    /// A KEK was made for a host.
    KeyMade {
        /// The host.
        host: Uuid,
        /// Digest of the key id.
        key: String,
        /// UUID of the VM's home.
        vm: Uuid,
        /// The token that it was made for.
        token: Uuid,
    },
    /// A KEK was released to a host.
    KeyReleased {
        /// The host.
        host: Uuid,
        /// Digest of the key id.
        key: String,
        /// The token that it was released for.
        token: Uuid,
    },
}

/// SHA-256 of a key id, in hex.
pub fn key_digest(key_id: &str) -> String {
    HEXLOWER.encode(&sha256(key_id.as_bytes()))
}

impl What {
    /// As the log has it, with the present time.
    ///
    /// # Errors
    /// `Invalid` when it has no JSON form.
    pub fn now(self) -> Result<Vec<u8>> {
        let entry = Entry { time: Timestamp::now().to_millis(), what: self };
        serde_json::to_vec(&entry)
            .map_err(|error| Error::with_source(Kind::Invalid, "a log entry that has no JSON form", error))
    }
}
