//! Which disk has which name in its VM: a genuine disk, or a genuine home file, in another place than the home's list says.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{edit, errno};
use crate::host::{Host, Mount};

/// A VM with the disks `a.raw` and `b.raw` and the home file `vm.nvram`, each of which holds its name.
fn host() -> Host {
    let host = Host::new();
    host.run(&["create", host.path("vm")]);
    let mount = host.mount("vm", &[]);
    for name in ["a.raw", "b.raw", "vm.nvram"] {
        fs::write(mount.path(name), name).unwrap();
    }
    mount.unmount();
    host
}

fn uuid_of(host: &Host, path: &str) -> String {
    let infos: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", host.path(path)])).unwrap();
    infos[0]["uuid"].as_str().unwrap().to_owned()
}

fn list_of(host: &Host) -> String {
    host.path(&format!("vm/.vmcryptfs-members-{}", uuid_of(host, "vm"))).to_owned()
}

fn is_refused(mount: &Mount<'_>, name: &str) {
    assert_eq!(errno(fs::read(mount.path(name))), Some(libc::EIO), "{name} to read");
    assert_eq!(errno(fs::OpenOptions::new().append(true).open(mount.path(name))), Some(libc::EIO), "{name} to write");
}

fn has(mount: &Mount<'_>, name: &str, content: &str) {
    assert_eq!(fs::read_to_string(mount.path(name)).unwrap(), content, "{name}");
}

fn swap(host: &Host, one: &str, other: &str) {
    let [one, other, aside] = [one, other, "aside"].map(|name| host.path(&format!("vm/{name}")));
    fs::rename(one, aside).unwrap();
    fs::rename(other, one).unwrap();
    fs::rename(aside, other).unwrap();
}

#[test]
fn what_has_the_place_of_another_file_of_its_vm_opens_nowhere() {
    let host = host();
    let uuids = ["a.raw", "b.raw"].map(|name| uuid_of(&host, &format!("vm/{name}")));
    for (one, other) in [("a.raw", "b.raw"), ("a.raw", "vm.nvram")] {
        swap(&host, one, other);
        let mount = host.mount("vm", &[]);
        is_refused(&mount, one);
        is_refused(&mount, other);
        mount.unmount();
        let check = host.try_run(&["check", host.path("vm")]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.status.code() == Some(3) && said.contains("list of disks"), "{said}");
        for verb in [&["rekey", host.path("vm/b.raw")][..], &["decrypt", host.path("vm"), "--all"]] {
            if other == "b.raw" {
                host.refuses(verb, 3, "list of disks");
            }
        }
        swap(&host, one, other);
    }
    let log = host.log();
    assert!(log.lines().any(|line| uuids.iter().all(|uuid| line.contains(uuid))), "a line with both disks: {log}");
    assert!(log.contains("a home file lies at a.raw"), "{log}");
    let mount = host.mount("vm", &[]);
    ["a.raw", "b.raw", "vm.nvram"].iter().for_each(|name| has(&mount, name, name));
    mount.unmount();
    host.run(&["check", host.path("vm")]);
}

#[test]
fn a_disk_that_comes_back_or_comes_twice_is_refused_until_it_is_adopted() {
    let host = host();
    let [a, b, second, kept] = ["vm/a.raw", "vm/b.raw", "vm/second.raw", "kept"].map(|name| host.path(name));
    fs::copy(a, second).unwrap();
    fs::copy(b, kept).unwrap();
    let mount = host.mount("vm", &[]);
    is_refused(&mount, "second.raw");
    has(&mount, "a.raw", "a.raw");
    fs::remove_file(mount.path("b.raw")).unwrap();
    fs::copy(kept, b).unwrap();
    is_refused(&mount, "b.raw");
    mount.unmount();
    let mount = host.mount("vm", &[]);
    is_refused(&mount, "b.raw");
    mount.unmount();
    // Neither does damage of one copy of the list bring back the one before.
    let (list, whole) = (list_of(&host), fs::read(list_of(&host)).unwrap());
    for copy in [0, 1 << 20] {
        edit(&list, |image| image[copy + 60] ^= 1);
        let mount = host.mount("vm", &[]);
        is_refused(&mount, "b.raw");
        has(&mount, "a.raw", "a.raw");
        mount.unmount();
        fs::write(&list, &whole).unwrap();
    }
    host.refuses(&["adopt", second], 9, "is a copy of");
    fs::remove_file(second).unwrap();
    host.run(&["adopt", b]);
    host.run(&["check", host.path("vm")]);
    let mount = host.mount("vm", &[]);
    has(&mount, "b.raw", "b.raw");
    mount.unmount();
}

