//! How a mount is asked for: by mount(8) and fstab, for folders that may not be meant, with keys that are missing; and paths of
//! either side, which every verb takes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::host::Host;

/// A directory of the host.
fn folder(host: &Host, name: &str) -> &'static str {
    let path = host.path(name);
    fs::create_dir_all(path).unwrap();
    path
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn options_of(mountpoint: &str) -> String {
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().rfind(|line| line.split(' ').nth(1) == Some(mountpoint)).unwrap();
    line.split(' ').nth(3).unwrap().to_owned()
}

fn is_mounted(mountpoint: &str) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().lines().any(|line| line.split(' ').nth(1) == Some(mountpoint))
}

/// Runs the program under a name, as mount(8) does, with the host's settings as words of `-o`.
fn called(host: &Host, name: &str, arguments: &[&str], options: &str) -> Output {
    let own = format!("{options},config={},log-file={}", host.path("config/config.toml"), host.path("log"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs"));
    command.arg0(name).args(arguments).args(["-o", &own]).output().unwrap()
}

#[test]
fn mount_and_fstab_find_it() {
    let host = Host::with_vm();
    let (vm, at) = (host.path("web01"), folder(&host, "at"));
    let words =
        "rw,relatime,noexec,nosuid,nodev,_netdev,nofail,user,comment=x,X-mount.mkdir,,transport=dev-fuse,wait=30s";
    let callers: [(&str, Vec<&str>); 3] = [
        ("/sbin/mount.fuse.vmcryptfs", vec![vm, at, "-n", "-s", "-t", "fuse.vmcryptfs"]),
        ("mount.vmcryptfs", vec![vm, at]),
        ("vmcryptfs", vec![vm, at]),
    ];
    for (name, arguments) in callers {
        let output = called(&host, name, &arguments, words);
        assert!(output.status.success() && said(&output).is_empty(), "{name}: {}", said(&output));
        assert!(options_of(at).split(',').any(|word| word == "noexec"), "{}", options_of(at));
        fs::write(Path::new(at).join(name.replace('/', "-")), "x").unwrap();
        host.run(&["umount", at]);
    }
    assert!(called(&host, "mount.vmcryptfs", &[vm, at, "-f"], "rw").status.success());
    assert!(!is_mounted(at), "it was only to be tried");
    let refused = called(&host, "mount.vmcryptfs", &[vm, at], "rw,transport=pigeon");
    assert!(refused.status.code() == Some(2) && said(&refused).contains("pigeon"), "{}", said(&refused));
}

#[test]
fn the_last_of_contradicting_options_counts() {
    let host = Host::with_vm();
    for (options, writable) in [("ro,rw", true), ("rw,ro", false)] {
        let mount = host.mount("web01", &["-o", options]);
        assert_eq!(fs::write(mount.path("file"), "x").is_ok(), writable, "{options}");
        assert_eq!(options_of(mount.root().to_str().unwrap()).starts_with("rw"), writable, "{options}");
        mount.unmount();
    }
}

#[test]
fn a_folder_that_holds_no_vm_is_mounted_only_when_that_is_meant() {
    let host = Host::with_vm();
    let (vms, at) = (folder(&host, "vms"), folder(&host, "at"));
    host.mount("vms", &[]).unmount();
    fs::create_dir(host.path("vms/lost+found")).unwrap();
    host.mount("vms", &[]).unmount();
    fs::write(host.path("vms/notes"), "text").unwrap();
    let refused = host.try_run(&["mount", vms, at]);
    assert_eq!(refused.status.code(), Some(8), "{}", said(&refused));
    for way in ["encrypt", "header restore", "--empty"] {
        assert!(said(&refused).contains(way), "{}", said(&refused));
    }
    assert!(!is_mounted(at));
    host.mount("vms", &["--empty"]).unmount();
    host.mount("vms", &["-o", "empty"]).unmount();
    host.run(&["create", host.path("vms/web02")]);
    host.mount("vms", &[]).unmount();

    fs::rename(host.path("web01/vmcryptfs.home"), host.path("home")).unwrap();
    host.refuses(&["mount", host.path("web01"), at], 8, "header restore");
}

#[test]
fn a_mount_is_no_source_and_a_mountpoint_has_one_mount() {
    let host = Host::new();
    let vms = folder(&host, "vms");
    host.run(&["create", host.path("vms/web01")]);
    let at = folder(&host, "at");
    let mount = host.mount("vms", &[]);
    for shown in [mount.root().to_path_buf(), mount.path("web01")] {
        host.refuses(&["mount", shown.to_str().unwrap(), at], 2, "mount the backing folder");
    }
    let there = mount.root().to_str().unwrap().to_owned();
    host.refuses(&["mount", vms, &there], 6, "is mounted on");
    host.refuses(&["mount", host.path("vms/web01"), &there], 6, "already");
    mount.unmount();
}

#[test]
fn what_is_locked_or_damaged_is_said_at_the_mount() {
    let host = Host::with_vm();
    let (vm, at) = (host.path("web01"), folder(&host, "at"));
    let (key, away) = (host.path("config/keys/local.key"), host.path("config/keys/away"));
    let mount =
        |options: &[&str]| host.try_run(&[&["mount", "--log-file", host.path("log"), vm, at], options].concat());
    let one_line = |output: &Output, words: &str| {
        let said = said(output);
        assert!(said.contains(words) && said.trim().lines().count() == 1, "{said}");
    };

    fs::rename(key, away).unwrap();
    let locked = mount(&[]);
    assert!(locked.status.success());
    one_line(&locked, "2 of 2 components are locked: ");
    one_line(&locked, &format!("vmcryptfs status {at}"));
    host.run(&["umount", at]);
    let required = mount(&["--require-unlocked", "--wait", "1s"]);
    assert_eq!(required.status.code(), Some(4));
    one_line(&required, "2 of 2 components are locked: ");
    assert!(!is_mounted(at));

    let start = Instant::now();
    let back = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        fs::rename(away, key).unwrap();
    });
    let waited = mount(&["-o", "require-unlocked,wait=60s"]);
    back.join().unwrap();
    assert!(waited.status.success() && said(&waited).is_empty(), "{}", said(&waited));
    assert!(start.elapsed() >= Duration::from_secs(2));
    host.run(&["umount", at]);

    let disk = fs::File::options().write(true).open(host.path("web01/root.raw")).unwrap();
    for copy in [0, 4 << 20] {
        disk.write_all_at(&[0x55; 4096], copy + 200).unwrap();
    }
    let damaged = mount(&["--wait", "60s"]);
    assert!(damaged.status.success() && start.elapsed() < Duration::from_secs(50), "nothing to wait for");
    one_line(&damaged, "1 of 2 components is damaged: ");
    host.run(&["umount", at]);
    assert_eq!(mount(&["--require-unlocked"]).status.code(), Some(4));
}

