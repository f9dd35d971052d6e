//! Deep rekey of disks that are in use, and of what was interrupted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::host::Host;

const LEN: usize = 24 << 20;

/// Bytes that tell where they belong.
fn pattern(seed: u64) -> Vec<u8> {
    (0..LEN as u64 / 8).flat_map(|word| (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed).to_le_bytes()).collect()
}

fn write(host: &Host, content: &[u8]) {
    let mount = host.mount("web01", &[]);
    let disk = File::options().write(true).open(mount.path("root.raw")).unwrap();
    disk.write_all_at(content, 0).unwrap();
    disk.sync_all().unwrap();
    drop(disk);
    mount.unmount();
}

fn assert_content(host: &Host, content: &[u8], when: &str) {
    let mount = host.mount("web01", &[]);
    assert!(fs::read(mount.path("root.raw")).unwrap()[..LEN] == *content, "{when}");
    mount.unmount();
}

fn deep_rekey(host: &Host, options: &[&str]) -> serde_json::Value {
    let args = [&["rekey", "--deep", host.path("web01"), "--json"], options].concat();
    let printed = host.run(&args);
    serde_json::from_str(printed.lines().last().unwrap()).unwrap()
}

/// Starts a deep rekey that takes a while.
fn start(host: &Host, rate: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmcryptfs"));
    command.args(["--config", host.path("config/config.toml"), "rekey", "--deep", host.path("web01")]);
    command.args(["--disk", "root.raw", "--rate", rate]).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn percent(host: &Host) -> Option<u64> {
    let printed = host.run(&["info", "--json", host.path("web01/root.raw")]);
    let info: serde_json::Value = serde_json::from_str(&printed).unwrap();
    info[0]["deep_rekey"]["percent"].as_u64()
}

/// Waits until the run that was just started has come further than the one before it.
fn wait_until_under_way(host: &Host, before: Option<u64>) {
    for _ in 0..600 {
        if percent(host).is_some_and(|percent| percent > before.unwrap_or(3)) {
            return;
        }
        thread::sleep(Duration::from_millis(50));
    }
    panic!("no deep rekey is under way");
}

#[test]
fn a_disk_and_its_home_are_rekeyed_and_every_stage_is_shown() {
    let host = Host::with_vm();
    let content = pattern(1);
    write(&host, &content);
    let before = fs::read(host.path("web01/root.raw")).unwrap();
    let done = deep_rekey(&host, &[]);
    assert_eq!(done["components"].as_array().unwrap().len(), 2, "{done}");
    assert_eq!((done["resumed"].as_bool(), percent(&host)), (Some(false), None));
    let after = fs::read(host.path("web01/root.raw")).unwrap();
    let same = before[8 << 20..].chunks(4096).zip(after[8 << 20..].chunks(4096));
    assert!(same.take(LEN / 4096).all(|(before, after)| before != after), "a sector is still under the old DEK");
    assert_content(&host, &content, "after the deep rekey");
    host.run(&["check", host.path("web01")]);
    let events = host.events();
    let of_rekey: Vec<_> = events.iter().filter(|event| event["operation"] == "rekey-deep").collect();
    assert_eq!(of_rekey.len(), 3, "begun, and finished for home and disk: {of_rekey:?}");
    host.refuses(&["rekey", "--deep", host.path("web01"), "--disk", "other.raw"], 8, "no encrypted disk other.raw");
}

#[test]
fn a_guest_writes_while_its_disk_is_rekeyed() {
    let host = Host::with_vm();
    let mut content = pattern(2);
    write(&host, &content);
    let mount = host.mount("web01", &[]);
    host.refuses(&["rekey", "--deep", host.path("web01")], 6, "while the VM folder is mounted");
    let disk = File::options().read(true).write(true).open(mount.path("root.raw")).unwrap();
    let stop = AtomicBool::new(false);
    let (content, rounds) = thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let mut turn = 7_u64;
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(turn >> 20).unwrap() % (LEN - 9000);
                let len = usize::try_from(turn & 0x1fff).unwrap();
                let data: Vec<u8> = (0..=255).cycle().skip(at % 251).take(len).collect();
                disk.write_all_at(&data, at as u64).unwrap();
                content[at..at + len].copy_from_slice(&data);
                let mut seen = vec![0; len + 600];
                disk.read_exact_at(&mut seen, at as u64).unwrap();
                assert!(seen == content[at..at + len + 600], "the guest does not see what it wrote");
                rounds += 1;
            }
            (content, rounds)
        });
        let done = deep_rekey(&host, &["--disk", "root.raw", "--rate", "16M"]);
        assert_eq!(done["components"][0]["done_now"], true);
        stop.store(true, Ordering::Relaxed);
        guest.join().unwrap()
    });
    assert!(rounds > 10, "{rounds} writes");
    drop(disk);
    mount.unmount();
    assert_content(&host, &content, "after the deep rekey of a disk in use");
    host.run(&["check", host.path("web01")]);
}

/// A mount that nothing has been read from: the rekey is the first to open the disk, and does not hinder later openers.
#[test]
fn a_guest_opens_a_disk_in_the_midst_of_its_rekey() {
    let host = Host::with_vm();
    let content = pattern(4);
    write(&host, &content);
    let mount = host.mount("web01", &[]);
    let mut running = start(&host, "8M");
    wait_until_under_way(&host, None);
    let disk = File::options().read(true).write(true).open(mount.path("root.raw")).unwrap();
    let mut seen = vec![0; LEN];
    disk.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == content, "read by a guest in the midst of a deep rekey");
    disk.write_all_at(&[9; 5000], 1 << 20).unwrap();
    assert!(percent(&host).is_some(), "it is under way still");
    assert!(running.wait().unwrap().success());
    disk.read_exact_at(&mut seen, 0).unwrap();
    let end = (1 << 20) + 5000;
    assert!(seen[..1 << 20] == content[..1 << 20] && seen[1 << 20..end] == [9; 5000] && seen[end..] == content[end..]);
    drop(disk);
    mount.unmount();
}

/// The program is killed, stopped by Ctrl-C, and loses its mount; each time the disk is whole, and the next run goes on.
#[test]
fn what_was_interrupted_is_whole_and_is_resumed() {
    let host = Host::with_vm();
    let content = pattern(3);
    write(&host, &content);
    for signal in [Signal::KILL, Signal::INT, Signal::KILL] {
        let before = percent(&host);
        let mut running = start(&host, "8M");
        wait_until_under_way(&host, before);
        kill_process(Pid::from_child(&running), signal).unwrap();
        let ended = running.wait().unwrap();
        assert!(signal == Signal::KILL || ended.code() == Some(12), "{ended}");
        let shown = percent(&host).expect("it is under way still");
        assert!(shown < 100 && host.run(&["check", host.path("web01")]).contains("a deep rekey is under way"));
        assert_content(&host, &content, "interrupted");
    }
    assert_eq!(deep_rekey(&host, &["--disk", "root.raw"])["resumed"], true);
    assert_content(&host, &content, "finished");
    assert_eq!(percent(&host), None);
}
