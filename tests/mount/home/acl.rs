//! POSIX ACLs: stored, inherited and heeded as on the backing file system.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::home::attributes::{names_of, xattr};
use crate::host::{Host, Mount};
use crate::not_run::not_run;

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// Tags of entries, in the order that an ACL has them in.
const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Some user, and a group, that are nobody on the machine.
const ANN: u32 = 41_001;
const TEAM: u32 = 41_002;

/// An ACL as Linux keeps it: `(tag, permissions, id)`.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Owner rwx, [`ANN`] as told, the group nothing, mask as told, others nothing.
fn acl_for_ann(permissions: u16, mask: u16) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[(OWNER, 7, none), (USER, permissions, ANN), (GROUP, 0, none), (MASK, mask, none), (OTHER, 0, none)])
}

fn set(path: impl AsRef<Path>, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path.as_ref(), name, value, XattrFlags::empty())
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// What a shell command says as another user, or `None` if it fails. It starts in the mount, since the way to it need not be open
/// to others.
fn as_user(mount: &Mount<'_>, user: u32, groups: &[u32], command: &str) -> Option<String> {
    let groups = groups.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let groups = if groups.is_empty() { "--clear-groups".into() } else { format!("--groups={groups}") };
    let output = Command::new("setpriv")
        .current_dir(mount.root())
        .args([&format!("--reuid={user}"), &format!("--regid={user}"), &groups, "sh", "-c", command])
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

/// Runs a shell command in a folder, with a umask.
fn with_umask(umask: u32, dir: &Path, command: &str) {
    let status = Command::new("sh").current_dir(dir).args(["-c", &format!("umask {umask:o}; {command}")]).status();
    assert!(status.unwrap().success(), "{command}");
}

/// A mount of `web01` that other users may enter; `None` where that takes more rights than the tests have.
fn mount_for_all(host: &Host) -> Option<Mount<'_>> {
    if !rustix::process::geteuid().is_root() {
        not_run("only root takes the part of other users");
        return None;
    }
    Some(open_to_all(host, host.mount("web01", &["-o", "allow_other"])))
}

/// Modes that keep nobody out.
fn open_to_all<'h>(host: &Host, mount: Mount<'h>) -> Mount<'h> {
    for dir in mount.root().ancestors().take(2).chain([Path::new(host.path("web01"))]) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    mount
}

/// Whether the backing file system has ACLs; without them a mount refuses them, too.
fn has_acls(host: &Host, mount: &Mount<'_>) -> bool {
    let beneath = set(host.path("web01"), DEFAULT, &acl_for_ann(7, 7));
    if beneath.is_ok() {
        rustix::fs::removexattr(host.path("web01"), DEFAULT).unwrap();
        return true;
    }
    assert_eq!(set(mount.root(), DEFAULT, &acl_for_ann(7, 7)), Err(Errno::OPNOTSUPP));
    not_run("the file system beneath has no ACLs");
    false
}

#[test]
fn an_acl_is_that_of_the_backing_file_and_its_mask_is_the_group_of_the_mode() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    if !has_acls(&host, &mount) {
        return;
    }
    fs::write(mount.path("file"), "x").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    for name in ["file", "dir", "root.raw"] {
        let beneath = Path::new(host.path("web01")).join(name);
        set(mount.path(name), ACCESS, &acl_for_ann(7, 5)).unwrap();
        assert_eq!(mode(mount.path(name)), 0o750, "{name}");
        assert_eq!(xattr(&beneath, ACCESS).unwrap(), acl_for_ann(7, 5), "{name}");
        fs::set_permissions(mount.path(name), fs::Permissions::from_mode(0o720)).unwrap();
        assert_eq!(xattr(&mount.path(name), ACCESS).unwrap(), acl_for_ann(7, 2), "{name}: the mask follows the mode");
        assert_eq!(xattr(&beneath, ACCESS).unwrap(), acl_for_ann(7, 2), "{name}");
        assert!(names_of(&mount.path(name)).contains(ACCESS));
    }
    assert_eq!(set(mount.path("file"), DEFAULT, &acl_for_ann(7, 7)), Err(Errno::ACCESS), "only folders have one");
    assert_eq!(set(mount.path("file"), ACCESS, b"no ACL"), Err(Errno::OPNOTSUPP));
    rustix::fs::removexattr(mount.path("file"), ACCESS).unwrap();
    assert_eq!(xattr(&mount.path("file"), ACCESS).unwrap_err().raw_os_error(), Some(libc::ENODATA));
    // What the system has beside ACLs belongs to no file.
    assert_eq!(set(mount.path("file"), "system.nfs4_acl", b"x"), Err(Errno::OPNOTSUPP));
    mount.unmount();
}

