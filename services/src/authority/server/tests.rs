use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use tempfile::TempDir;
use uuid::Uuid;
use vmcryptfs::crypto::hpke::{SealKey, Sealed};
use vmcryptfs::key::ProviderName;
use vmcryptfs::provider::kinds::native::NativeProvider;
use vmcryptfs::provider::primary_key::PrimaryKey;

use super::*;
use crate::authority::hosts::HostState;
use crate::authority::hosts::tests::record;
use crate::authority::log::checkpoint::Checkpoint;
use crate::authority::log::tree::{extends, includes, leaf_hash};
use crate::authority::own::Own;
use crate::authority::own::tests::settings;
use crate::authority::release::TopKey;
use crate::authority::token::tests::proved;
use crate::trust_wire::{
    KeyPurpose, LogEntries, LogProof, NewKeys, Refused, ReleasedKey, ReleasedKeys, SEALED_KEK, UnwrapKeys, sealed_to,
};

#[path = "../../../tests/authority/client.rs"]
mod client;
use client::Client;

/// An authority on a port of this machine, with one approved host.
struct Site {
    _dir: TempDir,
    authority: Arc<Authority>,
    address: SocketAddr,
    host: Uuid,
}

impl Site {
    fn new(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = Own::create(dir.path(), &settings(), |_| Ok(())).unwrap();
        let name = ProviderName::new("top").unwrap();
        let provider = NativeProvider::new(name.clone(), PrimaryKey::generate().unwrap());
        let authority = Arc::new(Authority::with(own, TopKey::new(name, Arc::new(provider))).unwrap());
        let policy = "format = 1\nname = \"kvm\"\nbank = \"sha256\"\n";
        authority.policies.approve(policy, |_| Ok(())).unwrap();
        let host = record("kvm1", HostState::Approved);
        authority.hosts.add(&host, || Ok(())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        begin(Arc::clone(&authority), listener, limits).unwrap();
        Self { _dir: dir, authority, address, host: host.uuid }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address, self.authority.own.pin())
    }

    fn token(&self, key: &SealKey) -> String {
        self.authority.tokens.make(self.host, key.public(), proved(1)).unwrap().0
    }

    fn make(&self, token: &str) -> (u16, Vec<u8>) {
        let keys = vec![KeyPurpose { vm_name: "web01".into(), vm_uuid: Uuid::nil() }];
        let call = NewKeys { token: token.to_owned(), request: Uuid::nil(), keys };
        self.connect().post("/v1/keys/new", &serde_json::to_vec(&call).unwrap())
    }
}

fn released(answer: &(u16, Vec<u8>)) -> Vec<ReleasedKey> {
    assert_eq!(answer.0, 200, "{}", String::from_utf8_lossy(&answer.1));
    serde_json::from_slice::<ReleasedKeys>(&answer.1).unwrap().keys
}

fn kind_of(answer: &(u16, Vec<u8>)) -> Kind {
    serde_json::from_slice::<Refused>(&answer.1).unwrap().error.kind
}

#[test]
fn a_host_makes_a_key_and_gets_it_again_until_it_is_removed() {
    let site = Site::new(Limits::default());
    let key = SealKey::generate().unwrap();
    let token = site.token(&key);
    let authority = site.authority.own.settings.uuid;
    let open = |released: &ReleasedKey| {
        let ReleasedKey::Key { key_id, enc, ciphertext } = released else { panic!("{released:?}") };
        let sealed = Sealed { enc: enc.0.as_slice().try_into().unwrap(), ciphertext: ciphertext.0.clone() };
        let aad = sealed_to(authority, site.host, Uuid::nil(), key_id);
        (key_id.clone(), key.open(SEALED_KEK, &aad, &sealed).unwrap().to_vec())
    };
    let (id, kek) = open(&released(&site.make(&token))[0]);
    let call = UnwrapKeys { token: token.clone(), request: Uuid::nil(), key_ids: vec![id] };
    let call = serde_json::to_vec(&call).unwrap();
    let mut client = site.connect();
    for _ in 0..2 {
        assert_eq!(open(&released(&client.post("/v1/keys/unwrap", &call))[0]).1, kek, "on one connection");
    }
    site.authority.hosts.change(site.host, HostState::Removed, |_| Ok(())).unwrap();
    for answer in [client.post("/v1/keys/unwrap", &call), site.make(&token)] {
        assert_eq!((answer.0, kind_of(&answer)), (403, Kind::Denied));
    }
    assert_eq!(site.authority.log.len(), 3);
    let nobody = site.make("eyJhbGciOiJub25lIn0.e30.");
    assert_eq!((nobody.0, kind_of(&nobody)), (403, Kind::Denied));
}

