//! Extended attributes of all namespaces, times, and what `statfs` tells.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{StatVfs, XattrFlags};
use rustix::io::Errno;

use crate::host::Host;
use crate::not_run::not_run;
use crate::transport::wait_for_the_close_of;

pub(super) fn xattr(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let len = rustix::fs::lgetxattr(path, name, value.as_mut_slice())?;
    value.truncate(len);
    Ok(value)
}

/// Names of all extended attributes.
pub(super) fn names_of(path: &Path) -> BTreeSet<String> {
    let mut list = vec![0_u8; 65_536];
    let len = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

/// `trusted.` and `security.` are root's: they are stored as they are, and what the backing file system or the kernel
/// refuses is refused.
#[test]
fn trusted_and_security_xattrs_are_those_of_the_backing_file() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let beneath = Path::new(host.path("web01"));
    fs::write(mount.path("file"), "x").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    for place in ["file", "dir", "root.raw"] {
        for name in ["trusted.note", "security.note"] {
            let on = |root: &Path| rustix::fs::setxattr(root.join(place), name, b"value", XattrFlags::CREATE);
            let allowed = on(beneath);
            if allowed.is_ok() {
                assert_eq!(on(mount.root()), Err(Errno::EXIST), "{name} of {place} is there already");
                rustix::fs::removexattr(beneath.join(place), name).unwrap();
            }
            assert_eq!(on(mount.root()), allowed, "{name} of {place}");
            if allowed.is_ok() {
                assert_eq!(xattr(&beneath.join(place), name).unwrap(), b"value", "{name} of {place}, stored as it is");
                assert_eq!(xattr(&mount.path(place), name).unwrap(), b"value");
                assert!(names_of(&mount.path(place)).contains(name));
                rustix::fs::removexattr(mount.path(place), name).unwrap();
                assert!(!names_of(&beneath.join(place)).contains(name));
            }
        }
        let nowhere = rustix::fs::setxattr(mount.path(place), "other.note", b"value", XattrFlags::empty());
        assert_eq!(nowhere, Err(Errno::OPNOTSUPP), "no such namespace");
    }
    mount.unmount();
}

#[test]
fn names_of_trusted_xattrs_show_only_to_root() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root takes the part of other users");
        return;
    }
    let host = Host::with_vm();
    let mount = host.mount("web01", &["-o", "allow_other"]);
    for dir in mount.root().ancestors().take(2).chain([Path::new(host.path("web01"))]) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = mount.path("file");
    fs::write(&path, "x").unwrap();
    for name in ["trusted.note", "user.note"] {
        rustix::fs::setxattr(&path, name, b"value", XattrFlags::empty()).unwrap();
    }
    let listed = Command::new("setpriv")
        .args(["--reuid=41001", "--regid=41001", "--clear-groups", "getfattr", "-m", "-", "file"])
        .current_dir(mount.root())
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("user.note") && !listed.contains("trusted"), "{listed}");
    assert!(names_of(&path).contains("trusted.note"));
    mount.unmount();
}

/// What a file keeps of itself beside its content is written without being a change: programs set times, and sync, and close.
#[test]
fn times_that_a_program_sets_stay_through_syncs_and_closes() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("timed");
    let then = UNIX_EPOCH + Duration::from_secs(1_000_000_007);
    for (round, content) in ["short", "one that is longer", "and one that is longer once more"].iter().enumerate() {
        let file = File::options().write(true).create(true).truncate(false).open(&path).unwrap();
        file.write_at(content.as_bytes(), 0).unwrap();
        let then = then + Duration::from_secs(round as u64);
        file.set_modified(then).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), then, "round {round}: a sync is no change");
        drop(file);
        let beneath = host.path("web01/timed");
        wait_for_the_close_of(beneath.as_ref(), mount.pid());
        assert_eq!(fs::metadata(beneath).unwrap().modified().unwrap(), then, "round {round}: nor is a close");
    }
    mount.unmount();
    assert_eq!(fs::metadata(host.path("web01/timed")).unwrap().modified().unwrap(), then + Duration::from_secs(2));
}

/// All that a mount has from the backing file system.
fn space(stat: &StatVfs) -> [u64; 7] {
    [stat.f_blocks, stat.f_bfree, stat.f_bavail, stat.f_files, stat.f_ffree, stat.f_frsize, stat.f_namemax]
}

#[test]
fn statfs_reports_the_space_of_the_backing_file_system() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let beneath = File::open(host.path("web01")).unwrap();
    let here = File::open(mount.path("root.raw")).unwrap();
    let look = |file: &File| space(&rustix::fs::fstatvfs(file).unwrap());
    // Others use the same file system: what did not change in the meantime counts.
    let quiet = (0..10_000).find_map(|_| {
        let (before, seen, after) = (look(&beneath), look(&here), look(&beneath));
        (before == after).then_some((before, seen))
    });
    let (expected, seen) = quiet.expect("a moment in which nobody writes to this file system");
    assert_eq!(seen, expected);
    drop(here);
    mount.unmount();
}
