//! Hosts that share a native provider, as their administrators meet it: each has its own configuration and a folder in common.

use std::fs;

use crate::host::Host;

/// A host without providers.
fn bare() -> Host {
    Host::configured("")
}

/// The administrator's key, and what opens it.
struct Admin {
    key: &'static str,
    passphrase: &'static str,
}

impl Admin {
    fn args<'v>(&self, verb: &[&'v str]) -> Vec<&'v str> {
        let key = ["--admin-key", self.key, "--passphrase-file", self.passphrase];
        [&["cluster"], verb, &key].concat()
    }

    fn run(&self, host: &Host, verb: &[&str]) -> String {
        host.run(&self.args(verb))
    }
}

fn states(host: &Host) -> Vec<(String, String)> {
    let status: serde_json::Value = serde_json::from_str(&host.run(&["cluster", "status", "--json"])).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut states: Vec<_> =
        status["hosts"].as_array().unwrap().iter().map(|host| (text(&host["name"]), text(&host["state"]))).collect();
    states.sort();
    states
}

#[test]
fn a_vm_of_one_host_opens_on_another_until_that_is_removed() {
    let (first, second) = (bare(), bare());
    let board = first.path("board");
    fs::create_dir(board).unwrap();
    fs::write(first.path("passphrase"), "correct horse\n").unwrap();
    let admin = Admin { key: first.path("admin.key"), passphrase: first.path("passphrase") };
    let place = format!("folder:{board}");

    first.refuses(&["cluster", "status"], 8, "this host is in no cluster");
    admin.run(&first, &["init", "prod", "--board", &place, "--name", "kvm1"]);
    let status = first.run(&["cluster", "status"]);
    assert!(!status.contains("TO DO"), "{status}");
    second.refuses(&["cluster", "join"], 2, "nothing was given, expected the line that `vmcryptfs cluster token");
    first.run(&["provider", "add", "native", "shared"]);
    admin.run(&first, &["share", "shared"]);
    first.run(&["create", first.path("web01")]);
    first.run(&["create-disk", first.path("web01/root.raw"), "--size", "1M"]);
    let mount = first.mount("web01", &[]);
    fs::write(mount.path("root.raw"), [7; 4096]).unwrap();
    mount.unmount();

    fs::write(second.path("token"), admin.run(&first, &["token"])).unwrap();
    second.run(&["cluster", "join", "--token-file", second.path("token"), "--name", "kvm2"]);
    assert!(!fs::exists(second.path("config/keys/shared.key")).unwrap());
    let approved = admin.run(&first, &["approve", "kvm2"]);
    assert!(approved.contains("shared: sealed its primary key to host kvm2"), "{approved}");
    assert!(second.run(&["cluster", "sync"]).contains("shared: received primary key"));
    let ready = |name: &str| (name.to_owned(), "ready".to_owned());
    assert_eq!(states(&first), [ready("kvm1"), ready("kvm2")]);
    let mount = second.mount(first.path("web01"), &[]);
    assert_eq!(fs::read(mount.path("root.raw")).unwrap()[..4096], [7; 4096]);
    mount.unmount();

    first.refuses(&admin.args(&["approve", "kvm2"]), 9, "is a member of the cluster already, since document");
    second.refuses(
        &admin.args(&["remove", "kvm2"]),
        2,
        "refusing to remove kvm2, which is this host, without confirmation",
    );
    admin.run(&first, &["remove", "kvm2"]);
    let removed = |state: &str| [ready("kvm1"), ("kvm2".to_owned(), state.to_owned())];
    assert_eq!(states(&first), removed("removed"));
    assert!(second.run(&["cluster", "sync"]).contains("shared: wiped primary key"));
    assert_eq!(states(&first), removed("wiped"));
    second.refuses(&["check", first.path("web01/root.raw")], 4, "1 of 1 component has a problem");
    let why = second.try_run(&["check", first.path("web01/root.raw")]);
    let why = String::from_utf8_lossy(&why.stdout);
    assert!(why.contains("was wiped, as the cluster of this host asked") && !why.contains("backup"), "{why}");
    let list = second.try_run(&["provider", "list"]);
    assert!(String::from_utf8_lossy(&list.stderr).contains("was wiped, as the cluster of this host asked"), "{list:?}");
    first.run(&["check", first.path("web01/root.raw")]);

    let key = fs::read(first.path("config/keys/shared.key")).unwrap();
    let leaked = |bytes: &[u8]| bytes.windows(32).any(|window| *window == key[32..64]);
    let records = walk(board).into_iter().map(|path| fs::read(path).unwrap());
    assert!(!records.into_iter().any(|record| leaked(&record)), "the board has a primary key in the clear");
    let told = |host: &Host, operation: &str| {
        host.events().iter().filter(|event| event["operation"] == operation && event["result"] == "ok").count()
    };
    assert_eq!(
        (told(&second, "cluster-join"), told(&second, "cluster-sync")),
        (1, 2),
        "received, wiped; the first host says that it has the key"
    );
    assert_eq!((told(&first, "cluster-approve"), told(&first, "cluster-remove")), (1, 1));
}

