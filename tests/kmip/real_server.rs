//! With PyKMIP: what keys of every state and owner do, and what happens when servers go away.

use std::fs;
use std::time::{Duration, Instant};

use vmcryptfs::crypto::random;
use vmcryptfs::error::Kind;
use vmcryptfs::key::KeyId;
use vmcryptfs::provider::{KeyState, Providers, Revocation, Trouble, round_trip};

use crate::certificates::{Authority, Purpose};
use crate::pykmip::PyKmip;
use crate::site::{Site, corp, key_id, make, purpose, refused};

/// More than any single step takes on a busy machine, and less than the provider's own patience with a dead member.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn each_version_makes_active_keys_that_come_back() {
    let site = Site::new();
    let server = PyKmip::start(&site, "keys");
    for version in ["1.1", "1.2", "1.3", "1.4"] {
        let provider = site.provider(&[server.port()], &format!("versions = [\"{version}\"]"));
        let id = round_trip(&*provider).unwrap_or_else(|error| panic!("{version}: {}", error.chain()));
        assert_eq!(provider.key_state(&id).unwrap(), KeyState::Active, "{version}");
        // PyKMIP keeps no custom attributes; that is told, and no error.
        let notices = provider.take_notices();
        assert!(notices.iter().any(|notice| notice.contains("custom attributes")), "{version}: {notices:?}");
        let shared = provider.fetch_key(&id).unwrap().shared_memory().unwrap();
        let notices = [1, 2].map(|text| {
            shared.store(purpose().vm_uuid, &text.to_string(), &|_| true).unwrap();
            provider.take_notices()
        });
        let told = notices[0].iter().filter(|notice| notice.contains("is not kept at the key server")).count();
        assert!(told == 1 && notices[1].is_empty(), "{version}: {notices:?}");
        provider.revoke_key(&id, Revocation::Superseded).unwrap();
        provider.destroy_key(&id).unwrap();
    }
}

#[test]
fn what_a_key_state_forbids_is_distinguished() {
    let site = Site::new();
    let server = PyKmip::start(&site, "keys");
    let provider = site.provider(&[server.port()], "");
    let dek = random::disk_dek().unwrap();
    for (reason, state, word) in [
        (Revocation::Ended, KeyState::Deactivated, "deactivated"),
        (Revocation::Compromised, KeyState::Compromised, "compromised"),
    ] {
        let (id, kek) = provider.create_key(&purpose()).unwrap();
        let wrapped = kek.wrap(&dek).unwrap();
        assert_eq!(refused(provider.destroy_key(&id)).kind(), Kind::KeyUnavailable, "active keys are not destroyed");
        provider.revoke_key(&id, reason).unwrap();
        assert_eq!(provider.key_state(&id).unwrap(), state);

        // What was wrapped stays readable; nothing new is wrapped, not even by a key that was fetched before.
        assert_eq!(provider.fetch_key(&id).unwrap().unwrap(&wrapped).unwrap().bytes(), dek.bytes());
        let error = refused(kek.wrap(&dek));
        assert_eq!((error.kind(), Trouble::of(&error)), (Kind::KeyUnavailable, Some(Trouble::State(state))));
        assert!(error.chain().contains(word), "{}", error.chain());

        provider.destroy_key(&id).unwrap();
        let error = refused(provider.fetch_key(&id));
        assert_eq!((error.kind(), Trouble::of(&error)), (Kind::KeyUnavailable, Some(Trouble::Missing)));
        assert!(error.chain().contains("no such key"), "{}", error.chain());
        assert_eq!(Trouble::of(&refused(kek.wrap(&dek))), Some(Trouble::Missing));
    }
}

#[test]
fn unknown_keys_differ_from_keys_of_others() {
    let site = Site::new();
    let server = PyKmip::start(&site, "keys");
    let provider = site.provider(&[server.port()], "");
    let (id, _) = provider.create_key(&purpose()).unwrap();
    let unknown = refused(provider.fetch_key(&key_id("4711")));
    assert_eq!((unknown.kind(), Trouble::of(&unknown)), (Kind::KeyUnavailable, Some(Trouble::Missing)));

    let other = site.ca.issue("host2", Purpose::Client);
    let stranger = corp(&site.configure(&[server.port()], &other, "")).unwrap();
    let denied = refused(stranger.fetch_key(&id));
    assert_eq!((denied.kind(), Trouble::of(&denied)), (Kind::KeyUnavailable, Some(Trouble::Denied)));
    assert!(denied.chain().contains("permission denied"), "{}", denied.chain());
    assert!(provider.fetch_key(&id).is_ok());
}

#[test]
fn certificates_that_one_side_does_not_accept_are_reported() {
    let site = Site::new();
    let server = PyKmip::start(&site, "keys");
    let wrong = Authority::new(&site.path("wrong"));
    let trouble = |config: &std::path::Path| {
        let error = refused(corp(config).unwrap().create_key(&purpose()));
        assert_eq!(error.kind(), Kind::KeyUnavailable, "{}", error.chain());
        (Trouble::of(&error), error.chain())
    };
    for client in [wrong.issue("host1", Purpose::Client), site.ca.issue_expired("late", Purpose::Client)] {
        let (trouble, told) = trouble(&site.configure(&[server.port()], &client, ""));
        assert_eq!(trouble, Some(Trouble::Untrusted), "{told}");
    }
    let config = site.configure(&[server.port()], &site.host, "");
    let text = fs::read_to_string(&config).unwrap();
    let right = site.ca.cert().display().to_string();
    let (trouble, told) = trouble(&site.write_config(&text.replace(&right, &wrong.cert().display().to_string())));
    assert_eq!(trouble, Some(Trouble::Untrusted), "{told}");
    assert!(told.contains("server's certificate is not accepted"), "{told}");
}

