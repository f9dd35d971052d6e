//! What people copy from what it prints: command lines, paths, and what to do next.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use vmcryptfs::format::header::StoredState;

use crate::host::Host;

/// The command after the last `: ` of what was printed.
fn told(printed: &str) -> &str {
    printed.trim_end().rsplit_once("To remove it: ").unwrap().1
}

#[test]
fn the_command_that_erase_prints_removes_what_was_erased_and_nothing_else() {
    let host = Host::new();
    let vms = Path::new(host.path("vms"));
    fs::create_dir(vms).unwrap();
    for name in [&b"web 01"[..], b"-rf", b"a;$(touch hit)`touch hit`", b"two\nlines", b"caf\xe9"] {
        for beside in ["web", "01", "keep"] {
            fs::write(vms.join(beside), "").unwrap();
        }
        let name = OsStr::from_bytes(name);
        let folder = if name == "-rf" { OsStr::new("./-rf") } else { name };
        let run = |args: &[&OsStr]| host.command(args).current_dir(vms).output().unwrap();
        assert!(run(&["create".as_ref(), folder]).status.success(), "{name:?}");
        let erased = run(&["erase".as_ref(), folder, "--yes".as_ref()]);
        assert!(erased.status.success(), "{name:?}: {erased:?}");
        let printed = String::from_utf8(erased.stdout).unwrap();
        let command = told(&printed);
        assert!(command.starts_with("rm -r -- "), "{command}");
        assert!(Command::new("bash").args(["-c", command]).current_dir(vms).status().unwrap().success(), "{command}");
        let mut left: Vec<_> = fs::read_dir(vms).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["01", "keep", "web"], "{command}");
    }
}

#[test]
fn all_verbs_print_the_same_path() {
    let host = Host::new();
    let vm = Path::new(host.path("vm"));
    let (slash, disk) = (format!("{}/", vm.display()), vm.join(OsStr::from_bytes(b"d\xe9.raw")));
    assert!(host.try_run(&["create".as_ref(), vm.as_os_str()]).status.success());
    let create = ["create-disk".as_ref(), disk.as_os_str(), "--size".as_ref(), "1M".as_ref()];
    assert!(host.try_run(&create).status.success());
    let paths = |args: &[&str]| -> Vec<String> {
        let values: Vec<Value> = serde_json::from_str(&host.run(args)).unwrap();
        values.iter().map(|value| value["path"].as_str().unwrap().to_owned()).collect()
    };
    let vm = vm.to_str().unwrap();
    let expected = [vm.to_owned(), format!("{vm}/d\\xe9.raw")];
    for path in [vm, &slash] {
        for verb in [&["check"][..], &["info"], &["key", "list"]] {
            assert_eq!(paths(&[verb, &[path, "--json"]].concat()), expected, "{verb:?} {path}");
        }
    }
}

#[test]
fn what_is_named_wrongly_is_told_by_what_it_is() {
    let host = Host::with_vm();
    let vm = host.path("web01");
    host.refuses(&["create-disk", &format!("{vm}/"), "--size", "1M"], 2, "the disk's name is missing");
    host.refuses(&["create-disk", host.path("web01/.vmcryptfs.x"), "--size", "1M"], 2, "it is reserved for vmcryptfs");
    host.refuses(&["create-disk", host.path("web01/.vmcryptfs-x"), "--size", "1M"], 2, "it is reserved for vmcryptfs");
    let disk = host.path("web01/root.raw");
    host.refuses(&["mount", disk, host.path("web01")], 2, &format!("{disk} is a file; its VM folder is {vm}"));
}

