//! Fuzzing of what an authority reads from hosts, administrators and its own files. See [`mutation`].

use std::fs;

use http::Method;
use serde::Serialize;
use uuid::Uuid;
use vmcryptfs::crypto::hpke::SealKey;
use vmcryptfs::crypto::sign::SigningKey;

use super::admin::Asked;
use super::admin::policy::{self, PolicyAsked, SetSource};
use super::enrolment::{Admission, Token};
use super::hosts::{HostRecord, HostState, tests::record};
use super::log::checkpoint::Checkpoint;
use super::rig::Rig;
use super::routes::{self, Call};
use super::*;
use crate::trust_wire::{
    AttestRequest, Blob, ChallengeRequest, CredentialAnswer, EnrolRequest, KeyPurpose, NewKeys, ProposeRequest,
    UnwrapKeys,
};

#[path = "../../../vmdk-layout/tests/it/mutation.rs"]
#[allow(clippy::cast_possible_truncation, dead_code, reason = "a choice among few; corpora are made here")]
mod mutation;
use mutation::fuzz;

/// Seconds of each target where nobody asks for more.
const SECONDS: u64 = 1;
const POLICY: &str = "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n[[class]]\nname = \"kvm\"\nhosts = [\"kvm*\"]\n\
                      level = \"identity\"\nlearn = [4, 7]\n";
const SET: &str = "name = \"next\"\napproved = \"2026-11-30\"\n[[pcr]]\nnumber = 4\nmeasured = [\"sha256:\
                   6e0d000000000000000000000000000000000000000000000000000000000082 a kernel\"]\n";
const JSON_WORDS: [&[u8]; 12] = [
    b"\"",
    b"{",
    b"[",
    b"]",
    b"}",
    b",",
    b"null",
    b"-1",
    b"18446744073709551616",
    b"\\ud800",
    b"\"token\":\"",
    b"\"AAAA\"",
];

impl Rig {
    fn enrolment_token(&self) -> Token {
        let own = &self.authority.own;
        let of = (own.settings.uuid, own.settings.urls.clone(), &own.pin());
        let admission = Admission { approves: false, host: "kvm2".into(), replaces: None };
        self.authority.enrolment.make(of, admission, Duration::from_secs(3600), |_| Ok(())).unwrap()
    }
}

/// Gives `check` the corpus, and changes of it.
fn changed(name: &str, corpus: &[Vec<u8>], words: &[&[u8]], check: impl Fn(&[u8])) {
    fuzz(name, SECONDS, corpus, words, |_, _| {}, check);
}

/// What two simulated TPMs said: docs/ATTESTATION.md, "Vectors".
fn vector(name: &str) -> Blob {
    let text = include_str!("../../../attest/tests/vectors/tpm.txt");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
    Blob(data_encoding::HEXLOWER.decode(line.trim().as_bytes()).unwrap())
}

fn call(path: &str, body: &impl Serialize) -> Vec<u8> {
    [path.as_bytes(), b"\n", &serde_json::to_vec(body).unwrap()].concat()
}

/// A request of each kind: the path, a line feed and the body.
fn requests(rig: &Rig) -> Vec<Vec<u8>> {
    let enrolment = rig.enrolment_token();
    let purpose = KeyPurpose { vm_name: "web01".into(), vm_uuid: Uuid::nil() };
    let (token, request) = (rig.token.clone(), Uuid::nil());
    vec![
        call(
            "/v1/enrol",
            &EnrolRequest {
                token: enrolment.id,
                secret: enrolment.secret,
                name: "kvm2".into(),
                ek_public: vector("one/ek-rsa/public"),
                ek_certificate: Some(vector("one/ek-rsa/certificate")),
                ek_chain: vec![vector("one/issuer")],
                ak_public: vector("one/p256/public"),
                creation_data: vector("one/p256/creation-data"),
                creation_statement: vector("one/p256/creation-statement"),
                creation_signature: vector("one/p256/creation-signature"),
            },
        ),
        call(&format!("/v1/enrol/{}", Uuid::nil()), &CredentialAnswer { secret: Blob(vec![1; 32]) }),
        call("/v1/challenge", &ChallengeRequest { host: rig.host }),
        call(
            "/v1/attest",
            &AttestRequest {
                host: rig.host,
                challenge: vector("one/p256/challenge"),
                hpke_key: Blob(SealKey::generate().unwrap().public().to_vec()),
                quote: vector("one/p256/quote"),
                signature: vector("one/p256/quote-signature"),
                values: vector("one/p256/values"),
                firmware_log: Blob(vec![0; 64]),
                userspace_log: Blob(Vec::new()),
            },
        ),
        call("/v1/keys/new", &NewKeys { token: token.clone(), request, keys: vec![purpose] }),
        call("/v1/keys/unwrap", &UnwrapKeys { token: token.clone(), request, key_ids: vec!["an id".into()] }),
        call("/v1/propose", &ProposeRequest { token, set: SET.into() }),
        b"/v1/log/entries?first=0&count=9\n".to_vec(),
        b"/v1/log/proof/inclusion?index=0&size=1\n".to_vec(),
        b"/v1/log/proof/consistency?old=0&size=1\n".to_vec(),
    ]
}

