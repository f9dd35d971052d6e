//! Names in a mount: what shows, what can be made, what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use crate::host::Host;

fn listing(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_header_file_never_shows_and_cannot_be_touched() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let header = mount.path("vmcryptfs.home");
    assert_eq!(listing(mount.root()), BTreeSet::from(["root.raw".to_owned()]));
    assert_eq!(fs::metadata(&header).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(fs::File::create(&header).is_err());
    assert!(fs::rename(mount.path("root.raw"), &header).is_err());
    assert!(fs::remove_file(&header).is_err());
    assert!(fs::create_dir(mount.path(".vmcryptfs-new-1")).is_err());
    mount.unmount();
    host.run(&["check", host.path("web01")]);
}

#[test]
fn disks_are_renamed_and_replaced() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for (name, text) in [("a.raw", "first"), ("b.raw", "second")] {
        fs::write(mount.path(name), text).unwrap();
    }
    fs::rename(mount.path("a.raw"), mount.path("b.raw")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("b.raw")).unwrap(), "first");
    fs::create_dir(mount.path("snapshots")).unwrap();
    fs::rename(mount.path("b.raw"), mount.path("snapshots/c.raw")).unwrap();
    fs::rename(mount.path("snapshots"), mount.path("old")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("old/c.raw")).unwrap(), "first");
    assert!(fs::remove_dir(mount.path("old")).is_err(), "not empty");
    mount.unmount();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read_to_string(mount.path("old/c.raw")).unwrap(), "first");
    mount.unmount();
}

#[test]
fn a_datastore_shows_only_its_encrypted_vm_folders() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    for vm in ["vms/web01", "vms/web02"] {
        host.run(&["create", host.path(vm)]);
        host.run(&["create-disk", host.path(&format!("{vm}/root.raw")), "--size", "1M"]);
    }
    fs::create_dir(host.path("vms/clear")).unwrap();
    fs::write(host.path("vms/notes.txt"), "x").unwrap();
    let mount = host.mount("vms", &[]);
    assert_eq!(listing(mount.root()), BTreeSet::from(["web01".to_owned(), "web02".to_owned()]));
    fs::write(mount.path("web02/data.raw"), "content").unwrap();
    assert_eq!(fs::write(mount.path("loose.raw"), "x").unwrap_err().kind(), ErrorKind::PermissionDenied);
    let crossing = fs::rename(mount.path("web02/data.raw"), mount.path("web01/data.raw")).unwrap_err();
    assert_eq!(crossing.kind(), ErrorKind::CrossesDevices);
    let components = mount.status()["components"].as_array().unwrap().len();
    assert_eq!(components, 5, "two homes, three disks");
    mount.unmount();
}

#[test]
fn modes_owners_and_times_are_kept() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("root.raw");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, None, Some(6)).unwrap();
    let disk = fs::File::options().write(true).open(&path).unwrap();
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    disk.set_modified(long_ago).unwrap();
    let seen = fs::metadata(&path).unwrap();
    assert_eq!((seen.mode() & 0o7777, seen.gid()), (0o640, 6));
    assert_eq!(seen.modified().unwrap(), long_ago);
    drop(disk);
    mount.unmount();
}
