//! Attacks: each is refused by one check, and would succeed without it.

use std::sync::Arc;

use vmcryptfs_attest::identity::{EndorsementEvidence, EndorsementProof, EndorsementRules, Fingerprint, Identity};
use vmcryptfs_attest::pcr::PcrSelection;
use vmcryptfs_attest::quote::{Boot, Expected, FreshChallenge, Steady, issue};
use vmcryptfs_attest::tpm::{Attestation, CreationData, Public};
use vmcryptfs_attest::{AuthorityKey, Error, Kind};

use crate::hosts::{GIVEN, Host, LATER, authority, endorsement, enrolled, id, pending, rules, with_code};
use crate::vectors::vector;

#[track_caller]
fn refused(error: Option<Error>, because: &str) {
    let error = error.expect("it was accepted");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
    assert!(error.to_string().contains(because), "{error}");
}

#[test]
fn quotes_of_another_host_and_of_another_key_are_refused() {
    let (one, two) = (Host::recorded("one", "p256"), Host::recorded("two", "p256"));
    let identity = enrolled(&one);
    let relayed = Host { quote: two.quote.clone(), signature: two.signature.clone(), ..one.clone() };
    refused(relayed.quoted(&identity).err(), "not one of this key");
    refused(two.quoted(&identity).err(), "its challenge was given to the host");
    // Another key of the same TPM, by which the same host could attest if it were enrolled with it.
    let other = Host::recorded("one", "p384");
    let other = Host { quote: other.quote.clone(), signature: other.signature.clone(), ..one.clone() };
    refused(other.quoted(&identity).err(), "as its key says");
}

#[test]
fn a_quote_of_a_child_of_another_parent_is_refused() {
    let one = Host::recorded("one", "p256");
    let record = enrolled(&one).to_record(&authority()).unwrap();
    let mut record = record[..record.len() - 32].to_vec();
    *record.last_mut().unwrap() ^= 1;
    let identity = Identity::from_record(&authority(), &with_code(record)).unwrap();
    refused(one.quoted(&Arc::new(identity)).err(), "its signer is");
}

#[test]
fn a_quote_is_good_for_its_own_challenge_key_host_and_request_only() {
    let one = Host::recorded("one", "p256");
    let identity = enrolled(&one);
    let selection: PcrSelection = "sha256:0,7,14".parse().unwrap();
    let new_challenge = issue(&authority(), one.id, selection, GIVEN).unwrap();
    let changes: [Host; 3] = [
        Host { challenge: new_challenge, ..one.clone() },
        Host { hpke_key: vec![4; 65], ..one.clone() },
        Host { request: b"keys/new".to_vec(), ..one.clone() },
    ];
    for changed in changes {
        refused(changed.quoted(&identity).err(), "another challenge, HPKE key, host or request");
    }
    // Bytes that move from one field to the next are another request.
    let (last, key) = one.hpke_key.split_last().unwrap();
    let moved = Host { hpke_key: key.to_vec(), request: [&[*last][..], &one.request].concat(), ..one.clone() };
    refused(moved.quoted(&identity).err(), "another challenge, HPKE key, host or request");
}

#[test]
fn challenges_are_used_in_time_once_and_by_the_host_they_were_given_to() {
    let one = Host::recorded("one", "p256");
    let check = |key: &AuthorityKey, bytes: &[u8], host, now| FreshChallenge::check(key, bytes, host, now);
    assert!(check(&authority(), &one.challenge, one.id, GIVEN + 60).is_ok());
    assert!(check(&authority(), &one.challenge, one.id, GIVEN - 5).is_ok());
    refused(check(&authority(), &one.challenge, one.id, GIVEN + 61).err(), "is good for 60 seconds");
    refused(check(&authority(), &one.challenge, one.id, GIVEN - 6).err(), "is good for 60 seconds");
    refused(check(&authority(), &one.challenge, id("two"), GIVEN).err(), "to this host");
    refused(check(&AuthorityKey::new([0x41; 32]), &one.challenge, one.id, GIVEN).err(), "to this host");
    for at in 0..one.challenge.len() {
        let mut changed = one.challenge.clone();
        changed[at] ^= 1;
        refused(check(&authority(), &changed, one.id, GIVEN).err(), "to this host");
    }
    let mut used = std::collections::BTreeSet::new();
    let mut spend = || {
        let challenge = check(&authority(), &one.challenge, one.id, GIVEN).unwrap();
        challenge.spend(|name, until| {
            assert_eq!(until, GIVEN + 60);
            Ok(used.insert(*name))
        })
    };
    assert_eq!(spend().unwrap().selection().to_string(), "sha256:0,7,14");
    refused(spend().err(), "was used before");
}

