//! What is done with keys, in each version of KMIP, with a server that keeps custom attributes.

use std::sync::Arc;

use vmcryptfs::error::Kind;
use vmcryptfs::provider::kmip::KmipProvider;
use vmcryptfs::provider::{KeyState, NewKey, Revocation, Trouble, round_trip};

use crate::certificates::{Authority, Purpose};
use crate::fake_server::{ALL_VERSIONS, FakeServer};
use crate::fake_store::Store;
use crate::site::{Site, corp, key_id, name, purpose, refused};

#[test]
fn each_version_does_all_that_keys_need() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    for version in ["1.1", "1.2", "1.3", "1.4", "2.1"] {
        let provider = site.provider(&[server.port()], &format!("versions = [\"{version}\"]"));
        let id = round_trip(&*provider).unwrap_or_else(|error| panic!("{version}: {}", error.chain()));
        assert_eq!(provider.key_state(&id).unwrap(), KeyState::Active, "{version}");
        let labels = || store.keys.lock().last().unwrap().custom.clone();
        let made = labels();
        assert_eq!(made.len(), 6, "{version}: {made:?}");
        assert_eq!((made["x-Vendor"].as_str(), made["x-Component"].as_str()), ("vmcryptfs", "Virtual Machine"));
        assert_eq!(made["x-Name"], "vmcryptfs provider test");

        provider.label_key(&id, &NewKey { vm_name: "renamed".into(), ..purpose() }).unwrap();
        assert_eq!((labels()["x-Name"].as_str(), labels()["x-Identifier"].len()), ("renamed", 36), "{version}");
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
    let vmcryptfs::provider::config::Settings::Kmip(settings) = configured.settings(&name()).unwrap() else {
        panic!("a provider of another kind");
    };
    KmipProvider::new(name(), settings, &config).unwrap()
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
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn the_end_of_this_host_s_certificate_is_told_before_it_is_a_surprise() {
    let site = Site::new();
    let server = FakeServer::start(&site, &Arc::default());
    let late = site.ca.issue_expired("late", Purpose::Client);
    let provider = corp(&site.configure(&[server.port()], &late, "")).unwrap();
    let notices = provider.take_notices();
    assert!(notices.iter().any(|notice| notice.starts_with("this host's certificate ended")), "{notices:?}");
    assert_eq!(site.provider(&[server.port()], "").take_notices(), Vec::<String>::new());
}
