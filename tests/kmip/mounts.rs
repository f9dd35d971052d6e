//! Mounts whose keys come from key servers: what happens to them when servers are lost, hang, refuse, and come back.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use data_encoding::{BASE64, BASE64URL};
use serde_json::Value;
use vmcryptfs::key::KeyId;
use vmcryptfs::provider::{KeyProvider, Revocation};
use vmcryptfs::vm::folder;

use crate::certificates::{Authority, Issued, Purpose};
use crate::fake_server::{FakeServer, Fault};
use crate::fake_store::Store;
use crate::host::{Host, Mount};
use crate::pykmip::PyKmip;
use crate::site::{Site, corp};
use crate::testkit::datastore::{self, make_disk};

/// More than any single step takes on a busy machine; the times that count are printed.
const SOON: Duration = Duration::from_secs(20);

/// What mounting a hundred components may take, and what a member that is dead or hangs may add.
const QUICK: Duration = Duration::from_secs(2);

pub(crate) fn providers(site: &Site, ports: &[u16], client: &Issued, more: &str) -> String {
    let config = site.configure(ports, client, more);
    format!("default = \"corp\"\n{}", fs::read_to_string(config).unwrap())
}

/// Makes the VM folder `name` in the datastore `vms`, with this many disks.
pub(crate) fn make_vm(host: &Host, provider: &Arc<dyn KeyProvider>, name: &str, disks: usize) {
    let vm = Path::new(host.path("vms")).join(name);
    let key = &datastore::make_vm(&vm, provider).slots[0].key_id;
    (0..disks).for_each(|number| make_disk(&vm.join(format!("{number}.raw")), provider, key));
}

/// The key of a VM folder in the datastore `vms`.
pub(crate) fn key_of(host: &Host, name: &str) -> KeyId {
    let dir = folder::open_dir(Path::new(host.path(&format!("vms/{name}")))).unwrap();
    folder::read_home(&dir).unwrap().unwrap().header.claims().slots[0].key_id.clone()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (work(), start.elapsed())
}

/// All that a verb prints with `-vv`, however it ends.
fn says(host: &Host, args: &[&str]) -> String {
    let output = host.try_run(&[&["-vv"][..], args].concat());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Components of a mount, and of them those that are unlocked.
fn count(mount: &Mount<'_>) -> (usize, usize) {
    let status = mount.status();
    let components = status["components"].as_array().unwrap();
    (components.len(), components.iter().filter(|component| component["unlocked"] == true).count())
}

/// The reason why a component is locked.
fn reason(mount: &Mount<'_>, path: &str) -> String {
    let status = mount.status();
    let found = status["components"].as_array().unwrap().iter().find(|component| component["path"] == path);
    let component = found.unwrap_or_else(|| panic!("no component {path} in {status}"));
    assert_eq!(component["unlocked"], false, "{component}");
    component["reason"].as_str().unwrap().to_owned()
}

fn errno_of_opening(path: &Path) -> Option<i32> {
    File::open(path).err().and_then(|error| error.raw_os_error())
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        thread::sleep(Duration::from_millis(100));
    }
    start.elapsed()
}

/// Events of this operation and vSphere id.
fn events(host: &Host, operation: &str, vsphere: &str) -> Vec<Value> {
    let wanted = |event: &Value| event["operation"] == operation && event["vsphere_event"] == vsphere;
    host.events().into_iter().filter(wanted).collect()
}

const NO_SERVER: &str = "com.vmware.vc.kms.crypto.SendKeyError.KMSClusterError";
const NO_KEY: &str = "com.vmware.vc.kms.crypto.SendKeyError.KeyMissingOnKMS";
const VM_LOCKED: &str = "com.vmware.vc.vm.Crypto.VMLocked.KMSClusterError";

