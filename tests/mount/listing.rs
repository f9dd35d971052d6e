//! Listing folders that change during it: rewinding, positions that are kept over deletions, and free space by folder.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};

use rustix::fs::{RawDir, SeekFrom, seek, statvfs};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};

use crate::host::Host;
use crate::not_run::not_run;

/// Names from where the folder stands, with the position after each: what one call gives, or at the end nothing.
fn some_names(dir: &File) -> Vec<(String, u64)> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut names = Vec::new();
    while !entries.is_buffer_empty() || names.is_empty() {
        let Some(entry) = entries.next() else { break };
        let entry = entry.unwrap();
        names.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
    }
    names
}

fn all_names(dir: &File) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    loop {
        let more = some_names(dir);
        if more.is_empty() {
            return names;
        }
        more.into_iter().for_each(|(name, _)| assert!(names.insert(name.clone()), "{name} twice"));
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_rewound_folder_shows_what_is_there_now() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    fs::create_dir(mount.path("folder")).unwrap();
    for folder in [mount.path("folder"), PathBuf::from(host.path("plain"))] {
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("old"), "x").unwrap();
        let dir = File::open(&folder).unwrap();
        assert_eq!(all_names(&dir), set(&[".", "..", "old"]));
        fs::remove_file(folder.join("old")).unwrap();
        fs::write(folder.join("new"), "x").unwrap();
        assert!(all_names(&dir).is_subset(&set(&["new"])), "at the end");
        seek(&dir, SeekFrom::Start(0)).unwrap();
        assert_eq!(all_names(&dir), set(&[".", "..", "new"]));
    }
    mount.unmount();
}

/// As a server of network files does it, which keeps no folder open: each part is read by an opening of its own.
fn remove_while_listing(folder: &Path, remove: impl Fn(&str)) -> BTreeSet<String> {
    let (mut seen, mut position) = (BTreeSet::new(), 0);
    loop {
        let dir = File::open(folder).unwrap();
        seek(&dir, SeekFrom::Start(position)).unwrap();
        let names = some_names(&dir);
        let Some((_, next)) = names.last() else { return seen };
        position = *next;
        for (name, _) in names {
            if ![".", ".."].contains(&name.as_str()) {
                remove(&name);
                assert!(seen.insert(name.clone()), "{name} twice");
            }
        }
    }
}

#[test]
fn nothing_is_skipped_when_what_was_listed_is_removed() {
    let host = Host::with_vm();
    let mount = host.mount("web01", &[]);
    let beneath = PathBuf::from(host.path("web01"));
    fs::create_dir(mount.path("big")).unwrap();
    let names: BTreeSet<String> = (0..10_000).map(|number| format!("file-{number}")).collect();
    names.iter().for_each(|name| drop(File::create(beneath.join("big").join(name)).unwrap()));
    let big = mount.path("big");
    assert_eq!(remove_while_listing(&big, |name| fs::remove_file(big.join(name)).unwrap()), names);
    fs::remove_dir(&big).unwrap();

    let vmdks: Vec<_> = (0..300).map(|number| beneath.join(format!("disk-{number}.vmdk"))).collect();
    vmdks.iter().for_each(|vmdk| fs::write(vmdk, "not readable by now, and shown for its name").unwrap());
    let images: BTreeSet<String> = (0..300).map(|number| format!("disk-{number}.raw")).collect();
    let remove = |image: &str| fs::remove_file(beneath.join(image.replace(".raw", ".vmdk"))).unwrap();
    assert_eq!(remove_while_listing(&mount.path(".raw"), remove), images);
    mount.unmount();
}

/// A mount of the test's own.
struct Mounted(&'static str);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn free_space_is_that_of_the_file_system_that_a_vm_folder_is_on() {
    if !rustix::process::geteuid().is_root() {
        not_run("only root mounts a tmpfs");
        return;
    }
    let host = Host::new();
    let [small, folder] = ["small", "vms/web01"].map(|folder| host.path(folder));
    [small, folder].into_iter().for_each(|folder| fs::create_dir_all(folder).unwrap());
    mount("none", small, "tmpfs", MountFlags::empty(), Some(c"size=24m")).unwrap();
    let mounted = Mounted(small);
    host.run(&["create", host.path("small/web01")]);
    host.run(&["create", host.path("vms/web02")]);
    mount_bind(host.path("small/web01"), folder).unwrap();
    let bound = Mounted(folder);
    let shown = host.mount("vms", &[]);
    fs::write(shown.path("web01/notes.txt"), "x").unwrap();
    let other = host.path("vms/web02");
    for (below, beneath) in [("web01", folder), ("web01/notes.txt", folder), ("web01/.raw", folder), ("web02", other)] {
        let blocks = |path: &Path| statvfs(path).map(|space| (space.f_blocks, space.f_frsize)).unwrap();
        assert_eq!(blocks(&shown.path(below)), blocks(Path::new(beneath)), "{below}");
    }
    shown.unmount();
    drop((bound, mounted));
}
