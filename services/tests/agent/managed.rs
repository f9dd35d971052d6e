//! Managed providers: the keys of a cluster in the memory of an agent, and the mounts that need them.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use uuid::Uuid;
use vmcryptfs::cluster::admin_key;
use vmcryptfs::cluster::host::HostFiles;
use vmcryptfs::cluster::join::NewCluster;
use vmcryptfs::crypto::passphrase::Cost;
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::format::cluster::Name;
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::primary_key::primary_of;
use vmcryptfs::provider::{NewKey, Providers};

use crate::host::{Host, Mount};
use crate::process::Agent;

/// Two hosts of a cluster that share the provider `shared`, whose key the first one has in a file.
struct Site {
    first: Host,
    second: Host,
}

impl Site {
    /// The second host has asked to join; the VM folder `web01` of the first has a disk that begins with sevens.
    fn new() -> Self {
        let site = Self { first: Host::configured(""), second: Host::configured("") };
        let first = &site.first;
        fs::create_dir(first.path("board")).unwrap();
        fs::write(first.path("passphrase"), "correct horse\n").unwrap();
        // A passphrase that costs nothing to try, unlike those of `cluster init`.
        let (admin, cost) = (SigningKey::generate().unwrap(), Cost { memory_kib: 32, passes: 1, lanes: 4 });
        admin_key::create(Path::new(first.path("admin.key")), &admin, b"correct horse", cost).unwrap();
        let (name, host) = (Name::new("cluster", "prod").unwrap(), Name::new("host", "kvm1").unwrap());
        let board = format!("folder:{}", first.path("board"));
        let new = NewCluster { name: &name, host: &host, board: &board, config: &first.config() };
        new.create(&admin).unwrap();
        first.run(&["provider", "add", "native", "shared"]);
        site.admin(&["share", "shared"]);
        first.run(&["create", first.path("web01")]);
        for disk in ["root.raw", "data.raw"] {
            let disk = format!("web01/{disk}");
            first.run(&["create-disk", first.path(&disk), "--size", "1M"]);
        }
        let mount = first.mount("web01", &[]);
        fs::write(mount.path("root.raw"), [7; 4096]).unwrap();
        mount.unmount();
        site.join("kvm2");
        site
    }

    /// The second host asks to join.
    fn join(&self, name: &str) {
        fs::write(self.second.path("token"), self.admin(&["token"])).unwrap();
        self.second.run(&["cluster", "join", "--token-file", self.second.path("token"), "--name", name]);
    }

    fn admin(&self, verb: &[&str]) -> String {
        let first = &self.first;
        let key = ["--admin-key", first.path("admin.key"), "--passphrase-file", first.path("passphrase")];
        first.run(&[&["cluster"], verb, &key].concat())
    }

    /// The second host is a member, and its agent has the key.
    fn with_agent(&self) -> Agent {
        let agent = Agent::start(&self.second);
        self.admin(&["approve", "kvm2"]);
        let said = self.second.run(&["cluster", "sync"]);
        let received = self.events_of("cluster-sync").iter().any(|reason| reason.contains("received primary key"));
        assert!(received && said.contains("document"), "{said}");
        agent
    }

    fn events_of(&self, operation: &str) -> Vec<String> {
        let events = self.second.events().into_iter().filter(|event| event["operation"] == operation);
        events.map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
    }

    fn state(&self, host: &str) -> String {
        self.status_of(host)["state"].as_str().unwrap().to_owned()
    }

    fn status_of(&self, host: &str) -> Value {
        let status: Value = serde_json::from_str(&self.first.run(&["cluster", "status", "--json"])).unwrap();
        let hosts = status["hosts"].as_array().unwrap();
        hosts.iter().find(|found| found["name"] == host).unwrap().clone()
    }

    /// A mount of the VM on the second host.
    fn mount(&self) -> Mount<'_> {
        self.second.mount(self.first.path("web01"), &[])
    }
}