#[test]
fn members_are_lost_hang_and_come_back_under_a_mount() {
    let site = Site::new();
    let (mut first, second) = (PyKmip::start(&site, "keys"), PyKmip::start(&site, "keys"));
    let times = "request-timeout-ms = 2000\ntotal-timeout-ms = 6000";
    let host = Host::configured(&providers(&site, &[first.port(), second.port()], &site.host, times));
    let provider = corp(&site.path("config.toml")).unwrap();
    (0..20).for_each(|number| make_vm(&host, &provider, &format!("vm{number}"), 4));

    let (mount, healthy) = mount_a_hundred(&host, QUICK);
    mount.unmount();
    first.hang();
    let (mount, hanging) = mount_a_hundred(&host, healthy + QUICK);
    mount.unmount();
    first.kill();
    let (mount, dead) = mount_a_hundred(&host, healthy + QUICK);
    println!("mounting 100 components: {healthy:.2?}; one of two members hangs: {hanging:.2?}; is dead: {dead:.2?}");

    losing_the_last_member_disturbs_no_guest(&host, &mount, &second);
    mount.unmount();

    second.hang();
    let (mount, none) = timed(|| host.mount("vms", &[]));
    println!("no member answers: mounted after {none:.2?}");
    assert!(none < SOON, "{none:?}");
    assert_eq!(count(&mount), (119, 0));
    assert_eq!(errno_of_opening(&mount.path("vm0/0.raw")), Some(libc::ENOKEY));
    eventually("the reason is known", || reason(&mount, "vm0").contains(&format!("127.0.0.1:{}", second.port())));
    let status = || host.run(&["status", &mount.root().display().to_string()]);
    assert!(status().contains("components are locked: ") && status().contains("\n  vm0\n"), "{}", status());
    eventually("what providers have to tell is shown", || status().contains("is set aside"));
    let told = reason(&mount, "vm0");
    assert_eq!(told.matches("is unavailable").count(), 1, "{told}");
    second.go_on();
    let back = eventually("unlocked without a command", || count(&mount) == (119, 119));
    println!("the last member is back: all unlocked after {back:.2?}");
    assert!(File::open(mount.path("vm0/0.raw")).is_ok());
    mount.unmount();
    assert!(!events(&host, "fetch-key", NO_SERVER).is_empty());
    assert!(!events(&host, "unlock", VM_LOCKED).is_empty());
    assert!(!events(&host, "unlock", "com.vmware.vc.vm.Crypto.VMUnlocked").is_empty());
}

/// Mounts within this time, with all unlocked. One time of three is enough: the machine may have been busy.
fn mount_a_hundred(host: &Host, within: Duration) -> (Mount<'_>, Duration) {
    let mut times = Vec::new();
    loop {
        let (mount, time) = timed(|| host.mount("vms", &[]));
        assert_eq!(count(&mount), (100, 100));
        if time < within {
            return (mount, time);
        }
        mount.unmount();
        times.push(time);
        assert!(times.len() < 3, "mounted in {times:.2?}, expected less than {within:.2?}");
    }
}

/// Reads and writes go on, and so does making disks in a VM whose key was active when its server was last asked.
fn losing_the_last_member_disturbs_no_guest(host: &Host, mount: &Mount<'_>, member: &PyKmip) {
    thread::sleep(Duration::from_secs(2)); // the mount asks for the state of its keys in the background
    let disk = File::options().read(true).write(true).open(mount.path("vm0/0.raw")).unwrap();
    member.hang();
    let over = AtomicBool::new(false);
    let (longest, making) = thread::scope(|scope| {
        let io = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let io = || {
                    disk.write_all_at(&[7; 4096], 8192).unwrap();
                    disk.sync_data().unwrap();
                    disk.read_exact_at(&mut [0; 4096], 8192).unwrap();
                };
                longest = longest.max(timed(io).1);
                thread::sleep(Duration::from_millis(5));
            }
            longest
        });
        let make = |number: usize| {
            let path = mount.path(&format!("vm{number}/new.raw"));
            move || fs::write(&path, "made while the server hangs").unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let (made, making) = timed(|| {
            let makers: Vec<_> = (1..20).map(|number| scope.spawn(make(number))).collect();
            let folder = scope.spawn(|| fs::create_dir(mount.path("vm99")));
            let made = makers.into_iter().all(|maker| maker.join().is_ok());
            // A new VM needs a new key.
            assert_eq!(folder.join().unwrap().unwrap_err().raw_os_error(), Some(libc::ENOKEY));
            made
        });
        over.store(true, Ordering::Relaxed);
        assert!(made);
        (io.join().unwrap(), making)
    });
    println!(
        "while no member answers: 19 disks and no VM made in {making:.2?}, longest I/O of another disk {longest:.2?}"
    );
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    member.go_on();
    assert_eq!(fs::read_to_string(mount.path("vm5/new.raw")).unwrap(), "made while the server hangs");
    eventually("it is told that keys wrap unasked", || host.log().contains("still wraps"));
}

