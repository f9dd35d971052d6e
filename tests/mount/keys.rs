//! Keys change while a mount and its guests go on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vmcryptfs::storage::claims::{Claim, Claims, FileLocks};

use crate::host::Host;

fn json(printed: &str) -> serde_json::Value {
    serde_json::from_str(printed).unwrap()
}

/// Wrapped DEKs of a disk's two header copies are told apart by what surrounds the key id of their slots.
fn header_copies_hold(host: &Host, disk: &str, text: &str) -> bool {
    let file = File::open(host.path(disk)).unwrap();
    [0, 4 << 20].into_iter().any(|offset| {
        let mut copy = [0; 8192];
        file.read_exact_at(&mut copy, offset).unwrap();
        copy.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn a_rekey_under_running_io_loses_nothing_and_leaves_no_former_slot() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/closed.raw"), "--size", "1M"]);
    let mount = host.mount("web01", &[]);
    let former = json(&host.run(&["info", "--json", host.path("web01/root.raw")]))[0]["keys"][0]["key_id"].clone();
    let disk = File::options().read(true).write(true).open(mount.path("root.raw")).unwrap();
    let running = AtomicBool::new(true);
    thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut rounds = 0_u64;
            while running.load(Ordering::Relaxed) {
                let block = [u8::try_from(rounds % 251).unwrap(); 4096];
                let at = rounds % 1000 * 4096;
                disk.write_all_at(&block, at).unwrap();
                let mut back = [0; 4096];
                disk.read_exact_at(&mut back, at).unwrap();
                assert_eq!(back, block);
                rounds += 1;
            }
            rounds
        });
        for _ in 0..5 {
            let rekeyed = json(&host.run(&["rekey", "--json", host.path("web01")]));
            assert_eq!(rekeyed["components"].as_array().unwrap().len(), 3);
        }
        running.store(false, Ordering::Relaxed);
        assert!(guest.join().unwrap() > 0);
    });
    for name in ["web01/root.raw", "web01/closed.raw"] {
        assert!(!header_copies_hold(&host, name, former.as_str().unwrap()), "{name}");
    }
    drop(disk);
    mount.unmount();
    host.run(&["check", host.path("web01")]);
    let mount = host.mount("web01", &[]);
    assert!(File::open(mount.path("root.raw")).is_ok() && File::open(mount.path("closed.raw")).is_ok());
    mount.unmount();
}

#[test]
fn a_vm_of_a_datastore_is_rekeyed_by_its_mount_via_either_path() {
    let host = Host::new();
    host.run(&["provider", "add", "native", "other"]);
    std::fs::create_dir(host.path("vms")).unwrap();
    host.run(&["create", host.path("vms/web01")]);
    host.run(&["create-disk", host.path("vms/web01/root.raw"), "--size", "1M"]);
    let mount = host.mount("vms", &[]);
    let open = File::open(mount.path("web01/root.raw")).unwrap();
    let mounted = mount.path("web01").display().to_string();
    for (folder, provider) in [(host.path("vms/web01"), "other"), (mounted.as_str(), "local")] {
        let rekeyed = json(&host.run(&["rekey", "--json", folder, "--provider", provider]));
        assert_eq!(rekeyed["key"]["provider"], provider);
    }
    host.refuses(&["rekey", host.path("vms")], 2, "expected one of its VM folders");
    host.refuses(&["rekey", host.path("vms/web01"), "--provider", "gone"], 8, "new key from provider gone");
    host.refuses(&["rekey", host.path("vms/web01"), "--disk", "no.raw"], 8, "no.raw");
    drop(open);
    mount.unmount();
}