#[test]
fn a_half_converted_folder_is_told_by_what_finishes_it() {
    for (file, verb, state, option) in [
        (".vmcryptfs-encrypting", "encrypt", Some(StoredState::Encrypting), ""),
        (".vmcryptfs-decrypting", "decrypt", Some(StoredState::Decrypting), ""),
        // Of what an older version began only the name tells.
        (".vmcryptfs-encrypting", "encrypt", None, " --resume-by-name"),
        (".vmcryptfs-decrypting", "decrypt", None, " --resume-by-name"),
    ] {
        let host = Host::with_vm();
        let vm = host.path("web01");
        host.write_state("web01/vmcryptfs.home", state);
        fs::rename(host.path("web01/vmcryptfs.home"), host.path(&format!("web01/{file}"))).unwrap();
        fs::write(host.path("web01/notes.txt"), "in the clear").unwrap();
        let all = if verb == "decrypt" { " --all" } else { "" };
        let words = format!("`vmcryptfs {verb} {vm}{all}{option}` resumes it");
        let new = host.path("web01/new.raw");
        for args in [
            &["erase", vm, "--yes"][..],
            &["rekey", vm],
            &["key", "add", vm, "--all"],
            &["disk-names", vm],
            &["create-disk", new, "--size", "1M"],
            &["header", "backup", vm, host.path("saved")],
            &["create", vm],
            &["clone", vm, host.path("web02")],
        ] {
            let code = if args[0] == "clone" { 2 } else { 6 };
            host.refuses(args, code, &words);
        }
        host.refuses(&["erase", vm, "--yes"], 6, &format!("To erase it, `vmcryptfs encrypt{option} {vm}`"));
        let info = host.try_run(&["info", vm]);
        assert_eq!(info.status.code(), Some(6));
        assert!(String::from_utf8_lossy(&info.stdout).contains("web01/notes.txt"), "{info:?}");
        assert!(String::from_utf8_lossy(&info.stderr).contains(&words), "{info:?}");
    }
}

#[test]
fn a_half_converted_folder_is_erased_as_its_refusal_says() {
    for (file, state) in
        [(".vmcryptfs-encrypting", StoredState::Encrypting), (".vmcryptfs-decrypting", StoredState::Decrypting)]
    {
        let host = Host::new();
        let vm = host.path("vm");
        host.run(&["create", vm]);
        let mount = host.mount("vm", &[]);
        fs::write(mount.path("secret.txt"), "secret").unwrap();
        mount.unmount();
        host.write_state("vm/vmcryptfs.home", Some(state));
        let header = host.path(&format!("vm/{file}"));
        fs::rename(host.path("vm/vmcryptfs.home"), header).unwrap();
        for (name, content) in [("notes.txt", vec![b'n'; 100]), ("d.raw", vec![b'd'; 1 << 20])] {
            fs::write(host.path(&format!("vm/{name}")), content).unwrap();
        }
        host.refuses(&["erase", vm, "--yes"], 6, &format!("To erase it, `vmcryptfs encrypt {vm}`"));
        host.refuses(&["erase", header, "--yes"], 6, &format!("without the key, `shred -u {header}`"));
        host.run(&["encrypt", vm]);
        let said = host.run(&["erase", vm, "--yes"]);
        assert!(said.contains("vm/d.raw") && !said.contains("in the clear"), "{said}");
        for name in ["notes.txt", "d.raw", "secret.txt"] {
            assert!(fs::read(host.path(&format!("vm/{name}"))).unwrap().starts_with(b"VMCRYPT"), "{name}");
        }
    }
}

#[test]
fn what_is_no_vm_folder_is_told_by_what_it_is() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    for vm in ["vms/web01", "vms/web02"] {
        host.run(&["create", host.path(vm)]);
    }
    host.refuses(
        &["clone", host.path("vms"), host.path("copy")],
        2,
        "it is a datastore: a VM folder is cloned, of which it has web01, web02",
    );
    let is_datastore = "is a datastore, expected one of its VM folders: web01, web02";
    for verb in [&["header", "backup", host.path("vms"), host.path("saved")][..], &["upgrade", host.path("vms")]] {
        host.refuses(verb, 2, is_datastore);
    }
    let in_it = host.path("vms/d.raw");
    host.refuses(
        &["create-disk", in_it, "--size", "1M"],
        7,
        "a disk lies in a VM folder, of which it has web01, web02",
    );
    host.refuses(&["create", host.path("vms")], 7, "is not empty");
    host.run(&["create-disk", host.path("vms/web02/d.raw"), "--size", "1M"]);
    let upgrade = format!("`vmcryptfs upgrade {}`", host.path("vms/web02"));
    host.refuses(&["upgrade", host.path("vms/web02/d.raw")], 2, &upgrade);
    let vm = host.path("vms/web01");
    host.run(&["erase", vm, "--yes"]);
    host.refuses(&["create", vm], 9, &format!("to make it again, remove it first: rm -r -- {vm}"));
}

