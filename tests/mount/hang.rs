//! Whatever goes away that a mount only tells something to, or works with: its requests are answered, and it is there as a whole
//! or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::Host;

/// By which nothing is left that could still be waited for.
const LIMIT: Duration = Duration::from_secs(20);

/// A mount whose process the test has started itself, in the foreground.
struct Served {
    process: Child,
    at: TempDir,
}

impl Served {
    fn is_there(at: &Path) -> bool {
        fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&format!(" {} ", at.display()))
    }

    /// Starts a mount of `web01`, whose process is made by `command` of the program's arguments.
    fn spawn(host: &Host, transport: &str, command: impl FnOnce(&[&str]) -> Command) -> Self {
        let at = tempfile::Builder::new().prefix("mnt").tempdir_in(host.path("")).unwrap();
        let (config, mountpoint) = (host.path("config/config.toml"), at.path().to_str().unwrap());
        let args = ["--config", config, "mount", "-f", "--transport", transport, host.path("web01"), mountpoint];
        let process = command(&args).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { process, at }
    }

    /// As [`Self::spawn`], and waits until it is there.
    fn start(host: &Host, transport: &str, command: impl FnOnce(&[&str]) -> Command) -> Self {
        let mut served = Self::spawn(host, transport, command);
        let began = Instant::now();
        while host.try_run(&["status", served.at.path().to_str().unwrap()]).status.code() != Some(0) {
            assert!(served.process.try_wait().unwrap().is_none(), "the mount's process ended");
            assert!(began.elapsed() < LIMIT, "the mount does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        served
    }

    /// Does something with the mount, which has to come to an end.
    fn within_limit<T: Send + 'static>(&mut self, work: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
        let (done, on_done) = channel();
        let root = self.at.path().to_path_buf();
        std::thread::spawn(move || done.send(work(root)));
        on_done.recv_timeout(LIMIT).unwrap_or_else(|error| {
            let _ = self.process.kill(); // frees all that wait for it
            panic!("no end in {LIMIT:?}: {error}");
        })
    }

    fn wait_for_end(&mut self) {
        let began = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < LIMIT, "the mount's process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Unmounts, and waits for the process.
    fn end(mut self, host: &Host) {
        host.run(&["umount", self.at.path().to_str().unwrap()]);
        self.wait_for_end();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if Self::is_there(self.at.path()) {
            let _ = self.process.kill();
            let _ = Command::new("umount").arg("-l").arg(self.at.path()).output();
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs"));
    command.args(args);
    command
}

/// By a shell: what it does first, and where the program's standard error goes.
fn by_shell(first: &str, to: &str, args: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{first} exec \"$0\" \"$@\" 2>{to}")).arg(env!("CARGO_BIN_EXE_vmcryptfs")).args(args);
    command
}

pub(crate) fn transports() -> Vec<&'static str> {
    let rings = fs::read_to_string("/sys/module/fuse/parameters/enable_uring").is_ok_and(|text| text.trim() == "Y");
    if rings { vec!["dev-fuse", "io-uring"] } else { vec!["dev-fuse"] }
}

/// More refusals than there are threads, by each way that a request takes; each has a line of the log.
fn be_refused(mount: &mut Served) {
    mount.within_limit(|root| {
        for _ in 0..40 {
            let reserved = fs::create_dir(root.join("vmcryptfs.home")).unwrap_err();
            assert_eq!(reserved.raw_os_error(), Some(libc::EPERM));
            let damaged = File::open(root.join("damaged")).unwrap().read_exact_at(&mut [0; 16], 0).unwrap_err();
            assert_eq!(damaged.raw_os_error(), Some(libc::EIO));
        }
        fs::write(root.join("new"), "answered").unwrap();
        assert_eq!(fs::read(root.join("new")).unwrap(), b"answered");
    });
}

/// A host with a VM in which one home file was forged.
fn host_with_damage() -> Host {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("damaged"), [7; 20_000]).unwrap();
    mount.unmount();
    let file = File::options().read(true).write(true).open(host.path("web01/damaged")).unwrap();
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    for byte in &mut bytes[len / 4..] {
        *byte ^= u8::from(*byte != 0);
    }
    file.write_all_at(&bytes, 0).unwrap();
    host
}