#[test]
fn a_client_that_pins_another_key_sends_nothing() {
    let site = Site::new(Limits::default());
    assert!(Client::try_connect(site.address, [0; 32]).is_err());
}

#[test]
fn anyone_can_verify_the_log() {
    let site = Site::new(Limits::default());
    let token = site.token(&SealKey::generate().unwrap());
    let mut client = site.connect();
    let own = &site.authority.own;
    let mut checkpoint = || {
        let (status, text) = client.get("/v1/log/checkpoint");
        let origin = Checkpoint::origin_of(own.settings.uuid);
        assert_eq!(status, 200);
        Checkpoint::verify(std::str::from_utf8(&text).unwrap(), &origin, &own.log_key.public()).unwrap()
    };
    released(&site.make(&token));
    let early = checkpoint();
    (0..4).for_each(|_| drop(released(&site.make(&token))));
    let late = checkpoint();
    let mut get = |path: &str| {
        let (status, body) = client.get(path);
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&body));
        body
    };
    let nodes = |body: &[u8]| -> Vec<[u8; 32]> {
        let proof: LogProof = serde_json::from_slice(body).unwrap();
        proof.nodes.into_iter().map(|node| node.0.try_into().unwrap()).collect()
    };
    let path = nodes(&get("/v1/log/proof/consistency?old=1&size=5"));
    assert!(extends((&early.root, early.size), (&late.root, late.size), &path));
    let found: LogEntries = serde_json::from_slice(&get("/v1/log/entries?first=2&count=9")).unwrap();
    assert_eq!((found.first, found.entries.len()), (2, 3));
    for (number, entry) in found.entries.iter().enumerate() {
        let path = nodes(&get(&format!("/v1/log/proof/inclusion?index={}&size=5", number + 2)));
        assert!(includes(&late.root, 5, number + 2, leaf_hash(entry.as_bytes()), &path));
    }
    for (path, status) in [
        ("/v1/log/proof/inclusion?index=5&size=5", 404),
        ("/v1/log/proof/consistency?old=9&size=5", 404),
        ("/v1/log/proof/consistency?old=1&size=99999999999999999999", 400),
        ("/v1/log/entries", 400),
        ("/v1/nothing", 404),
        ("/v1/keys/new", 404),
    ] {
        assert_eq!(client.get(path).0, status, "{path}");
    }
}