#[test]
fn keys_that_were_revoked_or_destroyed_or_belong_to_others() {
    let site = Site::new();
    let server = PyKmip::start(&site, "keys");
    let host = Host::configured(&providers(&site, &[server.port()], &site.host, ""));
    let provider = corp(&site.path("config.toml")).unwrap();
    for name in ["good", "revoked", "compromised", "destroyed"] {
        make_vm(&host, &provider, name, 1);
    }
    provider.revoke_key(&key_of(&host, "revoked"), Revocation::Superseded).unwrap();
    provider.revoke_key(&key_of(&host, "compromised"), Revocation::Compromised).unwrap();
    provider.revoke_key(&key_of(&host, "destroyed"), Revocation::Ended).unwrap();
    provider.destroy_key(&key_of(&host, "destroyed")).unwrap();
    let other = site.ca.issue("host2", Purpose::Client);
    make_vm(&host, &corp(&site.configure(&[server.port()], &other, "")).unwrap(), "theirs", 1);

    let mount = host.mount("vms", &[]);
    assert_eq!(count(&mount), (10, 6));
    assert!(reason(&mount, "destroyed").contains("no such key"), "{}", reason(&mount, "destroyed"));
    assert!(reason(&mount, "theirs/0.raw").contains("permission denied"), "{}", reason(&mount, "theirs/0.raw"));
    // What was revoked still opens, but wraps nothing new.
    for name in ["revoked", "compromised"] {
        assert!(File::open(mount.path(&format!("{name}/0.raw"))).is_ok());
        let refused = fs::write(mount.path(&format!("{name}/new.raw")), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOKEY), "{name}");
    }
    fs::write(mount.path("good/new.raw"), "x").unwrap();
    mount.unmount();
    assert_eq!(events(&host, "fetch-key", NO_KEY).len(), 2);

    let wrong = Authority::new(&site.path("wrong"));
    for client in [wrong.issue("host1", Purpose::Client), site.ca.issue_expired("late", Purpose::Client)] {
        host.configure(&providers(&site, &[server.port()], &client, ""));
        let mount = host.mount("vms", &[]);
        assert_eq!(count(&mount).1, 0);
        assert!(reason(&mount, "good").contains("certificate"), "{}", reason(&mount, "good"));
        host.configure(&providers(&site, &[server.port()], &site.host, ""));
        host.refuses(&["unlock", &mount.root().display().to_string()], 4, "of 11 components remain locked");
        assert_eq!(count(&mount), (11, 7));
        mount.unmount();
    }
    assert!(!events(&host, "fetch-key", NO_SERVER).is_empty());
}

