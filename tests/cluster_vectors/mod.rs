//! Files under tests/vectors/cluster: what hosts of a cluster share.

mod kept;
mod push;

use data_encoding::HEXLOWER;
use uuid::Uuid;
use vmcryptfs::cluster::admin_key::SealedAdminKey;
use vmcryptfs::cluster::host::Identity;
use vmcryptfs::crypto::derive::hmac;
use vmcryptfs::crypto::hpke::SealKey;
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::error::{Error, Kind};
use vmcryptfs::format::cluster::{
    Ack, Document, Envelope, EnvelopeFor, Generation, HostIdentity, JoinRequest, Member, MemberState, Name, Removal,
    SharedProvider, Token, TokenId, UnverifiedDocument, UnverifiedRequest,
};
use vmcryptfs::key::ProviderName;
use vmcryptfs::timestamp::Timestamp;

use crate::testkit::vector_file::{VectorFile, secret};
use crate::vectors;

fn uuid(vector: &VectorFile, name: &str) -> Uuid {
    vector.get(name).parse().unwrap()
}

fn number(vector: &VectorFile, name: &str) -> u64 {
    vector.get(name).parse().unwrap()
}

fn bytes<const N: usize>(vector: &VectorFile, name: &str) -> [u8; N] {
    vector.bytes(name).try_into().unwrap()
}

fn admin(seed: &str) -> SigningKey {
    SigningKey::new(secret(&HEXLOWER.decode(seed.as_bytes()).unwrap())).unwrap()
}

fn host(text: &str) -> HostIdentity {
    let words: Vec<&str> = text.split(' ').collect();
    let hex = |at: usize| HEXLOWER.decode(words[at].as_bytes()).unwrap();
    HostIdentity {
        uuid: words[0].parse().unwrap(),
        name: Name::new("host", words[1]).unwrap(),
        seal_key: hex(2).try_into().unwrap(),
        sign_key: hex(3).try_into().unwrap(),
    }
}

fn host_text(host: &HostIdentity) -> String {
    let (seal_key, sign_key) = (HEXLOWER.encode(&host.seal_key), HEXLOWER.encode(&host.sign_key));
    format!("{} {} {seal_key} {sign_key}", host.uuid, host.name)
}

#[test]
fn records_of_a_cluster() {
    for vector in vectors("cluster", 117) {
        match vector.get("what") {
            "document" => document(&vector),
            "envelope" => envelope(&vector),
            "join" => join(&vector),
            "ack" => ack(&vector),
            "token" => token(&vector),
            "admin-key" => admin_key(&vector),
            "identity" => identity(&vector),
            "want" => push::want(&vector),
            "kek" => push::kek(&vector),
            "kept" => kept::kept(&vector),
            what => panic!("{}: {what}", vector.name),
        }
    }
}

fn document(vector: &VectorFile) {
    let read = UnverifiedDocument::decode(&vector.bodies[0]).and_then(|found| {
        let hash = found.hash();
        // Its number is known by what the file says, or none: then it is refused for another reason.
        let epoch = vector.all("epoch").first().map_or(2, |epoch| epoch.parse().unwrap());
        found.known(epoch, &hash).map(|document| (document, hash))
    });
    let Some((document, hash)) = vector.judge(read) else { return };
    let fields = vector.fields_without(&["expect", "what", "why", "seed"]);
    assert_eq!(document_fields(&document, &hash), fields, "{}", vector.name);
    let admins: Vec<SigningKey> = vector.all("seed").into_iter().map(admin).collect();
    assert_eq!(document.sign(&admins).unwrap(), vector.bodies[0], "{}", vector.name);
}

