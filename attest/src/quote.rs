//! Quotes: that a host's TPM says which values its registers have, now, and for this request.

mod binding;
mod boot;
mod challenge;

use std::sync::Arc;

pub use binding::Binding;
pub use boot::{Boot, Expected, Steady};
pub use challenge::{CHALLENGE_LIFETIME, FreshChallenge, SpentChallenge, issue};

use crate::authority_key::same_secret;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::pcr::{Digest, PcrSelection, PcrValues};
use crate::tpm::{Attestation, ClockInfo, Quote, Scheme, Signature, Statement};

/// What a host sends.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuoteEvidence<'a> {
    /// `TPMS_ATTEST` of TPM2_Quote.
    pub statement: &'a [u8],
    /// `TPMT_SIGNATURE` of it.
    pub signature: &'a [u8],
    /// The values of the demanded registers in ascending order, one after the other. They count because the quote has
    /// their digest, not because of their sender.
    pub values: &'a [u8],
}

/// A quote by the attestation key of a host, for one challenge and one request: proof that its registers have these values.
#[derive(Clone, Debug)]
pub struct Quoted {
    identity: Arc<Identity>,
    values: PcrValues,
    clock: ClockInfo,
    hpke_key: Vec<u8>,
    /// That of its challenge, which no other quote was checked with.
    id: [u8; challenge::ID_LEN],
}

impl Quoted {
    /// Checks a quote. The challenge is used up by it, whatever the result.
    ///
    /// # Errors
    /// `Refused` when the quote is not signed by the attestation key of `identity`, was made for something else than this
    /// challenge, HPKE key, host and request, is of other registers than demanded, or does not have the digest of the values;
    /// `Malformed` and `Unsupported` when something does not follow its format.
    pub fn check(
        identity: Arc<Identity>,
        challenge: SpentChallenge,
        binding: &Binding<'_>,
        evidence: &QuoteEvidence<'_>,
    ) -> Result<Self> {
        let host = identity.host().name().to_owned();
        checked(identity, &challenge, binding, evidence)
            .map_err(|error| error.within(format_args!("the quote of {host}")))
    }

    /// The host.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The values of the demanded registers.
    pub fn values(&self) -> &PcrValues {
        &self.values
    }

    /// The clock of the TPM.
    pub fn clock(&self) -> ClockInfo {
        self.clock
    }

    /// The HPKE public key that the quote was made for: what is sealed to it, only the host that made it opens.
    pub fn hpke_key(&self) -> &[u8] {
        &self.hpke_key
    }
}

fn checked(
    identity: Arc<Identity>,
    challenge: &SpentChallenge,
    binding: &Binding<'_>,
    evidence: &QuoteEvidence<'_>,
) -> Result<Quoted> {
    let host = identity.host().id();
    if challenge.host() != host {
        return Err(Error::refused(format!(
            "its challenge was given to the host {}: expected {host}",
            challenge.host()
        )));
    }
    // The signature first: nothing is read that the key did not sign.
    let signature = Signature::read(evidence.signature)?;
    signature.verify(identity.attestation().public(), evidence.statement)?;
    let statement = Attestation::read(evidence.statement)?;
    let Statement::Quote(quote) = &statement.statement else {
        return Err(Error::refused("it is a statement of another kind"));
    };
    if statement.signer != *identity.attestation().qualified_name() {
        return Err(Error::refused(format!(
            "its signer is {}: expected {}",
            statement.signer,
            identity.attestation().qualified_name()
        )));
    }
    if !same_secret(&statement.extra_data, binding.extra_data(challenge.as_bytes(), host).as_bytes()) {
        return Err(Error::refused("it was made for another challenge, HPKE key, host or request"));
    }
    let values = values(quote, challenge.selection(), signature.scheme(), evidence.values)?;
    let hpke_key = binding.hpke_key.to_vec();
    Ok(Quoted { identity, values, clock: statement.clock, hpke_key, id: challenge.id() })
}

/// The values whose digest the quote has, if it is one of exactly the demanded registers.
fn values(quote: &Quote, demanded: PcrSelection, scheme: Scheme, values: &[u8]) -> Result<PcrValues> {
    if quote.selections[..] != [demanded] {
        return Err(Error::refused(format!("it is of the PCRs {:?}: expected exactly {demanded}", quote.selections)));
    }
    let len = demanded.bank().digest_len();
    if values.len() != len * demanded.len() {
        return Err(Error::malformed(format!(
            "{} bytes of values: expected {} of {len} bytes",
            values.len(),
            demanded.len()
        )));
    }
    let digests = values.chunks_exact(len).map(|value| Digest::new(demanded.bank(), value)).collect::<Result<_>>()?;
    let values = PcrValues::new(demanded, digests)?;
    // The digest is made with the hash algorithm of the signature.
    let (Scheme::RsaSsa(hash) | Scheme::RsaPss(hash) | Scheme::Ecdsa(hash)) = scheme else {
        return Err(Error::unsupported("its signature has no hash algorithm"));
    };
    if quote.digest != values.digest(hash).as_bytes() {
        return Err(Error::refused("the values of PCRs are not those that it has the digest of"));
    }
    Ok(values)
}