fn locked(mount: &Mount<'_>) -> Vec<(String, bool)> {
    let status = mount.status();
    let components = status["components"].as_array().unwrap().iter();
    let mut found: Vec<_> = components
        .map(|component| (component["path"].as_str().unwrap().to_owned(), component["unlocked"] == false))
        .collect();
    found.sort();
    found
}

/// Waits until something is so; a test that waits for longer than the slowest machine takes has failed.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn files_below(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(path.to_str().unwrap()) } else { vec![path] }).collect()
}

#[test]
fn a_vm_opens_by_the_agent_which_has_the_key_in_memory_only_and_again_after_a_restart_without_its_board() {
    let site = Site::new();
    let second = &site.second;
    let agent = site.with_agent();
    assert_eq!(site.state("kvm2"), "ready");
    let listed: Value = serde_json::from_str(&second.run(&["provider", "list", "--json"])).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["kind"]), (&"shared".into(), &"managed".into()), "{listed}");
    let mount = site.mount();
    assert_eq!(fs::read(mount.path("root.raw")).unwrap()[..4096], [7; 4096]);
    mount.unmount();
    // What it makes opens on the other host.
    second.run(&["create", site.first.path("web02")]);
    site.first.run(&["check", site.first.path("web02")]);
    let tested = second.run(&["provider", "test", "shared"]);
    assert!(tested.contains("it is in the cluster prod, document") && tested.contains("shared: works"), "{tested}");

    let primary = fs::read(site.first.path("config/keys/shared.key")).unwrap()[32..64].to_vec();
    for file in files_below(second.path("config")).iter().filter(|path| !path.ends_with("agent.sock")) {
        let bytes = fs::read(file).unwrap();
        assert!(!bytes.windows(32).any(|window| *window == primary), "{}", file.display());
    }
    let took = a_thousand_keys(second);
    assert!(took < Duration::from_secs(10), "{took:?}, and a build that is not optimised takes a second");

    // The cluster gets another primary key: new keys are made by it, and the former one opens what it made.
    let before = primary_of(&a_key(second)).unwrap();
    site.admin(&["rotate", "shared"]);
    second.run(&["cluster", "sync"]);
    let after = a_key(second);
    assert_ne!(primary_of(&after).unwrap(), before);
    second.run(&["create", site.first.path("web03")]);

    agent.end(Signal::KILL);
    fs::rename(site.first.path("board"), site.first.path("away")).unwrap();
    let _agent = Agent::start(second);
    second.run(&["check", site.first.path("web01")]);
    second.run(&["check", site.first.path("web03")]);
    assert_eq!(primary_of(&a_key(second)).unwrap(), primary_of(&after).unwrap());
    second.refuses(&["cluster", "sync"], 8, "is its file system mounted?");
}

fn make_key(providers: &Providers) -> KeyId {
    let provider = providers.provider(&ProviderName::new("shared").unwrap()).unwrap();
    provider.create_key(&NewKey { vm_name: "vm".into(), vm_uuid: Uuid::nil() }).unwrap().0
}

/// A new key of the shared provider.
fn a_key(host: &Host) -> KeyId {
    make_key(&Providers::load(&host.config()).unwrap())
}

/// Makes a thousand keys, and returns how long it takes to fetch all of them as a mount of a datastore does.
fn a_thousand_keys(host: &Host) -> Duration {
    let providers = Providers::load(&host.config()).unwrap();
    let ids: Vec<KeyId> = (0..1000).map(|_| make_key(&providers)).collect();
    let begun = Instant::now();
    let fetched = providers.fetch_all(ids);
    assert!(fetched.len() == 1000 && fetched.values().all(Result::is_ok));
    begun.elapsed()
}

