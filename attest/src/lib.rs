//! What a TPM says of a host, judged without any I/O of its own. The specification is docs/ATTESTATION.md.
//!
//! | call of a host | what an authority does |
//! |---|---|
//! | enrol | [`identity::EndorsementRules::check`], [`identity::AttestationKey::check`], [`credential::PendingEnrolment::begin`] |
//! | enrol, the answer | [`credential::PendingEnrolment::finish`], then keeps [`identity::Identity::to_record`] |
//! | challenge | [`quote::issue`], for the PCRs of [`policy::Policy::selection_for`] |
//! | attest | [`identity::Identity::from_record`], [`quote::FreshChallenge::check`] and `spend`, [`quote::Quoted::check`], [`quote::Steady::check`], [`replay::Replayed::new`], [`policy::Policy::appraise`], and [`verdict::Attested::conclude`] |
//!
//! A host gives [`quote::Binding::extra_data`] to its TPM as the qualifying data of the quote.
//!
//! Bytes from outside are refused with an [`Error`] that names what was found and what was expected. Nothing panics, and
//! memory is bounded by constants or by the bytes that were handed in, never by a number in them.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should"))]

#[allow(clippy::big_endian_bytes, reason = "as the numbers of a TPM, beside which these stand")]
mod authority_key;
pub mod credential;
mod error;
pub mod event_log;
pub mod identity;
pub mod pcr;
pub mod policy;
pub mod predict;
pub mod quote;
pub mod replay;
#[allow(clippy::big_endian_bytes, reason = "numbers of a TPM are big-endian")]
pub mod tpm;
pub mod userspace_log;
pub mod verdict;

pub use authority_key::AuthorityKey;
pub use error::{Error, Kind, Result};
