use std::time::Duration;

use vmcryptfs::crypto::hpke::SealKey;

use super::*;
use crate::authority::hosts::HostState;
use crate::authority::hosts::tests::record;

pub(crate) fn proved(epoch: u64) -> Proved {
    Proved { level: "measured".into(), policy: "kvm@3".into(), resets: 4, restarts: 0, epoch, generation: 1 }
}

/// An approved host, and the folder that it is in.
fn host() -> (tempfile::TempDir, Hosts, Uuid) {
    let dir = tempfile::tempdir().unwrap();
    let hosts = Hosts::load(dir.path()).unwrap();
    let record = record("kvm1", HostState::Approved);
    hosts.add(&record, || Ok(())).unwrap();
    (dir, hosts, record.uuid)
}

fn issue(tokens: &Tokens, host: Uuid) -> String {
    tokens.make(host, SealKey::generate().unwrap().public(), proved(1)).unwrap().0
}

/// The policy in force is the first one.
fn standing(hosts: &Hosts) -> Standing<'_> {
    static FIRST: AtomicU64 = AtomicU64::new(1);
    Standing { hosts, generation: &FIRST }
}

#[test]
fn a_token_says_who_may_have_keys_and_for_which_key() {
    let (_dir, hosts, host) = host();
    let tokens = Tokens::new(Uuid::nil(), Clock::begin()).unwrap();
    let key = SealKey::generate().unwrap();
    let (token, claims) = tokens.make(host, key.public(), proved(1)).unwrap();
    let admitted = tokens.admit(&token, standing(&hosts)).unwrap();
    assert_eq!((admitted.host(), admitted.name(), admitted.public()), (host, "kvm1", key.public()));
    assert_eq!((admitted.token(), claims.exp - claims.iat), (claims.jti, 600));
}

#[test]
fn a_token_ends_by_time_by_another_policy_by_removal_and_by_a_restart() {
    let (_dir, hosts, host) = host();
    let clock = Clock::begin();
    let mut tokens = Tokens::new(Uuid::nil(), clock).unwrap();
    let token = issue(&tokens, host);
    let admitted = tokens.admit(&token, standing(&hosts)).unwrap();
    tokens.clock = clock.ahead(Duration::from_secs(LIFE + 1));
    assert!(tokens.admit(&token, standing(&hosts)).unwrap_err().to_string().contains("has ended"));
    tokens.clock = clock;
    tokens.admit(&token, standing(&hosts)).unwrap();
    let next = Standing { generation: &AtomicU64::new(2), ..standing(&hosts) };
    assert!(tokens.admit(&token, next).unwrap_err().to_string().contains("another policy was approved"));
    assert_eq!(admitted.check(next).unwrap_err().kind(), Kind::Denied, "a call that had begun, too");
    hosts.change(host, HostState::Removed, |_| Ok(())).unwrap();
    assert!(tokens.admit(&token, standing(&hosts)).unwrap_err().to_string().contains("is void"));
    assert_eq!(admitted.check(standing(&hosts)).unwrap_err().kind(), Kind::Denied, "a call that had begun, too");
    let restarted = Tokens::new(Uuid::nil(), clock).unwrap();
    assert!(restarted.admit(&token, standing(&hosts)).unwrap_err().to_string().contains("since it began"));
}

#[test]
fn a_token_of_an_earlier_boot_is_void_once_the_host_has_attested_by_another_one() {
    let (_dir, hosts, host) = host();
    let tokens = Tokens::new(Uuid::nil(), Clock::begin()).unwrap();
    let token = issue(&tokens, host);
    let same = Boot { reset_count: 4, restart_count: 0 };
    tokens.booted(host, same);
    tokens.booted(Uuid::nil(), Boot { reset_count: 9, ..same });
    tokens.admit(&token, standing(&hosts)).unwrap();
    for other in [Boot { reset_count: 5, ..same }, Boot { restart_count: 1, ..same }] {
        tokens.booted(host, other);
        let error = tokens.admit(&token, standing(&hosts)).unwrap_err();
        assert!(error.kind() == Kind::Denied && error.to_string().contains("another boot"), "{error}");
    }
}

/// What was done to other JWT libraries.
#[test]
fn no_header_key_or_claim_of_someone_else_is_taken() {
    let (_dir, hosts, host) = host();
    let clock = Clock::begin();
    let tokens = Tokens::new(Uuid::nil(), clock).unwrap();
    let token = issue(&tokens, host);
    let refused = |token: &str| {
        let error = tokens.admit(token, standing(&hosts)).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied, "{token}");
        error.to_string()
    };
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let (_, body) = signed.split_once('.').unwrap();
    let public = BASE64URL_NOPAD.encode(tokens.key.public_key().as_ref());
    let with_key = format!(r#"{{"alg":"ES256","typ":"JWT","jwk":"{public}"}}"#);
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"typ":"JWT","alg":"ES256"}"#, &with_key] {
        let header = BASE64URL_NOPAD.encode(header.as_bytes());
        for signature in ["", signature] {
            assert!(refused(&format!("{header}.{body}.{signature}")).contains("another header"));
        }
        let signed = format!("{header}.{body}");
        let signature = tokens.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        let signature = BASE64URL_NOPAD.encode(signature.as_ref());
        assert!(refused(&format!("{signed}.{signature}")).contains("another header"), "signed by our own key, too");
    }
    let other = Tokens::new(Uuid::nil(), clock).unwrap();
    assert!(refused(&issue(&other, host)).contains("not signed"));
    for at in 0..token.len() {
        let mut wrong = token.clone().into_bytes();
        wrong[at] = if wrong[at] == b'A' { b'B' } else { b'A' };
        refused(&String::from_utf8(wrong).unwrap());
        refused(&token[..at]);
    }
    refused(&"a".repeat(MAX_LEN + 1));
    let (_, claims) = tokens.make(host, &[4; 65], proved(1)).unwrap();
    let signed = |change: &dyn Fn(&mut Claims)| {
        let mut claims = claims.clone();
        change(&mut claims);
        tokens.sign(&claims).unwrap()
    };
    tokens.admit(&signed(&|_| ()), standing(&hosts)).unwrap();
    assert!(refused(&signed(&|claims| claims.iss = Uuid::max())).contains("another authority"));
    assert!(refused(&signed(&|claims| claims.exp += 1)).contains("has ended"), "longer than any that is made");
    assert!(
        refused(&signed(&|claims| (claims.iat, claims.exp) = (claims.iat + 9, claims.exp + 9))).contains("has ended")
    );
    assert!(refused(&signed(&|claims| claims.vmcryptfs.epoch = 2)).contains("is void"));
    assert!(refused(&signed(&|claims| claims.sub = Uuid::nil())).contains("is void"));
    let short = tokens.admit(&signed(&|claims| claims.cnf.jwk.y = Blob(vec![0; 31])), standing(&hosts)).unwrap_err();
    assert_eq!(short.kind(), Kind::Corrupt);
}