#[test]
fn a_mount_goes_on_while_the_agent_is_stopped_or_gone_and_unlocks_when_it_is_back() {
    let site = Site::new();
    let agent = site.with_agent();
    let running = site.mount();
    let disk = File::open(running.path("root.raw")).unwrap();
    let mut first = [0; 4096];
    agent.signal(Signal::STOP);
    let begun = Instant::now();
    let late = site.mount();
    site.second.refuses(&["check", site.first.path("web01")], 4, "of 3 components have a problem");
    let test = site.second.try_run(&["provider", "test", "shared"]);
    let said = String::from_utf8_lossy(&test.stderr);
    assert!(test.status.code() == Some(4) && said.contains("it does not answer: is it stopped?"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(locked(&late).iter().all(|(_, locked)| *locked), "{:?}", late.status());
    disk.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [7; 4096]);

    agent.signal(Signal::CONT);
    let at = late.root().to_str().unwrap().to_owned();
    wait_until("unlocked by the agent that goes on", || {
        site.second.try_run(&["unlock", &at]); // a mount tries by itself as well, every ten seconds
        locked(&late).iter().all(|(_, locked)| !locked)
    });
    late.unmount();

    wait_until("it says that it runs", || site.status_of("kvm2")["agent"] == env!("CARGO_PKG_VERSION"));
    assert_eq!(site.status_of("kvm1")["agent"], Value::Null);
    agent.end(Signal::TERM);
    assert_eq!(site.status_of("kvm2")["agent"], Value::Null);
    let late = site.mount();
    assert!(locked(&late).iter().all(|(_, locked)| *locked));
    let reason = late.status()["components"][0]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("it does not run: start vmcryptfs-agent"), "{reason}");
    disk.read_exact_at(&mut first, 0).unwrap();
    let _agent = Agent::start(&site.second);
    let at = late.root().to_str().unwrap().to_owned();
    site.second.run(&["unlock", &at]);
    assert!(locked(&late).iter().all(|(_, locked)| !locked));
    late.unmount();
    drop(disk);
    running.unmount();
}

#[test]
fn the_agent_of_a_host_that_was_removed_wipes_the_keys_and_locks_what_is_closed() {
    let site = Site::new();
    let agent = site.with_agent();
    let mount = site.mount();
    let disk = File::open(mount.path("root.raw")).unwrap();
    assert!(locked(&mount).iter().all(|(_, locked)| !locked));

    let mut kept = File::open(site.second.path("config/host/envelopes.json")).unwrap();
    site.admin(&["remove", "kvm2", "--evict"]);
    wait_until("wiped, without a word from anyone", || site.state("kvm2") == "wiped");
    wait_until("what is closed is locked", || locked(&mount).contains(&("data.raw".to_owned(), true)));
    let mut left = Vec::new();
    kept.read_to_end(&mut left).unwrap();
    assert!(left.iter().all(|byte| *byte == 0) && !left.is_empty(), "the envelope was not overwritten");
    let mut first = [0; 4096];
    disk.read_exact_at(&mut first, 0).unwrap();
    assert_eq!(first, [7; 4096], "a guest that runs goes on");
    // What is gone decides, not what an agent remembers, or whether it reaches the board.
    agent.end(Signal::KILL);
    fs::rename(site.first.path("board"), site.first.path("away")).unwrap();
    let _agent = Agent::start(&site.second);
    drop(disk);
    wait_until("all is locked once it is closed", || locked(&mount).iter().all(|(_, locked)| *locked));
    let said = site.second.try_run(&["provider", "test", "shared"]);
    assert_eq!(said.status.code(), Some(4), "{said:?}");
    mount.unmount();
    let kept = fs::read_to_string(site.second.path("config/host/envelopes.json")).unwrap();
    assert!(!kept.contains("shared"), "{kept}");
    assert_eq!(site.events_of("cluster-sync").iter().filter(|reason| reason.starts_with("wiped")).count(), 1);
    let evicted = "its guests have to end: stop them";
    let is_told = |event: &Value| event.to_string().contains(evicted);
    assert_eq!(site.second.events().iter().filter(|event| is_told(event)).count(), 2, "once by each agent");
}