#[test]
fn mutated_requests_are_answered_and_no_key_is_given_for_another_token() {
    let rig = Rig::new();
    let corpus = requests(&rig);
    let given = format!("\"token\":\"{}\"", rig.token);
    changed("authority-requests", &corpus, &JSON_WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        let (target, body) = text.split_once('\n').unwrap_or((&text, ""));
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let method = if body.is_empty() { Method::GET } else { Method::POST };
        let answer = routes::answer(&rig.authority, &Call { method: &method, path, query, body: body.as_bytes() });
        let status = answer.status.as_u16();
        assert!(matches!(status, 200 | 400 | 403 | 404 | 409 | 501 | 503), "{status}: {text}");
        if status == 200 && ["/v1/keys/new", "/v1/keys/unwrap", "/v1/propose"].contains(&path) {
            assert!(body.contains(&given), "{text}");
        }
        if status != 200 {
            let refused: crate::trust_wire::Refused = serde_json::from_slice(&answer.body).unwrap();
            assert!(refused.error.message.chars().all(|character| !character.is_control()), "{:?}", refused.error);
        }
    });
}

/// Tokens of both kinds, checkpoints and records, and what administrators send: texts that one mutation makes another kind's are tried as all.
#[test]
fn mutated_tokens_admit_nobody_and_other_texts_are_read_or_refused() {
    let rig = Rig::new();
    let standing = || rig.authority.standing();
    rig.authority.tokens.admit(&rig.token, standing()).unwrap();
    let enrolment = rig.enrolment_token().to_text().unwrap();
    let host = serde_json::to_vec(&record("kvm1", HostState::Approved)).unwrap();
    let (key, origin) = (SigningKey::generate().unwrap(), Checkpoint::origin_of(Uuid::nil()));
    let checkpoint = Checkpoint { origin: origin.clone(), size: 3, root: [7; 32] };
    let texts =
        [rig.token.clone().into_bytes(), enrolment.as_bytes().to_vec(), host, checkpoint.sign(&key).into_bytes()];
    let corpus = [&texts[..], &messages()].concat();
    changed("authority-texts", &corpus, &JSON_WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        assert!(rig.authority.tokens.admit(&text, standing()).is_err() || text == rig.token, "{text}");
        assert!(Token::parse(&text).is_err() || text.trim() == enrolment.as_str(), "{text}");
        if let Ok(verified) = Checkpoint::verify(&text, &origin, &key.public()) {
            assert_eq!((verified.size, verified.root), (checkpoint.size, checkpoint.root), "{text}");
        }
        drop(serde_json::from_slice::<HostRecord>(input));
        if let Ok(Asked::Policy { what }) = serde_json::from_slice(input) {
            // What is refused is an error, and what is in force can be read again.
            drop(policy::answer(&rig.authority, what, 0));
            let current = rig.authority.policies.current().unwrap();
            assert_eq!(policies::ApprovedPolicy::parse(&current.text, 0).unwrap().sha256, current.sha256);
        }
    });
}

fn messages() -> Vec<Vec<u8>> {
    let set = || SetSource::Text { text: SET.into(), class: "kvm".into() };
    let host = SetSource::Host { host: "kvm1".into(), registers: Some(vec![4, 7]), measured: None };
    let asked = [
        PolicyAsked::Approve { text: POLICY.into() },
        PolicyAsked::TestSet { set: set(), level: Some("secureboot".into()) },
        PolicyAsked::ApproveSet { set: set(), name: Some("next".into()), level: Some("measured".into()) },
        PolicyAsked::Propose { set: host, name: None },
        PolicyAsked::Reject { proposal: "0123456789abcdef".into() },
        PolicyAsked::Explain { host: "kvm1".into() },
    ];
    asked.into_iter().map(|what| serde_json::to_vec(&Asked::Policy { what }).unwrap()).collect()
}

/// Lines are changed with and without a sum that fits. What was signed is there, or the log does not open.
#[test]
fn mutated_logs_open_with_what_was_signed_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let key = SigningKey::generate().unwrap();
    let open = || Log::open(dir.path(), Uuid::nil(), &key);
    let log = open().unwrap();
    for number in 0..4 {
        log.append(&[format!("{{\"entry\":{number}}}").into_bytes(), b"{}".to_vec()]).unwrap();
    }
    log.checkpoint(&key).unwrap();
    log.append(&[b"{\"entry\":4}".to_vec()]).unwrap();
    let signed = log.entries(0, 8, usize::MAX).unwrap();
    drop(log);
    let path = dir.path().join("entries");
    let corpus = [fs::read(&path).unwrap()];
    let words: [&[u8]; 4] = [b"\n", b"\t", b"{}", b"\0"];
    changed("authority-log", &corpus, &words, |input| {
        fs::write(&path, input).unwrap();
        if let Ok(log) = open() {
            assert_eq!(log.entries(0, 8, usize::MAX).unwrap(), signed);
        }
    });
}
