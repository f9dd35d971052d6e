//! What stands in a folder, and what a mount, `check`, `status` and `info` say of it: the same, and with the same end.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, symlink};
use std::process::Output;

use crate::host::Host;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

/// What `check` prints of a path, and how it ends.
fn check(host: &Host, args: &[&str]) -> (Option<i32>, String) {
    let checked = host.try_run(&[&["check"], args].concat());
    (checked.status.code(), said(&checked))
}

/// The end of a mount that requires all to be usable, and its words. There is no mount of it then.
fn required(host: &Host, folder: &str) -> (Option<i32>, String) {
    let at = tempfile::tempdir().unwrap();
    let at_path = at.path().to_str().unwrap();
    let mounted =
        host.try_run(&["mount", "--log-file", host.path("log"), "--require-unlocked", host.path(folder), at_path]);
    if mounted.status.success() {
        host.run(&["umount", at_path]);
    }
    (mounted.status.code(), said(&mounted))
}

fn fill(path: &str, places: &[u64], what: u8) {
    let file = File::options().write(true).open(path).unwrap();
    places.iter().for_each(|place| std::os::unix::fs::FileExt::write_all_at(&file, &[what; 4096], *place).unwrap());
}

#[test]
fn a_listed_disk_that_is_missing_is_a_problem_and_no_mount_that_requires_it_begins() {
    let host = Host::with_vm();
    assert_eq!(required(&host, "web01").0, Some(0));
    fs::rename(host.path("web01/root.raw"), host.path("kept.raw")).unwrap();
    let (code, text) = check(&host, &[host.path("web01")]);
    assert!(code == Some(3) && text.contains("nothing lies at root.raw"), "{text}");
    let (code, text) = required(&host, "web01");
    assert!(code == Some(4) && text.contains("missing: root.raw"), "{text}");
    // A link to it is no disk, and is said once.
    symlink(host.path("kept.raw"), host.path("web01/root.raw")).unwrap();
    for args in [&[host.path("web01")][..], &[host.path("web01/root.raw")]] {
        let (code, text) = check(&host, args);
        let lines: Vec<&str> = text.lines().filter(|line| line.contains("root.raw")).collect();
        assert!(code == Some(3) && lines.len() == 1, "{text}");
        assert!(lines[0].contains("PROBLEM") && lines[0].contains("a symbolic link lies at root.raw"), "{text}");
    }
}

#[test]
fn what_went_back_what_shows_no_sign_and_a_lost_home_end_a_mount_that_requires_them() {
    let host = Host::with_vm();
    fs::create_dir(host.path("vms")).unwrap();
    host.run(&["create", host.path("vms/db01")]);
    host.run(&["create-disk", host.path("vms/db01/data.raw"), "--size", "1M"]);
    assert_eq!(required(&host, "vms").0, Some(0));
    let home = host.path("vms/db01/vmcryptfs.home");
    let before = fs::read(home).unwrap();
    host.run(&["rekey", host.path("vms/db01")]);
    let after = fs::read(home).unwrap();
    fs::write(home, before).unwrap();
    let (code, text) = required(&host, "vms");
    assert!(code == Some(4) && text.contains("older than what this host has seen"), "{text}");
    fs::write(home, after).unwrap();
    let noise: Vec<u8> = (0..9_u64 << 20).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    fs::write(host.path("vms/db01/lost.raw"), noise).unwrap();
    let (code, text) = required(&host, "vms");
    assert!(code == Some(4) && text.contains("lost.raw: no sign of what it is"), "{text}");
    fs::remove_file(host.path("vms/db01/lost.raw")).unwrap();
    host.run(&["create", host.path("vms/web02")]);
    fs::rename(home, host.path("kept.home")).unwrap();
    let (code, text) = required(&host, "vms");
    assert!(code == Some(4) && text.contains("not shown, since the home header is missing: db01"), "{text}");
}

