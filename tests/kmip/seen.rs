//! Older headers that are put back, noticed by hosts that never saw the newer ones: the key server remembers those.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::sync::Arc;

use uuid::Uuid;
use vmcryptfs::provider::Providers;

use crate::fake_server::FakeServer;
use crate::fake_store::Store;
use crate::host::Host;
use crate::mounts::providers;
use crate::site::{Site, key_id};

const ATTRIBUTE: &str = "x-vmcryptfs-seen-";

/// What the server remembers of components, by key.
fn remembered(store: &Store) -> Vec<BTreeMap<String, String>> {
    let of_key = |custom: &BTreeMap<String, String>| {
        let seen = custom.iter().filter(|(name, _)| name.starts_with(ATTRIBUTE));
        seen.map(|(name, text)| (name.clone(), text.clone())).collect()
    };
    store.keys.lock().iter().map(|key| of_key(&key.custom)).collect()
}

fn only(seen: &BTreeMap<String, String>) -> &str {
    assert_eq!(seen.len(), 1, "{seen:?}");
    seen.values().next().unwrap()
}

#[test]
fn a_host_that_never_saw_the_newer_header_is_told_by_the_key_server() {
    for version in ["1.4", "2.1"] {
        let (site, store) = (Site::new(), Arc::new(Store::default()));
        let server = FakeServer::start(&site, &store);
        let config = providers(&site, &[server.port()], &site.host, &format!("versions = [\"{version}\"]"));
        let [first, second, third] = [(); 3].map(|()| Host::configured(&config));
        let (vm, header) = (first.path("web01"), first.path("web01/vmcryptfs.home"));
        first.run(&["create", vm]);
        let original = fs::read(header).unwrap();
        first.run(&["disk-names", vm, "--add", "*.x"]);
        let text = only(&remembered(&store)[0]).to_owned();
        assert!(text.starts_with("1:0:3:14:"), "{version}: {text}");
        let updated = fs::read(header).unwrap();
        let asked = server.requests();
        assert!(
            second
                .run(&["check", vm])
                .contains("what the server of key corp/key-0 remembers, generation 0, sequence 3")
        );
        assert_eq!(server.requests() - asked, 3, "{version}: versions, the key, its attributes");

        fs::write(header, &original).unwrap();
        third.refuses(&["check", vm], 10, "a problem");
        third.refuses(&["rekey", vm], 10, "the server of key corp/key-0 remembers generation 0, sequence 3");
        let mount = third.mount(vm, &[]);
        let made = File::create(mount.path("new")).map_err(|error| error.kind());
        assert_eq!(made.err(), Some(ErrorKind::ReadOnlyFilesystem), "{version}");
        mount.unmount();
        assert_eq!(only(&remembered(&store)[0]), text, "{version}: what is older lowers nothing");

        third.run(&["accept-rollback", vm]);
        assert!(only(&remembered(&store)[0]).starts_with("1:0:1:"), "{version}");
        Host::configured(&config).run(&["check", vm]);
        fs::write(header, &updated).unwrap();
        third.run(&["check", vm]);
        assert_eq!(only(&remembered(&store)[0]), text, "{version}: the newer one counts again");

        // The key that a rekey has taken away opens the header of before, and says that it is old.
        third.run(&["rekey", vm]);
        let newest = remembered(&store);
        assert_eq!(only(&newest[0]), only(&newest[1]), "{version}");
        fs::write(header, &updated).unwrap();
        Host::configured(&config).refuses(&["rekey", vm], 10, "remembers generation 0, sequence 5");
    }
}

#[test]
fn a_host_that_never_saw_the_newer_list_of_disks_is_told_by_the_key_server() {
    let (site, store) = (Site::new(), Arc::new(Store::default()));
    let server = FakeServer::start(&site, &store);
    let config = providers(&site, &[server.port()], &site.host, "");
    let [first, second] = [(); 2].map(|()| Host::configured(&config));
    let vm = first.path("web01");
    first.run(&["create", vm]);
    assert!(remembered(&store)[0].is_empty());
    let names = fs::read_dir(vm).unwrap().map(|entry| entry.unwrap().path());
    let list = names.into_iter().find(|path| path.to_string_lossy().contains("/.vmcryptfs-members-")).unwrap();
    let original = fs::read(&list).unwrap();
    first.run(&["create-disk", first.path("web01/a.raw"), "--size", "1M"]);
    assert!(!remembered(&store)[0].is_empty());
    fs::remove_file(first.path("web01/a.raw")).unwrap();
    let newest = fs::read(&list).unwrap();
    fs::write(&list, &original).unwrap();
    let create = ["create-disk", first.path("web01/b.raw"), "--size", "1M"];
    second.refuses(&create, 10, "the list of its disks: the server of key corp/key-0 remembers sequence");
    fs::write(&list, &newest).unwrap();
    second.refuses(&["check", vm], 3, "1 of 2 components has a problem"); // a.raw is missing, and the list is the newest
    fs::write(&list, &original).unwrap();
    second.run(&["accept-rollback", vm]);
    second.run(&create);
    Host::configured(&config).run(&["check", vm]);
}

#[test]
fn hosts_that_store_at_once_lower_nothing_and_lose_no_component() {
    let (site, store) = (Site::new(), Arc::new(Store::default()));
    let server = FakeServer::start(&site, &store);
    let id = site.provider(&[server.port()], "").create_key(&crate::site::purpose()).unwrap().0;
    assert_eq!(id, key_id("key-0"));
    let config = site.configure(&[server.port()], &site.host, "");
    let later = |number: u32| move |there: &str| there.parse::<u32>().unwrap() < number;
    std::thread::scope(|scope| {
        for component in 1..5 {
            let (id, config) = (&id, &config);
            scope.spawn(move || {
                let memory = Providers::load(config).unwrap().fetch(id).unwrap().shared_memory().unwrap();
                for number in [3, 9, 4, 8] {
                    memory.store(Uuid::from_u128(component), &number.to_string(), &later(number)).unwrap();
                }
            });
        }
    });
    let seen = remembered(&store).remove(0);
    assert_eq!(seen.values().collect::<Vec<_>>(), ["9"; 4], "{seen:?}");
}
