//! Changed structures: no panic, bounded memory, and what is read is what the bytes say.

use vmcryptfs_attest::identity::{AttestationKey, CreationEvidence, EndorsementEvidence, Identity};
use vmcryptfs_attest::quote::FreshChallenge;
use vmcryptfs_attest::tpm::{Attestation, CreationData, Public, Signature};

use crate::hosts::{GIVEN, Host, LATER, authority, enrolled, rules};
use crate::memory::bound_memory;
use crate::mutation::fuzz;
use crate::vectors::{vector, vectors};

/// Seconds of each target where nobody asks for more.
const SECONDS: u64 = 1;

/// What the readers branch on.
const WORDS: [&[u8]; 12] = [
    b"\xff\x54\x43\x47",
    b"\x80\x18",
    b"\x80\x1a",
    b"\0\x04",
    b"\0\x0b",
    b"\0\x0c",
    b"\0\x10",
    b"\0\x01",
    b"\0\x23",
    b"\xff\xff",
    b"\x03\xff\xff\xff",
    b"\0\0\0\0",
];

#[test]
fn mutated_structures_of_tpms() {
    bound_memory();
    let ends = ["/public", "/quote", "/creation-statement", "/creation-data", "-signature", "/challenge"];
    let corpus: Vec<_> = ends.into_iter().flat_map(vectors).collect();
    fuzz(
        "tpm",
        SECONDS,
        &corpus,
        &WORDS,
        |_, _| {},
        |input| {
            if let Ok(public) = Public::from_tpm2b(input) {
                assert_eq!(public.as_bytes(), &input[2..]);
                assert_eq!(Public::from_tpmt(public.as_bytes()).unwrap().name(), public.name());
            }
            let _ = Public::from_tpmt(input);
            let _ = Attestation::read(input);
            if let Ok(data) = CreationData::from_tpm2b(input) {
                assert_eq!(data.as_bytes(), &input[2..]);
            }
            let _ = Signature::read(input);
            assert!(Identity::from_record(&authority(), input).is_err());
            let host = crate::hosts::id("one");
            let known = vector("one/p256/challenge") == input;
            assert_eq!(FreshChallenge::check(&authority(), input, host, GIVEN).is_ok(), known);
        },
    );
}

#[test]
fn mutated_evidence_proves_nothing_else() {
    bound_memory();
    let host = Host::recorded("one", "p256");
    let identity = enrolled(&host);
    let corpus = [host.quote.clone(), host.signature.clone(), host.values.clone(), host.public.clone()];
    fuzz(
        "evidence",
        SECONDS,
        &corpus,
        &WORDS,
        |_, _| {},
        |input| {
            let with_quote = Host { quote: input.to_vec(), ..host.clone() };
            assert!(input == host.quote || with_quote.quoted(&identity).is_err());
            let with_values = Host { values: input.to_vec(), ..host.clone() };
            assert!(input == host.values || with_values.quoted(&identity).is_err());
            // Signatures may be written with zeros before a number.
            let _ = Host { signature: input.to_vec(), ..host.clone() }.quoted(&identity);
            let [data, statement, signature] = &host.creation;
            let other = AttestationKey::check(input, &CreationEvidence { data, statement, signature });
            assert!(input == host.public || other.is_err());
        },
    );
}

#[test]
fn mutated_certificates_of_endorsement_keys() {
    bound_memory();
    let (rules, public) = (rules(&["one"]), vector("one/ek-rsa/public"));
    let corpus = [vector("one/ek-rsa/certificate"), vector("one/issuer"), vector("one/root")];
    fuzz(
        "certificate",
        SECONDS,
        &corpus,
        &WORDS,
        |_, _| {},
        |input| {
            let evidence = EndorsementEvidence { public: &public, certificate: Some(input), chain: &[input] };
            assert!(input == corpus[0] || rules.check(&evidence, LATER).is_err());
            let _ = vmcryptfs_attest::identity::EndorsementRules::new().add_root(input);
        },
    );
}
