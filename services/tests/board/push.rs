//! KEKs that a keeper pushes over etcd.

use std::fs;
use std::slice::from_ref;

use vmcryptfs::cluster::PushOptions;
use vmcryptfs::cluster::join::{self, NewCluster};
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::provider::agent::Request;
use vmcryptfs::provider::agent::client::AgentClient;
use vmcryptfs::timestamp::Timestamp;

use crate::etcd::{Etcd, MEMBERS};
use crate::hosts::{Host, name};
use crate::pykmip::PyKmip;
use crate::site::{Site, corp, make};

#[test]
fn a_keeper_gives_the_keys_of_its_server_over_etcd() {
    let (etcd, site) = (Etcd::start().with_users(), Site::new());
    let kmip = PyKmip::start(&site, "one");
    let credentials = fs::read_to_string(site.configure(&[kmip.port()], &site.host, "")).unwrap();
    let files = etcd.files("host1");
    let board = format!("[board]\nca = {:?}\ncert = {:?}\nkey = {:?}\n", files.ca, files.cert, files.key);
    let (keeper, host) = (Host::configured(&format!("{credentials}\n{board}")), Host::configured(&board));
    let members: Vec<String> = (0..MEMBERS).map(|member| etcd.client(member)).collect();
    let (place, admin) = (format!("etcd:{}", members.join(",")), SigningKey::generate().unwrap());
    let (cluster, first) = (name("prod"), name("h1"));
    NewCluster { name: &cluster, host: &first, board: &place, config: &keeper.config() }.create(&admin).unwrap();
    keeper.session().unwrap().share_pushed(from_ref(&admin), &crate::site::name(), &PushOptions::default()).unwrap();
    let token = keeper.session().unwrap().token(from_ref(&admin)).unwrap();
    join::ask(&host.config(), &token, &name("h2")).unwrap();
    keeper.session().unwrap().approve(from_ref(&admin), "h2", Timestamp::now()).unwrap();
    for host in [&keeper, &host] {
        AgentClient::of(&host.config()).unwrap().ask(&Request::Sync).unwrap();
    }
    let (direct, managed) = (corp(&keeper.config()).unwrap(), corp(&host.config()).unwrap());
    let (id, kek) = make(&*direct, 1).remove(0);
    assert_eq!(managed.fetch_key(&id).unwrap().check().unwrap(), kek.check().unwrap());
    let (id, kek) = make(&*managed, 1).remove(0);
    assert_eq!(direct.fetch_key(&id).unwrap().check().unwrap(), kek.check().unwrap());
}
