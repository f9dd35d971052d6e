//! What others than a mount did to the names and files of a home that has a manifest: it is noticed, and named, until it is accepted.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::process::{Pid, Signal, kill_process};
use vmcryptfs::format::manifest::{Manifest, ManifestVersion};

use crate::host::Host;
use crate::transport::wait_for_the_end_of;

const MANIFEST: &str = "web01/.vmcryptfs-manifest";

/// A VM whose home has a manifest, files at two depths, a link and an attribute.
fn host() -> Host {
    let host = Host::with_vm();
    let mount = host.mount("web01", &["--manifest"]);
    for (name, content) in [("web01.vmx", "settings"), ("web01.nvram", "boot")] {
        fs::write(mount.path(name), content).unwrap();
    }
    for folder in ["logs", "tpm"] {
        fs::create_dir(mount.path(folder)).unwrap();
        fs::write(mount.path(folder).join("state"), folder).unwrap();
    }
    std::os::unix::fs::symlink("web01.vmx", mount.path("link")).unwrap();
    mount.unmount();
    assert!(checked(&host, 0).contains("as its manifest"));
    host
}

fn checked(host: &Host, code: i32) -> String {
    let output = host.try_run(&["check", "--json", host.path("web01")]);
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{printed}");
    let findings: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let home = findings.as_array().unwrap().iter().find(|finding| finding["kind"] == "home").unwrap();
    home["result"].as_str().unwrap().to_owned()
}

fn in_status(mount: &crate::host::Mount<'_>) -> Option<String> {
    let status = mount.status();
    let home = status["components"].as_array().unwrap().iter().find(|component| component["kind"] == "home").unwrap();
    home["manifest"].as_str().map(str::to_owned)
}

fn events(host: &Host) -> Vec<serde_json::Value> {
    host.events().into_iter().filter(|event| event["operation"] == "manifest").collect()
}

/// The kernel sends no request to close what is open when the connection ends, nor one that still waits then.
#[test]
fn a_mount_that_ends_with_open_files_closes_its_manifest() {
    let host = host();
    let backing = host.path("web01/web01.nvram");
    let old = fs::read(backing).unwrap();
    let mount = host.mount("web01", &[]);
    let (pid, file) = (mount.pid(), fs::File::options().write(true).open(mount.path("web01.nvram")).unwrap());
    file.write_all_at(b"later", 0).unwrap();
    file.sync_all().unwrap();
    let _ = Command::new("umount").arg("-f").arg(mount.root()).output().unwrap();
    wait_for_the_end_of(pid);
    drop(file);
    drop(mount);
    checked(&host, 0);
    fs::write(backing, old).unwrap();
    let said = checked(&host, 3);
    assert!(said.contains("web01.nvram is another version of the file"), "{said}");
}

/// It is said by `check`, by `status`, in the log and in an event, also after a mount has sealed the home again; once it is accepted,
/// nothing is said any more.
fn is_noticed(host: &Host, words: &str) {
    let said = checked(host, 3);
    assert!(said.contains(words) && said.contains("accept-rollback"), "{said}");
    let mount = host.mount("web01", &[]);
    let _ = fs::read(mount.path("web01.vmx"));
    let said = in_status(&mount).unwrap();
    assert!(said.contains(words), "{said}");
    fs::write(mount.path("new"), "by this host").unwrap();
    mount.unmount();
    let log = host.log();
    assert!(log.lines().any(|line| line.contains("web01") && line.contains(words)), "{log}");
    let told = events(host);
    let reason = told[0]["reason"].as_str().unwrap();
    assert!(told[0]["result"] == "failed" && reason.contains(words), "{told:?}");
    let said = checked(host, 3);
    assert!(said.contains(words) && !said.contains("new was put in"), "{said}");
    let accepted = host.run(&["accept-rollback", host.path("web01")]);
    assert!(accepted.contains(words), "{accepted}");
    checked(host, 0);
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("new"), "again").unwrap();
    assert_eq!(in_status(&mount), None);
    mount.unmount();
    checked(host, 0);
}

fn exchange(host: &Host, one: &str, other: &str) {
    let [one, other] = [one, other].map(|name| host.path("web01").to_owned() + "/" + name);
    renameat_with(CWD, one.as_str(), CWD, other.as_str(), RenameFlags::EXCHANGE).unwrap();
}

#[test]
fn two_files_that_are_exchanged_are_noticed() {
    let host = host();
    exchange(&host, "web01.vmx", "web01.nvram");
    is_noticed(&host, "web01.nvram and web01.vmx were exchanged");
}

#[test]
fn two_folders_that_are_exchanged_are_noticed() {
    let host = host();
    exchange(&host, "logs", "tpm");
    is_noticed(&host, "the folders logs and tpm were exchanged");
}