#[test]
fn the_keys_that_came_to_a_host_before_it_joined_again_are_forgotten_at_once() {
    let site = Site::new();
    let (second, vm) = (&site.second, site.first.path("web01"));
    let _agent = site.with_agent();
    let mount = site.mount();
    // The agent need not have seen that its host was removed.
    site.admin(&["remove", "kvm2"]);
    site.join("kvm2");
    assert_eq!(site.state("kvm2"), "wiped");
    second.refuses(&["check", vm], 4, "of 3 components have a problem");
    site.admin(&["approve", "kvm2"]);
    second.run(&["cluster", "sync"]);
    second.run(&["check", vm]);

    // Nobody tells it that its host leaves the cluster.
    fs::remove_dir_all(second.path("config/host")).unwrap();
    second.refuses(&["check", vm], 4, "of 3 components have a problem");
    wait_until("what is closed is locked", || locked(&mount).iter().all(|(_, locked)| *locked));
    site.join("kvm3");
    second.refuses(&["check", vm], 4, "of 3 components have a problem");
    let is_told = |reason: &String| reason.contains("it came to this host before it left its cluster or joined again");
    assert_eq!(site.events_of("cluster-sync").iter().filter(|reason| is_told(reason)).count(), 1);
    site.admin(&["approve", "kvm3"]);
    second.run(&["cluster", "sync"]);
    second.run(&["check", vm]);
    mount.unmount();
}

#[test]
fn envelopes_that_are_damaged_are_set_aside_and_come_again_from_the_board() {
    let site = Site::new();
    let (second, vm) = (&site.second, site.first.path("web01"));
    site.with_agent().end(Signal::KILL);
    let (kept, aside) = (second.path("config/host/envelopes.json"), second.path("config/host/envelopes.json.damaged"));
    let text = fs::read_to_string(kept).unwrap();
    fs::write(kept, &text[..text.len() / 2]).unwrap();
    let _agent = Agent::start(second);
    second.run(&["cluster", "sync"]);
    second.run(&["check", vm]);
    assert_eq!(fs::read_to_string(kept).unwrap(), text);
    assert_eq!(fs::read_to_string(aside).unwrap(), text[..text.len() / 2]);
    let is_told =
        |event: &Value| event["operation"] == "agent" && event.to_string().contains("envelopes.json is damaged");
    assert_eq!(second.events().iter().filter(|event| is_told(event)).count(), 1);
    site.admin(&["remove", "kvm2"]);
    second.run(&["cluster", "sync"]);
    assert!(!Path::new(aside).exists(), "envelopes of keys that have to go may be in it");
}

#[test]
fn a_host_that_does_not_reach_its_board_for_too_long_forgets_the_keys_until_it_does() {
    let site = Site::new();
    let (second, vm) = (&site.second, site.first.path("web01"));
    let agent = site.with_agent();
    let config = fs::read_to_string(second.config()).unwrap();
    fs::write(second.config(), format!("{config}\n[agent]\nmax-offline = \"1s\"\n")).unwrap();
    second.run(&["check", vm]);
    wait_until("it stores when it reached the board", || Path::new(second.path("config/host/reached-board")).exists());
    let (board, away) = (site.first.path("board"), site.first.path("away"));
    fs::rename(board, away).unwrap();
    wait_until("it forgets the keys", || second.try_run(&["check", vm]).status.code() == Some(4));
    let is_told = |reason: String| reason.contains("longer than max-offline");
    assert!(site.events_of("cluster-sync").into_iter().any(is_told));
    fs::rename(away, board).unwrap();
    second.run(&["cluster", "sync"]);
    second.run(&["check", vm]);
    // A program that hangs at the board with the host locked does not keep the agent from forgetting.
    let locked = HostFiles::of(&second.config()).lock().unwrap();
    wait_until("it forgets the keys while it waits", || second.try_run(&["check", vm]).status.code() == Some(4));
    drop(locked);
    second.run(&["cluster", "sync"]);
    second.run(&["check", vm]);
    // An agent that begins without the board does not know that it was there in the meantime.
    agent.end(Signal::KILL);
    fs::rename(board, away).unwrap();
    let reached = second.path("config/host/reached-board");
    assert!(fs::read_to_string(reached).unwrap().starts_with("20"));
    fs::write(reached, "2001-01-01T00:00:00Z\n").unwrap();
    let _agent = Agent::start(second);
    assert_eq!(second.try_run(&["check", vm]).status.code(), Some(4));
}
