//! A mount is itself wherever it shows by now: its process takes down that one and no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
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
    /// `None` for a user that may not mount.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            crate::not_run::not_run("only root can do what this test does");
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

/// Runs something with the mount's process stopped.
fn while_stopped(pid: Pid, work: impl FnOnce()) {
    struct Going(Pid);
    impl Drop for Going {
        fn drop(&mut self) {
            kill_process(self.0, Signal::CONT).unwrap();
        }
    }
    let _going = Going(pid);
    kill_process(pid, Signal::STOP).unwrap();
    work();
}

#[test]
fn what_a_stopped_mount_shows_is_found_without_asking_it() {
    let host = two_vms();
    let mount = host.mount("web01", &[]);
    let pid = pid_of(&host, mount.root().to_str().unwrap());
    let link = host.path("link");
    std::os::unix::fs::symlink(mount.root(), link).unwrap();
    while_stopped(pid, || {
        let began = Instant::now();
        let below = mount.path("root.raw");
        std::thread::scope(|scope| {
            for path in [mount.root().to_str().unwrap(), below.to_str().unwrap(), link, &format!("{link}/root.raw")] {
                for verb in ["status", "lock", "unlock"] {
                    let (host, path) = (&host, path.to_owned());
                    scope.spawn(move || host.refuses(&[verb, &path], 6, "no answer in 5 s: the process is stopped"));
                }
            }
            scope.spawn(|| host.refuses(&["rekey", mount.root().to_str().unwrap()], 6, "does not answer"));
            scope.spawn(|| host.refuses(&["mount", host.path("web02"), mount.root().to_str().unwrap()], 6, "already"));
        });
        assert!(began.elapsed() < LIMIT, "{:?}", began.elapsed());
    });
    mount.unmount();
}

#[test]
fn of_two_mounts_made_at_once_on_one_mountpoint_one_is_there() {
    let host = two_vms();
    for _ in 0..4 {
        let dir = tempfile::Builder::new().prefix("mnt").tempdir().unwrap();
        let at = dir.path().to_str().unwrap();
        let start = |vm| {
            let mut command = host.command(&["mount", "--log-file", host.path("log"), host.path(vm), at]);
            command.stderr(std::process::Stdio::piped()).spawn().unwrap()
        };
        let outputs = [start("web01"), start("web02")].map(|child| child.wait_with_output().unwrap());
        let mut codes = outputs.each_ref().map(|output| output.status.code());
        codes.sort_unstable();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap().matches(&format!(" {at} ")).count();
        host.run(&["umount", at]);
        assert_eq!((codes, mounts), ([Some(0), Some(6)], 1), "{outputs:?}");
        assert!(
            outputs.iter().any(|output| String::from_utf8_lossy(&output.stderr).contains("already")),
            "{outputs:?}"
        );
    }
}

#[test]
fn a_mount_whose_process_has_just_died_is_said_to_be_dead() {
    let host = two_vms();
    let dir = tempfile::Builder::new().prefix("mnt").tempdir().unwrap();
    let at = dir.path().to_str().unwrap();
    let pid = mounted(&host, "web01", at);
    fs::metadata(at).unwrap(); // the kernel knows it for a while
    kill_process(pid, Signal::KILL).unwrap();
    host.refuses(&["mount", host.path("web01"), at], 6, &format!("has died: use `vmcryptfs umount --lazy {at}` first"));
    host.run(&["umount", "--lazy", at]);
}

#[test]
fn a_mount_that_shows_elsewhere_is_told_of_when_one_place_is_unmounted() {
    let Some(private) = Private::new() else { return };
    let host = two_vms();
    let (at, bound) = (private.folder("at"), private.folder("bound"));
    let pid = mounted(&host, "web01", at);
    mount_bind(at, bound).unwrap();
    host.refuses(&["umount", at], 6, &format!("still shows on {bound}"));
    assert!(!is_mounted(at, host.path("web01")));
    host.run(&["umount", bound]);
    assert!(has_ended(pid));
}

#[test]
fn what_ends_fusermount_is_said() {
    if !rustix::process::geteuid().is_root() {
        crate::not_run::not_run("only root can do what this test does");
        return;
    }
    let host = two_vms();
    let (bin, at) = (host.path("bin"), host.path("at"));
    [bin, at].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let program = format!("{bin}/fusermount3");
    for (text, words) in [("kill -9 $$", "it was ended by signal 9"), ("exit 3", "it said nothing (exit status: 3)")] {
        fs::write(&program, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mount = host.command(&["mount", "-f", host.path("web01"), at]);
        let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
        // Without this right it is fusermount3 that mounts.
        let output = Command::new("setpriv")
            .arg("--bounding-set=-sys_admin")
            .arg(mount.get_program())
            .args(mount.get_args())
            .env("PATH", path)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{said}");
    }
}
