//! What goes wrong, and how it is said: the messages are those of tests/snapshots/errors.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use crate::host::{Host, Mount};
use crate::snapshot::assert_snapshot;

fn overwrite(path: &str, offset: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

/// Without the provider's key everything is listed and nothing opens.
#[test]
fn a_locked_vm_is_listed_and_says_enokey() {
    let host = Host::with_vm();
    fs::rename(host.path("config/keys/local.key"), host.path("config/keys/away")).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::metadata(mount.path("root.raw")).unwrap().len(), 64 << 20, "the size shows");
    let error = fs::File::open(mount.path("root.raw")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOKEY));
    assert_eq!(fs::write(mount.path("new.raw"), "x").unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    let status = mount.status();
    for component in status["components"].as_array().unwrap() {
        assert_eq!(component["unlocked"], false);
        assert!(component["reason"].as_str().unwrap().contains("local.key"), "{component}");
    }
    mount.unmount();
    host.refuses(&["check", host.path("web01/root.raw")], 4, "1 of 1 component has a problem");
    assert_snapshot("errors", "a_locked_vm_is_listed_and_says_enokey", &host.refusals());
}

#[test]
fn a_locked_vm_is_unlocked_by_command_and_by_itself() {
    let host = Host::with_vm();
    let (key, away) = (host.path("config/keys/local.key"), host.path("config/keys/away"));
    fs::rename(key, away).unwrap();
    let mount = host.mount("web01", &[]);
    let at = mount.root().display().to_string();
    host.refuses(&["unlock", &at], 4, "2 of 2 components remain locked");
    fs::rename(away, key).unwrap();
    host.run(&["unlock", &at]);
    let open = fs::File::open(mount.path("root.raw")).unwrap();
    host.refuses(&["lock", &at], 6, "root.raw is open");
    drop(open);
    host.run(&["lock", &at, "root.raw"]);
    assert_eq!(fs::File::open(mount.path("root.raw")).unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    fs::write(mount.path("notes.txt"), "the home is not locked").unwrap();
    host.refuses(&["unlock", &at, "no-such"], 8, "no-such");
    host.run(&["unlock", &at, "root.raw"]);
    assert!(fs::File::open(mount.path("root.raw")).is_ok());
    mount.unmount();

    fs::rename(key, away).unwrap();
    let mount = host.mount("web01", &[]);
    fs::rename(away, key).unwrap();
    let unlocked = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(100));
        fs::File::open(mount.path("root.raw")).is_ok()
    });
    assert!(unlocked, "{}", host.log());
    mount.unmount();
    assert_snapshot("errors", "a_locked_vm_is_unlocked_by_command_and_by_itself", &host.refusals());
}

#[test]
fn a_vm_that_was_locked_forgets_its_home_too() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("notes.txt"), "x").unwrap();
    host.run(&["lock", &mount.root().display().to_string()]);
    for name in ["notes.txt", "root.raw"] {
        assert_eq!(fs::File::open(mount.path(name)).unwrap_err().raw_os_error(), Some(libc::ENOKEY), "{name}");
    }
    assert_eq!(fs::write(mount.path("new.txt"), "x").unwrap_err().raw_os_error(), Some(libc::ENOKEY));
    mount.unmount();
}

#[test]
fn one_damaged_header_copy_is_survived_two_are_not() {
    let host = Host::with_vm();
    let disk = host.path("web01/root.raw");
    for (offset, survives) in [(0, true), (4 << 20, false)] {
        overwrite(disk, offset, &[0xee; 8192]);
        let mount = host.mount("web01", &[]);
        let opened = fs::File::open(mount.path("root.raw"));
        assert_eq!(opened.is_ok(), survives, "after damage at {offset}: {opened:?}");
        drop(opened);
        mount.unmount();
        // With no copy left its VM's list tells what should be there.
        host.refuses(&["check", disk], 3, "a problem");
    }
    assert_snapshot("errors", "one_damaged_header_copy_is_survived_two_are_not", &host.refusals());
}

