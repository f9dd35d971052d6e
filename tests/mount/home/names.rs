//! Names, links, special files, attributes, and VM folders as a whole.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, mknodat, renameat_with};

use crate::home::attributes::{names_of, xattr};
use crate::host::Host;

fn listing(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> std::io::Result<()> {
    Ok(renameat_with(CWD, from, CWD, to, flags)?)
}

#[test]
fn the_header_file_is_out_of_reach() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let header = mount.path("vmcryptfs.home");
    fs::write(mount.path("file"), "x").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    assert_eq!(listing(mount.root()), ["dir", "file", "root.raw"].map(String::from).into());
    assert_eq!(fs::metadata(&header).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(fs::write(&header, "x").is_err());
    assert!(fs::create_dir(&header).is_err());
    assert!(symlink("x", &header).is_err());
    assert!(fs::hard_link(mount.path("file"), &header).is_err());
    assert!(mknodat(CWD, &header, FileType::Fifo, Mode::RWXU, 0).is_err());
    assert!(fs::rename(mount.path("file"), &header).is_err());
    assert!(fs::rename(mount.path("dir"), &header).is_err());
    assert!(fs::rename(&header, mount.path("file")).is_err());
    assert!(rename_with(&mount.path("file"), &header, RenameFlags::EXCHANGE).is_err());
    assert!(fs::hard_link(&header, mount.path("copy")).is_err());
    assert!(fs::remove_file(&header).is_err());
    mount.unmount();
    host.run(&["check", host.path("web01")]);
}

#[test]
fn rename_in_all_its_ways() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let (a, b) = (mount.path("a"), mount.path("b"));
    let texts = || (fs::read_to_string(&a).unwrap(), fs::read_to_string(&b).unwrap());
    fs::write(&a, "first").unwrap();
    fs::write(&b, "second").unwrap();
    assert_eq!(errno(rename_with(&a, &b, RenameFlags::NOREPLACE)), Some(libc::EEXIST));
    assert_eq!(texts(), ("first".into(), "second".into()));
    rename_with(&a, &b, RenameFlags::EXCHANGE).unwrap();
    assert_eq!(texts(), ("second".into(), "first".into()));
    fs::rename(&a, &b).unwrap();
    assert_eq!(fs::read_to_string(&b).unwrap(), "second");
    assert_eq!(fs::metadata(&a).unwrap_err().kind(), ErrorKind::NotFound);
    rename_with(&b, &a, RenameFlags::NOREPLACE).unwrap();

    fs::create_dir_all(mount.path("dir/inner")).unwrap();
    fs::write(mount.path("dir/inner/file"), "deep").unwrap();
    rename_with(&a, &mount.path("dir"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(mount.path("a/inner/file")).unwrap(), "deep", "a folder and a file swap names");
    assert_eq!(errno(fs::rename(mount.path("a"), mount.path("a/inner/x"))), Some(libc::EINVAL));
    fs::create_dir(mount.path("full")).unwrap();
    fs::write(mount.path("full/x"), "").unwrap();
    assert_eq!(errno(fs::rename(mount.path("a"), mount.path("full"))), Some(libc::ENOTEMPTY));
    mount.unmount();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read_to_string(mount.path("a/inner/file")).unwrap(), "deep");
    mount.unmount();
}

/// A home file may get a name of a disk, and a disk a name of the home: what it is goes by its content.
#[test]
fn a_name_of_the_other_kind_changes_nothing_of_a_file() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("download.part"), "of the home").unwrap();
    fs::rename(mount.path("download.part"), mount.path("download.raw")).unwrap();
    fs::rename(mount.path("root.raw"), mount.path("root.bak")).unwrap();
    mount.unmount();
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read_to_string(mount.path("download.raw")).unwrap(), "of the home");
    assert_eq!(fs::metadata(mount.path("root.bak")).unwrap().len(), 64 << 20);
    assert_eq!(fs::read(mount.path("root.bak")).unwrap().len(), 64 << 20);
    mount.unmount();
}

