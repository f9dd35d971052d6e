//! What is done with keys, in each version of KMIP, with a server that keeps custom attributes.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use vmcryptfs::error::Kind;
use vmcryptfs::provider::kind::Configured;
use vmcryptfs::provider::kinds::kmip::KmipProvider;
use vmcryptfs::provider::{KeyState, Revocation, Trouble, round_trip};

use crate::certificates::{Authority, Purpose};
use crate::fake_server::{ALL_VERSIONS, FakeServer};
use crate::fake_store::Store;
use crate::site::{Site, corp, key_id, make, name, purpose, refused};

#[test]
fn each_version_does_all_that_keys_need() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    for version in ["1.1", "1.2", "1.3", "1.4", "2.1"] {
        let provider = site.provider(&[server.port()], &format!("versions = [\"{version}\"]"));
        let id = round_trip(&*provider).unwrap_or_else(|error| panic!("{version}: {}", error.chain()));
        assert_eq!(provider.key_state(&id).unwrap(), KeyState::Active, "{version}");
        let made = store.keys.lock().last().unwrap().custom.clone();
        assert_eq!(made.len(), 6, "{version}: {made:?}");
        assert_eq!((made["x-Vendor"].as_str(), made["x-Component"].as_str()), ("vmcryptfs", "Virtual Machine"));
        assert_eq!(made["x-Name"], "vmcryptfs provider test");

        assert_eq!(made["x-Identifier"].len(), 36, "{version}");
        assert_eq!(provider.take_notices(), Vec::<String>::new(), "{version}");

        provider.revoke_key(&id, Revocation::Superseded).unwrap();
        let error = refused(provider.fetch_key(&id));
        let deactivated = Trouble::State(KeyState::Deactivated);
        assert_eq!((error.kind(), Trouble::of(&error)), (Kind::KeyUnavailable, Some(deactivated)), "{version}");
        assert!(error.chain().contains("the key is deactivated"), "{}", error.chain());
        provider.destroy_key(&id).unwrap();
        assert_eq!(Trouble::of(&refused(provider.fetch_key(&id))), Some(Trouble::Destroyed), "{version}");
        assert_eq!(provider.key_state(&id).unwrap(), KeyState::Destroyed, "{version}");
    }
    assert_eq!(store.count(), 0);
}

#[test]
fn the_best_common_version_is_spoken() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    for (versions, expected) in
        [(&ALL_VERSIONS[..], "2.1"), (&[(3, 0), (2, 0), (1, 3), (1, 0)], "1.3"), (&[(1, 1)], "1.1")]
    {
        let server = FakeServer::start_with(&site, &store, versions);
        let reports = kmip(&site, &server).probe().unwrap();
        assert_eq!(reports[0].version.map(|version| version.to_string()).as_deref(), Some(expected));
    }
    let server = FakeServer::start_with(&site, &store, &[(2, 0), (1, 0)]);
    let error = refused(site.provider(&[server.port()], "").create_key(&purpose()));
    assert_eq!(Trouble::of(&error), Some(Trouble::Unsupported));
    assert!(error.chain().contains("no common version of KMIP: it speaks \"2.0, 1.0\""), "{}", error.chain());
}

fn kmip(site: &Site, server: &FakeServer) -> KmipProvider {
    let config = site.configure(&[server.port()], &site.host, "");
    let configured = vmcryptfs::provider::config::Config::load(&config).unwrap();
    let settings = configured.settings(&name()).unwrap();
    KmipProvider::new(&Configured { name: &name(), settings, config: &config }).unwrap()
}

#[test]
fn a_probe_says_what_a_member_can_do_and_leaves_no_key() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let provider = kmip(&site, &server);
    let report = provider.probe().unwrap().remove(0);
    assert_eq!(report.failure, None);
    assert_eq!((report.tls.as_deref(), report.vendor.as_deref()), (Some("TLS 1.3"), Some("fake")));
    assert_eq!((report.keeps_attributes, report.round_trip.is_some()), (Some(true), true));
    assert_eq!(report.versions.len(), ALL_VERSIONS.len());
    assert!(report.server_certificate_days.unwrap() > 10_000 && provider.certificate_days().unwrap() > 10_000);
    assert_eq!(store.count(), 0);
}

#[test]
fn custom_attributes_of_the_configuration_win() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let more = "[provider.corp.attributes]\nx-Vendor = \"Example\"\nx-Product = \"\"\nx-Site = \"Graz\"";
    site.provider(&[server.port()], more).create_key(&purpose()).unwrap();
    let labels = store.keys.lock()[0].custom.clone();
    assert_eq!((labels["x-Vendor"].as_str(), labels["x-Site"].as_str()), ("Example", "Graz"));
    assert!(!labels.contains_key("x-Product") && labels["x-Name"] == "web01", "{labels:?}");
}

#[test]
fn compromised_keys_unlock_what_they_wrapped_and_wrap_nothing_new() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let provider = site.provider(&[server.port()], "");
    let (id, kek) = provider.create_key(&purpose()).unwrap();
    let dek = vmcryptfs::crypto::random::disk_dek().unwrap();
    let wrapped = kek.wrap(&dek).unwrap();
    provider.revoke_key(&id, Revocation::Compromised).unwrap();
    let fetched = provider.fetch_key(&id).unwrap();
    assert_eq!(fetched.unwrap(&wrapped).unwrap().bytes(), dek.bytes());
    assert_eq!(Trouble::of(&refused(fetched.wrap(&dek))), Some(Trouble::State(KeyState::Compromised)));
}

