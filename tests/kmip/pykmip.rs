//! PyKMIP servers. Each is stopped, with the processes it started, when its value is dropped.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process_group, set_child_subreaper, waitpgid};

use crate::certificates::Issued;
use crate::site::Site;

const START: Duration = Duration::from_secs(90);

pub(crate) struct PyKmip {
    child: Child,
    port: u16,
    running: bool,
}

impl PyKmip {
    /// Starts a server. Those of the same `cluster` have the same keys.
    pub(crate) fn start(site: &Site, cluster: &str) -> Self {
        Self::start_with(site, cluster, &site.server)
    }

    pub(crate) fn start_with(site: &Site, cluster: &str, certificate: &Issued) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = site.path(&format!("pykmip-{port}.log"));
        let settings = settings(site, cluster, certificate, port);
        set_child_subreaper(Some(getpid())).unwrap(); // what it leaves behind is ours to wait for
        let child = Command::new("pykmip-server")
            .arg("-f")
            .arg(&settings)
            .arg("-l")
            .arg(&log)
            .env("TMPDIR", site.path("")) // its processes leave folders there
            .stdout(Stdio::null())
            .stderr(fs::File::create(log.with_extension("stderr")).unwrap())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("pykmip-server cannot be run, and these tests need it (Debian: python3-pykmip): {error}")
            });
        let mut server = Self { child, port, running: true };
        server.wait_until_it_listens(&log);
        server
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// As a crash or a power cut does.
    pub(crate) fn kill(&mut self) {
        if std::mem::take(&mut self.running) {
            self.signal(Signal::KILL);
            while waitpgid(self.group(), WaitOptions::empty()).is_ok() {} // the server and what it started
        }
    }

    /// As a host does that hangs: connections are accepted, and nothing is answered.
    pub(crate) fn hang(&self) {
        self.signal(Signal::STOP);
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn group(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process_group(self.group(), signal).unwrap();
    }

    fn wait_until_it_listens(&mut self, log: &std::path::Path) {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || start.elapsed() > START {
                let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
                let (log, stderr) = (read(log.into()), read(log.with_extension("stderr")));
                panic!("pykmip-server did not start ({ended:?}):\n{log}\n{stderr}");
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for PyKmip {
    fn drop(&mut self) {
        self.kill();
    }
}

fn settings(site: &Site, cluster: &str, certificate: &Issued, port: u16) -> PathBuf {
    let policy = site.path("policy");
    fs::create_dir_all(&policy).unwrap();
    let text = format!(
        "[server]\nhostname=127.0.0.1\nport={port}\ncertificate_path={}\nkey_path={}\nca_path={}\nauth_suite=TLS1.2\n\
         policy_path={}\nenable_tls_client_auth=True\nlogging_level=WARNING\ndatabase_path={}\n",
        certificate.cert.display(),
        certificate.key.display(),
        site.ca.cert().display(),
        policy.display(),
        site.path(&format!("{cluster}.sqlite")).display(),
    );
    let path = site.path(&format!("pykmip-{port}.conf"));
    fs::write(&path, text).unwrap();
    path
}
