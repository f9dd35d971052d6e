//! How quickly what an admin signs is done on other hosts (bench/cluster). Each host has an agent; the admin's verbs are those of programs,
//! without the passphrase of a key's file.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;
use vmcryptfs::cluster::join::{self, NewCluster};
use vmcryptfs::cluster::{KeyFiles, Session};
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::error::Result;
use vmcryptfs::format::cluster::Removal;
use vmcryptfs::key::{KeyId, ProviderName};
use vmcryptfs::provider::agent::client::AgentClient;
use vmcryptfs::provider::agent::{Answer, Request};
use vmcryptfs::provider::kind::Arguments;
use vmcryptfs::provider::kinds::KINDS;
use vmcryptfs::provider::{NewKey, Providers};
use vmcryptfs::timestamp::Timestamp;

use crate::etcd::{Etcd, MEMBERS};
use crate::hosts::{Host, name};

const PATIENCE: Duration = Duration::from_secs(120);
/// How often a host joins and is removed.
const ROUNDS: usize = 50;
/// Between two looks at whether it is done.
const INTERVAL: Duration = Duration::from_millis(5);

/// A cluster whose first host shares the provider `shared`, which it has in a file.
struct Cluster<'e> {
    etcd: Option<&'e Etcd>,
    first: Host,
    admin: SigningKey,
    provider: ProviderName,
}

impl<'e> Cluster<'e> {
    /// `board` is the address of its board; one on etcd is that of `etcd`.
    fn new(board: &str, etcd: Option<&'e Etcd>) -> Self {
        let (admin, provider) = (SigningKey::generate().unwrap(), ProviderName::new("shared").unwrap());
        let cluster = Self { etcd, first: host(etcd), admin, provider };
        let (name, host, config) = (name("prod"), name("h1"), cluster.first.config());
        NewCluster { name: &name, host: &host, board, config: &config }.create(&cluster.admin).unwrap();
        vmcryptfs::provider::add(&config, &cluster.provider, KINDS[0].name(), &Arguments::default(), false).unwrap();
        cluster.session().share(cluster.admins(), &cluster.provider).unwrap();
        cluster.first.sync();
        cluster
    }

    fn session(&self) -> Session {
        self.first.session().unwrap()
    }

    fn admins(&self) -> &[SigningKey] {
        slice::from_ref(&self.admin)
    }

    fn ask(&self, host: &Host, called: &str) {
        let token = self.session().token(self.admins()).unwrap();
        join::ask(&host.config(), &token, &name(called)).unwrap();
    }

    fn approve(&self, called: &str) {
        self.session().approve(self.admins(), called, Timestamp::now()).unwrap();
    }

    fn remove(&self, called: &str) {
        let config = self.first.config();
        self.session().remove(&KeyFiles { config: &config }, self.admins(), &name(called), Removal::default()).unwrap();
    }

    fn new_key(&self, host: &Host) -> KeyId {
        let provider = Providers::load(&host.config()).unwrap().provider(&self.provider).unwrap();
        provider.create_key(&NewKey { vm_name: "vm".into(), vm_uuid: Uuid::nil() }).unwrap().0
    }

    /// Waits until all active hosts have said that they have the newest key.
    fn await_all(&self) {
        let mut left: Vec<_> = self.session().document().active().cloned().collect();
        await_that(|| {
            // It ends each time, or the first host's agent would wait for it.
            let session = self.session();
            let newest = session.document().providers[0].newest().primary;
            left.retain(|member| !session.ack_of(member).unwrap().is_some_and(|ack| ack.holds.contains(&newest)));
            left.is_empty()
        });
    }
}

fn host(etcd: Option<&Etcd>) -> Host {
    etcd.map_or_else(|| Host::configured(""), |etcd| Host::new(etcd, "host1"))
}

fn await_that(mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "it is not done");
        thread::sleep(INTERVAL);
    }
}