#[test]
fn keys_of_other_providers_are_not_asked_for() {
    let site = Site::new();
    let server = FakeServer::start(&site, &Arc::default());
    let provider = site.provider(&[server.port()], "");
    let foreign = vmcryptfs::key::KeyId::new(vmcryptfs::key::ProviderName::new("lab").unwrap(), "key-0").unwrap();
    assert_eq!(refused(provider.fetch_key(&foreign)).kind(), Kind::Invalid);
    assert_eq!(server.requests(), 0);
    assert_eq!(Trouble::of(&refused(provider.fetch_key(&key_id("key-0")))), Some(Trouble::Missing));
}

#[test]
fn with_tls_1_3_a_refused_certificate_is_told_although_the_handshake_ends_well() {
    let site = Site::new();
    let server = FakeServer::start(&site, &Arc::default());
    let wrong = Authority::new(&site.path("wrong")).issue("host1", Purpose::Client);
    for client in [wrong, site.ca.issue_expired("late", Purpose::Client)] {
        let provider = corp(&site.configure(&[server.port()], &client, "")).unwrap();
        let error = refused(provider.create_key(&purpose()));
        assert_eq!(Trouble::of(&error), Some(Trouble::Untrusted), "{}", error.chain());
        let is_late = client.cert.ends_with("late.pem");
        assert_eq!(error.chain().contains("this host's certificate expired at 2020-02-01T00:00:00Z"), is_late);
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_server_certificate_of_an_authority_is_named_as_such() {
    let mut site = Site::new();
    site.server = site.ca.own();
    let server = FakeServer::start(&site, &Arc::default());
    let said = refused(site.provider(&[server.port()], "").create_key(&purpose())).chain();
    assert!(said.contains("it is one of an authority (CA:TRUE)"), "{said}");
}

#[test]
fn certificate_of_another_user_is_refused() {
    let site = Site::new();
    for file in [site.ca.cert(), site.host.cert.clone(), site.host.key.clone()] {
        if let Err(error) = std::os::unix::fs::chown(&file, Some(1), None) {
            println!("NOT RUN: {error}");
            return;
        }
        let error = refused(corp(&site.configure(&[1], &site.host, "")));
        assert_eq!(error.kind(), Kind::Denied, "{}", error.chain());
        assert!(error.chain().contains("belongs to user id 1"), "{}", error.chain());
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
    }
    corp(&site.configure(&[1], &site.host, "")).unwrap();
}

#[test]
fn a_certificate_of_version_1_is_named_before_any_server_is_asked() {
    let site = Site::new();
    let said = refused(corp(&site.configure(&[1], &site.ca.issue_version_1("host1"), ""))).chain();
    assert!(said.contains("v1.pem is of X.509 version 1"), "{said}");
}

/// Of the addresses of a name, one accepts connections and does nothing with them, one closes them, one is the server.
#[test]
fn each_address_of_a_name_is_tried() {
    let mut site = Site::new();
    site.server = site.ca.issue("other", Purpose::OtherServer);
    let server = FakeServer::start(&site, &Arc::default());
    let bind = |ip: &str| TcpListener::bind((ip, server.port())).unwrap();
    let (_hangs, closes) = (bind("127.0.0.2"), bind("127.0.0.3"));
    thread::spawn(move || closes.incoming().for_each(drop));
    if !have_own_hosts(&site, "127.0.0.2 elsewhere.example\n127.0.0.3 elsewhere.example\n127.0.0.1 elsewhere.example\n")
    {
        println!("NOT RUN: no hosts file of its own");
        return;
    }
    // An address that was waited for would take longer than the test does on the busiest machine.
    let patient = "connect-timeout-ms = 60000\nrequest-timeout-ms = 60000\ntotal-timeout-ms = 60000";
    let config = site.configure(&[server.port()], &site.host, patient);
    let text = fs::read_to_string(&config).unwrap().replace("127.0.0.1:", "elsewhere.example:");
    let provider = corp(&site.write_config(&text)).unwrap();
    let start = Instant::now();
    make(&*provider, 3);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

/// Names of this thread, and of those that it starts from now on.
#[allow(deprecated, reason = "its successor is unsafe for flags that this is not called with")]
fn have_own_hosts(site: &Site, hosts: &str) -> bool {
    let file = site.path("hosts");
    fs::write(&file, hosts).unwrap();
    let mount = |args: &[&OsStr]| Command::new("mount").args(args).status().is_ok_and(|status| status.success());
    rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNS).is_ok()
        && mount(&["--make-rprivate".as_ref(), "/".as_ref()])
        && mount(&["--bind".as_ref(), file.as_ref(), "/etc/hosts".as_ref()])
}

#[test]
fn expiry_of_the_host_certificate_is_reported_in_advance() {
    let site = Site::new();
    let server = FakeServer::start(&site, &Arc::default());
    let late = site.ca.issue_expired("late", Purpose::Client);
    let provider = corp(&site.configure(&[server.port()], &late, "")).unwrap();
    let notices = provider.take_notices();
    assert!(notices.iter().any(|notice| notice.starts_with("this host's certificate expired")), "{notices:?}");
    assert_eq!(site.provider(&[server.port()], "").take_notices(), Vec::<String>::new());
}
