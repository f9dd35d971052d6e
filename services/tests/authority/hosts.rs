//! Hosts that enrol, attest and get keys; and those that only pretend to.

use std::fs;

use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use vmcryptfs::crypto::hpke::{SealKey, Sealed};
use vmcryptfs::error::Kind;
use vmcryptfs_attest::identity::{Fingerprint, HostId};
use vmcryptfs_attest::quote::Binding;
use vmcryptfs_attest::tpm::Public;
use vmcryptfs_services::authority::enrolment::Token;
use vmcryptfs_services::trust_wire::{
    AttestRequest, AttestedHost, Blob, Challenge, ChallengeRequest, CredentialAnswer, EnrolAnswer, EnrolRequest,
    EnrolledHost, HostState, KeyPurpose, NewKeys, Refused, ReleasedKey, ReleasedKeys, SEALED_KEK, UnwrapKeys,
    quoted_for, sealed_to,
};

use crate::process::Authority;
use crate::tpm::Tpm;

/// A policy for hosts of these names, which need only have the TPM that they enrolled with.
fn policy(hosts: &str) -> String {
    format!(
        "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"{hosts}\"]\nlevel = \"identity\"\n"
    )
}

/// The log of a firmware that has measured nothing (TCG PC Client Platform Firmware Profile, "Event Logging").
fn empty_log() -> Vec<u8> {
    let content = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0b\0\x20\0\0";
    let len = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20], &len, content].concat()
}

/// A host that an authority knows.
struct Host {
    tpm: Tpm,
    key: SealKey,
    authority: Uuid,
    uuid: Uuid,
}

type Refusal = (u16, Kind, String);

fn call<A: DeserializeOwned>(authority: &Authority, path: &str, request: &impl Serialize) -> Result<A, Refusal> {
    let (status, body) = authority.connect().post(path, &serde_json::to_vec(request).unwrap());
    if status == 200 {
        return Ok(serde_json::from_slice(&body).unwrap());
    }
    let Refused { error } = serde_json::from_slice(&body).unwrap();
    Err((status, error.kind, error.message))
}

fn denied<T>(answer: Result<T, Refusal>, words: &str) {
    let (status, kind, message) = answer.err().expect("it was refused");
    assert!((status, kind) == (403, Kind::Denied) && message.contains(words), "{status} {kind:?} {message}");
}

impl Host {
    /// A host that begins to enrol.
    fn begin(authority: &Authority, tpm: &Tpm, token: &Token, name: &str) -> Result<EnrolAnswer, Refusal> {
        let of = |name: &str| Blob(tpm.read(name));
        let request = EnrolRequest {
            token: token.id,
            secret: token.secret.clone(),
            name: name.to_owned(),
            ek_public: of("ek"),
            ek_certificate: None,
            ek_chain: Vec::new(),
            ak_public: of("ak"),
            creation_data: of("data"),
            creation_statement: of("statement"),
            creation_signature: of("signature"),
        };
        call(authority, "/v1/enrol", &request)
    }

    fn enrol(authority: &Authority, tpm: Tpm, token: &Token) -> Self {
        let answer = Self::begin(authority, &tpm, token, "kvm1").unwrap();
        let secret = Blob(tpm.activate(&answer.id_object.0, &answer.encrypted_secret.0));
        let path = format!("/v1/enrol/{}", answer.enrolment);
        let enrolled: EnrolledHost = call(authority, &path, &CredentialAnswer { secret: secret.clone() }).unwrap();
        assert_eq!(enrolled.state, HostState::Pending);
        // The answer may be lost: it is given again, and to nobody else.
        let again: EnrolledHost = call(authority, &path, &CredentialAnswer { secret }).unwrap();
        assert_eq!(again.host, enrolled.host);
        let other = call::<EnrolledHost>(authority, &path, &CredentialAnswer { secret: Blob(vec![0; 32]) });
        assert_eq!(other.unwrap_err().0, 404);
        Self { tpm, key: SealKey::generate().unwrap(), authority: enrolled.authority, uuid: enrolled.host }
    }

