//! Servers that are slow, broken or hostile: never a wrong key, never a long wait, never a key too many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;
use vmcryptfs::error::Kind;
use vmcryptfs::key::KeyId;
use vmcryptfs::provider::{KeyProvider, Providers, Revocation, Trouble};

use crate::fake_server::{FakeServer, Fault};
use crate::fake_store::Store;
use crate::host::Host;
use crate::mounts::providers;
use crate::site::{Site, make, purpose, refused};

/// Short, so that the tests are; the rules are the same for all lengths.
const QUICK: &str = "connect-timeout-ms = 300\nrequest-timeout-ms = 300\ntotal-timeout-ms = 1500";
/// `QUICK`'s total, and a lot for a busy machine.
const AT_MOST: Duration = Duration::from_secs(12);

struct Bench {
    site: Site,
    store: Arc<Store>,
    server: FakeServer,
    provider: Arc<dyn KeyProvider>,
    id: KeyId,
}

/// A server with a key that was made while all was well.
fn bench() -> Bench {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let id = make(&*site.provider(&[server.port()], ""), 1).remove(0).0;
    let provider = site.provider(&[server.port()], QUICK);
    Bench { site, store, server, provider, id }
}

#[test]
fn each_fault_is_reported_in_time() {
    let Bench { site, server, id, .. } = bench();
    for (fault, kind, trouble) in [
        (Fault::NoTls, Kind::KeyUnavailable, Trouble::Silent),
        (Fault::Silent, Kind::KeyUnavailable, Trouble::Silent),
        (Fault::Drip, Kind::KeyUnavailable, Trouble::Silent),
        (Fault::LoseAnswer, Kind::KeyUnavailable, Trouble::Unreachable),
        (Fault::Half, Kind::KeyUnavailable, Trouble::Unreachable),
        (Fault::Garbage, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::Huge, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::Nested, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::WrongBatchId, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::WrongOperation, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::WrongCount, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::WrongKey, Kind::KeyUnavailable, Trouble::Garbled),
        (Fault::ShortKey, Kind::KeyRejected, Trouble::NotAKek),
        (Fault::WrongAlgorithm, Kind::KeyRejected, Trouble::NotAKek),
        (Fault::Refuse(0x100), Kind::KeyUnavailable, Trouble::Faulty),
        (Fault::Refuse(0xbeef), Kind::KeyUnavailable, Trouble::Faulty),
        (Fault::Refuse(0x03), Kind::KeyUnavailable, Trouble::Untrusted),
        (Fault::Refuse(0x0c), Kind::KeyUnavailable, Trouble::Denied),
    ] {
        let provider = site.provider(&[server.port()], QUICK);
        server.set(fault);
        let start = Instant::now();
        let error = refused(provider.fetch_key(&id));
        assert_eq!((error.kind(), Trouble::of(&error)), (kind, Some(trouble)), "{fault:?}: {}", error.chain());
        assert!(start.elapsed() < AT_MOST, "{fault:?} took {:?}", start.elapsed());
        assert!(error.chain().contains(&format!("127.0.0.1:{}", server.port())), "{}", error.chain());
    }
}

#[test]
fn with_a_second_member_each_fault_costs_a_moment() {
    let Bench { site, store, server, id, .. } = bench();
    let second = FakeServer::start(&site, &store);
    for fault in [
        Fault::NoTls,
        Fault::Silent,
        Fault::Drip,
        Fault::LoseAnswer,
        Fault::Half,
        Fault::Garbage,
        Fault::Huge,
        Fault::Nested,
        Fault::WrongBatchId,
        Fault::ShortKey,
        Fault::Refuse(0x01),
        Fault::Refuse(0x100),
        Fault::Refuse(0x0c),
        Fault::Refuse(0x03),
    ] {
        let provider = site.provider(&[server.port(), second.port()], "");
        server.set(fault);
        let start = Instant::now();
        assert!(provider.fetch_key(&id).is_ok(), "{fault:?}");
        assert!(start.elapsed() < AT_MOST, "{fault:?} took {:?}", start.elapsed());
    }
}

#[test]
fn a_key_is_only_missing_when_every_member_says_so() {
    let Bench { site, store, server, .. } = bench();
    let mut second = Some(FakeServer::start(&site, &store));
    let ports = [server.port(), second.as_ref().unwrap().port()];
    let trouble =
        |provider: &dyn KeyProvider| Trouble::of(&refused(provider.fetch_key(&crate::site::key_id("key-99"))));
    assert_eq!(trouble(&*site.provider(&ports, QUICK)), Some(Trouble::Missing));
    second.take();
    assert_eq!(trouble(&*site.provider(&ports, QUICK)), Some(Trouble::Unreachable));
}

