//! A hostile backing folder: what write access to it can put in the place of files, also while they are in use.
//! Never a byte from outside of the folder, never a wait without end, never another VM's data.

#![allow(clippy::print_stderr, reason = "a failed test shows which of its cases it was")]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::host::{Host, Mount};

const OUTSIDE: &str = "what lies outside of the backing folder";

/// A VM with home files, and files outside of the datastore. Those that are sealed were moved there from the VM's folder: nothing
/// keeps them from being read but that they are outside.
fn host() -> Host {
    let host = Host::with_vm();
    fs::write(host.path("outside"), OUTSIDE).unwrap();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("sealed"), OUTSIDE).unwrap();
    fs::create_dir(mount.path("inner")).unwrap();
    for name in ["notes.txt", "inner/notes.txt"] {
        fs::write(mount.path(name), "inside").unwrap();
    }
    mount.unmount();
    fs::rename(host.path("web01/sealed"), host.path("sealed")).unwrap();
    fs::create_dir(host.path("elsewhere")).unwrap();
    fs::copy(host.path("sealed"), host.path("elsewhere/notes.txt")).unwrap();
    host
}

fn mkfifo(path: &str) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Opening and reading end soon, and give no byte from outside.
fn gives_nothing(path: &Path) {
    let began = Instant::now();
    let seen = File::options().read(true).custom_flags_nonblock().open(path).and_then(|mut file| {
        let mut seen = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut seen).map(|_| seen)
    });
    if let Ok(seen) = &seen {
        assert!(!String::from_utf8_lossy(seen).contains("outside"), "{}: bytes from outside", path.display());
        assert!(seen != b"inside", "{}: the file that was replaced", path.display());
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{}: {seen:?} took too long", path.display());
}

/// The kernel serves fifos itself: without this, opening one waits for a writer, as it does anywhere.
trait NonBlocking {
    fn custom_flags_nonblock(&mut self) -> &mut Self;
}

impl NonBlocking for fs::OpenOptions {
    fn custom_flags_nonblock(&mut self) -> &mut Self {
        std::os::unix::fs::OpenOptionsExt::custom_flags(self, libc::O_NONBLOCK)
    }
}

fn handle_on(path: &Path) -> File {
    std::os::unix::fs::OpenOptionsExt::custom_flags(File::options().read(true), libc::O_PATH).open(path).unwrap()
}

