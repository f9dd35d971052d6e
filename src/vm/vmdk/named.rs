//! Which disks are VMDKs by what the host wrote.
//!
//! The bytes of a disk may all be its guest's, from the first one on. So what they say of other files counts only if the host has
//! said that the disk is a VMDK: then it is attached as one, and no guest reaches its header.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use vmdk_layout::{DiskFile, FileName, Role, Source, Vmx, limits};

use super::{VmFiles, has_vmdk_name, meant, read};
use crate::error::{Context, Error, Kind, Result};
use crate::sector::UNIT;
use crate::store::raw_image::{AsPlainFile, ImageFile, vmdk_error};
use crate::text::Show;

/// What is smaller is not a guest's disk.
const MIN_DISK_LEN: u64 = 4096;

/// Refuses a disk that leads to other files, unless settings or a descriptor in the home name it as a VMDK, or a disk of which that is
/// true names it as its parent. Disks in one file are disks also where they are kept as home files.
pub(super) fn refuse_unnamed<V: VmFiles>(folder: &V, name: &OsStr, file: &V::File, disk: &DiskFile) -> Result<()> {
    let leads_on = match disk {
        DiskFile::Descriptor(_) => file.is_disk() && is_len_of_disk(file.plain_file().plain_len()),
        DiskFile::Monolithic { descriptor, .. } => descriptor.parent().is_some(),
        DiskFile::Extent(_) => false,
    };
    if !leads_on || named(folder)?.contains(name) {
        return Ok(());
    }
    let message = format!(
        "{} names other files, and a guest may have written that: no settings or descriptor in the home say that it is a VMDK",
        name.shown()
    );
    Err(Error::new(Kind::Denied, message))
}

/// Whether a guest may have a file of this length as its disk. QEMU begins a descriptor as it does a sparse disk, so a mount keeps
/// that text as a disk too.
fn is_len_of_disk(plain_len: u64) -> bool {
    plain_len.is_multiple_of(UNIT) && plain_len >= MIN_DISK_LEN
}

fn named<V: VmFiles>(folder: &V) -> Result<HashSet<OsString>> {
    let names = folder.names()?;
    let mut wanted: Vec<FileName> = names.iter().flat_map(|name| named_by_file(folder, name)).collect();
    let mut found = HashSet::new();
    while let Some(next) = wanted.pop() {
        let Ok(name) = meant(&next, names.clone()) else { continue };
        if let Ok(file) = folder.open(&name) {
            wanted.extend(parent_in(&file).filter(|_| !found.contains(&name)));
            found.insert(name);
        }
    }
    Ok(found)
}

/// What one file of the home names; nothing for what cannot be read, or is a disk.
fn named_by_file<V: VmFiles>(folder: &V, name: &OsStr) -> Vec<FileName> {
    let role = Role::of_name(&name.to_string_lossy());
    let is_settings = matches!(role, Role::Config | Role::Template | Role::SnapshotList);
    if !is_settings && !has_vmdk_name(name) {
        return Vec::new();
    }
    let Some(file) = folder.open(name).ok().filter(|file| !file.is_disk()) else { return Vec::new() };
    if !is_settings {
        let is_descriptor = matches!(read(&file), Ok(Some(DiskFile::Descriptor(_))));
        return parent_in(&file).filter(|_| is_descriptor).into_iter().collect();
    }
    let Ok(vmx) = settings(&file) else { return Vec::new() };
    let attached = vmx.disks().into_iter().filter_map(|disk| disk.file_name().ok().flatten());
    // Snapshots have their disks under keys of their own.
    let is_of_snapshot = |key: &str| role == Role::SnapshotList && key.to_ascii_lowercase().ends_with(".filename");
    let in_snapshots = vmx.settings().filter(|(key, _)| is_of_snapshot(key));
    attached.chain(in_snapshots.filter_map(|(_, name)| FileName::new(name).ok())).collect()
}

fn parent_in<F: AsPlainFile>(file: &Arc<F>) -> Option<FileName> {
    read(file).ok()??.descriptor()?.parent()?.base_name().ok()
}

/// Settings of a VM.
///
/// # Errors
/// `Unsupported` for a file that is too long, those of [`Vmx::parse`], or of the file.
pub(super) fn settings<F: AsPlainFile>(file: &Arc<F>) -> Result<Vmx> {
    let plain_len = file.plain_file().plain_len();
    let Some(len) = usize::try_from(plain_len).ok().filter(|len| *len <= limits::MAX_TEXT_LEN) else {
        return Err(Error::new(Kind::Unsupported, format!("settings of {plain_len} bytes")));
    };
    let mut text = vec![0; len];
    ImageFile::new(Arc::clone(file)).read_at(0, &mut text).context(|| "reading settings".into())?;
    Vmx::parse(&text).map_err(vmdk_error)
}
