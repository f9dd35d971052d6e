//! Verbs that say what a folder holds, or what is not in it, have looked at all of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use serde_json::Value;

use crate::host::Host;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Id of the key in a component's first slot.
fn key_of(host: &Host, component: &'static str) -> String {
    json(&host.run(&["key", "list", "--json", component]))[0]["key_id"].as_str().unwrap().to_owned()
}

/// What `key in-use` finds of a key.
fn users(host: &Host, args: &[&str]) -> Vec<String> {
    let found = json(&host.run(&[&["key", "in-use", "--json"], args].concat()));
    let users = found["components"].as_array().unwrap().iter();
    users.map(|user| user["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_key_is_in_use_wherever_below_a_datastore_something_needs_it() {
    let host = Host::new();
    let ds = host.path("ds");
    for dir in ["ds/parking/deep", "ds/customer"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    for vm in ["ds/live", "ds/gone", "ds/lost", "ds/customer/vm"] {
        host.run(&["create", host.path(vm)]);
    }
    for disk in ["ds/gone/d.raw", "ds/lost/d.raw"] {
        host.run(&["create-disk", host.path(disk), "--size", "1M"]);
    }
    let parked = key_of(&host, host.path("ds/gone"));
    let lost = key_of(&host, host.path("ds/lost"));
    let deeper = key_of(&host, host.path("ds/customer/vm"));
    fs::rename(host.path("ds/gone/d.raw"), host.path("ds/parking/deep/d.raw")).unwrap();
    fs::remove_dir_all(host.path("ds/gone")).unwrap();
    fs::remove_file(host.path("ds/lost/vmcryptfs.home")).unwrap();
    for (key, user) in [(&parked, "parking/deep/d.raw"), (&lost, "lost/d.raw"), (&deeper, "customer/vm")] {
        assert_eq!(users(&host, &["--key", key, ds]), [user]);
        assert_eq!(users(&host, &[&format!("local/{key}"), ds]), [user], "in the form that messages have");
        host.refuses(&["provider", "retire", "local", key, "--datastore", ds], 7, "is needed by");
    }
    assert_eq!(users(&host, &["--provider", "local", ds, host.path("ds/live")]).len(), 5, "two datastores");

    host.refuses(&["key", "in-use", "no-such-key", ds], 8, "looked at 4 components in 2 VM folders");
    host.refuses(&["key", "in-use", "--provider", "local", host.path("nowhere"), ds], 8, "is not a folder");
    host.refuses(&["key", "in-use", "--provider", "nobody", ds], 8, "no provider nobody");
    host.refuses(&["key", "in-use", host.path("ds/live"), ds], 2, "missing key: pass");

    let mount = host.mount("ds", &[]);
    let shown = mount.root().to_str().unwrap();
    let of_provider = |datastore: &str| users(&host, &["--provider", "local", datastore]);
    assert_eq!(of_provider(shown), of_provider(ds), "a mount shows no headers: they are looked for beneath");
    mount.unmount();
    host.refuses(&["key", "in-use", "--provider", "local", host.path("config")], 2, "holds no encrypted VM folder");

    // An interrupted rekey leaves the former key in one copy of the header.
    let mut former = vec![0; 8192];
    let home = File::options().read(true).write(true).open(host.path("ds/customer/vm/vmcryptfs.home")).unwrap();
    home.read_exact_at(&mut former, 0).unwrap();
    host.run(&["rekey", host.path("ds/customer/vm")]);
    host.refuses(&["key", "in-use", "--key", &deeper, ds], 8, "no header names key");
    home.write_all_at(&former, 0).unwrap();
    let found = json(&host.run(&["key", "in-use", "--json", "--key", &deeper, ds]));
    let user = &found["components"][0];
    assert_eq!((&user["lost"], &user["only_in_other_copy"]), (&false.into(), &true.into()), "{found}");
    host.refuses(&["provider", "retire", "local", &deeper, "--datastore", ds], 7, "is needed by");

    // A saved header is counted, though it is no component.
    host.run(&["header", "backup", host.path("ds/live"), host.path("ds/live.header")]);
    let live = key_of(&host, host.path("ds/live"));
    let found = json(&host.run(&["key", "in-use", "--json", "--key", &live, ds]));
    assert_eq!(
        (found["saved_headers"][0]["path"].as_str(), found["looked_at"]["saved_headers"].as_u64()),
        (Some("live.header"), Some(1))
    );

    // What cannot be read may need the key.
    fs::create_dir(host.path("ds/headless")).unwrap();
    fs::write(host.path("ds/headless/vm.vmx"), [b"VMCRYPTH".as_slice(), &[0; 600]].concat()).unwrap();
    let other = ["provider", "retire", "local", "unused", "--datastore", ds];
    host.refuses(&other, 3, "headless may need the key");
    assert_eq!(host.try_run(&["key", "in-use", "--key", &live, ds]).status.code(), Some(3));
}

#[test]
fn what_is_in_the_clear_is_named() {
    let host = Host::new();
    let vm = host.path("ds/vm");
    fs::create_dir_all(vm).unwrap();
    for disk in ["a.raw", "b.raw"] {
        fs::write(host.path(&format!("ds/vm/{disk}")), vec![7; 1 << 20]).unwrap();
    }
    fs::write(host.path("ds/vm/vm.vmx"), "displayName = \"vm\"\n").unwrap();
    host.refuses(&["check", "--only-clear", vm], 7, "4 files and folders are in the clear");
    host.run(&["encrypt", vm, "--disk", "a.raw"]);
    fs::write(host.path("ds/vm/stray.txt"), "secret").unwrap();
    std::os::unix::fs::symlink("a.raw", host.path("ds/vm/link")).unwrap();
    let found = json(&host.run(&["check", "--json", vm]));
    let clear: Vec<_> = found.as_array().unwrap().iter().filter(|finding| finding["state"] == "clear").collect();
    let paths: Vec<_> =
        clear.iter().map(|finding| finding["path"].as_str().unwrap().rsplit('/').next().unwrap()).collect();
    assert_eq!(paths, ["b.raw", "link", "stray.txt"], "{found}");
    assert_eq!(found.as_array().unwrap().len(), 5);
    host.refuses(&["check", "--only-clear", vm], 7, "3 files and folders are in the clear");
    for name in ["stray.txt", "link"] {
        fs::remove_file(host.path(&format!("ds/vm/{name}"))).unwrap();
    }
    host.run(&["encrypt", vm, "--disk", "b.raw"]);
    assert!(host.run(&["check", "--only-clear", vm]).contains("Everything is encrypted"));
    // A VM folder that is not encrypted at all, beside one that is.
    fs::create_dir(host.path("ds/clear")).unwrap();
    fs::write(host.path("ds/clear/vm.vmx"), "displayName = \"clear\"\n").unwrap();
    let ds = host.path("ds");
    assert!(host.run(&["check", ds]).contains("in the clear: a VM folder that is not encrypted"));
    host.refuses(&["check", "--only-clear", ds], 7, "2 files and folders are in the clear");
}

#[test]
fn check_proves_home_files_and_with_data_all_of_them() {
    let host = Host::with_vm();
    host.run(&["create", host.path("other")]);
    let write = |vm: &str, name: &str| {
        let mount = host.mount(vm, &[]);
        fs::write(mount.path(name), vec![5; 20_000]).unwrap();
        std::os::unix::fs::symlink("somewhere", mount.path("link")).unwrap();
        mount.unmount();
    };
    write("web01", "notes.txt");
    write("other", "theirs.txt");
    let vm = host.path("web01");
    assert!(host.run(&["check", vm]).contains("of its 1 file the header is genuine"));
    let all = host.run(&["check", "--data", vm]);
    assert!(all.contains("all of it was read and is genuine: 1 file with 20000 bytes, 1 link"), "{all}");
    assert!(all.contains("no integrity check (XTS)"), "{all}");

    let notes = File::options().read(true).write(true).open(host.path("web01/notes.txt")).unwrap();
    let stored = fs::read(host.path("web01/notes.txt")).unwrap();
    let at = stored.iter().rposition(|&byte| byte != 0).unwrap();
    notes.write_all_at(&[stored[at] ^ 1], at as u64).unwrap();
    host.run(&["check", vm]);
    host.refuses(&["check", "--data", vm], 3, "a problem");
    notes.write_all_at(&stored[at..=at], at as u64).unwrap();
    host.run(&["check", "--data", vm]);

    // A file of another home, as a backup has it that missed a deep rekey.
    fs::copy(host.path("other/theirs.txt"), host.path("web01/theirs.txt")).unwrap();
    let said = String::from_utf8(host.try_run(&["check", vm]).stdout).unwrap();
    assert!(said.contains("theirs.txt") && said.contains("PROBLEM"), "{said}");
    host.refuses(&["check", vm], 3, "a problem");
    fs::remove_file(host.path("web01/theirs.txt")).unwrap();

    fs::copy(host.path("web01/root.raw"), host.path("web01/twin.raw")).unwrap();
    let said = String::from_utf8(host.try_run(&["check", vm]).stdout).unwrap();
    assert!(
        said.contains("list of disks has it as root.raw, and no disk here. If it was renamed, `vmcryptfs adopt "),
        "{said}"
    );
    fs::remove_file(host.path("web01/twin.raw")).unwrap();
    fs::hard_link(host.path("web01/root.raw"), host.path("web01/same.raw")).unwrap();
    host.run(&["adopt", host.path("web01/same.raw")]);
    host.run(&["check", vm]);
}

#[test]
fn info_status_and_erase_say_what_is_in_the_clear() {
    let host = Host::new();
    let vm = host.path("ds/vm");
    fs::create_dir_all(vm).unwrap();
    for disk in ["a.raw", "b.raw"] {
        fs::write(host.path(&format!("ds/vm/{disk}")), vec![7; 1 << 20]).unwrap();
    }
    host.run(&["encrypt", vm, "--disk", "a.raw"]);
    fs::create_dir(host.path("ds/clear")).unwrap();
    fs::write(host.path("ds/clear/vm.vmx"), "displayName = \"clear\"\n").unwrap();
    let info = json(&host.run(&["info", "--json", vm]));
    let file = &info[0]["home_files"][0];
    assert_eq!(
        (&file["path"], &file["size"], &file["in_the_clear"]),
        (&"b.raw".into(), &(1 << 20).into(), &true.into()),
        "{info}"
    );
    let of_ds = json(&host.run(&["info", "--json", host.path("ds")]));
    let clear: Vec<_> = of_ds.as_array().unwrap().iter().filter(|info| info["state"] == "clear").collect();
    let kinds: Vec<_> = clear.iter().map(|info| info["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["folder", "file"], "{of_ds}");
    host.refuses(&["info", "--only-clear", host.path("ds")], 7, "3 files and folders are in the clear");
    let mount = host.mount("ds", &[]);
    let status = mount.status();
    let names: Vec<_> =
        status["in_the_clear"].as_array().unwrap().iter().map(|clear| clear["path"].as_str().unwrap()).collect();
    assert_eq!(names, ["clear", "vm/b.raw"], "{status}");
    mount.unmount();

    host.run(&["header", "backup", vm, host.path("ds/vm/saved")]);
    let evidence = json(&host.run(&["erase", "--yes", "--json", vm]));
    assert_eq!(
        (evidence["in_the_clear"][0].as_str(), evidence["headers_left"][0].as_str()),
        (Some("b.raw"), Some("saved"))
    );
    assert!(evidence["elsewhere"][0].as_str().unwrap().starts_with("b.raw: in the clear"), "{evidence}");
    // The home's files are not listed any more; what is in the clear is.
    let info = json(&host.run(&["info", "--json", vm]));
    assert!(info.as_array().unwrap().iter().any(|info| info["state"] == "clear"), "{info}");
}

#[test]
fn what_was_erased_hinders_nothing_and_is_called_that() {
    let host = Host::new();
    for vm in ["ds/kept", "ds/gone"] {
        fs::create_dir_all(host.path("ds")).unwrap();
        host.run(&["create", host.path(vm)]);
        for disk in ["root.raw", "data.raw"] {
            host.run(&["create-disk", host.path(&format!("{vm}/{disk}")), "--size", "1M"]);
        }
    }
    host.run(&["erase", "--yes", host.path("ds/kept/data.raw")]);
    assert!(host.run(&["erase", "--yes", host.path("ds/gone")]).contains("To remove it: rm -r "));
    host.refuses(&["erase", "--yes", host.path("ds/gone")], 8, "erased on ");
    let ds = host.path("ds");
    for verb in ["check", "info"] {
        let said = host.run(&[verb, ds]);
        assert_eq!(said.matches("erased on ").count(), 4, "{said}");
    }
    assert!(host.run(&["info", host.path("ds/kept/data.raw"), "--json"]).contains("\"erased\""));
    let unused = ["provider", "retire", "local", "unused", "--datastore", ds];
    let said = String::from_utf8(host.try_run(&unused).stderr).unwrap();
    assert!(!said.contains("may need the key"), "{said}");
    host.run(&["provider", "add", "native", "escrow"]);
    // The rest has other keys, and what was erased is named: anyone can put such a mark there.
    for verb in
        [&["rekey", host.path("ds/kept")][..], &["key", "add", "--all", "--provider", "escrow", host.path("ds/kept")]]
    {
        let done = host.try_run(verb);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(3) && said.contains("data.raw was erased on "), "{said}");
    }
    let mount = host.mount("ds", &[]);
    let status = mount.status();
    let components = status["components"].as_array().unwrap();
    let erased = components
        .iter()
        .filter(|component| component["reason"].as_str().is_some_and(|why| why.contains("erased on ")));
    assert_eq!(erased.count(), 4, "{status}");
    let log = fs::read_to_string(host.path("log")).unwrap();
    assert!(log.contains("4 of 6 components are erased: ") && !log.contains("other reasons"), "{log}");
    assert!(File::open(mount.path("kept/root.raw")).is_ok());
    assert!(File::open(mount.path("kept/data.raw")).is_err());
    mount.unmount();
}

#[test]
fn changes_of_all_keys_say_what_was_not_looked_at() {
    let host = Host::with_vm();
    let (deep, too_deep) = ("d/".repeat(60), "d/".repeat(130));
    fs::create_dir_all(host.path(&format!("web01/{too_deep}"))).unwrap();
    fs::rename(host.path("web01/root.raw"), host.path(&format!("web01/{deep}root.raw"))).unwrap();
    host.run(&["adopt", host.path(&format!("web01/{deep}root.raw"))]);
    // All but what could not be read has other keys, and that is not called done.
    let done_but_for = |verb: &[&str]| {
        let done = host.try_run(verb);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        json(&String::from_utf8(done.stdout).unwrap())
    };
    let rekeyed = done_but_for(&["rekey", "--json", host.path("web01")]);
    assert_eq!(rekeyed["components"].as_array().unwrap().len(), 2);
    assert!(rekeyed["unreadable"][0].as_str().unwrap().contains("deeper than 128 folders"), "{rekeyed}");
    fs::create_dir_all(host.path(&format!("plain/{too_deep}"))).unwrap();
    for verb in ["check", "info"] {
        let output = host.try_run(&[verb, host.path("plain")]);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(said.contains("deeper than 128 folders") && !said.contains("contains none"), "{said}");
    }
    let said = String::from_utf8(host.try_run(&["rekey", host.path("web01")]).stderr).unwrap();
    assert!(said.contains("Cannot be read, so its keys are as they were"), "{said}");
    host.run(&["provider", "add", "native", "escrow"]);
    for verb in ["add", "remove"] {
        let all = done_but_for(&["key", verb, "--json", host.path("web01"), "--all", "--provider", "escrow"]);
        assert!(all["unreadable"][0].as_str().unwrap().contains("deeper than 128 folders"), "{all}");
    }
}

#[test]
fn a_header_copy_is_mended_by_the_other() {
    let host = Host::with_vm();
    let disk = host.path("web01/root.raw");
    let file = File::options().write(true).open(disk).unwrap();
    file.write_all_at(&[7; 100], 4000).unwrap();
    host.refuses(&["check", host.path("web01")], 3, "a problem");
    let said = String::from_utf8(host.try_run(&["check", disk]).stdout).unwrap();
    assert!(said.contains(&format!("`vmcryptfs header repair {disk}` repairs it")), "{said}");
    let mount = host.mount("web01", &[]);
    let open = File::open(mount.path("root.raw")).unwrap();
    host.refuses(&["header", "repair", disk], 6, "in use");
    drop(open);
    let repaired = json(&host.run(&["header", "repair", "--json", disk]));
    assert_eq!((&repaired["changed"], &repaired["offset"]), (&true.into(), &0.into()), "{repaired}");
    let said = host.run(&["header", "repair", &mount.path("root.raw").display().to_string()]);
    assert!(said.contains(&format!("Both header copies of {disk} ")), "the backing path: {said}");
    mount.unmount();
    assert!(host.run(&["header", "repair", disk]).contains("are intact already"));
    host.run(&["check", host.path("web01")]);

    let home = File::options().write(true).open(host.path("web01/vmcryptfs.home")).unwrap();
    home.write_all_at(&[7; 100], (64 << 10) + 4000).unwrap();
    host.run(&["header", "repair", host.path("web01")]);
    host.run(&["check", host.path("web01")]);
    for offset in [4000, (64 << 10) + 4000] {
        home.write_all_at(&[7; 100], offset).unwrap();
    }
    host.refuses(&["header", "repair", host.path("web01")], 3, "both header copies are damaged");
    assert!(host.events().iter().filter(|event| event["operation"] == "header-repair").count() >= 4);
}

#[test]
fn a_clone_says_what_of_it_is_in_the_clear_and_erased_disks_are_neither_cloned_nor_decrypted() {
    let host = Host::new();
    let (vm, clone) = (host.path("ds/vm"), host.path("ds/clone"));
    fs::create_dir_all(host.path("ds")).unwrap();
    host.run(&["create", vm]);
    for disk in ["sealed.raw", "gone.raw"] {
        host.run(&["create-disk", host.path(&format!("ds/vm/{disk}")), "--size", "1M"]);
    }
    fs::write(host.path("ds/vm/clear.raw"), vec![7; 1 << 20]).unwrap();
    fs::write(host.path("ds/vm/stray.txt"), "secret").unwrap();
    std::os::unix::fs::symlink("clear.raw", host.path("ds/vm/link")).unwrap();
    let gone = host.path("ds/vm/gone.raw");
    host.run(&["erase", gone, "--yes"]);
    let way_out = "gone.raw was erased on ";
    host.refuses(&["clone", vm, clone], 4, way_out);
    host.refuses(&["clone", vm, clone, "--same-keys"], 4, "remove it in a mount");
    host.refuses(&["decrypt", vm, "--all"], 4, way_out);
    host.refuses(&["decrypt", vm, "--disk", "gone.raw"], 4, way_out);
    assert!(fs::read(host.path("ds/vm/sealed.raw")).unwrap().starts_with(b"VMCRYPTF"), "nothing was decrypted");
    assert_eq!(fs::read_dir(host.path("ds")).unwrap().count(), 1, "nothing is left of a clone");
    fs::remove_file(gone).unwrap();
    host.refuses(&["clone", vm, clone], 3, "nothing lies at gone.raw");
    host.run(&["adopt", vm]);
    let cloned = json(&host.run(&["clone", vm, clone, "--json"]));
    let notes: Vec<_> = cloned["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    let said = |name: &str| notes.iter().filter(|note| note.starts_with(name)).copied().collect::<Vec<_>>().concat();
    assert_eq!(cloned["in_the_clear"], 3, "{notes:?}");
    assert_eq!(said("clear.raw "), "clear.raw is in the clear, in the clone too: disk, by its name");
    assert!(said("stray.txt ").contains("in the clear") && said("link ").ends_with("a symbolic link"), "{notes:?}");
    let printed = host.run(&["clone", vm, host.path("ds/second")]);
    assert!(printed.contains("3 files and links of it are in the clear"), "{printed}");
}

#[test]
fn a_disk_whose_header_was_overwritten_is_not_taken_for_one_in_the_clear() {
    let host = Host::new();
    let vm = host.path("vm");
    fs::create_dir(vm).unwrap();
    fs::write(host.path("vm/d.raw"), vec![7; 16 << 20]).unwrap();
    host.run(&["encrypt", vm]);
    let (disk, saved) = (host.path("vm/d.raw"), host.path("saved"));
    host.run(&["header", "backup", disk, saved]);
    let whole = fs::read(disk).unwrap();
    let (header, data) = whole.split_at(8 << 20);
    let zeros = [&vec![0; header.len()], data].concat();
    let noise = [&data[..header.len()], data].concat();
    for overwritten in [zeros, noise] {
        fs::write(disk, &overwritten).unwrap();
        let output = host.try_run(&["check", vm]);
        let told = String::from_utf8_lossy(&output.stdout);
        let words = "a file without a header lies at d.raw";
        assert!(output.status.code() == Some(3) && told.contains(words), "{told}");
        host.refuses(&["check", vm, "--only-clear"], 7, "in the clear");
        host.refuses(&["encrypt", vm], 3, words);
        host.refuses(&["encrypt", vm, "--disk", "d.raw", "--dry-run"], 3, words);
        assert!(fs::read(disk).unwrap() == overwritten, "it is left alone");
        let mount = host.mount("vm", &[]);
        let status = host.run(&["status", &mount.root().display().to_string()]);
        assert!(status.contains("d.raw is unusable: ") && status.contains("the file there has no header"), "{status}");
        let log = fs::read_to_string(host.path("log")).unwrap();
        assert!(log.contains("d.raw: no sign of what it is"), "the mount says it: {log}");
    }
    // One that no list has may be in the clear after all.
    host.refuses(&["adopt", vm], 7, "a file without a header lies at d.raw");
    host.run(&["adopt", vm, "--forget-disk", "d.raw"]);
    for what in ["--all", "--home"] {
        host.refuses(&["decrypt", vm, what], 7, "no sign of what d.raw is");
        let plan = host.try_run(&["decrypt", vm, what, "--dry-run"]);
        let told = String::from_utf8_lossy(&plan.stderr);
        assert!(told.contains("Obstacle: no sign of what d.raw is") && told.contains("--clear-disk d.raw"), "{told}");
        let plan = host.try_run(&["decrypt", vm, what, "--clear-disk", "d.raw", "--dry-run"]);
        let told = String::from_utf8_lossy(&plan.stderr);
        assert!(plan.status.success() && told.contains("Note: no sign of what d.raw is"), "{told}");
    }
    let in_use = host.run(&["key", "in-use", "--provider", "local", vm]);
    assert!(in_use.contains("d.raw: not looked at: no sign of what it is"), "{in_use}");
    let told = host.try_run(&["check", vm]);
    assert!(told.status.code() == Some(3) && format!("{told:?}").contains("no sign of what it is"), "{told:?}");
    host.refuses(&["encrypt", vm], 7, "no sign of what d.raw is");
    let plan = host.try_run(&["encrypt", vm, "--disk", "d.raw", "--dry-run"]);
    let note = String::from_utf8_lossy(&plan.stderr);
    assert!(plan.status.success() && note.contains("Note: no sign of what d.raw is"), "{note}");
    let info = json(&host.run(&["info", "--json", vm]));
    assert!(info[0]["home_files"][0]["what"].as_str().unwrap().starts_with("no sign of what it is"), "{info}");
    let copy = host.path("copy");
    let cloned = json(&host.run(&["clone", "--json", vm, copy]));
    assert!(cloned["notes"][0].as_str().unwrap().contains("no sign of what it is"), "{cloned}");
    let evidence = json(&host.run(&["erase", "--yes", "--json", copy]));
    assert_eq!((&evidence["in_the_clear"][0], &evidence["no_sign"][0]), (&"d.raw".into(), &"d.raw".into()));
    assert!(evidence["elsewhere"][0].as_str().unwrap().contains("or one whose header was overwritten"), "{evidence}");
    host.run(&["header", "restore", disk, saved, "--force"]);
    host.run(&["adopt", disk]);
    let mount = host.mount("vm", &[]);
    assert!(fs::read(mount.path("d.raw")).unwrap() == vec![7; 16 << 20]);
}

#[test]
fn links_are_followed_and_what_is_no_vm_is_in_the_clear_too() {
    let host = Host::new();
    let (ds, vm) = (host.path("ds"), host.path("san/vm"));
    for dir in ["ds/empty", "san"] {
        fs::create_dir_all(host.path(dir)).unwrap();
    }
    host.refuses(&["check", "--only-clear", ds], 8, "nothing there is encrypted or in the clear");
    host.run(&["create", host.path("ds/own")]);
    host.run(&["create", vm]);
    let key = key_of(&host, vm);
    std::os::unix::fs::symlink(vm, host.path("ds/vm")).unwrap();
    std::os::unix::fs::symlink("../ds", host.path("ds/loop")).unwrap();
    assert_eq!(users(&host, &["--key", &key, ds]), ["vm"]);
    host.refuses(&["provider", "retire", "local", &key, "--datastore", ds], 7, "is needed by");
    assert!(host.run(&["check", "--only-clear", ds]).contains("Everything is encrypted: looked at 2 components"));

    let notes = host.path("ds/notes.txt");
    fs::write(notes, "secret").unwrap();
    host.refuses(&["check", "--only-clear", ds], 7, "1 file or folder is in the clear");
    host.refuses(&["check", "--only-clear", notes], 7, "1 file or folder is in the clear");
}

#[test]
fn erase_of_a_home_whose_header_is_damaged_names_its_saved_headers() {
    let host = Host::with_vm();
    let (vm, header) = (host.path("web01"), host.path("web01/vmcryptfs.home"));
    host.run(&["header", "backup", vm, host.path("home.header")]);
    host.run(&["header", "backup", host.path("web01/root.raw"), host.path("disk.header")]);
    fs::write(header, vec![0; fs::read(header).unwrap().len()]).unwrap();
    let evidence = json(&host.run(&["erase", "--yes", "--json", vm]));
    let places: Vec<&str> = evidence["elsewhere"].as_array().unwrap().iter().map(|at| at.as_str().unwrap()).collect();
    for words in ["home.header", "disk.header", "saved headers and copies of "] {
        assert!(places.iter().any(|place| place.contains(words)), "{words}: {places:?}");
    }
}

#[test]
fn erase_names_what_its_keys_still_open() {
    let host = Host::with_vm();
    fs::create_dir(host.path("ds")).unwrap();
    fs::rename(host.path("web01"), host.path("ds/web01")).unwrap();
    let vm = host.path("ds/web01");
    host.run(&["clone", vm, host.path("ds/same"), "--same-keys"]);
    host.run(&["clone", vm, host.path("elsewhere"), "--same-keys"]);
    host.run(&["clone", vm, host.path("ds/other")]);
    host.run(&["header", "backup", vm, host.path("ds/saved")]);
    host.run(&["header", "backup", host.path("ds/web01/root.raw"), host.path("backup")]);
    fs::copy(host.path("ds/saved"), host.path("ds/saved-too")).unwrap();
    let erased = |component: &'static str| {
        let evidence = json(&host.run(&["erase", "--yes", "--json", component]));
        evidence["elsewhere"]
            .as_array()
            .unwrap()
            .iter()
            .map(|place| place.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let names = |places: &[String], path: &str, what: &str| {
        places.iter().any(|place| place.contains(host.path(path)) && place.contains(what))
    };
    let of_disk = erased(host.path("ds/web01/root.raw"));
    assert!(names(&of_disk, "ds/same/root.raw", "the same data key"), "{of_disk:?}");
    assert!(names(&of_disk, "backup", "a header backup of"), "{of_disk:?}");
    assert!(!of_disk.iter().any(|place| place.contains(host.path("ds/saved"))), "that is of the home: {of_disk:?}");
    let of_vm = erased(vm);
    for (path, what) in [
        ("ds/same: ", "the same data key"),
        ("elsewhere", "a clone with the same keys of"),
        ("ds/saved: ", "a saved header"),
        ("ds/saved-too: ", "a saved header"),
    ] {
        assert!(names(&of_vm, path, what), "{path}: {of_vm:?}");
    }
    assert!(!of_vm.iter().any(|place| place.contains(host.path("ds/other"))), "{of_vm:?}");
}

#[test]
fn keys_of_a_provider_are_found_under_another_name_of_it() {
    let host = Host::with_vm();
    let vm = host.path("web01");
    let key = host.path("config/keys/local.key");
    let named = |name: &str| format!("[provider.{name}]\nkind = \"native\"\nprimary-key = {key:?}\n");
    host.configure(&format!("default = \"local\"\n{}{}", named("local"), named("second")));
    assert_eq!(users(&host, &["--provider", "second", vm]).len(), 2, "the same primary key");
    let key = key_of(&host, vm);
    assert_eq!(users(&host, &["--key", &format!("second/{key}"), vm]).len(), 2);

    host.run(&["provider", "add", "native", "third"]);
    let output = host.try_run(&["key", "in-use", "--provider", "third", vm]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("Not counted: keys of local"), "{said}");

    // A slot goes by any spelling that names one.
    host.run(&["key", "add", vm, "--provider", "third"]);
    let slots = json(&host.run(&["key", "list", "--json", vm]));
    let third = slots.as_array().unwrap().iter().find(|slot| slot["provider"] == "third").unwrap();
    let shown = format!("third/{}", third["key_id"].as_str().unwrap().to_uppercase());
    host.refuses(&["key", "remove", vm, "--provider", "third", "--key", "none"], 8, "no slot of provider third");
    assert!(host.run(&["key", "remove", vm, "--provider", "third", "--key", &shown]).contains("removed third/"));
}

#[test]
fn what_lost_its_home_is_named_by_mount_and_status() {
    let host = Host::with_vm();
    fs::create_dir(host.path("ds")).unwrap();
    let ds = host.path("ds");
    fs::rename(host.path("web01"), host.path("ds/web01")).unwrap();
    host.run(&["create", host.path("ds/web02")]);
    let mount = host.mount("ds", &[]);
    fs::create_dir(mount.path("web02/sub")).unwrap();
    fs::write(mount.path("web02/notes.txt"), "notes").unwrap();
    assert!(mount.status().get("headless").is_none());
    mount.unmount();

    fs::rename(host.path("ds/web02/vmcryptfs.home"), host.path("saved")).unwrap();
    let at = host.path("at");
    fs::create_dir(at).unwrap();
    let output = host.try_run(&["mount", "--log-file", host.path("log"), ds, at]);
    let said = String::from_utf8(output.stderr).unwrap();
    let status = json(&host.run(&["status", "--json", at]));
    let for_people = host.run(&["status", at]);
    let below = host.run(&["status", host.path("ds/web02")]);
    host.run(&["umount", at]);
    assert!(output.status.success() && said.trim().lines().count() == 1, "{said}");
    assert!(said.contains("1 folder with encrypted files is not shown") && said.contains("missing: web02 "), "{said}");
    assert_eq!(status["headless"], serde_json::json!(["web02"]), "{status}");
    for said in [for_people, below] {
        assert!(said.contains("web02: encrypted files, but no home header here or above"), "{said}");
    }
}

#[test]
fn a_link_to_another_vm_is_not_a_vm_folder_within_this_one() {
    let host = Host::with_vm();
    host.run(&["create", host.path("web02")]);
    host.run(&["create", host.path("inner")]);
    std::os::unix::fs::symlink(host.path("web02"), host.path("web01/other")).unwrap();
    let nested = || {
        let found = json(&String::from_utf8(host.try_run(&["check", "--json", host.path("web01")]).stdout).unwrap());
        let found = found.as_array().unwrap().clone().into_iter();
        let nested = found.filter(|finding| finding["result"].as_str().unwrap().contains("a VM folder within"));
        nested.map(|finding| finding["path"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(nested().is_empty(), "{:?}", nested());
    assert!(!host.run(&["info", host.path("web01")]).contains("a VM folder within"));
    // But what lies within what the link leads to is nested there.
    fs::rename(host.path("inner"), host.path("web02/inner")).unwrap();
    assert_eq!(nested(), [host.path("web01/other/inner")]);
}

#[test]
fn what_cannot_be_looked_at_is_named_where_all_shall_be_encrypted() {
    let host = Host::with_vm();
    let vm = host.path("web01");
    assert!(Command::new("mkfifo").arg(host.path("web01/fifo")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(host.path("web01/monitor")).unwrap();
    let said = host.run(&["check", "--only-clear", vm]);
    for words in ["not looked at  a fifo", "not looked at  a socket", "; not at 2 fifos, sockets or devices"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    std::os::unix::fs::symlink("/dev/null", host.path("web01/device")).unwrap();
    let output = host.try_run(&["check", "--only-clear", "--json", vm]);
    let found = json(&String::from_utf8(output.stdout).unwrap());
    let of_link: Vec<_> =
        found.as_array().unwrap().iter().filter(|found| found["path"] == host.path("web01/device")).collect();
    assert_eq!(
        (of_link[0]["state"].as_str(), of_link[1]["result"].as_str()),
        (Some("clear"), Some("a character device"))
    );
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn what_lies_in_the_clear_beside_disks_without_a_home_is_named() {
    let host = Host::new();
    fs::create_dir(host.path("ds")).unwrap();
    host.run(&["create", host.path("ds/vm")]);
    host.run(&["create-disk", host.path("ds/vm/root.raw"), "--size", "1M"]);
    fs::remove_file(host.path("ds/vm/vmcryptfs.home")).unwrap();
    fs::write(host.path("ds/vm/notes.txt"), "secret").unwrap();
    fs::create_dir(host.path("out")).unwrap();
    fs::write(host.path("out/plain"), "secret").unwrap();
    std::os::unix::fs::symlink(host.path("out/plain"), host.path("ds/vm/link")).unwrap();
    let ds = host.path("ds");
    for said in [host.run(&["check", ds]), host.run(&["info", ds])] {
        assert!(said.contains("ds/vm/notes.txt") && said.contains("in the clear: file"), "{said}");
    }
    let clear = host.try_run(&["check", "--only-clear", ds]);
    let said = String::from_utf8_lossy(&clear.stdout);
    assert!(said.contains("in the clear: a symbolic link; it leads to what is in the clear: file"), "{said}");
    assert!(said.matches("ds/vm/link").count() == 1 && said.contains("notes.txt"), "{said}");
    let mount = host.mount("ds", &["--empty"]);
    let status = mount.status().to_string();
    assert!(status.contains("vm/notes.txt") && status.contains("headless"), "{status}");
    mount.unmount();
}

#[test]
fn a_check_of_data_says_what_was_there_to_read() {
    let host = Host::new();
    host.run(&["create", host.path("vm")]);
    assert!(host.run(&["check", "--data", host.path("vm")]).contains("it has no other files with content"));
    fs::write(host.path("vm/empty"), "").unwrap();
    let said = host.run(&["check", "--data", host.path("vm")]);
    assert!(
        said.contains("; 1 file is empty, so there is nothing in it to prove") && !said.contains("genuine:"),
        "{said}"
    );
}
