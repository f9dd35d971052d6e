//! What `.raw` is not: listed, changed, or open to damage, tricks and locked keys.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::host::{Host, Mount};

pub(super) fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn open_for_writing(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(super) const HEAD: &str =
    "# Disk DescriptorFile\nversion=1\nCID=0000000a\nparentCID=ffffffff\ncreateType=\"custom\"\n";

/// Writes `x.vmdk` of one flat extent of 64 KiB.
fn flat(mount: &Mount<'_>) {
    fs::write(mount.path("x.vmdk"), format!("{HEAD}RW 128 FLAT \"x-flat.vmdk\" 0\n")).unwrap();
    fs::write(mount.path("x-flat.vmdk"), [5; 65_536]).unwrap();
}

#[test]
fn the_directory_is_reached_by_name_and_shows_only_vmdks() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    flat(&mount);
    for (name, content) in [("note.vmdk", "no descriptor"), ("empty.vmdk", ""), ("x-ctk.vmdk", "CTK")] {
        fs::write(mount.path(name), content).unwrap();
    }
    fs::create_dir(mount.path("sub.vmdk")).unwrap();
    assert!(!names(mount.root()).contains(&".raw".to_owned()), "it would be copied and removed with the VM");
    assert_eq!(names(&mount.path(".raw")), ["x.raw"]);
    for absent in ["note.raw", "empty.raw", "x.vmdk", "x", "root.raw", "sub.raw", ".raw", "web01"] {
        assert!(!mount.path(".raw").join(absent).exists(), "{absent}");
    }
    let directory = fs::metadata(mount.path(".raw")).unwrap();
    assert!(directory.is_dir() && directory.permissions().mode() & 0o222 == 0);
    fs::create_dir(mount.path("below")).unwrap();
    assert!(!mount.path("below/.raw").exists());
    mount.unmount();
    let datastore = Host::new();
    fs::create_dir(datastore.path("store")).unwrap();
    datastore.run(&["create", datastore.path("store/web01")]);
    let mount = datastore.mount("store", &[]);
    assert!(!mount.path(".raw").exists());
    assert!(names(&mount.path("web01/.raw")).is_empty());
    mount.unmount();
}

#[test]
fn nothing_but_content_can_be_changed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    flat(&mount);
    let (raw, image) = (mount.path(".raw"), mount.path(".raw/x.raw"));
    let other = mount.path("other");
    fs::write(&other, "a home file").unwrap();
    let refused = [
        ("create", errno(File::create(raw.join("new")))),
        ("mkdir", errno(fs::create_dir(raw.join("new")))),
        ("symlink", errno(symlink("x", raw.join("new")))),
        ("rename in", errno(fs::rename(&other, raw.join("new")))),
        ("rename out", errno(fs::rename(&image, mount.path("y")))),
        ("rename over", errno(fs::rename(&other, &image))),
        ("link", errno(fs::hard_link(&image, mount.path("y")))),
        ("unlink", errno(fs::remove_file(&image))),
        ("rmdir", errno(fs::remove_dir(&raw))),
        ("rename the directory", errno(fs::rename(&raw, mount.path("y")))),
        ("chmod", errno(fs::set_permissions(&image, fs::Permissions::from_mode(0o777)))),
        ("chmod the directory", errno(fs::set_permissions(&raw, fs::Permissions::from_mode(0o777)))),
        ("truncate", errno(open_for_writing(&image).unwrap().set_len(1))),
    ];
    for (what, errno) in refused {
        assert_eq!(errno, Some(libc::EPERM), "{what}");
    }
    assert_eq!(errno(fs::create_dir(&raw)), Some(libc::EEXIST));
    assert_eq!(errno(fs::rename(mount.path("other"), &raw)), Some(libc::EISDIR));
    fs::create_dir(mount.path("dir")).unwrap();
    assert_eq!(errno(fs::rename(mount.path("dir"), &raw)), Some(libc::EPERM));
    assert_eq!((fs::read(&image).unwrap(), fs::read(&other).unwrap()), (vec![5; 65_536], b"a home file".to_vec()));
    assert_eq!(names(Path::new(host.path("web01"))).iter().filter(|name| *name == ".raw").count(), 0);
    mount.unmount();
}

#[test]
fn a_directory_of_that_name_that_came_from_elsewhere_is_not_hidden() {
    let host = Host::with_vm();
    fs::create_dir(host.path("web01/.raw")).unwrap();
    let mount = host.mount("web01", &[]);
    flat(&mount);
    fs::write(mount.path(".raw/mine"), "mine").unwrap();
    assert_eq!(names(&mount.path(".raw")), ["mine"]);
    fs::rename(mount.path(".raw"), mount.path("old")).unwrap();
    assert_eq!(fs::read(mount.path("old/mine")).unwrap(), b"mine");
    mount.unmount();
    let mount = host.mount("web01", &[]);
    assert_eq!(names(&mount.path(".raw")), ["x.raw"]);
    mount.unmount();
}

#[test]
fn what_cannot_be_written_says_so() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    flat(&mount);
    fs::write(mount.path("ro.vmdk"), format!("{HEAD}RDONLY 128 FLAT \"x-flat.vmdk\" 0\n")).unwrap();
    fs::write(mount.path("no.vmdk"), format!("{HEAD}RW 64 FLAT \"x-flat.vmdk\" 0\nNOACCESS 64 FLAT \"a\" 0\n"))
        .unwrap();
    assert_eq!(errno(open_for_writing(&mount.path(".raw/ro.raw"))), Some(libc::EROFS));
    assert_eq!(fs::read(mount.path(".raw/ro.raw")).unwrap(), vec![5; 65_536]);
    assert_eq!(errno(fs::read(mount.path(".raw/no.raw"))), Some(libc::EPERM));
    mount.unmount();
    let mount = host.mount("web01", &["-o", "ro"]);
    assert_eq!(errno(open_for_writing(&mount.path(".raw/x.raw"))), Some(libc::EROFS));
    assert_eq!(fs::read(mount.path(".raw/x.raw")).unwrap(), vec![5; 65_536]);
    mount.unmount();
}

