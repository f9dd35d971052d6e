//! Which file is which: names, nodes, handles and inode numbers, however the kernel forgets and the backing folder changes.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::fs::{OFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr};
use rustix::mount::{MountFlags, mount_remount};

use crate::host::{Host, Mount};
use crate::not_run::not_run;

/// Makes the kernel forget all names of a mount that nothing uses, as it does when memory runs short.
fn shrink_caches(mount: &Mount<'_>) {
    mount_remount(mount.root(), MountFlags::NOSUID | MountFlags::NODEV, "").unwrap();
}

#[test]
fn a_file_stays_reachable_by_one_name_when_the_folder_of_another_is_forgotten() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root makes the kernel forget names");
        return;
    }
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for folder in ["first", "second"] {
        fs::create_dir(mount.path(folder)).unwrap();
    }
    for name in ["name.raw", "name.txt"] {
        let [first, second, third] =
            [format!("first/{name}"), format!("second/{name}"), name.to_owned()].map(|below| mount.path(&below));
        fs::write(&first, "content").unwrap();
        fs::hard_link(&first, &second).unwrap();
        let held = File::open(&second).unwrap();
        shrink_caches(&mount);
        assert_eq!(fs::read(&second).unwrap(), b"content");
        fs::hard_link(&second, &third).unwrap();
        drop(held);
    }
    mount.unmount();
}

/// Takes handles of files and opens them by these: of one that is there, of one that was removed and whose inode number a new one
/// has, and of one that the kernel has forgotten and been told of again.
const BY_HANDLE: &str = r#"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("len", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]
def handle(path):
    made, mount = Handle(128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(made), ctypes.byref(mount), 0) != 0:
        sys.exit("name_to_handle_at: " + os.strerror(ctypes.get_errno()))
    return made
def content(made):
    opened = libc.open_by_handle_at(folder, ctypes.byref(made), os.O_RDONLY)
    if opened < 0:
        return errno.errorcode[ctypes.get_errno()]
    with os.fdopen(opened) as file:
        return file.read()
def write(path, text):
    with open(path, "w") as file:
        file.write(text)
os.chdir(sys.argv[1])
folder = os.open(".", os.O_RDONLY)
for suffix in ("", ".raw"):
    for number in range(20):
        write("old" + suffix, "old")
        made = handle("old" + suffix)
        assert content(made) == "old", content(made)
        os.unlink("old" + suffix)
        write("new" + suffix, "new")
        assert content(made) == "ESTALE", content(made)
        os.unlink("new" + suffix)
    write("kept" + suffix, "kept")
    made = handle("kept" + suffix)
    if len(sys.argv) > 2:
        assert os.system(sys.argv[2]) == 0
    os.stat("kept" + suffix)
    assert content(made) == "kept", content(made)
"#;

#[test]
fn a_handle_of_a_removed_file_opens_no_other() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root opens files by their handles");
        return;
    }
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let plain = tempfile::tempdir().unwrap();
    let forget = format!("mount -i -o remount,nosuid,nodev {}", mount.root().display());
    for args in [vec![plain.path().to_str().unwrap()], vec![mount.root().to_str().unwrap(), &forget]] {
        let output = Command::new("python3").args(["-c", BY_HANDLE]).args(&args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    mount.unmount();
}

/// Until then the kernel may believe what it was told.
fn wait_for_cached_names() {
    std::thread::sleep(Duration::from_millis(1100));
}

fn make(what: &str, path: &Path) {
    match what {
        "fifo" => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
        "folder" => fs::create_dir(path).unwrap(),
        "home file" => fs::write(path, "text").unwrap(),
        _ => fs::write(path.with_extension("raw"), [7; 5000]).unwrap(),
    }
}

#[test]
fn what_replaces_a_file_on_the_backing_side_is_noticed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let beneath = PathBuf::from(host.path("web01"));
    fs::write(mount.path("kept.txt"), "from a backup").unwrap();
    let kept = fs::read(beneath.join("kept.txt")).unwrap();
    for what in ["fifo", "folder", "home file", "disk"] {
        let [old, disk, text] = ["old", "disk.raw", "text.txt"].map(|name| mount.path(name));
        let old_beneath = if what == "disk" { "old.raw" } else { "old" };
        for by_disk in [true, false] {
            make(what, &old);
            let number = fs::symlink_metadata(mount.path(old_beneath)).unwrap().ino();
            let old = beneath.join(old_beneath);
            if what == "folder" {
                fs::remove_dir(&old).unwrap()
            } else {
                fs::remove_file(&old).unwrap()
            }
            if by_disk {
                host.run(&["create-disk", host.path("web01/disk.raw"), "--size", "1M"]);
                let again = fs::metadata(beneath.join("disk.raw")).unwrap().ino() == number;
                wait_for_cached_names();
                assert_eq!(
                    fs::metadata(&disk).unwrap().len(),
                    1 << 20,
                    "after a {what}, its number used again: {again}"
                );
                assert!(fs::read(&disk).unwrap() == vec![0; 1 << 20], "after a {what}");
                fs::remove_file(&disk).unwrap();
            } else {
                fs::write(beneath.join("text.txt"), &kept).unwrap();
                wait_for_cached_names();
                assert!(fs::metadata(&text).unwrap().is_file());
                assert_eq!(fs::read_to_string(&text).unwrap(), "from a backup", "after a {what}");
                fs::remove_file(&text).unwrap();
            }
            assert_eq!(fs::symlink_metadata(mount.path(old_beneath)).unwrap_err().kind(), ErrorKind::NotFound);
        }
    }
    assert!(!fs::metadata(mount.path("root.raw")).unwrap().file_type().is_fifo());
    mount.unmount();
}