/// A guest would find out at its first read.
#[test]
fn what_cannot_be_used_is_said_at_the_mount_and_in_its_status() {
    let host = host();
    host.run(&["create", host.path("other")]);
    for disk in ["vm/c.raw", "vm/d.raw", "vm/e.raw", "vm/gone.raw", "other/x.raw"] {
        host.run(&["create-disk", host.path(disk), "--size", "1M"]);
    }
    let unusable = ["second.raw", "moved.raw", "x.raw", "c.raw", "d.raw"];
    fs::copy(host.path("vm/a.raw"), host.path("vm/second.raw")).unwrap();
    fs::rename(host.path("vm/b.raw"), host.path("vm/moved.raw")).unwrap();
    fs::copy(host.path("other/x.raw"), host.path("vm/x.raw")).unwrap();
    fs::copy(host.path("vm/vm.nvram"), host.path("vm/c.raw")).unwrap();
    edit(host.path("vm/d.raw"), |image| [0, 4 << 20].iter().for_each(|copy| image[*copy..][..4096].fill(0)));
    fs::remove_file(host.path("vm/gone.raw")).unwrap();

    let at = host.path("at");
    fs::create_dir(at).unwrap();
    let mount = |options: &[&str]| {
        host.try_run(&[&["mount", "--log-file", host.path("log"), host.path("vm"), at], options].concat())
    };
    let required = mount(&["--require-unlocked"]);
    let said = String::from_utf8_lossy(&required.stderr).into_owned();
    assert!(required.status.code() == Some(4) && said.contains("not usable: moved.raw: disk "), "{said}");
    assert!(said.contains("; and 4 more"), "{said}");
    let mounted = mount(&[]);
    let said = String::from_utf8_lossy(&mounted.stderr).into_owned();
    assert!(mounted.status.success() && said.contains("not usable: moved.raw: disk "), "{said}");
    assert!(said.contains("missing: gone.raw: ") && said.contains("vmcryptfs status "), "{said}");
    assert!(said.lines().count() == 2, "{said}");
    for name in unusable {
        assert_eq!(errno(fs::read(Path::new(at).join(name))), Some(libc::EIO), "{name}");
    }
    let text = host.run(&["status", at]);
    let status: serde_json::Value = serde_json::from_str(&host.run(&["status", "--json", at])).unwrap();
    host.run(&["umount", at]);
    for name in unusable {
        assert!(text.contains(&format!("\n{name} is unusable: ")), "{name}: {text}");
    }
    assert!(text.contains("\ngone.raw is missing: "), "{text}");
    let listed = status["components"].as_array().unwrap().iter();
    let mut of_state: Vec<&str> =
        listed.filter(|one| one["state"] == "unusable").map(|one| one["path"].as_str().unwrap()).collect();
    let places = status["unusable"].as_array().unwrap();
    of_state.extend(places.iter().map(|place| place["path"].as_str().unwrap()));
    assert_eq!(of_state, ["moved.raw", "second.raw", "x.raw", "c.raw", "d.raw", "gone.raw"], "{status}");
    let missing: Vec<bool> = places.iter().map(|place| place["missing"].as_bool().unwrap()).collect();
    assert_eq!(missing, [false, false, true], "{status}");
    assert!(!text.contains("in the clear"), "each is said once: {text}");
    let usable = |one: &&serde_json::Value| one["state"] == "unlocked";
    assert_eq!(
        status["components"].as_array().unwrap().iter().filter(usable).count(),
        3,
        "home, a.raw, e.raw: {status}"
    );
}