#[test]
fn log_lines_that_cannot_be_written_decide_over_no_request() {
    let host = host_with_damage();
    for transport in transports() {
        for to in ["/dev/full", "&-"] {
            let mut mount = Served::start(&host, transport, |args| by_shell("", to, args));
            be_refused(&mut mount);
            mount.end(&host);
        }
        for is_read in [false, true] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(&[b'.'; 60 << 10]).unwrap(); // of the 64 KiB that it holds
            let mut mount = Served::start(&host, transport, |args| {
                let mut command = program(args);
                command.stderr(writer);
                command
            });
            let reader = Some(reader).filter(|_| is_read);
            be_refused(&mut mount);
            mount.end(&host);
            drop(reader);
        }
    }
}

/// The log, and then a disk, at the longest that a file may be.
#[test]
fn a_limit_on_the_length_of_files_is_an_error_to_the_writer_and_ends_nothing() {
    let host = host_with_damage();
    for transport in transports() {
        let log = host.path("long");
        fs::write(log, vec![b'.'; 4 << 20]).unwrap();
        let mut mount = Served::start(&host, transport, |args| by_shell("ulimit -f 8192;", &format!(">{log}"), args));
        be_refused(&mut mount);
        let error = mount.within_limit(|root| {
            let disk = File::options().write(true).open(root.join("root.raw")).unwrap();
            disk.write_all_at(&[1; 4096], 32 << 20).unwrap_err()
        });
        assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
        mount.end(&host);
    }
}

/// How many of 200 turns fail, in each of which something is asked of each kind of thread.
fn failures_of_use(root: &Path, names: &str) -> usize {
    let disk = File::options().read(true).write(true).open(root.join("root.raw"));
    let turn = |turn: u64| -> std::io::Result<()> {
        fs::create_dir(root.join(format!("{names}-{turn}")))?;
        fs::read_dir(root)?.for_each(drop);
        disk.as_ref().map_err(|error| error.kind())?.write_all_at(&[1; 4096], turn << 12)
    };
    (0..200).filter(|number| turn(*number).is_err()).count()
}

/// Each thread that a mount has, failing once.
#[test]
fn a_thread_that_fails_costs_a_request_or_the_mount_and_leaves_nothing_half_dead() {
    let host = Host::with_vm();
    for transport in transports() {
        let own = if transport == "dev-fuse" { &["reader:20", "follower:1", "watcher:60"][..] } else { &["ring:20"] };
        let repaired = ["request:30", "handler:5", "control:1", "unlock:1"].map(|place| (place, true));
        let fatal = ["relay-in:5", "fuser:3"].iter().chain(own).map(|place| (*place, false));
        for (place, is_repaired) in repaired.into_iter().chain(fatal) {
            let failing = |args: &[&str]| {
                let mut command = program(args);
                command.env("VMCRYPTFS_FAIL_AT", place);
                command
            };
            let mut mount = match is_repaired {
                true => Served::start(&host, transport, failing),
                // Under load it may have ended before it answers.
                false => Served::spawn(&host, transport, failing),
            };
            comes_true("it is mounted", || {
                Served::is_there(mount.at.path()) || mount.process.try_wait().unwrap().is_some()
            });
            let names = format!("{transport}-{place}");
            let failures = mount.within_limit(move |root| failures_of_use(&root, &names));
            if is_repaired {
                assert!(failures <= 1, "{transport}, {place}: {failures} turns failed");
                mount.end(&host);
            } else {
                mount.wait_for_end();
                assert!(!Served::is_there(mount.at.path()), "{transport}, {place}: it is still mounted");
            }
        }
    }
}

fn send(pid: i64, signal: i32) {
    let sent = Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status().unwrap();
    assert!(sent.success(), "signal {signal}");
}

/// Waits until something is so.
fn comes_true(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn signals_that_ask_for_no_end_end_nothing() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let pid = mount.pid();
    let idle = [libc::SIGUSR2, libc::SIGALRM, libc::SIGQUIT, libc::SIGPIPE, libc::SIGXCPU, libc::SIGTSTP];
    for signal in idle.into_iter().chain([libc::SIGVTALRM, libc::SIGPROF, libc::SIGIO, libc::SIGPWR, 34, 64]) {
        send(pid, signal);
    }
    send(pid, libc::SIGUSR1);
    comes_true("the state is in the log", || host.log().contains("2 components, 0 of them locked"));
    // As logrotate does it.
    fs::rename(host.path("log"), host.path("log.1")).unwrap();
    send(pid, libc::SIGHUP);
    comes_true("the log is reopened", || host.log().contains("the log is reopened"));
    assert_eq!(mount.pid(), pid);
    fs::write(mount.path("notes"), "still there").unwrap();
    let is_allowed =
        Command::new("sh").args(["-c", "echo -900 2>/dev/null >/proc/self/oom_score_adj"]).status().unwrap();
    if is_allowed.success() {
        let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        assert!(score.trim().parse::<i32>().unwrap() <= -900, "{score}");
    }
    let at = mount.root().to_path_buf();
    send(pid, libc::SIGTERM);
    comes_true("the mount is taken down", || !Served::is_there(&at));
}

