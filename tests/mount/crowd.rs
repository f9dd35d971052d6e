//! A client that opens as much as it can leaves something to others.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::fs::{Dir, Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, Uid, prlimit};
use rustix::thread::set_thread_res_uid;

use crate::host::{Host, Mount};
use crate::not_run::not_run;

/// How many files the process of a mount may have open here.
const LIMIT: u64 = 400;

/// A mount of `web01` with that limit, for all users; `None` where that takes more rights than the tests have.
fn small_mount_for_all(host: &Host) -> Option<Mount<'_>> {
    if !rustix::process::geteuid().is_root() {
        not_run("only root takes the part of other users");
        return None;
    }
    let mount = host.mount("web01", &["-o", "allow_other"]);
    for dir in mount.root().ancestors().take(2) {
        fs::set_permissions(dir, Permissions::from_mode(0o777)).unwrap();
    }
    let pid = Pid::from_raw(i32::try_from(mount.pid()).unwrap());
    let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
    Some(mount)
}

#[test]
fn one_client_with_all_files_open_does_not_lock_out_others() {
    let host = Host::with_vm();
    let Some(mount) = small_mount_for_all(&host) else { return };
    let open_all = || {
        let mut open = Vec::new();
        loop {
            match File::create(mount.path(&format!("file-{}", open.len()))) {
                Ok(file) => open.push(file),
                Err(error) => return (open, error),
            }
            assert!(open.len() as u64 <= LIMIT);
        }
    };
    let (open, refused) = open_all();
    assert_eq!(refused.raw_os_error(), Some(libc::EMFILE));
    assert!(open.len() as u64 > LIMIT / 2, "{}", open.len());
    // Those without a name are reached by a descriptor more, if there are enough.
    (0..open.len()).for_each(|number| fs::remove_file(mount.path(&format!("file-{number}"))).unwrap());
    let other = Command::new("setpriv")
        .args(["--reuid=41001", "--regid=41001", "--clear-groups", "sh", "-c"])
        // By relative names: the folders above the mount may be closed to this user.
        .arg("mkdir own && echo x > own/new && cat own/new && ls -l own && cp own/new own/copy && exec 3<own/new 4<own/copy && ls own")
        .current_dir(mount.root())
        .output()
        .unwrap();
    assert!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
    fs::metadata(mount.path("root.raw")).unwrap();
    assert_eq!(mount.status()["pid"].as_i64(), Some(mount.pid()));
    drop(open);
    let again = || File::create(mount.path("file-0"));
    let freed = (0..500).find_map(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10)); // a last close arrives by itself
        again().ok()
    });
    assert!(freed.is_some(), "{:?}", again().err());
    drop(freed);
    mount.unmount();
}

/// Files that a user opens through a mount until one is refused, and by what. In the open folder, since those above it may be
/// closed to this user.
fn open_all_as(uid: u32, mount: &Mount<'_>, at_most: u64) -> (Vec<File>, i32) {
    let folder = File::open(mount.root()).unwrap();
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            become_user(uid); // only of this thread
            let mut open = Vec::new();
            loop {
                match rustix::fs::openat(&folder, format!("of-{uid}-{}", open.len()), flags, Mode::RUSR | Mode::WUSR) {
                    Ok(file) => open.push(File::from(file)),
                    Err(error) => return (open, error.raw_os_error()),
                }
                assert!(open.len() as u64 <= at_most);
            }
        });
        opener.join().unwrap()
    })
}

fn become_user(uid: u32) {
    let uid = Uid::from_raw(uid);
    set_thread_res_uid(uid, uid, uid).unwrap();
}

#[test]
fn what_several_users_take_leaves_some_to_root_and_to_listings() {
    let host = Host::with_vm();
    let Some(mount) = small_mount_for_all(&host) else { return };
    let (first, refused) = open_all_as(41001, &mount, LIMIT);
    assert!(refused == libc::EMFILE && first.len() as u64 > LIMIT / 2, "{refused} after {}", first.len());
    let (second, refused) = open_all_as(41002, &mount, LIMIT);
    assert!(refused == libc::ENFILE && second.len() > 10, "{refused} after {}", second.len());
    let folder = File::open(mount.root()).unwrap();
    for uid in [41001, 41002, 41003, 0] {
        let listed = std::thread::scope(|scope| {
            let list = || {
                become_user(uid);
                Dir::read_from(&folder).map(Iterator::count)
            };
            scope.spawn(list).join().unwrap()
        });
        assert!(listed.as_ref().is_ok_and(|&number| number > first.len()), "{uid}: {listed:?}");
    }
    let of_root: Vec<File> =
        (0..10).map(|number| File::create(mount.path(&format!("root-{number}"))).unwrap()).collect();
    assert_eq!(mount.status()["pid"].as_i64(), Some(mount.pid()));
    drop((first, second, of_root, folder));
    mount.unmount();
}
