//! What several hosts make of one memory at a key server.

use std::sync::Arc;

use super::*;
use crate::crypto::random;
use crate::crypto::wrap::LocalKek;
use crate::error::{Error, Kind};
use crate::format::header::{Header, Shape, Slot};
use crate::key::{Dek, Kek, KeyCheck, ProviderName, WrappedDek};
use crate::seen::Memory;
use crate::sys::SecretBytes;

/// A server that has one key, and a host's sight of it.
#[derive(Clone, Default)]
struct Server {
    texts: Arc<Mutex<HashMap<Uuid, String>>>,
    known: Arc<Mutex<HashMap<Uuid, String>>>,
    stores: Arc<Mutex<usize>>,
    is_down: Arc<Mutex<bool>>,
}

impl SharedMemory for Server {
    fn get(&self, uuid: Uuid) -> Option<String> {
        self.known.lock().get(&uuid).cloned()
    }

    fn assume(&self, uuid: Uuid, text: String) {
        self.known.lock().insert(uuid, text);
    }

    fn refresh(&self) -> Result<()> {
        if *self.is_down.lock() {
            return Err(Error::new(Kind::KeyUnavailable, "down"));
        }
        let texts = self.texts.lock().clone();
        *self.known.lock() = texts;
        Ok(())
    }

    fn store(&self, uuid: Uuid, text: &str, replaces: &dyn Fn(&str) -> bool) -> Result<()> {
        self.refresh()?;
        *self.stores.lock() += 1;
        if self.texts.lock().get(&uuid).is_none_or(|there| replaces(there)) {
            self.texts.lock().insert(uuid, text.to_owned());
        }
        self.refresh()
    }
}

/// A KEK of the server, as it was fetched.
struct FetchedKek(LocalKek, Server);

impl Kek for FetchedKek {
    fn wrap(&self, dek: &Dek) -> Result<WrappedDek> {
        self.0.wrap(dek)
    }

    fn unwrap(&self, wrapped: &WrappedDek) -> Result<Dek> {
        self.0.unwrap(wrapped)
    }

    fn check(&self) -> Result<KeyCheck> {
        self.0.check()
    }

    fn shared_memory(&self) -> Option<Arc<dyn SharedMemory>> {
        Some(Arc::new(self.1.clone()))
    }
}

fn key_id() -> KeyId {
    KeyId::new(ProviderName::new("corp").unwrap(), "1").unwrap()
}

impl Server {
    /// A host that has just fetched the key, and what it knows of it.
    fn host(&self) -> (Arc<Memory>, Self) {
        let sight = Self { known: Arc::default(), ..self.clone() };
        sight.refresh().unwrap();
        let memories = Arc::new(SharedMemories::default());
        let kek = FetchedKek(LocalKek::new(SecretBytes::zeroed(32)).unwrap(), sight.clone());
        memories.add(&key_id(), &kek);
        (Arc::new(Memory { place: None, servers: Servers::of(&memories), state: Mutex::default() }), sight)
    }
}

fn home(dek: &Dek) -> Header {
    let wrapped = WrappedDek(dek.bytes().iter().chain(&[0; 8]).copied().collect());
    let slot = Slot { key_id: key_id(), check: KeyCheck([1; 8]), wrapped };
    Header::new(random::uuid().unwrap(), Shape::Home, String::new(), slot)
}

fn updated(header: &Header, label: &str, by: u64) -> Header {
    Header { sequence: header.sequence + by, label: label.to_owned(), ..header.clone() }
}

#[test]
fn one_message_is_sent_for_an_update_and_none_for_opening() {
    let (server, dek) = (Server::default(), random::home_dek().unwrap());
    let first = home(&dek);
    let point = |header: &Header| Point::written(header, &dek).unwrap();
    let stores = || *server.stores.lock();
    let (a, _) = server.host();
    for header in [&first, &updated(&first, "b", 1), &updated(&first, "b", 2)] {
        a.meet(point(header));
    }
    a.keep();
    a.keep();
    assert_eq!(stores(), 1);
    let newest = updated(&first, "b", 2);
    for _ in 0..3 {
        let (b, _) = server.host();
        assert!(b.meet(point(&newest)).allow_changes().is_ok());
        b.meet(point(&newest).at(Some(4096)));
        b.keep();
    }
    assert_eq!(stores(), 1);
    let (c, _) = server.host();
    assert!(c.meet(point(&first)).allow_changes().is_err());
    assert!(c.meet(point(&updated(&first, "b", 1))).allow_changes().is_ok(), "the other copy of the same");
}

#[test]
fn a_late_message_lowers_nothing_and_a_lost_one_is_sent_again() {
    let (server, dek) = (Server::default(), random::home_dek().unwrap());
    let first = home(&dek);
    let point = |header: &Header| Point::written(header, &dek).unwrap();
    let (early, _) = server.host();
    let (late, _) = server.host();
    late.meet(point(&updated(&first, "b", 1)));
    early.meet(point(&updated(&first, "c", 2)));
    *server.is_down.lock() = true;
    early.keep();
    assert!(server.texts.lock().is_empty());
    *server.is_down.lock() = false;
    early.keep();
    late.keep();
    assert!(server.texts.lock()[&first.uuid].starts_with("1:0:3:"));
    let (other, _) = server.host();
    assert!(other.allow(point(&updated(&first, "b", 1))).is_err());
}

#[test]
fn what_one_host_accepts_the_next_one_takes_soon() {
    let (server, dek) = (Server::default(), random::home_dek().unwrap());
    let first = home(&dek);
    let point = |header: &Header| Point::written(header, &dek).unwrap();
    let (a, _) = server.host();
    a.meet(point(&updated(&first, "b", 2)));
    a.keep();
    let ((b, _), (mount, _)) = (server.host(), server.host());
    let past = mount.meet(point(&first));
    assert!(
        past.gone_back().unwrap().describe().contains("the server of key corp/1 remembers generation 0, sequence 3")
    );
    mount.keep();
    b.accept(&b.gone_back(&point(&first)).unwrap()).unwrap();
    assert!(past.allow_changes().is_err(), "until it is read again");
    mount.keep();
    assert!(past.allow_changes().is_ok());
    assert!(a.allow(point(&first)).is_err(), "a host that has seen more asks for itself");
    // A header that was restored on purpose counts as never seen.
    b.meet(point(&updated(&first, "c", 4)));
    b.keep();
    b.forget(first.uuid).unwrap();
    let (c, _) = server.host();
    assert!(c.meet(point(&first)).allow_changes().is_ok());
    c.keep();
    assert!(server.texts.lock()[&first.uuid].starts_with("1:0:1:"));
}

#[test]
fn texts_of_later_versions_are_neither_believed_nor_replaced() {
    let (server, dek) = (Server::default(), random::home_dek().unwrap());
    let header = home(&dek);
    for text in ["2:whatever", "", "1:0:1:0:00:00", "1:0:x:0"] {
        server.texts.lock().insert(header.uuid, text.into());
        let (host, _) = server.host();
        assert!(host.meet(Point::written(&header, &dek).unwrap()).allow_changes().is_ok(), "{text}");
        host.keep();
        assert_eq!(server.texts.lock()[&header.uuid], text);
    }
}