#[test]
fn a_damaged_header_copy_is_said_by_all_and_a_file_without_any_is_judged_by_its_folder() {
    let host = Host::with_vm();
    let disk = host.path("web01/root.raw");
    host.run(&["create-disk", host.path("web01/more.raw"), "--size", "1M"]);
    fill(disk, &[0], 0);
    let words = "one of two header copies is damaged";
    for path in [host.path("web01"), disk] {
        let (code, text) = check(&host, &[path]);
        assert!(code == Some(3) && text.contains(words), "{text}");
    }
    let info = host.try_run(&["info", host.path("web01")]);
    assert!(said(&info).contains(words), "{}", said(&info));
    let mount = host.mount("web01", &[]);
    assert!(host.log().contains(words));
    assert!(host.run(&["status", mount.root().to_str().unwrap()]).contains(&format!("root.raw: {words}")));
    assert!(mount.status()["components"].to_string().contains("damaged_copy"));
    mount.unmount();
    assert_eq!(required(&host, "web01").0, Some(0));
    fill(disk, &[4 << 20], 0);
    for path in [host.path("web01"), disk] {
        let (code, text) = check(&host, &[path]);
        assert!(code == Some(3) && text.contains("a file without a header lies at root.raw"), "{text}");
    }
}

#[test]
fn what_lies_in_the_place_of_a_homes_header_is_named_and_is_damage() {
    let host = Host::with_vm();
    let (home, kept) = (host.path("web01/vmcryptfs.home"), host.path("kept.home"));
    fs::rename(home, kept).unwrap();
    for what in ["a fifo", "a folder", "a symbolic link"] {
        match what {
            "a fifo" => {
                rustix::fs::mknodat(rustix::fs::CWD, home, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            }
            "a folder" => fs::create_dir(home).unwrap(),
            _ => symlink(kept, home).unwrap(),
        }
        let words = format!("{what} lies there, expected a regular file");
        for verb in
            [&["check"][..], &["info"], &["clone", host.path("web01")], &["encrypt"], &["rekey"], &["key", "list"]]
        {
            let args = match verb {
                ["clone", from] => vec!["clone", from, host.path("copy")],
                verb => [verb, &[host.path("web01")]].concat(),
            };
            let done = host.try_run(&args);
            assert!(done.status.code() == Some(3) && said(&done).contains(&words), "{args:?}: {}", said(&done));
        }
        let (_, text) = check(&host, &[host.path("web01")]);
        assert_eq!(text.lines().filter(|line| line.contains("home")).count(), 1, "{text}");
        if what == "a folder" { fs::remove_dir(home).unwrap() } else { fs::remove_file(home).unwrap() }
    }
}

#[test]
fn check_does_not_call_whole_what_it_cannot_know_nor_all_genuine_beside_a_problem() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("a.nvram"), "one").unwrap();
    fs::write(mount.path("b.nvram"), "two").unwrap();
    mount.unmount();
    let (code, text) = check(&host, &["--data", host.path("web01")]);
    assert!(code == Some(0) && text.contains("all of it was read and is genuine: 2 files"), "{text}");
    fill(host.path("web01/b.nvram"), &[274_432], 7);
    let (code, text) = check(&host, &["--data", host.path("web01")]);
    assert!(code == Some(3) && text.contains("the rest of it was read and is genuine") && !text.contains("all of it"));
    File::options().write(true).open(host.path("web01/root.raw")).unwrap().set_len((8 << 20) + 511_392).unwrap();
    let (code, text) = check(&host, &[host.path("web01/root.raw")]);
    assert!(
        code == Some(0) && text.contains("511392 bytes of data") && text.contains("may have been cut off"),
        "{text}"
    );
    assert!(!text.contains(" ok     whole"), "{text}");
}

#[test]
fn disks_are_made_neither_beside_a_read_only_mount_nor_in_a_folder_of_a_vm() {
    let host = Host::with_vm();
    fs::create_dir(host.path("web01/sub")).unwrap();
    host.refuses(&["create-disk", host.path("web01/sub/n.raw"), "--size", "1M"], 7, "is a folder within the VM folder");
    File::create(host.path("web01/clear.raw")).unwrap().set_len(1 << 20).unwrap();
    let mount = host.mount("web01", &["-o", "ro"]);
    host.refuses(&["create-disk", host.path("web01/n.raw"), "--size", "1M"], 10, "is mounted read-only");
    host.refuses(&["encrypt", host.path("web01"), "--disk", "clear.raw"], 10, "is mounted read-only");
    host.refuses(&["decrypt", host.path("web01"), "--disk", "root.raw"], 10, "is mounted read-only");
    mount.unmount();
    let mount = host.mount("web01", &[]);
    host.run(&["create-disk", host.path("web01/n.raw"), "--size", "1M"]);
    mount.unmount();
}

