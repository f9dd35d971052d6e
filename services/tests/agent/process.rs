//! An agent in a process of its own.

use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vmcryptfs::provider::agent::{Answer, MAX_ANSWER, MAX_REQUEST, Request, receive, send};
use vmcryptfs::provider::timed::{Deadline, TimedStream};

use crate::host::Host;

/// How long an agent may take for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// The agent of a host. It is killed with this.
pub(crate) struct Agent {
    process: Child,
    socket: PathBuf,
}

/// The command that starts the agent of a host.
pub(crate) fn command(host: &Host) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs-agent"));
    command.arg("--config").arg(host.config()).stderr(Stdio::piped());
    command
}

impl Agent {
    /// Starts it, and waits until it says that it answers.
    pub(crate) fn start(host: &Host) -> Self {
        let notified = host.path("notify");
        std::fs::remove_file(notified).ok(); // an agent may have been started before
        let receiver = UnixDatagram::bind(notified).unwrap();
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut process = command(host).env("NOTIFY_SOCKET", notified).spawn().unwrap();
        let mut told = [0; 64];
        let told = match receiver.recv(&mut told) {
            Ok(len) => told[..len].to_vec(),
            Err(error) => {
                process.kill().ok();
                panic!("the agent did not begin: {error}: {:?}", process.wait_with_output());
            }
        };
        assert_eq!(told, b"READY=1");
        Self { process, socket: host.config().with_file_name("agent.sock") }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn connect(&self) -> TimedStream<UnixStream> {
        TimedStream::new(UnixStream::connect(&self.socket).unwrap(), Deadline::after(PATIENCE))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Ends it by a signal; returns how it ended.
    pub(crate) fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.process.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok(); // it may have ended
        self.process.wait().ok();
    }
}

/// What an agent says that must not begin.
pub(crate) fn refused(host: &Host) -> Output {
    command(host).output().unwrap()
}

pub(crate) fn ask(stream: &mut TimedStream<UnixStream>, request: &Request) -> Answer {
    stream.set_deadline(Deadline::after(PATIENCE));
    send(stream, request, MAX_REQUEST).unwrap();
    answer(stream).unwrap()
}

/// What comes next; `None` where the agent has closed the connection.
pub(crate) fn answer(stream: &mut TimedStream<UnixStream>) -> Option<Answer> {
    receive(stream, (Deadline::after(PATIENCE), PATIENCE), MAX_ANSWER).unwrap()
}
