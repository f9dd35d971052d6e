//! A mount that reaches itself would wait for itself for ever, and nothing but the end of its connection would end that.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::host::{Host, Mount, root_is_a_mount};
use crate::not_run::not_run;

const LIMIT: Duration = Duration::from_secs(20);

/// Something else that the test has mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn new(args: &[&str], at: &str) -> Self {
        let output = Command::new("mount").args(args).arg(at).output().unwrap();
        assert!(output.status.success(), "mount {args:?} {at}: {}", String::from_utf8_lossy(&output.stderr));
        Self(at.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}

/// Does something with a mount that has to come to an end; if it does not, the connection is broken off.
fn within_limit<T: Send + 'static>(mount: &Mount<'_>, work: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
    let device = fs::metadata(mount.root()).unwrap().dev();
    let (done, on_done) = channel();
    let root = mount.root().to_path_buf();
    std::thread::spawn(move || done.send(work(root)));
    on_done.recv_timeout(LIMIT).unwrap_or_else(|error| {
        let _ = fs::write(format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device)), "1");
        panic!("no end in {LIMIT:?}: {error}")
    })
}

/// Calls `each` for all that a folder holds, as `find` does.
fn find(folder: &Path, each: &mut dyn FnMut(&Path)) {
    each(folder);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match fs::symlink_metadata(entry.path()) {
            Ok(found) if found.is_dir() => find(&entry.path(), each),
            _ => each(&entry.path()),
        }
    }
}

#[test]
fn a_mountpoint_within_the_folder_is_refused_by_whatever_path_it_is_named() {
    let host = Host::with_vm();
    let datastore = host.path("");
    for within in ["web01/inner", "inner"] {
        fs::create_dir(host.path(within)).unwrap();
        host.refuses(&["mount", datastore, host.path(within)], 2, "would show itself");
    }
    host.refuses(&["mount", host.path("web01"), host.path("web01/inner")], 2, "would show itself");
    let outside = tempfile::tempdir().unwrap();
    let (link, folder) = (outside.path().join("link"), outside.path().join("folder"));
    symlink(host.path("web01"), &link).unwrap();
    fs::create_dir(&folder).unwrap();
    let named = |path: &Path| path.to_str().unwrap().to_owned();
    host.refuses(&["mount", host.path("web01"), &named(&link.join("inner"))], 2, "would show itself");
    host.refuses(&["mount", &named(&link), host.path("web01/inner")], 2, "would show itself");
    if may_mount() && !root_is_a_mount() {
        not_run("the table of mounts of a chroot does not say where a folder of its root lies");
    } else if may_mount() {
        // Where mounts are shared, one below a bind mount shows in the folder itself.
        let bound = Mounted::new(&["--bind", host.path("web01")], &named(&folder));
        host.refuses(&["mount", datastore, &named(&folder.join("inner"))], 2, "would show itself");
        drop(bound);
    }
    let mount = host.mount("web01", &[]);
    let second = tempfile::tempdir().unwrap();
    host.refuses(&["mount", &named(mount.root()), &named(second.path())], 2, "in a mount of vmcryptfs");
    mount.unmount();
}

