//! Home files, links and attributes that someone without the key changed, exchanged or put back.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{XattrFlags, getxattr, lsetxattr};
use vmcryptfs::format::home_file::{BlockIndex, PAIR_LEN, Place};

use super::errno;
use crate::host::{Host, Mount};

const BLOCK: usize = 4096;
const LEN: usize = 3 * BLOCK;

/// Blocks of content that differ.
fn content(seed: u8) -> Vec<u8> {
    (0..3).flat_map(|block| [block * 16 + seed; BLOCK]).collect()
}

/// A VM with a home file of three blocks, and its image as it lies on the medium.
fn host() -> (Host, Vec<u8>) {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::write(mount.path("file"), content(1)).unwrap();
    mount.unmount();
    let image = fs::read(host.path("web01/file")).unwrap();
    (host, image)
}

/// Older versions of the header prove less: version 2 no filled length, version 1 no length at all.
#[test]
fn a_header_that_says_another_version_opens_no_file() {
    let (host, image) = host();
    for (name, version, unproven) in [("older", 2, 104..512), ("oldest", 1, 64..512), ("newer", 4, 0..0)] {
        let mut forged = image.clone();
        forged[8] = version;
        forged[unproven].fill(0);
        fs::write(host.path(&format!("web01/{name}")), forged).unwrap();
    }
    let mount = host.mount("web01", &[]);
    for (name, refused) in [("older", libc::EIO), ("oldest", libc::EIO), ("newer", libc::EOPNOTSUPP)] {
        assert_eq!(errno(fs::read(mount.path(name))), Some(refused), "{name}");
    }
    assert_eq!(fs::read(mount.path("file")).unwrap(), content(1));
    mount.unmount();
}

/// The lengths that the header proves can be neither lowered nor raised.
#[test]
fn the_lengths_in_a_header_are_proven() {
    let (host, image) = host();
    for (name, at) in [("known", 64), ("filled", 104)] {
        let mut forged = image.clone();
        forged[at..at + 8].fill(0);
        fs::write(host.path(&format!("web01/{name}")), forged).unwrap();
    }
    let mount = host.mount("web01", &[]);
    for name in ["known", "filled"] {
        assert_eq!(errno(fs::read(mount.path(name))), Some(libc::EIO), "{name}");
    }
    mount.unmount();
}

/// docs/THREAT-MODEL.md, "What is not", says this of home files: each is what a file may once have been.
#[test]
fn what_is_not_noticed_of_a_home_file_is_what_the_documents_say() {
    let (host, old) = host();
    let (backing, at_mount) = (host.path("web01/file"), |mount: &Mount<'_>| fs::read(mount.path("file")).unwrap());
    let mount = host.mount("web01", &[]);
    let file = File::options().write(true).open(mount.path("file")).unwrap();
    file.write_all_at(&content(2), 0).unwrap();
    file.sync_all().unwrap();
    drop(file);
    mount.unmount();
    let new = fs::read(backing).unwrap();

    let mut one_old_block = new.clone();
    let block = BlockIndex(1);
    let parts = [Place::Main, Place::Spare].map(|place| (block.cipher_offset(place), BLOCK));
    for (offset, len) in [(block.pair_offset(), PAIR_LEN), parts[0], parts[1]] {
        let part = usize::try_from(offset).unwrap()..usize::try_from(offset).unwrap() + len;
        one_old_block[part.clone()].copy_from_slice(&old[part]);
    }
    let mut mixed = content(2);
    mixed[BLOCK..2 * BLOCK].copy_from_slice(&content(1)[BLOCK..2 * BLOCK]);
    let mut without_header = new.clone();
    without_header[..512].fill(0);
    let cases: [(&str, &[u8], &[u8]); 4] = [
        ("an older file", &old, &content(1)),
        ("an older block", &one_old_block, &mixed),
        ("no header", &without_header, &[0; LEN]),
        ("emptied", b"", b""),
    ];
    for (what, image, shows) in cases {
        fs::write(backing, image).unwrap();
        let mount = host.mount("web01", &[]);
        assert!(at_mount(&mount) == shows, "{what}");
        mount.unmount();
    }
    fs::write(backing, &new).unwrap();
    File::options().write(true).open(backing).unwrap().set_len(1 << 30).unwrap();
    let mount = host.mount("web01", &[]);
    let file = File::open(mount.path("file")).unwrap();
    let mut seen = vec![1; LEN + BLOCK];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == [content(2), vec![0; BLOCK]].concat(), "made longer: zeros at its end");
    drop(file);
    mount.unmount();
}

const ATTRIBUTE: &str = "user.label";

fn attribute(path: impl AsRef<Path>, name: &str) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 300];
    let len = getxattr(path.as_ref(), name, &mut value)?;
    value.truncate(len);
    Ok(value)
}

fn set_attribute(path: impl AsRef<Path>, name: &str, value: &[u8]) {
    lsetxattr(path.as_ref(), name, value, XattrFlags::empty()).unwrap();
}

#[test]
fn a_value_opens_only_under_its_name_on_its_file_and_directories_and_links_can_be_exchanged() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    for directory in ["one.d", "two.d"] {
        fs::create_dir(mount.path(directory)).unwrap();
    }
    for file in ["one", "two"] {
        fs::write(mount.path(file), file).unwrap();
        std::os::unix::fs::symlink(format!("target of {file}"), mount.path(&format!("{file}.l"))).unwrap();
    }
    for name in ["one", "two", "one.d", "two.d"] {
        set_attribute(mount.path(name), ATTRIBUTE, name.as_bytes());
    }
    mount.unmount();
    let backing = |name: &str| host.path(&format!("web01/{name}"));
    let sealed = |name: &str| attribute(backing(name), ATTRIBUTE).unwrap();
    let (of_file, of_one, of_two) = (sealed("one"), sealed("one.d"), sealed("two.d"));
    set_attribute(backing("two"), ATTRIBUTE, &of_file);
    set_attribute(backing("one"), "user.other", &of_file);
    set_attribute(backing("one.d"), ATTRIBUTE, &of_two);
    set_attribute(backing("two.d"), ATTRIBUTE, &of_one);
    set_attribute(backing("one.d"), "user.other", &of_file);
    for (from, to) in [("one.l", "kept"), ("two.l", "one.l"), ("kept", "two.l")] {
        fs::rename(backing(from), backing(to)).unwrap();
    }
    let mount = host.mount("web01", &[]);
    for (name, attribute_name) in [("two", ATTRIBUTE), ("one", "user.other"), ("one.d", "user.other")] {
        assert_eq!(errno(attribute(mount.path(name), attribute_name)), Some(libc::EIO), "{name} {attribute_name}");
    }
    assert_eq!(attribute(mount.path("one"), ATTRIBUTE).unwrap(), b"one");
    assert_eq!(attribute(mount.path("one.d"), ATTRIBUTE).unwrap(), b"two.d", "exchanged, as the documents say");
    assert_eq!(fs::read_link(mount.path("one.l")).unwrap(), Path::new("target of two"), "as the documents say");
    mount.unmount();
}