/// By the process of the mount and without one, with its data and without.
#[test]
fn only_the_disk_that_is_named_is_rekeyed() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/data.raw"), "--size", "1M"]);
    let (vm, disk) = (host.path("web01"), host.path("web01/data.raw"));
    let rekeyed = |args: &[&str]| {
        let printed = host.run(&[args, &["--json"]].concat());
        let value = json(printed.lines().last().unwrap());
        let paths =
            value["components"].as_array().unwrap().iter().map(|part| part["path"].as_str().unwrap().to_owned());
        paths.collect::<Vec<_>>()
    };
    assert_eq!(rekeyed(&["rekey", disk]), ["data.raw"]);
    assert_eq!(rekeyed(&["rekey", "--deep", disk]), ["data.raw"]);
    let mount = host.mount("web01", &[]);
    let shown = mount.path("data.raw").display().to_string();
    for path in [disk, &shown] {
        assert_eq!(rekeyed(&["rekey", path]), ["data.raw"]);
        assert_eq!(rekeyed(&["rekey", "--deep", path]), ["data.raw"]);
    }
    mount.unmount();
    assert_eq!(rekeyed(&["rekey", vm]).len(), 3);
    assert!(host.run(&["rekey", disk]).lines().nth(1).unwrap().starts_with(disk));
    host.refuses(&["rekey", disk, "--disk", "root.raw"], 2, "is a disk, expected its VM folder");
    host.refuses(&["rekey", host.path("web01/vmcryptfs.home")], 2, "a home cannot be rekeyed on its own");
    host.refuses(&["key", "add", disk, "--all"], 2, "is a disk, expected its VM folder with --all");
    host.refuses(&["key", "remove", disk, "--all", "--provider", "local"], 2, "is a disk, expected its VM folder");
    host.refuses(&["clone", disk, host.path("copy")], 2, "is a disk");
    host.refuses(&["info", "/nope"], 8, ": No such file or directory\n");
}

#[test]
fn what_someone_else_uses_is_not_rekeyed() {
    let host = Host::with_vm();
    let before = std::fs::read(host.path("web01/vmcryptfs.home")).unwrap();
    let user = File::open(host.path("web01/root.raw")).unwrap();
    assert!(FileLocks.try_claim(&user, Claim::Shared).unwrap());
    host.refuses(&["rekey", host.path("web01")], 6, "root.raw");
    let holder = format!("in use: process {} on host ", std::process::id());
    host.refuses(&["rekey", "--deep", host.path("web01/root.raw")], 6, &holder);
    let events = host.events();
    let reason = events.iter().rev().find_map(|event| event["reason"].as_str()).unwrap();
    assert!(reason.contains(&holder), "{reason}");
    assert_eq!(std::fs::read(host.path("web01/vmcryptfs.home")).unwrap(), before, "refused before anything changed");
    drop(user);
    let mount = host.mount("web01", &["-o", "ro"]);
    host.refuses(&["rekey", host.path("web01")], 10, "read-only");
    mount.unmount();
    host.run(&["rekey", host.path("web01")]);
}

#[test]
fn an_escrow_key_is_added_under_an_open_disk_and_saves_the_vm_when_the_first_is_lost() {
    let host = Host::with_vm();
    host.run(&["provider", "add", "native", "escrow"]);
    let mount = host.mount("web01", &[]);
    let disk = File::options().write(true).open(mount.path("root.raw")).unwrap();
    disk.write_all_at(b"to be saved", 4096).unwrap();
    host.run(&["key", "add", host.path("web01"), "--all", "--provider", "escrow"]);
    host.refuses(&["key", "add", host.path("web01"), "--all", "--provider", "escrow"], 9, "already");
    let listed = json(&host.run(&["key", "list", "--json", host.path("web01")]));
    let providers: Vec<_> = listed.as_array().unwrap().iter().map(|slot| slot["provider"].as_str().unwrap()).collect();
    assert_eq!(providers, ["local", "escrow", "local", "escrow"]);
    assert!(listed.as_array().unwrap().iter().all(|slot| slot["state"] == "active"), "{listed}");
    drop(disk);
    mount.unmount();

    std::fs::remove_file(host.path("config/keys/local.key")).unwrap();
    let listed = json(&host.run(&["key", "list", "--json", host.path("web01")]));
    assert!(listed[0]["problem"].as_str().unwrap().contains("local.key"), "{listed}");
    let mount = host.mount("web01", &[]);
    let mut saved = [0; 11];
    File::open(mount.path("root.raw")).unwrap().read_exact_at(&mut saved, 4096).unwrap();
    assert_eq!(&saved, b"to be saved");
    // What was lost is replaced by a key of the provider that is left.
    host.run(&["rekey", host.path("web01"), "--provider", "escrow"]);
    mount.unmount();
    host.run(&["check", host.path("web01")]);
}

