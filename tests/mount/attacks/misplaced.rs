//! What lies where a VM's list of disks has a disk, and is not that disk: no verb takes it for what it seems to be.

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::errno;
use crate::host::Host;

/// A VM with the disk `root.raw`, whose data are no noise, and the home file `vm.nvram`.
fn host() -> Host {
    let host = Host::new();
    host.run(&["create", host.path("vm")]);
    let mount = host.mount("vm", &[]);
    for name in ["root.raw", "vm.nvram"] {
        fs::write(mount.path(name), name).unwrap();
    }
    mount.unmount();
    host
}

/// What an attacker, or an accident, puts in the place of `root.raw`, and how verbs call it.
type Damage = (&'static str, fn(&Path));
const DAMAGES: [Damage; 7] = [
    ("a file without a header lies at root.raw", |disk| {
        let file = fs::File::options().write(true).open(disk).unwrap();
        [0, 4 << 20].iter().for_each(|copy| file.write_all_at(&[0; 8192], *copy).unwrap());
    }),
    ("a file without a header lies at root.raw", |disk| fs::write(disk, "").unwrap()),
    ("a home file lies at root.raw", |disk| {
        _ = fs::copy(disk.with_file_name("vm.nvram"), disk).unwrap();
    }),
    ("nothing lies at root.raw", |disk| fs::remove_file(disk).unwrap()),
    ("a fifo lies at root.raw", |disk| {
        fs::remove_file(disk).unwrap();
        mknodat(CWD, disk, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    }),
    ("a symbolic link lies at root.raw", |disk| {
        let aside = disk.with_file_name("../aside");
        fs::rename(disk, &aside).unwrap();
        symlink(aside, disk).unwrap();
    }),
    ("a folder lies at root.raw", |disk| {
        fs::remove_file(disk).unwrap();
        fs::create_dir(disk).unwrap();
    }),
];

#[test]
fn what_lies_in_a_disks_place_and_is_not_that_disk_is_refused_or_named_by_each_verb() {
    let host = host();
    let [vm, disk, kept, copy] = ["vm", "vm/root.raw", "kept", "copy"].map(|name| host.path(name));
    for (words, damage) in DAMAGES {
        fs::copy(disk, kept).unwrap();
        damage(Path::new(disk));
        for verb in [
            &["decrypt", "--all", vm][..],
            &["decrypt", "--home", vm],
            &["decrypt", vm, "--disk", "root.raw"],
            &["encrypt", vm, "--disk", "./root.raw"],
            &["encrypt", vm],
            &["clone", vm, copy],
        ] {
            host.refuses(verb, 3, words);
        }
        if !words.starts_with("nothing") {
            for verb in [&["adopt", vm][..], &["adopt", vm, "--forget-disk", "vm.nvram"]] {
                refuses_to_forget(&host, verb, words);
            }
        }
        if fs::symlink_metadata(disk).is_ok_and(|found| found.is_file()) {
            ["disk", "home-file"].iter().for_each(|to| host.refuses(&["convert", "--to", to, disk], 3, words));
        }
        let check = host.try_run(&["check", vm]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.status.code() == Some(3) && said.contains(words), "{words}: {said}");
        names_what_it_passes_over(&host, &["rekey", vm], words);
        fs::remove_file(disk).or_else(|_| fs::remove_dir(disk)).unwrap_or_default();
        fs::copy(kept, disk).unwrap();
    }
    assert!(!Path::new(copy).exists());
    host.run(&["check", vm]);
    host.run(&["decrypt", "--all", vm]);
}

/// The list may be all that protects ciphertext whose header is lost: it is left as it is, also by a dry run.
fn refuses_to_forget(host: &Host, verb: &[&str], words: &str) {
    let list = fs::read_dir(host.path("vm")).unwrap().map(|entry| entry.unwrap().path());
    let list = list.into_iter().find(|path| path.to_string_lossy().contains("members")).unwrap();
    let before = fs::read(&list).unwrap();
    match verb {
        [_, _] => {
            host.refuses(verb, 7, words);
            host.refuses(verb, 7, "--forget-disk root.raw takes it out of the list");
            let dry = host.try_run(&["adopt", "--dry-run", host.path("vm")]);
            let said = String::from_utf8_lossy(&dry.stderr).into_owned();
            assert!(dry.status.code() == Some(7) && said.contains(words), "{said}");
        }
        _ => host.refuses(verb, 8, "no disk vm.nvram leaves the list"),
    }
    assert!(fs::read(&list).unwrap() == before, "{words}");
}

/// The verb did its work on the rest, and does not call that done.
fn names_what_it_passes_over(host: &Host, verb: &[&str], words: &str) {
    let done = host.try_run(verb);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(3), "{verb:?}: {said}");
    assert!(said.contains("Passed over") && said.contains(words), "{verb:?}: {said}");
    assert!(said.ends_with("done, but for 1 place that was passed over\n"), "{verb:?}: {said}");
}

#[test]
fn work_on_a_whole_vm_names_the_disks_that_it_passes_over_and_is_not_called_done() {
    let host = host();
    let (vm, disk, aside) = (host.path("vm"), host.path("vm/root.raw"), host.path("aside"));
    host.run(&["provider", "add", "native", "second"]);
    let whole: [&[&str]; 6] = [
        &["rekey", vm],
        &["rekey", "--deep", vm],
        &["key", "add", vm, "--all", "--provider", "second"],
        &["key", "remove", vm, "--all", "--provider", "second"],
        &["upgrade", vm],
        &["rekey", vm, "--json"],
    ];
    fs::rename(disk, aside).unwrap();
    for verb in whole.iter().take(5) {
        names_what_it_passes_over(&host, verb, "nothing lies at root.raw");
    }
    let json = host.try_run(whole[5]);
    let printed: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        json.status.code() == Some(3) && printed["misplaced"][0].as_str().unwrap().contains("root.raw"),
        "{json:?}"
    );
    fs::rename(aside, disk).unwrap();
    host.run(&["rekey", vm]);
    // Anyone can put such a mark there.
    host.run(&["erase", disk, "--yes"]);
    for verb in whole.iter().take(5).filter(|verb| !verb.contains(&"--deep")) {
        names_what_it_passes_over(&host, verb, "root.raw was erased on");
    }
    host.refuses(whole[1], 4, "root.raw was erased on");
}

