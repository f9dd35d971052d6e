//! Headers of homes and disks that someone without the key edited: a checksum is easily made, the HMAC is not.

use std::fs::{self, File};

use vmcryptfs::crypto::derive::sha256;

use super::{edit, errno};
use crate::host::Host;

const COPY_LEN: usize = 8192;
const CHECKSUM: usize = 8160;
const HOME_COPIES: [usize; 2] = [0, 64 << 10];
const DISK_COPIES: [usize; 2] = [0, 4 << 20];

/// Changes copies of a header, and makes their checksums right.
fn forge(path: &str, copies: &[usize], change: impl Fn(&mut [u8])) {
    edit(path, |image| {
        for &at in copies {
            let copy = &mut image[at..at + COPY_LEN];
            change(copy);
            let checksum = sha256(&copy[..CHECKSUM]);
            copy[CHECKSUM..].copy_from_slice(&checksum);
        }
    });
}

/// A VM with a home file.
fn host() -> Host {
    let host = Host::new();
    host.run(&["create", host.path("web01"), "--disk-names", "quarterly-figures*"]);
    host.run(&["create-disk", host.path("web01/root.raw"), "--size", "1M"]);
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("notes.txt"), "inside").unwrap();
    mount.unmount();
    host
}

fn replace(copy: &mut [u8], from: &[u8], to: &[u8]) {
    let at = copy.windows(from.len()).position(|window| window == from).unwrap();
    copy[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn a_home_header_that_was_edited_opens_nothing() {
    let host = host();
    let header = host.path("web01/vmcryptfs.home");
    let genuine = fs::read(header).unwrap();
    let names = |copy: &mut [u8]| replace(copy, b"quarterly-figures", b"quarterly-secrets");
    type Change<'c> = &'c dyn Fn(&mut [u8]);
    let cases: [(&str, &[usize], Change<'_>, i32, i32); 6] = [
        ("names that become disks", &HOME_COPIES, &names, libc::EIO, 3),
        ("a transition that is none", &HOME_COPIES, &|copy| copy[12] |= 1, libc::EIO, 3),
        ("a feature that nobody knows", &HOME_COPIES, &|copy| copy[15] |= 0x80, libc::EOPNOTSUPP, 11),
        ("a newer version", &HOME_COPIES[..1], &|copy| copy[8] = 2, libc::EOPNOTSUPP, 11),
        ("a higher sequence", &HOME_COPIES[..1], &|copy| copy[20] = 1, libc::EIO, 3),
        ("another generation", &HOME_COPIES, &|copy| copy[44] = 9, libc::EIO, 3),
    ];
    for (what, copies, change, refused, code) in cases {
        forge(header, copies, change);
        let mount = host.mount("web01", &[]);
        assert_eq!(errno(fs::read(mount.path("notes.txt"))), Some(refused), "{what}");
        assert_eq!(errno(fs::write(mount.path("new"), "x")), Some(refused), "{what}: a new file");
        mount.unmount();
        assert_eq!(host.try_run(&["check", host.path("web01")]).status.code(), Some(code), "{what}");
        fs::write(header, &genuine).unwrap();
    }
    edit(header, |image| image[..COPY_LEN].fill(0x5a));
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read_to_string(mount.path("notes.txt")).unwrap(), "inside", "the other copy serves");
    mount.unmount();
}

#[test]
fn a_state_that_was_edited_is_called_that_and_advises_nothing() {
    let host = host();
    let (vm, at, header) = (host.path("web01"), host.path("at"), host.path("web01/vmcryptfs.home"));
    fs::create_dir(at).unwrap();
    let genuine = fs::read(header).unwrap();
    // The state is the last byte of a home's body.
    let place = 63 + u32::from_le_bytes(*genuine[56..].first_chunk().unwrap()) as usize;
    assert_eq!(genuine[place], 2, "encrypted");
    for state in [1, 3] {
        fs::write(header, &genuine).unwrap();
        forge(header, &HOME_COPIES, |copy| copy[place] = state);
        let check = host.try_run(&["check", vm]);
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(check.status.code() == Some(3) && said.contains("changed without its key"), "{said}");
        assert!(!said.contains("resumes"), "{said}");
        host.refuses(&["mount", vm, at], 3, "changed without its key");
        host.refuses(&["encrypt", vm], 3, "changed without its key");
    }
}

#[test]
fn a_disk_header_that_was_edited_opens_nothing() {
    let host = host();
    let disk = host.path("web01/root.raw");
    let genuine = fs::read(disk).unwrap();
    type Change<'c> = &'c dyn Fn(&mut [u8]);
    let cases: [(&str, &[usize], Change<'_>); 4] = [
        ("sectors of 512 bytes", &DISK_COPIES, &|copy| copy[40..44].copy_from_slice(&512_u32.to_le_bytes())),
        ("data that begins a MiB later", &DISK_COPIES, &|copy| copy[50] += 0x10),
        ("a higher sequence", &DISK_COPIES, &|copy| copy[21] = 1),
        ("a higher sequence in one copy", &DISK_COPIES[1..], &|copy| copy[21] = 1),
    ];
    for (what, copies, change) in cases {
        forge(disk, copies, change);
        let mount = host.mount("web01", &[]);
        assert_eq!(errno(File::open(mount.path("root.raw"))), Some(libc::EIO), "{what}");
        assert_eq!(fs::read_to_string(mount.path("notes.txt")).unwrap(), "inside", "{what}: the others work");
        mount.unmount();
        fs::write(disk, &genuine).unwrap();
    }
    let mount = host.mount("web01", &[]);
    assert_eq!(fs::read(mount.path("root.raw")).unwrap().len(), 1 << 20);
    mount.unmount();
}
