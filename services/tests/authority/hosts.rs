//! Hosts that enrol, attest and get keys; and those that only pretend to.

use std::fs;
use std::os::unix::fs::DirBuilderExt;

use rustix::process::Signal;
use uuid::Uuid;
use vmcryptfs::crypto::hpke::SealKey;
use vmcryptfs::error::Kind;
use vmcryptfs_services::authority::enrolment::Token;
use vmcryptfs_services::trust_wire::{AttestedHost, Blob, CredentialAnswer, EnrolledHost};

use crate::asking::{Host, accept, call, denied, new_key, policy, site, token, unwrap};
use crate::process::Authority;
use crate::tpm::Tpm;

#[test]
fn a_host_enrols_is_approved_attests_gets_keys_and_nothing_any_more_once_it_is_removed() {
    let (mut authority, tpm) = site();
    let enrolment = token(&authority);
    let host = Host::enrol(&authority, tpm, &enrolment);
    denied(Host::begin(&authority, &host.tpm, &enrolment, "kvm1"), "was used");
    denied(host.challenge(&authority), "is pending");
    let fingerprint = fs::read_to_string(authority.folder().join("endorsement-keys")).unwrap();
    let fingerprint = fingerprint.lines().nth(1).unwrap().strip_suffix(" kvm1").unwrap();
    assert!(authority.run(&["host", "list"]).contains(fingerprint), "who approves can compare it");
    authority.run(&["host", "approve", "kvm1"]);

    let challenge = host.challenge(&authority).unwrap();
    let evidence = host.quoted(&challenge, host.authority);
    let attested: AttestedHost = call(&authority, "/v1/attest", &evidence).unwrap();
    assert_eq!((attested.level.as_str(), attested.seconds), ("identity", 600));
    let request = Uuid::from_u128(1);
    let (id, kek) = host.open(&new_key(&authority, &attested.token, request).unwrap(), request);
    let released = unwrap(&authority, &attested.token, &id).unwrap();
    assert_eq!(host.open(&released, Uuid::nil()).1, kek);

    // A challenge is good once, for one key, host and authority.
    denied(call::<AttestedHost>(&authority, "/v1/attest", &evidence), "was used before");
    let fresh = host.challenge(&authority).unwrap();
    denied(call::<AttestedHost>(&authority, "/v1/attest", &host.quoted(&fresh, Uuid::nil())), "made for another");
    let mut stolen = host.quoted(&host.challenge(&authority).unwrap(), host.authority);
    stolen.hpke_key = Blob(SealKey::generate().unwrap().public().to_vec());
    denied(call::<AttestedHost>(&authority, "/v1/attest", &stolen), "made for another");

    // What others than its TPM send for a challenge of the host does not use it up.
    let good = host.quoted(&host.challenge(&authority).unwrap(), host.authority);
    let mut forged = good.clone();
    forged.quote.0[20] ^= 1;
    denied(call::<AttestedHost>(&authority, "/v1/attest", &forged), "not one of this key");
    call::<AttestedHost>(&authority, "/v1/attest", &good).unwrap();

    // Killed and started again, it knows the host and has all entries. What it gave before is void.
    let before = host.quoted(&host.challenge(&authority).unwrap(), host.authority);
    authority.end(Signal::KILL);
    authority.start();
    denied(unwrap(&authority, &attested.token, &id), "since it began");
    denied(call::<AttestedHost>(&authority, "/v1/attest", &before), "no member of this authority gave it to this host");
    let attested = host.attest(&authority);
    assert_eq!(host.open(&unwrap(&authority, &attested.token, &id).unwrap(), Uuid::nil()).1, kek);

    authority.run(&["host", "remove", "kvm1"]);
    denied(unwrap(&authority, &attested.token, &id), "is void");
    denied(host.challenge(&authority), "is removed");
    authority.end(Signal::TERM);
    assert!(authority.json(&["log", "verify"])["entries"].as_u64().unwrap() >= 9);
    let log = fs::read_to_string(authority.folder().join("log/entries")).unwrap();
    for word in ["begun", "policy-approved", "token-made", "enrolled", "approved", "attested", "key-made", "removed"] {
        assert!(log.contains(&format!("\"entry\":\"{word}\"")), "{word}: {log}");
    }
    assert_eq!(log.matches("\"entry\":\"key-released\"").count(), 2, "{log}");
}

#[test]
fn nobody_enrols_without_a_token_an_accepted_tpm_and_its_answer() {
    let (authority, tpm) = site();
    let good = token(&authority);
    let wrong = Token { secret: Blob(vec![0; 32]), ..good.clone() };
    denied(Host::begin(&authority, &tpm, &wrong, "kvm1"), "is not good");
    denied(Host::begin(&authority, &tpm, &good, "kvm2"), "is for host kvm1");
    let stranger = Tpm::start();
    denied(Host::begin(&authority, &stranger, &good, "kvm1"), "is not on the list");
    let guess = CredentialAnswer { secret: Blob(vec![0; 32]) };
    let [before, path] =
        [(); 2].map(|()| format!("/v1/enrol/{}", Host::begin(&authority, &tpm, &good, "kvm1").unwrap().enrolment));
    let ended = call::<EnrolledHost>(&authority, &before, &guess);
    assert_eq!(ended.unwrap_err().0, 404, "one token has one enrolment");
    denied(call::<EnrolledHost>(&authority, &path, &guess), "did not give back the secret");
    assert_eq!(call::<EnrolledHost>(&authority, &path, &guess).unwrap_err().0, 404, "there is one try");
    assert_eq!(authority.json(&["host", "list"]), serde_json::json!([]));
    // What is wrong with the authority's own files is for its log.
    fs::create_dir(authority.folder().join("roots")).unwrap();
    authority.write("config/authority/roots/vendor.der", "no certificate");
    let (status, kind, message) = Host::begin(&authority, &tpm, &good, "kvm1").unwrap_err();
    assert!((status, kind) == (500, Kind::Io) && !message.contains("vendor.der"), "{status} {kind:?} {message}");
}

