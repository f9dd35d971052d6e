//! Every verb takes a path of a mount for the backing path that it shows.

use std::fs;

use crate::host::Host;

#[test]
fn verbs_take_a_path_of_the_mount_or_of_the_backing_folder() {
    let host = Host::with_vm();
    let backing = host.path("web01");
    fs::create_dir(host.path("ds")).unwrap();
    fs::rename(backing, host.path("ds/web01")).unwrap();
    let mount = host.mount("ds", &[]);
    let shown = |below: &str| mount.path(below).display().to_string();
    let (vm, disk, backing) = (shown("web01"), shown("web01/root.raw"), host.path("ds/web01"));

    for below in ["web01/made.raw", "web01/f.img", "web01/g.img"] {
        host.run(&["create-disk", &shown(below), "--size", "1M"]);
    }
    for verb in [
        vec!["info", &vm],
        vec!["info", &disk],
        vec!["check", &vm],
        vec!["check", "--only-clear", &vm],
        vec!["key", "list", &disk],
        vec!["key", "in-use", "--provider", "local", &vm],
        vec!["rekey", &vm, "--disk", &shown("web01/f.img")],
        vec!["rekey", &vm, "--deep", "--disk", &shown("web01/f.img")],
        vec!["disk-names", &vm],
        vec!["header", "repair", &vm],
        vec!["header", "backup", &disk, host.path("saved")],
        vec!["header", "restore", &disk, host.path("saved")],
        vec!["events", &vm],
        vec!["status", &vm],
        vec!["lock", &vm],
        vec!["unlock", backing],
        vec!["clone", &vm, &shown("web02")],
        vec!["decrypt", &vm, "--disk", &shown("web01/f.img")],
        vec!["encrypt", &vm, "--disk", "f.img", "--dry-run"],
        vec!["encrypt", &vm, "--disk", "f.img"],
        vec!["erase", &shown("web01/g.img"), "--yes"],
    ] {
        host.run(&verb);
    }
    assert!(fs::exists(host.path("ds/web02/vmcryptfs.home")).unwrap(), "a clone lies in the backing folder");

    // A verb that cannot work during the mount names the backing path.
    let mounted = format!("{backing} is mounted on {}", mount.root().display());
    host.refuses(&["decrypt", &vm, "--all"], 6, &mounted);
    host.refuses(&["convert", &shown("web01/made.raw"), "--to", "home-file"], 6, &mounted);
    host.refuses(&["mount", &vm, host.path("config")], 2, &format!("mount the backing folder, {backing}"));
    host.refuses(&["umount", &vm], 8, &format!("in the mount on {}", mount.root().display()));
    host.refuses(&["umount", backing], 8, &format!("in the mount on {}", mount.root().display()));
    host.run(&["umount", host.path("ds")]);
    assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 0);
}
