//! What can be rearranged in a backing folder without a key: each object is genuine, its place is not.

use std::fs;

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
            host.refuses(&["mount", vm, host.path("at")], 6, &format!("`vmcryptfs {verb}` resumes it"));
            host.refuses(&["rekey", vm], 6, &format!("`vmcryptfs {verb}` resumes it"));
            let args: &[&str] = if verb == "encrypt" { &["encrypt", vm] } else { &["decrypt", vm, "--all"] };
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
        assert_eq!(output.status.code(), Some(7), "{said}");
        assert!(said.contains("root.raw is in the clear in an encrypted home, which anyone could put there"), "{said}");
    }
    assert_eq!(read(&host, "web01/root.raw"), image);
    // An encryption that was interrupted after its home was done knows that disks of its folder are in the clear.
    host.write_state("web01/vmcryptfs.home", Some(StoredState::ConvertingDisks));
    host.refuses(&["header", "backup", vm, host.path("saved")], 7, "not wholly encrypted");
    host.run(&["encrypt", vm]);
    fs::write(host.path("web01/root.raw"), &image).unwrap();
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
