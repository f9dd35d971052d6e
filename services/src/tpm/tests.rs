use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use emulator::Emulator;
use vmcryptfs_attest::AuthorityKey;
use vmcryptfs_attest::credential::PendingEnrolment;
use vmcryptfs_attest::identity::{
    AttestationKey, CreationEvidence, EndorsementEvidence, EndorsementRules, Fingerprint, Host, HostId, Identity,
};
use vmcryptfs_attest::pcr::{HashAlgorithm, PcrIndex, PcrSelection};
use vmcryptfs_attest::quote::{Binding, FreshChallenge, QuoteEvidence, Quoted, issue};
use vmcryptfs_attest::tpm::Public;

use super::*;

#[path = "../../../tests/testkit/tpm.rs"]
pub(crate) mod emulator;

const NOW: u64 = 1_800_000_000;

fn open(emulator: &Emulator) -> HostTpm {
    HostTpm::open(&emulator.path(), QUOTE_LIMIT).unwrap()
}

/// What the authority makes of the keys of a TPM whose endorsement key it has on its list, and the credential to them.
fn enrolling(endorsement: &Endorsement, key: &NewAttestationKey) -> (PendingEnrolment, Vec<u8>, Vec<u8>) {
    let mut rules = EndorsementRules::new();
    rules.add_listed(Fingerprint::of(&Public::from_tpm2b(&endorsement.public).unwrap()));
    let evidence = EndorsementEvidence { public: &endorsement.public, certificate: None, chain: &[] };
    let accepted = rules.check(&evidence, NOW).unwrap();
    let creation = CreationEvidence { data: &key.creation_data, statement: &key.statement, signature: &key.signature };
    let key = AttestationKey::check(&key.public, &creation).unwrap();
    let host = Host::new(HostId::new([7; 16]), "kvm1").unwrap();
    let (pending, credential) = PendingEnrolment::begin(host, accepted, key).unwrap();
    (pending, credential.id_object, credential.encrypted_secret)
}

fn enrolled(emulator: &Emulator, seed: &AttestationSeed) -> Identity {
    let mut tpm = open(emulator);
    let endorsement = tpm.endorsement().unwrap();
    let key = tpm.attestation_key(seed).unwrap();
    let (pending, id_object, encrypted_secret) = enrolling(&endorsement, &key);
    let secret = tpm.activate(&endorsement, seed, (&id_object, &encrypted_secret)).unwrap();
    pending.finish(&secret).unwrap()
}

fn registers(numbers: &[u32]) -> PcrSelection {
    PcrSelection::new(HashAlgorithm::Sha256, numbers.iter().map(|number| PcrIndex::new(*number).unwrap()))
}

#[test]
fn a_tpm_proves_its_keys_and_its_quotes_hold_after_a_restart_too() {
    let (mut emulator, seed) = (Emulator::start(), AttestationSeed::new().unwrap());
    let identity = Arc::new(enrolled(&emulator, &seed));
    let authority = AuthorityKey::new([9; 32]);
    for selection in [registers(&[]), registers(&[7]), registers(&(0..24).collect::<Vec<_>>())] {
        emulator.restart();
        let challenge = issue(&authority, identity.host().id(), selection, NOW).unwrap();
        let binding = Binding { hpke_key: &[4; 65], request: b"attest" };
        let data = binding.extra_data(&challenge, identity.host().id());
        let QuotedHost { statement, signature, values } =
            open(&emulator).quote(&seed, selection, data.as_bytes()).unwrap();
        let evidence = QuoteEvidence { statement: &statement, signature: &signature, values: &values };
        let fresh = FreshChallenge::check(&authority, &challenge, identity.host().id(), NOW).unwrap();
        let spent = fresh.spend(|_, _| Ok(true)).unwrap();
        let quoted = Quoted::check(Arc::clone(&identity), spent, &binding, &evidence).unwrap();
        assert_eq!(quoted.values().selection(), selection);
    }
}