#[test]
fn a_slot_from_another_disk_does_not_unlock_this_one() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/other.raw"), "--size", "64M"]);
    let theirs = fs::read(host.path("web01/other.raw")).unwrap();
    let mut header = fs::read(host.path("web01/root.raw")).unwrap()[..8192].to_vec();
    // Everything of the other header's body, under this disk's UUID, with a checksum that fits.
    header[64..8160].copy_from_slice(&theirs[64..8160]);
    let checksum = vmcryptfs::crypto::derive::sha256(&header[..8160]);
    header[8160..].copy_from_slice(&checksum);
    for offset in [0, 4 << 20] {
        overwrite(host.path("web01/root.raw"), offset, &header);
    }
    host.refuses(&["check", host.path("web01/root.raw")], 3, "1 of 1 component");
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::File::open(mount.path("root.raw")).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(fs::File::open(mount.path("other.raw")).is_ok(), "the other disk is none the worse");
    mount.unmount();
    assert_snapshot("errors", "a_slot_from_another_disk_does_not_unlock_this_one", &host.refusals());
}

#[test]
fn a_truncated_disk_is_damage_not_an_empty_disk() {
    let host = Host::with_vm();
    fs::File::options().write(true).open(host.path("web01/root.raw")).unwrap().set_len(5 << 20).unwrap();
    host.refuses(&["check", host.path("web01/root.raw")], 3, "a problem");
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::File::open(mount.path("root.raw")).unwrap_err().raw_os_error(), Some(libc::EIO));
    mount.unmount();
    assert_snapshot("errors", "a_truncated_disk_is_damage_not_an_empty_disk", &host.refusals());
}

#[test]
fn a_read_only_mount_writes_nothing() {
    let host = Host::with_vm();
    let before = fs::metadata(host.path("web01/root.raw")).unwrap().modified().unwrap();
    let mount = host.mount("web01", &["-o", "ro"]);
    let error = fs::File::options().write(true).open(mount.path("root.raw")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(mount.path("root.raw")).unwrap().len(), 64 << 20);
    mount.unmount();
    assert_eq!(fs::metadata(host.path("web01/root.raw")).unwrap().modified().unwrap(), before);
}

#[test]
fn a_second_mount_may_not_write_the_same_disk() {
    let host = Host::with_vm();
    let (first, second) = (host.mount("web01", &[]), host.mount("web01", &["--hand-over", "1s"]));
    let mut writer = fs::File::options().write(true).open(first.path("root.raw")).unwrap();
    let error = fs::File::options().read(true).write(true).open(second.path("root.raw")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    writer.write_all(b"x").unwrap();
    let holder = format!("process {} on host ", first.pid());
    let place = format!(", mounted at {}, has it open since 20", first.root().display());
    let names_holder = |text: &str| text.contains(&holder) && text.contains(&place);
    let (log, events) = (host.log(), host.events());
    assert!(log.lines().any(names_holder), "{log}");
    let refused: Vec<_> = events.iter().filter(|event| event["operation"] == "claim").collect();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(names_holder(refused[0]["reason"].as_str().unwrap()), "{refused:?}");
    assert_eq!(refused[0]["component"], host.path("web01/root.raw"));
    assert_eq!(refused[0]["result"], "failed");
    let held_by = |mount: &Mount<'_>| {
        let status = mount.status();
        let disk = status["components"].as_array().unwrap().iter().find(|part| part["path"] == "root.raw").unwrap();
        disk["held_by"].clone()
    };
    let shown = held_by(&second);
    assert!(names_holder(shown["text"].as_str().unwrap()), "{shown}");
    assert_eq!(
        (&shown["process"], &shown["mountpoint"]),
        (&first.pid().into(), &first.root().display().to_string().into())
    );
    assert!(shown["host"].is_string() && shown["since"].is_string(), "{shown}");
    assert!(host.run(&["status", &second.root().display().to_string()]).lines().any(names_holder));
    assert!(held_by(&first).is_null(), "it is its own");
    drop(writer);
    let next = fs::File::options().write(true).open(second.path("root.raw")).unwrap();
    assert_eq!(held_by(&first)["process"], second.pid());
    assert!(held_by(&second).is_null());
    drop(next);
    first.unmount();
    second.unmount();
}

