//! A model of a cluster, stepped through all short histories.

mod admins;
mod attacks;
mod push;
mod removal;
mod rotation;
mod trouble;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;

use super::board::Key;
use super::host::HostFiles;
use super::join::{self, NewCluster};
use super::status::{ClusterStatus, HostState};
use super::{Exchanged, KeyFiles, RemovedHost, Session, Standing};
use crate::crypto::sign::SigningKey;
use crate::error::{Error, Kind, Result};
use crate::format::cluster::{EnvelopeFor, Name, Removal};
use crate::key::ProviderName;
use crate::provider::kind::Arguments;
use crate::provider::kinds::KINDS;
use crate::provider::primary_key::PrimaryKey;
use crate::provider::{self, private_file};
use crate::timestamp::Timestamp;

fn host_name(name: &str) -> Name {
    Name::new("host", name).unwrap()
}

fn provider_name(name: &str) -> ProviderName {
    ProviderName::new(name).unwrap()
}

/// Hosts that have a folder in common.
struct Site {
    dir: TempDir,
    admin: SigningKey,
}

impl Site {
    fn new() -> Self {
        // In memory where that is a file system: this makes and syncs some ten thousand small files.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let site = Self { dir: dir.unwrap(), admin: SigningKey::generate().unwrap() };
        fs::create_dir(site.board_folder()).unwrap();
        site
    }

    /// A cluster whose first host shares the provider `shared`.
    fn with_cluster() -> Self {
        let site = Self::new();
        site.init("h1").unwrap();
        site.add_provider("h1", "shared");
        site.share("h1", "shared").unwrap();
        site.sync("h1").unwrap();
        site
    }

    /// The same with `h2` as a second member that has the key.
    fn with_two() -> Self {
        let site = Self::with_cluster();
        site.ask("h2").unwrap();
        site.approve("h2").unwrap();
        site.sync("h1").unwrap();
        site.sync("h2").unwrap();
        site
    }

    fn admins(&self) -> &[SigningKey] {
        std::slice::from_ref(&self.admin)
    }

    fn board_folder(&self) -> PathBuf {
        self.dir.path().join("board")
    }

    fn board_place(&self) -> String {
        format!("folder:{}", self.board_folder().to_str().unwrap())
    }

    fn config(&self, host: &str) -> PathBuf {
        self.dir.path().join(host).join("config.toml")
    }

    fn init(&self, host: &str) -> Result<Uuid> {
        let (name, host_name) = (Name::new("cluster", "prod").unwrap(), host_name(host));
        let config = self.config(host);
        let new = NewCluster { name: &name, host: &host_name, board: &self.board_place(), config: &config };
        new.check()?;
        new.create(&self.admin).map(|(cluster, _)| cluster)
    }

    fn add_provider(&self, host: &str, provider: &str) {
        let native = KINDS[0].name();
        provider::add(&self.config(host), &provider_name(provider), native, &Arguments::default(), false).unwrap();
    }

    fn session(&self, host: &str) -> Result<Session> {
        Session::open(&self.config(host))
    }

    fn share(&self, host: &str, provider: &str) -> Result<Uuid> {
        self.session(host)?.share(self.admins(), &provider_name(provider))
    }

    /// A host gets a token of the first host, and asks with it.
    fn ask(&self, host: &str) -> Result<()> {
        let token = self.session("h1")?.token(self.admins())?;
        join::ask(&self.config(host), &token, &host_name(host)).map(drop)
    }

    fn approve(&self, host: &str) -> Result<()> {
        self.session("h1")?.approve(self.admins(), host, Timestamp::now()).map(drop)
    }

    fn remove(&self, host: &str) -> Result<()> {
        self.remove_as(host, Removal::default()).map(drop)
    }

    fn remove_as(&self, host: &str, removal: Removal) -> Result<RemovedHost> {
        let config = self.config("h1");
        self.session("h1")?.remove(&KeyFiles { config: &config }, self.admins(), &host_name(host), removal)
    }

    fn sync(&self, host: &str) -> Result<Exchanged> {
        let mut done = self.session(host)?.exchange();
        let failed = done.failed.drain(..).map(|(_, error)| error).next();
        match failed.or(done.unsaid.take()) {
            Some(error) => Err(error),
            None => Ok(done),
        }
    }

    fn primary(&self, host: &str, provider: &str) -> Option<PrimaryKey> {
        PrimaryKey::load(&private_file::folder_of(&self.config(host)).join(format!("keys/{provider}.key"))).ok()
    }

    fn has(&self, host: &str, provider: &str) -> bool {
        let first = self.primary("h1", provider).map(|key| key.uuid());
        self.primary(host, provider).is_some_and(|key| Some(key.uuid()) == first)
    }

    /// The folder of the only cluster.
    fn cluster_folder(&self) -> PathBuf {
        fs::read_dir(self.board_folder()).unwrap().next().unwrap().unwrap().path()
    }

    fn record(&self, key: &Key) -> PathBuf {
        self.cluster_folder().join(key.as_str())
    }

    fn envelope(&self, host: &str) -> Key {
        let session = self.session("h1").unwrap();
        let member = session.document().members.iter().find(|member| member.host.name.as_str() == host).unwrap();
        let shared = &session.document().providers[0];
        let cluster = session.document().cluster;
        Key::envelope(&EnvelopeFor {
            cluster,
            provider: &shared.name,
            primary: shared.newest().primary,
            host: member.host.uuid,
        })
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = {
            let path = entry.unwrap().path();
            (path.clone(), to.join(path.file_name().unwrap()))
        };
        if from.is_dir() { copy_tree(&from, &to) } else { fs::copy(&from, &to).map(drop).unwrap() }
    }
}

