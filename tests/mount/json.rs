//! What `--json` of each verb has, as docs/CLI.md promises it to scripts.

use std::fs;

use serde_json::Value;

use crate::host::Host;

/// Runs a verb with `--json`, expects that its last line, or all of it, is one value, and that it has these fields.
fn fields(host: &Host, args: &[&str], fields: &[&str]) -> Value {
    let printed = host.run(&[args, &["--json"]].concat());
    let parsed = serde_json::from_str(&printed).or_else(|_| serde_json::from_str(printed.lines().last().unwrap()));
    let value: Value = parsed.unwrap_or_else(|error| panic!("{args:?}: {error}: {printed}"));
    let one = if value.is_array() { &value[0] } else { &value };
    for field in fields {
        assert!(one.get(field).is_some(), "{args:?} has no {field}: {value}");
    }
    value
}

#[test]
fn conversions_and_changes_of_keys_print_what_is_documented() {
    let host = Host::new();
    host.run(&["provider", "add", "native", "escrow"]);
    let vm = host.path("web01");
    fs::create_dir(vm).unwrap();
    fs::write(host.path("web01/web01.vmx"), "displayName = \"web01\"\n").unwrap();
    fs::write(host.path("web01/root.raw"), vec![7; 1 << 20]).unwrap();
    let plan = ["folder", "home", "home_after", "files", "space_needed", "space_free", "notes", "done"];
    let planned = fields(&host, &["encrypt", vm, "--dry-run"], &plan);
    assert_eq!(
        (&planned["done"], &planned["home"], &planned["home_after"]),
        (&false.into(), &"clear".into(), &"encrypted".into())
    );
    let encrypted = fields(&host, &["encrypt", vm], &[&plan[..], &["remains"]].concat());
    assert_eq!((&encrypted["done"], encrypted["files"].as_array().unwrap().len()), (&true.into(), 2));
    for file in encrypted["files"].as_array().unwrap() {
        assert!(
            ["path", "kind", "detail", "size", "allocated"].iter().all(|field| file.get(field).is_some()),
            "{file}"
        );
        assert_eq!(file["action"], "encrypt");
    }
    let cloned = ["source", "destination", "uuid", "key", "same_keys", "disks", "bytes", "in_the_clear", "notes"];
    assert_eq!(fields(&host, &["clone", vm, host.path("web02")], &cloned)["disks"], 1);
    let rekeyed = fields(&host, &["rekey", vm], &["key", "resumed", "components"]);
    assert!(rekeyed["components"][0]["former_key"]["key_id"].is_string(), "{rekeyed}");
    let rekeyed = fields(&host, &["rekey", "--deep", vm], &["key", "resumed", "components"]);
    assert_eq!(rekeyed["components"][0]["done_now"], true);
    let disk = host.path("web01/root.raw");
    let added = fields(&host, &["key", "add", disk, "--provider", "escrow"], &["components"]);
    assert_eq!(
        (&added["components"][0]["slots"], &added["components"][0]["key"]["provider"]),
        (&2.into(), &"escrow".into())
    );
    fields(&host, &["key", "list", disk], &["path", "kind", "uuid", "slot", "provider", "key_id", "state"]);
    let in_use = fields(&host, &["key", "in-use", "--provider", "escrow", vm], &["components", "unreadable"]);
    assert_eq!(in_use["components"][0]["lost"], false);
    let saved = host.path("saved");
    host.run(&["header", "backup", disk, saved]);
    fields(&host, &["header", "restore", disk, saved], &["path", "kind", "uuid", "changed", "keys_back", "keys_gone"]);
    fields(&host, &["key", "remove", disk, "--provider", "escrow"], &["components"]);
    assert_eq!(
        fields(&host, &["check", vm], &["path", "kind", "uuid", "state", "result"]).as_array().unwrap().len(),
        2
    );
    assert_eq!(fields(&host, &["decrypt", vm, "--all"], &plan)["home_after"], "clear");
    assert_eq!(fs::read(disk).unwrap(), vec![7; 1 << 20]);
    let erased = fields(&host, &["erase", "--yes", host.path("web02")], &["components", "elsewhere"]);
    assert!(erased["components"][0]["copies"][1]["sha256_after"].is_string(), "{erased}");
}

#[test]
fn what_is_shown_is_printed_as_documented() {
    let host = Host::with_vm();
    let info = ["path", "kind", "uuid", "cipher", "sequence", "label", "keys", "other_copy"];
    let disk = ["sector_size", "data_offset", "size", "allocated"];
    fields(&host, &["info", host.path("web01/root.raw")], &[&info[..], &disk].concat());
    fields(&host, &["info", host.path("web01")], &[&info[..], &["home_files", "vmdks"]].concat());
    fields(&host, &["provider", "list"], &["name", "kind", "default", "backed_up", "primary_key", "error"]);
    let mount = host.mount("web01", &[]);
    let at = mount.root().display().to_string();
    for verb in ["status", "lock", "unlock"] {
        let shown = fields(&host, &[verb, &at], &["pid", "components", "notices"]);
        let component = &shown["components"][0];
        assert!(
            ["path", "kind", "unlocked", "uuid", "keys"].iter().all(|field| component.get(field).is_some()),
            "{shown}"
        );
        assert_eq!(component.get("reason").is_some(), verb == "lock", "{shown}");
    }
    mount.unmount();
    for event in host.events() {
        assert!(
            ["time", "user", "pid", "operation", "result"].iter().all(|field| event.get(field).is_some()),
            "{event}"
        );
    }
}
