//! An emulator of a TPM (Debian: swtpm), on a socket.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub(crate) struct Emulator {
    folder: TempDir,
    process: Child,
}

impl Emulator {
    /// A new TPM.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = run(&folder);
        Self { folder, process }
    }

    /// Its socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }

    /// Switches it off and on.
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.process = run(&self.folder);
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        for socket in ["tpm", "tpm.ctrl"] {
            let _ = std::fs::remove_file(self.folder.path().join(socket)); // it may have removed it
        }
    }
}

fn run(folder: &TempDir) -> Child {
    let socket = folder.path().join("tpm");
    let mut command = Command::new("swtpm");
    command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"]);
    command.arg("--tpmstate").arg(format!("dir={}", folder.path().display()));
    command.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
    // tpm2-tools need it beside the other one.
    command.arg("--ctrl").arg(format!("type=unixio,path={}.ctrl", socket.display()));
    let process = command.spawn().unwrap();
    let began = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(began.elapsed() < Duration::from_secs(30), "swtpm does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}
