//! Which new files become disks: by the list of their home, and by what programs call them first.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::host::Host;
use crate::not_run::not_run;

/// Files of a VM that are kept as disks.
pub(crate) fn disks(host: &Host, vm: &str) -> Vec<String> {
    let info: serde_json::Value = serde_json::from_str(&host.run(&["info", host.path(vm), "--json"])).unwrap();
    let disks = info.as_array().unwrap().iter().filter(|component| component["kind"] == "disk");
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let mut names: Vec<String> = disks.map(|disk| name(disk["path"].as_str().unwrap())).collect();
    names.sort();
    names
}

#[test]
fn the_list_of_a_home_is_set_when_it_is_made_and_changed_while_it_is_mounted() {
    let host = Host::new();
    host.run(&["create", host.path("web01"), "--disk-names", "vm#"]);
    let vm = host.path("web01");
    let mount = host.mount("web01", &[]);
    for name in ["vm1", "vmx", "root.raw"] {
        fs::write(mount.path(name), name).unwrap();
    }
    assert_eq!(disks(&host, "web01"), ["vm1"]);
    assert_eq!(host.run(&["disk-names", vm, "--add", "root.snap*", "--remove", "vm#"]), "root.snap*\n");
    for name in ["vm2", "root.snap1"] {
        fs::write(mount.path(name), name).unwrap();
    }
    assert_eq!(disks(&host, "web01"), ["root.snap1", "vm1"]);
    assert!(host.run(&["disk-names", vm, "--usual"]).contains("*.qcow2\n"));
    for name in ["k.qcow2.1795974193", "disk.0", "disk.info", ".d.raw.Xy12z9", "notes.txt"] {
        fs::write(mount.path(name), name).unwrap();
    }
    let all = [".d.raw.Xy12z9", "disk.0", "k.qcow2.1795974193", "root.snap1", "vm1"];
    assert_eq!(disks(&host, "web01"), all);
    mount.unmount();
    host.run(&["disk-names", vm, "--set", "*"]);
    let json: serde_json::Value = serde_json::from_str(&host.run(&["disk-names", vm, "--json"])).unwrap();
    assert_eq!((&json["disk_names"][0], &json["usual"], &json["changed"]), (&"*".into(), &false.into(), &false.into()));
    assert_eq!(host.run(&["check", vm]).lines().filter(|line| line.contains("problem")).count(), 0);
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("vm2")).unwrap(), b"vm2");
    host.refuses(&["disk-names", vm, "--remove", "vm#"], 8, "is not in the list: *");
}

#[test]
fn new_homes_have_the_list_of_the_configuration() {
    let host = Host::new();
    let config = fs::read_to_string(host.path("config/config.toml")).unwrap();
    fs::write(host.path("config/config.toml"), config + "[defaults]\ndisk-names = [\"vm#\"]\n").unwrap();
    fs::create_dir(host.path("ds")).unwrap();
    host.run(&["create", host.path("ds/web01")]);
    let mount = host.mount("ds", &[]);
    fs::create_dir(mount.path("web02")).unwrap();
    fs::create_dir(host.path("ds/web03")).unwrap();
    fs::write(host.path("ds/web03/web03.xml"), "<domain/>").unwrap();
    host.run(&["encrypt", host.path("ds/web03")]);
    for vm in ["web01", "web02", "web03"] {
        assert_eq!(host.run(&["disk-names", host.path(&format!("ds/{vm}"))]), "vm#\n");
    }
}

#[test]
fn a_disk_whose_name_or_size_cannot_be_meant_is_refused() {
    let host = Host::with_vm();
    host.refuses(&["create-disk", host.path("web01/q.qcow2"), "--size", "1M"], 2, "qemu-img create -f qcow2");
    let longer = ["create-disk", host.path("web01/q.raw"), "--size", "257T"];
    host.refuses(&longer, 11, "at most 281474976710656 (256 TiB): one key encrypts no more");
    for (size, words) in [("20", "20G, or 20B if"), ("0", "holds nothing"), ("20GB", "20G or 20GiB")] {
        let output = host.try_run(&["create-disk", host.path("web01/q.raw"), "--size", size]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(words), "{size}: {said}");
    }
}

