//! Whether a folder is obviously no single VM's: it would become one VM, with one home and one key for all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vmdk_layout::Role;

use crate::text::Show;
use crate::work::convert::tree::{Entry, EntryForm, by_inode};

/// Disks beside each other that are called so differently, without settings of one VM, are several VMs'.
const MIN_NAMES: usize = 4;
/// With installation media among them, fewer do.
const MIN_NAMES_BESIDE_MEDIA: usize = 2;

/// Says what makes it obvious, if anything does. Images that are `linked` are one VM's, whatever they are called.
pub(super) fn sign(path: &Path, entries: &[Entry], linked: &[(PathBuf, PathBuf)]) -> Option<String> {
    let files: Vec<&Entry> = by_inode(entries.iter().filter(|entry| matches!(entry.found, EntryForm::Clear(_))))
        .into_iter()
        .filter_map(|names| names.first().copied())
        .collect();
    let settings: Vec<&Path> =
        files.iter().map(|entry| entry.path.as_path()).filter(|path| is_settings(path)).collect();
    if let [first, second, ..] = settings[..] {
        return Some(format!("{} and {} are settings of two VMs", first.shown(), second.shown()));
    }
    let disks: Vec<&Path> = files.iter().filter(|entry| is_disk(entry)).map(|entry| entry.path.as_path()).collect();
    let (own, below): (Vec<&Path>, Vec<&Path>) = disks.iter().partition(|path| path.components().count() == 1);
    let folders: BTreeSet<&OsStr> = below.iter().filter_map(|path| path.iter().next()).collect();
    if let (Some(first), Some(last)) = (folders.first(), folders.last())
        && own.is_empty()
        && first != last
    {
        return Some(format!("its folders {} and {} hold disks, and it has none itself", first.shown(), last.shown()));
    }
    if !settings.is_empty() {
        return None;
    }
    let names = names(&own, linked);
    let media = files.iter().any(|entry| has_ending(&entry.path, b".iso"));
    let is_pool = path.ends_with("libvirt/images");
    let enough = if media || is_pool { MIN_NAMES_BESIDE_MEDIA } else { MIN_NAMES };
    (names >= enough).then(|| {
        let names: Vec<String> = own.iter().take(MIN_NAMES).map(|path| path.shown().to_string()).collect();
        format!("its disks have names of different VMs ({}...), and it holds no VM's settings", names.join(", "))
    })
}

/// How many different names there are, of which those of linked images count as one.
fn names(disks: &[&Path], linked: &[(PathBuf, PathBuf)]) -> usize {
    let mut stems: BTreeMap<&Path, Vec<u8>> = disks.iter().map(|path| (*path, stem(path))).collect();
    for (one, other) in linked {
        if let (Some(one), Some(other)) = (stems.get(one.as_path()).cloned(), stems.get(other.as_path()).cloned()) {
            stems.values_mut().filter(|stem| **stem == other).for_each(|stem| stem.clone_from(&one));
        }
    }
    stems.into_values().collect::<BTreeSet<_>>().len()
}

fn is_settings(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    matches!(Role::of_name(&name.to_string_lossy()), Role::Config | Role::Template)
}

fn is_disk(entry: &Entry) -> bool {
    matches!(entry.found, EntryForm::Clear(kind) if kind.is_disk()) && !has_ending(&entry.path, b".iso")
}

fn has_ending(path: &Path, ending: &[u8]) -> bool {
    let name = path.as_os_str().as_bytes();
    name.len() > ending.len() && name[name.len() - ending.len()..].eq_ignore_ascii_case(ending)
}

/// The beginning of a disk's name that the disks of one VM have in common: up to the first mark or number.
fn stem(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let end = name.iter().position(|byte| !byte.is_ascii_alphabetic() && byte.is_ascii()).unwrap_or(name.len());
    name[..end].to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::clear::ClearKind;

    fn folder(names: &[&str]) -> Vec<Entry> {
        let kind = |name: &str| match name.ends_with(".vmx") || name.ends_with(".txt") {
            true => ClearKind::Home("file"),
            false => ClearKind::Disk("by its name"),
        };
        let entry = |(number, name): (usize, &&str)| {
            let mut stat = rustix::fs::stat("/").unwrap();
            (stat.st_ino, stat.st_nlink) = (number as u64, 1);
            Entry { path: name.into(), found: EntryForm::Clear(kind(name)), stat, plain_len: 0, erased: None }
        };
        names.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn folders_of_one_vm_are_let_through() {
        for names in [
            &["a.raw", "b.raw", "web.txt"][..],
            &["web01.vmx", "web01.vmdk", "data.vmdk", "log.vmdk", "swap.vmdk", "install.iso"],
            &["disk0.qcow2", "disk1.qcow2", "disk2.qcow2", "disk3.qcow2"],
            &["vm-100-disk-0.raw", "vm-100-disk-1.raw", "vm-100-cloudinit.qcow2", "debian.iso"],
            &["root.raw", "snapshots/root.raw", "old/root.raw"],
            &["disks/a.raw", "disks/b.raw"],
            &["web.qcow2", "debian.iso"],
        ] {
            assert_eq!(sign(Path::new("/vms/web01"), &folder(names), &[]), None, "{names:?}");
        }
    }

    #[test]
    fn folders_of_several_vms_are_known() {
        for names in [
            &["web01/web01.vmx", "db01/db01.vmx"][..],
            &["web01/root.raw", "db01/root.raw"],
            &["web.qcow2", "db.qcow2", "mail.qcow2", "win.qcow2"],
            &["web.qcow2", "db.qcow2", "debian-12.iso"],
        ] {
            assert!(sign(Path::new("/vms/pool"), &folder(names), &[]).is_some(), "{names:?}");
        }
        let pool = Path::new("/var/lib/libvirt/images");
        let two = folder(&["web.qcow2", "db.qcow2"]);
        assert!(sign(pool, &two, &[]).is_some());
        assert_eq!(sign(pool, &two, &[("web.qcow2".into(), "db.qcow2".into())]), None);
        assert_eq!(sign(pool, &folder(&["web.qcow2"]), &[]), None);
    }
}
