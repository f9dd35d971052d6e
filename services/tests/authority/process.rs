//! An authority in a process of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vmcryptfs::provider::primary_key::PrimaryKey;

use crate::client::Client;
use crate::host::Host;

/// How long it may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine with an authority. The process is killed with this.
pub(crate) struct Authority {
    machine: Host,
    process: Option<Child>,
    pin: [u8; 32],
    kept: Option<SocketAddr>,
}

impl Authority {
    /// Makes one that does not run.
    pub(crate) fn made(options: &[&str]) -> Self {
        let provider = "[provider.top]\nkind = \"native\"\nprimary-key = \"keys/top.key\"\nbacked-up = true\n";
        let machine = Host::configured(provider);
        PrimaryKey::generate().unwrap().create(&machine.config().with_file_name("keys").join("top.key")).unwrap();
        Self::made_on(machine, "top", options)
    }

    /// Makes one whose top-level key is of this provider of the machine.
    pub(crate) fn made_on(machine: Host, provider: &str, options: &[&str]) -> Self {
        let mut authority = Self { machine, process: None, pin: [0; 32], kept: None };
        let init = ["init", provider, "--url", "https://localhost:6843", "--listen", "127.0.0.1:0"];
        let made = authority.json(&[&init, options].concat());
        let pin = data_encoding::BASE64URL_NOPAD.decode(made["pin"].as_str().unwrap().as_bytes()).unwrap();
        authority.pin = pin.try_into().unwrap();
        authority
    }

    /// Starts it, and waits until it says that it answers.
    pub(crate) fn start(&mut self) {
        let notified = self.machine.path("notify");
        fs::remove_file(notified).ok(); // it may have been started before
        let receiver = UnixDatagram::bind(notified).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let log = fs::File::create(self.machine.path("authority.log")).unwrap();
        let mut command = self.command(&["start"]);
        self.process = Some(command.env("NOTIFY_SOCKET", notified).stderr(log).spawn().unwrap());
        let mut told = [0; 64];
        let told = receiver.recv(&mut told).map(|len| told[..len].to_vec());
        let log = || fs::read_to_string(self.machine.path("authority.log")).unwrap();
        assert_eq!(told.unwrap_or_else(|error| panic!("it did not begin: {error}: {}", log())), b"READY=1");
    }

    /// Ends it by a signal.
    pub(crate) fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().unwrap();
        kill_process(Pid::from_child(&process), signal).unwrap();
        let status = process.wait().unwrap();
        assert!(signal != Signal::TERM || status.success(), "{status}");
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.machine.config().with_file_name("authority")
    }

    /// A file that only its owner can read.
    pub(crate) fn write(&self, path: &str, content: &str) -> PathBuf {
        let path = PathBuf::from(self.machine.path(path));
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&path).unwrap();
        std::io::Write::write_all(&mut file, content.as_bytes()).unwrap();
        path
    }

    /// How many files it may have open, and how many it could ask for.
    pub(crate) fn file_limits(&self) -> [String; 2] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.process.as_ref().unwrap().id())).unwrap();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        [words.next().unwrap(), words.next().unwrap()]
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs-authority"));
        command.arg("--config").arg(self.machine.config()).args(args);
        command
    }

    pub(crate) fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a verb and expects success; returns what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[args, &["--json"]].concat())).unwrap()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address(), self.pin)
    }

    fn address(&self) -> SocketAddr {
        self.json(&["status"])["listen"].as_str().unwrap().parse().unwrap()
    }

    /// Lets it listen where it does now when it is started again.
    pub(crate) fn keep_port(&mut self) {
        let (address, settings) = (self.address(), self.folder().join("settings.toml"));
        let text = fs::read_to_string(&settings).unwrap().replace("127.0.0.1:0", &address.to_string());
        fs::write(settings, text).unwrap();
        self.kept = Some(address);
    }

    /// Where it listens, once its port is kept.
    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.kept.unwrap())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub(crate) fn pin(&self) -> [u8; 32] {
        self.pin
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().ok(); // it may have ended
            process.wait().ok();
        }
    }
}
