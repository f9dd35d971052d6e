//! A host of its own for one test: a configuration, a provider, a datastore and mounts, all in a temporary directory.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;

use tempfile::TempDir;

use vmcryptfs::format::header::{ComponentKind, Header, StoredState};
use vmcryptfs::provider::Providers;

use super::datastore::{self, write_config};

/// Runs a program for which the modes of root's own files count.
pub(crate) const WITHOUT_OVERRIDE: [&str; 2] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];

/// Whether this process's root directory is a mount, which that of a chroot need not be.
pub(crate) fn root_is_a_mount() -> bool {
    let table = std::fs::read("/proc/self/mountinfo").unwrap();
    table.split(|byte| *byte == b'\n').any(|line| line.split(|byte| *byte == b' ').nth(4) == Some(b"/"))
}

/// The program. In tests of another package, the one that was built beside them (`cargo build`).
fn program() -> PathBuf {
    option_env!("CARGO_BIN_EXE_vmcryptfs").map_or_else(
        || {
            let tests = std::env::current_exe().unwrap();
            tests.ancestors().nth(2).unwrap().join("vmcryptfs")
        },
        PathBuf::from,
    )
}

pub(crate) struct Host {
    dir: TempDir,
    /// Command lines that were refused, and the messages.
    refusals: Mutex<String>,
    /// Where it mounted something.
    mountpoints: Mutex<Vec<String>>,
}

impl Host {
    /// A host with the native provider `local`.
    pub(crate) fn new() -> Self {
        let host = Self::configured("");
        host.run(&["provider", "add", "native", "local"]);
        host
    }

    /// A host with these providers.
    pub(crate) fn configured(providers: &str) -> Self {
        let (dir, refusals, mountpoints) = (tempfile::tempdir().unwrap(), Mutex::default(), Mutex::default());
        let host = Self { dir, refusals, mountpoints };
        host.configure(providers);
        host
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.path().join("config/config.toml")
    }

    /// Gives the host other providers.
    pub(crate) fn configure(&self, providers: &str) {
        let events = format!("[events]\nfile = {:?}\njournal = false\n", self.path("events.jsonl"));
        write_config(&self.config(), &format!("{providers}\n{events}"));
    }

    /// A host with the VM folder `web01` in it, which holds `root.raw` of 64 MiB.
    pub(crate) fn with_vm() -> Self {
        let host = Self::new();
        host.run(&["create", host.path("web01")]);
        host.run(&["create-disk", host.path("web01/root.raw"), "--size", "64M"]);
        host
    }

