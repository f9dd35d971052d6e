//! Hosts of tests: what each sends. An attack changes it before the authority sees it.

use std::sync::Arc;

use aws_lc_rs::hmac;
use vmcryptfs_attest::credential::PendingEnrolment;
use vmcryptfs_attest::identity::{
    AttestationKey, CreationEvidence, EndorsementEvidence, EndorsementKey, EndorsementRules, Host as Named, HostId,
    Identity,
};
use vmcryptfs_attest::quote::{Binding, FreshChallenge, QuoteEvidence, Quoted, SpentChallenge};
use vmcryptfs_attest::{AuthorityKey, Result};

use crate::vectors::vector;

/// Attestation keys of the first TPM that may attest.
pub(crate) const KEYS: [&str; 4] = ["p256", "p384", "rsassa", "rsapss"];
/// When the challenges were given, in seconds of Unix time.
pub(crate) const GIVEN: u64 = 1_796_000_000;
/// When the certificates of the TPMs are valid.
pub(crate) const LATER: u64 = 1_830_000_000;
pub(crate) const REQUEST: &[u8] = b"keys/unwrap";

pub(crate) fn authority() -> AuthorityKey {
    AuthorityKey::new([0x42; 32])
}

pub(crate) fn hpke_key() -> Vec<u8> {
    (0..65).collect()
}

/// What a host sends.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) public: Vec<u8>,
    pub(crate) creation: [Vec<u8>; 3],
    pub(crate) challenge: Vec<u8>,
    pub(crate) quote: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) values: Vec<u8>,
    pub(crate) hpke_key: Vec<u8>,
    pub(crate) request: Vec<u8>,
}

impl Host {
    /// What a recorded TPM said with one of its keys.
    pub(crate) fn recorded(tpm: &str, key: &str) -> Self {
        let of = |field: &str| vector(&format!("{tpm}/{key}/{field}"));
        Self {
            id: id(tpm),
            public: of("public"),
            creation: [of("creation-data"), of("creation-statement"), of("creation-signature")],
            challenge: of("challenge"),
            quote: of("quote"),
            signature: of("quote-signature"),
            values: of("values"),
            hpke_key: hpke_key(),
            request: REQUEST.to_vec(),
        }
    }

    pub(crate) fn attestation_key(&self) -> Result<AttestationKey> {
        let [data, statement, signature] = &self.creation;
        AttestationKey::check(&self.public, &CreationEvidence { data, statement, signature })
    }

    pub(crate) fn spent(&self) -> Result<SpentChallenge> {
        FreshChallenge::check(&authority(), &self.challenge, self.id, GIVEN + 60)?.spend(|_, _| Ok(true))
    }

    /// The quote, judged.
    pub(crate) fn quoted(&self, identity: &Arc<Identity>) -> Result<Quoted> {
        let binding = Binding { hpke_key: &self.hpke_key, request: &self.request };
        let evidence = QuoteEvidence { statement: &self.quote, signature: &self.signature, values: &self.values };
        Quoted::check(Arc::clone(identity), self.spent()?, &binding, &evidence)
    }
}

pub(crate) fn id(tpm: &str) -> HostId {
    HostId::new(if tpm == "one" { [1; 16] } else { [2; 16] })
}

/// Accepts the endorsement keys with certificates of these TPMs' vendors.
pub(crate) fn rules(vendors: &[&str]) -> EndorsementRules {
    let mut rules = EndorsementRules::new();
    for vendor in vendors {
        rules.add_root(&vector(&format!("{vendor}/root"))).unwrap();
        rules.add_intermediate(&vector(&format!("{vendor}/issuer")));
    }
    rules
}

/// The endorsement key of a recorded TPM: `rsa` or `ecc`.
pub(crate) fn endorsement(rules: &EndorsementRules, tpm: &str, which: &str) -> Result<EndorsementKey> {
    let public = vector(&format!("{tpm}/ek-{which}/public"));
    let certificate = vector(&format!("{tpm}/ek-{which}/certificate"));
    rules.check(&EndorsementEvidence { public: &public, certificate: Some(&certificate), chain: &[] }, LATER)
}

/// The record of a host that enrolled. No recorded TPM can answer a new credential: the authority's own key makes the record, of
/// the format in docs/ATTESTATION.md.
pub(crate) fn enrolled(host: &Host) -> Arc<Identity> {
    let name = "node-1";
    let key = host.attestation_key().unwrap();
    let mut record = b"\0\x01".to_vec();
    record.extend(host.id.as_bytes());
    let mut sized = |bytes: &[u8], before: &[u8]| {
        record.extend(before);
        record.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        record.extend(bytes);
    };
    sized(name.as_bytes(), &[]);
    sized(key.public().as_bytes(), &[&[9; 32][..], &[0, 1]].concat());
    sized(key.qualified_name().as_bytes(), &[]);
    let record = with_code(record);
    let identity = Identity::from_record(&authority(), &record).unwrap();
    assert_eq!(identity.to_record(&authority()).unwrap(), record, "records are written as they are documented");
    Arc::new(identity)
}

/// A record after which its code stands, by the authority's key.
pub(crate) fn with_code(record: Vec<u8>) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[0x42; 32]);
    let mut message = Vec::new();
    for part in [&b"vmcryptfs attest record 1"[..], &record] {
        message.extend(u64::try_from(part.len()).unwrap().to_be_bytes());
        message.extend(part);
    }
    [&record[..], hmac::sign(&key, &message).as_ref()].concat()
}

/// An enrolment of a recorded TPM up to its credential.
pub(crate) fn pending(host: &Host, endorsement: EndorsementKey) -> PendingEnrolment {
    let named = Named::new(host.id, "node-1").unwrap();
    PendingEnrolment::begin(named, endorsement, host.attestation_key().unwrap()).unwrap().0
}
