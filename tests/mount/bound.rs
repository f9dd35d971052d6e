//! What can be rearranged in a backing folder without a key: each object is genuine, its place is not.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vmcryptfs::format::header::StoredState;

use crate::host::Host;

const HOME: &str = "vm/vmcryptfs.home";
const STATES: [&str; 2] = ["vm/.vmcryptfs-encrypting", "vm/.vmcryptfs-decrypting"];

/// A VM with the home file `a.vmx`, and no disk.
fn host_without_disks() -> Host {
    let host = Host::new();
    host.run(&["create", host.path("vm")]);
    let mount = host.mount("vm", &[]);
    fs::write(mount.path("a.vmx"), "genuine").unwrap();
    mount.unmount();
    host
}

fn read(host: &Host, path: &str) -> Vec<u8> {
    fs::read(host.path(path)).unwrap()
}

#[test]
fn a_home_that_was_renamed_to_a_state_between_is_not_resumed() {
    let host = host_without_disks();
    let (vm, genuine) = (host.path("vm"), read(&host, "vm/a.vmx"));
    fs::create_dir(host.path("at")).unwrap();
    for name in STATES {
        fs::rename(host.path(HOME), host.path(name)).unwrap();
        fs::write(host.path("vm/a.vmx"), "of someone without the key").unwrap();
        for verb in [
            &["mount", vm, host.path("at")][..],
            &["encrypt", vm],
            &["encrypt", vm, "--resume-by-name"],
            &["decrypt", vm, "--all"],
            &["decrypt", vm, "--all", "--resume-by-name"],
            &["rekey", vm],
            &["erase", vm, "--yes"],
            &["create-disk", host.path("vm/d.raw"), "--size", "1M"],
        ] {
            host.refuses(verb, 3, "changed without the key");
        }
        for verb in ["check", "info"] {
            let output = host.try_run(&[verb, vm]);
            let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(3), "{verb}: {said}");
            assert!(said.contains("changed without the key") && !said.contains("resumes"), "{verb}: {said}");
        }
        assert_eq!(read(&host, "vm/a.vmx"), b"of someone without the key", "nothing was done");
        fs::rename(host.path(name), host.path(HOME)).unwrap();
        fs::write(host.path("vm/a.vmx"), &genuine).unwrap();
    }
    let mount = host.mount("vm", &[]);
    assert_eq!(fs::read_to_string(mount.path("a.vmx")).unwrap(), "genuine");
    mount.unmount();
}

#[test]
fn a_datastore_shows_nothing_of_such_a_home() {
    let host = host_without_disks();
    fs::create_dir(host.path("vms")).unwrap();
    fs::rename(host.path("vm"), host.path("vms/vm")).unwrap();
    host.run(&["create", host.path("vms/other")]);
    fs::rename(host.path("vms/vm/vmcryptfs.home"), host.path("vms/vm/.vmcryptfs-encrypting")).unwrap();
    let mount = host.mount("vms", &[]);
    assert!(fs::read(mount.path("vm/a.vmx")).is_err());
    fs::write(mount.path("other/b.vmx"), "works").unwrap();
    mount.unmount();
}

#[test]
fn what_an_older_version_began_is_resumed_when_that_is_said() {
    for (name, verb) in STATES.into_iter().zip([&["encrypt"][..], &["decrypt", "--all"]]) {
        let host = host_without_disks();
        let vm = host.path("vm");
        host.write_state(HOME, None);
        fs::rename(host.path(HOME), host.path(name)).unwrap();
        fs::write(host.path("vm/b.vmx"), "clear").unwrap();
        host.refuses(&[verb, &[vm]].concat(), 6, "--resume-by-name");
        host.run(&[verb, &[vm, "--resume-by-name"]].concat());
        if verb[0] == "encrypt" {
            let mount = host.mount("vm", &[]);
            assert_eq!(fs::read_to_string(mount.path("b.vmx")).unwrap(), "clear");
            mount.unmount();
            // From now on its state is under the key.
            fs::rename(host.path(HOME), host.path(name)).unwrap();
            host.refuses(&["encrypt", vm, "--resume-by-name"], 3, "changed without the key");
        } else {
            assert_eq!(read(&host, "vm/a.vmx"), b"genuine");
            assert!(fs::metadata(host.path(name)).is_err());
        }
    }
}