fn document_fields(document: &Document, hash: &[u8; 32]) -> Vec<(String, String)> {
    let mut fields = vec![
        ("epoch", document.epoch.to_string()),
        ("cluster", document.cluster.to_string()),
        ("previous", HEXLOWER.encode(&document.previous)),
        ("name", document.name.to_string()),
        ("threshold", document.threshold.to_string()),
        ("hash", HEXLOWER.encode(hash)),
    ];
    fields.extend(document.admins.iter().map(|admin| ("admin", HEXLOWER.encode(admin))));
    let plain = |provider: &SharedProvider| provider.generations.len() == 1;
    let marks = |member: &Member| {
        let Removal { compromised, evicted, presumed_destroyed } = member.removal;
        u8::from(compromised) | u8::from(evicted) << 1 | u8::from(presumed_destroyed) << 2
    };
    let is_first = document.pushed.is_empty()
        && document.admins_since == 0
        && document.resumed == 0
        && document.providers.iter().all(plain)
        && document.members.iter().all(|member| marks(member) == 0);
    if !is_first {
        fields.push(("admins_since", document.admins_since.to_string()));
        fields.push(("resumed", document.resumed.to_string()));
    }
    fields.extend(document.members.iter().map(|member| {
        let state = if member.state == MemberState::Active { 1 } else { 2 };
        let marks = if is_first { String::new() } else { format!("{} ", marks(member)) };
        let token = HEXLOWER.encode(&member.token.0);
        ("member", format!("{state} {marks}{} {token} {}", member.since, host_text(&member.host)))
    }));
    for provider in &document.providers {
        let shown = |one: &Generation, retired: &str| {
            format!("{} {}{retired} {}", one.primary, one.since, HEXLOWER.encode(&one.check))
        };
        if is_first {
            fields.push(("provider", format!("{} {}", shown(provider.newest(), ""), provider.name)));
            continue;
        }
        fields.push(("provider", provider.name.to_string()));
        let retired = |one: &Generation| format!(" {}", one.retired.unwrap_or(0));
        fields.extend(provider.generations.iter().map(|one| ("generation", shown(one, &retired(one)))));
    }
    for pushed in &document.pushed {
        let (life, flags) = (pushed.life.as_secs(), u8::from(pushed.persists));
        let said = format!("{} {} {} {} {life} {flags}", pushed.name, pushed.kind, pushed.uuid, pushed.since);
        fields.push(("pushed", said));
        fields.extend(pushed.keepers.iter().map(|keeper| ("keeper", keeper.to_string())));
        fields.extend(pushed.places.iter().map(|place| ("place", place.clone())));
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn envelope(vector: &VectorFile) {
    let provider = ProviderName::new(vector.get("provider")).unwrap();
    let (cluster, primary) = (uuid(vector, "cluster"), uuid(vector, "primary"));
    let place = EnvelopeFor { cluster, provider: &provider, primary, host: uuid(vector, "host") };
    let host = SealKey::new(&bytes(vector, "private"), bytes(vector, "public"));
    let read =
        Envelope::decode(&vector.bodies[0]).and_then(|envelope| Ok((envelope.open(&place, &host)?.to_vec(), envelope)));
    let Some((key, envelope)) = vector.judge(read) else { return };
    assert_eq!(key, vector.bytes("key"), "{}", vector.name);
    assert_eq!(envelope.encode(), vector.bodies[0], "{}", vector.name);
    let checked = [b"vmcryptfs cluster primary 1\0".as_slice(), cluster.as_bytes(), primary.as_bytes()].concat();
    assert_eq!(hmac(&key, &checked), bytes(vector, "check"), "{}", vector.name);
}

fn join(vector: &VectorFile) {
    let (id, cluster) = (TokenId(bytes(vector, "token")), uuid(vector, "cluster"));
    let expires = Timestamp::from_secs(number(vector, "end"));
    let secret = id.secret(&admin(vector.get("seed")), cluster, expires).unwrap();
    assert_eq!(*secret, vector.bytes("secret"), "{}", vector.name);
    let read = UnverifiedRequest::decode(&vector.bodies[0]).and_then(|request| match request.is_by(&secret) {
        true => Ok(request.claims().clone()),
        false => Err(Error::new(Kind::KeyRejected, "not by this token")),
    });
    let Some(request) = vector.judge(read) else { return };
    let wanted = JoinRequest { cluster, token: id, expires, host: host(vector.get("asks")) };
    assert_eq!(request, wanted, "{}", vector.name);
    assert_eq!(request.encode(&secret).unwrap(), vector.bodies[0], "{}", vector.name);
}

fn ack(vector: &VectorFile) {
    let (cluster, by) = (uuid(vector, "cluster"), host(vector.get("by")));
    let Some(ack) = vector.judge(Ack::decode(&vector.bodies[0], cluster, &by)) else { return };
    let wanted = Ack {
        cluster,
        host: by.uuid,
        epoch: number(vector, "epoch"),
        document: bytes(vector, "document"),
        time: Timestamp::from_secs(number(vector, "time")),
        holds: vector.all("holds").iter().map(|uuid| uuid.parse().unwrap()).collect(),
        makes: vector.all("makes").iter().map(|uuid| uuid.parse().unwrap()).collect(),
    };
    assert_eq!(ack, wanted, "{}", vector.name);
    assert_eq!(ack.encode(&admin(vector.get("seed"))).unwrap(), vector.bodies[0], "{}", vector.name);
}

fn token(vector: &VectorFile) {
    let token = Token {
        cluster: uuid(vector, "cluster"),
        epoch: number(vector, "epoch"),
        document: bytes(vector, "document"),
        id: TokenId(bytes(vector, "token")),
        expires: Timestamp::from_secs(number(vector, "end")),
        secret: secret(&vector.bytes("secret")),
        board: vector.get("board").to_owned(),
    };
    assert_eq!(*token.to_text().unwrap(), vector.get("text"), "{}", vector.name);
    assert_eq!(*Token::parse(vector.get("text")).unwrap().to_text().unwrap(), vector.get("text"), "{}", vector.name);
}

fn admin_key(vector: &VectorFile) {
    let passphrase = vector.get("passphrase").as_bytes();
    let read = SealedAdminKey::decode(&vector.bodies[0]).and_then(|sealed| {
        let key = sealed.open(passphrase)?;
        Ok((sealed.public(), key.public(), key.seed().to_vec()))
    });
    let Some(found) = vector.judge(read) else { return };
    let public = bytes(vector, "public");
    assert_eq!(found, (public, public, vector.bytes("seed")), "{}", vector.name);
}

fn identity(vector: &VectorFile) {
    let read = Identity::decode(&vector.bodies[0]).map(|found| {
        let keys = (found.seal.private().to_vec(), found.seal.public().to_vec(), found.sign.seed().to_vec());
        (found.uuid, keys, found.encode().to_vec())
    });
    let Some(found) = vector.judge(read) else { return };
    let keys = (vector.bytes("private"), vector.bytes("public"), vector.bytes("seed"));
    assert_eq!(found, (uuid(vector, "uuid"), keys, vector.bodies[0].clone()), "{}", vector.name);
}