#[test]
fn an_older_version_of_a_file_is_noticed() {
    let host = host();
    let backing = host.path("web01/web01.nvram");
    let old = fs::read(backing).unwrap();
    let mount = host.mount("web01", &[]);
    let file = fs::File::options().write(true).open(mount.path("web01.nvram")).unwrap();
    file.write_all_at(b"later", 0).unwrap();
    drop(file);
    mount.unmount();
    checked(&host, 0);
    fs::write(backing, old).unwrap();
    is_noticed(&host, "web01.nvram is another version of the file");
}

/// What a file has is looked at, not how long someone says it is: all that a file system lets a file have takes no longer.
#[test]
fn a_file_that_was_made_endless_is_noticed_and_stops_nobody() {
    let host = host();
    let backing = fs::File::options().write(true).open(host.path("web01/web01.nvram")).unwrap();
    backing.set_len(15 << 40).unwrap();
    assert!(checked(&host, 3).contains("web01.nvram is another version of the file"));
    host.refuses(&["check", "--data", host.path("web01")], 3, "1 of 2 components has a problem");
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("new"), "in time").unwrap();
    mount.unmount();
    assert!(checked(&host, 3).contains("web01.nvram is another version of the file"));
}

/// As one that an editor wrote again from its beginning: its versions count from 1 again.
#[test]
fn an_older_version_of_a_file_that_was_emptied_since_is_noticed() {
    let host = host();
    let backing = host.path("web01/web01.nvram");
    let old = fs::read(backing).unwrap();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("web01.nvram"), "done").unwrap();
    mount.unmount();
    fs::write(backing, old).unwrap();
    is_noticed(&host, "web01.nvram");
}

#[test]
fn a_file_that_is_removed_and_one_that_is_put_in_are_noticed() {
    let host = host();
    fs::remove_file(host.path("web01/tpm/state")).unwrap();
    fs::copy(host.path("web01/web01.vmx"), host.path("web01/copy.vmx")).unwrap();
    assert!(checked(&host, 3).contains("copy.vmx was put in"));
    is_noticed(&host, "tpm/state was removed");
}

#[test]
fn a_manifest_that_is_removed_is_noticed() {
    let host = host();
    fs::remove_file(host.path(MANIFEST)).unwrap();
    is_noticed(&host, "its manifest is gone");
    // Removed on purpose, it stays away in mounts that do not ask for one.
    fs::remove_file(host.path(MANIFEST)).unwrap();
    host.run(&["accept-rollback", host.path("web01")]);
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("new"), "without").unwrap();
    mount.unmount();
    assert!(!Path::new(host.path(MANIFEST)).exists());
    checked(&host, 0);
}

#[test]
fn a_manifest_that_is_put_back_is_noticed() {
    let host = host();
    let old = fs::read(host.path(MANIFEST)).unwrap();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("web01.nvram"), "later").unwrap();
    mount.unmount();
    fs::write(host.path(MANIFEST), old).unwrap();
    is_noticed(&host, "the manifest, or the home as a whole, was put back");
}

#[test]
fn a_manifest_that_is_damaged_or_another_file_of_the_home_is_noticed() {
    for make in [
        |file: &str| fs::write(file, "x").unwrap(),
        |file: &str| {
            fs::copy(Path::new(file).with_file_name("web01.vmx"), file).unwrap();
        },
    ] {
        let host = host();
        make(host.path(MANIFEST));
        is_noticed(&host, "its manifest cannot be used");
    }
}

/// A program in the mount can seal any bytes in a home file, also those of a manifest.
#[test]
fn a_home_file_that_says_what_a_manifest_says_is_none() {
    let host = host();
    let infos: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", host.path("web01")])).unwrap();
    let home = infos[0]["uuid"].as_str().unwrap().parse().unwrap();
    let (logs, notes, entries) = (Vec::new(), Vec::new(), Vec::new());
    let version = ManifestVersion::NEWEST;
    let forged = Manifest { version, home, counter: 99, is_open: true, time: 1, logs, notes, entries };
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("forged"), forged.encode().unwrap()).unwrap();
    mount.unmount();
    fs::rename(host.path("web01/forged"), host.path(MANIFEST)).unwrap();
    is_noticed(&host, "another file of the home lies in its place");
}

/// As docs/CLI.md, "A restored backup", says: all that a backup holds is older, and agrees with itself.
#[test]
fn a_home_that_is_restored_as_a_whole_is_noticed_until_that_is_accepted() {
    let host = host();
    let copy = |from: &str, to: &str| {
        let done = Command::new("cp").args(["-a", "--sparse=always", host.path(from), host.path(to)]).status().unwrap();
        assert!(done.success());
    };
    copy("web01", "backup");
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("web01.nvram"), "later").unwrap();
    mount.unmount();
    fs::remove_dir_all(host.path("web01")).unwrap();
    copy("backup", "web01");
    is_noticed(&host, "the home as a whole, was put back");
}