#[test]
fn the_state_decides_and_not_the_name() {
    let cases = [(StoredState::Encrypting, "encrypt"), (StoredState::Decrypting, "decrypt")];
    for (state, verb) in cases {
        for name in [HOME, STATES[0], STATES[1]] {
            let host = host_without_disks();
            let vm = host.path("vm");
            host.write_state(HOME, Some(state));
            if name != HOME {
                fs::rename(host.path(HOME), host.path(name)).unwrap();
            }
            fs::create_dir(host.path("at")).unwrap();
            let args: &[&str] = if verb == "encrypt" { &["encrypt", vm] } else { &["decrypt", vm, "--all"] };
            let advice = format!("`vmcryptfs {}` resumes it", args.join(" "));
            host.refuses(&["mount", vm, host.path("at")], 6, &advice);
            host.refuses(&["rekey", vm], 6, &advice);
            host.run(args);
            assert_eq!(fs::metadata(host.path(HOME)).is_ok(), verb == "encrypt", "{name}");
            assert!(STATES.iter().all(|name| fs::metadata(host.path(name)).is_err()), "{name}");
        }
    }
}

#[test]
fn a_clear_image_in_a_disks_place_is_not_taken_in_unasked() {
    let host = Host::with_vm();
    let (vm, image) = (host.path("web01"), vec![b'x'; 1 << 20]);
    fs::write(host.path("web01/root.raw"), &image).unwrap();
    for args in [&["encrypt", vm][..], &["encrypt", vm, "--dry-run"]] {
        let output = host.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(
            said.contains("a file without a header lies at root.raw, where the VM's list of disks has disk"),
            "{said}"
        );
    }
    assert_eq!(read(&host, "web01/root.raw"), image);
    // An encryption that was interrupted after its home was done knows that disks of its folder are in the clear.
    let adopt = |host: &Host| {
        fs::remove_file(host.path("web01/root.raw")).unwrap();
        host.run(&["adopt", vm]);
        fs::write(host.path("web01/root.raw"), &image).unwrap();
    };
    adopt(&host);
    host.write_state("web01/vmcryptfs.home", Some(StoredState::ConvertingDisks));
    host.refuses(&["header", "backup", vm, host.path("saved")], 7, "not wholly encrypted");
    host.run(&["encrypt", vm]);
    adopt(&host);
    for args in [&["encrypt", vm][..], &["encrypt", vm, "--dry-run"]] {
        let output = host.try_run(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("root.raw is in the clear in an encrypted home, which anyone could put there"), "{said}");
    }
    host.refuses(&["encrypt", vm], 7, "--disk root.raw takes it in");
    let output = host.try_run(&["encrypt", vm, "--disk", "root.raw"]);
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr)
            .contains("root.raw is in the clear in an encrypted home, and is taken in")
    );
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("root.raw")).unwrap(), image);
    mount.unmount();
}

/// The datastore `vms` with `web01` and `db01`, each of which has a disk `root.raw` whose content begins with its name.
fn host_with_two_vms() -> Host {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    for vm in ["web01", "db01"] {
        host.run(&["create", host.path(&format!("vms/{vm}"))]);
        host.run(&["create-disk", host.path(&format!("vms/{vm}/root.raw")), "--size", "1M"]);
    }
    let mount = host.mount("vms", &[]);
    for vm in ["web01", "db01"] {
        write_at_start(&mount.path(&format!("{vm}/root.raw")), vm);
    }
    mount.unmount();
    host
}

fn write_at_start(path: &Path, text: &str) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(text.as_bytes(), 0).unwrap();
}

fn uuid_of(host: &Host, path: &str) -> String {
    let infos: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", host.path(path)])).unwrap();
    infos[0]["uuid"].as_str().unwrap().to_owned()
}

fn starts_with(path: &Path, text: &str) -> bool {
    fs::read(path).is_ok_and(|content| content.starts_with(text.as_bytes()))
}