#[test]
fn a_mount_that_does_not_answer_holds_up_only_what_needs_it_and_is_named() {
    let host = Host::with_vm();
    host.run(&["create", host.path("web02")]);
    let mount = host.mount("web01", &[]);
    let pid = mount.pid();
    send(pid, libc::SIGSTOP);
    let began = Instant::now();
    let other = host.try_run(&["rekey", host.path("web02")]);
    let took = began.elapsed();
    let own = host.try_run(&["rekey", host.path("web01")]);
    send(pid, libc::SIGCONT);
    assert!(other.status.success() && took < Duration::from_secs(4), "{took:?}");
    let said = String::from_utf8_lossy(&own.stderr).into_owned();
    assert!(own.status.code() == Some(6) && said.contains(mount.root().to_str().unwrap()), "{said}");
    host.run(&["rekey", host.path("web01")]);
    mount.unmount();
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_mount() {
    let host = Host::with_vm();
    let (fifo, at) = (host.path("fifo"), host.path("at"));
    fs::create_dir(at).unwrap();
    assert!(Command::new("mkfifo").arg(fifo).status().unwrap().success());
    host.refuses(&["mount", "--log-file", fifo, host.path("web01"), at], 1, "opening log file");
    // With a reader there is a mount, and what the pipe does not hold is lost.
    let reader = File::options().read(true).write(true).open(fifo).unwrap();
    host.run(&["-vv", "mount", "--log-file", fifo, host.path("web01"), at]);
    for _ in 0..1000 {
        assert!(fs::create_dir(format!("{at}/vmcryptfs.home")).is_err());
    }
    fs::write(format!("{at}/notes"), "x").unwrap();
    host.run(&["umount", at]);
    drop(reader);
}

#[test]
fn umount_returns_when_the_process_has_closed_all_its_files() {
    let host = Host::with_vm();
    for _ in 0..4 {
        let mount = host.mount("", &[]);
        let files = format!("/proc/{}/fd", mount.pid());
        mount.unmount();
        let left: Vec<_> = fs::read_dir(&files).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn umount_says_at_once_that_the_process_is_stopped() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let pid = mount.pid();
    send(pid, libc::SIGSTOP);
    let began = Instant::now();
    let output = host.try_run(&["umount", mount.root().to_str().unwrap()]);
    let took = began.elapsed();
    send(pid, libc::SIGCONT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(6), "{said}");
    assert!(said.contains(&format!("process {pid} of the mount is stopped")), "{said}");
    assert!(took < Duration::from_secs(10), "{took:?}");
    comes_true("it ends", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_mount_whose_process_has_died_is_known_as_one() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let at = mount.root().to_str().unwrap().to_owned();
    let open = File::open(mount.path("root.raw")).unwrap();
    send(mount.pid(), libc::SIGKILL);
    comes_true("it is dead", || fs::metadata(&at).is_err());
    let how = format!("its process has died: `vmcryptfs umount --lazy {at}` first");
    // By its mountpoint, by what is mounted there, and by what lies in that.
    for path in [at.as_str(), host.path("web01"), host.path("web01/root.raw")] {
        for verb in ["status", "lock", "unlock", "metrics"] {
            host.refuses(&[verb, path], 1, &how);
        }
    }
    host.refuses(&["mount", host.path("web01"), &at], 6, "has died");
    host.refuses(&["umount", &at], 6, "--lazy");
    host.run(&["umount", "--lazy", host.path("web01")]);
    assert!(!Served::is_there(Path::new(&at)));
    host.refuses(&["lock", host.path("web01")], 8, "no VM folder or datastore is mounted on");
    drop(open);
    drop(mount);
    host.mount("web01", &[]).unmount();
}