/// A crash of the mount is no attack: nothing is proven of what it may have changed.
#[test]
fn what_a_killed_mount_changed_is_not_taken_for_someone_elses_work() {
    let host = host();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("web01.nvram"), "later").unwrap();
    fs::rename(mount.path("logs"), mount.path("old-logs")).unwrap();
    kill_process(Pid::from_raw(i32::try_from(mount.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
    drop(mount);
    let said = checked(&host, 0);
    assert!(said.contains("not proven since"), "{said}");
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("web01.nvram")).unwrap(), b"later");
    assert!(in_status(&mount).unwrap().contains("not proven since"));
    mount.unmount();
    let told = events(&host);
    assert!(told.len() == 1 && told[0]["result"] == "ok", "{told:?}");
    assert!(told[0]["reason"].as_str().unwrap().contains("not proven since"), "{told:?}");
    assert!(checked(&host, 0).contains("as its manifest"));
}

/// Only looking at a home does not open its manifest; so a killed mount leaves it closed.
#[test]
fn a_mount_that_only_reads_leaves_all_proven() {
    let host = host();
    let before = fs::read(host.path(MANIFEST)).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("web01.vmx")).unwrap(), b"settings");
    kill_process(Pid::from_raw(i32::try_from(mount.pid()).unwrap()).unwrap(), Signal::KILL).unwrap();
    drop(mount);
    assert_eq!(fs::read(host.path(MANIFEST)).unwrap(), before);
    let mount = host.mount("web01", &["-o", "ro"]);
    assert_eq!(fs::read(mount.path("web01.vmx")).unwrap(), b"settings");
    mount.unmount();
    assert_eq!(fs::read(host.path(MANIFEST)).unwrap(), before);
    // What is done before the first change of a mount is noticed by that.
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("logs/state")).unwrap(), b"logs");
    exchange(&host, "web01.vmx", "web01.nvram");
    fs::write(mount.path("new"), "later").unwrap();
    mount.unmount();
    assert!(checked(&host, 3).contains("were exchanged"));
}

#[test]
fn verbs_that_change_a_home_leave_its_manifest_true() {
    let host = host();
    host.run(&["create-disk", host.path("web01/data.vmdk"), "--size", "1M"]);
    assert!(checked(&host, 0).contains("as its manifest"));
    host.run(&["convert", "--to", "disk", host.path("web01/web01.nvram")]);
    assert!(checked(&host, 0).contains("as its manifest"));
    host.run(&["rekey", "--deep", host.path("web01")]);
    assert!(checked(&host, 0).contains("as its manifest"));
    host.run(&["rekey", host.path("web01")]);
    assert!(checked(&host, 0).contains("as its manifest"));
    // What was found before is not forgotten.
    fs::remove_file(host.path("web01/tpm/state")).unwrap();
    host.run(&["rekey", "--deep", host.path("web01")]);
    assert!(checked(&host, 3).contains("tpm/state was removed (found at"));
    host.run(&["accept-rollback", host.path("web01")]);
    host.run(&["clone", "--same-keys", host.path("web01"), host.path("web02")]);
    assert!(!Path::new(host.path("web02/.vmcryptfs-manifest")).exists());
    host.run(&["check", host.path("web02")]);
    host.run(&["decrypt", "--all", host.path("web01")]);
    assert!(!Path::new(host.path(MANIFEST)).exists());
    assert!(events(&host).is_empty());
}

#[test]
fn a_disk_that_is_adopted_belongs_there() {
    let host = host();
    host.run(&["create", host.path("db01")]);
    host.run(&["create-disk", host.path("db01/data.raw"), "--size", "1M"]);
    fs::copy(host.path("db01/data.raw"), host.path("web01/data.raw")).unwrap();
    fs::remove_file(host.path("db01/data.raw")).unwrap();
    host.run(&["adopt", host.path("web01/data.raw")]);
    checked(&host, 0);
}

#[test]
fn a_refused_adoption_settles_nothing_that_a_manifest_found() {
    let host = host();
    fs::copy(host.path("web01/root.raw"), host.path("web01/twin.raw")).unwrap();
    host.refuses(&["adopt", host.path("web01/twin.raw")], 9, "is a copy of");
    let said = checked(&host, 3);
    assert!(said.contains("twin.raw was put in") || said.contains("twin.raw is now a copy of"), "{said}");
}

