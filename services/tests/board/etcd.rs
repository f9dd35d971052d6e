//! An etcd of three members on this machine, with mutual TLS and users by the common names of their certificates.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;
use vmcryptfs::cluster::board::Board;
use vmcryptfs::cluster::board::address::Endpoint;
use vmcryptfs::error::Result;
use vmcryptfs::provider::tls_files::TlsFiles;
use vmcryptfs_services::board::etcd::EtcdBoard;

pub(crate) const MEMBERS: usize = 3;
/// How long a member may take to begin, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Etcd {
    dir: TempDir,
    ports: Vec<u16>,
    members: Vec<Option<Child>>,
    quota: u64,
}

/// In memory where that is a file system: each write is synced by three members.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.unwrap()
}

pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

/// Makes an authority, and what it signs.
pub(crate) fn certificates(dir: &Path, names: &[&str]) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(dir));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 30 -subj /CN=ca"));
    fs::write(dir.join("extensions"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    for name in names {
        openssl(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 30 -extfile extensions"
        ));
    }
}

pub(crate) fn files(dir: &Path, name: &str) -> TlsFiles {
    TlsFiles { ca: dir.join("ca.pem"), cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) }
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

pub(crate) fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port }
}

impl Etcd {
    pub(crate) fn start() -> Self {
        Self::with_quota(0)
    }

    /// With databases of at most this number of bytes.
    pub(crate) fn with_quota(quota: u64) -> Self {
        let dir = folder();
        certificates(dir.path(), &["member", "root", "host1", "reader", "nobody"]);
        let mut etcd =
            Self { dir, ports: free_ports(2 * MEMBERS), members: (0..MEMBERS).map(|_| None).collect(), quota };
        (0..MEMBERS).for_each(|member| etcd.start_member(member));
        etcd.await_health();
        etcd
    }

    /// Users by certificate: `host1` may read and write below /vmcryptfs/, `reader` may read there, `nobody` is no user.
    pub(crate) fn with_users(self) -> Self {
        for line in [
            "role add hosts",
            "role grant-permission hosts readwrite /vmcryptfs/ --prefix=true",
            "role add readers",
            "role grant-permission readers read /vmcryptfs/ --prefix=true",
            "user add root --no-password",
            "user add host1 --no-password",
            "user add reader --no-password",
            "user grant-role root root",
            "user grant-role host1 hosts",
            "user grant-role reader readers",
            "auth enable",
        ] {
            self.control(line);
        }
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn peer(&self, member: usize) -> String {
        format!("https://127.0.0.1:{}", self.ports[MEMBERS + member])
    }

    pub(crate) fn client(&self, member: usize) -> String {
        format!("https://127.0.0.1:{}", self.ports[member])
    }

    pub(crate) fn start_member(&mut self, member: usize) {
        let peers: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}={}", self.peer(member))).collect();
        let (client, peer) = (self.client(member), self.peer(member));
        let log = File::options().append(true).create(true).open(self.path(&format!("m{member}.log"))).unwrap();
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("m{member}"), "--data-dir"]).arg(self.path(&format!("m{member}")));
        command.args(["--initial-cluster", &peers.join(","), "--initial-cluster-token", "test"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--client-cert-auth", "--peer-client-cert-auth", "--logger", "zap", "--log-level", "error"]);
        command.args(["--heartbeat-interval", "50", "--election-timeout", "500"]);
        command.args(["--quota-backend-bytes", &self.quota.to_string()]);
        for (option, file) in [("trusted-ca-file", "ca.pem"), ("cert-file", "member.pem"), ("key-file", "member.key")] {
            command.arg(format!("--{option}")).arg(self.path(file));
            command.arg(format!("--peer-{option}")).arg(self.path(file));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.members[member] = Some(command.spawn().expect("etcd, of the package etcd-server"));
    }

    pub(crate) fn await_health(&self) {
        let board = self.reach(&self.all(), "root");
        let begun = Instant::now();
        while board.health().iter().any(|member| member.trouble.is_some()) {
            assert!(begun.elapsed() < PATIENCE, "{:?}: {}", board.health(), self.log(0));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self, member: usize) -> String {
        fs::read_to_string(self.path(&format!("m{member}.log"))).unwrap_or_default()
    }

    pub(crate) fn all(&self) -> Vec<usize> {
        (0..MEMBERS).collect()
    }

    /// The board of a new cluster, as a user sees it who asks the members in this order.
    pub(crate) fn reach(&self, members: &[usize], user: &str) -> Box<dyn Board> {
        Box::new(self.try_reach(members, user, Uuid::nil()).unwrap())
    }

    pub(crate) fn try_reach(&self, members: &[usize], user: &str, cluster: Uuid) -> Result<EtcdBoard> {
        let endpoints = members.iter().map(|member| endpoint(self.ports[*member])).collect();
        EtcdBoard::reach(endpoints, files(self.dir.path(), user), cluster)
    }

    /// Runs etcdctl as root.
    pub(crate) fn control(&self, line: &str) -> String {
        let members: Vec<String> = (0..MEMBERS).map(|member| self.client(member)).collect();
        self.control_at(&members.join(","), line)
    }

    pub(crate) fn control_at(&self, endpoints: &str, line: &str) -> String {
        run(self.etcdctl(endpoints).args(line.split(' ')))
    }

    pub(crate) fn etcdctl(&self, endpoints: &str) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", endpoints]).current_dir(self.dir.path());
        command.args(["--cacert", "ca.pem", "--cert", "root.pem", "--key", "root.key"]);
        command
    }

    pub(crate) fn signal(&self, member: usize, signal: Signal) {
        kill_process(Pid::from_child(self.members[member].as_ref().unwrap()), signal).unwrap();
    }

    pub(crate) fn kill(&mut self, member: usize) {
        let mut process = self.members[member].take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for process in self.members.iter_mut().flatten() {
            process.kill().ok(); // it may have ended
            process.wait().ok();
        }
    }
}

/// What only some tests need.
impl Etcd {
    pub(crate) fn files(&self, user: &str) -> TlsFiles {
        files(self.dir.path(), user)
    }

    /// The store's revision.
    pub(crate) fn revision(&self) -> u64 {
        let said = self.control_at(&self.client(0), "get x --write-out=json");
        let number = said.split("\"revision\":").nth(1).unwrap();
        number[..number.find(|c: char| !c.is_ascii_digit()).unwrap()].parse().unwrap()
    }

    /// Puts the store of all members, which do not run, back to a backup.
    pub(crate) fn restore(&self, backup: &str) {
        let peers: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}={}", self.peer(member))).collect();
        for member in 0..MEMBERS {
            fs::remove_dir_all(self.path(&format!("m{member}"))).unwrap();
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").current_dir(self.dir.path()).args(["snapshot", "restore", backup]);
            command.args(["--name", &format!("m{member}"), "--data-dir", &format!("m{member}")]);
            command.args(["--initial-cluster", &peers.join(","), "--initial-cluster-token", "test"]);
            run(command.args(["--initial-advertise-peer-urls", &self.peer(member)]));
        }
    }
}