/// In a file system that takes such files: ext4 does not.
#[test]
fn an_image_that_is_longer_than_one_key_may_encrypt_is_refused_before_anything_is_done() {
    let host = Host::new();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let (vm, image) = (folder.path().display().to_string(), folder.path().join("root.raw"));
    if fs::File::create(&image).unwrap().set_len((256 << 40) + 512).is_err() {
        return not_run("/dev/shm does not take a file of 256 TiB");
    }
    host.refuses(&["encrypt", &vm], 11, "root.raw: a disk of 281474976711168 bytes, expected at most");
    assert_eq!(fs::read_dir(&vm).unwrap().count(), 1, "nothing was made beside it");
}

/// 2^44 blocks of 16 bytes, in a file system that takes such files.
#[test]
fn a_disk_grows_to_what_its_key_may_encrypt_and_a_longer_one_opens_for_nobody() {
    const MAX: u64 = 256 << 40;
    const AREA: u64 = 8 << 20;
    let host = Host::new();
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let vm = folder.path().join("vm");
    let (at, disk) = (vm.display().to_string(), vm.join("root.raw"));
    host.run(&["create", &at]);
    host.run(&["create-disk", &disk.display().to_string(), "--size", "1M"]);
    let backing = fs::File::options().write(true).open(&disk).unwrap();
    if backing.set_len(AREA + MAX + 512).is_err() {
        return not_run("/dev/shm does not take a file of 256 TiB");
    }
    backing.set_len(AREA + (1 << 20)).unwrap();
    let mount = host.mount(&at, &[]);
    let file = fs::File::options().read(true).write(true).open(mount.path("root.raw")).unwrap();
    for refused in [file.set_len(MAX + 1), file.write_all_at(&[7; 512], MAX - 16), file.write_all_at(&[7; 512], MAX)] {
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EFBIG));
        let len = file.metadata().unwrap().len();
        assert!(len == 1 << 20 || len == MAX, "a length of {len} bytes");
        assert!(backing.metadata().unwrap().len() <= AREA + MAX);
    }
    file.set_len(MAX).unwrap();
    file.write_all_at(&[7; 512], MAX - 512).unwrap();
    let mut end = [0; 513];
    assert_eq!(file.read_at(&mut end, MAX - 512).unwrap(), 512);
    assert!(end[..512] == [7; 512]);
    drop(file);
    mount.unmount();
    host.run(&["check", &at]);
    // Longer beside the mount: the disk opens for nobody, and its data stays.
    backing.set_len(AREA + MAX + 16).unwrap();
    let mount = host.mount(&at, &[]);
    let refused = fs::File::open(mount.path("root.raw")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
    mount.unmount();
    assert!(
        host.log().contains("root.raw: a disk of 281474976710672 bytes, expected at most 281474976710656 (256 TiB)")
    );
    host.refuses(&["rekey", "--deep", &at], 11, "expected at most 281474976710656 (256 TiB): one key encrypts no more");
    let check = host.try_run(&["check", &at]);
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.code() == Some(11) && said.contains("256 TiB"), "{check:?}");
}