#[test]
fn slow_dripping_and_broken_members_cost_a_moment_and_no_key_is_ever_printed() {
    let site = Site::new();
    let store = Arc::new(Store::default());
    let (first, second) = (FakeServer::start(&site, &store), FakeServer::start(&site, &store));
    let host = Host::configured(&providers(
        &site,
        &[first.port(), second.port()],
        &site.host,
        "request-timeout-ms = 1000\ntotal-timeout-ms = 2500",
    ));
    let provider = corp(&site.path("config.toml")).unwrap();
    ["a", "b"].into_iter().for_each(|name| make_vm(&host, &provider, name, 2));
    let mut printed = says(&host, &["provider", "test", "corp"]);
    assert_eq!(printed.matches("expires in ").count(), 3, "this host's certificate, and both servers': {printed}");
    let folder = host.path("vms/a");
    for verb in [&["info"][..], &["check"], &["rekey"], &["key", "list"], &["key", "add"]] {
        printed += &says(&host, &[verb, &[folder]].concat());
    }
    for fault in [Fault::Late(Duration::from_millis(300)), Fault::Drip, Fault::Garbage, Fault::NoTls, Fault::Refuse(1)]
    {
        first.set(fault);
        let (mount, time) = timed(|| host.mount("vms", &["-vv"]));
        assert_eq!(count(&mount), (6, 6), "{fault:?}");
        println!("mounting 6 components, {fault:?} of one of two members: {time:.2?}");
        mount.unmount();
        second.set(fault);
        let mount = host.mount("vms", &["-vv"]);
        let all = usize::from(matches!(fault, Fault::Late(_))) * 6;
        eventually("decided", || count(&mount) == (6, all) && !mount.status().to_string().contains("has not come yet"));
        printed += &mount.status().to_string();
        printed += &says(&host, &["unlock", &mount.root().display().to_string()]);
        [&first, &second].into_iter().for_each(|member| member.set(Fault::None));
        host.run(&["unlock", &mount.root().display().to_string()]);
        assert_eq!(count(&mount), (6, 6));
        mount.unmount();
    }
    printed += &(host.log() + &host.run(&["events"]) + &host.run(&["events", "--json"]));
    assert!(printed.contains(NO_SERVER), "{printed}");
    for key in store.keys.lock().iter() {
        let hex: String = key.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal = format!("{:?}", &key.bytes[..8]);
        let base64 = [BASE64.encode(&key.bytes), BASE64URL.encode(&key.bytes)].map(|text| text[..40].to_owned());
        let forms = [hex.to_uppercase(), hex, decimal.trim_matches(['[', ']']).to_owned()];
        for form in forms.into_iter().chain(base64) {
            assert!(!printed.contains(&form), "key bytes in {printed}");
        }
        let raw = printed.as_bytes().windows(key.bytes.len()).any(|window| window == key.bytes);
        assert!(!raw, "key bytes in {printed}");
    }
}

/// As below, with real servers, of which making the keys takes most of the time.
#[test]
#[ignore = "half a minute: scripts/soak runs it"]
fn a_thousand_components_under_two_hundred_keys_of_a_real_server() {
    let site = Site::new();
    let (server, mut second) = (PyKmip::start(&site, "keys"), PyKmip::start(&site, "keys"));
    let host = Host::configured(&providers(&site, &[second.port(), server.port()], &site.host, ""));
    let provider = corp(&site.path("config.toml")).unwrap();
    let made = timed(|| (0..200).for_each(|number| make_vm(&host, &provider, &format!("vm{number}"), 4))).1;
    let (mount, healthy) = timed(|| host.mount("vms", &[]));
    let all = eventually("all are unlocked", || count(&mount) == (1000, 1000));
    mount.unmount();
    second.kill();
    let (mount, dead) = timed(|| host.mount("vms", &[]));
    let later = eventually("all are unlocked", || count(&mount) == (1000, 1000));
    println!(
        "1,000 components under 200 keys of PyKMIP made in {made:.2?}, mounted in {healthy:.2?}, all unlocked {all:.2?} later; \
         with one of two members dead in {dead:.2?}, {later:.2?} later"
    );
    mount.unmount();
}

#[test]
fn a_thousand_components_under_two_hundred_keys_are_mounted_at_once() {
    let site = Site::new();
    let server = FakeServer::start(&site, &Arc::default());
    let host = Host::configured(&providers(&site, &[server.port()], &site.host, ""));
    let provider = corp(&site.path("config.toml")).unwrap();
    let made = timed(|| (0..200).for_each(|number| make_vm(&host, &provider, &format!("vm{number}"), 4))).1;
    let before = server.requests();
    let (mount, time) = timed(|| host.mount("vms", &[]));
    println!("1,000 components under 200 keys made in {made:.2?}, mounted in {time:.2?}");
    assert_eq!(count(&mount), (1000, 1000));
    assert!(time < SOON, "{time:?}");
    let asked = server.requests() - before;
    assert!((200..700).contains(&asked), "{asked} requests: each key is fetched once, and its state asked for");
    // A disk that is made beside the mount opens by its VM's key, without the server.
    make_disk(Path::new(host.path("vms/vm7/late.raw")), &provider, &key_of(&host, "vm7"));
    drop(server);
    assert_eq!(fs::read(mount.path("vm7/late.raw")).unwrap(), vec![0; 1 << 20]);
    mount.unmount();
}