#[test]
fn a_default_acl_is_inherited_and_without_one_the_umask_counts() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let makes = "> file; > disk.raw; mkdir dir; mkfifo fifo";
    fs::create_dir(mount.path("bare")).unwrap();
    with_umask(0o027, &mount.path("bare"), makes);
    let modes = |dir: &str| ["file", "disk.raw", "dir", "fifo"].map(|name| mode(mount.path(dir).join(name)));
    assert_eq!(modes("bare"), [0o640, 0o640, 0o750, 0o640]);
    if !has_acls(&host, &mount) {
        return;
    }
    fs::create_dir(mount.path("team")).unwrap();
    set(mount.path("team"), DEFAULT, &acl_for_ann(7, 7)).unwrap();
    with_umask(0o077, &mount.path("team"), makes);
    assert_eq!(modes("team"), [0o660, 0o660, 0o770, 0o660], "the umask does not count");
    let mut inherited = acl_for_ann(7, 6);
    inherited[6] = 6; // the owner's: what programs ask for takes away from it, as from the mask
    for (name, expected) in [("file", &inherited), ("disk.raw", &inherited), ("dir", &acl_for_ann(7, 7))] {
        assert_eq!(xattr(&mount.path("team").join(name), ACCESS).unwrap(), *expected, "{name}");
    }
    assert_eq!(xattr(&mount.path("team/dir"), DEFAULT).unwrap(), acl_for_ann(7, 7));
    mount.unmount();
}

#[test]
fn a_vm_folder_inherits_from_its_datastore() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    let mount = host.mount("vms", &[]);
    with_umask(0o027, mount.root(), "mkdir web01; mkdir -m 0 closed");
    assert_eq!((mode(mount.path("web01")), mode(mount.path("closed"))), (0o750, 0));
    if set(host.path("vms"), DEFAULT, &acl_for_ann(5, 5)).is_ok() {
        with_umask(0o077, mount.root(), "mkdir web02");
        assert_eq!(xattr(&mount.path("web02"), ACCESS).unwrap(), acl_for_ann(5, 5));
        assert_eq!(mode(mount.path("web02")), 0o750);
        assert_eq!(mode(host.path("vms/web02/vmcryptfs.home")), 0o600, "and nobody but the owner gets its header");
    }
    mount.unmount();
}

