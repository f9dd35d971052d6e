//! What does not fit is refused before it begins, and a dry run says so.

use std::fs;
use std::io::Write;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::host::Host;
use crate::not_run::not_run;

/// A small file system; it goes with this.
struct Small(&'static str);

impl Drop for Small {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

fn fill(path: &str, bytes: usize) {
    let mut file = fs::File::create(path).unwrap();
    file.write_all(&vec![7; bytes]).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_before_it_begins_and_a_dry_run_says_so() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root mounts a tmpfs");
        return;
    }
    const MIB: usize = 1 << 20;
    let host = Host::new();
    let small = host.path("small");
    fs::create_dir(small).unwrap();
    mount("none", small, "tmpfs", MountFlags::empty(), Some(c"size=24m")).unwrap();
    let _small = Small(small);
    let (vm, clear, copy) = (host.path("small/vm"), host.path("small/clear"), host.path("small/copy"));
    host.run(&["create", vm]);
    let shown = host.mount("small/vm", &[]);
    for (name, len) in [("notes", 5 * MIB), ("a.raw", MIB)] {
        fs::write(shown.path(name), vec![7; len]).unwrap();
    }
    shown.unmount();
    fs::create_dir(clear).unwrap();
    fill(host.path("small/clear/big"), 7 * MIB);
    fill(host.path("small/ballast"), 8 * MIB);
    let before = fs::read(host.path("small/vm/vmcryptfs.home")).unwrap();
    let (notes, words) = (host.path("small/vm/notes"), "are available: nothing was begun");
    for verb in [
        &["encrypt", clear][..],
        &["clone", vm, copy],
        &["convert", notes],
        &["rekey", "--deep", vm],
        &["encrypt", clear, "--dry-run", "--json"],
        &["clone", vm, copy, "--dry-run"],
        &["clone", vm, copy, "--dry-run", "--json"],
        &["convert", notes, "--dry-run"],
    ] {
        host.refuses(verb, 1, words);
    }
    assert!(fs::read(host.path("small/vm/vmcryptfs.home")).unwrap() == before, "a deep rekey began");
    fs::remove_file(host.path("small/ballast")).unwrap();
    for verb in
        [&["clone", vm, copy, "--dry-run"][..], &["convert", notes, "--dry-run"], &["encrypt", clear, "--dry-run"]]
    {
        let said = host.run(verb);
        assert!(said.contains("more space") && said.contains("if no quota says otherwise"), "{said}");
    }
    assert_eq!(fs::read_dir(small).unwrap().count(), 2, "a dry run made something");
    host.run(&["rekey", "--deep", vm]);
}
