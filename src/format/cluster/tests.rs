//! Forms and limits; that what was changed is refused.

use std::slice::from_ref;

use super::*;
use crate::crypto::sign::SigningKey;
use crate::key::ProviderName;
use crate::sys::SecretBytes;
use crate::timestamp::Timestamp;

fn host(number: u8) -> HostIdentity {
    let name = Name::new("host", format!("kvm{number}")).unwrap();
    HostIdentity { uuid: Uuid::from_bytes([number; 16]), name, seal_key: [number; 65], sign_key: [number; 32] }
}

fn generation(number: u8, since: u64) -> Generation {
    Generation { primary: Uuid::from_bytes([number; 16]), since, retired: None, check: [9; 32] }
}

fn document(admins: &[&SigningKey], threshold: u8) -> Document {
    let mut admins: Vec<_> = admins.iter().map(|admin| admin.public()).collect();
    admins.sort_unstable();
    let member = |number, state| Member {
        host: host(number),
        state,
        since: 1,
        token: TokenId([number; 16]),
        removal: Removal::default(),
    };
    let name = ProviderName::new("shared").unwrap();
    Document {
        epoch: 1,
        cluster: Uuid::from_bytes([7; 16]),
        previous: [0; 32],
        name: Name::new("cluster", "prod").unwrap(),
        threshold,
        admins,
        members: vec![member(1, MemberState::Active), member(2, MemberState::Removed)],
        admins_since: 0,
        resumed: 0,
        providers: vec![SharedProvider { name, generations: vec![generation(8, 1)] }],
        pushed: Vec::new(),
    }
}

fn known(bytes: &[u8]) -> Result<Document> {
    let found = UnverifiedDocument::decode(bytes)?;
    let hash = found.hash();
    found.known(1, &hash)
}

#[test]
fn a_document_comes_back_and_every_changed_byte_is_seen() {
    let admin = SigningKey::generate().unwrap();
    let document = document(&[&admin], 1);
    let bytes = document.sign(from_ref(&admin)).unwrap();
    assert_eq!(known(&bytes).unwrap(), document);
    for at in 0..bytes.len() {
        let mut wrong = bytes.clone();
        wrong[at] ^= 1 << (at % 8);
        assert!(known(&wrong).is_err(), "byte {at}");
        assert!(known(&bytes[..at]).is_err(), "{at} bytes");
    }
}

#[test]
fn as_many_admins_must_sign_as_the_document_says() {
    let (one, two, stranger) =
        (SigningKey::generate().unwrap(), SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let document = document(&[&one, &two], 2);
    let (by_one, by_two) = (document.sign(from_ref(&one)).unwrap(), document.sign(from_ref(&two)).unwrap());
    assert_eq!(known(&by_one).unwrap_err().kind(), Kind::Denied);
    let body = &by_one[..by_one.len() - 66];
    let mut signatures = [&by_one[body.len() + 1..], &by_two[body.len() + 1..]];
    signatures.sort_unstable();
    assert_eq!(known(&[body, &[2], signatures[0], signatures[1]].concat()).unwrap(), document);
    let twice = [body, &[2], signatures[0], signatures[0]].concat();
    assert_eq!(known(&twice).unwrap_err().kind(), Kind::Corrupt);
    let mut by_stranger = signatures[1].to_vec();
    by_stranger[1..].copy_from_slice(&stranger.sign(body));
    assert_eq!(known(&[body, &[2], signatures[0], &by_stranger].concat()).unwrap_err().kind(), Kind::Denied);
    assert_eq!(document.sign(from_ref(&stranger)).unwrap_err().kind(), Kind::Denied);
}

#[test]
fn what_no_document_says_is_not_signed() {
    let admin = SigningKey::generate().unwrap();
    let good = || document(&[&admin], 1);
    let mut cases = Vec::new();
    let mut wrong = |change: &dyn Fn(&mut Document)| {
        let mut document = good();
        change(&mut document);
        cases.push(document);
    };
    wrong(&|document| document.epoch = 0);
    wrong(&|document| document.epoch = 2);
    wrong(&|document| document.previous = [1; 32]);
    wrong(&|document| document.threshold = 0);
    wrong(&|document| document.threshold = 2);
    wrong(&|document| document.members.reverse());
    wrong(&|document| document.members[0].since = 2);
    wrong(&|document| document.providers.push(document.providers[0].clone()));
    wrong(&|document| {
        document.members[1].state = MemberState::Active;
        document.members[1].host.name = document.members[0].host.name.clone();
    });
    for document in cases {
        assert_eq!(document.sign(from_ref(&admin)).unwrap_err().kind(), Kind::Invalid, "{document:?}");
    }
}

#[test]
fn a_token_comes_back_and_one_wrong_letter_is_seen() {
    let mut secret = SecretBytes::zeroed(32);
    secret.fill(5);
    let token = Token {
        cluster: Uuid::from_bytes([1; 16]),
        epoch: 3,
        document: [2; 32],
        id: TokenId([4; 16]),
        expires: Timestamp::from_secs(1_800_000_000),
        secret,
        board: "folder:/mnt/shared".into(),
    };
    let text = token.to_text().unwrap();
    let read = Token::parse(&format!(" {}\n", &*text)).unwrap();
    assert_eq!((read.cluster, read.epoch, read.document, read.id), (token.cluster, 3, [2; 32], token.id));
    assert_eq!((read.expires, &*read.secret, read.board), (token.expires, [5; 32].as_slice(), token.board));
    for at in 0..text.len() {
        let mut wrong = text.to_string();
        let other = if wrong.as_bytes()[at] == b'A' { "B" } else { "A" };
        wrong.replace_range(at..=at, other);
        assert_eq!(Token::parse(&wrong).map(drop).unwrap_err().kind(), Kind::Invalid, "letter {at}");
        assert!(Token::parse(&text[..at]).is_err(), "{at} letters");
    }
}

#[test]
fn the_secret_of_a_token_is_that_of_its_admin_cluster_and_end() {
    let (admin, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
    let (id, cluster, end) = (TokenId([1; 16]), Uuid::from_bytes([2; 16]), Timestamp::from_secs(3));
    let secret = id.secret(&admin, cluster, end).unwrap();
    assert_eq!(*id.secret(&admin, cluster, end).unwrap(), *secret);
    for another in [
        TokenId([9; 16]).secret(&admin, cluster, end),
        id.secret(&other, cluster, end),
        id.secret(&admin, Uuid::nil(), end),
        id.secret(&admin, cluster, Timestamp::from_secs(4)),
    ] {
        assert_ne!(*another.unwrap(), *secret);
    }
}
