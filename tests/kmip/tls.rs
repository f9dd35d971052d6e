//! What an administrator may require of TLS with key servers.

use std::process::Command;
use std::sync::Arc;

use rustls::{ALL_VERSIONS, NamedGroup, version};
use vmcryptfs::provider::{KeyProvider, Trouble};

use crate::fake_server::{ALL_VERSIONS as ALL_OF_KMIP, FakeServer};
use crate::fake_store::Store;
use crate::host::Host;
use crate::site::{Site, make, purpose, refused};

fn untrusted(provider: &dyn KeyProvider) -> String {
    let error = refused(provider.create_key(&purpose()));
    assert_eq!(Trouble::of(&error), Some(Trouble::Untrusted), "{}", error.chain());
    error.chain()
}

#[test]
fn tls_below_the_least_version_is_refused() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let old = FakeServer::start_tls(&site, &store, &ALL_OF_KMIP, &[&version::TLS12], |_| true);
    for more in ["", "min-tls = \"1.2\""] {
        make(&*site.provider(&[old.port()], more), 1);
    }
    for more in ["min-tls = \"1.3\"", "tls = \"1.3-pq\""] {
        let said = untrusted(&*site.provider(&[old.port()], more));
        assert!(said.contains("no version or cipher of TLS in common") && said.contains("`min-tls`"), "{said}");
    }
    make(&*site.provider(&[FakeServer::start(&site, &store).port()], "min-tls = \"1.3\""), 1);
}

#[test]
fn hybrid_key_exchange_is_required_where_the_configuration_says_so() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let is_hybrid = |group| group == NamedGroup::X25519MLKEM768;
    let classic = FakeServer::start_tls(&site, &store, &ALL_OF_KMIP, ALL_VERSIONS, |group| !is_hybrid(group));
    make(&*site.provider(&[classic.port()], "min-tls = \"1.3\""), 1);
    let said = untrusted(&*site.provider(&[classic.port()], "tls = \"1.3-pq\""));
    assert!(said.contains("no version or cipher of TLS in common"), "{said}");
    let hybrid = FakeServer::start_tls(&site, &store, &ALL_OF_KMIP, ALL_VERSIONS, is_hybrid);
    make(&*site.provider(&[hybrid.port()], "tls = \"1.3-pq\""), 1);
}

/// By the command of docs/CLI.md.
fn pin_of(site: &Site) -> String {
    let command = "openssl x509 -in \"$0\" -noout -pubkey | openssl pkey -pubin -outform DER | \
                   openssl dgst -sha256 -binary | base64";
    let output = Command::new("sh").args(["-c", command]).arg(&site.server.cert).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn server_with_another_key_than_the_pinned_one_is_not_believed() {
    let mut site = Site::new();
    let store = Arc::new(Store::default());
    let (server, pin) = (FakeServer::start(&site, &store), pin_of(&site));
    let wrong = pin_of(&Site::new());
    assert_ne!(pin, wrong);
    for good in [format!("pin-sha256 = {pin:?}"), format!("pin-sha256 = [{wrong:?}, {pin:?}]")] {
        make(&*site.provider(&[server.port()], &good), 1);
    }
    let said = untrusted(&*site.provider(&[server.port()], &format!("pin-sha256 = {wrong:?}")));
    assert!(said.contains(&format!("its key has the pin {pin}, which is not in `pin-sha256`")), "{said}");
    // The same authority issues one for another key: a pin asks for more than the name.
    let issued_again = site.ca.issue("server2", crate::certificates::Purpose::Server);
    site.server = issued_again;
    let other = FakeServer::start(&site, &store);
    untrusted(&*site.provider(&[other.port()], &format!("pin-sha256 = {pin:?}")));
    // A pin replaces no authority.
    let (mut elsewhere, server) = (Site::new(), other.port());
    elsewhere.host = site.host.clone();
    let said = untrusted(&*elsewhere.provider(&[server], &format!("pin-sha256 = {:?}", pin_of(&site))));
    assert!(said.contains("certificate is not accepted"), "{said}");
}

#[test]
fn what_is_required_of_tls_can_be_given_with_the_provider() {
    let site = Site::new();
    let (server, pin) = (FakeServer::start(&site, &Arc::default()), pin_of(&site));
    let host = Host::configured("");
    let address = format!("127.0.0.1:{}", server.port());
    let file = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (ca, cert, key) = (file(&site.ca.cert()), file(&site.host.cert), file(&site.host.key));
    let add = ["provider", "add", "kmip", "corp", "--server", &address, "--ca", &ca, "--cert", &cert, "--key", &key];
    for (bad, says) in [
        (["--min-tls", "1.1"], "expected `1.2` or `1.3`"),
        (["--tls", "pq"], "expected `1.3-pq`"),
        (["--pin-sha256", "abc"], "expected SHA-256 of a public key in base64"),
    ] {
        let output = host.try_run(&[&add[..], &bad].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(says), "{said}");
    }
    host.run(&[&add[..], &["--min-tls", "1.3", "--tls", "1.3-pq", "--pin-sha256", &pin]].concat());
    host.run(&["provider", "test", "corp"]);
}
