//! Keys change while a mount and its guests go on.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::host::Host;

fn json(printed: &str) -> serde_json::Value {
    serde_json::from_str(printed).unwrap()
}

/// Wrapped DEKs of a disk's two header copies are told apart by what surrounds the key id of their slots.
fn header_copies_hold(host: &Host, disk: &str, text: &str) -> bool {
    let file = File::open(host.path(disk)).unwrap();
    [0, 4 << 20].into_iter().any(|offset| {
        let mut copy = [0; 8192];
        file.read_exact_at(&mut copy, offset).unwrap();
        copy.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn a_rekey_under_running_io_loses_nothing_and_leaves_no_former_slot() {
    let host = Host::with_vm();
    host.run(&["create-disk", host.path("web01/closed.raw"), "--size", "1M"]);
    let mount = host.mount("web01", &[]);
    let former = json(&host.run(&["info", "--json", host.path("web01/root.raw")]))[0]["keys"][0]["key_id"].clone();
    let disk = File::options().read(true).write(true).open(mount.path("root.raw")).unwrap();
    let running = AtomicBool::new(true);
    thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut rounds = 0_u64;
            while running.load(Ordering::Relaxed) {
                let block = [u8::try_from(rounds % 251).unwrap(); 4096];
                let at = rounds % 1000 * 4096;
                disk.write_all_at(&block, at).unwrap();
                let mut back = [0; 4096];
                disk.read_exact_at(&mut back, at).unwrap();
                assert_eq!(back, block);
                rounds += 1;
            }
            rounds
        });
        for _ in 0..5 {
            let rekeyed = json(&host.run(&["rekey", "--json", host.path("web01")]));
            assert_eq!(rekeyed["components"].as_array().unwrap().len(), 3);
        }
        running.store(false, Ordering::Relaxed);
        assert!(guest.join().unwrap() > 0);
    });
    for name in ["web01/root.raw", "web01/closed.raw"] {
        assert!(!header_copies_hold(&host, name, former.as_str().unwrap()), "{name}");
    }
    drop(disk);
    mount.unmount();
    host.run(&["check", host.path("web01")]);
    let mount = host.mount("web01", &[]);
    assert!(File::open(mount.path("root.raw")).is_ok() && File::open(mount.path("closed.raw")).is_ok());
    mount.unmount();
}

#[test]
fn a_datastore_s_vm_is_rekeyed_by_its_mount_by_either_path() {
    let host = Host::new();
    host.run(&["provider", "add", "native", "other"]);
    std::fs::create_dir(host.path("vms")).unwrap();
    host.run(&["create", host.path("vms/web01")]);
    host.run(&["create-disk", host.path("vms/web01/root.raw"), "--size", "1M"]);
    let mount = host.mount("vms", &[]);
    let open = File::open(mount.path("web01/root.raw")).unwrap();
    let mounted = mount.path("web01").display().to_string();
    for (folder, provider) in [(host.path("vms/web01"), "other"), (mounted.as_str(), "local")] {
        let rekeyed = json(&host.run(&["rekey", "--json", folder, "--provider", provider]));
        assert_eq!(rekeyed["key"]["provider"], provider);
    }
    host.refuses(&["rekey", host.path("vms")], 2, "expected one of its VM folders");
    host.refuses(&["rekey", host.path("vms/web01"), "--provider", "gone"], 4, "new key from provider gone");
    host.refuses(&["rekey", host.path("vms/web01"), "--disk", "no.raw"], 8, "no.raw");
    drop(open);
    mount.unmount();
}

#[test]
fn what_someone_else_uses_is_not_rekeyed() {
    let host = Host::with_vm();
    let before = std::fs::read(host.path("web01/vmcryptfs.home")).unwrap();
    let user = File::open(host.path("web01/root.raw")).unwrap();
    assert!(vmcryptfs::sys::file::try_claim(&user, vmcryptfs::sys::file::Claim::Shared).unwrap());
    host.refuses(&["rekey", host.path("web01")], 6, "root.raw");
    assert_eq!(std::fs::read(host.path("web01/vmcryptfs.home")).unwrap(), before, "refused before anything changed");
    drop(user);
    let mount = host.mount("web01", &["-o", "ro"]);
    host.refuses(&["rekey", host.path("web01")], 10, "read-only");
    mount.unmount();
    host.run(&["rekey", host.path("web01")]);
}