#[test]
fn symlink_targets_are_sealed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for name in ["one", "two"] {
        symlink("../secret/target", mount.path(name)).unwrap();
    }
    assert_eq!(fs::read_link(mount.path("one")).unwrap(), Path::new("../secret/target"));
    assert_eq!(fs::symlink_metadata(mount.path("one")).unwrap().len(), 16, "the length is that of the target");
    let below = |name: &str| fs::read_link(host.path(&format!("web01/{name}"))).unwrap();
    assert_ne!(below("one"), below("two"), "equal targets are not equal below");
    assert!(!below("one").to_str().unwrap().contains("secret"));

    fs::write(mount.path("file"), "through a link").unwrap();
    symlink("file", mount.path("link")).unwrap();
    assert_eq!(fs::read_to_string(mount.path("link")).unwrap(), "through a link");
    let longest = "x".repeat(3030);
    symlink(&longest, mount.path("long")).unwrap();
    assert_eq!(fs::read_link(mount.path("long")).unwrap(), Path::new(&longest));
    assert_eq!(errno(symlink("x".repeat(3031), mount.path("longer"))), Some(libc::ENAMETOOLONG));

    symlink("plain/target", host.path("web01/foreign")).unwrap();
    assert_eq!(errno(fs::read_link(mount.path("foreign"))), Some(libc::EIO));
    mount.unmount();
    assert!(host.log().contains("foreign"), "{}", host.log());
}

#[test]
fn user_xattrs_are_sealed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::create_dir(mount.path("dir")).unwrap();
    let names = ["one", "two", "dir", "root.raw"];
    let value = b"a value that must not show";
    for name in names {
        let path = mount.path(name);
        if !path.exists() {
            fs::write(&path, "x").unwrap();
        }
        rustix::fs::lsetxattr(&path, "user.label", value, XattrFlags::CREATE).unwrap();
        assert_eq!(xattr(&path, "user.label").unwrap(), value, "{name}");
        let again = rustix::fs::lsetxattr(&path, "user.label", value, XattrFlags::CREATE);
        assert_eq!(again.unwrap_err(), rustix::io::Errno::EXIST);
    }
    let below = |name: &str| xattr(Path::new(host.path(&format!("web01/{name}"))), "user.label").unwrap();
    let stored: BTreeSet<Vec<u8>> = names.map(below).into();
    assert_eq!(stored.len(), names.len(), "equal values are not equal below");
    assert!(!stored.iter().any(|bytes| bytes.windows(6).any(|window| window == &value[..6])));

    // A value that was copied to another file, or to another name, does not open there.
    let to = host.path("web01/two");
    rustix::fs::lsetxattr(to, "user.label", &below("one"), XattrFlags::empty()).unwrap();
    assert_eq!(errno(xattr(&mount.path("two"), "user.label")), Some(libc::EIO));

    assert!(names_of(&mount.path("one")).contains("user.label"));
    rustix::fs::lremovexattr(mount.path("one"), "user.label").unwrap();
    assert_eq!(errno(xattr(&mount.path("one"), "user.label")), Some(libc::ENODATA));
    mount.unmount();
}

#[test]
fn hard_links_are_one_file() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("a"), "one").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    fs::hard_link(mount.path("a"), mount.path("dir/b")).unwrap();
    let seen = |name: &str| fs::metadata(mount.path(name)).unwrap();
    assert_eq!((seen("a").nlink(), seen("a").ino()), (2, seen("dir/b").ino()));
    fs::OpenOptions::new().append(true).open(mount.path("dir/b")).unwrap().write_all(b" and two").unwrap();
    assert_eq!(fs::read_to_string(mount.path("a")).unwrap(), "one and two");
    fs::remove_file(mount.path("a")).unwrap();
    assert_eq!(seen("dir/b").nlink(), 1);
    assert_eq!(fs::read_to_string(mount.path("dir/b")).unwrap(), "one and two");
    mount.unmount();
}

#[test]
fn fifos_and_sockets_work() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let fifo = mount.path("fifo");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, "through the pipe").unwrap()
    });
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "through the pipe");
    writer.join().unwrap();

    let listener = UnixListener::bind(mount.path("monitor")).unwrap();
    assert!(fs::symlink_metadata(mount.path("monitor")).unwrap().file_type().is_socket());
    let mut client = UnixStream::connect(mount.path("monitor")).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    let mut said = String::new();
    listener.accept().unwrap().0.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello");
    drop(listener); // a socket's name keeps its mount busy
    mount.unmount();
}

