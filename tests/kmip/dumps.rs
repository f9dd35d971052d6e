//! Host keys of a key server, and dumps that are encrypted to what they wrap.

use std::sync::Arc;

use vmcryptfs::dump::{KeyFile, LockedDump, Process, make, opened_by, take};
use vmcryptfs::error::Kind;
use vmcryptfs::operations::dump::refuse_host_keys;
use vmcryptfs::provider::{KeyState, Providers, Trouble};
use vmcryptfs::timestamp::Timestamp;

use crate::fake_server::FakeServer;
use crate::fake_store::Store;
use crate::site::{Site, key_id, name, refused};

/// A server that is gone is given up soon.
const QUICK: &str = "total-timeout-ms = 1500";

#[test]
fn a_host_key_is_made_on_the_server_and_needed_only_to_open_dumps() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let config = site.configure(&[server.port()], &site.host, QUICK);
    let providers = Providers::load(&config).unwrap();
    let made = make(&providers, &name()).unwrap();
    let labels = store.keys.lock().last().unwrap().custom.clone();
    assert_eq!(labels.len(), 6, "{labels:?}");
    assert_eq!((labels["x-Component"].as_str(), labels["x-Vendor"].as_str()), ("ESXi Server", "vmcryptfs"));
    let host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!((labels["x-Name"].as_str(), labels["x-Identifier"].len()), (host.as_str(), 36));
    assert_eq!(providers.provider(&name()).unwrap().key_state(&made.key.host_key).unwrap(), KeyState::Active);

    let file = KeyFile::of(&config);
    let _lock = file.lock().unwrap();
    file.keep(&made).unwrap();
    drop(server);
    let process = Process {
        pid: 1,
        uid: 0,
        gid: 0,
        signal: 11,
        time: Timestamp::from_secs(1),
        limit: u64::MAX,
        host,
        program: "/usr/bin/qemu-system-x86_64".into(),
    };
    let taken = take(&config, &process, &mut b"core".as_slice()).unwrap();
    let dump = LockedDump::read(&taken.path).unwrap();
    let host_key = opened_by(dump.header()).unwrap();
    assert_eq!(*host_key, made.key.host_key);
    assert_eq!(Trouble::of(&refused(providers.fetch(host_key))), Some(Trouble::Unreachable));
    // Nothing is made where no server answers.
    assert_eq!(Trouble::of(&refused(make(&providers, &name()))), Some(Trouble::Unreachable));

    let server = FakeServer::start(&site, &store);
    let providers = Providers::load(&site.configure(&[server.port()], &site.host, QUICK)).unwrap();
    let kek = providers.fetch(host_key).unwrap();
    let dek = dump.header().open_by_host_key(kek.as_ref()).unwrap();
    assert_eq!(refuse_host_keys(std::slice::from_ref(host_key), &config).unwrap_err().kind(), Kind::Denied);
    std::fs::remove_file(KeyFile::of(&config).path()).unwrap();
    let refusal = refuse_host_keys(std::slice::from_ref(host_key), &config).unwrap_err().to_string();
    assert!(refusal.contains("opens by nothing else"), "{refusal}");
    refuse_host_keys(&[key_id("another")], &config).unwrap();
    dump.decrypt(&dek, &site.path("core"), false).unwrap();
    assert_eq!(std::fs::read(site.path("core")).unwrap(), b"core");
}
