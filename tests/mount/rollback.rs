//! Older states that are put back: this host remembers what it saw.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::host::{Host, Mount};

const MIB: usize = 1 << 20;
/// Where the copies of a disk's header lie.
const COPIES: [usize; 2] = [0, 4 * MIB];
const COPY_LEN: usize = 8192;
/// Where the journal of a disk's deep rekey lies.
const JOURNAL: [usize; 4] = [MIB, 2 * MIB, 5 * MIB, 6 * MIB];

/// Pieces of a file: where each lies, and its bytes.
type Pieces = Vec<(usize, Vec<u8>)>;

fn pieces(path: &str, places: &[usize], len: usize) -> Pieces {
    let file = File::open(path).unwrap();
    let piece = |&at: &usize| {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, at as u64).unwrap();
        (at, bytes)
    };
    places.iter().map(piece).collect()
}

fn put(path: &str, pieces: &Pieces) {
    let file = File::options().write(true).open(path).unwrap();
    pieces.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at as u64).unwrap());
}

fn write_disk(host: &Host) {
    let mount = host.mount("web01", &[]);
    let disk = File::options().write(true).open(mount.path("root.raw")).unwrap();
    disk.write_all_at(&vec![0x5a; 24 * MIB], 0).unwrap();
    drop(disk);
    fs::write(mount.path("web01.vmx"), "settings").unwrap();
    mount.unmount();
}

/// The file with the list of the disks of `web01`.
fn list_of(host: &Host) -> String {
    let names = fs::read_dir(host.path("web01")).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    names.into_iter().find(|path| path.contains("/.vmcryptfs-members-")).unwrap()
}

fn refused(result: std::io::Result<impl Sized>) -> bool {
    result.err().is_some_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem)
}

fn open_to_write(mount: &Mount<'_>, name: &str) -> std::io::Result<File> {
    File::options().read(true).write(true).open(mount.path(name))
}

fn events(host: &Host, operation: &str) -> Vec<serde_json::Value> {
    host.events().into_iter().filter(|event| event["operation"] == operation).collect()
}

/// Starts a deep rekey that takes a while, and returns once data of the disk is under the new key.
fn start_deep_rekey(host: &Host, options: &[&str], beyond: u64) -> Child {
    let mut command: Command = host.command(&["rekey", "--deep", host.path("web01"), "--rate", "8M"]);
    let child = command.args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let is_under_way = || {
        thread::sleep(Duration::from_millis(50));
        let printed = host.run(&["info", "--json", host.path("web01/root.raw")]);
        let info: serde_json::Value = serde_json::from_str(&printed).unwrap();
        info[0]["deep_rekey"]["percent"].as_u64().is_some_and(|percent| percent > beyond)
    };
    assert!((0..600).any(|_| is_under_way()), "no deep rekey is under way");
    child
}

/// What `info` says of a component, whose comparison with what the host has seen is this.
fn compared(host: &Host, component: &str, comparison: &str) -> String {
    let info: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", component])).unwrap();
    assert_eq!(info[0]["memory"]["comparison"], comparison, "{info}");
    host.run(&["info", component])
}