#[test]
fn a_home_file_becomes_a_disk_and_back_with_all_that_it_has() {
    let host = Host::new();
    let vm = host.path("web01");
    host.run(&["create", vm]);
    let mount = host.mount("web01", &[]);
    let content: Vec<u8> = (0..1_500_001_u32).map(|at| (at % 253) as u8).collect();
    fs::create_dir(mount.path("sub")).unwrap();
    fs::write(mount.path("root.snap1"), &content).unwrap();
    fs::hard_link(mount.path("root.snap1"), mount.path("sub/same")).unwrap();
    fs::hard_link(mount.path("root.snap1"), mount.path("z")).unwrap();
    let set = |path: &std::path::Path| {
        rustix::fs::setxattr(path, "user.note", b"of the disk", rustix::fs::XattrFlags::empty())
    };
    set(&mount.path("z")).unwrap();
    fs::write(mount.path("empty"), "").unwrap();
    let file = host.path("web01/root.snap1");
    host.refuses(&["convert", file], 6, "needs it unmounted");
    mount.unmount();
    let holds = |disks_now: &[&str]| {
        assert_eq!(disks(&host, "web01"), disks_now);
        let mount = host.mount("web01", &[]);
        for name in ["root.snap1", "sub/same", "z"] {
            assert_eq!(fs::read(mount.path(name)).unwrap(), content, "{name}");
            let mut note = [0; 32];
            let len = rustix::fs::getxattr(mount.path(name), "user.note", &mut note).unwrap();
            assert_eq!(&note[..len], b"of the disk", "{name}");
        }
        mount.unmount();
    };
    assert_eq!(host.run(&["convert", file]), format!("{file} is a disk now.\n"));
    holds(&["root.snap1", "same", "z"]);
    host.refuses(&["convert", file], 9, "root.snap1 is a disk already");
    host.run(&["convert", host.path("web01/empty")]);
    assert_eq!(disks(&host, "web01"), ["empty", "root.snap1", "same", "z"]);
    host.run(&["convert", host.path("web01/empty"), "--to", "home-file"]);
    let back = host.run(&["convert", host.path("web01/sub/same"), "--to", "home-file", "--json"]);
    let back: serde_json::Value = serde_json::from_str(&back).unwrap();
    assert_eq!((&back["stored_as"], back["names"].as_array().unwrap().len()), (&"home file".into(), 3));
    holds(&[]);
    assert!(
        host.events().iter().any(|event| event["operation"] == "convert" && event["result"] == "ok"),
        "{:?}",
        host.events()
    );
}

#[test]
fn info_names_home_files_that_look_like_disks() {
    let host = Host::new();
    host.run(&["create", host.path("web01")]);
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("notes"), vec![1; 1 << 20]).unwrap();
    fs::rename(mount.path("notes"), mount.path("renamed.raw")).unwrap();
    // Made as something else first, or it were a disk.
    fs::write(mount.path("root.snap1"), "x").unwrap();
    fs::write(mount.path("root.snap1"), [&b"QFI\xfb"[..], &[0; 4096]].concat()).unwrap();
    fs::write(mount.path("plain.txt"), vec![2; 1 << 20]).unwrap();
    let found = || {
        let info: serde_json::Value = serde_json::from_str(&host.run(&["info", host.path("web01"), "--json"])).unwrap();
        let files = info[0]["home_files"].as_array().unwrap().clone();
        let hint = |file: &serde_json::Value| {
            Some((file["path"].as_str()?.to_owned(), file["looks_like_disk"].as_str()?.to_owned()))
        };
        files.iter().filter_map(hint).collect::<Vec<_>>()
    };
    let by_name = ("renamed.raw".to_owned(), "by its name".to_owned());
    assert_eq!(found(), std::slice::from_ref(&by_name));
    // The key is asked for only where there may be a VMDK.
    fs::write(mount.path("x.vmdk"), "# Disk DescriptorFile\nversion=1\nCID=1\ncreateType=\"custom\"\n").unwrap();
    assert_eq!(found(), [by_name, ("root.snap1".to_owned(), "qcow2 image".to_owned())]);
    let told = host.try_run(&["info", host.path("web01")]).stderr;
    assert!(String::from_utf8_lossy(&told).contains("`vmcryptfs convert VM_FOLDER/root.snap1` makes it one"));
}

