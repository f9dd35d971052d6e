//! How quickly what an admin signs is done on another host (bench/cluster). That host watches its board and acts, as an agent does.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::path::Path;
use std::time::{Duration, Instant};

use vmcryptfs::cluster::board::OpenBoard;
use vmcryptfs::cluster::join::{self, NewCluster};
use vmcryptfs::cluster::{Exchanged, KeyFiles, Session};
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::format::cluster::Removal;
use vmcryptfs::key::ProviderName;
use vmcryptfs::provider::kind::Arguments;
use vmcryptfs::provider::kinds::KINDS;
use vmcryptfs::timestamp::Timestamp;

use crate::etcd::{Etcd, MEMBERS};
use crate::hosts::{Host, name};

const ROUNDS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// Watches from before `sign` until the host with this configuration has done what it waits for. Returns the time from the
/// beginning of `sign`.
fn time_until(
    config: &Path,
    open: OpenBoard<'_>,
    sign: impl FnOnce() + Send,
    is_done: impl Fn(&Exchanged) -> bool,
) -> Duration {
    let session = Session::open_with(config, open).unwrap();
    let board = open(session.board_place(), session.document().cluster).unwrap();
    drop(session);
    let mut watch = board.watch().unwrap();
    std::thread::scope(|scope| {
        let begun = Instant::now();
        scope.spawn(sign);
        loop {
            assert!(begun.elapsed() < PATIENCE, "it is not done");
            watch.wait(Duration::from_secs(3)).unwrap();
            if is_done(&Session::open_with(config, open).unwrap().exchange()) {
                return begun.elapsed();
            }
        }
    })
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
    println!("{what}: median {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, of {}", at(50), at(90), at(99), times.len());
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn figures_of_a_cluster_on_etcd() {
    let etcd = Etcd::start().with_users();
    let (first, second) = (Host::new(&etcd, "host1"), Host::new(&etcd, "host1"));
    let members: Vec<String> = (0..MEMBERS).map(|member| etcd.client(member)).collect();
    let (place, admin) = (format!("etcd:{}", members.join(",")), SigningKey::generate().unwrap());
    let (cluster, host) = (name("prod"), name("h1"));
    let new = NewCluster { name: &cluster, host: &host, board: &place, config: &first.config() };
    new.create(&admin).unwrap();
    let provider = ProviderName::new("shared").unwrap();
    vmcryptfs::provider::add(&first.config(), &provider, KINDS[0].name(), &Arguments::default(), false).unwrap();
    first.session().unwrap().share(std::slice::from_ref(&admin), &provider).unwrap();
    first.sync();
    let open: OpenBoard<'_> = &|_, cluster| Ok(Box::new(etcd.try_reach(&etcd.all(), "host1", cluster)?));
    let (mut joined, mut removed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let token = first.session().unwrap().token(std::slice::from_ref(&admin)).unwrap();
        join::ask(&second.config(), &token, &name("h2")).unwrap();
        let approve = || {
            first.session().unwrap().approve(std::slice::from_ref(&admin), "h2", Timestamp::now()).unwrap();
            first.sync();
        };
        joined.push(time_until(&second.config(), open, approve, |done| !done.received.is_empty()));
        let remove = || {
            let config = first.config();
            let (keys, admins) = (KeyFiles { config: &config }, std::slice::from_ref(&admin));
            first.session().unwrap().remove(&keys, admins, &name("h2"), Removal::default()).unwrap();
        };
        removed.push(time_until(&second.config(), open, remove, |done| !done.wiped.is_empty()));
    }
    print("join: from the beginning of `approve` until the key is there", joined);
    print("removal: from the beginning of `remove` until the key is wiped", removed);
}
