//! Files that the mount's process may not read or write as they are, though the kernel lets the caller do what is asked.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::host::{Host, WITHOUT_OVERRIDE};
use crate::not_run::not_run;

const CALLER: u32 = 41_001;
const GROUP: u32 = 41_007;
const MODES: [u32; 9] = [0o200, 0o000, 0o400, 0o060, 0o040, 0o020, 0o266, 0o1222, 0o600];
/// What is done to a file `$f`.
const CALLS: [(&str, &str); 9] = [
    ("append", "printf x >> $f"),
    ("overwrite", "printf abc | dd of=$f bs=1 seek=8000 conv=notrunc"),
    ("cut", "truncate -s 3 $f"),
    ("empty", ": > $f"),
    ("read", "cat $f > /dev/null"),
    ("set", "setfattr -n user.note -v 1 $f"),
    ("get", "getfattr -n user.there $f"),
    ("remove", "setfattr -x user.there $f"),
    ("stat", "stat $f"),
];

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// What a shell says that works in `root` as `caller` does.
fn said(root: &Path, caller: &[String], work: &str) -> String {
    let output = Command::new("setpriv").args(caller).args(["sh", "-c", work]).current_dir(root).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn succeeds(root: &Path, caller: &[String], work: &str) -> bool {
    said(root, caller, &format!("({work}) >/dev/null 2>&1 && echo done")) == "done\n"
}

/// The owner as an ordinary user is one, a member of the files' group, a stranger, and root.
fn callers() -> [Vec<String>; 4] {
    let user = |group: u32| vec![format!("--reuid={CALLER}"), format!("--regid={group}"), "--clear-groups".to_owned()];
    [vec![WITHOUT_OVERRIDE[1].to_owned()], user(GROUP), user(CALLER), Vec::new()]
}

#[test]
fn what_the_kernel_allows_is_done_as_on_the_backing_file_system() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root runs programs as other users");
        return;
    }
    let host = Host::with_vm();
    let plain = Path::new(host.path("plain"));
    fs::create_dir(plain).unwrap();
    let files = || CALLS.iter().flat_map(|(call, _)| MODES.map(|mode| (format!("{call}-{mode:o}"), mode)));
    let make = |root: &Path| {
        for (name, mode) in files() {
            let path = root.join(name);
            fs::write(&path, vec![7; 9000]).unwrap();
            rustix::fs::setxattr(&path, "user.there", b"1", rustix::fs::XattrFlags::empty()).unwrap();
            chown(&path, None, Some(GROUP)).unwrap();
            set_mode(&path, mode);
        }
    };
    let work: String = CALLS
        .iter()
        .map(|(call, how)| {
            format!("for f in {call}-*; do ({how}) >/dev/null 2>&1; echo $f $?; stat -c '%a %s %U %G' $f; done\n")
        })
        .collect();
    for caller in callers() {
        let mount = host.mount("web01", &[]);
        [mount.root(), plain].into_iter().for_each(make);
        mount.unmount();
        let mount = host.mount_as_ordinary("web01", &["-o", "allow_other"]);
        [mount.root(), plain].into_iter().for_each(|dir| set_mode(dir, 0o755));
        let [seen, expected] = [mount.root(), plain].map(|root| said(root, &caller, &work));
        for (seen, expected) in seen.lines().zip(expected.lines()) {
            assert_eq!(seen, expected, "{caller:?}");
        }
        let outcomes = CALLS.len() * MODES.len() * 2;
        assert_eq!((seen.lines().count(), expected.lines().count()), (outcomes, outcomes));
        mount.unmount();
        for (name, mode) in files() {
            assert_eq!(mode_of(Path::new(host.path(&format!("web01/{name}")))), mode, "{name} beneath");
        }
    }
}