#[test]
fn a_mounted_vm_whose_provider_was_lost_is_saved_by_the_keys_in_memory() {
    let host = Host::with_vm();
    host.run(&["provider", "add", "native", "other"]);
    let mount = host.mount("web01", &[]);
    std::fs::remove_file(host.path("config/keys/local.key")).unwrap();
    host.refuses(&["create", host.path("web02")], 4, "local.key");
    assert!(!std::path::Path::new(host.path("web02")).exists(), "an empty folder is left");
    host.run(&["rekey", host.path("web01"), "--provider", "other"]);
    mount.unmount();
    host.run(&["check", host.path("web01")]);
}

#[test]
fn slots_are_removed_and_the_last_one_stays() {
    let host = Host::with_vm();
    host.run(&["provider", "add", "native", "escrow"]);
    let disk = host.path("web01/root.raw");
    host.refuses(&["key", "remove", disk, "--provider", "local"], 7, "last key");
    host.run(&["key", "add", disk, "--provider", "escrow"]);
    let in_use = json(&host.run(&["key", "in-use", "--json", "--provider", "local", host.path("web01")]));
    let lost: Vec<_> = in_use["components"].as_array().unwrap().iter().map(|user| user["lost"].clone()).collect();
    assert_eq!(lost, [true, false], "the home has no other key, the disk has");
    host.run(&["key", "remove", disk, "--provider", "local"]);
    host.refuses(&["key", "remove", disk, "--provider", "local"], 8, "no slot of provider local");
    let key = json(&host.run(&["key", "list", "--json", disk]))[0]["key_id"].as_str().unwrap().to_owned();
    let in_use = json(&host.run(&["key", "in-use", "--json", &key, host.path("web01")]));
    assert_eq!(in_use["components"][0]["path"], "root.raw");
    host.refuses(&["key", "in-use", host.path("web01")], 2, "missing key: pass");
    host.run(&["check", host.path("web01")]);
}

#[test]
fn an_erased_disk_is_gone_and_a_saved_header_brings_it_back() {
    let host = Host::with_vm();
    let (disk, backup) = (host.path("web01/root.raw"), host.path("root.header"));
    let mount = host.mount("web01", &[]);
    let guest = File::options().write(true).open(mount.path("root.raw")).unwrap();
    guest.write_all_at(b"content", 0).unwrap();
    host.run(&["header", "backup", disk, backup]);
    host.refuses(&["header", "backup", disk, backup], 9, "root.header");
    host.refuses(&["erase", disk, "--yes"], 6, "in use");
    host.refuses(&["header", "restore", disk, backup], 6, "in use");
    drop(guest);
    host.refuses(&["erase", disk], 2, "--yes");
    let evidence = json(&host.run(&["erase", disk, "--yes", "--json"]));
    let copies = evidence["components"][0]["copies"].as_array().unwrap();
    assert!(copies.len() == 2 && copies.iter().all(|copy| copy["sha256_before"] != copy["sha256_after"]), "{evidence}");
    assert!(evidence["elsewhere"].to_string().contains("root.header"), "{evidence}");
    assert!(File::open(mount.path("root.raw")).is_err(), "the key in the mount's memory went, too");
    mount.unmount();
    host.refuses(&["erase", disk, "--yes"], 8, "erased on ");

    host.refuses(&["header", "restore", disk, backup], 7, "--force");
    // Without the VM's list of disks it cannot be known whether that has a newer header.
    let mut files = std::fs::read_dir(host.path("web01")).unwrap().map(|entry| entry.unwrap().path());
    let list = files.find(|path| path.to_string_lossy().contains(".vmcryptfs-members-")).unwrap();
    std::fs::rename(&list, host.path("list")).unwrap();
    let said = host.run(&["header", "restore", disk, backup, "--force"]);
    assert!(said.contains("`vmcryptfs accept-rollback ") && said.contains("list of disks"), "{said}");
    std::fs::rename(host.path("list"), &list).unwrap();
    let mount = host.mount("web01", &[]);
    let mut content = [0; 7];
    File::open(mount.path("root.raw")).unwrap().read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"content");
    mount.unmount();
}

