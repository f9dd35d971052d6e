//! A host that asks an authority.

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

use crate::firmware::Boot;
use crate::process::Authority;
use crate::tpm::Tpm;

/// A policy for hosts of these names, which need only have the TPM that they enrolled with.
pub(crate) fn policy(hosts: &str) -> String {
    format!(
        "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"{hosts}\"]\nlevel = \"identity\"\n"
    )
}

/// A host that an authority knows.
pub(crate) struct Host {
    pub(crate) tpm: Tpm,
    pub(crate) key: SealKey,
    firmware_log: Vec<u8>,
    pub(crate) authority: Uuid,
    pub(crate) uuid: Uuid,
}

pub(crate) type Refusal = (u16, Kind, String);

pub(crate) fn call<A: DeserializeOwned>(
    authority: &Authority,
    path: &str,
    request: &impl Serialize,
) -> Result<A, Refusal> {
    let (status, body) = authority.connect().post(path, &serde_json::to_vec(request).unwrap());
    if status == 200 {
        return Ok(serde_json::from_slice(&body).unwrap());
    }
    let Refused { error } = serde_json::from_slice(&body).unwrap();
    Err((status, error.kind, error.message))
}

pub(crate) fn denied<T>(answer: Result<T, Refusal>, words: &str) {
    let (status, kind, message) = answer.err().expect("it was refused");
    assert!((status, kind) == (403, Kind::Denied) && message.contains(words), "{status} {kind:?} {message}");
}

impl Host {
    /// A host that begins to enrol.
    pub(crate) fn begin(authority: &Authority, tpm: &Tpm, token: &Token, name: &str) -> Result<EnrolAnswer, Refusal> {
        let of = |name: &str| Blob(tpm.read(name));
        let request = EnrolRequest {
            token: token.id,
            secret: token.secret.clone(),
            name: name.to_owned(),
            ek_public: of("ek"),
            ek_certificate: tpm.certificate().map(Blob),
            ek_chain: Vec::new(),
            ak_public: of("ak"),
            creation_data: of("data"),
            creation_statement: of("statement"),
            creation_signature: of("signature"),
        };
        call(authority, "/v1/enrol", &request)
    }

    pub(crate) fn enrol(authority: &Authority, tpm: Tpm, token: &Token) -> Self {
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
        let mut host = Self {
            tpm,
            key: SealKey::generate().unwrap(),
            firmware_log: Vec::new(),
            authority: enrolled.authority,
            uuid: enrolled.host,
        };
        host.firmware_log = Boot::empty().log();
        host
    }

    /// Boots its machine; returns the log of the boot before.
    pub(crate) fn boot(&mut self, boot: Boot) -> Vec<u8> {
        let log = boot.measured_by(&self.tpm);
        std::mem::replace(&mut self.firmware_log, log)
    }

    pub(crate) fn challenge(&self, authority: &Authority) -> Result<Challenge, Refusal> {
        call(authority, "/v1/challenge", &ChallengeRequest { host: self.uuid })
    }

    /// A quote that answers a challenge.
    pub(crate) fn quoted(&self, challenge: &Challenge, for_authority: Uuid) -> AttestRequest {
        let (request, hpke_key) = (quoted_for(for_authority), self.key.public());
        let binding = Binding { hpke_key, request: &request };
        let data = binding.extra_data(&challenge.challenge.0, HostId::new(*self.uuid.as_bytes()));
        assert_eq!(challenge.bank, "sha256");
        let numbers: Vec<String> = challenge.registers.iter().map(u8::to_string).collect();
        let registers = if numbers.is_empty() { "none".to_owned() } else { numbers.join(",") };
        let [quote, signature, values] = self.tpm.quote(&format!("sha256:{registers}"), data.as_bytes()).map(Blob);
        AttestRequest {
            host: self.uuid,
            challenge: challenge.challenge.clone(),
            hpke_key: Blob(hpke_key.to_vec()),
            quote,
            signature,
            values,
            firmware_log: Blob(self.firmware_log.clone()),
            userspace_log: Blob(Vec::new()),
        }
    }

    pub(crate) fn attest(&self, authority: &Authority) -> AttestedHost {
        let request = self.quoted(&self.challenge(authority).unwrap(), self.authority);
        call(authority, "/v1/attest", &request).unwrap()
    }

    /// The key id and the KEK of what was released.
    pub(crate) fn open(&self, released: &ReleasedKeys, request: Uuid) -> (String, Vec<u8>) {
        let [ReleasedKey::Key { key_id, enc, ciphertext }] = released.keys.as_slice() else { panic!("{released:?}") };
        let sealed = Sealed { enc: enc.0.as_slice().try_into().unwrap(), ciphertext: ciphertext.0.clone() };
        let aad = sealed_to(self.authority, self.uuid, request, key_id);
        (key_id.clone(), self.key.open(SEALED_KEK, &aad, &sealed).unwrap().to_vec())
    }
}

pub(crate) fn new_key(authority: &Authority, token: &str, request: Uuid) -> Result<ReleasedKeys, Refusal> {
    let keys = vec![KeyPurpose { vm_name: "web01".into(), vm_uuid: Uuid::nil() }];
    call(authority, "/v1/keys/new", &NewKeys { token: token.to_owned(), request, keys })
}

pub(crate) fn unwrap(authority: &Authority, token: &str, id: &str) -> Result<ReleasedKeys, Refusal> {
    let key_ids = vec![id.to_owned()];
    call(authority, "/v1/keys/unwrap", &UnwrapKeys { token: token.to_owned(), request: Uuid::nil(), key_ids })
}

/// An authority with a policy that runs, and a TPM whose endorsement key is on its list.
pub(crate) fn site() -> (Authority, Tpm) {
    let (mut authority, tpm) = (Authority::made(&[]), Tpm::start());
    accept(&authority, &[&tpm]);
    authority.start();
    let file = authority.write("kvm.toml", &policy("kvm*"));
    authority.run(&["policy", "approve", file.to_str().unwrap()]);
    (authority, tpm)
}

/// Puts the endorsement keys of these TPMs on the authority's list, and no others.
pub(crate) fn accept(authority: &Authority, tpms: &[&Tpm]) {
    let mut list = "# the hosts of this test\n".to_owned();
    for tpm in tpms {
        let fingerprint = Fingerprint::of(&Public::from_tpm2b(&tpm.read("ek")).unwrap());
        list.push_str(&format!("{fingerprint} kvm1\n"));
    }
    authority.write("config/authority/endorsement-keys", &list);
}

pub(crate) fn token(authority: &Authority) -> Token {
    Token::parse(&authority.run(&["host", "token", "kvm1"])).unwrap()
}