#[test]
fn servers_with_a_wrong_name_or_an_old_certificate_are_not_believed() {
    let site = Site::new();
    for certificate in
        [site.ca.issue("other", Purpose::OtherServer), site.ca.issue_expired("old-server", Purpose::Server)]
    {
        let server = PyKmip::start_with(&site, "keys", &certificate);
        let error = refused(site.provider(&[server.port()], "").create_key(&purpose()));
        assert_eq!(Trouble::of(&error), Some(Trouble::Untrusted), "{}", error.chain());
    }
    let named = PyKmip::start(&site, "keys");
    let config = site.configure(&[named.port()], &site.host, "");
    let text = fs::read_to_string(&config).unwrap().replace("127.0.0.1:", "localhost:");
    assert!(corp(&site.write_config(&text)).unwrap().create_key(&purpose()).is_ok());
}

#[test]
fn changed_certificates_are_used_without_a_new_start() {
    let site = Site::new();
    let server = PyKmip::start(&site, "keys");
    let wrong = Authority::new(&site.path("wrong")).issue("host1", Purpose::Client);
    let (cert, key) = (site.path("used.pem"), site.path("used.key"));
    let install = |issued: &crate::certificates::Issued| {
        fs::copy(&issued.cert, &cert).unwrap();
        fs::copy(&issued.key, &key).unwrap();
    };
    install(&wrong);
    let used = crate::certificates::Issued { cert: cert.clone(), key: key.clone() };
    let provider = corp(&site.configure(&[server.port()], &used, "")).unwrap();
    assert_eq!(Trouble::of(&refused(provider.create_key(&purpose()))), Some(Trouble::Untrusted));

    // Half of a change is not a reason to stop: the certificate and its key belong together.
    fs::copy(&site.host.cert, &cert).unwrap();
    refused(provider.create_key(&purpose()));
    assert!(provider.take_notices().iter().any(|notice| notice.contains("changed certificates are not used")));
    install(&site.host);
    let (id, _) = provider.create_key(&purpose()).unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(provider.fetch_key(&id).is_ok());
}

/// Fetches all at once, as a mount does, and checks that each is the right one.
fn fetch_all(providers: &Providers, made: &[(KeyId, std::sync::Arc<dyn vmcryptfs::key::Kek>)]) -> Duration {
    let start = Instant::now();
    let fetched = providers.fetch_all(made.iter().map(|(id, _)| id.clone()));
    let time = start.elapsed();
    for (id, kek) in made {
        let fetched = fetched[id].as_ref().unwrap_or_else(|error| panic!("{id}: {}", error.chain()));
        assert_eq!(fetched.check().unwrap(), kek.check().unwrap(), "{id}");
    }
    time
}

#[test]
fn a_member_that_was_killed_or_hangs_costs_little() {
    let site = Site::new();
    let (mut first, second) = (PyKmip::start(&site, "keys"), PyKmip::start(&site, "keys"));
    let config = site.configure(&[first.port(), second.port()], &site.host, "");
    let providers = || Providers::load(&config).unwrap(); // as a mount that begins now
    let start = Instant::now();
    let made = make(&*corp(&config).unwrap(), 100);
    println!("100 keys made by PyKMIP, one after the other: {:.2?}", start.elapsed());
    let healthy = fetch_all(&providers(), &made);

    first.hang();
    let began_while_hanging = providers();
    let hanging = fetch_all(&began_while_hanging, &made);
    let again = fetch_all(&began_while_hanging, &made);
    first.go_on();
    // The answers that the first member owes come now, and must not be taken for answers to these.
    let after = fetch_all(&began_while_hanging, &made);

    first.kill();
    let killed = fetch_all(&providers(), &made);
    println!(
        "100 keys of PyKMIP: {healthy:.2?}; one of two members hangs: {hanging:.2?}, then {again:.2?}, after it went \
         on {after:.2?}; one of two killed: {killed:.2?}"
    );
    assert!(hanging < healthy * 3 + SOON && killed < healthy * 3 + SOON, "{healthy:?} {hanging:?} {killed:?}");

    drop(second);
    let start = Instant::now();
    let failed = providers().fetch_all(made.iter().map(|(id, _)| id.clone()));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    for (id, result) in failed {
        let error = refused(result);
        assert_eq!((error.kind(), Trouble::of(&error)), (Kind::KeyUnavailable, Some(Trouble::Unreachable)), "{id}");
    }
}

#[test]
fn a_server_that_comes_back_is_asked_again() {
    let site = Site::new();
    let mut server = PyKmip::start(&site, "keys");
    let provider = site.provider(&[server.port()], "total-timeout-ms = 1000");
    let (id, _) = provider.create_key(&purpose()).unwrap();
    server.hang();
    assert_eq!(Trouble::of(&refused(provider.fetch_key(&id))), Some(Trouble::Silent));
    server.go_on();
    std::thread::sleep(Duration::from_millis(1100));
    assert!(provider.fetch_key(&id).is_ok());
    server.kill();
    assert!(provider.fetch_key(&id).is_err());
}