/// Puts each kind of thing in the place of `victim`, before the mount and while it is mounted.
fn replace_by_everything(host: &Host, victim: &str, check: impl Fn(&Mount<'_>)) {
    let (backing, kept) = (host.path(&format!("web01/{victim}")), host.path("kept"));
    let (outside, sealed) = (host.path("outside"), host.path("sealed"));
    let genuine = fs::read(sealed).unwrap();
    let tricks: [(&str, &dyn Fn()); 6] = [
        ("symbolic link", &|| symlink(outside, backing).unwrap()),
        ("symbolic link to a sealed file", &|| symlink(sealed, backing).unwrap()),
        ("hard link", &|| fs::hard_link(outside, backing).unwrap()),
        ("fifo", &|| mkfifo(backing)),
        ("directory", &|| fs::create_dir(backing).unwrap()),
        ("nothing", &|| {}),
    ];
    for (what, put) in tricks {
        for mounted_before in [true, false] {
            eprintln!("{victim} becomes: {what}, mounted before: {mounted_before}");
            let early = mounted_before.then(|| host.mount("web01", &[]));
            // Leads to the file without its name: the kernel looks that up anew for a disk, and finds what lies there by then.
            let held = early.as_ref().map(|mount| handle_on(&mount.path(victim)));
            fs::rename(backing, kept).unwrap();
            put();
            if let Some(held) = held {
                let opened = File::open(format!("/proc/self/fd/{}", held.as_raw_fd()));
                assert_eq!(
                    super::errno(opened),
                    Some(libc::ESTALE),
                    "{victim} became {what}: the file that has its name"
                );
            }
            let mount = early.unwrap_or_else(|| host.mount("web01", &[]));
            check(&mount);
            mount.unmount();
            if Path::new(backing).is_dir() && !Path::new(backing).is_symlink() {
                fs::remove_dir(backing).unwrap();
            } else if what != "nothing" {
                fs::remove_file(backing).unwrap();
            }
            fs::rename(kept, backing).unwrap();
            assert_eq!(fs::read_to_string(outside).unwrap(), OUTSIDE, "{what}: the file outside was changed");
            assert!(fs::read(sealed).unwrap() == genuine, "{what}: the sealed file outside was changed");
        }
    }
}

#[test]
fn a_component_replaced_by_something_else_gives_nothing_from_outside() {
    let host = host();
    replace_by_everything(&host, "root.raw", |mount| {
        gives_nothing(&mount.path("root.raw"));
        // What is opened for writing must not be written to either.
        drop(
            fs::OpenOptions::new()
                .write(true)
                .custom_flags_nonblock()
                .open(mount.path("root.raw"))
                .map(|mut file| std::io::Write::write_all(&mut file, b"written by the guest")),
        );
        assert_eq!(fs::read_to_string(mount.path("notes.txt")).unwrap(), "inside", "the others work");
    });
    let mount = host.mount("web01", &[]);
    assert!(File::open(mount.path("root.raw")).is_ok());
    mount.unmount();
}

#[test]
fn a_home_file_replaced_by_something_else_gives_nothing_from_outside() {
    let host = host();
    replace_by_everything(&host, "notes.txt", |mount| {
        gives_nothing(&mount.path("notes.txt"));
        drop(
            fs::OpenOptions::new()
                .append(true)
                .custom_flags_nonblock()
                .open(mount.path("notes.txt"))
                .map(|mut file| std::io::Write::write_all(&mut file, b"appended")),
        );
        assert_eq!(fs::read_to_string(mount.path("inner/notes.txt")).unwrap(), "inside", "the others work");
    });
}

/// Files are opened for reading only there, and opening a fifo so waits for a writer.
#[test]
fn a_fifo_in_the_place_of_a_file_does_not_stop_a_mount_that_only_reads() {
    let host = host();
    let kept = host.path("kept");
    for victim in ["root.raw", "notes.txt"] {
        let backing = host.path(&format!("web01/{victim}"));
        let mount = host.mount("web01", &["-o", "ro"]);
        fs::symlink_metadata(mount.path(victim)).unwrap();
        fs::rename(backing, kept).unwrap();
        mkfifo(backing);
        gives_nothing(&mount.path(victim));
        assert_eq!(fs::read_to_string(mount.path("inner/notes.txt")).unwrap(), "inside", "the others work");
        mount.unmount();
        fs::rename(kept, backing).unwrap();
    }
}

/// A mount, status and check must come to an end whatever `vmcryptfs.home` is.
#[test]
fn a_home_header_replaced_by_something_else_locks_the_vm_and_stops_nobody() {
    let host = host();
    let (header, kept) = (host.path("web01/vmcryptfs.home"), host.path("kept"));
    fs::rename(header, kept).unwrap();
    for what in ["fifo", "directory", "symbolic link"] {
        match what {
            "fifo" => mkfifo(header),
            "directory" => fs::create_dir(header).unwrap(),
            _ => symlink(kept, header).unwrap(),
        }
        let mountpoint = host.path("mountpoint");
        fs::create_dir_all(mountpoint).unwrap();
        for args in [vec!["info", host.path("web01")], vec!["check", host.path("web01")]] {
            let began = Instant::now();
            assert!(!host.try_run(&args).status.success(), "{args:?} with a {what}");
            assert!(began.elapsed() < Duration::from_secs(10), "{args:?} with a {what}");
        }
        let began = Instant::now();
        if host.try_run(&["mount", "--log-file", host.path("log"), host.path("web01"), mountpoint]).status.success() {
            assert!(
                fs::read(Path::new(mountpoint).join("notes.txt")).is_err(),
                "{what}: a file opens without its home"
            );
            host.run(&["umount", mountpoint]);
        }
        assert!(began.elapsed() < Duration::from_secs(10), "mounting with a {what}");
        if what == "directory" { fs::remove_dir(header).unwrap() } else { fs::remove_file(header).unwrap() }
    }
    fs::rename(kept, header).unwrap();
}

/// Between a check and the use: a folder, and a file, change into links and back as fast as they can be renamed.
#[test]
fn links_that_are_swapped_in_all_the_time_never_lead_outside() {
    let host = host();
    let (inner, notes) = (host.path("web01/inner"), host.path("web01/notes.txt"));
    symlink(host.path("elsewhere"), host.path("web01/link-to-folder")).unwrap();
    symlink(host.path("sealed"), host.path("web01/link-to-file")).unwrap();
    let mount = host.mount("web01", &[]);
    let (linked_folder, linked_file) = (host.path("web01/link-to-folder"), host.path("web01/link-to-file"));
    let (began, stop) = (Instant::now(), AtomicBool::new(false));
    let exchange = |a: &str, b: &str| {
        rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, rustix::fs::RenameFlags::EXCHANGE).unwrap();
    };
    let (mut inside, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Not for ever: a failed assertion waits for this thread.
            while !stop.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(90) {
                exchange(inner, linked_folder);
                exchange(notes, linked_file);
            }
        });
        // Names are remembered for a second, so a few seconds are a few throws of a coin: they may all fall on one side.
        let enough = |seen: i32| seen > 0 || began.elapsed() > Duration::from_secs(60);
        while began.elapsed() < Duration::from_secs(3) || !enough(inside) || !enough(refused) {
            for name in ["notes.txt", "inner/notes.txt"] {
                match fs::read_to_string(mount.path(name)) {
                    Ok(seen) => {
                        assert_eq!(seen, "inside", "{name}");
                        inside += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
            drop(fs::write(mount.path("inner/new.txt"), "from the guest"));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(inside > 0 && refused > 0, "{inside} reads inside, {refused} refused: this proves nothing");
    assert!(!Path::new(host.path("elsewhere/new.txt")).exists(), "a file was made outside");
    let [sealed, notes] = ["sealed", "elsewhere/notes.txt"].map(|name| fs::read(host.path(name)).unwrap());
    assert!(sealed == notes, "a file outside was changed");
    mount.unmount();
}

/// Headers and files of another VM under the same provider, in the place of this one's.
#[test]
fn what_belongs_to_another_vm_does_not_open_in_this_one() {
    let host = host();
    host.run(&["create", host.path("web02")]);
    host.run(&["create-disk", host.path("web02/root.raw"), "--size", "64M"]);
    let mount = host.mount("web02", &[]);
    fs::write(mount.path("notes.txt"), "of the other VM").unwrap();
    mount.unmount();

    fs::copy(host.path("web02/notes.txt"), host.path("web01/notes.txt")).unwrap();
    let mount = host.mount("web01", &[]);
    assert_eq!(
        fs::read(mount.path("notes.txt")).unwrap_err().raw_os_error(),
        Some(libc::EIO),
        "a file of another home"
    );
    mount.unmount();

    // The other home's header: a whole header whose key can be had. None of this home's files open under it.
    fs::copy(host.path("web02/vmcryptfs.home"), host.path("web01/vmcryptfs.home")).unwrap();
    let mount = host.mount("web01", &[]);
    let error = fs::read(mount.path("inner/notes.txt")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "this home's file under the other's key");
    mount.unmount();
}

/// A disk whose header copies are those of another disk shows noise at most: it has the other's key.
#[test]
fn a_disk_with_the_header_of_another_disk_does_not_show_its_own_data() {
    let host = host();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("other.raw"), "x").unwrap();
    let secret = b"what the guest wrote to its disk".repeat(200);
    std::os::unix::fs::FileExt::write_all_at(
        &File::options().write(true).open(mount.path("root.raw")).unwrap(),
        &secret,
        0,
    )
    .unwrap();
    mount.unmount();
    let other = fs::read(host.path("web01/other.raw")).unwrap();
    let disk = File::options().write(true).open(host.path("web01/root.raw")).unwrap();
    for offset in [0, 4 << 20] {
        let at = usize::try_from(offset).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&disk, &other[at..at + 8192], offset).unwrap();
    }
    let mount = host.mount("web01", &[]);
    assert_eq!(super::errno(fs::read(mount.path("root.raw"))), Some(libc::EIO), "it is listed by another name");
    mount.unmount();
    host.make_unlisted("web01/vmcryptfs.home");
    let mount = host.mount("web01", &[]);
    let seen = fs::read(mount.path("root.raw")).unwrap();
    let (written, hole) = seen.split_at(8192);
    assert!(!written.windows(16).any(|window| window == &secret[..16]), "one key's data under another key");
    assert!(hole.iter().all(|&byte| byte == 0), "never written");
    mount.unmount();
}

#[test]
fn lengths_that_lie_are_errors_or_other_lengths_never_crashes() {
    let host = host();
    for len in [0, 1, 511, 512, 8191, 8192, (4 << 20) + 1, (8 << 20) - 1, 8 << 20, (8 << 20) + 17, 1 << 60] {
        let disk = host.path("web01/root.raw");
        fs::copy(disk, host.path("whole")).unwrap();
        // A length that the file system does not take is not an attack.
        if File::options().write(true).open(disk).unwrap().set_len(len).is_ok() {
            let mount = host.mount("web01", &[]);
            let length = fs::metadata(mount.path("root.raw")).unwrap().len();
            let opened = File::open(mount.path("root.raw")).map(|file| {
                let mut seen = vec![0; 4096];
                std::os::unix::fs::FileExt::read_at(&file, &mut seen, length.saturating_sub(100))
            });
            eprintln!("backing length {len}: shows {length}, {opened:?}");
            assert_eq!(fs::read_to_string(mount.path("notes.txt")).unwrap(), "inside", "the mount lives");
            mount.unmount();
        }
        fs::copy(host.path("whole"), disk).unwrap();
    }
}

#[test]
fn what_is_created_is_only_for_its_owner() {
    let host = host();
    let mode = |name: &str| fs::metadata(host.path(name)).unwrap().mode() & 0o777;
    let mount = host.mount("web01", &[]);
    for name in ["web01/vmcryptfs.home", "web01/root.raw", "config/config.toml", "config/keys/local.key", "log"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(mode("config/keys"), 0o700);
    let device = fs::metadata(mount.root()).unwrap().dev();
    let socket = format!("/run/vmcryptfs/{}-{}.sock", libc::major(device), libc::minor(device));
    if rustix::process::geteuid().is_root() {
        let socket = fs::metadata(socket).unwrap();
        assert!(socket.file_type().is_socket() && socket.mode() & 0o777 == 0o600);
        assert_eq!(fs::metadata("/run/vmcryptfs").unwrap().mode() & 0o777, 0o700);
    }
    mount.unmount();
}