#[test]
fn a_signal_ends_the_wait_for_keys() {
    let host = Host::with_vm();
    let (vm, at) = (host.path("web01"), folder(&host, "at"));
    fs::rename(host.path("config/keys/local.key"), host.path("config/keys/away")).unwrap();
    let mut command = host.command(&["mount", "--foreground", "--wait", "60s", vm, at]);
    let mut waiting = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let catches_term = || {
        let status = fs::read_to_string(format!("/proc/{}/status", waiting.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() >> (libc::SIGTERM - 1) & 1 == 1
    };
    let begun = Instant::now();
    while !catches_term() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not wait yet");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(waiting.try_wait().unwrap(), None, "it waits");
    let start = Instant::now();
    let pid = rustix::process::Pid::from_child(&waiting);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    while waiting.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "it waits still");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = waiting.wait_with_output().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(12), "{}", said(&output));
    assert!(said(&output).contains("nothing is mounted") && !is_mounted(at), "{}", said(&output));
}

/// The paths by which verbs know one thing: in the backing folder, in a mount of its datastore, and relative to either.
fn either_side(mount: &Path, host: &Host, below: &str) -> [PathBuf; 2] {
    [PathBuf::from(host.path("vms")).join(below), mount.join(below)]
}

#[test]
fn every_verb_takes_paths_of_either_side() {
    let host = Host::new();
    folder(&host, "vms");
    host.run(&["create", host.path("vms/web01")]);
    host.run(&["create-disk", host.path("vms/web01/root.raw"), "--size", "1M"]);
    let mount = host.mount("vms", &[]);
    let run = |arguments: &[&str], path: &Path| host.run(&[arguments, &[path.to_str().unwrap()]].concat());
    let whole = [["info", "--json"], ["check", "--json"], ["status", "--json"]];
    host.run(&["check", host.path("vms")]); // which this host has not seen before
    for below in ["", "web01", "web01/root.raw"] {
        let [backing, mounted] = either_side(mount.root(), &host, below);
        for verb in whole {
            assert_eq!(run(&verb, &backing), run(&verb, &mounted), "{verb:?} {below}");
        }
    }
    let status: serde_json::Value =
        serde_json::from_str(&run(&["status", "--json"], &mount.path("web01/root.raw"))).unwrap();
    assert_eq!(status["components"].as_array().unwrap().len(), 1);

    let [backing, mounted] = either_side(mount.root(), &host, "web01/root.raw");
    assert_eq!(run(&["key", "list", "--json"], &backing), run(&["key", "list", "--json"], &mounted));
    assert!(!run(&["events", "--json"], &mounted).is_empty());
    host.run(&["header", "backup", mounted.to_str().unwrap(), host.path("saved")]);

    for path in either_side(mount.root(), &host, "web01") {
        assert!(run(&["lock"], &path).contains("locked"));
        assert!(fs::read_dir(mount.path("web01")).unwrap().next().is_some());
        assert!(fs::write(mount.path("web01/file"), "x").is_err(), "it is locked");
        run(&["unlock"], &path);
        fs::write(mount.path("web01/file"), "x").unwrap();
    }
    run(&["rekey"], &mount.path("web01"));

    run(&["create"], &mount.path("web77"));
    host.run(&["create-disk", mount.path("web77/z.raw").to_str().unwrap(), "--size", "1M"]);
    assert!(Path::new(host.path("vms/web77/vmcryptfs.home")).exists());
    fs::write(mount.path("web77/z.raw"), "x").unwrap();
    host.run(&["erase", "--yes", mount.path("web77/z.raw").to_str().unwrap()]);
    mount.unmount();
}
