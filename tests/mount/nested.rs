//! There is no VM folder within another: neither would be what it seems.

use std::fs;
use std::os::unix::fs::symlink;

use crate::host::Host;

#[test]
fn no_verb_makes_a_vm_folder_within_another() {
    let host = Host::with_vm();
    let (vm, inner) = (host.path("web01"), host.path("web01/in"));
    host.refuses(&["create", inner], 7, &format!("is in a VM folder, {vm}, which has a vmcryptfs.home"));
    assert!(!fs::exists(inner).unwrap());
    fs::create_dir_all(host.path("web01/in/deep")).unwrap();
    for folder in [inner, host.path("web01/in/deep")] {
        host.refuses(&["create", folder], 7, &format!("is in a VM folder, {vm}"));
        host.refuses(&["encrypt", folder], 7, &format!("is in a VM folder, {vm}"));
    }
    symlink("/nowhere", host.path("web01/in/link")).unwrap();
    host.refuses(&["encrypt", inner], 7, &format!("is in a VM folder, {vm}"));
    host.run(&["create", host.path("web02")]);
    host.refuses(&["clone", host.path("web02"), host.path("web01/in/web02")], 7, &format!("is in a VM folder, {vm}"));
    symlink(inner, host.path("to-inner")).unwrap();
    host.refuses(&["create", host.path("to-inner/x")], 7, &format!("is in a VM folder, {vm}"));

    // A conversion that is under way makes a VM folder, too.
    fs::rename(host.path("web02/vmcryptfs.home"), host.path("web02/.vmcryptfs-decrypting")).unwrap();
    host.refuses(&["create", host.path("web02/x")], 7, "which has a .vmcryptfs-decrypting");
}

#[test]
fn a_datastore_that_became_a_vm_folder_gets_no_vm_folders() {
    let host = Host::new();
    let datastore = host.path("m");
    fs::create_dir(datastore).unwrap();
    let mount = host.mount("m", &["--empty"]);
    fs::create_dir(mount.path("first")).unwrap();
    fs::remove_dir(mount.path("first")).unwrap();
    fs::write(host.path("m/a.vmx"), "displayName = \"a\"\n").unwrap();
    host.run(&["encrypt", datastore]);
    let refused = fs::create_dir(mount.path("zz")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert!(!fs::exists(host.path("m/zz")).unwrap());
}

#[test]
fn a_folder_with_links_of_a_lost_home_is_not_encrypted_again() {
    let host = Host::new();
    let vm = host.path("vm");
    host.run(&["create", vm]);
    let mount = host.mount("vm", &[]);
    symlink("/etc/hostname", mount.path("link")).unwrap();
    drop(mount);
    fs::rename(host.path("vm/vmcryptfs.home"), host.path("lost")).unwrap();
    host.refuses(&["encrypt", vm], 7, "link is a link of another encrypted home");
}

#[test]
fn a_vm_folder_that_lies_in_another_is_named_as_a_problem() {
    let host = Host::with_vm();
    let (vm, inner) = (host.path("web01"), host.path("web01/in"));
    host.run(&["create", host.path("in")]);
    fs::rename(host.path("in"), inner).unwrap();
    for verb in ["check", "info"] {
        let output = host.try_run(&[verb, vm, "--json"]);
        let values: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let nested = values.iter().find(|value| value["kind"] == "folder" && value["path"] == inner).unwrap();
        let said = nested["result"].as_str().or(nested["reason"].as_str()).unwrap();
        assert!(said.contains("a VM folder within the VM folder"), "{verb}: {said}");
        assert_eq!(output.status.code(), Some(if verb == "check" { 3 } else { 0 }), "{verb}");
    }
    assert!(host.run(&["erase", inner, "--yes"]).contains(&format!("through a mount of {vm}")));
}
