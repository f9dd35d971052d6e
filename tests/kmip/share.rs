//! KEKs that are made of a provider's key and a share of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use crate::fake_server::FakeServer;
use crate::fake_store::Store;
use crate::host::Host;
use crate::mounts::providers;
use crate::site::Site;

const NOT_THE_SHARE: &str = "is the right one, but the kek-share is not";

#[test]
fn neither_the_key_server_nor_the_share_opens_anything_alone() {
    let (site, store) = (Site::new(), Arc::new(Store::default()));
    let server = FakeServer::start(&site, &store);
    let without = providers(&site, &[server.port()], &site.host, "");
    let host = Host::configured("");
    let (vm, disk, share) = (host.path("web01"), host.path("web01/root.raw"), host.path("config/share"));
    let address = format!("127.0.0.1:{}", server.port());
    let file = |path: &std::path::Path| path.display().to_string();
    let (ca, cert, key) = (file(&site.ca.cert()), file(&site.host.cert), file(&site.host.key));
    let add = ["provider", "add", "kmip", "corp", "--server", &address, "--ca", &ca, "--cert", &cert, "--key", &key];
    let said = host.run(&[&add[..], &["--kek-share", share]].concat());
    assert!(said.contains("made kek-share"), "{said}");
    assert_eq!(fs::metadata(share).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(share).unwrap();
    assert_eq!((bytes.len(), &bytes[..10]), (96, &b"VMCRYPTK\x01\0"[..]));
    assert!(host.run(&["provider", "test", "corp"]).contains("works"));
    host.run(&["create", vm]);
    host.run(&["create-disk", disk, "--size", "1M"]);

    // A second host of the cluster has a copy; a third one made a share of its own; a fourth one has none.
    let with = |share: &str| providers(&site, &[server.port()], &site.host, &format!("kek-share = {share:?}"));
    let second = Host::configured(&with(share));
    second.run(&["check", vm]);
    second.run(&["rekey", vm]);
    host.run(&["check", vm]);
    let third = Host::configured("");
    third.run(&[&add[..], &["--kek-share", third.path("config/share")]].concat());
    third.refuses(&["rekey", vm], 5, NOT_THE_SHARE);
    let fourth = Host::configured(&without);
    fourth.refuses(&["rekey", vm], 5, NOT_THE_SHARE);
    store.keys.lock()[2].bytes[7] ^= 1;
    host.refuses(&["rekey", vm], 5, "has another key under the id of corp/key-2");
    store.keys.lock()[2].bytes[7] ^= 1;

    // The share is removed by way of a provider without one.
    host.run(&[&["provider", "add", "kmip", "plain"], &add[4..]].concat());
    host.run(&["rekey", vm, "--provider", "plain"]);
    Host::configured(&without.replace("corp", "plain")).run(&["check", vm]);

    fs::set_permissions(share, fs::Permissions::from_mode(0o644)).unwrap();
    host.refuses(&["provider", "test", "corp"], 7, "others than its owner can read");
    fs::set_permissions(share, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(share, [&bytes[..40], &[bytes[40] ^ 1], &bytes[41..]].concat()).unwrap();
    host.refuses(&["provider", "test", "corp"], 3, "the kek-share file is damaged");
    fs::remove_file(share).unwrap();
    host.refuses(&["provider", "test", "corp"], 4, "no kek-share file");
}

#[test]
fn native_keys_may_have_a_share_too() {
    let host = Host::configured("");
    let (vm, share) = (host.path("web01"), host.path("config/share"));
    host.run(&["provider", "add", "native", "local", "--kek-share", share]);
    host.run(&["create", vm]);
    host.run(&["check", vm]);
    assert!(host.run(&["provider", "test", "local"]).contains("works"));
    let config = host.path("config/config.toml");
    let text = fs::read_to_string(config).unwrap();
    let (before, after) = text.split_once("kek-share = ").unwrap();
    let rest = after.split_once('\n').unwrap().1;
    fs::write(config, format!("{before}{rest}")).unwrap();
    host.refuses(&["rekey", vm], 5, NOT_THE_SHARE);
    fs::write(config, &text).unwrap();
    host.run(&["rekey", vm]);
    // A name that is taken leaves no share behind.
    host.refuses(
        &["provider", "add", "native", "local", "--kek-share", host.path("other")],
        9,
        "is configured already",
    );
    assert!(!fs::exists(host.path("other")).unwrap());
}
