//! `adopt`: disks that are taken into a VM, and what it refuses before anything is changed.

use std::fs;

use crate::host::Host;

/// The VMs `web01` with `root.raw` and `db01` with `data.raw`.
fn host() -> Host {
    let host = Host::with_vm();
    host.run(&["create", host.path("db01")]);
    host.run(&["create-disk", host.path("db01/data.raw"), "--size", "1M"]);
    host
}

fn list_of(host: &Host, vm: &str) -> String {
    let infos: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", host.path(vm)])).unwrap();
    host.path(&format!("{vm}/.vmcryptfs-members-{}", infos[0]["uuid"].as_str().unwrap())).to_owned()
}

#[test]
fn a_refused_adoption_leaves_the_disk_as_it_was() {
    let host = host();
    let (list, taken) = (list_of(&host, "web01"), host.path("web01/data.raw"));
    let before = fs::read(&list).unwrap();
    host.run(&["create-disk", host.path("web01/more.raw"), "--size", "1M"]);
    fs::write(&list, before).unwrap(); // it has gone back
    fs::rename(host.path("db01/data.raw"), taken).unwrap();
    let disk = fs::read(taken).unwrap();
    host.refuses(&["adopt", taken], 10, "list of");
    assert!(fs::read(taken).unwrap() == disk, "its header was written");
    fs::rename(taken, host.path("db01/data.raw")).unwrap();
    host.run(&["check", host.path("db01")]);
}

#[test]
fn a_copy_of_a_disk_that_another_vm_has_is_refused_with_what_to_do() {
    let host = host();
    let (original, copy) = (host.path("db01/data.raw"), host.path("web01/data.raw"));
    fs::copy(original, copy).unwrap();
    let disk = fs::read(copy).unwrap();
    let clone = format!("`vmcryptfs clone {} NEW_FOLDER`", host.path("db01"));
    for words in ["is a copy of", "db01/data.raw", &clone] {
        host.refuses(&["adopt", copy], 9, words);
    }
    assert!(fs::read(copy).unwrap() == disk);
    host.run(&["check", original]);
    // The advice.
    host.run(&["clone", host.path("db01"), host.path("copy")]);
    fs::rename(host.path("copy/data.raw"), copy).unwrap();
    host.run(&["adopt", copy]);
    host.run(&["check", host.path("web01")]);
    host.run(&["check", host.path("db01")]);
}

#[test]
fn rebuilding_a_list_says_what_becomes_of_each_disk_and_a_dry_run_changes_nothing() {
    let host = Host::with_vm();
    for disk in ["gone", "kept", "erased", "taken"] {
        host.run(&["create-disk", host.path(&format!("web01/{disk}.raw")), "--size", "1M"]);
    }
    let vm = host.path("web01");
    let kept = host.path("web01/kept.raw");
    host.run(&["erase", "--yes", host.path("web01/erased.raw")]);
    fs::remove_file(host.path("web01/gone.raw")).unwrap();
    fs::write(host.path("web01/taken.raw"), vec![0; 9 << 20]).unwrap();
    fs::rename(host.path("web01/root.raw"), host.path("web01/new.raw")).unwrap();
    fs::hard_link(kept, host.path("web01/also.raw")).unwrap();
    let list = list_of(&host, "web01");
    let before = fs::read(&list).unwrap();
    let rehearsed = host.run(&["adopt", "--dry-run", vm, "--forget-disk", "taken.raw"]);
    assert!(fs::read(&list).unwrap() == before, "a dry run changed the list");
    let has_line = |said: &str, name: &str, words: &str| {
        assert!(said.lines().any(|line| line.contains(name) && line.contains(words)), "{name} {words}: {said}");
    };
    for (name, words) in [
        ("gone.raw", "would leave the list: it is not in the folder"),
        ("erased.raw", "would leave the list: it is erased"),
        ("taken.raw", "would leave the list: something else lies there, which stays as it is"),
        ("root.raw", "would become new.raw"),
        ("kept.raw", "would become also.raw, kept.raw"),
        ("web01", "would have 2 disks"),
    ] {
        has_line(&rehearsed, name, words);
    }
    let done = host.run(&["adopt", vm, "--forget-disk", "taken.raw"]);
    has_line(&done, "gone.raw", "leaves the list");
    has_line(&done, "root.raw", "becomes new.raw");
    assert_eq!(done.lines().count(), rehearsed.lines().count());
    assert_eq!(host.run(&["adopt", vm]).lines().count(), 1, "nothing changes any more");
    fs::remove_file(&list).unwrap();
    let lost = host.try_run(&["adopt", vm]);
    assert!(String::from_utf8_lossy(&lost.stderr).contains("The list before cannot be read"), "{lost:?}");
    has_line(&String::from_utf8(lost.stdout).unwrap(), "new.raw", "comes to the list");
    host.refuses(&["adopt", kept, "--forget-disk", kept], 2, "--forget-disk is for a VM folder");
    host.refuses(&["adopt", "--dry-run", kept], 9, "is one of this VM already");
    let renamed = host.path("web01/by-hand.raw");
    fs::rename(kept, renamed).unwrap();
    for (option, words) in
        [(&["--dry-run"][..], "would be one of this VM, by this name; it is called"), (&[], "it was called")]
    {
        let said = host.run(&[&["adopt", renamed], option].concat());
        assert!(said.contains(words) && said.contains("kept.raw"), "{said}");
    }
}

#[test]
fn an_upgrade_that_could_list_no_disks_binds_none() {
    let host = Host::with_vm();
    let (vm, disk, copy) = (host.path("web01"), host.path("web01/root.raw"), host.path("web01/twin.raw"));
    host.make_old("web01/vmcryptfs.home");
    host.make_old_disk("web01/root.raw");
    fs::copy(disk, copy).unwrap();
    let before = fs::read(disk).unwrap();
    host.refuses(&["upgrade", vm], 9, "twin.raw is a copy of disk root.raw");
    assert!(fs::read(disk).unwrap() == before && fs::read(copy).unwrap() == before, "a header was written");
    fs::remove_file(copy).unwrap();
    assert!(host.run(&["upgrade", vm]).contains("1 disk bound"));
}
