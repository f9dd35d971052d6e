//! Which TPM a host has: its endorsement key, an attestation key in the same TPM, and the record that binds both to the host.

mod attestation_key;
mod endorsement;
mod host;
mod record;
#[allow(clippy::big_endian_bytes, reason = "lengths in DER are big-endian")]
mod spki;

pub use attestation_key::{AttestationKey, CreationEvidence};
pub use endorsement::{EndorsementEvidence, EndorsementKey, EndorsementProof, EndorsementRules, Fingerprint};
pub use host::{Host, HostId};
pub use record::Identity;
pub(crate) use spki::encode as spki_of;