#[test]
fn long_names_and_folders_of_10_000_files() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let longest = "n".repeat(255);
    fs::write(mount.path(&longest), "x").unwrap();
    assert_eq!(fs::read_to_string(mount.path(&longest)).unwrap(), "x");
    assert_eq!(errno(fs::write(mount.path(&"n".repeat(256)), "x")), Some(libc::ENAMETOOLONG));
    let odd = PathBuf::from(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not \xff utf-8 \n"));
    fs::write(mount.root().join(&odd), "odd").unwrap();
    assert_eq!(fs::read_to_string(mount.root().join(&odd)).unwrap(), "odd");

    let expected: BTreeSet<String> = (0..10_000).map(|number| format!("file-{number}")).collect();
    let many = mount.path("many");
    fs::create_dir(&many).unwrap();
    for name in &expected {
        drop(fs::File::create(many.join(name)).unwrap());
    }
    assert_eq!(fs::read_dir(&many).unwrap().count(), 10_000, "each of them once");
    assert_eq!(listing(&many), expected);
    fs::remove_dir_all(&many).unwrap();
    assert!(!many.exists());
    mount.unmount();
}

#[test]
fn modes_owners_and_times() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let path = mount.path("file");
    fs::write(&path, "x").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    for (name, mode) in [("file", 0o604), ("dir", 0o1750)] {
        fs::set_permissions(mount.path(name), fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(fs::metadata(mount.path(name)).unwrap().mode() & 0o7777, mode);
    }
    let long_ago = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(5), Some(6)).unwrap();
        symlink("x", mount.path("link")).unwrap();
        std::os::unix::fs::lchown(mount.path("link"), Some(7), Some(8)).unwrap();
    }
    mount.unmount();
    let mount = host.mount("web01", &[]);
    let seen = fs::metadata(mount.path("file")).unwrap();
    assert_eq!(seen.modified().unwrap(), long_ago);
    if rustix::process::geteuid().is_root() {
        assert_eq!((seen.uid(), seen.gid()), (5, 6));
        let link = fs::symlink_metadata(mount.path("link")).unwrap();
        assert_eq!((link.uid(), link.gid()), (7, 8));
    }
    mount.unmount();
}

#[test]
fn vm_folders_are_made_and_removed_in_a_datastore() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    let mount = host.mount("vms", &[]);
    let vm = mount.path("web01");
    fs::create_dir(&vm).unwrap();
    assert!(Path::new(host.path("vms/web01/vmcryptfs.home")).exists());
    assert_eq!(listing(&vm), BTreeSet::new());
    assert_eq!(errno(fs::create_dir(&vm)), Some(libc::EEXIST));
    fs::write(vm.join("web01.vmx"), "config").unwrap();
    assert_eq!(errno(fs::remove_dir(&vm)), Some(libc::ENOTEMPTY));
    assert_eq!(fs::read_to_string(vm.join("web01.vmx")).unwrap(), "config", "a refused rmdir changes nothing");
    fs::create_dir(mount.path("web02")).unwrap();
    assert_eq!(errno(fs::rename(vm.join("web01.vmx"), mount.path("web02/x"))), Some(libc::EXDEV));
    assert_eq!(errno(fs::hard_link(vm.join("web01.vmx"), mount.path("web02/x"))), Some(libc::EXDEV));
    mount.unmount();
    host.run(&["check", host.path("vms/web01")]);

    let mount = host.mount("vms", &[]);
    assert_eq!(fs::read_to_string(mount.path("web01/web01.vmx")).unwrap(), "config");
    fs::remove_file(mount.path("web01/web01.vmx")).unwrap();
    for vm in ["web01", "web02"] {
        fs::remove_dir(mount.path(vm)).unwrap();
        assert!(!Path::new(host.path(&format!("vms/{vm}"))).exists());
    }
    fs::create_dir(mount.path("web01")).unwrap();
    fs::write(mount.path("web01/again"), "x").unwrap();
    mount.unmount();
}