/// As `cp` does it that restores a backup: the file stays, and its content becomes that of a file of the other kind.
#[test]
fn content_that_is_copied_over_a_file_on_the_backing_side_is_noticed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let beneath = PathBuf::from(host.path("web01"));
    host.run(&["create-disk", host.path("web01/small.raw"), "--size", "1M"]);
    fs::write(mount.path("text.txt"), "a home file").unwrap();
    let [disk, text] = ["small.raw", "text.txt"].map(|name| fs::read(beneath.join(name)).unwrap());
    assert_eq!(fs::read(mount.path("small.raw")).unwrap(), vec![0; 1 << 20]);
    fs::write(beneath.join("small.raw"), text).unwrap();
    fs::write(beneath.join("text.txt"), disk).unwrap();
    wait_for_cached_names();
    assert_eq!(fs::metadata(mount.path("text.txt")).unwrap().len(), 1 << 20);
    for name in ["text.txt", "small.raw"] {
        assert_eq!(fs::read(mount.path(name)).unwrap_err().raw_os_error(), Some(libc::EIO), "{name}");
    }
    mount.unmount();
}

/// The file's entry under /proc, by which it is opened once more.
fn entry(file: &File) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn path_only(path: &Path) -> File {
    OpenOptions::new().read(true).custom_flags(OFlags::PATH.bits().cast_signed()).open(path).unwrap()
}

fn removed_files_work(folder: &Path, name: &str) {
    let path = folder.join(name);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    fsetxattr(&file, "user.before", b"first", XattrFlags::empty()).unwrap();
    file.write_all_at(b"content", 0).unwrap();
    let only_path = path_only(&path);
    fs::remove_file(&path).unwrap();
    let value = |name: &str| {
        let mut value = [0; 16];
        let len = fgetxattr(&file, name, &mut value[..]).unwrap();
        String::from_utf8(value[..len].to_vec()).unwrap()
    };
    fsetxattr(&file, "user.after", b"second", XattrFlags::CREATE).unwrap();
    assert_eq!((value("user.before"), value("user.after")), ("first".into(), "second".into()));
    let mut names = [0; 256];
    let len = flistxattr(&file, &mut names[..]).unwrap();
    assert!(names[..len].split(|byte| *byte == 0).any(|name| name == b"user.after"));
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    drop(file);

    let seen = only_path.metadata().unwrap();
    assert_eq!((seen.len(), seen.nlink(), seen.mode() & 0o7777), (7, 0, 0o640), "{name}");
    fs::set_permissions(entry(&only_path), Permissions::from_mode(0o600)).unwrap();
    let mut again = OpenOptions::new().read(true).write(true).open(entry(&only_path)).unwrap();
    let mut text = String::new();
    again.read_to_string(&mut text).unwrap();
    assert_eq!(text, "content");
    again.write_all(b" and more").unwrap();
    drop(again);
    File::options().write(true).open(entry(&only_path)).unwrap().set_len(11).unwrap();
    assert_eq!(fs::read_to_string(entry(&only_path)).unwrap(), "content and");
    assert_eq!(only_path.metadata().unwrap().mode() & 0o7777, 0o600);
    assert!(fs::hard_link(entry(&only_path), folder.join("link")).is_err());
}

fn removed_folders_work(folder: &Path) {
    let path = folder.join("folder");
    fs::create_dir(&path).unwrap();
    let dir = File::open(&path).unwrap();
    fs::remove_dir(&path).unwrap();
    assert_eq!(dir.metadata().unwrap().nlink(), 0);
    dir.set_permissions(Permissions::from_mode(0o711)).unwrap();
    assert_eq!(dir.metadata().unwrap().mode() & 0o7777, 0o711);
    dir.sync_all().unwrap();
    assert_eq!(fs::read_dir(entry(&dir)).unwrap().filter(Result::is_ok).count(), 0);

    let script = "cd \"$1\" && rmdir \"$1\" && stat -c %h . && chmod 700 . && stat -c %a . && ls -a . ; touch x";
    fs::create_dir(&path).unwrap();
    let output = Command::new("sh").args(["-c", script, "sh"]).arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n700\n", "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.status.success() && !path.exists());
}

#[test]
fn removed_files_and_folders_work_until_nobody_has_them() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let plain = tempfile::tempdir_in(mount.root().parent().unwrap()).unwrap();
    for folder in [plain.path(), mount.root()] {
        removed_files_work(folder, "file.txt");
        removed_files_work(folder, "file.raw");
        removed_folders_work(folder);
    }
    // Nothing of it is kept.
    let links = || fs::read_dir(format!("/proc/{}/fd", mount.pid())).unwrap().filter_map(Result::ok);
    let is_removed = |link: &Path| fs::read_link(link).is_ok_and(|to| to.to_string_lossy().ends_with("(deleted)"));
    let kept = || links().filter(|link| is_removed(&link.path())).count();
    let began = std::time::Instant::now();
    while kept() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "{} removed files are still open", kept());
        std::thread::sleep(Duration::from_millis(20));
    }
    mount.unmount();
}

/// What is changed by its name while another file gets that name is the one or the other.
#[test]
fn a_name_that_changes_hands_always_leads_to_a_file() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let [name, other] = ["name", "other"].map(|name| mount.path(name));
    fs::write(&name, "x").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                fs::write(&other, "y").unwrap();
                fs::rename(&other, &name).unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        while !stop.load(Ordering::Relaxed) {
            fs::set_permissions(&name, Permissions::from_mode(0o644)).unwrap();
            fs::metadata(&name).unwrap();
            File::open(&name).unwrap().metadata().unwrap();
        }
    });
    mount.unmount();
}
