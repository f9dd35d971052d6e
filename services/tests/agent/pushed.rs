//! KEKs of a key server that a keeper pushes to a host without its credentials: real agents, a real key server.

use std::cell::RefCell;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use vmcryptfs::cluster::admin_key;
use vmcryptfs::cluster::join::NewCluster;
use vmcryptfs::crypto::passphrase::Cost;
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::format::cluster::Name;
use vmcryptfs::key::{KeyId, KeyName};
use vmcryptfs::provider::agent::client::AgentClient;
use vmcryptfs::provider::agent::{AgentStatus, Answer, Request};
use vmcryptfs::provider::{KeyProvider, NewKey, Providers, Revocation};

use crate::host::Host;
use crate::process::Agent;
use crate::pykmip::PyKmip;
use crate::site::{Site as Servers, corp};
use crate::tpm::Emulator;

/// A key server, a keeper, and a host without credentials, each with its agent.
struct Site {
    /// Its folder has the certificates.
    servers: Servers,
    kmip: PyKmip,
    keeper: Host,
    host: Host,
    /// The configuration of the keeper's provider.
    credentials: String,
    keeper_agent: Option<Agent>,
    host_agent: Option<Agent>,
}

impl Site {
    /// The keeper shares `corp`, and the VM `web01` has a key of it.
    fn new(life: &str) -> Self {
        Self::sharing(&["--life", life], "")
    }

    /// The same, with options of `share`, and this in the configuration of the host without credentials.
    fn sharing(options: &[&str], of_host: &str) -> Self {
        let servers = Servers::new();
        let kmip = PyKmip::start(&servers, "one");
        let corp =
            servers.configure(&[kmip.port()], &servers.host, "connect-timeout-ms = 500\nrequest-timeout-ms = 2000\n");
        let credentials = fs::read_to_string(corp).unwrap();
        let (keeper, host) = (Host::configured(&credentials), Host::configured(of_host));
        fs::create_dir(keeper.path("board")).unwrap();
        fs::write(keeper.path("passphrase"), "correct horse\n").unwrap();
        let (admin, cost) = (SigningKey::generate().unwrap(), Cost { memory_kib: 32, passes: 1, lanes: 4 });
        admin_key::create(Path::new(keeper.path("admin.key")), &admin, b"correct horse", cost).unwrap();
        let (name, first) = (Name::new("cluster", "prod").unwrap(), Name::new("host", "kvm1").unwrap());
        let board = format!("folder:{}", keeper.path("board"));
        NewCluster { name: &name, host: &first, board: &board, config: &keeper.config() }.create(&admin).unwrap();
        let mut site = Self { servers, kmip, keeper, host, credentials, keeper_agent: None, host_agent: None };
        site.admin(&[&["share", "corp"], options].concat());
        site.join(&site.host, "kvm2");
        site.keeper_agent = Some(Agent::start(&site.keeper));
        site.host_agent = Some(Agent::start(&site.host));
        site.keeper.run(&["cluster", "sync"]);
        site.host.run(&["cluster", "sync"]);
        site.keeper.run(&["create", site.keeper.path("web01"), "--provider", "corp"]);
        site
    }

    fn admin(&self, verb: &[&str]) -> String {
        let key = ["--admin-key", self.keeper.path("admin.key"), "--passphrase-file", self.keeper.path("passphrase")];
        self.keeper.run(&[&["cluster"], verb, &key].concat())
    }

    fn join(&self, host: &Host, name: &str) {
        fs::write(host.path("token"), self.admin(&["token"])).unwrap();
        host.run(&["cluster", "join", "--token-file", host.path("token"), "--name", name]);
        self.admin(&["approve", name]);
    }

    /// A host that has none gets the credentials of the key server, as CLUSTER.md says.
    fn give_credentials(&self, host: &Host) {
        let server = format!("127.0.0.1:{}", self.kmip.port());
        let (ca, own) = (self.servers.ca.cert(), &self.servers.host);
        let files = [("--ca", ca), ("--cert", own.cert.clone()), ("--key", own.key.clone())];
        let files = files.iter().flat_map(|(option, file)| [*option, file.to_str().unwrap()]);
        let verb: Vec<&str> =
            ["provider", "add", "kmip", "corp", "--server", &server].into_iter().chain(files).collect();
        host.run(&verb);
    }

