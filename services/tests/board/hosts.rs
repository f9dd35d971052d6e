//! Hosts whose cluster has its board on etcd: each of them reaches it through its agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::slice;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vmcryptfs::cluster::join::{self, NewCluster};
use vmcryptfs::cluster::status::{ClusterStatus, HostState};
use vmcryptfs::cluster::{Exchanged, Session};
use vmcryptfs::crypto::sign::SigningKey;
use vmcryptfs::error::{Kind, Result};
use vmcryptfs::format::cluster::Name;
use vmcryptfs::key::ProviderName;
use vmcryptfs::provider::kind::Arguments;
use vmcryptfs::provider::kinds::KINDS;
use vmcryptfs::timestamp::Timestamp;

use crate::etcd::{Etcd, MEMBERS};
use crate::faults::refused;

const PATIENCE: Duration = Duration::from_secs(30);

/// A host and its agent, which ends with this.
pub(crate) struct Host {
    dir: TempDir,
    agent: Child,
}

fn start_agent(dir: &TempDir) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs-agent"));
    command.arg("--config").arg(dir.path().join("config.toml")).stderr(Stdio::null());
    let agent = command.spawn().unwrap();
    let begun = Instant::now();
    while UnixStream::connect(dir.path().join("agent.sock")).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the agent did not begin");
        thread::sleep(Duration::from_millis(10));
    }
    agent
}

impl Host {
    pub(crate) fn new(etcd: &Etcd, user: &str) -> Self {
        let files = etcd.files(user);
        Self::configured(&format!("[board]\nca = {:?}\ncert = {:?}\nkey = {:?}\n", files.ca, files.cert, files.key))
    }

    /// A host with these sections in its configuration.
    pub(crate) fn configured(sections: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let events = dir.path().join("events");
        let config = format!("[events]\nfile = {events:?}\njournal = false\n\n{sections}");
        let path = dir.path().join("config.toml");
        fs::write(&path, config).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let agent = start_agent(&dir);
        Self { dir, agent }
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("config.toml")
    }

    pub(crate) fn session(&self) -> Result<Session> {
        Session::open(&self.config())
    }

    pub(crate) fn sync(&self) -> Exchanged {
        let done = self.session().unwrap().exchange();
        assert!(done.failed.is_empty() && done.unsaid.is_none(), "{done:?}");
        done
    }

    fn end_agent(&mut self) {
        self.agent.kill().ok(); // it may have ended
        self.agent.wait().ok();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end_agent();
    }
}

pub(crate) fn name(text: &str) -> Name {
    Name::new("host", text).unwrap()
}

#[test]
fn hosts_share_a_provider_over_etcd_and_refuse_what_has_gone_back() {
    let mut etcd = Etcd::start().with_users();
    let (mut first, second) = (Host::new(&etcd, "host1"), Host::new(&etcd, "host1"));
    let members: Vec<String> = (0..MEMBERS).map(|member| etcd.client(member)).collect();
    let (board, admin) = (format!("etcd:{}", members.join(",")), SigningKey::generate().unwrap());
    let (cluster, host) = (name("prod"), name("h1"));
    let new = NewCluster { name: &cluster, host: &host, board: &board, config: &first.config() };
    new.check().unwrap();
    new.create(&admin).unwrap();
    refused(new.check(), Kind::Exists, "in the cluster prod already");
    let provider = ProviderName::new("shared").unwrap();
    vmcryptfs::provider::add(&first.config(), &provider, KINDS[0].name(), &Arguments::default(), false).unwrap();
    first.session().unwrap().share(slice::from_ref(&admin), &provider).unwrap();
    first.sync();
    let backup = etcd.path("backup").to_str().unwrap().to_owned();
    etcd.control_at(&etcd.client(0), &format!("snapshot save {backup}"));
    let token = first.session().unwrap().token(slice::from_ref(&admin)).unwrap();
    join::ask(&second.config(), &token, &name("h2")).unwrap();
    first.session().unwrap().approve(slice::from_ref(&admin), "h2", Timestamp::now()).unwrap();
    first.sync();
    assert_eq!(second.sync().received.len(), 1);
    let status = ClusterStatus::of(&first.session().unwrap()).unwrap();
    assert!(status.hosts.iter().all(|host| host.state == HostState::Ready), "{status:?}");
    assert_eq!(status.board_members.len(), MEMBERS);
    assert!(status.board_members.iter().all(|member| member.trouble.is_none() && member.version.starts_with("3.")));
    // One member less is said, and stops nothing.
    etcd.kill(0);
    let status = ClusterStatus::of(&second.session().unwrap()).unwrap();
    let troubles: Vec<bool> = status.board_members.iter().map(|member| member.trouble.is_some()).collect();
    assert_eq!(troubles, [true, false, false]);
    // Restored from a backup that was made before the second host came.
    (1..MEMBERS).for_each(|member| etcd.kill(member));
    etcd.restore(&backup);
    (0..MEMBERS).for_each(|member| etcd.start_member(member));
    etcd.await_health();
    for host in [&first, &second] {
        refused(host.session().map(drop), Kind::Denied, "the board lacks document 3, which this host has seen");
    }
    first.end_agent();
    refused(first.session().map(drop), Kind::Io, "start vmcryptfs-agent");
}