#[test]
fn a_late_answer_is_never_the_answer_to_something_else() {
    let Bench { site, server, store, .. } = bench();
    let made = make(&*site.provider(&[server.port()], ""), 20);
    for (late, next) in made.iter().zip(made.iter().skip(1)) {
        let provider = site.provider(&[server.port()], "request-timeout-ms = 60\ntotal-timeout-ms = 60");
        provider.fetch_key(&late.0).ok(); // so that a session rests
        server.set(Fault::Late(Duration::from_millis(90)));
        refused(provider.fetch_key(&late.0));
        server.set(Fault::None);
        for _ in 0..3 {
            if let Ok(kek) = provider.fetch_key(&next.0) {
                assert_eq!(kek.check().unwrap(), next.1.check().unwrap());
            }
        }
    }
    assert_eq!(store.count(), 21);
}

#[test]
fn a_lost_answer_to_create_makes_no_second_key() {
    let Bench { site: _site, server, provider, store, .. } = bench();
    for _ in 0..3 {
        let before = store.count();
        server.set(Fault::LoseOneCreate);
        let (id, kek) = provider.create_key(&purpose()).unwrap_or_else(|error| panic!("{}", error.chain()));
        assert_eq!(store.count(), before + 1);
        assert_eq!(provider.fetch_key(&id).unwrap().check().unwrap(), kek.check().unwrap());
    }
}

#[test]
fn a_lost_answer_to_create_is_found_by_another_member() {
    let Bench { site, server, store, .. } = bench();
    let second = FakeServer::start(&site, &store);
    let provider = site.provider(&[server.port(), second.port()], QUICK);
    let before = store.count();
    server.set(Fault::LoseAnswer);
    assert!(provider.create_key(&purpose()).is_ok());
    assert_eq!(store.count(), before + 1);
}

/// A keeper of a cluster answers the wish of another host: a want that was put back, or that two keepers answer, is one request.
#[test]
fn a_request_that_comes_twice_makes_one_key_and_ends_none() {
    let Bench { site, store, server, provider, .. } = bench();
    let (request, before) = (Uuid::from_u128(7), store.count());
    let (id, kek) = provider.create_exported(request, &purpose()).unwrap();
    let other = site.provider(&[server.port()], QUICK);
    let (again, same) = other.create_exported(request, &purpose()).unwrap();
    assert_eq!((&again, same.bytes(), store.count()), (&id, kek.bytes(), before + 1));
    let exported = provider.export_key(&id).unwrap();
    assert!(exported.wraps && exported.kek.bytes() == kek.bytes());
    server.set(Fault::LoseOneCreate);
    provider.create_exported(Uuid::from_u128(8), &purpose()).unwrap();
    assert_eq!(store.count(), before + 2);
    // One that is out of use stays so, and stays: VMs may have it.
    provider.revoke_key(&id, Revocation::Ended).unwrap();
    refused(provider.create_exported(request, &purpose()));
    assert_eq!(store.count(), before + 2);
}

#[test]
fn sessions_that_a_server_closed_are_not_failures() {
    let Bench { site: _site, server, provider, id, .. } = bench();
    server.set(Fault::CloseAfterAnswer);
    for _ in 0..10 {
        provider.fetch_key(&id).unwrap_or_else(|error| panic!("{}", error.chain()));
    }
    assert_eq!(provider.take_notices(), Vec::<String>::new());
}

#[test]
fn a_member_that_fails_again_and_again_is_left_in_peace() {
    let Bench { site, store, server, id, .. } = bench();
    let second = FakeServer::start(&site, &store);
    let provider = site.provider(&[server.port(), second.port()], QUICK);
    // The second member knows the key, but the first is asked first each time: it answers, that it has failed.
    server.set(Fault::Refuse(0x100));
    second.set(Fault::Refuse(0x0c));
    for _ in 0..4 {
        refused(provider.fetch_key(&id));
    }
    let asked = server.requests();
    for _ in 0..5 {
        let error = refused(provider.fetch_key(&id));
        assert!(error.chain().contains("not asked after"), "{}", error.chain());
    }
    assert_eq!(server.requests(), asked);
}