#[test]
fn a_disk_of_another_vm_opens_for_nobody_until_it_is_adopted() {
    let host = host_with_two_vms();
    let (vm, taken) = (host.path("vms/web01"), host.path("vms/web01/taken.raw"));
    let homes = [uuid_of(&host, "vms/web01"), uuid_of(&host, "vms/db01")];
    let own = read(&host, "vms/web01/root.raw");
    fs::copy(host.path("vms/db01/root.raw"), taken).unwrap();
    fs::copy(host.path("vms/db01/root.raw"), host.path("vms/web01/root.raw")).unwrap();
    let mount = host.mount("vms", &[]);
    for name in ["web01/taken.raw", "web01/root.raw"] {
        let error = fs::read(mount.path(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
        let error = fs::File::options().write(true).open(mount.path(name)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}");
    }
    assert!(starts_with(&mount.path("db01/root.raw"), "db01"), "its own VM has it");
    let log = host.log();
    assert!(log.lines().any(|line| homes.iter().all(|uuid| line.contains(uuid))), "{log}");
    mount.unmount();
    fs::write(host.path("vms/web01/root.raw"), own).unwrap();

    host.run(&["provider", "add", "native", "tenant"]);
    let words = "is of the VM";
    host.refuses(&["rekey", vm, "--provider", "tenant"], 3, words);
    host.refuses(&["rekey", taken, "--provider", "tenant"], 3, words);
    host.refuses(&["rekey", "--deep", taken], 3, words);
    host.refuses(&["key", "add", vm, "--all", "--provider", "tenant"], 3, words);
    host.refuses(&["key", "add", taken, "--provider", "tenant"], 3, words);
    host.refuses(&["decrypt", vm, "--disk", "taken.raw"], 3, words);
    host.refuses(&["decrypt", vm, "--all"], 3, words);
    host.refuses(&["clone", vm, host.path("vms/web02")], 3, words);
    host.refuses(&["clone", vm, host.path("vms/web02"), "--same-keys"], 3, words);
    host.refuses(&["convert", taken, "--to", "home-file"], 3, words);
    let check = host.try_run(&["check", vm]);
    assert!(check.status.code() == Some(3) && String::from_utf8_lossy(&check.stdout).contains(words), "{check:?}");

    fs::remove_file(host.path("vms/db01/root.raw")).unwrap();
    host.refuses(&["adopt", vm], 3, words);
    host.run(&["adopt", taken]);
    host.refuses(&["adopt", taken], 9, "is one of this VM already");
    host.run(&["check", vm]);
    let mount = host.mount("vms", &[]);
    assert!(starts_with(&mount.path("web01/taken.raw"), "db01") && starts_with(&mount.path("web01/root.raw"), "web01"));
    mount.unmount();
}

#[test]
fn vms_of_older_versions_open_as_before_and_are_bound_by_an_upgrade() {
    let host = host_with_two_vms();
    let (vm, disk) = (host.path("vms/web01"), host.path("vms/web01/root.raw"));
    for vm in ["web01", "db01"] {
        host.make_old(&format!("vms/{vm}/vmcryptfs.home"));
        host.make_old_disk(&format!("vms/{vm}/root.raw"));
    }
    let reads = || {
        let mount = host.mount("vms", &[]);
        assert!(starts_with(&mount.path("web01/root.raw"), "web01"));
        mount.unmount();
    };
    reads();
    for verb in ["check", "info"] {
        assert!(host.run(&[verb, vm]).contains(&format!("`vmcryptfs upgrade {vm}` binds them")), "{verb}");
    }
    host.run(&["rekey", disk]); // which leaves it no key in common with its home
    host.refuses(&["upgrade", vm], 7, "has no key in common with its home");
    host.run(&["adopt", disk]);
    assert!(host.run(&["upgrade", vm]).contains("0 disks bound"));
    assert!(host.run(&["upgrade", host.path("vms/db01")]).contains("1 disk bound"));
    assert!(host.run(&["upgrade", host.path("vms/db01")]).contains("already"));
    assert!(!host.run(&["check", vm]).contains("`vmcryptfs upgrade`"));
    reads();
    // A disk that names no VM could be of any that is not upgraded.
    host.make_old_disk("vms/web01/root.raw");
    let mount = host.mount("vms", &[]);
    assert_eq!(fs::read(mount.path("web01/root.raw")).unwrap_err().raw_os_error(), Some(libc::EIO));
    host.refuses(&["upgrade", vm], 6, "is mounted on");
    mount.unmount();
    host.refuses(&["rekey", disk], 3, "names no VM");
}
