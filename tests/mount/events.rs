//! What is recorded of keys and locks.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use serde_json::Value;

use crate::host::Host;

/// The events of one operation.
fn of<'e>(events: &'e [Value], operation: &str) -> Vec<&'e Value> {
    events.iter().filter(|event| event["operation"] == operation).collect()
}

#[test]
fn what_was_done_is_recorded_with_user_key_and_result() {
    let host = Host::with_vm();
    host.refuses(&["create", host.path("web01")], 9, "exists already");
    host.refuses(&["create", host.path("web02"), "--provider", "nobody"], 8, "nobody");
    host.run(&["provider", "add", "native", "other"]);
    fs::rename(host.path("config/keys/other.key"), host.path("away")).unwrap();
    host.refuses(&["create", host.path("web02"), "--provider", "other"], 4, "other.key");
    host.mount("web01", &[]).unmount();
    let events = host.events();
    let added = of(&events, "provider-add");
    assert_eq!((&added[0]["provider"], &added[0]["result"]), (&"local".into(), &"ok".into()), "{added:?}");
    let created = of(&events, "create");
    assert_eq!(created.len(), 4, "{created:?}");
    assert_eq!(
        (created[0]["component"].as_str(), created[0]["result"].as_str()),
        (Some(host.path("web01")), Some("ok"))
    );
    assert_eq!(created[0]["vsphere_event"], "com.vmware.vc.crypto.Operation");
    assert!(created[0]["key_id"].as_str().is_some_and(|id| !id.is_empty()) && created[0]["uuid"].is_string());
    assert_eq!(created[1]["result"], "failed");
    assert!(created[1]["reason"].as_str().unwrap().contains("exists already"), "{}", created[1]);
    assert_eq!((&created[2]["result"], &created[2]["vsphere_event"]), (&"failed".into(), &Value::Null));
    assert_eq!(created[3]["vsphere_event"], "com.vmware.vc.kms.crypto.KeyGenerateFail");
    let disk = of(&events, "create-disk");
    assert_eq!(
        (disk[0]["component"].as_str(), disk[0]["provider"].as_str()),
        (Some(host.path("web01/root.raw")), Some("local"))
    );
    assert_eq!((of(&events, "mount").len(), of(&events, "unmount").len()), (1, 1));
    let user = if rustix::process::geteuid().is_root() { Some("root") } else { None };
    for event in &events {
        assert!(user.is_none_or(|user| event["user"] == user), "{event}");
        assert!(event["time"].as_str().unwrap().ends_with('Z') && event["pid"].is_u64(), "{event}");
    }
    let mode = fs::metadata(host.path("events.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o027, 0, "others may not read it: {mode:o}");
}

#[test]
fn events_are_filtered_as_asked() {
    let host = Host::with_vm();
    host.refuses(&["create", host.path("web01")], 9, "exists already");
    let lines = |args: &[&str]| host.run(args).lines().count();
    assert_eq!(lines(&["events"]), 4);
    assert_eq!(lines(&["events", "--failed"]), 1);
    assert_eq!(lines(&["events", host.path("web01/root.raw")]), 1);
    assert_eq!(lines(&["events", "--last", host.path("web01")]), 2);
    assert_eq!(lines(&["events", "--since", "1h"]), 4);
    assert_eq!(lines(&["events", "--since", "2999-01-01"]), 0);
    let none = host.try_run(&["events", host.path("web02")]);
    assert!(none.status.success() && none.stdout.is_empty(), "{none:?}");
    assert!(String::from_utf8_lossy(&none.stderr).contains("web02: no event in the log"), "{none:?}");
    assert!(host.run(&["events", "--failed"]).contains("exists already"));
}

#[test]
fn an_event_that_cannot_be_written_is_told_and_stops_nothing() {
    let host = Host::new();
    fs::remove_file(host.path("events.jsonl")).unwrap();
    fs::create_dir(host.path("events.jsonl")).unwrap();
    let made = host.try_run(&["create", host.path("web01")]);
    let said = String::from_utf8_lossy(&made.stderr).into_owned();
    assert!(made.status.success() && said.contains("event create is not recorded"), "{said}");
}

#[test]
fn locks_and_damage_of_a_mount_are_recorded_once() {
    const MAIN: u64 = 274_432; // of a home file's first block: docs/FORMAT.md section 9
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("notes.txt"), [7; 4096]).unwrap();
    fs::write(mount.path("made.raw"), "x").unwrap();
    let at = mount.root().display().to_string();
    host.run(&["lock", &at]);
    host.run(&["unlock", &at, "root.raw"]);
    mount.unmount();
    let file = fs::File::options().write(true).open(host.path("web01/notes.txt")).unwrap();
    file.write_all_at(b"forged", MAIN).unwrap();
    let mount = host.mount("web01", &[]);
    for _ in 0..3 {
        assert_eq!(fs::read(mount.path("notes.txt")).unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    mount.unmount();

    let events = host.events();
    let made: Vec<&str> = of(&events, "create-disk").iter().filter_map(|event| event["component"].as_str()).collect();
    assert_eq!(made, [host.path("web01/root.raw"), host.path("web01/made.raw")]);
    assert_eq!(of(&events, "lock").len(), 3, "a home and two disks");
    let unlocked: Vec<&str> = of(&events, "unlock").iter().filter_map(|event| event["component"].as_str()).collect();
    let (home, root, made) = (host.path("web01"), host.path("web01/root.raw"), host.path("web01/made.raw"));
    assert_eq!(unlocked[..3], [home, root, root], "two when it was mounted first, one by command");
    assert_eq!(unlocked[3..].len(), 3, "{unlocked:?}");
    assert!(unlocked[3..].contains(&made));
    let damage = of(&events, "integrity");
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_eq!(damage[0]["component"], host.path("web01/notes.txt"));
    assert_eq!(damage[0]["vsphere_event"], "com.vmware.vc.crypto.IntegrityCheckFailed");
}

#[test]
fn forged_blocks_that_are_read_in_a_loop_do_not_flood_the_logs() {
    const MAIN: u64 = 274_432;
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("notes.txt"), vec![7; 64 * 4096]).unwrap();
    mount.unmount();
    let backing = fs::File::options().write(true).open(host.path("web01/notes.txt")).unwrap();
    (0..64).for_each(|block| backing.write_all_at(b"forged", MAIN + block * 4096).unwrap());
    fs::write(host.path("log"), "").unwrap();
    let mount = host.mount("web01", &[]);
    let file = fs::File::open(mount.path("notes.txt")).unwrap();
    for at in (0..64).chain(0..64) {
        let error = file.read_at(&mut [0; 4096], at * 4096).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    }
    for _ in 0..50 {
        // As any user of the mount can: a value that does not fit, whose name would begin a line.
        let name = "user.a\n2026-01-01T00:00:00Z ERROR forged";
        let set = rustix::fs::setxattr(mount.path("notes.txt"), name, &[0; 60_000], rustix::fs::XattrFlags::empty());
        assert!(set.is_err());
    }
    drop(file);
    mount.unmount();
    let log = host.log();
    let about = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let told = (about("ERROR read notes.txt"), about("read notes.txt: 63 more failures of this kind"));
    assert_eq!(told, (1, 1), "{log}");
    assert!(log.lines().count() < 10 && !log.lines().any(|line| line.starts_with("2026-01-01")), "{log}");
    let damage = host.events();
    let damage = of(&damage, "integrity");
    assert_eq!(damage.len(), 2, "{damage:?}");
    assert_eq!(damage[1]["reason"], "and 63 more failures of this kind");
    assert!(damage.iter().all(|event| event["component"] == host.path("web01/notes.txt")), "{damage:?}");
}

#[test]
fn the_event_log_proves_that_nothing_in_it_is_missing_or_changed() {
    let host = Host::with_vm();
    host.mount("web01", &[]).unmount();
    let json = || serde_json::from_str::<Value>(&host.run(&["events", "verify", "--json"])).unwrap();
    let chains = json();
    assert_eq!((&chains[0]["first"]["sequence"], &chains[1]["first"]["sequence"]), (&1.into(), &1.into()), "{chains}");
    assert!(chains[0]["linked"] == 5 && chains[1]["linked"] == 2, "two verbs' and two that were unlocked: {chains}");
    let noted = chains[1]["last"]["hash"].as_str().unwrap();
    let said = host.run(&["events", "verify", "--expect", noted]);
    assert!(said.contains("events.jsonl: 6 events are linked, 1 of 20") && said.contains(noted), "{said}");
    assert_eq!(of(&host.events(), "events-verify").len(), 2, "it is an event itself");
    // As an administrator could do to hide something.
    let (log, reads) = (host.path("events.jsonl"), host.path("events-reads.jsonl"));
    let text = fs::read_to_string(log).unwrap();
    fs::write(log, text.replace("\"create-disk\"", "\"create\"")).unwrap();
    host.refuses(&["events", "verify", "--json"], 3, "event 3 of 20");
    fs::write(log, text.lines().skip(3).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    assert_eq!(json()[0]["first"]["sequence"], 4, "as after a rotation");
    let text = fs::read_to_string(reads).unwrap();
    fs::write(reads, text.lines().take(1).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    json();
    host.refuses(&["events", "verify", "--expect", noted], 3, "no event has the hash");
    let failed = host.events();
    let failed = of(&failed, "events-verify").into_iter().filter(|event| event["result"] == "failed").count();
    assert_eq!(failed, 1, "the other one was in what was put back");
}

/// Makes a file whose header only looks right: a disk's, with the beginning of its key's id replaced, and of its UUID.
pub(crate) fn forge_disk(disk: &Path, key_id: &str, id: &[u8], forged: &Path) {
    const CHECKSUM: usize = 8160; // docs/FORMAT.md section 2
    let mut header = vec![0; 8192];
    fs::File::open(disk).unwrap().read_exact_at(&mut header, 0).unwrap();
    let key = header.windows(key_id.len()).position(|bytes| bytes == key_id.as_bytes()).unwrap();
    header[24..32].copy_from_slice(&id[..8]);
    header[key..key + id.len()].copy_from_slice(id);
    let checksum = vmcryptfs::crypto::derive::sha256(&header[..CHECKSUM]);
    header[CHECKSUM..].copy_from_slice(&checksum);
    let file = fs::File::create(forged).unwrap();
    file.write_all_at(&header, 0).unwrap();
    file.set_len(9 << 20).unwrap();
}

#[test]
fn forged_disks_with_unknown_keys_do_not_flood_the_logs() {
    const COUNT: usize = 300;
    let host = Host::with_vm();
    let key_id = host.events()[2]["key_id"].as_str().unwrap().to_owned();
    for number in 0..COUNT {
        let (disk, forged) = (host.path("web01/root.raw"), host.path(&format!("web01/forged-{number}.raw")));
        forge_disk(Path::new(disk), &key_id, format!("{number:08x}").as_bytes(), Path::new(forged));
    }
    let before = host.events().len();
    let mount = host.mount("web01", &[]);
    fs::read(mount.path("root.raw")).unwrap();
    for number in 0..COUNT {
        assert!(fs::read(mount.path(&format!("forged-{number}.raw"))).is_err());
    }
    mount.unmount();
    let events = host.events();
    let failed = |operation: &str| {
        let mut all = of(&events, operation);
        all.retain(|event| event["result"] == "failed");
        all
    };
    for operation in ["fetch-key", "unlock"] {
        let failed = failed(operation);
        assert_eq!(failed.len(), 17, "16 by name, and how many more: {failed:?}");
        let more = failed[16]["reason"].as_str().unwrap();
        assert_eq!(more, format!("and {} more failures of this kind", COUNT - 16));
    }
    assert!(events.len() < before + 50, "{}", events.len());
    let log = host.log();
    assert!(log.lines().count() < 3 * COUNT / 2, "each file that was opened is in the log once, up to a limit: {log}");
    host.try_run(&["check", host.path("web01")]);
    let events = host.events();
    let checked = of(&events, "check");
    assert_eq!(checked.last().unwrap()["reason"], format!("and {} more components have a problem", COUNT - 256));
}

#[test]
fn a_missing_primary_key_is_a_fault_of_this_host() {
    let host = Host::with_vm();
    fs::rename(host.path("config/keys/local.key"), host.path("config/keys/away")).unwrap();
    let mount = host.mount("web01", &[]);
    let status = host.run(&["status", &mount.root().display().to_string()]);
    assert!(status.contains("2 components are locked: ") && status.contains("\n  root.raw\n"), "{status}");
    host.refuses(&["unlock", &mount.root().display().to_string()], 4, "remain locked");
    fs::rename(host.path("config/keys/away"), host.path("config/keys/local.key")).unwrap();
    host.run(&["unlock", &mount.root().display().to_string()]);
    let status = host.run(&["status", &mount.root().display().to_string()]);
    assert!(status.contains("2 components were locked: ") && status.contains("\n  root.raw at 20"), "{status}");
    mount.unmount();
    let events = host.events();
    let failed = |operation: &str| {
        let all = of(&events, operation).into_iter();
        all.filter(|event| event["result"] == "failed").collect::<Vec<_>>()
    };
    let fetched = failed("fetch-key");
    assert_eq!(fetched.len(), 1, "the same failure again is no news: {fetched:?}");
    assert_eq!(fetched[0]["vsphere_event"], "com.vmware.vc.host.Crypto.SendKeyError.HostError");
    assert_eq!(failed("unlock").len(), 2);
    assert_eq!(failed("unlock")[0]["vsphere_event"], "com.vmware.vc.vm.Crypto.VMLocked.KeyMissingOnHost");
}
