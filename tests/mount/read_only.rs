//! Verbs that are given a path in a read-only mount.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host::Host;

fn all_below(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let content = |path: PathBuf| match path.is_dir() {
        true => all_below(&path),
        false => BTreeMap::from([(path.clone(), fs::read(path).unwrap())]),
    };
    entries.flat_map(content).collect()
}

#[test]
fn what_a_read_only_mount_shows_is_not_changed_while_it_is_mounted() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    host.run(&["create", host.path("vms/web01")]);
    host.run(&["create-disk", host.path("vms/web01/root.raw"), "--size", "1M"]);
    host.run(&["header", "backup", host.path("vms/web01"), host.path("saved")]);
    let mount = host.mount("vms", &["-o", "ro"]);
    let before = all_below(Path::new(host.path("vms")));
    let at = |below: &str| mount.path(below).display().to_string();
    let (vm, disk, new) = (at("web01"), at("web01/root.raw"), at("new"));
    for verb in [
        &["create", &new][..],
        &["create-disk", &at("web01/q.raw"), "--size", "1M"],
        &["disk-names", &vm, "--add", "x*"],
        &["rekey", &vm],
        &["rekey", "--deep", &disk],
        &["encrypt", &vm],
        &["decrypt", &vm, "--disk", "root.raw"],
        &["convert", &disk, "--to", "home-file"],
        &["upgrade", &vm],
        &["adopt", &vm],
        &["adopt", &disk],
        &["clone", host.path("vms/web01"), &new],
        &["key", "add", &vm, "--provider", "local"],
        &["key", "remove", &disk, "--provider", "local"],
        &["header", "repair", &disk],
        &["header", "restore", &vm, host.path("saved")],
        &["erase", "--yes", &disk],
        &["accept-rollback", &vm],
    ] {
        host.refuses(verb, 10, "is in a read-only mount, on ");
    }
    assert!(all_below(Path::new(host.path("vms"))) == before);
    for reads in [&["info", &vm][..], &["check", &disk], &["disk-names", &vm], &["key", "list", &disk]] {
        host.run(reads);
    }
    // By its backing path neither: the mount's process has its keys, and says that nothing is written there.
    for verb in [&["create-disk", host.path("vms/web01/q.raw"), "--size", "1M"][..], &["rekey", host.path("vms/web01")]]
    {
        host.refuses(verb, 10, "mounted read-only");
    }
    mount.unmount();
    host.run(&["create-disk", host.path("vms/web01/q.raw"), "--size", "1M"]);
}