#[test]
fn fewer_registers_than_demanded_and_other_values_are_refused() {
    let one = Host::recorded("one", "p256");
    let identity = enrolled(&one);
    for selection in ["narrow", "wide"] {
        let of = |field: &str| vector(&format!("one/p256/{selection}/{field}"));
        assert_eq!(of("challenge"), one.challenge);
        let other = Host { quote: of("quote"), signature: of("quote-signature"), values: of("values"), ..one.clone() };
        refused(other.quoted(&identity).err(), "expected exactly sha256:0,7,14");
    }
    let mut swapped = one.clone();
    swapped.values.rotate_left(32);
    refused(swapped.quoted(&identity).err(), "not those that it has the digest of");
    let mut changed = one.clone();
    changed.values[0] ^= 1;
    refused(changed.quoted(&identity).err(), "not those that it has the digest of");
    let short = Host { values: one.values[..64].to_vec(), ..one.clone() };
    assert_eq!(short.quoted(&identity).unwrap_err().kind(), Kind::Malformed);
}

#[test]
fn a_restart_since_is_refused_and_a_proof_is_of_its_own_quote() {
    let one = Host::recorded("one", "p256");
    let quoted = one.quoted(&enrolled(&one)).unwrap();
    let boot = Steady::check(&quoted, Expected::Any).unwrap().boot();
    assert_eq!(Steady::check(&quoted, Expected::Same(boot)).unwrap().boot(), boot);
    for other in
        [Boot { reset_count: boot.reset_count + 1, ..boot }, Boot { restart_count: boot.restart_count + 1, ..boot }]
    {
        refused(Steady::check(&quoted, Expected::Same(other)).err(), "was started again since it attested");
    }
}

#[test]
fn after_a_loss_of_power_the_counts_decide_and_not_the_clock() {
    let one = Host::recorded("one", "after-power-loss");
    let quoted = one.quoted(&enrolled(&one)).unwrap();
    assert!(!quoted.clock().safe);
    let boot = Steady::check(&quoted, Expected::Any).unwrap().boot();
    let before = Boot { reset_count: boot.reset_count - 1, ..boot };
    refused(Steady::check(&quoted, Expected::Same(before)).err(), "was started again since it attested");
}

#[test]
fn only_restricted_signing_keys_that_stay_in_their_tpm_may_attest() {
    for (key, lacking) in [("unrestricted", "expected restricted"), ("movable", "expected fixedTPM")] {
        refused(Host::recorded("one", key).attestation_key().err(), lacking);
    }
    // An endorsement key decrypts.
    let host = Host { public: vector("one/ek-rsa/public"), ..Host::recorded("one", "p256") };
    refused(host.attestation_key().err(), "expected sign");
    let one = Host::recorded("one", "p256");
    // fixedParent, sensitiveDataOrigin cleared; decrypt, x509sign set. The attributes are at bytes 6 to 9.
    for (byte, bit, because) in [
        (9, 0x10, "expected fixedParent"),
        (9, 0x20, "expected sensitiveDataOrigin"),
        (7, 0x02, "without decrypt"),
        (7, 0x08, "without x509sign"),
    ] {
        let mut changed = one.clone();
        changed.public[byte] ^= bit;
        refused(changed.attestation_key().err(), because);
    }
}

#[test]
fn creation_data_is_of_this_key_and_signed_by_it() {
    let (one, other) = (Host::recorded("one", "p256"), Host::recorded("one", "p384"));
    let two = Host::recorded("two", "p256");
    assert!(one.attestation_key().is_ok());
    let [data, statement, signature] = one.creation.clone();
    let mut changed = data.clone();
    let locality = 2 + 4 + 2 + 32;
    changed[locality] ^= 2;
    let with = |creation| Host { creation, ..one.clone() }.attestation_key().err();
    refused(with([changed, statement.clone(), signature.clone()]), "has the digest of");
    refused(with([data.clone(), two.creation[1].clone(), two.creation[2].clone()]), "not one of this key");
    refused(with([data.clone(), other.creation[1].clone(), other.creation[2].clone()]), "as its key says");
    refused(with([data, one.quote.clone(), one.signature.clone()]), "not one of its creation");
    let swapped = Host { quote: statement, signature, ..one.clone() };
    refused(swapped.quoted(&enrolled(&one)).err(), "a statement of another kind");
}

#[test]
fn endorsement_keys_have_a_vendor_or_are_listed() {
    for which in ["rsa", "ecc"] {
        let key = endorsement(&rules(&["two", "one"]), "one", which).unwrap();
        assert_eq!(key.proof(), EndorsementProof::Certificate);
        refused(endorsement(&rules(&["two"]), "one", which).err(), "does not lead to the root of a vendor");
        refused(endorsement(&EndorsementRules::new(), "one", which).err(), "is not on the list");
    }
    for which in ["p256", "rsa3072"] {
        let public = vector(&format!("one/ek-{which}/public"));
        let evidence = EndorsementEvidence { public: &public, ..EndorsementEvidence::default() };
        let mut rules = rules(&["one"]);
        refused(rules.check(&evidence, LATER).err(), "there is none");
        let fingerprint = Fingerprint::of(&Public::from_tpm2b(&public).unwrap());
        rules.add_listed(fingerprint.to_string().parse().unwrap());
        assert_eq!(rules.check(&evidence, LATER).unwrap().proof(), EndorsementProof::Listed);
    }
}