#[test]
fn an_acl_admits_and_refuses_other_users() {
    let host = Host::with_vm();
    let Some(mount) = mount_for_all(&host) else { return };
    if !has_acls(&host, &mount) {
        return;
    }
    let path = mount.path("file");
    fs::write(&path, "text").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let [reads, writes] = ["cat file", "printf more >>file"].map(|command| {
        let mount = &mount;
        move |user| as_user(mount, user, &[], command).is_some()
    });
    let allowed = |user| (reads(user), writes(user));
    assert_eq!(allowed(ANN), (false, false), "by the mode");
    set(&path, ACCESS, &acl_for_ann(4, 4)).unwrap();
    assert_eq!((allowed(ANN), allowed(TEAM)), ((true, false), (false, false)));
    set(&path, ACCESS, &acl_for_ann(6, 6)).unwrap();
    assert_eq!((allowed(ANN), allowed(TEAM)), ((true, true), (false, false)));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(allowed(ANN), (true, false), "chmod is the mask's");
    let none = u32::MAX;
    let refusing = [(OWNER, 6, none), (USER, 0, ANN), (GROUP, 4, none), (MASK, 4, none), (OTHER, 4, none)];
    set(&path, ACCESS, &acl(&refusing)).unwrap();
    assert_eq!((allowed(ANN), allowed(TEAM)), ((false, false), (true, false)), "everyone but one");
    rustix::fs::removexattr(&path, ACCESS).unwrap();
    assert_eq!(allowed(ANN), (true, false), "by the mode again");
    // Only the owner sets one.
    let setfacl = format!("setfattr -n {ACCESS} -v 0x{} file", hex(&acl_for_ann(7, 7)));
    assert!(as_user(&mount, ANN, &[], &setfacl).is_none());
    chown(&path, Some(ANN), Some(TEAM)).unwrap();
    assert!(as_user(&mount, ANN, &[], &setfacl).is_some());
    mount.unmount();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who is not in a file's group cannot keep its set-group-id bit: as with `chmod`.
#[test]
fn an_acl_takes_the_set_group_id_bit_from_a_strangers_file() {
    let host = Host::with_vm();
    let Some(mount) = mount_for_all(&host) else { return };
    if !has_acls(&host, &mount) {
        return;
    }
    let path = mount.path("shared");
    fs::create_dir(&path).unwrap();
    chown(&path, Some(ANN), Some(TEAM)).unwrap();
    let set_by = |groups: &[u32]| {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o2770)).unwrap();
        let value = hex(&acl_for_ann(7, 7));
        as_user(&mount, ANN, groups, &format!("setfattr -n {ACCESS} -v 0x{value} shared")).unwrap();
        mode(&path)
    };
    assert_eq!(set_by(&[]), 0o770);
    assert_eq!(set_by(&[5, TEAM]), 0o2770, "by a member");
    mount.unmount();
}

#[test]
fn a_raw_image_has_the_acl_of_its_vmdk() {
    let host = Host::with_vm();
    let Some(mount) = mount_for_all(&host) else { return };
    let descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n\
                      RW 2048 FLAT \"web-flat.vmdk\" 0\n";
    File::create(mount.path("web-flat.vmdk")).unwrap().set_len(1 << 20).unwrap();
    fs::write(mount.path("web.vmdk"), descriptor).unwrap();
    if !has_acls(&host, &mount) {
        return;
    }
    // The mask is the mode's group: without the ACL, the group would read the image.
    set(mount.path("web.vmdk"), ACCESS, &acl_for_ann(4, 4)).unwrap();
    chown(mount.path("web.vmdk"), Some(0), Some(TEAM)).unwrap();
    let image = mount.path(".raw/web.raw");
    assert_eq!(mode(&image), 0o740);
    assert_eq!(xattr(&image, ACCESS).unwrap(), acl_for_ann(4, 4));
    let reads = |user| as_user(&mount, user, &[], "head -c 512 .raw/web.raw").is_some();
    assert_eq!((reads(ANN), reads(TEAM)), (true, false));
    assert_eq!(set(&image, ACCESS, &acl_for_ann(7, 7)), Err(Errno::PERM));
    mount.unmount();
}

/// With `allow_root` the kernel lets everyone in, and it is for us to refuse.
#[test]
fn allow_root_keeps_other_users_out() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root takes the part of other users");
        return;
    }
    let host = Host::with_vm();
    for (option, admitted) in [("allow_root", false), ("allow_other", true)] {
        let mount = open_to_all(&host, host.mount("web01", &["-o", option]));
        fs::write(mount.path("file"), "text").unwrap();
        fs::set_permissions(mount.path("file"), fs::Permissions::from_mode(0o666)).unwrap();
        // The kernel keeps for a second what it was told, for all callers.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        for command in ["stat file", "cat file", "printf more >>file", "stat -c %a .", "getfattr -n user.note ."] {
            let done = as_user(&mount, ANN, &[], command).is_some();
            assert_eq!(done, admitted && !command.starts_with("getfattr"), "{command} with {option}");
        }
        assert!(as_user(&mount, 0, &[], "stat file && cat file").is_some(), "root with {option}");
        mount.unmount();
    }
}
