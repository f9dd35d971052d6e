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
    host.refuses(&retire(&["--datastore", vms]), 2, "may need the key");
    fs::remove_dir_all(host.path("vms/broken")).unwrap();

    host.refuses(&retire(&["--datastore", vms, "--destroy"]), 7, "is active");
    assert!(host.run(&retire(&["--datastore", vms])).contains("taken out of use"));
    assert_eq!(provider.key_state(&old).unwrap(), KeyState::Deactivated);
    assert!(host.run(&retire(&["--datastore", vms])).contains("was out of use before"));
    assert!(host.run(&retire(&["--datastore", vms, "--destroy"])).contains("destroyed"));
    assert_eq!(Trouble::of(&refused(provider.fetch_key(&old))), Some(Trouble::Destroyed));
    assert!(host.run(&retire(&["--datastore", vms, "--destroy"])).contains("was destroyed before"));
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