#[test]
fn mistakes_on_the_command_line_get_one_clear_line() {
    let host = Host::with_vm();
    fs::create_dir(host.path("plain")).unwrap();
    fs::write(host.path("plain/file"), "x").unwrap();
    let disk = |name: &str| host.path(name);
    host.refuses(&["create", disk("plain")], 7, "is not empty");
    host.refuses(&["create", disk("web01")], 9, "exists already");
    host.refuses(&["disk-names", disk("plain/file")], 2, "is a file in no encrypted VM folder");
    host.refuses(&["disk-names", disk("web01/root.raw")], 2, "is a file, expected its VM folder");
    host.refuses(&["create-disk", disk("plain/root.raw"), "--size", "1G"], 7, "is not an encrypted VM folder");
    host.refuses(&["create-disk", disk("web01/root.raw"), "--size", "1G"], 9, "exists already");
    host.refuses(&["create", disk("web09"), "--provider", "nobody"], 8, "nobody");
    host.refuses(&["mount", disk("web01"), disk("missing")], 8, "missing");
    host.refuses(&["mount", disk("missing"), disk("plain")], 8, "missing");
    host.refuses(&["mount", disk("web01"), disk("plain")], 6, "not empty");
    host.refuses(&["mount", disk("web01"), disk("web01/root.raw")], 2, "is not a directory");
    host.refuses(&["status", disk("plain")], 8, "mounted");
    host.refuses(&["umount", disk("plain")], 8, "mounted");
    host.refuses(&["info", disk("plain/file")], 2, "not a vmcryptfs component");
    assert_snapshot("errors", "mistakes_on_the_command_line_get_one_clear_line", &host.refusals());
}

#[test]
fn a_busy_mount_stays_and_says_so() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let open = fs::File::open(mount.path("root.raw")).unwrap();
    host.refuses(&["umount", &mount.root().display().to_string()], 6, "in use");
    drop(open);
    mount.unmount();
    assert_snapshot("errors", "a_busy_mount_stays_and_says_so", &host.refusals());
}

/// `vmcryptfs check web01 | head -n 1`, and a full disk after `>`.
#[test]
fn a_reader_that_stops_early_is_not_an_error_and_a_full_disk_is_one() {
    let host = Host::with_vm();
    for verb in [&["check"][..], &["info"], &["rekey"], &["check", "--json"]] {
        let run = |out: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs"));
            command.args(["--config", host.path("config/config.toml")]).args(verb).arg(host.path("web01"));
            let output = command.stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()), (Some(0), String::new()), "{verb:?}");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let said = "vmcryptfs: writing to standard output: No space left on device\n";
        assert_eq!(run(full.into()), (Some(1), said.to_owned()), "{verb:?}");
    }
}

/// Those that other tests do not meet; each kind of error has one code, in one place.
#[test]
fn exit_codes_are_the_documented_ones() {
    let host = Host::with_vm();
    fs::write(host.path("file"), "").unwrap();
    host.refuses(&["create", host.path("file/web02")], 1, "Not a directory");
    for (name, text) in [("right", "correct horse battery"), ("wrong", "wrong horse battery")] {
        fs::write(host.path(name), text).unwrap();
    }
    let (backup, right, wrong) = (host.path("backup"), host.path("right"), host.path("wrong"));
    host.run(&["provider", "backup", "local", backup, "--passphrase-file", right]);
    host.refuses(&["provider", "backup", "local", backup], 9, "backup exists already"); // before it asks for a passphrase
    host.refuses(&["provider", "restore", "local", backup, "--passphrase-file", wrong], 5, "passphrase");
    overwrite(host.path("web01/root.raw"), 8, &2_u16.to_le_bytes()); // the header's version
    host.refuses(&["rekey", host.path("web01")], 11, "root.raw");
    assert_snapshot("errors", "exit_codes_are_the_documented_ones", &host.refusals());
}

#[test]
fn a_configuration_file_that_is_named_has_to_be_there() {
    let host = Host::new();
    host.run(&["create", host.path("web01")]);
    let (aside, missing, at) = (host.path("aside.toml"), host.config(), host.path("at"));
    std::fs::create_dir(at).unwrap();
    let option = format!("config={}", missing.display());
    let mount = ["mount", host.path("web01"), at, "-o", &option];
    std::fs::rename(&missing, aside).unwrap();
    for verb in [&["provider", "list"][..], &["create", host.path("web02")], &["info", host.path("web01")], &mount] {
        host.refuses(verb, 8, "config/config.toml does not exist");
    }
    std::fs::rename(aside, &missing).unwrap();
    let elsewhere = format!("config={}", host.path("nope.toml"));
    host.refuses(&["mount", host.path("web01"), at, "-o", &elsewhere], 8, "nope.toml does not exist");
}