#[test]
fn hostile_descriptors_give_an_error_each_and_the_log_says_which() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    flat(&mount);
    let big = "9".repeat(15);
    let child = |name: &str| format!("{}parentFileNameHint=\"{name}\"\n", HEAD.replace("ffffffff", "0000000a"));
    let cases = [
        (format!("{HEAD}RW 128 FLAT \"../other/x-flat.vmdk\" 0\n"), libc::EPERM, "leaves the VM folder"),
        (format!("{HEAD}RW 128 FLAT \"/etc/passwd\" 0\n"), libc::EPERM, "absolute path"),
        (format!("{HEAD}RW 128 FLAT \"gone-flat.vmdk\" 0\n"), libc::EIO, "extent gone-flat.vmdk"),
        (format!("{HEAD}RW 128 FLAT \"vmcryptfs.home\" 0\n"), libc::EIO, "extent vmcryptfs.home"),
        (format!("{HEAD}RW 129 FLAT \"x-flat.vmdk\" 0\n"), libc::EIO, "line 6"),
        (format!("{HEAD}RW {big} FLAT \"x-flat.vmdk\" 0\n"), libc::EIO, "line 6"),
        (format!("{HEAD}RW 64 FLAT \"x-flat.vmdk\" 0\nRW 64 FLAT \"x-flat.vmdk\" 9\n"), libc::EIO, "same bytes"),
        (format!("{HEAD}RW 128 SPARSE \"x-flat.vmdk\"\n"), libc::EIO, "magic"),
        (format!("{HEAD}RW nine FLAT \"x-flat.vmdk\" 0\n"), libc::EIO, "line 6"),
        (HEAD.replace("custom", "none"), libc::EOPNOTSUPP, "line 5"),
        (format!("{HEAD}encryptionKeys=\"vmware:key/fqid/<VMWARE-NULL>/KMS/k1\"\n"), libc::EOPNOTSUPP, "KMS"),
        (child("bad.vmdk") + "RW 128 ZERO\n", libc::EIO, "loop"),
        (child("gone.vmdk") + "RW 128 ZERO\n", libc::EIO, "parent gone.vmdk"),
        (child("x.vmdk").replace("0000000a\ncreate", "0000000b\ncreate") + "RW 128 ZERO\n", libc::EIO, "parentCID"),
    ];
    for (text, expected, words) in cases {
        fs::write(mount.path("bad.vmdk"), &text).unwrap();
        let before = host.log().len();
        assert_eq!(errno(fs::read(mount.path(".raw/bad.raw"))), Some(expected), "{text}");
        assert!(host.log()[before..].contains(words), "{text}{}", &host.log()[before..]);
        assert_eq!(names(&mount.path(".raw")), ["bad.raw", "x.raw"]);
    }
    assert_eq!(fs::read(mount.path(".raw/x.raw")).unwrap(), vec![5; 65_536]);
    mount.unmount();
}

#[test]
fn a_symbolic_link_is_no_extent() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("x.vmdk"), format!("{HEAD}RW 2 FLAT \"x-flat.vmdk\" 0\n")).unwrap();
    symlink("/etc/passwd", mount.path("x-flat.vmdk")).unwrap();
    assert_eq!(errno(fs::read(mount.path(".raw/x.raw"))), Some(libc::EIO));
    assert!(host.log().contains("extent x-flat.vmdk: not a regular file"), "{}", host.log());
    mount.unmount();
}

#[test]
fn locked_components_say_enokey() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    flat(&mount);
    let image = File::open(mount.path(".raw/x.raw")).unwrap();
    let root = mount.root().display().to_string();
    host.refuses(&["lock", &root], 6, "is open");
    drop(image);
    // The kernel reports the last close when it likes.
    while !host.try_run(&["lock", &root]).status.success() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(errno(fs::read(mount.path(".raw/x.raw"))), Some(libc::ENOKEY));
    assert_eq!(names(&mount.path(".raw")), ["x.raw"]);
    host.run(&["unlock", &root]);
    assert_eq!(fs::read(mount.path(".raw/x.raw")).unwrap(), vec![5; 65_536]);
    host.run(&["lock", &root, "x-flat.vmdk"]);
    assert_eq!(fs::metadata(mount.path(".raw/x.raw")).unwrap().len(), 65_536);
    assert_eq!(errno(fs::read(mount.path(".raw/x.raw"))), Some(libc::ENOKEY));
    mount.unmount();
}

#[test]
fn another_mount_that_writes_keeps_an_image_from_being_opened() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &["--hand-over", "1s"]);
    flat(&mount);
    let other = host.mount("web01", &["--hand-over", "1s"]);
    let writer = open_for_writing(&other.path("x-flat.vmdk")).unwrap();
    assert_eq!(errno(fs::read(mount.path(".raw/x.raw"))), Some(libc::EBUSY));
    drop(writer);
    other.unmount();
    let image = open_for_writing(&mount.path(".raw/x.raw")).unwrap();
    let other = host.mount("web01", &["--hand-over", "1s"]);
    assert_eq!(errno(open_for_writing(&other.path("x-flat.vmdk"))), Some(libc::EBUSY));
    drop(image);
    other.unmount();
    mount.unmount();
}