#[test]
fn a_policy_is_tried_out_before_it_is_in_force() {
    let (authority, tpm) = site();
    let host = Host::enrol(&authority, tpm, &token(&authority));
    authority.run(&["host", "approve", "kvm1"]);
    let file = authority.write("other.toml", &policy("web*"));
    let file = file.to_str().unwrap();
    assert_eq!(authority.json(&["policy", "test", file])["unknown"][0], "kvm1");
    host.attest(&authority);
    let tried = authority.json(&["policy", "test", file]);
    assert!(tried["refused"][0]["reason"].as_str().unwrap().contains("every host is in a class"), "{tried}");
    host.attest(&authority); // nothing has changed
    authority.run(&["policy", "approve", file]);
    denied(host.challenge(&authority), "no class of policy kvm has host kvm1");
    let broken = authority.write("broken.toml", "format = 1\nlevl = 3\n");
    let refused = authority.try_run(&["policy", "approve", broken.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}

#[test]
fn a_host_goes_on_with_another_tpm_and_the_one_before_is_void() {
    let (authority, tpm) = site();
    let old = Host::enrol(&authority, tpm, &token(&authority));
    authority.run(&["host", "approve", "kvm1"]);
    let attested = old.attest(&authority);
    let (id, kek) = old.open(&new_key(&authority, &attested.token, Uuid::nil()).unwrap(), Uuid::nil());

    let replaces = Token::parse(&authority.run(&["host", "replace", "kvm1"])).unwrap();
    let other = Tpm::start();
    denied(Host::begin(&authority, &other, &replaces, "kvm1"), "is not on the list");
    accept(&authority, &[&old.tpm, &other]);
    unwrap(&authority, &attested.token, &id).unwrap();
    let new = Host::enrol(&authority, other, &replaces);
    assert_eq!(new.uuid, old.uuid);
    denied(unwrap(&authority, &attested.token, &id), "is void");
    denied(new.challenge(&authority), "is pending");
    authority.run(&["host", "approve", "kvm1"]);
    let file = authority.write("same.toml", &policy("kvm*"));
    let tried = authority.json(&["policy", "test", file.to_str().unwrap()]);
    assert_eq!(tried["unknown"][0], "kvm1", "what the TPM of before has sent says nothing of it: {tried}");
    let challenge = new.challenge(&authority).unwrap();
    let of_old = call::<AttestedHost>(&authority, "/v1/attest", &old.quoted(&challenge, old.authority));
    denied(of_old, "not one of this key");
    let attested = new.attest(&authority);
    assert_eq!(new.open(&unwrap(&authority, &attested.token, &id).unwrap(), Uuid::nil()).1, kek);
    let list = authority.json(&["host", "list"]);
    assert_ne!(list[0]["former"][0]["ek"], list[0]["ek"]);

    // Both had the key, under one UUID.
    assert_eq!(authority.json(&["host", "keys", "kvm1"]).as_array().unwrap().len(), 1);
    let removed = authority.json(&["host", "remove", "kvm1"]);
    assert_eq!((&removed["state"], &removed["keys"][0]["times"]), (&"removed".into(), &3.into()), "{removed}");
    assert_eq!(removed["keys"][0]["vm"], Uuid::nil().to_string());
    let refused = authority.try_run(&["host", "replace", &new.uuid.to_string()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("it enrols as a new one"), "{refused:?}");
}

fn root_of_another_vendor() -> Vec<u8> {
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    root.der().to_vec()
}

#[test]
fn a_tpm_with_a_certificate_enrols_if_the_root_of_its_vendor_is_configured() {
    let (tpm, [root, issuer]) = Tpm::start_certified();
    let mut authority = Authority::made(&[]);
    authority.start();
    let file = authority.write("kvm.toml", &policy("kvm*"));
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
    let token = token(&authority);
    let begin = || Host::begin(&authority, &tpm, &token, "kvm1");
    denied(begin(), "is not on the list");
    let certificate = |place: &str, der: &[u8]| {
        let folder = authority.folder().join(place);
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&folder).unwrap();
        vmcryptfs::provider::private_file::replace(&folder.join("vendor.der"), &[der]).unwrap();
    };
    // Another vendor's: this one's issuer, which signed the certificate, is not enough.
    let other = root_of_another_vendor();
    certificate("roots", &other);
    certificate("issuers", &issuer);
    denied(begin(), "does not lead to the root of a vendor");
    certificate("roots", &root);
    let host = Host::enrol(&authority, tpm, &token);
    authority.run(&["host", "approve", "kvm1"]);
    host.attest(&authority);
    // Once it has enrolled, it is by the key of its own record that it attests.
    certificate("roots", &other);
    host.attest(&authority);
}
