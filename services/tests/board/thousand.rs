//! What a cluster of 1,000 hosts costs one host: sizes, and the time of an exchange (bench/cluster). The hosts are those of a document and
//! have no agents; some of them do what an agent does.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::fs;
use std::path::PathBuf;
use std::slice;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmcryptfs::cluster::board::folder::FolderBoard;
use vmcryptfs::cluster::board::{Board, Key};
use vmcryptfs::cluster::host::{HostFiles, Identity, Membership};
use vmcryptfs::cluster::join::NewCluster;
use vmcryptfs::cluster::{KeyFiles, Session};
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::format::cluster::{Member, MemberState, Removal, TokenId, UnverifiedDocument};
use vmcryptfs::key::ProviderName;
use vmcryptfs::provider::kind::Arguments;
use vmcryptfs::provider::kinds::KINDS;

use crate::hosts::name;

const HOSTS: usize = 1000;
/// Hosts that do what an agent does, of which the median is told.
const TRIED: usize = 20;

struct Site {
    dir: TempDir,
    admin: SigningKey,
    hosts: Vec<Identity>,
}

impl Site {
    fn config(&self, host: usize) -> PathBuf {
        self.dir.path().join(format!("h{host}/config.toml"))
    }

    fn place(&self) -> String {
        format!("folder:{}", self.dir.path().join("board").to_str().unwrap())
    }

    fn admins(&self) -> &[SigningKey] {
        slice::from_ref(&self.admin)
    }

    fn session(&self, host: usize) -> Session {
        Session::open(&self.config(host)).unwrap()
    }

    /// A cluster whose first host shares a provider, and the document that the joining of so many hosts would end in.
    fn new() -> Self {
        let mut site =
            Self { dir: tempfile::tempdir().unwrap(), admin: SigningKey::generate().unwrap(), hosts: Vec::new() };
        fs::create_dir(site.dir.path().join("board")).unwrap();
        fs::create_dir(site.dir.path().join("h0")).unwrap();
        let (cluster, first, config, board) = (name("prod"), name("h0"), site.config(0), site.place());
        NewCluster { name: &cluster, host: &first, board: &board, config: &config }.create(&site.admin).unwrap();
        let provider = ProviderName::new("shared").unwrap();
        vmcryptfs::provider::add(&config, &provider, KINDS[0].name(), &Arguments::default(), false).unwrap();
        site.session(0).share(site.admins(), &provider).unwrap();
        let session = site.session(0);
        let mut document = session.document().clone();
        let board = FolderBoard::open(&site.dir.path().join("board"), document.cluster).unwrap();
        let before = UnverifiedDocument::decode(&board.read(&Key::document(document.epoch)).unwrap().unwrap()).unwrap();
        (document.epoch, document.previous) = (document.epoch + 1, before.hash());
        site.hosts = (1..HOSTS).map(|_| Identity::generate().unwrap()).collect();
        document.members.extend(site.hosts.iter().enumerate().map(|(at, identity)| Member {
            host: identity.public(name(&format!("h{}", at + 1))),
            state: MemberState::Active,
            since: document.epoch,
            token: TokenId(*identity.uuid.as_bytes()),
            removal: Removal::default(),
        }));
        document.members.sort_by_key(|member| member.host.uuid);
        let begun = Instant::now();
        let bytes = document.sign(site.admins()).unwrap();
        println!("document of {HOSTS} hosts: {} bytes, signed in {:.1?}", bytes.len(), begun.elapsed());
        assert!(board.write_if_unchanged(&Key::document(document.epoch), None, &bytes).unwrap());
        drop(session);
        site
    }

    /// Lets a host have the files of one that has joined.
    fn join(&self, host: usize) {
        let session = self.session(0);
        let document = session.document();
        let board = FolderBoard::open(&self.dir.path().join("board"), document.cluster).unwrap();
        let bytes = board.read(&Key::document(document.epoch)).unwrap().unwrap();
        let hash = UnverifiedDocument::decode(&bytes).unwrap().hash();
        let files = HostFiles::of(&self.config(host));
        drop(files.lock().unwrap());
        files.keep_identity(&self.hosts[host - 1]).unwrap();
        let names = (&document.name, &name(&format!("h{host}")));
        files.keep_membership(&Membership::new(document.cluster, names, &self.place(), document.epoch, &hash)).unwrap();
    }

    /// What one host does with the newest document, and how long that takes.
    fn exchange(&self, host: usize) -> Duration {
        let begun = Instant::now();
        let done = self.session(host).exchange();
        assert!(done.failed.is_empty() && done.unsaid.is_none(), "{done:?}");
        begun.elapsed()
    }

    fn median(&self, what: &str) {
        let mut times: Vec<Duration> = (1..=TRIED).map(|host| self.exchange(host)).collect();
        times.sort();
        println!("{what}: median {:.1?}, worst {:.1?}, of {TRIED}", times[TRIED / 2], times[TRIED - 1]);
    }
}

#[test]
#[ignore = "it measures: bench/cluster"]
fn figures_of_a_thousand_hosts() {
    let site = Site::new();
    let begun = Instant::now();
    drop(site.session(0));
    println!("a host reads and proves the newest document in {:.1?}", begun.elapsed());
    println!("the first host seals the key to {} hosts, and tidies, in {:.1?}", HOSTS - 1, site.exchange(0));
    println!("the same host once more, with nothing to do: {:.1?}", site.exchange(0));
    (1..=TRIED).for_each(|host| site.join(host));
    site.median("a host takes its key, and says so");
    site.median("the same once more, with nothing to do");
    let (config, provider) = (site.config(0), ProviderName::new("shared").unwrap());
    let begun = Instant::now();
    site.session(0).rotate(&KeyFiles { config: &config }, site.admins(), &provider, true).unwrap();
    println!("rotation: the first host makes a key and seals it to all in {:.1?}", begun.elapsed() + site.exchange(0));
    site.median("a host takes the next key, and says so");
}