    /// The provider, as programs of the keeper have it.
    fn direct(&self) -> std::sync::Arc<dyn KeyProvider> {
        corp(&self.keeper.config()).unwrap()
    }

    /// The provider, as programs of the other host have it.
    fn managed(&self) -> std::sync::Arc<dyn KeyProvider> {
        corp(&self.host.config()).unwrap()
    }

    fn pushes(&self) -> Vec<Value> {
        pushes(&self.keeper)
    }

    fn refused(&self, id: &KeyId) -> String {
        self.managed().fetch_key(id).map(drop).unwrap_err().chain()
    }
}

/// What a keeper says of each key that it gave, or refused.
fn pushes(keeper: &Host) -> Vec<Value> {
    let text = fs::read_to_string(keeper.path("events-reads.jsonl")).unwrap_or_default();
    let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["operation"] == "cluster-push").collect()
}

/// What the agent of a host says of itself.
fn status(host: &Host) -> AgentStatus {
    let agent = AgentClient::of(&host.config()).unwrap();
    let Ok(Answer::Status(status)) = agent.ask(&Request::Status) else { panic!("no status") };
    status
}

fn purpose() -> NewKey {
    NewKey { vm_name: "web09".into(), vm_uuid: uuid::Uuid::from_u128(9) }
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_host_without_credentials_opens_and_makes_vms_by_a_keeper() {
    let site = Site::new("72h");
    let (keeper, host) = (&site.keeper, &site.host);
    host.run(&["check", keeper.path("web01")]);
    let config = fs::read_to_string(host.config()).unwrap();
    assert!(config.contains("[provider.corp]\nkind = \"managed\"") && !config.contains("kms"), "{config}");
    host.run(&["create", keeper.path("web02"), "--provider", "corp"]);
    keeper.run(&["check", keeper.path("web02")]);
    let tested = host.run(&["provider", "test", "corp"]);
    assert!(tested.contains("corp: works. A keeper has asked its key server"), "{tested}");
    // The keeper's word on each: for whom, by which key, and what vSphere calls what was not there.
    let pushes = site.pushes();
    let sealed = |event: &&Value| event["reason"].as_str().unwrap().contains("sealed to host kvm2");
    assert_eq!(pushes.iter().filter(sealed).count(), 2, "{pushes:?}");
    let missing = "com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS";
    assert!(pushes.iter().any(|event| event["vsphere_event"] == missing), "{pushes:?}");
    let status: Value = serde_json::from_str(&keeper.run(&["cluster", "status", "--json"])).unwrap();
    assert_eq!((&status["pushed"][0]["name"], &status["pushed"][0]["keepers"][0]), (&"corp".into(), &"kvm1".into()));
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{status}");
    let in_use: Value =
        serde_json::from_str(&keeper.run(&["key", "in-use", "--provider", "corp", keeper.path(""), "--json"])).unwrap();
    assert_eq!(in_use["components"][0]["hosts"].as_array().unwrap().len(), 2, "{in_use}");

    // With no keeper there, what came before opens, and what is new is refused in seconds, with what to do.
    let new = site.direct().create_key(&purpose()).unwrap().0;
    site.keeper_agent.as_ref().unwrap().signal(Signal::STOP);
    host.run(&["check", keeper.path("web01")]);
    let begun = Instant::now();
    let said = site.refused(&new);
    assert!(said.contains("no answer from kvm1, keepers of provider corp"), "{said}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
    site.keeper_agent.as_ref().unwrap().signal(Signal::CONT);
    site.managed().fetch_key(&new).unwrap();
}

#[test]
fn two_keepers_make_one_key_and_one_goes_on_without_the_other() {
    let mut site = Site::new("72h");
    // It gets keys at first, and its credentials later.
    let third = Host::configured("");
    site.join(&third, "kvm3");
    let other = Agent::start(&third);
    third.run(&["cluster", "sync"]);
    third.run(&["check", site.keeper.path("web01")]);
    assert_eq!(status(&third).pushed.get("corp"), Some(&1));
    site.give_credentials(&third);
    assert!(fs::read_to_string(third.config()).unwrap().contains("kind = \"kmip\""));
    site.admin(&["share", "corp", "--keeper", "kvm3"]);
    [&third, &site.keeper, &site.host].iter().for_each(|host| _ = host.run(&["cluster", "sync"]));
    let status: Value = serde_json::from_str(&site.keeper.run(&["cluster", "status", "--json"])).unwrap();
    assert_eq!(status["pushed"][0]["keepers"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["problems"], Value::Array(Vec::new()), "{status}");
    let made = |host: &Host| {
        let is_made =
            |event: &&Value| event["reason"].as_str().is_some_and(|reason| reason.starts_with("made for VM web09"));
        pushes(host).iter().filter(is_made).count()
    };
    let ids: Vec<KeyId> = (0..3).map(|_| site.managed().create_key(&purpose()).unwrap().0).collect();
    assert_eq!(made(&site.keeper) + made(&third), ids.len());
    // Whichever of the two is first, the other one answers without it.
    for round in 0..2 {
        let id = site.direct().create_key(&purpose()).unwrap().0;
        let stopped = if round == 0 { site.keeper_agent.as_ref().unwrap() } else { &other };
        stopped.signal(Signal::STOP);
        site.managed().fetch_key(&id).unwrap();
        stopped.signal(Signal::CONT);
    }
    drop(site.keeper_agent.take());
}

#[test]
fn a_keeper_whose_server_is_gone_says_so_and_a_board_that_is_away_is_named() {
    let mut site = Site::new("72h");
    let new = site.direct().create_key(&purpose()).unwrap().0;
    site.kmip.kill();
    let said = site.refused(&new);
    assert!(said.contains("keeper kvm1: ") && said.contains("is unavailable"), "{said}");
    let failed = "com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError";
    assert!(site.pushes().iter().any(|event| event["vsphere_event"] == failed), "{:?}", site.pushes());
    fs::rename(site.keeper.path("board"), site.keeper.path("away")).unwrap();
    // What a program is told then as well, once it has waited.
    wait_until("the board is away", || {
        let trouble = status(&site.host).trouble;
        trouble.iter().any(|why| why.contains("pushed keys: ") && why.contains("is its file system mounted?"))
    });
}

#[test]
fn what_the_key_server_destroys_and_a_host_that_was_removed_loses_its_keys() {
    let site = Site::new("4s");
    let direct = site.direct();
    let (gone, stays) = (direct.create_key(&purpose()).unwrap().0, direct.create_key(&purpose()).unwrap().0);
    let held = |id: &KeyId| Providers::load(&site.host.config()).unwrap().fetch(id).is_ok();
    assert!(held(&gone) && held(&stays));
    direct.revoke_key(&gone, Revocation::Ended).unwrap();
    // A key that is not active opens what it opened, and wraps nothing new.
    wait_until("it wraps nothing", || {
        let kek = site.managed().fetch_key(&gone).unwrap();
        kek.wrap(&vmcryptfs::crypto::random::disk_dek().unwrap()).is_err()
    });
    direct.destroy_key(&gone).unwrap();
    wait_until("a key that was destroyed reaches the host", || !held(&gone));
    assert!(held(&stays), "it was renewed");
    // A keeper that does not answer for as long as a key lives.
    let count = || status(&site.host).pushed.get("corp").copied();
    site.keeper_agent.as_ref().unwrap().signal(Signal::STOP);
    wait_until("keys end with their time", || count() == Some(0));
    site.keeper_agent.as_ref().unwrap().signal(Signal::CONT);
    assert!(held(&stays));

    let mount = site.host.mount(site.keeper.path("web01"), &[]);
    site.admin(&["remove", "kvm2"]);
    wait_until("a removed host has none", || count().is_none());
    let wiped = |event: &Value| {
        event["reason"].as_str().is_some_and(|reason| reason.contains("pushed keys: this host was removed"))
    };
    wait_until("it says so", || site.host.events().iter().any(wiped));
    assert!(!held(&stays));
    mount.unmount();
}

#[test]
fn a_key_server_that_hangs_keeps_no_host_from_the_keys_of_another_one() {
    let site = Site::new("72h");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    silent.set_nonblocking(true).unwrap();
    let (port, its_port) = (site.kmip.port().to_string(), silent.local_addr().unwrap().port().to_string());
    let slow = site.credentials.replace("provider.corp", "provider.slow").replace(&port, &its_port);
    let slow = slow.replace("= 500", "= 30000").replace("= 2000", "= 30000");
    site.keeper.configure(&format!("{}{slow}", site.credentials));
    site.admin(&["share", "slow"]);
    site.host.run(&["cluster", "sync"]);
    let wanted = KeyName { provider: "slow".into(), key_id: "1".into() };
    AgentClient::of(&site.host.config()).unwrap().ask(&Request::Prepare { keys: vec![wanted] }).unwrap();
    let taken = RefCell::new(None);
    wait_until("the server that hangs is asked", || {
        silent.accept().is_ok_and(|connection| taken.replace(Some(connection)).is_none())
    });
    // A program gives up on its keepers after 12 seconds, which is sooner than that server's time is over.
    site.managed().fetch_key(&site.direct().create_key(&purpose()).unwrap().0).unwrap();
}

/// `[agent]` of a host with this TPM.
fn with_tpm(path: &Path) -> String {
    format!("[agent]\ntpm = {path:?}\n")
}

#[test]
fn pushed_keys_are_kept_over_a_restart_by_the_tpm_alone_and_go_with_the_host() {
    let (own, other) = (Emulator::start(), Emulator::start());
    let mut site = Site::sharing(&["--life", "72h", "--persist"], &with_tpm(&own.path()));
    let (vm, kept) = (site.keeper.path("web01"), Path::new(site.host.path("config/host/kept-keks")));
    site.host.run(&["check", vm]);
    wait_until("it is kept", || kept.exists());
    let restart = |site: &mut Site, tpm: &Path| {
        drop(site.host_agent.take());
        let text = fs::read_to_string(site.host.config()).unwrap();
        let lines = text.lines().map(|line| match line.starts_with("tpm = ") {
            true => format!("tpm = {tpm:?}\n"),
            false => format!("{line}\n"),
        });
        crate::datastore::write_config(&site.host.config(), &lines.collect::<String>());
        site.host_agent = Some(Agent::start(&site.host));
    };
    let troubled = |site: &Site, words: &str| status(&site.host).trouble.iter().any(|why| why.contains(words));
    // No keeper is there, as after the lights went out.
    site.keeper_agent.as_ref().unwrap().signal(Signal::STOP);
    restart(&mut site, &own.path());
    site.host.run(&["check", vm]);
    // What was kept came from here, and no other TPM gives it back.
    let sealed = fs::read(kept).unwrap();
    restart(&mut site, &other.path());
    wait_until("it says so", || troubled(&site, "sealed to another TPM"));
    assert_eq!(status(&site.host).pushed.get("corp"), Some(&0));
    site.keeper_agent.as_ref().unwrap().signal(Signal::CONT);
    site.host.run(&["check", vm]);
    wait_until("the other TPM keeps it", || fs::read(kept).is_ok_and(|now| now != sealed));
    // Without a TPM it is in memory only, and that is said.
    restart(&mut site, Path::new("/does/not/exist"));
    site.host.run(&["check", vm]);
    wait_until("it says so", || troubled(&site, "pushed keys are not kept over a restart"));
    // One whose cluster no longer allows it keeps nothing, with a TPM or without one.
    site.admin(&["share", "corp", "--no-persist"]);
    wait_until("it is not allowed", || !kept.exists());
    site.admin(&["share", "corp", "--persist"]);
    restart(&mut site, &own.path());
    site.host.run(&["check", vm]);
    wait_until("it is kept again", || kept.exists());
    // Nor does a host that was removed while its agent was off.
    drop(site.host_agent.take());
    site.admin(&["remove", "kvm2"]);
    site.host.run(&["cluster", "sync"]);
    assert!(!kept.exists());
}