#[test]
fn copies_of_a_vm_folder_are_named_and_each_has_its_own_keys() {
    let host = Host::new();
    fs::create_dir(host.path("vms")).unwrap();
    host.run(&["create", host.path("vms/a")]);
    host.run(&["create-disk", host.path("vms/a/d.raw"), "--size", "1M"]);
    let copied =
        std::process::Command::new("cp").args(["-a", host.path("vms/a"), host.path("vms/b")]).status().unwrap();
    assert!(copied.success());
    let words = "a and b are copies of one VM (UUID ";
    let (code, text) = check(&host, &[host.path("vms")]);
    assert!(code == Some(0) && text.contains(words) && text.contains("`vmcryptfs clone FROM TO`"), "{text}");
    let mount = host.mount("vms", &["--require-unlocked"]);
    assert!(host.log().contains(words));
    let opens = |name: &str| File::open(mount.path(&format!("{name}/d.raw"))).is_ok();
    let state = |name: &str| {
        let status = mount.status();
        let found = status["components"].as_array().unwrap().iter().find(|one| one["path"] == name).unwrap();
        found["state"].as_str().unwrap().to_owned()
    };
    // Identical as they are, each is locked by itself, also while the other one is open.
    let held = File::open(mount.path("b/d.raw")).unwrap();
    let at = |name: &str| mount.path(name).display().to_string();
    host.run(&["lock", &at("a")]);
    assert_eq!((state("a"), state("a/d.raw"), state("b"), state("b/d.raw")), {
        let [locked, unlocked] = ["locked", "unlocked"].map(str::to_owned);
        (locked.clone(), locked, unlocked.clone(), unlocked)
    });
    assert!(!opens("a") && opens("b"));
    host.refuses(&["lock", &at("b")], 6, "b/d.raw is open");
    host.run(&["unlock", &at("a")]);
    assert!(opens("a"));
    drop(held);
    mount.unmount();

    // With keys of its own, each has them at once, without its provider. The older one can only be read.
    host.run(&["rekey", "--deep", host.path("vms/a")]);
    let mount = host.mount("vms", &[]);
    fs::rename(host.path("config/keys"), host.path("config/keys.away")).unwrap();
    for name in ["a", "b", "a", "b"] {
        File::open(mount.path(&format!("{name}/d.raw"))).unwrap();
    }
    let status = host.run(&["status", mount.root().to_str().unwrap()]);
    assert!(
        status.contains(words) && status.contains("\nb has gone back: ") && !status.contains("\na has"),
        "{status}"
    );
    fs::write(mount.path("a/new.nvram"), "x").unwrap();
    assert_eq!(fs::write(mount.path("b/new.nvram"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    fs::rename(host.path("config/keys.away"), host.path("config/keys")).unwrap();
    mount.unmount();
    // What the advice leads to.
    host.run(&["accept-rollback", host.path("vms/b")]);
    host.run(&["clone", host.path("vms/b"), host.path("vms/c")]);
    fs::remove_dir_all(host.path("vms/b")).unwrap();
    let (code, text) = check(&host, &[host.path("vms")]);
    assert!(code == Some(0) && !text.contains("copies of one VM"), "{text}");
}

#[test]
fn a_fifo_or_socket_in_the_place_of_a_disk_gives_eio_at_once_and_other_fifos_are_what_they_are() {
    let host = Host::with_vm();
    let (disk, kept) = (host.path("web01/root.raw"), host.path("kept.raw"));
    fs::rename(disk, kept).unwrap();
    let make_fifo = |path: &str| {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    };
    make_fifo(disk);
    let mount = host.mount("web01", &[]);
    let (there, own) = (mount.path("root.raw"), mount.path("own"));
    make_fifo(own.to_str().unwrap());
    assert!(fs::metadata(&own).unwrap().file_type().is_fifo());
    let refused = |what: &str| {
        // NONBLOCK: a fifo that is served as one would not end this test.
        for options in [File::options().read(true), File::options().write(true)] {
            let opened = options.custom_flags(libc::O_NONBLOCK).open(&there);
            assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EIO), "{what}");
        }
        assert!(host.log().contains(&format!("{what} lies at root.raw, where the VM's list of disks has disk ")));
    };
    refused("a fifo");
    fs::remove_file(disk).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(disk).unwrap();
    refused("a socket");
    drop(socket);
    fs::remove_file(disk).unwrap();
    fs::rename(kept, disk).unwrap();
    File::open(&there).unwrap();
    fs::remove_file(disk).unwrap();
    make_fifo(disk);
    refused("a fifo");
    fs::remove_file(&there).unwrap();
    // The list has no disk there any more.
    make_fifo(there.to_str().unwrap());
    assert!(fs::metadata(&there).unwrap().file_type().is_fifo());
    mount.unmount();
}
