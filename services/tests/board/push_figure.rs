//! How quickly a keeper gives a new KEK to all hosts of a cluster (bench/cluster).

#![allow(clippy::print_stdout, reason = "the figure is what it is for")]

use std::time::{Duration, Instant};

use uuid::Uuid;
use vmcryptfs::cluster::Session;
use vmcryptfs::cluster::board::{Board, Key};
use vmcryptfs::cluster::host::Identity;
use vmcryptfs::cluster::join::NewCluster;
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::crypto::wrap::LocalKek;
use vmcryptfs::format::cluster::{
    Member, MemberState, PushedProvider, Reference, Removal, TokenId, UnverifiedDocument,
};
use vmcryptfs::key::{KeyId, ProviderName};

use crate::etcd::{Etcd, MEMBERS};
use crate::hosts::{Host, name};

const ROUNDS: usize = 10;

/// How long a keeper takes to leave a new KEK for each of a hundred hosts. An idle host looks for such records every two seconds.
#[test]
#[ignore = "it measures: bench/cluster"]
fn figure_of_a_key_that_is_pushed_to_a_hundred_hosts_on_etcd() {
    const HOSTS: usize = 100;
    let etcd = Etcd::start().with_users();
    let first = Host::new(&etcd, "host1");
    let members: Vec<String> = (0..MEMBERS).map(|member| etcd.client(member)).collect();
    let (place, admin) = (format!("etcd:{}", members.join(",")), SigningKey::generate().unwrap());
    let (cluster, host) = (name("prod"), name("h0"));
    let new = NewCluster { name: &cluster, host: &host, board: &place, config: &first.config() };
    new.create(&admin).unwrap();
    // The document that the joining of so many hosts would end in.
    let board = etcd.try_reach(&etcd.all(), "host1", first.session().unwrap().document().cluster).unwrap();
    let before = UnverifiedDocument::decode(&board.read(&Key::document(1)).unwrap().unwrap()).unwrap();
    let session = first.session().unwrap();
    let keeper = session.host();
    let mut document = session.document().clone();
    drop(session);
    (document.epoch, document.previous) = (2, before.hash());
    document.members.extend((1..=HOSTS).map(|number| Member {
        host: Identity::generate().unwrap().public(name(&format!("h{number}"))),
        state: MemberState::Active,
        since: 2,
        token: TokenId([u8::try_from(number).unwrap(); 16]),
        removal: Removal::default(),
    }));
    document.members.sort_by_key(|member| member.host.uuid);
    let corp = ProviderName::new("corp").unwrap();
    document.pushed = vec![PushedProvider {
        name: corp.clone(),
        kind: name("kmip"),
        uuid: Uuid::from_bytes([5; 16]),
        since: 2,
        life: Duration::from_secs(3600),
        persists: false,
        keepers: vec![keeper],
        places: Vec::new(),
    }];
    let bytes = document.sign(std::slice::from_ref(&admin)).unwrap();
    assert!(board.write_if_unchanged(&Key::document(2), None, &bytes).unwrap());
    let reach = |_: &str, cluster| Ok(Box::new(etcd.try_reach(&etcd.all(), "host1", cluster)?) as Box<dyn Board>);
    let push = Session::open_within(&first.config(), Duration::from_secs(10), reach).unwrap().into_push_board();
    let pushed = push.document().pushed[0].clone();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let (id, kek) = (KeyId::new(corp.clone(), format!("key-{round}")).unwrap(), LocalKek::random().unwrap());
        let begun = Instant::now();
        let mut giver = push.give(&pushed).unwrap();
        for host in push.document().active().map(|member| &member.host).filter(|host| host.uuid != keeper) {
            giver.kek(host, Reference::NONE, &id, &kek, true).unwrap();
        }
        times.push(begun.elapsed());
    }
    assert_eq!(board.list("kek", 10_000).unwrap().len(), HOSTS * times.len());
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "push: until a new KEK lies there for each of {HOSTS} hosts: median {median:.0?}, worst {worst:.0?}, of {ROUNDS}"
    );
}