fn refused<T>(result: Result<T>, kind: Kind, words: &str) {
    let error = result.map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{}", error.chain());
    assert!(error.chain().contains(words), "{words:?}: {}", error.chain());
}

/// What can happen, each to `h2` or on the host that is named.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Ask,
    Approve,
    Share,
    Remove,
    SyncFirst,
    SyncSecond,
}

const STEPS: [Step; 6] = [Step::Ask, Step::Approve, Step::Share, Step::Remove, Step::SyncFirst, Step::SyncSecond];

/// What must be so after a history.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    asked: bool,
    member: Option<Standing>,
    is_shared: bool,
    /// Whether there is an envelope for the second host.
    left: bool,
    /// Whether the second host has the key.
    has: bool,
    /// Whether the second host has said so.
    said: bool,
}

impl Model {
    /// The kind of the error with which a step must end.
    fn step(&mut self, step: Step) -> Option<Kind> {
        match step {
            Step::Ask if self.member == Some(Standing::Active) => return Some(Kind::Exists),
            // A removed host has wiped its key before it asks as a new one.
            Step::Ask => *self = Self { asked: true, is_shared: self.is_shared, ..Self::default() },
            Step::Approve if self.member == Some(Standing::Active) => return Some(Kind::NotFound),
            Step::Approve if !self.asked => return Some(Kind::NotFound),
            Step::Approve => (self.member, self.asked) = (Some(Standing::Active), false),
            Step::Share if self.is_shared => return Some(Kind::Exists),
            Step::Share => self.is_shared = true,
            Step::Remove if self.member != Some(Standing::Active) => return Some(Kind::NotFound),
            Step::Remove => (self.member, self.left) = (Some(Standing::Removed), false),
            Step::SyncFirst => self.left |= self.is_shared && self.member == Some(Standing::Active),
            Step::SyncSecond => match self.member {
                None if !self.asked => return Some(Kind::NotFound),
                None => {}
                Some(Standing::Removed) => self.has = false,
                Some(_) => {
                    self.has |= self.left;
                    self.said = self.has;
                }
            },
        }
        None
    }
}

/// Does a step, and compares its end and what is there after it with the model.
fn play(site: &Site, model: &mut Model, history: &[Step]) {
    let step = *history.last().unwrap();
    let asked_before = model.asked;
    let expected = model.step(step);
    let result = match step {
        Step::Ask => site.ask("h2"),
        Step::Approve => match asked_before && expected.is_none() {
            // Of several requests the one of the present host counts.
            true => site.approve(&HostFiles::of(&site.config("h2")).identity().unwrap().uuid.to_string()),
            false => site.approve("nobody"),
        },
        Step::Share => site.share("h1", "shared").map(drop),
        // The first host has said before that it has the key.
        Step::Remove => site.sync("h1").and_then(|_| site.remove("h2")),
        Step::SyncFirst => site.sync("h1").map(drop),
        Step::SyncSecond => site.sync("h2").map(drop),
    };
    assert_eq!(result.as_ref().map_err(Error::kind).err(), expected, "{history:?}: {result:?}");
    assert_eq!(site.has("h2", "shared"), model.has, "{history:?}: has the key");
    assert!(site.has("h1", "shared"), "{history:?}: the first host keeps its key");
    let status = ClusterStatus::of(&site.session("h1").unwrap()).unwrap();
    let second = status.hosts.iter().rfind(|host| host.name == "h2" && model.member == Some(Standing::Active));
    let ready = second.is_some_and(|host| host.state == HostState::Ready);
    assert!(!ready || model.said || !model.is_shared, "{history:?}: {status:?}");
}

/// Plays all that can follow. What is refused or changes nothing is not continued: the histories without it are there.
fn play_on(site: &Site, model: &Model, history: &mut Vec<Step>, played: &mut usize) {
    const LEN: usize = 7;
    if history.len() == LEN {
        return;
    }
    let saved = tempfile::tempdir_in(site.dir.path().parent().unwrap()).unwrap();
    copy_tree(site.dir.path(), saved.path());
    for step in STEPS {
        let mut next = model.clone();
        history.push(step);
        play(site, &mut next, history);
        *played += 1;
        if next != *model {
            play_on(site, &next, history, played);
        }
        history.pop();
        for folder in ["board", "h1", "h2"] {
            fs::remove_dir_all(site.dir.path().join(folder)).or_else(missing_is_fine).unwrap();
        }
        copy_tree(saved.path(), site.dir.path());
    }
}

fn missing_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[test]
fn after_each_prefix_of_each_short_history_hosts_have_what_they_should() {
    let site = Site::new();
    site.init("h1").unwrap();
    site.add_provider("h1", "shared");
    let mut played = 0;
    play_on(&site, &Model::default(), &mut Vec::new(), &mut played);
    assert!(played > 200, "only {played} steps were played");
}

#[test]
fn what_is_acknowledged_is_written_again_only_when_it_has_changed_or_is_old() {
    let site = Site::with_two();
    let config = site.config("h2");
    let ack = site.record(&Key::ack(site.session("h2").unwrap().host()));
    let exchange = |renew| site.session("h2").unwrap().exchange_with(&KeyFiles { config: &config }, &|_| Ok(()), renew);
    let written = |renew| {
        let before = fs::File::open(&ack).unwrap(); // open, so that its number is not given again
        exchange(renew);
        fs::metadata(&ack).unwrap().ino() != before.metadata().unwrap().ino()
    };
    let hour = Duration::from_secs(3600);
    assert!(!written(hour), "nothing has changed");
    assert!(written(Duration::ZERO), "it is as old as that");
    site.add_provider("h1", "another");
    site.share("h1", "another").unwrap();
    assert!(written(hour), "there is a newer document");
    assert!(!written(hour));
}