#[test]
fn a_fifo_in_the_place_of_a_header_stops_no_verb() {
    let host = Host::new();
    let vm = host.path("vm");
    fs::create_dir(vm).unwrap();
    let made = std::process::Command::new("mkfifo").arg(host.path("vm/vmcryptfs.home")).status().unwrap();
    assert!(made.success());
    for verb in [&["clone", vm, host.path("copy")][..], &["encrypt", vm], &["decrypt", vm, "--all"]] {
        host.refuses(verb, 3, "vmcryptfs.home: a fifo lies there, expected a regular file");
    }
    assert!(!host.try_run(&["rekey", vm]).status.success());
    host.refuses(&["info", vm], 3, "a fifo lies there");
}

#[test]
fn components_that_lack_the_same_provider_are_locked_for_one_reason() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    for vm in ["vms/web01", "vms/web02"] {
        host.run(&["create", host.path(vm)]);
    }
    host.configure("");
    let at = tempfile::tempdir().unwrap();
    let refused = host.try_run(&["mount", "--require-unlocked", host.path("vms"), at.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    assert!(said.contains("2 of 2 components are locked: ") && !said.contains("other reasons"), "{said}");
}

#[test]
fn a_provider_that_is_not_configured_is_not_found_whichever_verb_names_it() {
    let host = Host::with_vm();
    fs::create_dir(host.path("clear")).unwrap();
    fs::write(host.path("clear/notes"), "x").unwrap();
    let (vm, disk, clear) = (host.path("web01"), host.path("web01/root.raw"), host.path("clear"));
    let named = ["--provider", "nope"];
    for verb in [
        &["create", host.path("new")][..],
        &["encrypt", clear],
        &["rekey", vm],
        &["rekey", "--deep", disk],
        &["key", "add", vm],
        &["clone", vm, host.path("copy")],
        &["dump", "setup"],
    ] {
        host.refuses(&[verb, &named].concat(), 8, "no key provider nope; configured: local");
    }
    for verb in [&["provider", "test", "nope"][..], &["provider", "retire", "nope", "key", "--datastore", vm]] {
        host.refuses(verb, 8, "no key provider nope; configured: local");
    }
}

#[test]
fn a_key_that_no_header_names_is_said_once() {
    let host = Host::with_vm();
    for wanted in [&["--key", "nosuch"][..], &["--provider", "nope"]] {
        let output = host.try_run(&[&["key", "in-use"], wanted, &[host.path("")]].concat());
        assert_eq!((output.status.code(), output.stdout.len()), (Some(8), 0), "{output:?}");
    }
    host.run(&["provider", "add", "native", "spare"]);
    assert!(host.run(&["key", "in-use", "--provider", "spare", host.path("")]).contains("It opens 0 components"));
}

#[test]
fn folders_of_the_kernel_are_told_by_what_they_are() {
    let host = Host::new();
    for verb in ["encrypt", "check", "info"] {
        host.refuses(&[verb, "/proc/self"], 2, "/proc/self is a folder of /proc, which keeps no files");
    }
}

#[test]
fn a_repaired_header_copy_is_told_by_where_it_lies() {
    let host = Host::with_vm();
    let disk = host.path("web01/root.raw");
    fs::File::options().write(true).open(disk).unwrap().write_all_at(&[0x55; 64], 4 << 20).unwrap();
    let said = host.run(&["header", "repair", disk]);
    assert!(
        said.contains("at byte 4194304 of ") && said.contains(" is repaired from the other copy. It was damaged: "),
        "{said}"
    );
}

/// A VM in a mount of its own has no name there.
#[test]
fn a_locked_home_is_named_by_what_the_mount_has_of_it() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    host.run(&["lock", mount.root().to_str().unwrap()]);
    assert!(fs::read(mount.path("root.raw")).is_err());
    mount.unmount();
    let log = host.log();
    assert!(log.contains("home of this VM: locked") && !log.contains("VM : "), "{log}");
}

#[test]
fn a_home_file_is_checked_with_its_vm_folder() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("vm.nvram"), "x").unwrap();
    host.refuses(
        &["status", mount.path("vm.nvram").to_str().unwrap()],
        8,
        "is not a VM folder or disk of this mount: ",
    );
    mount.unmount();
    for verb in ["check", "info"] {
        let advice = format!("name its VM folder, {}", host.path("web01"));
        host.refuses(&[verb, host.path("web01/vm.nvram")], 2, &advice);
        let words = [verb, "vm.nvram"].map(OsStr::new);
        let named = host.command(&words).current_dir(host.path("web01")).output().unwrap();
        assert!(String::from_utf8_lossy(&named.stderr).contains(&advice), "{named:?}");
    }
}