#[test]
fn a_user_that_may_write_does_so_while_one_that_may_only_read_has_it_open() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root runs programs without its rights");
        return;
    }
    for backing_io in ["buffered", "direct"] {
        let host = Host::with_vm();
        let mount = host.mount("web01", &[]);
        fs::write(mount.path("notes"), "first").unwrap();
        ["notes", "root.raw"].iter().for_each(|name| set_mode(&mount.path(name), 0o400));
        mount.unmount();
        let mount = host.mount_as_ordinary("web01", &["--backing-io", backing_io]);
        let [owner, _, _, root] = callers();
        for (name, writer) in [("notes", &owner), ("root.raw", &root)] {
            let work = format!(
                "printf later | dd of={name} bs=4096 conv=notrunc,sync oflag=direct && head -c 5 {name} <&3 && true"
            );
            let opened =
                format!("exec 3<{name}; head -c 1 <&3; chmod {} {name};", if writer == &owner { "600" } else { "400" });
            assert!(succeeds(mount.root(), writer, &format!("{opened} {work}")), "{name}, {backing_io}");
            assert_eq!(said(mount.root(), &root, &format!("head -c 5 {name}")), "later", "{name}, {backing_io}");
        }
        mount.unmount();
        let mount = host.mount("web01", &[]);
        for name in ["notes", "root.raw"] {
            assert_eq!(said(mount.root(), &callers()[3], &format!("head -c 5 {name}")), "later", "{name} is on disk");
        }
        mount.unmount();
        host.run(&["check", host.path("web01")]);
    }
}

#[test]
fn a_disk_keeps_its_length_its_acl_and_its_mode() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root runs programs as other users");
        return;
    }
    let host = Host::with_vm();
    let disk = Path::new(host.path("web01/root.raw"));
    set_mode(disk, 0o200);
    let acl = |work: &str| {
        let output = Command::new("sh").args(["-c", work, "sh"]).arg(disk).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    acl(&format!("setfacl -m u:{CALLER}:rw,m::rw \"$1\""));
    let before = acl("getfacl -n \"$1\"");
    let mount = host.mount_as_ordinary("web01", &["-o", "allow_other"]);
    set_mode(mount.root(), 0o755);
    let [owner, _, stranger, _] = callers();
    assert_eq!(said(mount.root(), &owner, "stat -c %s root.raw"), format!("{}\n", 64 << 20));
    assert!(!succeeds(mount.root(), &owner, "cat root.raw"));
    assert!(succeeds(mount.root(), &owner, "printf x | dd of=root.raw conv=notrunc"));
    assert_eq!(said(mount.root(), &stranger, "head -c 1 root.raw"), "x", "let in by the ACL");
    assert_eq!(said(mount.root(), &owner, "stat -c '%a %s' root.raw"), format!("260 {}\n", 64 << 20));
    mount.unmount();
    assert_eq!(acl("getfacl -n \"$1\""), before);
}

#[test]
fn nothing_is_lent_that_the_kernel_did_not_allow_or_that_is_another_users() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root runs programs as other users");
        return;
    }
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let created = Command::new("qemu-img")
        .args(["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat"])
        .arg(mount.path("disk.vmdk"))
        .arg("1M")
        .status();
    assert!(created.unwrap().success());
    fs::write(mount.path("other"), "x").unwrap();
    fs::write(mount.path("read-only"), "x").unwrap();
    mount.unmount();
    let backing = |name: &str| Path::new(host.path("web01")).join(name);
    set_mode(&backing("disk-flat.vmdk"), 0);
    set_mode(&backing("read-only"), 0o200);
    chown(backing("other"), Some(CALLER + 1), Some(GROUP)).unwrap();
    set_mode(&backing("other"), 0o060);
    let [owner, member, _, root] = callers();
    let mount = host.mount_as_ordinary("web01", &["-o", "allow_other"]);
    set_mode(mount.root(), 0o755);
    assert!(!succeeds(mount.root(), &owner, "cat .raw/disk.raw"), "an extent that its owner may not read");
    assert!(!succeeds(mount.root(), &member, "cat other"), "the process does not own it");
    mount.unmount();
    let mount = host.mount_as_ordinary("web01", &["-o", "allow_other,ro"]);
    assert!(!succeeds(mount.root(), &root, "cat read-only"), "a mount that changes nothing");
    mount.unmount();
    for (name, mode) in [("disk-flat.vmdk", 0), ("other", 0o060), ("read-only", 0o200)] {
        assert_eq!(mode_of(&backing(name)), mode, "{name}");
    }
}
