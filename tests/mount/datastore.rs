//! A mount of many VM folders.

use std::fs;

use crate::host::{Host, Mount};

const FOLDERS: u64 = 300;

/// Memory that the process which serves a mount has for itself, in MiB. Pages of its program come and go with the machine's page cache.
fn anonymous(mount: &Mount<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.strip_suffix("kB")).unwrap();
    kib.trim().parse::<u64>().unwrap() / 1024
}

/// Each question looks at all headers, and is answered by another thread: what that took must not stay with the thread.
#[test]
fn asking_for_the_state_of_a_datastore_again_and_again_takes_no_memory() {
    let host = Host::new();
    fs::create_dir(host.path("datastore")).unwrap();
    let mount = host.mount("datastore", &[]);
    for folder in 0..FOLDERS {
        fs::create_dir(mount.path(&format!("vm{folder}"))).unwrap();
        for disk in ["a.raw", "b.raw", "c.raw"] {
            fs::File::create(mount.path(&format!("vm{folder}/{disk}"))).unwrap();
        }
    }
    mount.unmount();
    let mount = host.mount("datastore", &[]);
    let ask = || assert_eq!(mount.status()["components"].as_array().unwrap().len() as u64, 4 * FOLDERS);
    let before = anonymous(&mount);
    (0..20).for_each(|_| ask());
    let after = anonymous(&mount);
    assert!(after < before + 4, "{before} MiB after mounting, {after} MiB after 20 questions");
    mount.unmount();
}