#[test]
fn a_vm_is_erased_as_a_whole_unless_any_file_of_it_is_open() {
    let host = Host::with_vm();
    let backup = host.path("home.header");
    host.run(&["header", "backup", host.path("web01"), backup]);
    let mount = host.mount("web01", &[]);
    std::fs::write(mount.path("notes.txt"), "secret").unwrap();
    let open = File::open(mount.path("notes.txt")).unwrap();
    host.refuses(&["erase", host.path("web01"), "--yes"], 6, "notes.txt is open");
    drop(open);
    let evidence = json(&host.run(&["erase", host.path("web01"), "--yes", "--json"]));
    assert_eq!(evidence["components"].as_array().unwrap().len(), 2);
    assert!(std::fs::read(mount.path("notes.txt")).is_err());
    mount.unmount();
    std::fs::remove_file(host.path("web01/vmcryptfs.home")).unwrap();
    host.refuses(&["header", "restore", host.path("web01"), backup], 7, "--force");
    host.run(&["header", "restore", host.path("web01"), backup, "--force"]);
    host.run(&["check", host.path("web01")]);
}

#[test]
fn changes_of_keys_leave_events() {
    let host = Host::with_vm();
    host.run(&["provider", "add", "native", "escrow"]);
    host.run(&["rekey", host.path("web01")]);
    host.run(&["key", "add", host.path("web01/root.raw"), "--provider", "escrow"]);
    host.refuses(&["key", "remove", host.path("web01"), "--provider", "local"], 7, "last key");
    let events = host.run(&["events", "--json"]);
    for (operation, result) in [("rekey-shallow", "ok"), ("key-add", "ok"), ("key-remove", "failed")] {
        let found = events.lines().map(json).any(|event| event["operation"] == operation && event["result"] == result);
        assert!(found, "{operation} {result}: {events}");
    }
}

/// Its backing file can be claimed only once.
#[test]
fn a_disk_with_two_names_is_one_component() {
    let host = Host::with_vm();
    std::fs::hard_link(host.path("web01/root.raw"), host.path("web01/same.raw")).unwrap();
    host.run(&["adopt", host.path("web01/same.raw")]);
    let vm = host.path("web01");
    let changed = |args: &[&str]| {
        let printed = host.run(args);
        json(printed.lines().last().unwrap())["components"].as_array().unwrap().len()
    };
    assert_eq!(changed(&["rekey", "--json", vm]), 2, "the home and one disk");
    assert_eq!(changed(&["rekey", "--json", vm, "--disk", "same.raw"]), 1);
    assert_eq!(changed(&["rekey", "--deep", "--json", vm]), 2);
    let mount = host.mount("web01", &[]);
    let disk = File::options().write(true).open(mount.path("same.raw")).unwrap();
    assert_eq!(changed(&["rekey", "--json", vm]), 2, "by the mount");
    assert_eq!(changed(&["rekey", "--deep", "--json", vm, "--disk", "root.raw"]), 1);
    drop(disk);
    mount.unmount();
    host.run(&["provider", "add", "native", "escrow"]);
    assert_eq!(changed(&["key", "add", "--json", vm, "--all", "--provider", "escrow"]), 2);
    assert_eq!(changed(&["erase", "--yes", "--json", vm]), 2);
}
