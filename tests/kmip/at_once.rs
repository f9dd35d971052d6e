//! Verbs that wait for a key server while something else happens to their folder.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::fake_server::{FakeServer, Fault};
use crate::fake_store::Store;
use crate::host::Host;
use crate::mounts::providers;
use crate::site::Site;

const AT_MOST: Duration = Duration::from_secs(60);
/// What must not be on the medium.
const SECRET: &str = "plaintext-of-a-clear-folder";

struct Bench {
    host: Host,
    server: FakeServer,
    _site: Site,
}

/// A host with the providers `corp`, whose answers can be held back, and `local`, which is the default.
fn bench() -> Bench {
    let site = Site::new();
    let server = FakeServer::start(&site, &Arc::new(Store::default()));
    let corp = providers(&site, &[server.port()], &site.host, "request-timeout-ms = 30000\ntotal-timeout-ms = 30000");
    let host = Host::configured(&corp);
    host.run(&["provider", "add", "native", "local"]);
    host.run(&["provider", "default", "local"]);
    Bench { host, server, _site: site }
}

fn clear_folder(host: &Host) -> &'static str {
    let vm = host.path("vm");
    fs::create_dir(vm).unwrap();
    for number in 0..4 {
        fs::write(host.path(&format!("vm/{number}.txt")), SECRET).unwrap();
    }
    fs::write(host.path("vm/d.raw"), SECRET.repeat(1000)).unwrap();
    vm
}

/// Runs a verb that waits for a key, and does something else when it waits.
fn while_it_waits(bench: &Bench, verb: &[&str], meanwhile: impl FnOnce()) -> Output {
    let before = bench.server.requests();
    bench.server.set(Fault::Held);
    let start = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.host.try_run(verb));
        while bench.server.requests() == before {
            assert!(start.elapsed() < AT_MOST && !waiting.is_finished(), "{verb:?} asks no server");
            thread::sleep(Duration::from_millis(10));
        }
        meanwhile();
        assert!(!waiting.is_finished(), "{verb:?} did not wait");
        bench.server.set(Fault::None);
        let output = waiting.join().unwrap();
        assert!(start.elapsed() < AT_MOST, "{verb:?} took {:?}", start.elapsed());
        output
    })
}

fn refused(output: &Output, code: i32, words: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(words), "{said}");
}

fn holds_secret(dir: &Path) -> bool {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .any(|path| if path.is_dir() { holds_secret(&path) } else { contains(&fs::read(path).unwrap()) })
}

fn contains(bytes: &[u8]) -> bool {
    bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes())
}

fn all_comes_back(host: &Host, vm: &str) {
    host.run(&["check", vm]);
    assert!(!holds_secret(Path::new(vm)));
    host.run(&["decrypt", vm, "--all"]);
    for number in 0..4 {
        assert_eq!(fs::read_to_string(host.path(&format!("vm/{number}.txt"))).unwrap(), SECRET);
    }
    assert_eq!(fs::read_to_string(host.path("vm/d.raw")).unwrap(), SECRET.repeat(1000));
}

#[test]
fn a_folder_that_was_encrypted_while_a_second_run_waited_is_encrypted_once() {
    let bench = bench();
    let vm = clear_folder(&bench.host);
    let second = while_it_waits(&bench, &["encrypt", vm, "--provider", "corp"], || {
        bench.host.run(&["encrypt", vm]);
    });
    refused(&second, 6, "another process made this folder's vmcryptfs.home");
    all_comes_back(&bench.host, vm);
    // Encrypted and decrypted again in the meantime, a folder is what it was.
    let third = while_it_waits(&bench, &["encrypt", vm, "--provider", "corp"], || {
        bench.host.run(&["encrypt", vm]);
        bench.host.run(&["decrypt", vm, "--all"]);
    });
    assert!(third.status.success(), "{}", String::from_utf8_lossy(&third.stderr));
    all_comes_back(&bench.host, vm);
}

#[test]
fn what_comes_to_a_folder_while_its_key_is_waited_for_is_encrypted_too() {
    let bench = bench();
    let vm = clear_folder(&bench.host);
    let late = ["late.txt", "late.raw", "sub/late.txt"];
    let output = while_it_waits(&bench, &["encrypt", vm, "--provider", "corp", "--json"], || {
        fs::create_dir(bench.host.path("vm/sub")).unwrap();
        late.iter().for_each(|name| fs::write(bench.host.path(&format!("vm/{name}")), SECRET.repeat(100)).unwrap());
        fs::remove_file(bench.host.path("vm/3.txt")).unwrap();
    });
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let files: Vec<&str> =
        plan["files"].as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(late.iter().all(|name| files.contains(name)), "{files:?}");
    assert_eq!(plan["home"], "clear");
    assert!(!holds_secret(Path::new(vm)));
    // What cannot be encrypted is refused, and nothing is done.
    fs::write(bench.host.path("vm/3.txt"), SECRET).unwrap();
    bench.host.run(&["decrypt", vm, "--all"]);
    bench.host.run(&["create", bench.host.path("other")]);
    bench.host.run(&["create-disk", bench.host.path("other/x.raw"), "--size", "1M"]);
    let output = while_it_waits(&bench, &["encrypt", vm, "--provider", "corp"], || {
        fs::copy(bench.host.path("other/x.raw"), bench.host.path("vm/x.raw")).unwrap();
    });
    refused(&output, 7, "x.raw is an encrypted disk");
    assert!(fs::read_dir(vm).unwrap().all(|entry| !entry.unwrap().file_name().to_string_lossy().contains("vmcryptfs")));
    assert_eq!(fs::read_to_string(bench.host.path("vm/late.txt")).unwrap(), SECRET.repeat(100));
}

#[test]
fn a_new_vm_folder_is_empty_and_the_only_one() {
    let bench = bench();
    let vm = bench.host.path("vm");
    let verb = ["create", vm, "--provider", "corp"];
    let output = while_it_waits(&bench, &verb, || fs::write(bench.host.path("vm/a.txt"), SECRET).unwrap());
    refused(&output, 7, "a.txt came to vm while its key was waited for");
    let output = while_it_waits(&bench, &["encrypt", vm, "--provider", "corp"], || {
        fs::remove_file(bench.host.path("vm/a.txt")).unwrap();
        bench.host.run(&["create", vm]);
    });
    refused(&output, 6, "vmcryptfs.home");
    fs::remove_file(bench.host.path("vm/vmcryptfs.home")).unwrap();
    let output = while_it_waits(&bench, &verb, || _ = bench.host.run(&["encrypt", vm]));
    refused(&output, 9, "exists already");
    bench.host.run(&["check", vm]);
}
