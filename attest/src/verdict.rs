//! The verdict: that a host is the one that enrolled, has measured what its policy demands, and says so now.
//!
//! Each check returns a proof that only it can make, and [`Attested::conclude`] needs all of them. A check that is forgotten is a
//! value that is not there: it does not compile. A proof of another host, or of another quote, is refused.
//!
//! | proof | made by | says |
//! |---|---|---|
//! | [`EndorsementKey`](crate::identity::EndorsementKey) | [`EndorsementRules::check`](crate::identity::EndorsementRules::check) | a vendor or a person vouches for the TPM |
//! | [`AttestationKey`](crate::identity::AttestationKey) | [`AttestationKey::check`](crate::identity::AttestationKey::check) | the key signs only what its TPM says |
//! | [`Identity`] | [`PendingEnrolment::finish`](crate::credential::PendingEnrolment::finish) | one TPM holds both, and it is this host's |
//! | [`SpentChallenge`](crate::quote::SpentChallenge) | [`FreshChallenge::spend`](crate::quote::FreshChallenge::spend) | the challenge is fresh, and was never used |
//! | [`Quoted`] | [`Quoted::check`] | the TPM has these values now, for this request |
//! | [`Steady`] | [`Steady::check`] | it is the boot that was expected |
//! | [`Replayed`] | [`Replayed::new`] | these are all events that led to the values |
//! | [`Satisfied`] | [`Policy::appraise`](crate::policy::Policy::appraise) | they are what the policy demands |
//!
//! Without one of them there is no verdict:
//!
//! ```compile_fail,E0061
//! # use vmcryptfs_attest::{policy::Satisfied, quote::{Quoted, Steady}, replay::Replayed, verdict::Attested};
//! fn without_a_policy(quoted: Quoted, steady: Steady, replayed: Replayed) {
//!     let _ = Attested::conclude(quoted, steady, replayed);
//! }
//! ```
//!
//! ```compile_fail,E0061
//! # use vmcryptfs_attest::{policy::Satisfied, quote::{Quoted, Steady}, replay::Replayed, verdict::Attested};
//! fn without_the_boot(quoted: Quoted, replayed: Replayed, satisfied: Satisfied) {
//!     let _ = Attested::conclude(quoted, replayed, satisfied);
//! }
//! ```
//!
//! With all of them there is:
//!
//! ```
//! # use vmcryptfs_attest::{policy::Satisfied, quote::{Quoted, Steady}, replay::Replayed, verdict::Attested, Result};
//! fn with_all(quoted: Quoted, steady: Steady, replayed: Replayed, satisfied: Satisfied) -> Result<Attested> {
//!     Attested::conclude(quoted, steady, replayed, satisfied)
//! }
//! ```
//!
//! A challenge that was not used up checks no quote:
//!
//! ```compile_fail,E0308
//! # use std::sync::Arc;
//! # use vmcryptfs_attest::{identity::Identity, quote::{Binding, FreshChallenge, QuoteEvidence, Quoted}};
//! fn with_a_fresh_one(host: Arc<Identity>, challenge: FreshChallenge, binding: &Binding<'_>, evidence: &QuoteEvidence<'_>) {
//!     let _ = Quoted::check(host, challenge, binding, evidence);
//! }
//! ```
//!
//! And a used one checks one quote only:
//!
//! ```compile_fail,E0382
//! # use std::sync::Arc;
//! # use vmcryptfs_attest::{identity::Identity, quote::{Binding, QuoteEvidence, Quoted, SpentChallenge}};
//! fn twice(host: Arc<Identity>, challenge: SpentChallenge, binding: &Binding<'_>, evidence: &QuoteEvidence<'_>) {
//!     let _ = Quoted::check(Arc::clone(&host), challenge, binding, evidence);
//!     let _ = Quoted::check(host, challenge, binding, evidence);
//! }
//! ```
//!
//! A credential is made to checked keys, not to what a host sent:
//!
//! ```compile_fail,E0308
//! # use vmcryptfs_attest::{credential::PendingEnrolment, identity::{AttestationKey, Host}, tpm::Public};
//! fn to_any_key(host: Host, endorsement: Public, attestation: AttestationKey) {
//!     let _ = PendingEnrolment::begin(host, endorsement, attestation);
//! }
//! ```
//!
//! And a verdict cannot be written down without the checks:
//!
//! ```compile_fail,E0451
//! # use vmcryptfs_attest::{policy::Satisfied, quote::{Quoted, Steady}, replay::Replayed, verdict::Attested};
//! fn forged(quoted: Quoted, steady: Steady, replayed: Replayed, satisfied: Satisfied) -> Attested {
//!     Attested { quoted, steady, replayed, satisfied }
//! }
//! ```

use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::policy::Satisfied;
use crate::quote::{Boot, Quoted, Steady};
use crate::replay::Replayed;

/// A host that passed every check. Keys are released for one of these, and for nothing else.
#[derive(Clone, Debug)]
pub struct Attested {
    quoted: Quoted,
    steady: Steady,
    replayed: Replayed,
    satisfied: Satisfied,
}

impl Attested {
    /// Puts the proofs together, and makes sure that they are of one host and one quote.
    ///
    /// # Errors
    /// `Refused` when the boot is that of another quote, the events are of other values, or the policy was satisfied by
    /// another host or other values.
    pub fn conclude(quoted: Quoted, steady: Steady, replayed: Replayed, satisfied: Satisfied) -> Result<Self> {
        let host = quoted.identity().host().name();
        let mixed = |what: &str| Err(Error::refused(format!("the verdict on {host}: {what}")));
        if !steady.is_of(&quoted) {
            return mixed("its boot is that of another quote");
        }
        if replayed.values() != quoted.values() {
            return mixed("its events are of other values than those of the quote");
        }
        if satisfied.values() != quoted.values() {
            return mixed("its policy was satisfied by other values than those of the quote");
        }
        if satisfied.host() != host {
            return mixed(&format!("its policy was satisfied by {}", satisfied.host()));
        }
        Ok(Self { quoted, steady, replayed, satisfied })
    }

    /// The host, with the keys that it enrolled with.
    pub fn identity(&self) -> &Identity {
        self.quoted.identity()
    }

    /// What was quoted: the values of registers, and the HPKE key that answers are sealed to.
    pub fn quoted(&self) -> &Quoted {
        &self.quoted
    }

    /// The boot. Once it changes, the host has to attest again.
    pub fn boot(&self) -> Boot {
        self.steady.boot()
    }

    /// All that was measured.
    pub fn replayed(&self) -> &Replayed {
        &self.replayed
    }

    /// The policy, and what was proven to it.
    pub fn satisfied(&self) -> &Satisfied {
        &self.satisfied
    }
}