#[test]
fn disks_that_a_mount_makes_renames_and_removes_are_as_list_and_manifest_say() {
    let host = host();
    let mount = host.mount("web01", &[]);
    for name in ["a.raw", "c.raw"] {
        fs::File::create(mount.path(name)).unwrap().set_len(1 << 20).unwrap();
    }
    fs::rename(mount.path("a.raw"), mount.path("logs/b.raw")).unwrap();
    fs::remove_file(mount.path("c.raw")).unwrap();
    mount.unmount();
    assert!(checked(&host, 0).contains("as its manifest"));
    host.run(&["adopt", host.path("web01")]);
    assert!(checked(&host, 0).contains("as its manifest"), "the list is rebuilt");
}

#[test]
fn a_vm_folder_goes_with_its_manifest_and_one_that_a_crash_left_is_of_no_new_home() {
    let host = host();
    let (ds, manifest) = (host.path("ds"), host.path("ds/vm/.vmcryptfs-manifest"));
    fs::create_dir(ds).unwrap();
    host.run(&["create", host.path("ds/vm")]);
    for _ in 0..2 {
        let mount = host.mount("ds", &["--manifest"]);
        if Path::new(manifest).exists() {
            fs::remove_file(mount.path("vm/file")).unwrap();
            fs::remove_dir(mount.path("vm")).unwrap();
        } else {
            fs::write(mount.path("vm/file"), "content").unwrap();
        }
        mount.unmount();
    }
    assert_eq!(fs::read_dir(ds).unwrap().count(), 0);
    fs::create_dir(host.path("ds/vm")).unwrap();
    fs::copy(host.path(MANIFEST), manifest).unwrap();
    host.run(&["create", host.path("ds/vm")]);
    assert!(!Path::new(manifest).exists());
}

/// Two mounts of one VM: the first that ends does not close what the other one changes.
#[test]
fn a_home_that_two_mounts_use_is_closed_by_the_last() {
    let host = host();
    let (one, other) = (host.mount("web01", &[]), host.mount("web01", &[]));
    fs::write(one.path("a"), "a").unwrap();
    fs::write(other.path("b"), "b").unwrap();
    let held = fs::File::open(other.path("b")).unwrap();
    one.unmount();
    drop(held);
    fs::write(other.path("c"), "c").unwrap();
    other.unmount();
    assert!(checked(&host, 0).contains("as its manifest"));
}

/// Nothing of a home is written without the option, and a locked home with a manifest keeps its names.
#[test]
fn without_the_option_there_is_no_manifest() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("a"), "a").unwrap();
    mount.unmount();
    assert!(!Path::new(host.path(MANIFEST)).exists());
    let mount = host.mount("web01", &["--manifest=1"]);
    fs::write(mount.path("b"), "b").unwrap();
    let root = mount.root().display().to_string();
    host.run(&["lock", &root]);
    assert!(fs::remove_file(mount.path("b")).is_err());
    host.run(&["unlock", &root]);
    fs::remove_file(mount.path("b")).unwrap();
    mount.unmount();
    assert!(checked(&host, 0).contains("as its manifest"));
}

/// A log that was cut short or written again is whole in itself: only what lies elsewhere shows it.
#[test]
fn an_event_log_that_was_cut_or_written_again_disagrees_with_the_home() {
    let host = host();
    let (log, verify) = (host.path("events.jsonl"), ["events", "verify", "--home", host.path("web01")]);
    assert!(host.run(&verify).contains("the home vouches for all up to event"));
    let lines: Vec<String> = fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
    let write =
        |lines: &[String]| fs::write(log, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    write(&lines[..2]);
    host.run(&verify[..2]);
    host.refuses(&verify, 3, "which the home vouches for");
    fs::remove_file(log).unwrap();
    (0..lines.len()).for_each(|_| _ = host.run(&verify[..2]));
    host.refuses(&verify, 3, "which the home vouches for");
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("new"), "sealed again").unwrap();
    mount.unmount();
    host.run(&verify);
    host.run(&["create", host.path("db01")]);
    host.refuses(&["events", "verify", "--home", host.path("db01")], 8, "no manifest");
}

#[test]
fn a_home_that_is_not_as_its_manifest_says_is_neither_cloned_nor_decrypted() {
    let host = host();
    let [vm, copy] = ["web01", "copy"].map(|name| host.path(name));
    exchange(&host, "web01.vmx", "web01.nvram");
    for verb in [&["clone", vm, copy][..], &["decrypt", "--all", vm], &["decrypt", "--all", "--dry-run", vm]] {
        host.refuses(verb, 3, "web01.nvram and web01.vmx were exchanged");
    }
    let said = checked(&host, 3);
    assert!(said.contains("were exchanged"), "the refusals forget nothing: {said}");
    host.run(&["accept-rollback", vm]);
    host.run(&["clone", vm, copy]);
    host.run(&["decrypt", "--all", vm]);
}