#[test]
fn info_names_listed_disks_that_are_not_there_where_it_opens_the_home() {
    let host = host();
    let vm = host.path("vm");
    host.run(&["create-disk", host.path("vm/d.vmdk"), "--size", "1M"]);
    let told = host.try_run(&["info", vm]);
    assert!(told.status.success() && !format!("{told:?}").contains("Not as"), "{told:?}");
    fs::remove_file(host.path("vm/root.raw")).unwrap();
    let told = host.try_run(&["info", vm]);
    let said = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(said.contains("Not as the VM's list of disks says: nothing lies at root.raw"), "{said}");
    let infos: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", vm])).unwrap();
    assert!(infos[0]["misplaced"][0].as_str().unwrap().contains("root.raw"), "{infos}");
}

#[test]
fn other_disks_of_a_vm_that_misses_one_can_be_worked_on() {
    let host = host();
    let vm = host.path("vm");
    fs::remove_file(host.path("vm/root.raw")).unwrap();
    host.run(&["create-disk", host.path("vm/data.raw"), "--size", "1M"]);
    let told = host.try_run(&["decrypt", vm, "--disk", "data.raw"]);
    assert!(told.status.success() && format!("{told:?}").contains("nothing lies at root.raw"), "{told:?}");
    let told = host.try_run(&["encrypt", vm, "--disk", "data.raw"]);
    assert!(told.status.success() && format!("{told:?}").contains("nothing lies at root.raw"), "{told:?}");
    host.run(&["adopt", vm]);
    host.run(&["clone", vm, host.path("copy")]);
}

#[test]
fn a_file_in_the_place_of_a_disk_can_be_removed_in_a_mount() {
    let host = host();
    let (words, damage) = DAMAGES[0];
    damage(Path::new(host.path("vm/root.raw")));
    host.refuses(&["clone", host.path("vm"), host.path("copy")], 3, words);
    let mount = host.mount("vm", &[]);
    assert_eq!(errno(fs::read(mount.path("root.raw"))), Some(libc::EIO));
    fs::remove_file(mount.path("root.raw")).unwrap();
    mount.unmount();
    host.run(&["clone", host.path("vm"), host.path("copy")]);
    host.run(&["decrypt", "--all", host.path("vm")]);
}

/// From a backup that was not encrypted: what the refusal says loses nothing.
#[test]
fn a_disk_in_the_clear_in_the_place_of_a_disk_is_taken_in_as_its_refusal_says() {
    let host = host();
    let (vm, disk) = (host.path("vm"), host.path("vm/root.raw"));
    let plain = vec![7; 1 << 20];
    fs::write(disk, &plain).unwrap();
    for verb in [&["encrypt", vm][..], &["encrypt", vm, "--disk", "root.raw"], &["clone", vm, host.path("copy")]] {
        let way_out = format!(
            "`vmcryptfs adopt {vm} --forget-disk root.raw` takes it out of the list, and leaves the file as it is"
        );
        host.refuses(verb, 3, &way_out);
    }
    host.run(&["adopt", vm, "--forget-disk", "root.raw"]);
    assert!(fs::read(disk).unwrap() == plain);
    host.run(&["encrypt", vm, "--disk", "root.raw"]);
    host.run(&["check", vm]);
    let mount = host.mount("vm", &[]);
    assert!(fs::read(mount.path("root.raw")).unwrap() == plain);
}