#[test]
fn a_mount_that_comes_to_lie_in_its_own_folder_is_not_entered() {
    if !may_mount() {
        return; // only root can bring it there
    }
    let host = Host::with_vm();
    for folder in ["web01/inner", "inner"] {
        fs::create_dir(host.path(folder)).unwrap();
    }
    let mount = host.mount("", &["--transport", "dev-fuse"]);
    fs::write(mount.path("web01/notes"), "x").unwrap();
    fs::write(mount.path("web01/other"), "y").unwrap();
    let root = mount.root().to_str().unwrap();
    let notes = mount.path("web01/notes");
    let within = [
        Mounted::new(&["--bind", root], host.path("web01/inner")),
        Mounted::new(&["--bind", root], host.path("inner")),
        Mounted::new(&["--bind", notes.to_str().unwrap()], host.path("web01/other")),
    ];
    within_limit(&mount, |root| {
        std::thread::sleep(Duration::from_millis(1100)); // for which the kernel believes what it knows
        // What is no VM folder is not shown in a datastore.
        let all = [
            ("web01/inner", libc::ELOOP),
            ("web01/inner/web01", libc::ELOOP),
            ("web01/other", libc::ELOOP),
            ("inner", libc::ENOENT),
        ];
        for (name, errno) in all {
            assert_eq!(fs::symlink_metadata(root.join(name)).unwrap_err().raw_os_error(), Some(errno), "{name}");
            assert!(File::open(root.join(name)).is_err(), "{name}");
        }
        let mut seen = 0;
        find(&root, &mut |_| seen += 1);
        assert!(seen < 40, "{seen}");
        assert_eq!(fs::read(root.join("web01/notes")).unwrap(), b"x");
    });
    for verb in ["info", "check"] {
        host.run(&[verb, host.path("web01")]);
    }
    assert!(mount.status()["components"].as_array().unwrap().len() >= 2);
    drop(within);
    mount.unmount();
}

#[test]
fn an_overlay_of_the_mount_in_its_own_folder_is_not_entered() {
    if !may_mount() {
        not_run("only root brings an overlay there");
        return;
    }
    let host = Host::with_vm();
    for folder in ["web01/inner", "inner", "lower", "elsewhere"] {
        fs::create_dir(host.path(folder)).unwrap();
    }
    let mount = host.mount("", &["--transport", "dev-fuse"]);
    fs::write(mount.path("web01/notes"), "x").unwrap();
    let vm = mount.path("web01");
    let overlay = |lower: &str, at: &str| {
        let layers = format!("lowerdir={}:{}", host.path("lower"), lower);
        let made =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &layers, host.path(at)]).output().unwrap();
        made.status.success().then(|| Mounted(host.path(at).into()))
    };
    let Some(other) = overlay(host.path("elsewhere"), "web01/inner") else {
        not_run("no overlay can be mounted here");
        return;
    };
    within_limit(&mount, |root| drop(fs::read_dir(root.join("web01/inner")).unwrap()));
    drop(other);
    let over = [overlay(vm.to_str().unwrap(), "web01/inner").unwrap(), overlay(vm.to_str().unwrap(), "inner").unwrap()];
    within_limit(&mount, |root| {
        std::thread::sleep(Duration::from_millis(1100)); // for which the kernel believes what it knows
        let refused = fs::symlink_metadata(root.join("web01/inner")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ELOOP));
        let mut seen = 0;
        find(&root, &mut |_| seen += 1);
        assert!(seen < 40, "{seen}");
        assert_eq!(fs::read(root.join("web01/notes")).unwrap(), b"x");
    });
    assert!(mount.status()["components"].as_array().unwrap().len() >= 2);
    host.run(&["info", host.path("web01")]);
    drop(over);
    mount.unmount();
}

#[test]
fn a_datastore_may_have_a_file_system_for_each_vm() {
    if !may_mount() {
        return;
    }
    let host = Host::with_vm();
    fs::create_dir(host.path("web02")).unwrap();
    let own = Mounted::new(&["-t", "tmpfs", "-o", "size=64m", "none"], host.path("web02"));
    host.run(&["create", host.path("web02")]);
    host.run(&["create-disk", host.path("web02/root.raw"), "--size", "1M"]);
    let mount = host.mount("", &[]);
    within_limit(&mount, |root| {
        fs::create_dir(root.join("web02/deep")).unwrap();
        fs::write(root.join("web02/deep/notes"), "there").unwrap();
        assert_eq!(fs::read(root.join("web02/deep/notes")).unwrap(), b"there");
        assert_eq!(fs::read(root.join("web02/root.raw")).unwrap().len(), 1 << 20);
        assert_eq!(fs::read(root.join("web01/root.raw")).unwrap().len(), 64 << 20);
        fs::rename(root.join("web02/deep/notes"), root.join("web02/moved")).unwrap();
        fs::remove_dir(root.join("web02/deep")).unwrap();
    });
    mount.unmount();
    drop(own);
}