#[test]
fn a_home_header_that_is_lost_is_brought_back_by_header_restore() {
    let host = Host::with_vm();
    let (vm, disk, header) = (host.path("web01"), host.path("web01/root.raw"), host.path("web01/vmcryptfs.home"));
    let saved = host.path("saved");
    let mount = host.mount("web01", &[]);
    std::fs::write(mount.path("notes"), "x").unwrap();
    mount.unmount();
    host.run(&["header", "backup", vm, saved]);
    let whole = std::fs::read(header).unwrap();
    let copy = host.path("web02");
    let advice = " FILE --force` brings a saved header back";
    type Damage<'d> = &'d dyn Fn();
    let damages: [Damage<'_>; 3] = [
        &|| std::fs::write(header, vec![0x5a; whole.len()]).unwrap(),
        &|| std::fs::write(header, vec![0; whole.len()]).unwrap(),
        &|| std::fs::remove_file(header).unwrap(),
    ];
    for damage in damages {
        damage();
        let is_gone = !std::path::Path::new(header).exists();
        for verb in [
            &["rekey", vm][..],
            &["rekey", "--deep", vm],
            &["clone", vm, copy],
            &["decrypt", vm, "--all"],
            &["convert", host.path("web01/notes")],
            &["key", "list", vm],
            &["key", "add", vm, "--provider", "local"],
            &["create-disk", host.path("web01/new.raw"), "--size", "1M"],
            &["adopt", disk],
            &["upgrade", vm],
            &["disk-names", vm, "--add", "x"],
            &["header", "repair", vm],
            &["header", "backup", vm, host.path("none")],
        ] {
            host.refuses(verb, 3, advice);
        }
        host.refuses(&["encrypt", vm], if is_gone { 7 } else { 3 }, advice);
        if is_gone {
            host.refuses(&["create", vm], 3, advice);
            host.refuses(&["erase", "--yes", vm], 3, advice);
            let info = host.run(&["info", vm]);
            assert!(info.contains(advice), "{info}");
        } else {
            host.refuses(&["header", "restore", vm, saved], 7, "whether this home belongs to the saved header");
        }
        let check = host.try_run(&["check", vm]);
        assert!(check.status.code() == Some(3) && String::from_utf8_lossy(&check.stdout).contains(advice), "{check:?}");
        host.run(&["header", "restore", vm, saved, "--force"]);
        host.run(&["check", vm]);
    }
}

#[test]
fn messages_on_one_component_have_its_path() {
    let host = Host::with_vm();
    let [vm, disk, saved] = ["web01", "web01/root.raw", "saved"].map(|name| host.path(name));
    host.run(&["create-disk", host.path("web01/data.raw"), "--size", "1M"]);
    host.run(&["header", "backup", host.path("web01/data.raw"), saved]);
    host.refuses(&["header", "restore", disk, saved], 7, &format!("{disk}: this is component "));
    host.refuses(&["erase", disk], 2, &format!("refusing to destroy {disk} without"));
    host.refuses(&["erase", vm], 2, &format!("refusing to destroy {vm} without"));
    host.refuses(&["rekey", disk, "--old-generations"], 2, &format!("`vmcryptfs rekey --old-generations {vm}`"));
    std::fs::write(disk, "").unwrap();
    let advice = format!("{disk}: no header copy is left: `vmcryptfs header restore {disk} FILE`");
    host.refuses(&["header", "repair", disk], 2, &advice);
    host.refuses(&["erase", disk, "--yes"], 8, &format!("{disk}: nothing to erase: no header copy is left"));
    let mount = host.mount("web01", &[]);
    let at = mount.root().display().to_string();
    for verb in ["lock", "unlock"] {
        host.refuses(&[verb, &at, "nope"], 8, &format!("{at}: no VM folder or disk nope"));
    }
}