fn fetch(host: &Host, key: &KeyId) -> Result<()> {
    Providers::load(&host.config())?.provider(key.provider())?.fetch_key(key).map(drop)
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
    println!("{what}: median {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, of {}", at(50), at(90), at(99), times.len());
}

/// A host joins and is removed again and again.
fn come_and_go(board: &str, cluster: &Cluster<'_>, rounds: usize) {
    let second = host(cluster.etcd);
    let agent = AgentClient::of(&second.config()).unwrap();
    let key = cluster.new_key(&cluster.first);
    let (mut joined, mut removed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        cluster.ask(&second, "h2");
        let begun = Instant::now();
        cluster.approve("h2");
        await_that(|| fetch(&second, &key).is_ok());
        joined.push(begun.elapsed());
        cluster.await_all();
        let begun = Instant::now();
        cluster.remove("h2");
        await_that(|| {
            let Answer::Status(status) = agent.ask(&Request::Status).unwrap() else { panic!("no status") };
            status.holds.is_empty()
        });
        removed.push(begun.elapsed());
    }
    print(&format!("{board}: from the beginning of `approve` until the agent gives a VM's key"), joined);
    print(&format!("{board}: from the beginning of `remove` until the agent has wiped the key"), removed);
}

/// A provider of a cluster with this number of hosts gets new keys.
fn rotate(board: &str, cluster: &Cluster<'_>, count: usize, rounds: usize) {
    let hosts: Vec<(String, Host)> = (1..count).map(|number| (format!("host{number}"), host(cluster.etcd))).collect();
    for (called, host) in &hosts {
        cluster.ask(host, called);
        cluster.approve(called);
    }
    cluster.await_all();
    let config = cluster.first.config();
    let rotate = |_| {
        let begun = Instant::now();
        cluster.session().rotate(&KeyFiles { config: &config }, cluster.admins(), &cluster.provider, false).unwrap();
        cluster.await_all();
        begun.elapsed()
    };
    let times = (0..rounds).map(rotate).collect();
    print(
        &format!("{board}, {count} hosts: from the beginning of `rotate` until all have said that they have the key"),
        times,
    );
}

/// An etcd, and the address of a board on it.
fn on_etcd() -> (Etcd, String) {
    let etcd = Etcd::start().with_users();
    let members: Vec<String> = (0..MEMBERS).map(|member| etcd.client(member)).collect();
    (etcd, format!("etcd:{}", members.join(",")))
}

/// A folder, and the address of a board in it.
fn on_folder() -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let board = format!("folder:{}", folder.path().to_str().unwrap());
    (folder, board)
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn hosts_come_and_go_on_etcd() {
    let (etcd, board) = on_etcd();
    come_and_go("etcd", &Cluster::new(&board, Some(&etcd)), ROUNDS);
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn hosts_come_and_go_on_a_folder() {
    let (_folder, board) = on_folder();
    come_and_go("folder", &Cluster::new(&board, None), ROUNDS);
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn keys_of_a_thousand_vms_come_from_the_agent() {
    let (_folder, board) = on_folder();
    let (cluster, second) = (Cluster::new(&board, None), host(None));
    cluster.ask(&second, "h2");
    cluster.approve("h2");
    cluster.await_all();
    let keys: Vec<KeyId> = (0..1000).map(|_| cluster.new_key(&second)).collect();
    let unlock = |_| {
        let providers = Providers::load(&second.config()).unwrap();
        let begun = Instant::now();
        assert!(providers.fetch_all(keys.clone()).values().all(Result::is_ok));
        begun.elapsed()
    };
    print("the keys of 1,000 VMs through the agent", (0..20).map(unlock).collect());
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn a_hundred_hosts_get_the_next_key_on_etcd() {
    let (etcd, board) = on_etcd();
    rotate("etcd", &Cluster::new(&board, Some(&etcd)), 100, 5);
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn a_hundred_hosts_get_the_next_key_on_a_folder() {
    let (_folder, board) = on_folder();
    rotate("folder", &Cluster::new(&board, None), 100, 5);
}