#[test]
fn a_home_without_its_list_and_an_older_list_are_said_at_the_mount() {
    let host = host();
    let kept = fs::read(list_of(&host)).unwrap();
    let mount = host.mount("vm", &[]);
    rename(mount.root(), "a.raw", "c.raw");
    mount.unmount();
    let at = host.path("at");
    fs::create_dir(at).unwrap();
    let mount = || {
        let mounted = host.try_run(&["mount", "--log-file", host.path("log"), host.path("vm"), at]);
        let status = host.run(&["status", at]);
        host.run(&["umount", at]);
        (String::from_utf8_lossy(&mounted.stderr).into_owned(), status)
    };
    fs::write(list_of(&host), kept).unwrap();
    fs::rename(host.path("vm/c.raw"), host.path("vm/a.raw")).unwrap();
    let (said, status) = mount();
    assert!(said.contains("older than what this host has seen"), "{said}");
    assert!(status.contains("has gone back: the list of its disks"), "{status}");
    fs::remove_file(list_of(&host)).unwrap();
    let (said, status) = mount();
    assert!(said.contains("not usable: .: ") && said.contains("vmcryptfs adopt"), "{said}");
    assert!(status.contains("\n. is unusable: "), "{status}");
}

#[test]
fn what_is_erased_is_not_called_locked() {
    let host = host();
    host.run(&["erase", "--yes", host.path("vm/a.raw")]);
    let mount = host.mount("vm", &[]);
    let status = mount.status();
    let state = |name: &str| {
        let mut found = status["components"].as_array().unwrap().iter();
        found.find(|one| one["path"] == name).map(|one| one["state"].as_str().unwrap().to_owned())
    };
    assert_eq!(state("a.raw").as_deref(), Some("erased"), "{status}");
    assert_eq!(state("b.raw").as_deref(), Some("unlocked"), "{status}");
    let text = host.run(&["status", mount.root().to_str().unwrap()]);
    assert!(text.contains("1 component is erased: ") && !text.contains("locked: "), "{text}");
    let unlock = host.try_run(&["unlock", mount.root().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&unlock.stderr).into_owned();
    assert!(unlock.status.code() == Some(4) && said.contains("1 of 3 components cannot be unlocked"), "{said}");
    mount.unmount();
    assert!(host.log().contains("1 of 3 components is erased"), "{}", host.log());
}

#[test]
fn a_further_name_that_a_disk_gets_while_it_is_open_is_refused() {
    let host = host();
    let mount = host.mount("vm", &[]);
    let open = fs::File::options().read(true).write(true).open(mount.path("a.raw")).unwrap();
    fs::hard_link(host.path("vm/a.raw"), host.path("vm/new.nvram")).unwrap();
    is_refused(&mount, "new.nvram");
    drop(open);
    fs::remove_file(host.path("vm/new.nvram")).unwrap();
    mount.unmount();
}

#[test]
fn a_disk_that_was_renamed_beside_its_mount_is_adopted_by_its_new_name() {
    let host = host();
    let moved = host.path("vm/moved.raw");
    fs::rename(host.path("vm/a.raw"), moved).unwrap();
    let mount = host.mount("vm", &[]);
    is_refused(&mount, "moved.raw");
    mount.unmount();
    assert!(host.log().contains("`vmcryptfs adopt DISK` takes it in"));
    host.run(&["adopt", moved]);
    let copy = host.path("vm/copy.raw");
    fs::copy(moved, copy).unwrap();
    host.refuses(&["adopt", copy], 9, "and a VM has a disk once: remove the one that is not to be used");
    let check = String::from_utf8(host.try_run(&["check", host.path("vm")]).stdout).unwrap();
    let advice = format!(
        "has it as moved.raw, and no disk here. If it was renamed, `vmcryptfs adopt {copy}` takes it in by this name"
    );
    assert!(check.contains(&advice) && check.contains("if it is a copy, remove it"), "{check}");
    fs::remove_file(copy).unwrap();
    host.refuses(&["adopt", moved], 9, "is one of this VM already");
    let mount = host.mount("vm", &[]);
    has(&mount, "moved.raw", "a.raw");
    mount.unmount();
    // Whole folders are another matter.
    fs::rename(host.path("vm"), host.path("elsewhere")).unwrap();
    let mount = host.mount("elsewhere", &[]);
    has(&mount, "moved.raw", "a.raw");
    mount.unmount();
}

#[test]
fn without_its_list_a_home_that_has_one_opens_nothing_until_it_is_made_anew() {
    let host = host();
    let list = list_of(&host);
    let damage: [&dyn Fn(); 3] = [&|| fs::remove_file(&list).unwrap(), &|| fs::write(&list, "").unwrap(), &|| {
        edit(&list, |image| [0, 1 << 20].iter().for_each(|copy| image[copy + 50] ^= 1))
    }];
    for damage in damage {
        damage();
        let mount = host.mount("vm", &[]);
        is_refused(&mount, "a.raw");
        is_refused(&mount, "vm.nvram");
        assert_eq!(errno(fs::write(mount.path("new.raw"), "")), Some(libc::EIO));
        mount.unmount();
        host.refuses(&["create-disk", host.path("vm/new.raw"), "--size", "1M"], 3, "list of disks");
        let check = host.try_run(&["check", host.path("vm")]);
        assert_eq!(check.status.code(), Some(3), "{check:?}");
        assert!(host.run(&["adopt", host.path("vm")]).contains("2 disks"));
        let mount = host.mount("vm", &[]);
        has(&mount, "a.raw", "a.raw");
        mount.unmount();
    }
    host.run(&["check", host.path("vm")]);
}

/// A host that has seen nothing: it goes by the list.
#[test]
fn a_disk_that_is_older_than_its_list_can_only_be_read_until_that_is_accepted() {
    let host = host();
    let (disk, kept) = (host.path("vm/a.raw"), host.path("kept"));
    fs::copy(disk, kept).unwrap();
    host.run(&["rekey", "--deep", disk]);
    host.run(&["check", host.path("vm")]);
    // Either copy of the header may be lost.
    let whole = fs::read(disk).unwrap();
    for copy in [0, 4 << 20] {
        edit(disk, |image| image[copy + 100] ^= 1);
        let mount = host.mount("vm", &[]);
        fs::OpenOptions::new().append(true).open(mount.path("a.raw")).unwrap();
        mount.unmount();
        fs::write(disk, &whole).unwrap();
    }
    fs::copy(kept, disk).unwrap();
    let forget =
        || ["config/seen", "config/memory.key"].iter().for_each(|file| fs::remove_file(host.path(file)).unwrap());
    forget();
    let list_has = "the VM's list of disks has generation 1";
    let check = host.try_run(&["check", host.path("vm")]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(10) && said.contains(list_has), "{said}");
    let mount = host.mount("vm", &[]);
    has(&mount, "a.raw", "a.raw");
    let append = || fs::OpenOptions::new().append(true).open(mount.path("a.raw"));
    assert_eq!(errno(append()), Some(libc::EROFS));
    fs::OpenOptions::new().append(true).open(mount.path("b.raw")).unwrap();
    let gone_back = || {
        let status = mount.status();
        let parts = status["components"].as_array().unwrap().clone();
        parts.iter().find_map(|part| part["gone_back"].as_str().map(str::to_owned))
    };
    assert!(gone_back().unwrap().contains(list_has));
    host.refuses(&["rekey", disk], 10, "older");
    host.refuses(&["rekey", "--deep", disk], 10, "older");
    let told: Vec<_> = host.events().into_iter().filter(|event| event["operation"] == "rollback").collect();
    assert!(told.len() == 1 && told[0]["component"].as_str().unwrap().ends_with("vm/a.raw"), "{told:?}");
    let printed = host.run(&["accept-rollback", disk]);
    assert!(printed.contains(list_has), "{printed}");
    append().unwrap();
    assert_eq!(gone_back(), None);
    mount.unmount();
    host.run(&["check", host.path("vm")]);
    host.run(&["rekey", disk]);
    // Offline verbs, and what is made of a disk.
    host.run(&["rekey", "--deep", disk]);
    fs::copy(kept, disk).unwrap();
    forget();
    for verb in [&["rekey"][..], &["rekey", "--deep"], &["key", "add"], &["convert", "--to", "home-file"]] {
        host.refuses(&[verb, &[disk]].concat(), 10, "older");
    }
    host.refuses(&["clone", host.path("vm"), host.path("copy")], 10, "older");
    host.run(&["accept-rollback", host.path("vm")]);
    host.run(&["rekey", disk]);
}

#[test]
fn a_list_that_is_put_back_with_what_it_lists_can_only_be_read_until_that_is_accepted() {
    let host = host();
    let [a, c, list, kept] = ["vm/a.raw", "vm/c.raw", "list", "kept"].map(|name| match name {
        "list" => list_of(&host),
        name => host.path(name).to_owned(),
    });
    fs::copy(&list, &kept).unwrap();
    let mount = host.mount("vm", &[]);
    rename(mount.root(), "a.raw", "c.raw");
    fs::remove_file(mount.path("b.raw")).unwrap();
    mount.unmount();
    let newest = fs::read(&list).unwrap();
    fs::copy(&kept, &list).unwrap();
    fs::rename(&c, &a).unwrap();
    let mount = host.mount("vm", &[]);
    has(&mount, "a.raw", "a.raw");
    has(&mount, "vm.nvram", "vm.nvram");
    for name in ["a.raw", "vm.nvram"] {
        assert_eq!(errno(fs::OpenOptions::new().append(true).open(mount.path(name))), Some(libc::EROFS), "{name}");
    }
    for name in ["new.raw", "new"] {
        assert_eq!(errno(fs::File::create(mount.path(name))), Some(libc::EROFS), "{name}");
    }
    let status = mount.status().to_string();
    assert!(status.contains("the list of its disks: this host has seen sequence"), "{status}");
    mount.unmount();
    let told: Vec<_> = host.events().into_iter().filter(|event| event["operation"] == "rollback").collect();
    assert!(told.len() == 1 && told[0]["reason"].as_str().unwrap().contains("list of its disks"), "{told:?}");
    let vm = host.path("vm");
    for verb in
        [&["rekey", "--deep", vm][..], &["clone", vm, host.path("copy")], &["decrypt", "--all", vm], &["rekey", &a]]
    {
        host.refuses(verb, 10, "older");
    }
    host.refuses(&["create-disk", host.path("vm/new.raw"), "--size", "1M"], 10, "older");
    let (put_back, rebuild) = (fs::read(&list).unwrap(), ["adopt", vm]);
    for verb in [&rebuild[..], &["adopt", "--dry-run", vm]] {
        host.refuses(verb, 10, "`vmcryptfs accept-rollback");
        assert!(fs::read(&list).unwrap() == put_back, "the list was made again");
    }
    let check = host.try_run(&["check", vm]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(10) && said.contains("the list of its disks"), "{said}");
    // The newest one counts again; so does an older one once it is accepted.
    fs::write(&list, &newest).unwrap();
    fs::rename(&a, &c).unwrap();
    let mount = host.mount("vm", &[]);
    rename(mount.root(), "c.raw", "a.raw");
    mount.unmount();
    fs::copy(&kept, &list).unwrap();
    assert!(host.run(&["accept-rollback", vm]).contains("list of its disks"));
    let mount = host.mount("vm", &[]);
    rename(mount.root(), "a.raw", "c.raw");
    fs::OpenOptions::new().append(true).open(mount.path("c.raw")).unwrap();
    mount.unmount();
    // A list that is made again counts from what was seen.
    fs::remove_file(&list).unwrap();
    host.refuses(&["accept-rollback", vm], 3, "list of disks");
    host.run(&["adopt", vm]);
    host.run(&["create-disk", host.path("vm/new.raw"), "--size", "1M"]);
    host.run(&["check", vm]);
}

#[test]
fn a_list_that_is_put_back_under_a_mount_is_told() {
    let host = host();
    let kept = fs::read(list_of(&host)).unwrap();
    let mount = host.mount("vm", &[]);
    rename(mount.root(), "a.raw", "c.raw");
    let reader = fs::File::open(mount.path("b.raw")).unwrap(); // a writer comes to what is open already
    let newest = fs::read(list_of(&host)).unwrap();
    fs::write(list_of(&host), kept).unwrap();
    assert_eq!(errno(fs::read(mount.path("c.raw"))), Some(libc::EIO));
    for name in ["b.raw", "vm.nvram"] {
        assert_eq!(errno(fs::OpenOptions::new().append(true).open(mount.path(name))), Some(libc::EROFS), "{name}");
        has(&mount, name, name);
    }
    let told: Vec<_> = host.events().into_iter().filter(|event| event["operation"] == "rollback").collect();
    assert!(told.len() == 1 && told[0]["reason"].as_str().unwrap().contains("list of its disks"), "{told:?}");
    // Once the newest one is back, that is over.
    fs::write(list_of(&host), newest).unwrap();
    drop(fs::OpenOptions::new().append(true).open(mount.path("b.raw")).unwrap());
    has(&mount, "c.raw", "a.raw");
    assert!(!mount.status().to_string().contains("the list of its disks"), "{}", mount.status());
    drop(reader);
    mount.unmount();
}

/// Each change of names through a mount, and what opens after it in this mount and in the next one.
#[test]
fn names_that_change_in_a_mount_change_in_the_list() {
    type Case = (&'static str, fn(&Path), &'static [(&'static str, &'static str)]);
    let cases: [Case; 8] = [
        ("rename", |at| rename(at, "a.raw", "c.raw"), &[("c.raw", "a.raw"), ("b.raw", "b.raw")]),
        ("replace a disk", |at| rename(at, "a.raw", "b.raw"), &[("b.raw", "a.raw")]),
        ("replace a disk by a home file", |at| rename(at, "vm.nvram", "b.raw"), &[("b.raw", "vm.nvram")]),
        ("replace a home file by a disk", |at| rename(at, "a.raw", "vm.nvram"), &[("vm.nvram", "a.raw")]),
        (
            "two directories",
            |at| {
                fs::create_dir_all(at.join("s/t")).unwrap();
                rename(at, "a.raw", "s/t/a.raw");
                rename(at, "s", "u");
            },
            &[("u/t/a.raw", "a.raw"), ("b.raw", "b.raw")],
        ),
        (
            "link and remove",
            |at| {
                fs::hard_link(at.join("a.raw"), at.join("c.raw")).unwrap();
                fs::remove_file(at.join("a.raw")).unwrap();
                fs::write(at.join("a.raw"), "new").unwrap();
            },
            &[("c.raw", "a.raw"), ("a.raw", "new")],
        ),
        (
            "remove, and a home file of that name",
            |at| {
                fs::write(at.join("later.txt"), "home").unwrap();
                fs::remove_file(at.join("a.raw")).unwrap();
                rename(at, "later.txt", "a.raw");
            },
            &[("a.raw", "home"), ("b.raw", "b.raw")],
        ),
        (
            "made by its first bytes",
            |at| {
                let mut file = fs::File::create(at.join("image")).unwrap();
                file.write_all(b"QFI\xfb\0\0\0\x03rest").unwrap();
                drop(file);
                rename(at, "image", "image2");
            },
            &[("a.raw", "a.raw")],
        ),
    ];
    for (what, work, expected) in cases {
        let host = host();
        let mount = host.mount("vm", &[]);
        work(mount.root());
        expected.iter().for_each(|(name, content)| has(&mount, name, content));
        mount.unmount();
        let mount = host.mount("vm", &[]);
        expected.iter().for_each(|(name, content)| has(&mount, name, content));
        if what.starts_with("made") {
            assert!(fs::read(mount.path("image2")).unwrap().starts_with(b"QFI\xfb"));
        }
        mount.unmount();
        let check = host.run(&["check", host.path("vm")]);
        assert!(!check.contains("not there"), "{what}: {check}");
    }
}

fn rename(at: &Path, from: &str, to: &str) {
    fs::rename(at.join(from), at.join(to)).unwrap();
}

#[test]
fn vms_without_a_list_open_as_before_and_get_one_by_an_upgrade() {
    let host = host();
    fs::remove_file(list_of(&host)).unwrap();
    host.make_unlisted("vm/vmcryptfs.home");
    swap(&host, "a.raw", "b.raw");
    let mount = host.mount("vm", &[]);
    has(&mount, "a.raw", "b.raw");
    mount.unmount();
    for verb in ["check", "info"] {
        assert!(
            host.run(&[verb, host.path("vm")]).contains(&format!("`vmcryptfs upgrade {}` makes", host.path("vm"))),
            "{verb}"
        );
    }
    assert!(host.run(&["upgrade", host.path("vm")]).contains("2 in its list"));
    assert!(host.run(&["upgrade", host.path("vm")]).contains("already"));
    swap(&host, "a.raw", "b.raw");
    let mount = host.mount("vm", &[]);
    is_refused(&mount, "a.raw");
    mount.unmount();
}