#[test]
fn a_disk_of_another_vm_is_not_taken_for_an_encrypted_one_of_this() {
    let host = host();
    host.run(&["create", host.path("other")]);
    host.run(&["create-disk", host.path("other/root.raw"), "--size", "1M"]);
    let uuid = |path: &str| {
        let infos: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", host.path(path)])).unwrap();
        infos[0]["uuid"].as_str().unwrap().to_owned()
    };
    let homes = ["vm", "other"].map(uuid);
    for name in ["root.raw", "new.raw"] {
        fs::copy(host.path("other/root.raw"), host.path(&format!("vm/{name}"))).unwrap();
        for verb in [&["encrypt", host.path("vm"), "--disk", name][..], &["encrypt", host.path("vm")]] {
            host.refuses(verb, 3, &format!("`vmcryptfs adopt {}` takes it in", host.path(&format!("vm/{name}"))));
            homes.iter().for_each(|home| host.refuses(verb, 3, home));
        }
    }
}

#[test]
fn a_list_of_disks_that_is_not_a_file_is_neither_waited_for_nor_followed() {
    let host = host();
    let list = fs::read_dir(host.path("vm")).unwrap().map(|entry| entry.unwrap().path());
    let list = list.into_iter().find(|path| path.to_string_lossy().contains("members")).unwrap();
    let aside = host.path("list");
    fs::rename(&list, aside).unwrap();
    let mut sockets = Vec::new();
    for what in ["a fifo", "a symbolic link", "a socket", "a character device", "a folder"] {
        match what {
            "a fifo" => mknodat(CWD, &list, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
            "a symbolic link" => symlink(aside, &list).unwrap(),
            "a socket" => sockets.push(UnixListener::bind(&list).unwrap()),
            "a folder" => fs::create_dir(&list).unwrap(),
            _ if !rustix::process::geteuid().is_root() => continue,
            _ => {
                let null = rustix::fs::makedev(1, 3);
                if mknodat(CWD, &list, FileType::CharacterDevice, Mode::from_raw_mode(0o600), null).is_err() {
                    continue;
                }
            }
        }
        let words = format!("{what} lies there, expected a regular file");
        let check = host.try_run(&["check", host.path("vm")]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.status.code() == Some(3) && said.contains(&words) && said.contains("adopt"), "{said}");
        host.refuses(&["rekey", host.path("vm/root.raw")], 3, &words);
        let mount = host.mount("vm", &[]);
        assert_eq!(errno(fs::read(mount.path("root.raw"))), Some(libc::EIO), "{what}");
        assert_eq!(errno(fs::write(mount.path("new.raw"), "")), Some(libc::EIO), "{what}");
        mount.unmount();
        assert!(host.log().contains(&words), "{}", host.log());
        if what == "a folder" { fs::remove_dir(&list) } else { fs::remove_file(&list) }.unwrap();
    }
    fs::rename(aside, &list).unwrap();
    host.run(&["check", host.path("vm")]);
}

/// The way back that each refusal advises needs no `--force` where the VM's list says whose the data is.
#[test]
fn a_listed_disk_gets_its_saved_header_back_where_nothing_says_that_it_is_wrong() {
    let host = host();
    let [vm, disk, saved, image] = ["vm", "vm/root.raw", "saved", "image"].map(|name| host.path(name));
    let overwrite = || DAMAGES[0].1(Path::new(disk));
    let restore = ["header", "restore", disk, saved];
    host.run(&["header", "backup", disk, saved]);
    overwrite();
    host.run(&restore);
    host.run(&["check", vm]);
    let mount = host.mount("vm", &[]);
    assert!(fs::read(mount.path("root.raw")).unwrap() == b"root.raw");
    mount.unmount();
    // The list does not have it under this name.
    fs::copy(disk, host.path("vm/other.raw")).unwrap();
    DAMAGES[0].1(Path::new(host.path("vm/other.raw")));
    host.refuses(&["header", "restore", host.path("vm/other.raw"), saved], 7, "use --force");
    fs::remove_file(host.path("vm/other.raw")).unwrap();
    // What lies there is in the clear, and would be overwritten.
    fs::rename(disk, image).unwrap();
    fs::write(disk, [b"QFI\xfb".to_vec(), vec![0; 9 << 20]].concat()).unwrap();
    host.refuses(&restore, 7, "what lies there is in the clear: qcow2 image");
    fs::rename(image, disk).unwrap();
    // Its keys were changed since: a key that was taken away would be back.
    host.run(&["rekey", vm]);
    overwrite();
    host.refuses(&restore, 7, "use --force");
    host.run(&["header", "restore", disk, saved, "--force"]);
    // Its data was re-encrypted since.
    host.run(&["rekey", "--deep", vm]);
    overwrite();
    host.refuses(&restore, 7, "use --force: the VM's list of disks knows a header of it that was changed since");
}

#[test]
fn a_header_that_was_erased_comes_back_by_force_only() {
    let host = host();
    let (disk, saved) = (host.path("vm/root.raw"), host.path("saved"));
    host.run(&["header", "backup", disk, saved]);
    host.run(&["erase", disk, "--yes"]);
    host.refuses(&["header", "restore", disk, saved], 7, "use --force: erased on ");
}