#[test]
fn a_credential_to_other_keys_is_not_opened_and_nothing_stays_loaded() {
    let (emulator, other) = (Emulator::start(), Emulator::start());
    let seeds = [(); 2].map(|()| AttestationSeed::new().unwrap());
    let mut tpm = open(&emulator);
    let endorsement = tpm.endorsement().unwrap();
    let key = tpm.attestation_key(&seeds[0]).unwrap();
    let (_, id_object, encrypted_secret) = enrolling(&endorsement, &key);
    let foreign = open(&other).endorsement().unwrap();
    let (_, id_of_other, secret_of_other) = enrolling(&foreign, &key);
    // More often than it has room for keys and sessions.
    for _ in 0..4 {
        let denied = |tpm: &mut HostTpm, seed, credential| {
            let error = tpm.activate(&endorsement, seed, credential).unwrap_err();
            assert!(error.kind() == Kind::Denied && error.to_string().contains("was not made for the TPM"), "{error}");
        };
        denied(&mut tpm, &seeds[1], (&id_object, &encrypted_secret));
        denied(&mut tpm, &seeds[0], (&id_of_other, &secret_of_other));
        let error = tpm.activate(&foreign, &seeds[0], (&id_of_other, &secret_of_other)).unwrap_err();
        assert!(error.to_string().contains("another TPM"), "{error}");
    }
    tpm.activate(&endorsement, &seeds[0], (&id_object, &encrypted_secret)).unwrap();
    assert_ne!(key.public, tpm.attestation_key(&seeds[1]).unwrap().public);
}

#[test]
fn a_reset_shows_in_the_clock() {
    let mut emulator = Emulator::start();
    let before = open(&emulator).clock().unwrap();
    assert_eq!(open(&emulator).clock().unwrap(), before);
    emulator.restart();
    assert_ne!(open(&emulator).clock().unwrap(), before);
}

#[test]
fn registers_of_a_bank_that_is_not_there_are_named() {
    let (emulator, seed) = (Emulator::start(), AttestationSeed::new().unwrap());
    let none = PcrSelection::new(HashAlgorithm::Sha512, [PcrIndex::new(7).unwrap()]);
    tool(&emulator.path(), "pcrallocate", &["sha256:all+sha512:none"]);
    let mut emulator = emulator;
    emulator.restart();
    let error = open(&emulator).quote(&seed, none, &[1; 32]).unwrap_err();
    assert!(error.kind() == Kind::Unsupported && error.to_string().contains("is its bank sha512 active?"), "{error}");
}

fn tool(socket: &Path, verb: &str, arguments: &[&str]) {
    let mut command = Command::new(format!("tpm2_{verb}"));
    command.args(arguments).env("TPM2TOOLS_TCTI", format!("swtpm:path={}", socket.display()));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{verb} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Something of the form of a certificate, of this many bytes.
fn certificate(len: u16, filler: u8) -> Vec<u8> {
    let [high, low] = (len - 4).to_be_bytes();
    [&[0x30, 0x82, high, low][..], &vec![filler; usize::from(len) - 4]].concat()
}

#[test]
fn the_key_with_a_certificate_is_the_one_that_is_shown() {
    let (emulator, folder) = (Emulator::start(), tempfile::tempdir().unwrap());
    let without = open(&emulator).endorsement().unwrap();
    assert!(without.certificate.is_none() && without.chain.is_empty());
    let (own, between) = (certificate(1100, 1), [certificate(700, 2), certificate(600, 3)]);
    // The index of the own one was filled up; the second one of the chain begins in one index and ends in the next.
    let chain = between.concat();
    let (first, second) = chain.split_at(1000);
    let puts: [(&str, Vec<u8>); 3] = [
        ("0x1c00002", [own.clone(), vec![0xff; 100]].concat()),
        ("0x1c00100", first.to_vec()),
        ("0x1c00101", second.to_vec()),
    ];
    for (index, content) in puts {
        let file = folder.path().join("content");
        std::fs::write(&file, &content).unwrap();
        let len = content.len().to_string();
        let attributes = "ownerwrite|authread|authwrite";
        tool(&emulator.path(), "nvdefine", &[index, "-C", "o", "-s", &len, "-a", attributes]);
        tool(&emulator.path(), "nvwrite", &[index, "-C", "o", "-i", file.to_str().unwrap()]);
    }
    let with = open(&emulator).endorsement().unwrap();
    assert_eq!((with.certificate.unwrap(), with.chain), (own, between.to_vec()));
    assert_ne!(with.public, without.public, "it is the one of RSA");
}

#[test]
fn a_host_without_a_tpm_is_told_so() {
    let error = HostTpm::open(Path::new("/nonexistent/tpm"), QUOTE_LIMIT).unwrap_err();
    assert!(error.kind() == Kind::KeyUnavailable && error.to_string().contains("has no TPM 2.0"), "{error}");
}
