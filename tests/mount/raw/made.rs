//! `create-disk x.vmdk`, and VMDKs in `info`.

use std::fs;

use serde_json::Value;

use super::tools::run;
use crate::host::Host;

fn info(host: &Host) -> Value {
    let printed: Value = serde_json::from_str(&host.run(&["info", "--json", host.path("web01")])).unwrap();
    printed[0].clone()
}

#[test]
fn create_disk_makes_a_vmdk_that_qemu_opens() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/my data.vmdk"), "--size", "20G"]);
    let stored = fs::read(host.path("web01/my data.vmdk")).unwrap();
    assert!(!stored.windows(10).any(|window| window == b"createType"), "the descriptor is in the clear");
    let mount = host.mount("web01", &[]);
    let text = fs::read_to_string(mount.path("my data.vmdk")).unwrap();
    assert!(text.contains("RW 41943040 FLAT \"my data-flat.vmdk\" 0"), "{text}");
    let commands = ["-c", "write -P 5 19G 64k", "-c", "read -P 5 19G 64k", "-c", "read -P 0 0 64k"];
    run(mount.root(), "qemu-io", &[&["-f", "vmdk", "-t", "none"], &commands[..], &["my data.vmdk"]].concat());
    run(mount.root(), "qemu-io", &["-f", "raw", "-c", "read -P 5 19G 64k", ".raw/my data.raw"]);
    mount.unmount();
    host.refuses(&["create-disk", host.path("web01/my data.vmdk"), "--size", "1G"], 9, "exists");
    host.refuses(&["create-disk", host.path("web01/odd.vmdk"), "--size", "1000B"], 2, "multiple of 512");
    fs::write(host.path("web01/taken-flat.vmdk"), "").unwrap();
    host.refuses(&["create-disk", host.path("web01/taken.vmdk"), "--size", "1G"], 9, "taken-flat.vmdk exists");
    assert!(
        !fs::exists(host.path("web01/odd-flat.vmdk")).unwrap() && !fs::exists(host.path("web01/taken.vmdk")).unwrap()
    );
    host.run(&["create-disk", host.path("web01/x-s001.vmdk"), "--size", "1M"]);
    assert!(!fs::exists(host.path("web01/x-s001-flat.vmdk")).unwrap(), "an extent's name is a disk's own");
}

#[test]
fn info_lists_vmdks_extents_chain_and_home_files() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/base.vmdk"), "--size", "64M"]);
    let mount = host.mount("web01", &[]);
    for (child, parent) in [("one.vmdk", "base.vmdk"), ("two.vmdk", "one.vmdk")] {
        run(mount.root(), "qemu-img", &["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", parent, child]);
    }
    let text = "version=1\nCID=1\ncreateType=\"custom\"\nRW 9 FLAT \"gone.vmdk\" 0\nRDONLY 7 ZERO\n";
    fs::write(mount.path("mixed.vmdk"), text).unwrap();
    fs::write(mount.path("bad.vmdk"), "# Disk DescriptorFile\nversion=1\nCID=?\n").unwrap();
    let settings = "scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"two.vmdk\"\n";
    fs::write(mount.path("web01.vmx"), settings).unwrap();
    mount.unmount();

    let home = info(&host);
    let vmdks = home["vmdks"].as_array().unwrap();
    let named = |name: &str| vmdks.iter().find(|vmdk| vmdk["name"] == name).unwrap();
    assert_eq!(vmdks.len(), 5);
    let base = named("base.vmdk");
    assert_eq!((&base["create_type"], &base["writable"]), (&"monolithicFlat".into(), &true.into()));
    assert_eq!(base["raw_image"], ".raw/base.raw");
    let extent = serde_json::json!({"size": 64 << 20, "access": "RW", "type": "FLAT", "file": "base-flat.vmdk", "stored_as": "disk"});
    assert_eq!(base["extents"], Value::from(vec![extent]));
    let two = named("two.vmdk");
    assert_eq!((&two["parents"], &two["attached"]), (&vec!["one.vmdk", "base.vmdk"].into(), &vec!["scsi0:1"].into()));
    assert_eq!((&two["writable"], &two["extents"][0]["stored_as"]), (&false.into(), &"disk".into()));
    let mixed = &named("mixed.vmdk")["extents"];
    assert_eq!((&mixed[0]["stored_as"], &mixed[1]["stored_as"]), (&"missing".into(), &"nothing".into()));
    assert!(named("bad.vmdk")["problem"].as_str().unwrap().contains("createType"), "{}", named("bad.vmdk"));
    let files = home["home_files"].as_array().unwrap();
    let vmx = files.iter().find(|file| file["path"] == "web01.vmx").unwrap();
    assert_eq!((&vmx["what"], &vmx["size"]), (&"settings".into(), &settings.len().into()));

    let table = host.run(&["info", host.path("web01")]);
    for line in [
        "two.vmdk    64 MiB  monolithicSparse  one.vmdk, base.vmdk  scsi0:1   .raw/two.raw (ro)",
        "HOME FILE",
        "STORED AS",
    ] {
        assert!(table.contains(line), "{line} is not in\n{table}");
    }
    fs::rename(host.path("web01/base-flat.vmdk"), host.path("web01/moved.raw")).unwrap();
    let first = info(&host)["vmdks"][1].clone();
    assert_eq!((&first["name"], &first["extents"][0]["stored_as"]), (&"base.vmdk".into(), &"missing".into()));
}

#[test]
fn info_without_the_key_shows_the_rest_and_says_so() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/base.vmdk"), "--size", "64M"]);
    let other = Host::new();
    fs::rename(host.path("web01"), other.path("web01")).unwrap();
    let printed = other.try_run(&["info", "--json", other.path("web01")]);
    assert!(printed.status.success());
    let home: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert!(home[0]["vmdks"].is_null() && home[0]["locked"].as_str().unwrap().contains("local"), "{home}");
    assert_eq!(home[0]["home_files"][0]["path"], "base.vmdk");
    let said = other.try_run(&["info", other.path("web01")]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("The home is locked"));
    assert!(String::from_utf8_lossy(&said.stdout).contains("base-flat.vmdk"));
}
