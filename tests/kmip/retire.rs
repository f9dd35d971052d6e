//! Keys are retired when nothing needs them any more, and not before.

use std::fs;
use std::sync::Arc;

use vmcryptfs::provider::{KeyState, Trouble};

use crate::fake_server::FakeServer;
use crate::fake_store::Store;
use crate::host::Host;
use crate::mounts::{key_of, make_vm, providers};
use crate::site::{Site, corp, refused};

#[test]
fn a_key_is_retired_when_no_header_names_it() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let host = Host::configured(&providers(&site, &[server.port()], &site.host, ""));
    let provider = corp(&site.path("config.toml")).unwrap();
    ["old", "new"].into_iter().for_each(|name| make_vm(&host, &provider, name, 1));
    let (old, new) = (key_of(&host, "old"), key_of(&host, "new"));
    let vms = host.path("vms");
    let retire = |more: &[&'static str]| [&["provider", "retire", "corp", Box::leak(old.id().into())], more].concat();

    host.refuses(&retire(&["--datastore", vms]), 7, "is needed by");
    host.refuses(&retire(&["--datastore", host.path("config")]), 2, "holds no encrypted VM folder");
    let mount = host.mount("vms", &[]);
    let at = Box::leak(mount.root().display().to_string().into_boxed_str());
    host.refuses(&retire(&["--datastore", at]), 7, "is needed by");
    mount.unmount();
    assert_eq!(provider.key_state(&old).unwrap(), KeyState::Active);

    // Somewhere else it is still needed, which is why every datastore is to be named.
    fs::rename(host.path("vms/old"), host.path("away")).unwrap();
    host.refuses(&retire(&["--datastore", vms, "--datastore", host.path("away")]), 7, "is needed by");
    // A header that cannot be read might name it.
    fs::create_dir(host.path("vms/broken")).unwrap();
    fs::write(host.path("vms/broken/vmcryptfs.home"), "noise").unwrap();
    host.refuses(&retire(&["--datastore", vms]), 3, "may need the key");
    fs::remove_dir_all(host.path("vms/broken")).unwrap();

    host.refuses(&retire(&["--datastore", vms, "--destroy"]), 7, "is active");
    assert!(host.run(&retire(&["--datastore", vms])).contains(": retired"));
    assert_eq!(provider.key_state(&old).unwrap(), KeyState::Deactivated);
    assert!(host.run(&retire(&["--datastore", vms])).contains("already retired"));
    assert!(host.run(&retire(&["--datastore", vms, "--destroy"])).contains("destroyed"));
    assert_eq!(Trouble::of(&refused(provider.fetch_key(&old))), Some(Trouble::Destroyed));
    assert!(host.run(&retire(&["--datastore", vms, "--destroy"])).contains("already destroyed"));
    assert_eq!(provider.key_state(&new).unwrap(), KeyState::Active);

    let events = host.events();
    let retired = events.iter().filter(|event| event["operation"] == "provider-retire" && event["key_id"] == old.id());
    let results: Vec<&str> = retired.map(|event| event["result"].as_str().unwrap()).collect();
    assert_eq!(
        results,
        ["failed", "ok", "ok", "ok", "ok"],
        "what was refused before any key was looked at is no event"
    );
}

#[test]
fn a_key_is_needed_under_whatever_name() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let server = FakeServer::start(&site, &store);
    let one = providers(&site, &[server.port()], &site.host, "");
    let again = one.split_once('\n').unwrap().1.replace("[provider.corp]", "[provider.again]");
    let host = Host::configured(&format!("{one}\n{again}"));
    let provider = corp(&site.path("config.toml")).unwrap();
    ["old", "new"].into_iter().for_each(|name| make_vm(&host, &provider, name, 1));
    let (old, new, vms) = (key_of(&host, "old"), key_of(&host, "new"), host.path("vms"));
    assert_eq!((old.id(), new.id()), ("key-0", "key-1"));

    // Another name for the same server, and spellings that it takes for the same key, or may.
    let retire = |name: &str, id: &str| host.try_run(&["provider", "retire", name, id, "--datastore", vms]);
    for (name, id, code, why) in [
        ("again", "key-0", 7, "which names it corp/key-0: that may be the same key"),
        ("corp", "KEY-0", 7, "which names it corp/key-0"),
        ("again", "00key-0 ", 7, "which names it corp/key-0"),
        ("corp", "key-00", 2, "key corp/key-00 is corp/key-0 in the words of its provider"),
        ("again", "key-000", 2, "key again/key-000 is again/key-0 in the words of its provider"),
    ] {
        let refused = retire(name, id);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(code) && said.contains(why), "{name} {id}: {said}");
    }
    let in_use = host.run(&["key", "in-use", "--key", "Key-0", vms]);
    assert!(in_use.contains("old"), "{in_use}");
    assert_eq!(provider.key_state(&old).unwrap(), KeyState::Active);

    // No header gets a spelling that the server does not have.
    let add = ["key", "add", host.path("vms/new"), "--provider", "corp", "--key"];
    host.refuses(&[&add[..], &["key-00"]].concat(), 2, "key corp/key-00 is corp/key-0 in the words of its provider");
    host.run(&[&add[..], &["key-0"]].concat());
}