fn walk(folder: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(path.to_str().unwrap()) } else { vec![path] }).collect()
}

/// A VM gets a key of the new generation while it is in use, and the former one ends on both hosts.
#[test]
fn a_primary_key_is_rotated_and_the_former_one_retired_while_a_vm_runs() {
    let (first, second) = (bare(), bare());
    let (board, vms) = (first.path("board"), first.path("vms"));
    fs::create_dir(board).unwrap();
    fs::create_dir(vms).unwrap();
    fs::write(first.path("passphrase"), "correct horse\n").unwrap();
    let admin = Admin { key: first.path("admin.key"), passphrase: first.path("passphrase") };
    admin.run(&first, &["init", "prod", "--board", &format!("folder:{board}"), "--name", "kvm1"]);
    first.run(&["provider", "add", "native", "shared"]);
    admin.run(&first, &["share", "shared"]);
    fs::write(second.path("token"), admin.run(&first, &["token"])).unwrap();
    second.run(&["cluster", "join", "--token-file", second.path("token"), "--name", "kvm2"]);
    admin.run(&first, &["approve", "kvm2"]);
    second.run(&["cluster", "sync"]);
    let vm = first.path("vms/web01");
    first.run(&["create", vm]);
    first.run(&["create-disk", first.path("vms/web01/root.raw"), "--size", "1M"]);
    let mount = second.mount(vm, &[]);
    fs::write(mount.path("root.raw"), [7; 4096]).unwrap();

    for host in [&first, &second] {
        host.run(&["dump", "setup", "--provider", "shared"]);
    }
    let rotated = admin.run(&first, &["rotate", "shared"]);
    assert!(rotated.contains("generation 2 of provider shared is primary key"), "{rotated}");
    let retire = admin.args(&["retire", "shared", "--datastore", vms]);
    let old = ["rekey", "--old-generations", vms];
    first.refuses(&old, 7, "generation 2 of shared is not confirmed yet by kvm2");
    // Before anything is looked at: a VM that a host makes in the meantime would be lost.
    first.refuses(&retire, 7, "did not confirm to make new keys of provider shared");
    second.run(&["cluster", "sync"]);
    let current = first.run(&["cluster", "sync"]);
    assert!(current.contains("shared: new keys are made by primary key"), "{current}");
    first.refuses(&retire, 7, "the host key of this host needs it");
    first.run(&["dump", "setup", "--renew"]);
    first.refuses(&retire, 7, "a former primary key is needed by");
    // What each host says that it has decides which of them can open what.
    let found: serde_json::Value =
        serde_json::from_str(&first.run(&["key", "in-use", "--provider", "shared", vms, "--json"])).unwrap();
    let hosts = found["components"][0]["hosts"].as_array().unwrap();
    let mut names: Vec<&str> = hosts.iter().map(|host| host["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["kvm1", "kvm2"]);
    let rekeyed = second.run(&["rekey", "--old-generations", vms]);
    assert!(rekeyed.contains("1 VM had a key of a former primary key"), "{rekeyed}");
    assert!(second.run(&["rekey", "--old-generations", vms]).contains("0 VMs had keys"));
    fs::write(mount.path("root.raw"), [8; 4096]).unwrap();
    first.run(&retire);
    let kept = second.try_run(&["cluster", "sync"]);
    assert!(String::from_utf8_lossy(&kept.stderr).contains("the host key of this host needs it"), "{kept:?}");
    second.run(&["dump", "setup", "--renew"]);
    assert!(second.run(&["cluster", "sync"]).contains("shared: wiped primary key"));
    fs::write(mount.path("root.raw"), [9; 4096]).unwrap();
    mount.unmount();
    let mount = first.mount(vm, &[]);
    assert_eq!(fs::read(mount.path("root.raw")).unwrap()[..4096], [9; 4096]);
    mount.unmount();
    for host in [&first, &second] {
        assert!(walk(host.path("config/keys/shared.former")).is_empty());
    }
}

/// A rekey of keys leaves the data keys, which a host that was compromised may have: that is said until a deep rekey ends it.
#[test]
fn data_keys_that_a_compromised_host_could_read_are_named_until_they_are_replaced() {
    let (first, second) = (bare(), bare());
    let (board, vms, vm) = (first.path("board"), first.path("vms"), first.path("vms/web 01"));
    fs::create_dir(board).unwrap();
    fs::create_dir(vms).unwrap();
    fs::write(first.path("passphrase"), "correct horse\n").unwrap();
    let admin = Admin { key: first.path("admin.key"), passphrase: first.path("passphrase") };
    admin.run(&first, &["init", "prod", "--board", &format!("folder:{board}"), "--name", "kvm1"]);
    // Headers have the former name of the provider, which the cluster does not know.
    first.run(&["provider", "add", "native", "former"]);
    let other = first.path("vms/other");
    first.run(&["create", other]);
    first.run(&["provider", "rename", "former", "shared"]);
    admin.run(&first, &["share", "shared"]);
    fs::write(second.path("token"), admin.run(&first, &["token"])).unwrap();
    second.run(&["cluster", "join", "--token-file", second.path("token"), "--name", "kvm2"]);
    admin.run(&first, &["approve", "kvm2"]);
    first.run(&["create", vm]);
    second.run(&["cluster", "sync"]);
    admin.run(&first, &["remove", "kvm2", "--compromised"]);
    second.run(&["cluster", "sync"]);
    // Before anything is done: a rekey may end in the middle, and the next one finds new keys.
    let status = || first.run(&["cluster", "status"]);
    let of_other = format!("`vmcryptfs rekey --deep {other}`");
    first.refuses(&["rekey", other, "--provider", "nowhere"], 8, "no key provider nowhere");
    assert!(status().contains(&of_other), "{}", status());
    // Without the board as well.
    let away = first.path("away");
    fs::rename(board, away).unwrap();
    let rekeyed = first.try_run(&["rekey", other]);
    let said = String::from_utf8_lossy(&rekeyed.stderr).into_owned();
    assert!(rekeyed.status.success() && said.contains("kvm2 could read them") && said.contains(&of_other), "{said}");
    fs::rename(away, board).unwrap();
    // One of the VMs was rekeyed by itself.
    first.run(&["create", first.path("vms/new")]);
    let rekeyed = first.try_run(&["rekey", "--old-generations", vms]);
    let said = String::from_utf8_lossy(&rekeyed.stderr).into_owned();
    let advice = format!("`vmcryptfs rekey --deep '{vm}'`");
    assert!(said.contains("kvm2 could read them") && said.contains(&advice) && !said.contains("vms/new"), "{said}");
    let retire = admin.args(&["retire", "shared", "--datastore", vms]);
    first.refuses(&retire, 7, "2 VMs still have data keys that kvm2 could read");
    first.run(&["rekey", "--deep", other]);
    first.refuses(&retire, 7, &format!("1 VM still has data keys that kvm2 could read: {advice}"));
    assert!(status().contains(&advice), "{}", status());
    first.run(&["rekey", "--deep", vm]);
    assert!(!status().contains("data keys"), "{}", status());
    first.run(&retire);
    assert!(!status().contains("TO DO"), "{}", status());

    // What hosts have said is lost with the board, but not that one has wiped its keys.
    fs::remove_dir_all(board).unwrap();
    fs::create_dir(board).unwrap();
    first.refuses(&["cluster", "status"], 8, "`vmcryptfs cluster accept-board --admin-key FILE`");
    admin.run(&first, &["accept-board"]);
    first.run(&["cluster", "sync"]);
    assert!(status().contains("removed, keys wiped") && !status().contains("TO DO"), "{}", status());
}

#[test]
fn a_cluster_of_one_makes_keys_by_a_new_primary_key_at_once_and_says_only_that() {
    let host = bare();
    fs::create_dir(host.path("board")).unwrap();
    fs::write(host.path("passphrase"), "correct horse\n").unwrap();
    let admin = Admin { key: host.path("admin.key"), passphrase: host.path("passphrase") };
    admin.run(&host, &["init", "prod", "--board", &format!("folder:{}", host.path("board")), "--name", "kvm1"]);
    host.run(&["provider", "add", "native", "shared"]);
    admin.run(&host, &["share", "shared"]);
    let rotated = host.try_run(&admin.args(&["rotate", "shared"]));
    let (out, err) = (String::from_utf8_lossy(&rotated.stdout), String::from_utf8_lossy(&rotated.stderr));
    assert!(out.contains("new keys are made by") && !err.contains("New keys are made by it once"), "{out}{err}");
}

/// A host that joins may have a provider of the name that the cluster's has, and VMs with keys of it.
#[test]
fn a_provider_of_the_clusters_name_is_renamed_and_its_vms_open_beside_those_of_the_cluster() {
    let (first, second) = (bare(), bare());
    let (board, theirs, own) = (first.path("board"), first.path("vms/theirs"), second.path("own"));
    fs::create_dir(board).unwrap();
    fs::create_dir(first.path("vms")).unwrap();
    fs::write(first.path("passphrase"), "correct horse\n").unwrap();
    let admin = Admin { key: first.path("admin.key"), passphrase: first.path("passphrase") };
    admin.run(&first, &["init", "prod", "--board", &format!("folder:{board}"), "--name", "kvm1"]);
    first.run(&["provider", "add", "native", "shared"]);
    admin.run(&first, &["share", "shared"]);
    first.refuses(
        &["provider", "rename", "shared", "mine"],
        7,
        "the cluster prod shares provider shared under this name",
    );
    first.run(&["create", theirs]);
    second.run(&["provider", "add", "native", "shared"]);
    second.run(&["create", own]);
    fs::write(second.path("token"), admin.run(&first, &["token"])).unwrap();
    second.run(&["cluster", "join", "--token-file", second.path("token"), "--name", "kvm2"]);
    admin.run(&first, &["approve", "kvm2"]);
    let refused = second.try_run(&["cluster", "sync"]);
    let (out, err) = (String::from_utf8_lossy(&refused.stdout), String::from_utf8_lossy(&refused.stderr));
    assert!(refused.status.code() == Some(9) && err.contains("`vmcryptfs provider rename shared NEW_NAME`"), "{err}");
    assert!(!out.contains("has done what"), "{out}");
    let status = first.run(&["cluster", "status"]);
    assert!(
        status.contains("kvm2 is behind: it lacks keys of shared, which lie on the board, sealed to it"),
        "{status}"
    );
    second.run(&["provider", "rename", "shared", "mine"]);
    second.run(&["check", own]);
    assert!(second.run(&["cluster", "sync"]).contains("shared: received primary key"));
    second.run(&["check", own]);
    second.run(&["check", theirs]);
    assert!(second.run(&["key", "list", own]).contains("active"));
    let in_use = second.run(&["key", "in-use", "--provider", "mine", second.path("own")]);
    assert!(in_use.contains("own"), "{in_use}");
    // Without another provider that is named, the VM stays with its own.
    assert!(second.run(&["rekey", own]).contains("New key: mine/"));
    second.run(&["check", own]);
}