    /// A path in this host's directory. Leaked: a test has a handful.
    pub(crate) fn path(&self, below: &str) -> &'static str {
        Box::leak(self.dir.path().join(below).display().to_string().into_boxed_str())
    }

    /// vmcryptfs with the configuration of this host.
    pub(crate) fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(program());
        command.arg("--config").arg(self.config()).args(args);
        command
    }

    pub(crate) fn try_run(&self, args: &[impl AsRef<OsStr>]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs vmcryptfs and expects success; returns what it printed.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "vmcryptfs {args:?}: {}: {said}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs vmcryptfs, expects an exit code and one line that says `words`.
    pub(crate) fn refuses(&self, args: &[&str], code: i32, words: &str) {
        let output = self.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "vmcryptfs {args:?}: {said}");
        assert!(said.contains(words) && said.trim().lines().count() == 1, "vmcryptfs {args:?} said: {said}");
        self.refusals.lock().unwrap().push_str(&format!("$ vmcryptfs {}\n{said}", args.join(" ")));
    }

    /// What was refused so far and how, as a shell would show it, without what differs from run to run.
    pub(crate) fn refusals(&self) -> String {
        let mut text = self.refusals.lock().unwrap().replace(&self.dir.path().display().to_string(), "HOST");
        for mountpoint in self.mountpoints.lock().unwrap().iter() {
            text = text.replace(mountpoint, "MOUNTPOINT");
        }
        text
    }

    /// Mounts a folder of this host and returns the mount. The variable MOUNT_OPTIONS says what all mounts are made with that do
    /// not say it themselves (`--backing-io=direct`).
    pub(crate) fn mount(&self, folder: &str, options: &[&str]) -> Mount<'_> {
        self.mount_through(&[], folder, options)
    }

    /// The same, by a process that has none of root's ways past permissions: for it modes count, as for an ordinary user's.
    pub(crate) fn mount_as_ordinary(&self, folder: &str, options: &[&str]) -> Mount<'_> {
        self.mount_through(&WITHOUT_OVERRIDE, folder, options)
    }

    fn mount_through(&self, program: &[&str], folder: &str, options: &[&str]) -> Mount<'_> {
        // Not within what may be mounted; and in a folder of its own, since tests open that to other users.
        let around = tempfile::Builder::new().prefix("mnt").tempdir().unwrap();
        let root = around.path().join("at");
        std::fs::create_dir(&root).unwrap();
        let log = self.path("log");
        let at = root.display().to_string();
        let everywhere = std::env::var("MOUNT_OPTIONS").unwrap_or_default();
        let name = |option: &str| option.split('=').next().unwrap_or_default().to_owned();
        let everywhere: Vec<&str> =
            everywhere.split_whitespace().filter(|option| !options.iter().any(|own| *own == name(option))).collect();
        let args = [&["mount", "--log-file", log, self.path(folder), &at], options, &everywhere].concat();
        let mount = self.command(&args);
        let mut through = Command::new(program.first().map_or(mount.get_program(), OsStr::new));
        if let Some((_, more)) = program.split_first() {
            through.args(more).arg(mount.get_program());
        }
        let output = through.args(mount.get_args()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        self.mountpoints.lock().unwrap().push(at);
        Mount { host: self, root, around: Some(around) }
    }

    /// Makes the header in a file of a home say this, as a conversion does; `None`: nothing, as older versions did.
    pub(crate) fn write_state(&self, header: &str, state: Option<StoredState>) {
        datastore::write_state(Path::new(self.path(header)), &Providers::load(&self.config()).unwrap(), state);
        if state.is_none() {
            self.forget_newer();
        }
    }

    /// Makes the home in this header file one that an older version made.
    pub(crate) fn make_old(&self, header: &str) {
        datastore::make_old(Path::new(self.path(header)), &Providers::load(&self.config()).unwrap());
        self.forget_newer();
    }

    /// Makes the home in this header file one without a list of its disks.
    pub(crate) fn make_unlisted(&self, header: &str) {
        datastore::make_unlisted(Path::new(self.path(header)), &Providers::load(&self.config()).unwrap());
        self.forget_newer();
    }

    /// Makes a disk one that an older version made.
    pub(crate) fn make_old_disk(&self, disk: &str) {
        let providers = Providers::load(&self.config()).unwrap();
        let of_none = |header| Header { owner: None, ..header };
        datastore::rewrite(Path::new(self.path(disk)), ComponentKind::Disk, &providers, of_none);
        self.forget_newer();
    }

    /// Takes away this host's memory of what an older version never made: it would say that it has gone back.
    fn forget_newer(&self) {
        for file in ["config/seen", "config/memory.key"] {
            let _ = std::fs::remove_file(self.path(file)); // there may be none yet; without its key the other would count as lost
        }
    }

    /// The events so far, as `vmcryptfs events --json` prints them.
    pub(crate) fn events(&self) -> Vec<serde_json::Value> {
        let printed = self.run(&["events", "--json"]);
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The log of this host's mounts, once nothing was added to it for a moment: a mount writes lines on a thread of their own.
    pub(crate) fn log(&self) -> String {
        let read = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let mut log = read();
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let later = read();
            if later == log {
                break;
            }
            log = later;
        }
        log
    }
}

pub(crate) struct Mount<'h> {
    host: &'h Host,
    root: PathBuf,
    /// The folder of the mountpoint, as long as something is mounted.
    around: Option<TempDir>,
}

impl Mount<'_> {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let printed = self.host.run(&["status", "--json", &self.root().display().to_string()]);
        serde_json::from_str(&printed).unwrap()
    }

    /// Of the process that serves it.
    pub(crate) fn pid(&self) -> i64 {
        self.status()["pid"].as_i64().unwrap()
    }

    /// Unmounts, and fails the test if that fails.
    pub(crate) fn unmount(mut self) {
        // Dropped, and so unmounted lazily, if this fails.
        self.host.run(&["umount", &self.root().display().to_string()]);
        self.around = None;
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        if self.around.is_some() {
            // A test that failed must not leave its mount behind.
            self.host.try_run(&["umount", "--lazy", &self.root.display().to_string()]);
        }
    }
}