#[test]
fn a_listed_key_that_follows_no_template_is_refused() {
    let check = |public: &[u8]| {
        let mut rules = EndorsementRules::new();
        rules.add_listed(Fingerprint::of(&Public::from_tpm2b(public).unwrap()));
        rules.check(&EndorsementEvidence { public, ..EndorsementEvidence::default() }, LATER).err()
    };
    refused(check(&vector("one/p256/public")), "expected adminWithPolicy");
    // From where the attributes are: one that signs as well, and a Name by SHA-1.
    let mut changed = vector("one/ek-p256/public");
    changed[7] ^= 4;
    refused(check(&changed), "without sign");
    let mut changed = vector("one/ek-p256/public");
    changed[5] = 4;
    assert_eq!(check(&changed).unwrap().kind(), Kind::Unsupported);
    assert!(check(&vector("one/ek-p256/public")).is_none());
}

#[test]
fn a_certificate_is_of_this_endorsement_key_for_that_purpose_and_in_its_time() {
    let (public, certificate) = (vector("one/ek-rsa/public"), vector("one/ek-rsa/certificate"));
    let of = |public: &[u8], certificate: &[u8], now| {
        let evidence = EndorsementEvidence { public, certificate: Some(certificate), chain: &[] };
        rules(&["one"]).check(&evidence, now).err()
    };
    assert!(of(&public, &certificate, LATER).is_none());
    refused(of(&vector("two/ek-rsa/public"), &certificate, LATER), "it is of another key");
    refused(of(&vector("one/ek-ecc/public"), &certificate, LATER), "it is of another key");
    refused(of(&public, &certificate, GIVEN), "does not lead to the root");
    refused(of(&public, &vector("one/ek-rsa/certificate-without-purpose"), LATER), "2.23.133.8.1");
    refused(of(&public, &vector("one/ek-rsa/certificate-of-server"), LATER), "does not lead to the root");
    let mut changed = certificate.clone();
    *changed.last_mut().unwrap() ^= 1;
    refused(of(&public, &changed, LATER), "does not lead to the root");
    // The certificate between, from the host instead of the authority's own files.
    let mut rules = EndorsementRules::new();
    rules.add_root(&vector("one/root")).unwrap();
    let issuer = vector("one/issuer");
    let chain: [&[u8]; 1] = [&issuer];
    let mut evidence = EndorsementEvidence { public: &public, certificate: Some(&certificate), chain: &[] };
    assert!(rules.check(&evidence, LATER).is_err());
    evidence.chain = &chain;
    assert!(rules.check(&evidence, LATER).is_ok());
    let many = vec![&issuer[..]; 9];
    evidence.chain = &many;
    assert_eq!(rules.check(&evidence, LATER).unwrap_err().kind(), Kind::Malformed);
}

#[test]
fn records_are_whole_or_refused() {
    let host = Host::recorded("one", "p256");
    let record = enrolled(&host).to_record(&authority()).unwrap();
    assert!(Identity::from_record(&authority(), &record).is_ok());
    refused(Identity::from_record(&AuthorityKey::new([1; 32]), &record).err(), "no member of this authority");
    for at in 0..record.len() {
        let mut changed = record.clone();
        changed[at] ^= 1;
        refused(Identity::from_record(&authority(), &changed).err(), "no member of this authority");
        assert!(Identity::from_record(&authority(), &record[..at]).is_err());
    }
}

#[test]
fn a_credential_ends_with_the_secret_or_not_at_all() {
    let host = Host::recorded("one", "p256");
    for which in ["rsa", "ecc"] {
        for answer in [&[][..], &[0; 32], &[0; 33]] {
            let pending = pending(&host, endorsement(&rules(&["one"]), "one", which).unwrap());
            refused(pending.finish(answer).err(), "did not give back the secret");
        }
    }
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_kept() {
    // A selection of 2^32 - 1 banks; a Name of 65,535 bytes.
    let mut quote = vector("one/p256/quote");
    let count = quote.len() - (2 + 32) - (2 + 1 + 3) - 4;
    quote[count..count + 4].fill(0xff);
    assert!(Attestation::read(&quote).unwrap_err().to_string().contains("4294967295 selections"));
    let mut quote = vector("one/p256/quote");
    quote[6..8].fill(0xff);
    assert!(Attestation::read(&quote).unwrap_err().to_string().contains("65535 bytes: expected at most 66"));
    let mut data = vector("one/p256/creation-data");
    data[2..6].fill(0xff);
    assert!(CreationData::from_tpm2b(&data).unwrap_err().to_string().contains("selections"));
    // A digest one byte shorter than those of its algorithm, as a Name.
    let mut quote = vector("one/p256/quote");
    quote[7] -= 1;
    quote.remove(8 + 33);
    assert!(Attestation::read(&quote).unwrap_err().to_string().contains("a sha256 digest of 31 bytes"));
}
