//! What `encrypt`, `decrypt` and `clone` refuse before they touch anything, and what they say.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use vmcryptfs::format::header::StoredState;

use crate::host::Host;

/// The folder `vm`, in the clear.
fn folder(host: &Host) -> &'static str {
    let vm = host.path("vm");
    fs::create_dir(vm).unwrap();
    fs::write(host.path("vm/a.txt"), "first").unwrap();
    vm
}

fn system(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The verb is refused with this exit code and words, by a dry run as well, and nothing was done.
fn refuses(host: &Host, verb: &[&str], code: i32, words: &str) {
    let names = || {
        let mut names: Vec<_> = fs::read_dir(host.path("vm")).unwrap().map(|name| name.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names();
    host.refuses(verb, code, words);
    let dry = host.try_run(&[verb, &["--dry-run"]].concat());
    assert!(said(&dry).contains(words) && dry.status.code() == Some(code), "{}", said(&dry));
    assert_eq!(names(), before);
}

/// A dry run reports this obstacle, and ends with it.
fn foresees(host: &Host, verb: &[&str], words: &str) {
    let output = host.try_run(&[verb, &["--dry-run"]].concat());
    let said = said(&output);
    assert!(output.status.code() == Some(7) && said.contains(&format!("Obstacle: {words}")), "{said}");
}

#[test]
fn images_that_name_files_by_the_place_of_their_folder_are_refused() {
    let host = Host::new();
    let vm = folder(&host);
    system(&format!(
        "cd {vm} && qemu-img create -q -f raw base.raw 1M && qemu-img create -q -f qcow2 -F raw -b $PWD/base.raw top.qcow2 && \
         qemu-img create -q -f qcow2 -o data_file=$PWD/d.img,data_file_raw=on q.qcow2 1M"
    ));
    symlink(host.path("vm/a.txt"), host.path("vm/link")).unwrap();
    let repair = "top.qcow2 names its backing file by this folder's place";
    let output = host.try_run(&["encrypt", vm, "--dry-run"]);
    for words in [
        "qemu-img rebase -u -F raw -b base.raw top.qcow2",
        "qemu-img amend -f qcow2 -o data_file=MOUNTPOINT/d.img q.qcow2",
        "ln -sfn a.txt link",
    ] {
        assert!(said(&output).contains(words), "{words}: {}", said(&output));
        system(&format!("cd {vm} && {}", words.replace("MOUNTPOINT/", "")));
    }
    // QEMU takes it from its working directory.
    let output = host.try_run(&["encrypt", vm, "--dry-run"]);
    assert!(said(&output).contains("QEMU looks for data file d.img of q.qcow2"), "{}", said(&output));
    host.run(&["encrypt", vm, "--dry-run"]);
    // A relative name that takes the way through the folder above, and one that leaves the folder.
    system(&format!("cd {vm} && qemu-img rebase -u -F raw -b ../vm/base.raw top.qcow2"));
    refuses(&host, &["encrypt", vm], 7, repair);
    fs::write(host.path("template.raw"), [0; 512]).unwrap();
    system(&format!("cd {vm} && qemu-img rebase -u -F raw -b ../template.raw top.qcow2"));
    let output = host.try_run(&["encrypt", vm, "--dry-run"]);
    assert!(said(&output).contains("backing file ../template.raw of top.qcow2 is not in this folder"));
    system(&format!(
        "cd {vm} && qemu-img rebase -u -F raw -b 'json:{{\"file.filename\":\"{vm}/base.raw\"}}' top.qcow2"
    ));
    refuses(&host, &["encrypt", vm], 7, repair);
    host.run(&["encrypt", vm, "--keep-references"]);
    // A clone would go on using the source's files, by the mount's place as well.
    let clone = host.path("clone");
    host.refuses(&["clone", vm, clone], 7, repair);
    let mount = host.mount("vm", &[]);
    let root = mount.root().display().to_string();
    system(&format!("cd {root} && qemu-img rebase -u -F raw -b {root}/base.raw top.qcow2"));
    mount.unmount();
    host.refuses(&["clone", vm, clone], 7, "qemu-img rebase -u");
    host.run(&["clone", vm, clone, "--keep-references"]);
    let output = host.try_run(&["decrypt", vm, "--all"]);
    assert!(
        output.status.success() && said(&output).contains("of top.qcow2 is not in this folder"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_descriptor_stands_for_its_extents_or_is_refused() {
    let host = Host::new();
    let vm = folder(&host);
    let text = |extent: &str| {
        format!(
            "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\nRW 256 VMFS \"{extent}\"\n"
        )
    };
    fs::write(host.path("vm/d-flat.vmdk"), [7; 131_072]).unwrap();
    let verb = ["encrypt", vm, "--disk", "./d.vmdk"];
    for (descriptor, code, words) in [
        (text("d-flat.vmdk").replace("RW 256", "RW many"), 3, "its extents are not known"),
        (text("d-flat.vmdk").replace("vmfs", "nonsense"), 3, "its extents are not known"),
        (text("e-flat.vmdk"), 8, "line 6"),
        ("no descriptor at all".to_owned(), 3, "its extents are not known"),
        (text("d-flat.vmdk").lines().take(5).collect::<Vec<_>>().join("\n"), 3, "names no file with an extent"),
        (text("d-flat.vmdk").replace("VMFS \"d-flat.vmdk\"", "ZERO"), 3, "names no file with an extent"),
    ] {
        fs::write(host.path("vm/d.vmdk"), descriptor).unwrap();
        let output = host.try_run(&verb);
        assert!(said(&output).contains(words), "{}", said(&output));
        assert!(
            matches!(output.status.code(), Some(found) if found == code || (code == 3 && found == 11)),
            "{}",
            said(&output)
        );
        assert!(!fs::exists(host.path("vm/vmcryptfs.home")).unwrap());
    }
    // VMware spells names in another case; and a snapshot is not all of a disk.
    fs::write(host.path("vm/d.vmdk"), text("D-Flat.vmdk")).unwrap();
    let snapshot =
        text("d-000001-delta.vmdk").replace("parentCID=ffffffff", "parentCID=1\nparentFileNameHint=\"d.vmdk\"");
    fs::write(host.path("vm/d-000001.vmdk"), snapshot).unwrap();
    fs::write(host.path("vm/d-000001-delta.vmdk"), [8; 131_072]).unwrap();
    let output = host.try_run(&["encrypt", vm, "--disk", "d-000001.vmdk"]);
    let note = "d-000001.vmdk is a snapshot of d.vmdk, and d-flat.vmdk remains in the clear";
    assert!(output.status.success() && said(&output).contains(note), "{}", said(&output));
    host.run(&verb);
    assert!(fs::read(host.path("vm/d-flat.vmdk")).unwrap().starts_with(b"VMCRYPTF"));
}

#[test]
fn what_cannot_be_carried_over_is_refused_before_anything_is_touched() {
    let host = Host::new();
    let vm = folder(&host);
    let verb = ["encrypt", vm];
    // Whether it fits depends on the file system: only where the system says no is it to be said before.
    let set =
        |value: &str| Command::new("setfattr").args(["-n", "user.note", "-v", value, host.path("vm/a.txt")]).status();
    if set(&"n".repeat(4000)).unwrap().success()
        && !Command::new("setfattr")
            .args(["-n", "user.note", "-v", &"n".repeat(4080), host.path("vm/a.txt")])
            .status()
            .unwrap()
            .success()
    {
        refuses(
            &host,
            &verb,
            1,
            "a.txt: its extended attributes do not fit once each value is sealed, 41 bytes longer: setting extended attribute user.note",
        );
    }
    set("short").unwrap();
    // A home file takes twice its length in the backing file, holes included.
    let log = fs::File::create(host.path("vm/vm.log")).unwrap();
    let longest = (40..=60).map(|bits| 1_u64 << bits).take_while(|len| log.set_len(*len).is_ok()).last();
    if longest.is_some_and(|len| len < 1 << 60) {
        let dry = host.try_run(&[&verb[..], &["--dry-run"]].concat());
        assert!(
            !dry.status.success() && said(&dry).contains("vm.log: its encrypted form has a length"),
            "{}",
            said(&dry)
        );
    }
    fs::remove_file(host.path("vm/vm.log")).unwrap();
    for flag in ["i", "a"] {
        if Command::new("chattr").args([&format!("+{flag}"), host.path("vm/a.txt")]).status().unwrap().success() {
            let words = if flag == "i" { "a.txt: it is immutable" } else { "a.txt: it can only be appended to" };
            refuses(&host, &verb, 7, words);
            system(&format!("chattr -{flag} {vm}/a.txt && chattr +{flag} {vm}"));
            let output = host.try_run(&["encrypt", vm, "--dry-run"]);
            system(&format!("chattr -{flag} {vm}"));
            let words = words.replace("a.txt: ", "Obstacle: .: ");
            assert!(output.status.code() == Some(7) && said(&output).contains(&words), "{}", said(&output));
        }
    }
    let out = Command::new("sh")
        .args(["-c", &format!("mkdir {vm}/sub && touch {vm}/sub/x && mount --bind {vm}/sub {vm}/sub")])
        .output()
        .unwrap();
    if out.status.success() {
        let output = host.try_run(&verb);
        system(&format!("umount {vm}/sub"));
        assert!(
            output.status.code() == Some(7) && said(&output).contains("something is mounted there"),
            "{}",
            said(&output)
        );
    }
    system(&format!("qemu-img create -q -f qcow2 '{vm}/d.qcow2~' 1M"));
    let output = host.try_run(&verb);
    assert!(output.status.success() && !said(&output).contains("looks like a lock"), "{}", said(&output));
    assert!(host.run(&["encrypt", vm, "--dry-run"]).contains("The home is encrypted, and remains so."));
    host.run(&["decrypt", vm, "--all"]);
}

#[test]
fn ciphertext_as_content_is_not_decrypted_into_what_could_not_be_told_apart() {
    let host = Host::new();
    let vm = folder(&host);
    fs::write(host.path("vm/d.raw"), [7; 100_000]).unwrap();
    host.run(&["encrypt", vm]);
    let stored = fs::read(host.path("vm/d.raw")).unwrap();
    let sealed = fs::read(host.path("vm/a.txt")).unwrap();
    let mount = host.mount("vm", &[]);
    for (name, content, verb) in [
        ("copy.raw", &stored, &["decrypt", vm, "--all"][..]),
        ("copy.raw", &stored, &["decrypt", vm, "--disk", "copy.raw"]),
        ("copy.txt", &stored, &["decrypt", vm, "--all"]),
        ("copy.txt", &sealed, &["decrypt", vm, "--all"]),
    ] {
        fs::write(mount.path(name), content).unwrap();
        let words = format!("{name}: its content is itself an encrypted file");
        if verb.len() == 4 {
            host.refuses(verb, 7, &words);
            foresees(&host, verb, &words);
        } else {
            // As in the process of no mount.
            let away = host.path("away");
            fs::create_dir(away).unwrap();
            system(&format!("cp -a {vm}/. {away}"));
            host.refuses(&["decrypt", away, "--all"], 7, &words);
            foresees(&host, &["decrypt", away, "--all"], &words);
            fs::remove_dir_all(away).unwrap();
        }
        fs::remove_file(mount.path(name)).unwrap();
    }
    // Links and attributes of folders as well: what is stored of them is kept as their content.
    symlink("a.txt", mount.path("one")).unwrap();
    fs::create_dir(mount.path("sub")).unwrap();
    let root = mount.root().display().to_string();
    let has_xattrs =
        Command::new("setfattr").args(["-n", "user.x", "-v", "value", &format!("{root}/sub")]).status().unwrap();
    let stored = fs::read_link(host.path("vm/one")).unwrap();
    mount.unmount();
    let refused = |words: &str| {
        host.refuses(&["decrypt", vm, "--all"], 7, words);
        foresees(&host, &["decrypt", vm, "--all"], words);
    };
    let mount = host.mount("vm", &[]);
    symlink(&stored, mount.path("two")).unwrap();
    mount.unmount();
    refused("two: its target is itself a sealed one");
    fs::remove_file(host.path("vm/two")).unwrap();
    if has_xattrs.success() {
        let mount = host.mount("vm", &[]);
        let root = mount.root().display().to_string();
        system(&format!(
            "v=$(getfattr --absolute-names -n user.x -e hex {vm}/sub | sed -n 's/^user.x=//p'); setfattr -n user.x -v $v {root}/sub"
        ));
        mount.unmount();
        refused("sub: the value of an extended attribute is itself a sealed one");
        system(&format!("rmdir {vm}/sub"));
    }
    // An encrypted disk that came when the home was half decrypted is nobody's to decrypt.
    host.write_state("vm/vmcryptfs.home", Some(StoredState::Decrypting));
    fs::rename(host.path("vm/vmcryptfs.home"), host.path("vm/.vmcryptfs-decrypting")).unwrap();
    host.refuses(&["decrypt", vm, "--all"], 7, "it came later, move it away first");
    fs::remove_file(host.path("vm/d.raw")).unwrap();
    host.run(&["decrypt", vm, "--all"]);
    assert_eq!(fs::read_to_string(host.path("vm/a.txt")).unwrap(), "first");
}

#[test]
fn a_folder_of_several_vms_is_not_made_one_vm_unasked() {
    let host = Host::new();
    let vm = folder(&host);
    for name in ["web", "db"] {
        fs::create_dir(host.path(&format!("vm/{name}"))).unwrap();
        fs::write(host.path(&format!("vm/{name}/{name}.vmx")), "displayName = \"x\"\n").unwrap();
    }
    refuses(&host, &["encrypt", vm], 7, "db/db.vmx and web/web.vmx are settings of two VMs");
    host.run(&["encrypt", vm, "--one-vm"]);
    host.run(&["check", vm]);
}

/// Length, and second of the last change, of each file and link of a folder, but of its header.
fn as_a_backup_sees(folder: &str) -> BTreeMap<OsString, (u64, i64)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let is_home = |name: &str| name == "vmcryptfs.home" || name.starts_with(".vmcryptfs-members-");
    let files = entries.filter(|entry| !is_home(&entry.file_name().to_string_lossy()));
    files
        .map(|entry| {
            let stat = entry.metadata().unwrap();
            (entry.file_name(), (stat.len(), stat.mtime()))
        })
        .collect()
}

#[test]
fn ciphertext_that_is_made_again_has_a_later_time_than_before() {
    let host = Host::new();
    let (vm, clone) = (folder(&host), host.path("clone"));
    fs::write(host.path("vm/root.raw"), vec![7; 1 << 20]).unwrap();
    symlink("a.txt", host.path("vm/link")).unwrap();
    let later = |before: &BTreeMap<OsString, (u64, i64)>, now: &BTreeMap<OsString, (u64, i64)>| {
        assert!(before.len() == 3 && before.keys().eq(now.keys()), "{before:?}, then {now:?}");
        for (name, (len, second)) in now {
            assert!(*len == before[name].0 && *second > before[name].1, "{name:?}: {before:?}, then {now:?}");
        }
    };
    host.run(&["encrypt", vm]);
    let first = as_a_backup_sees(vm);
    host.run(&["decrypt", vm, "--all"]);
    let clear = as_a_backup_sees(vm);
    assert!(clear.iter().all(|(name, (_, second))| *second == first[name].1), "{clear:?}");
    host.run(&["encrypt", vm]);
    let second = as_a_backup_sees(vm);
    later(&first, &second);

    host.run(&["clone", vm, clone]);
    later(&second, &as_a_backup_sees(clone));
    fs::remove_dir_all(clone).unwrap();
    host.run(&["clone", vm, clone, "--same-keys"]);
    let same = as_a_backup_sees(clone);
    let name = |name: &str| OsString::from(name);
    assert_eq!(same[&name("a.txt")], second[&name("a.txt")], "the same bytes");
    assert!(same[&name("root.raw")].1 > second[&name("root.raw")].1, "another header");

    for form in ["home-file", "disk"] {
        host.run(&["convert", host.path("vm/root.raw"), "--to", form]);
    }
    assert!(as_a_backup_sees(vm)[&name("root.raw")].1 > second[&name("root.raw")].1 + 1);
}

#[test]
fn names_that_reach_the_folder_by_another_of_its_places_are_refused() {
    let host = Host::new();
    let vm = folder(&host);
    let place = host.path("place");
    fs::create_dir(place).unwrap();
    if !Command::new("mount").args(["--bind", vm, place]).status().unwrap().success() {
        return; // not allowed to mount
    }
    symlink("place", host.path("way")).unwrap();
    system(&format!("cd {vm} && qemu-img create -q -f raw base.raw 1M"));
    let found: Vec<_> = ["place", "way"]
        .map(|name| {
            let base = host.path(&format!("{name}/base.raw"));
            system(&format!("cd {vm} && qemu-img create -q -f qcow2 -F raw -b {base} top.qcow2"));
            let named = host.try_run(&["encrypt", vm, "--dry-run"]);
            system(&format!("rm {vm}/top.qcow2 && ln -s {base} {vm}/link"));
            let linked = host.try_run(&["encrypt", vm, "--dry-run"]);
            system(&format!("rm {vm}/link"));
            [named, linked]
        })
        .into_iter()
        .flatten()
        .collect();
    system(&format!("umount {place}"));
    for output in found {
        let words = said(&output);
        assert!(output.status.code() == Some(7) && words.contains("by this folder's place"), "{words}");
        assert!(words.contains("-b base.raw top.qcow2") || words.contains("ln -sfn base.raw link"), "{words}");
    }
}

#[test]
fn a_folder_within_a_vm_is_not_made_another_vm() {
    let host = Host::new();
    let vm = folder(&host);
    let child = host.path("vm/child");
    fs::create_dir(child).unwrap();
    // As at the moment when another process has begun with the one or the other.
    for (one, other) in [(vm, child), (child, vm)] {
        for header in [".vmcryptfs-encrypting", ".vmcryptfs-decrypting", "vmcryptfs.home"] {
            let header = format!("{other}/{header}");
            fs::write(&header, [0; 16_384]).unwrap();
            let words = if one == vm { "child is a VM folder of its own" } else { "is in a VM folder" };
            host.refuses(&["encrypt", one], 7, words);
            fs::remove_file(header).unwrap();
            assert_eq!(fs::read_dir(child).unwrap().count(), 0);
        }
    }
    host.run(&["encrypt", vm]);
    host.refuses(&["encrypt", child], 7, "is in a VM folder");
    assert_eq!(fs::read_dir(child).unwrap().count(), 0);
}

#[test]
fn a_data_file_is_found_by_the_place_that_the_mount_has() {
    let host = Host::new();
    let vm = folder(&host);
    system(&format!(
        "cd {vm} && qemu-img create -q -f qcow2 -o data_file=$PWD/d.img,data_file_raw=on q.qcow2 1M && \
         qemu-io -c 'write -q -P 7 0 64k' q.qcow2 >&2"
    ));
    host.refuses(&["encrypt", vm], 7, "data_file=MOUNTPOINT/d.img q.qcow2");
    let place = host.path("place");
    system(&format!("cd {vm} && qemu-img amend -f qcow2 -o data_file={place}/d.img q.qcow2"));
    host.run(&["encrypt", vm]);
    let mount = host.mount("vm", &[]);
    symlink(mount.root(), place).unwrap();
    system(&format!("cd / && qemu-io -c 'read -P 7 0 64k' {place}/q.qcow2 >&2"));
    mount.unmount();
}

#[test]
fn a_home_file_that_a_full_file_system_left_without_a_header_is_empty_for_every_verb() {
    let host = Host::with_vm();
    for name in ["y.nvram", "y.raw"] {
        File::create(host.path(&format!("web01/{name}"))).unwrap().set_len(512).unwrap();
    }
    File::create(host.path("web01/empty.raw")).unwrap();
    let vm = host.path("web01");
    assert!(host.run(&["check", "--only-clear", vm]).contains("Everything is encrypted"));
    assert!(!host.run(&["info", vm]).contains("IN THE CLEAR"));
    host.run(&["encrypt", "--dry-run", vm]);
    let cloned = host.try_run(&["clone", vm, host.path("copy")]);
    assert!(cloned.status.success() && !said(&cloned).contains("in the clear"), "{}", said(&cloned));
    let decrypted = host.try_run(&["decrypt", "--all", vm]);
    assert!(decrypted.status.success() && !said(&decrypted).contains("in the clear"), "{}", said(&decrypted));
    for name in ["y.nvram", "y.raw", "empty.raw"] {
        assert_eq!(fs::metadata(host.path(&format!("web01/{name}"))).unwrap().len(), 0, "{name}");
    }
}

#[test]
fn a_plan_has_the_size_of_disks_and_files_and_not_that_of_what_is_stored() {
    let host = Host::new();
    let vm = folder(&host);
    fs::write(host.path("vm/root.raw"), vec![7; 2 << 20]).unwrap();
    for verb in [&["encrypt", vm][..], &["decrypt", vm, "--all"]] {
        let dry = [verb, &["--dry-run"]].concat();
        let shown = host.run(&dry);
        let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("root.raw").contains(" 2 MiB ") && line("a.txt").contains(" 5 B "), "{shown}");
        let plan: serde_json::Value = serde_json::from_str(&host.run(&[&dry[..], &["--json"]].concat())).unwrap();
        let files = plan["files"].as_array().unwrap();
        let disk = files.iter().find(|file| file["path"] == "root.raw").unwrap();
        let stored = fs::metadata(host.path("vm/root.raw")).unwrap().len();
        assert_eq!((disk["plain_size"].as_u64(), disk["size"].as_u64()), (Some(2 << 20), Some(stored)), "{plan}");
        host.run(verb);
    }
}