#[test]
fn many_keys_of_a_dead_server_fail_together() {
    let Bench { site, server, provider, .. } = bench();
    let ids: Vec<KeyId> = make(&*provider, 100).into_iter().map(|(id, _)| id).collect();
    let config = site.configure(&[server.port()], &site.host, "");
    for fault in [Fault::Silent, Fault::Drip] {
        server.set(fault);
        let start = Instant::now();
        let fetched = Providers::load(&config).unwrap().fetch_all(ids.iter().cloned());
        assert!(
            fetched.values().all(|result| result.as_ref().is_err_and(|error| error.kind() == Kind::KeyUnavailable))
        );
        // Eight are asked at once and wait for 5 seconds; the others need not find out again.
        assert!(start.elapsed() < Duration::from_secs(20), "{fault:?}: {:?}", start.elapsed());
    }
}

#[test]
fn a_hundred_keys_come_at_once() {
    let Bench { site, server, provider, .. } = bench();
    let made = make(&*provider, 100);
    let config = site.configure(&[server.port()], &site.host, "");
    let start = Instant::now();
    let fetched = Providers::load(&config).unwrap().fetch_all(made.iter().map(|(id, _)| id.clone()));
    println!("100 keys of the fake server: {:.2?}", start.elapsed());
    for (id, kek) in &made {
        assert_eq!(fetched[id].as_ref().unwrap().check().unwrap(), kek.check().unwrap());
    }
}

#[test]
fn key_that_can_be_guessed_or_has_no_usable_id_is_destroyed_at_the_server() {
    let Bench { site, server, provider, store, id } = bench();
    for (fault, kind, says) in [
        (Fault::ConstantKey, Kind::KeyRejected, "a key of 32 equal bytes"),
        (Fault::ShortKey, Kind::KeyRejected, "a key of 16 bytes"),
        (Fault::ControlId, Kind::KeyUnavailable, "a key identifier of 6 bytes"),
        (Fault::LongId, Kind::KeyUnavailable, "a key identifier of 513 bytes"),
    ] {
        server.set(fault);
        let error = refused(site.provider(&[server.port()], "").create_key(&purpose()));
        assert_eq!(error.kind(), kind, "{fault:?}: {}", error.chain());
        assert!(error.chain().contains(says), "{fault:?}: {}", error.chain());
        assert_eq!(store.count(), 1, "{fault:?}");
    }
    // What such a key wrapped once still opens.
    server.set(Fault::ConstantKey);
    let constant = provider.fetch_key(&id).unwrap();
    let error = refused(constant.wrap(&vmcryptfs::crypto::random::disk_dek().unwrap()));
    assert!(error.kind() == Kind::KeyRejected && error.chain().contains("wraps nothing"), "{}", error.chain());
}

#[test]
fn key_that_another_id_has_as_well_is_reported() {
    let Bench { site: _site, server: _server, provider, store, id } = bench();
    let other = make(&*provider, 1).remove(0).0;
    assert_eq!(provider.take_notices(), Vec::<String>::new());
    let mut keys = store.keys.lock();
    keys[1].bytes = keys[0].bytes.clone();
    drop(keys);
    for id in [&id, &other, &id] {
        provider.fetch_key(id).unwrap();
    }
    let notices = provider.take_notices();
    assert_eq!(notices, ["keys corp/key-0 and corp/key-1 are the same key: its server made it twice"]);
}

/// The key that makes a VM folder wraps its disks as well. Until the first disk nothing compared it with the home's slot.
#[test]
fn another_key_under_the_id_of_a_home_wraps_no_disk() {
    let Bench { site, server, store, .. } = bench();
    let host = Host::configured(&providers(&site, &[server.port()], &site.host, ""));
    std::fs::create_dir(host.path("vms")).unwrap();
    let mount = host.mount("vms", &["--empty"]);
    std::fs::create_dir(mount.path("vm1")).unwrap();
    let genuine = std::mem::replace(&mut store.keys.lock().last_mut().unwrap().bytes, [0x3c, 1].repeat(16));
    let disk = mount.path("vm1/d.raw");
    let refused_as = std::fs::File::create(&disk).unwrap_err().raw_os_error();
    assert_eq!(refused_as, Some(libc::EKEYREJECTED), "a disk under a key that only the server knows");

    let dir = vmcryptfs::vm::folder::open_dir(host.path("vms/vm1").as_ref()).unwrap();
    let home = vmcryptfs::vm::folder::read_home(&dir).unwrap().unwrap();
    let loaded = Providers::load(&site.path("config.toml")).unwrap();
    let error = refused(vmcryptfs::vm::keyring::first_kek(home.header.claims(), &loaded));
    assert!(error.chain().contains("another key under the id"), "{}", error.chain());

    store.keys.lock().last_mut().unwrap().bytes = genuine;
    std::fs::File::create(&disk).unwrap();
    mount.unmount();
    host.run(&["check", host.path("vms")]);
}