    fn challenge(&self, authority: &Authority) -> Result<Challenge, Refusal> {
        call(authority, "/v1/challenge", &ChallengeRequest { host: self.uuid })
    }

    /// A quote that answers a challenge.
    fn quoted(&self, challenge: &Challenge, for_authority: Uuid) -> AttestRequest {
        let (request, hpke_key) = (quoted_for(for_authority), self.key.public());
        let binding = Binding { hpke_key, request: &request };
        let data = binding.extra_data(&challenge.challenge.0, HostId::new(*self.uuid.as_bytes()));
        assert_eq!((challenge.bank.as_str(), challenge.registers.as_slice()), ("sha256", &[][..]));
        let [quote, signature, values] = self.tpm.quote("sha256:none", data.as_bytes()).map(Blob);
        AttestRequest {
            host: self.uuid,
            challenge: challenge.challenge.clone(),
            hpke_key: Blob(hpke_key.to_vec()),
            quote,
            signature,
            values,
            firmware_log: Blob(empty_log()),
            userspace_log: Blob(Vec::new()),
        }
    }

    fn attest(&self, authority: &Authority) -> AttestedHost {
        let request = self.quoted(&self.challenge(authority).unwrap(), self.authority);
        call(authority, "/v1/attest", &request).unwrap()
    }

    /// The key id and the KEK of what was released.
    fn open(&self, released: &ReleasedKeys, request: Uuid) -> (String, Vec<u8>) {
        let [ReleasedKey::Key { key_id, enc, ciphertext }] = released.keys.as_slice() else { panic!("{released:?}") };
        let sealed = Sealed { enc: enc.0.as_slice().try_into().unwrap(), ciphertext: ciphertext.0.clone() };
        let aad = sealed_to(self.authority, self.uuid, request, key_id);
        (key_id.clone(), self.key.open(SEALED_KEK, &aad, &sealed).unwrap().to_vec())
    }
}

fn new_key(authority: &Authority, token: &str, request: Uuid) -> Result<ReleasedKeys, Refusal> {
    let keys = vec![KeyPurpose { vm_name: "web01".into(), vm_uuid: Uuid::nil() }];
    call(authority, "/v1/keys/new", &NewKeys { token: token.to_owned(), request, keys })
}

fn unwrap(authority: &Authority, token: &str, id: &str) -> Result<ReleasedKeys, Refusal> {
    let key_ids = vec![id.to_owned()];
    call(authority, "/v1/keys/unwrap", &UnwrapKeys { token: token.to_owned(), request: Uuid::nil(), key_ids })
}

/// An authority with a policy that runs, and a TPM whose endorsement key is on its list.
fn site() -> (Authority, Tpm) {
    let (mut authority, tpm) = (Authority::made(&[]), Tpm::start());
    let fingerprint = Fingerprint::of(&Public::from_tpm2b(&tpm.read("ek")).unwrap());
    authority.write("config/authority/endorsement-keys", &format!("# the host of this test\n{fingerprint} kvm1\n"));
    authority.start();
    let file = authority.write("kvm.toml", &policy("kvm*"));
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
    (authority, tpm)
}

fn token(authority: &Authority) -> Token {
    Token::parse(&authority.run(&["host", "token", "kvm1"])).unwrap()
}

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
    assert!(tried["refused"][0][1].as_str().unwrap().contains("every host is in a class"), "{tried}");
    host.attest(&authority); // nothing has changed
    authority.run(&["policy", "approve", file]);
    denied(host.challenge(&authority), "no class of policy kvm has host kvm1");
    let broken = authority.write("broken.toml", "format = 1\nlevl = 3\n");
    let refused = authority.try_run(&["policy", "approve", broken.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(2), "{}", String::from_utf8_lossy(&refused.stderr));
}