#[test]
fn encrypt_goes_by_the_list_that_the_home_gets_or_has_and_check_says_what_looks_like_a_disk() {
    let host = Host::new();
    let config = host.path("config/config.toml");
    let text = fs::read_to_string(config).unwrap();
    fs::write(config, text + "\n[defaults]\ndisk-names = [\"vm#\"]\n").unwrap();
    let vm = host.path("web01");
    fs::create_dir(vm).unwrap();
    let blank = |name: &str| fs::File::create(host.path(&format!("web01/{name}"))).unwrap().set_len(1 << 20).unwrap();
    blank("vm1");
    blank("root.snap1");
    host.run(&["encrypt", vm]);
    assert_eq!(disks(&host, "web01"), ["vm1"]);
    host.run(&["disk-names", vm, "--add", "late.*"]);
    blank("late.1");
    host.refuses(&["encrypt", vm], 7, "late.1 is in the clear in an encrypted home");
    host.run(&["encrypt", vm, "--disk", "late.1"]);
    assert_eq!(disks(&host, "web01"), ["late.1", "vm1"]);

    let mount = host.mount("web01", &[]);
    fs::write(mount.path("hidden"), "x").unwrap(); // made as something else first, or it were a disk
    fs::write(mount.path("hidden"), [b"QFI\xfb".as_slice(), &[0; 600]].concat()).unwrap();
    fs::write(mount.path("a.raw"), vec![7; 1 << 20]).unwrap(); // the home's list has no such name
    mount.unmount();
    let found: serde_json::Value = serde_json::from_str(&host.run(&["check", "--json", vm])).unwrap();
    let advice = |name: &str| {
        let of = |found: &&serde_json::Value| found["path"].as_str().unwrap().ends_with(name);
        found.as_array().unwrap().iter().find(of).map(|found| found["result"].as_str().unwrap().to_owned())
    };
    assert!(
        advice("/hidden").unwrap().contains("looks like a disk (qcow2 image): `vmcryptfs convert FILE`"),
        "{found}"
    );
    assert!(advice("/a.raw").unwrap().contains("by its name"), "{found}");
    assert_eq!(advice("/root.snap1"), None);
}

#[test]
fn blank_files_are_disks_in_the_clear_by_the_list_of_their_home_or_of_the_configuration() {
    let host = Host::new();
    let vm = host.path("ds/vm");
    fs::create_dir(host.path("ds")).unwrap();
    host.run(&["create", vm, "--disk-names", "of-home*"]);
    fs::create_dir(host.path("ds/clear")).unwrap();
    fs::write(host.path("ds/clear/vm.vmx"), "displayName = \"clear\"\n").unwrap();
    for name in ["vm/of-home1", "vm/of-config1", "clear/of-config1", "clear/of-home1"] {
        fs::File::create(host.path(&format!("ds/{name}"))).unwrap().set_len(1 << 20).unwrap();
    }
    let config = fs::read_to_string(host.path("config/config.toml")).unwrap();
    fs::write(host.path("config/config.toml"), format!("{config}\n[defaults]\ndisk-names = [\"of-config*\"]\n"))
        .unwrap();
    for verb in [&["check", "--only-clear", "--json"][..], &["info", "--only-clear", "--json"]] {
        let output = host.try_run(&[verb, &[host.path("ds")]].concat());
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let blank: Vec<_> = found
            .as_array()
            .unwrap()
            .iter()
            .filter(|found| found["result"].as_str().unwrap().contains("by its name"))
            .collect();
        let paths: Vec<_> = blank.iter().map(|found| found["path"].as_str().unwrap()).collect();
        assert_eq!(paths, [host.path("ds/clear/of-config1"), host.path("ds/vm/of-home1")], "{found}");
    }
    let info: serde_json::Value = serde_json::from_str(&host.run(&["info", "--json", vm])).unwrap();
    let files = info[0]["home_files"].as_array().unwrap();
    let clear: Vec<_> =
        files.iter().filter(|file| file["in_the_clear"] == true).map(|file| file["path"].as_str().unwrap()).collect();
    assert_eq!(clear, ["of-home1"], "{info}");
}