#[test]
fn headers_of_before_a_deep_rekey_bring_no_former_key_back() {
    let host = Host::with_vm();
    write_disk(&host);
    let (disk, home) = (host.path("web01/root.raw"), host.path("web01/vmcryptfs.home"));
    let list = list_of(&host);
    let (old_disk, old_home) = (pieces(disk, &COPIES, COPY_LEN), [home, &list].map(|file| fs::read(file).unwrap()));
    host.run(&["rekey", "--deep", host.path("web01")]);
    let (new_disk, new_home) = (pieces(disk, &COPIES, COPY_LEN), [home, &list].map(|file| fs::read(file).unwrap()));
    assert!(host.run(&["check", host.path("web01")]).contains("compared with this host's memory of generation 1"));
    assert!(compared(&host, disk, "same").contains("which agrees"));
    put(disk, &old_disk);
    let older = compared(&host, disk, "older");
    assert!(older.contains("has seen generation 1") && older.contains("OLDER"));

    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("root.raw")).unwrap().len(), 64 * MIB, "it can be read");
    assert!(refused(open_to_write(&mount, "root.raw")));
    fs::write(mount.path("other"), "the home has not gone back").unwrap();
    let status = mount.status();
    let said = status["components"].as_array().unwrap().iter().find(|part| part["kind"] == "disk").unwrap();
    let said = said["gone_back"].as_str().unwrap();
    assert!(said.contains("seen generation 1") && said.contains("there is older: generation 0"), "{said}");
    host.refuses(&["rekey", host.path("web01"), "--disk", "root.raw"], 10, "older");
    mount.unmount();
    let log = host.log();
    assert!(log.lines().any(|line| line.contains("web01/root.raw") && line.contains("seen generation 1")), "{log}");
    let told = events(&host, "rollback");
    assert!(told.len() == 1 && told[0]["result"] == "failed", "{told:?}");
    assert!(told[0]["component"].as_str().unwrap().ends_with("web01/root.raw"), "{told:?}");
    for verb in [&["rekey", "--deep"][..], &["key", "add"], &["convert", "--to", "home-file"], &["check"]] {
        host.refuses(&[verb, &[disk]].concat(), 10, if verb[0] == "check" { "a problem" } else { "older" });
    }
    put(disk, &new_disk);
    assert!(host.run(&["check", host.path("web01")]).contains("generation 1"));

    // Without the list of that time, which is under the former key as well, nothing opens.
    fs::write(home, &old_home[0]).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(open_to_write(&mount, "root.raw").unwrap_err().raw_os_error(), Some(libc::EIO));
    mount.unmount();
    fs::write(&list, &old_home[1]).unwrap();
    let mount = host.mount("web01", &[]);
    assert!(File::open(mount.path("root.raw")).is_ok());
    assert!(refused(open_to_write(&mount, "root.raw")), "whether it belongs there, a list says that has gone back");
    assert!(refused(File::create(mount.path("new"))) && refused(File::create(mount.path("new.raw"))));
    assert!(refused(fs::create_dir(mount.path("folder"))) && refused(fs::remove_file(mount.path("other"))));
    assert!(refused(fs::rename(mount.path("other"), mount.path("b"))));
    assert!(refused(std::os::unix::fs::symlink("a", mount.path("link"))));
    mount.unmount();
    for verb in [&["rekey"][..], &["disk-names"], &["clone"], &["decrypt", "--all"]] {
        let more: &[&str] = match verb[0] {
            "disk-names" => &["--add", "*.x"],
            "clone" => &[host.path("copy")],
            _ => &[],
        };
        host.refuses(&[verb, &[host.path("web01")], more].concat(), 10, "older");
    }
    host.refuses(&["create-disk", host.path("web01/b.raw"), "--size", "1M"], 10, "older");
    fs::write(home, &new_home[0]).unwrap();
    fs::write(&list, &new_home[1]).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read_to_string(mount.path("web01.vmx")).unwrap(), "settings");
    fs::write(mount.path("new"), "x").unwrap();
    mount.unmount();
}

/// A genuine header of the time of a deep rekey still opens what is under the former key.
#[test]
fn a_transition_that_has_ended_is_not_taken_up_again() {
    let host = Host::with_vm();
    write_disk(&host);
    let (disk, home) = (host.path("web01/root.raw"), host.path("web01/vmcryptfs.home"));
    let mut running = start_deep_rekey(&host, &[], 3);
    let (disk_then, home_then) = (pieces(disk, &COPIES, COPY_LEN), fs::read(home).unwrap());
    let journal_then = pieces(disk, &JOURNAL, MIB);
    assert!(running.wait().unwrap().success());
    let (disk_now, home_now) = (pieces(disk, &COPIES, COPY_LEN), fs::read(home).unwrap());

    fs::write(home, &home_then).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read_to_string(mount.path("web01.vmx")).unwrap(), "settings");
    assert!(refused(open_to_write(&mount, "web01.vmx")) && refused(File::create(mount.path("new"))));
    mount.unmount();
    host.refuses(&["rekey", "--deep", host.path("web01")], 10, "older");
    fs::write(home, &home_now).unwrap();

    put(disk, &disk_then);
    put(disk, &journal_then);
    let mount = host.mount("web01", &[]);
    assert!(refused(open_to_write(&mount, "root.raw")));
    mount.unmount();
    host.refuses(&["rekey", "--deep", disk], 10, "older");
    put(disk, &disk_now);
    host.run(&["rekey", "--deep", host.path("web01")]);
}

#[test]
fn a_journal_that_is_put_back_moves_no_cursor() {
    let host = Host::with_vm();
    write_disk(&host);
    let disk = host.path("web01/root.raw");
    let interrupt = |beyond| {
        let mut running = start_deep_rekey(&host, &["--disk", "root.raw"], beyond);
        kill_process(Pid::from_child(&running), Signal::INT).unwrap();
        assert_eq!(running.wait().unwrap().code(), Some(12));
        pieces(disk, &JOURNAL, MIB)
    };
    let early = interrupt(3);
    let late = interrupt(20);
    put(disk, &early);
    let mount = host.mount("web01", &[]);
    assert!(File::open(mount.path("root.raw")).is_ok() && refused(open_to_write(&mount, "root.raw")));
    mount.unmount();
    host.refuses(&["rekey", "--deep", disk], 10, "its deep rekey at byte");
    host.refuses(&["check", disk], 10, "a problem");
    put(disk, &late);
    host.run(&["rekey", "--deep", disk]);
    let mount = host.mount("web01", &[]);
    let content = fs::read(mount.path("root.raw")).unwrap();
    assert!(content[..24 * MIB].iter().all(|&byte| byte == 0x5a));
    mount.unmount();
}

