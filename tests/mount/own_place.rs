//! A mount is itself wherever it shows by now: its process takes down that one and no other.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, mount_move, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::host::Host;

const LIMIT: Duration = Duration::from_secs(20);

/// A directory whose mounts no other one shows, so that they can be moved; and what is mounted in it goes with it.
struct Private(TempDir);

impl Private {
    /// `None` for who may not mount.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = tempfile::Builder::new().prefix("mnt").tempdir().unwrap();
        mount_bind(dir.path(), dir.path()).unwrap();
        mount_change(dir.path(), MountPropagationFlags::PRIVATE).unwrap();
        Some(Self(dir))
    }

    /// A folder in it, for the program's arguments. Leaked: a test has a handful.
    fn folder(&self, name: &str) -> &'static str {
        let path = self.0.path().join(name);
        fs::create_dir_all(&path).unwrap();
        Box::leak(path.display().to_string().into_boxed_str())
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

fn is_mounted(at: &str, source: &str) -> bool {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    table.lines().any(|line| line.starts_with(&format!("{source} {at} ")))
}

fn mounted(host: &Host, folder: &str, at: &str) -> Pid {
    host.run(&["mount", "--log-file", host.path("log"), host.path(folder), at]);
    pid_of(host, at)
}

fn pid_of(host: &Host, at: &str) -> Pid {
    let status: serde_json::Value = serde_json::from_str(&host.run(&["status", "--json", at])).unwrap();
    Pid::from_raw(status["pid"].as_i64().unwrap().try_into().unwrap()).unwrap()
}

fn has_ended(pid: Pid) -> bool {
    let path = format!("/proc/{}", pid.as_raw_nonzero());
    let began = Instant::now();
    while Path::new(&path).exists() {
        if began.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn end(pid: Pid) {
    kill_process(pid, Signal::TERM).unwrap();
    assert!(has_ended(pid), "the process stays");
}

fn two_vms() -> Host {
    let host = Host::new();
    ["web01", "web02"].iter().for_each(|vm| drop(host.run(&["create", host.path(vm)])));
    host
}

#[test]
fn a_signal_takes_down_the_own_mount_wherever_it_is_and_no_other() {
    let Some(private) = Private::new() else { return };
    let host = two_vms();
    let (at, moved, bound) = (private.folder("up/at"), private.folder("moved"), private.folder("bound"));
    let (first, second) = (host.path("web01"), host.path("web02"));

    let pid = mounted(&host, "web01", at);
    mount_move(at, moved).unwrap();
    let other = mounted(&host, "web02", at);
    assert_eq!(pid_of(&host, moved), pid);
    end(pid);
    assert!(is_mounted(at, second) && !is_mounted(moved, first));

    // The folder above has another name, and the mount shows in two places.
    fs::rename(private.folder("up"), private.0.path().join("renamed")).unwrap();
    mount_bind(private.folder("renamed/at"), bound).unwrap();
    end(other);
    assert!(!is_mounted(private.folder("renamed/at"), second) && !is_mounted(bound, second));

    // Beneath another one it cannot be reached by its path, and that one is not taken instead.
    let hidden = mounted(&host, "web01", moved);
    mount_bind(private.folder("bound"), moved).unwrap();
    kill_process(hidden, Signal::TERM).unwrap();
    let began = Instant::now();
    while !host.log().contains("is hidden by another one") {
        assert!(began.elapsed() < LIMIT, "{}", host.log());
    }
    host.refuses(&["umount", moved], 6, "is hidden by another one");
    let options = |line: &str| line.split(' ').nth(4) == Some(moved);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap().lines().filter(|line| options(line)).count(), 2);
    Command::new("umount").arg(moved).status().unwrap();
    end(hidden);
}