#[test]
fn bodies_that_are_too_long_or_nonsense_are_refused() {
    let site = Site::new(Limits::default());
    let mut client = site.connect();
    for nonsense in [&b""[..], b"{}", b"[1", b"\xff", &[b'['; 100_000], b"{\"token\":1,\"request\":2}"] {
        let answer = client.post("/v1/keys/new", nonsense);
        assert_eq!((answer.0, kind_of(&answer)), (400, Kind::Invalid));
    }
    // Said beforehand, or found when it comes.
    client.send(b"POST /v1/keys/new HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n").unwrap();
    assert_eq!(client.receive().unwrap().0, 413);
    let mut client = site.connect();
    client.send(b"POST /v1/keys/new HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    let chunk = [b"10000\r\n", vec![b' '; 0x10000].as_slice(), b"\r\n"].concat();
    let sent = (0..17).map_while(|_| client.send(&chunk).ok()).count();
    assert!(sent >= 16);
    assert_eq!(client.receive().unwrap().0, 413);
    let long = format!("GET /v1/health HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    let mut client = site.connect();
    client.send(long.as_bytes()).unwrap();
    assert_eq!(client.receive().unwrap().0, 431);
    assert_eq!(site.connect().get("/v1/health").0, 200, "others are served");
}

#[test]
fn slow_clients_are_closed_and_hold_up_nobody() {
    let soon = Duration::from_millis(200);
    let limits = Limits { of_address: 4, handshake: soon, head: soon, body: soon, ..Limits::default() };
    let site = Site::new(limits);
    let begun = Instant::now();
    let mut silent = TcpStream::connect(site.address).unwrap();
    let (mut half_a_head, mut half_a_body) = (site.connect(), site.connect());
    half_a_head.send(b"GET /v1/health HT").unwrap();
    half_a_body.send(b"POST /v1/keys/new HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{").unwrap();
    assert_eq!(site.connect().get("/v1/health").0, 200);
    assert_eq!(silent.read(&mut [0; 1]).unwrap(), 0, "without TLS it is closed");
    assert_eq!(half_a_body.receive().unwrap().0, 503);
    // hyper answers 408 to some, and closes others without an answer.
    assert!(half_a_head.receive().map_or(true, |(status, _)| status == 408));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    drop((half_a_head, half_a_body));
    assert_eq!(site.connect().get("/v1/health").0, 200);
}

#[test]
fn one_address_has_its_share_of_connections_and_gets_them_back() {
    let site = Site::new(Limits { of_address: 2, ..Limits::default() });
    let (mut first, second) = (site.connect(), site.connect());
    assert!(Client::try_connect(site.address, site.authority.own.pin()).is_err());
    assert_eq!(first.get("/v1/health").0, 200);
    drop(second);
    let begun = Instant::now();
    while Client::try_connect(site.address, site.authority.own.pin()).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_connection_has_an_end_whatever_it_does() {
    let site = Site::new(Limits { life: Duration::from_millis(300), ..Limits::default() });
    let mut client = site.connect();
    let begun = Instant::now();
    while client.send(b"GET /v1/health HTTP/1.1\r\nHost: a\r\n\r\n").and_then(|()| client.receive()).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn addresses_that_one_machine_can_have_are_one() {
    let counted = |address: &str| super::counted(address.parse().unwrap());
    assert_eq!(counted("2001:db8:1:2:3:4:5:6"), counted("2001:db8:1:2::9"));
    assert_ne!(counted("2001:db8:1:2::9"), counted("2001:db8:1:3::9"));
    assert_eq!(counted("::ffff:192.0.2.1"), counted("192.0.2.1"));
    assert_ne!(counted("192.0.2.1"), counted("192.0.2.2"));
}

#[test]
fn bodies_of_one_address_leave_room_for_those_of_others() {
    let Limits { bodies, bodies_of_address, of_address, .. } = Limits::default();
    let (all, one, other) =
        (Semaphore::new(bodies), Semaphore::new(bodies_of_address), Semaphore::new(bodies_of_address));
    let (all, one, other) = (Arc::new(all), Arc::new(one), Arc::new(other));
    let mut held: Vec<Budget> = (0..of_address).map(|_| Budget::new(&all, &one)).collect();
    let taken = held.iter_mut().map(|budget| budget.take(MAX_BODY - 1)).filter(|taken| *taken).count();
    assert!(taken > 0 && taken < of_address, "{taken}");
    let mut of_other = Budget::new(&all, &other);
    assert!((0..16).all(|_| of_other.take(MAX_BODY / 16)), "a whole one, in parts");
    drop((held, of_other));
    let free = [all, one, other].map(|budget| budget.available_permits());
    assert_eq!(free, [bodies, bodies_of_address, bodies_of_address]);
}

#[test]
fn a_key_provider_that_does_not_answer_holds_up_nobody_who_asks_for_the_health() {
    let site = Site::new(Limits { calls: 1, ..Limits::default() });
    let slow = site.authority.examining.lock();
    let (status, body) = site.connect().get("/v1/health");
    assert!(status == 503 && String::from_utf8_lossy(&body).contains("has not answered yet"));
    drop(slow);
    assert_eq!(site.connect().get("/v1/health").0, 200);
}