/// As docs/CLI.md, "A restored backup", says.
#[test]
fn a_restored_backup_is_read_only_until_it_is_accepted() {
    let host = Host::with_vm();
    write_disk(&host);
    let backup = [host.path("web01/root.raw"), host.path("web01/vmcryptfs.home")];
    let saved = backup.map(|path| fs::read(path).unwrap());
    host.run(&["rekey", host.path("web01")]);
    host.run(&["rekey", host.path("web01")]);
    backup.iter().zip(&saved).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());

    let mount = host.mount("web01", &[]);
    let reader = File::open(mount.path("root.raw")).unwrap();
    assert!(refused(open_to_write(&mount, "root.raw")));
    let printed = host.run(&["accept-rollback", "--json", host.path("web01/root.raw")]);
    assert!(printed.contains("sequence 1") && !printed.contains("\"home\""), "{printed}");
    open_to_write(&mount, "root.raw").unwrap().write_all_at(b"again", 0).unwrap();
    drop(reader);
    assert!(refused(fs::write(mount.path("web01.vmx"), "b")));
    assert!(host.run(&["accept-rollback", host.path("web01")]).starts_with("Accepted"));
    fs::write(mount.path("web01.vmx"), "b").unwrap();
    assert!(mount.status()["components"].as_array().unwrap().iter().all(|part| part["gone_back"].is_null()));
    mount.unmount();
    let accepted = events(&host, "accept-rollback");
    assert_eq!(accepted.len(), 2, "{accepted:?}");
    assert!(accepted[0]["reason"].as_str().unwrap().contains("this host has seen"), "{accepted:?}");
    assert!(host.run(&["accept-rollback", host.path("web01")]).contains("nothing was to be accepted"));
    host.run(&["rekey", host.path("web01")]);
}

#[test]
fn what_is_done_every_day_goes_back_nowhere() {
    let host = Host::with_vm();
    write_disk(&host);
    let (disk, saved) = (host.path("web01/root.raw"), host.path("saved"));
    host.run(&["provider", "add", "native", "other"]);
    host.run(&["header", "backup", disk, saved]);
    host.run(&["key", "add", "--all", "--provider", "other", host.path("web01")]);
    host.run(&["rekey", host.path("web01")]);
    // The copy in use is lost: the other one says the same.
    for at in COPIES {
        put(disk, &vec![(at, vec![7; COPY_LEN])]);
        let mount = host.mount("web01", &[]);
        open_to_write(&mount, "root.raw").unwrap();
        mount.unmount();
        host.run(&["header", "repair", disk]);
    }
    host.run(&["header", "restore", "--force", disk, saved]);
    let mount = host.mount("web01", &[]);
    open_to_write(&mount, "root.raw").unwrap();
    mount.unmount();
    host.run(&["disk-names", host.path("web01"), "--add", "*.x"]);
    host.run(&["rekey", "--deep", host.path("web01")]);
    host.run(&["key", "remove", "--all", "--provider", "other", host.path("web01")]);
    host.run(&["clone", "--same-keys", host.path("web01"), host.path("web02")]);
    host.run(&["rekey", host.path("web02")]);
    host.run(&["check", host.path("web01")]);
    host.run(&["check", host.path("web02")]);
    assert!(events(&host, "rollback").is_empty());
}

#[test]
fn a_memory_that_is_lost_says_so_and_shuts_nothing_out() {
    let host = Host::with_vm();
    write_disk(&host);
    let memory = host.path("config/seen");
    let said = |args: &[&str]| String::from_utf8(host.try_run(args).stderr).unwrap();
    let check = ["check", host.path("web01")];
    assert_eq!(said(&check), "");
    fs::write(memory, "x").unwrap();
    assert!(said(&check).contains("is lost, and a new memory was begun"));
    assert_eq!(said(&check), "");
    fs::remove_file(memory).unwrap();
    let mount = host.mount("web01", &[]);
    open_to_write(&mount, "root.raw").unwrap();
    mount.unmount();
    assert!(fs::metadata(memory).is_ok(), "what a mount saw is there when it has ended");
    assert!(events(&host, "memory")[0]["reason"].as_str().unwrap().contains("is gone"));
    fs::set_permissions(memory, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(said(&check).contains("chmod 600"));
    assert!(host.try_run(&check).status.success());
}

/// So an older copy that is put back before anything else opens them is noticed.
#[test]
fn what_this_host_has_made_or_encrypted_it_has_seen() {
    let host = Host::new();
    let (made, encrypted, copy) = (host.path("made"), host.path("encrypted"), host.path("copy"));
    host.run(&["create", made]);
    host.run(&["create-disk", host.path("made/root.raw"), "--size", "1M"]);
    fs::create_dir(encrypted).unwrap();
    fs::write(host.path("encrypted/d.raw"), vec![7; MIB]).unwrap();
    fs::write(host.path("encrypted/vm.xml"), "settings").unwrap();
    host.run(&["encrypt", encrypted]);
    host.run(&["clone", encrypted, copy]);
    for vm in [made, encrypted, copy] {
        let said = host.run(&["check", vm]);
        assert_eq!(said.matches("this host's memory of").count(), 2, "{said}");
    }
}
