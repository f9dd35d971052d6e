//! Which disks were meant, and what someone should know of a folder before it is converted.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use vmdk_layout::{Descriptor, DiskFile, FileName, Parent, Role};

use crate::error::{Context, Error, Kind, Result};
use crate::storage::FileStorage;
use crate::store::home_file::HomeKeys;
use crate::store::raw_image::vmdk_error;
use crate::sys::file::file_beneath;
use crate::text::advice::below_vm_folder;
use crate::text::{Show, quoted};
use crate::vm::inventory::misplaced::Misplaced;
use crate::vm::open_form::OpenForm;
use crate::vm::vmdk;
use crate::work::convert::tree::{Entry, EntryForm, by_inode};

/// Anything smaller is not a disk, whatever it is called.
const MIN_DISK_LEN: u64 = 64 << 10;

/// Disks that were meant.
pub(super) struct Choice {
    /// Their paths, all names of each.
    pub(super) paths: HashSet<PathBuf>,
    /// What else belongs to them and was not meant.
    pub(super) notes: Vec<String>,
}

/// The disks that were meant by names: a VMDK descriptor, as VMware names its disks, means the extents beside it. All names of a
/// file are meant by any of them.
///
/// # Errors
/// `NotFound`, also for an extent, `Invalid` for what is not a regular file, `Corrupt` or `Unsupported` for a descriptor that cannot be
/// read, or `Io`.
pub(super) fn disks(root: &File, entries: &[Entry], keys: Option<&HomeKeys>, names: &[PathBuf]) -> Result<Choice> {
    let folder = Folder { root, entries, keys };
    let (mut chosen, mut parents) = (HashSet::new(), Vec::new());
    for name in names {
        let name = cleaned(name);
        let entry = folder.entry(&name);
        let entry =
            entry.ok_or_else(|| Error::new(Kind::NotFound, format!("no disk {} in this VM folder", name.shown())))?;
        match entry.found {
            EntryForm::Clear(kind) if kind.is_disk() => drop(chosen.insert(name)),
            EntryForm::Disk => drop(chosen.insert(name)),
            EntryForm::Clear(_) | EntryForm::Sealed => match (folder.descriptor(entry)?, entry.found) {
                (Some(descriptor), _) => {
                    chosen.extend(folder.extents(entry, &descriptor)?);
                    parents.extend(descriptor.parent().map(|parent| (name, parent.clone())));
                }
                (None, EntryForm::Sealed) => return Err(no_disk(&name)),
                (None, _) => drop(chosen.insert(name)),
            },
            EntryForm::Folder
            | EntryForm::ClearLink
            | EntryForm::SealedLink
            | EntryForm::FormNeutral
            | EntryForm::UnreadableOrForeign => {
                return Err(no_disk(&name));
            }
        }
    }
    let paths = with_all_names(entries, chosen);
    let notes = parents.iter().filter_map(|(child, parent)| folder.note_on_parents(child, parent, &paths)).collect();
    Ok(Choice { paths, notes })
}

/// What to say of files that may be disks in the clear, and as well encrypted ones.
pub(super) fn no_sign(paths: &[&Path]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.shown().to_string()).collect();
    let (are, disk, one, header) = match paths {
        [_] => ("is", "a disk", "an encrypted one", "header was"),
        _ => ("are", "disks", "encrypted ones", "headers were"),
    };
    let name = if let [only] = paths { quoted(&below_vm_folder(only)) } else { "VM_FOLDER/NAME".into() };
    format!(
        "no sign of what {} {are}: {disk} in the clear, or {one} whose {header} overwritten, which `vmcryptfs header restore {name} FILE` brings back",
        names.join(", ")
    )
}

/// The same option for each of these files, as a shell takes it.
pub(super) fn options(option: &str, paths: &[&Path]) -> String {
    let options: Vec<String> = paths.iter().map(|path| format!("{option} {}", quoted(path))).collect();
    options.join(" ")
}

/// What is not as the home says of its disks, of what was named.
pub(super) fn of_named(misplaced: &[Misplaced], names: &[PathBuf]) -> Vec<Misplaced> {
    let names: HashSet<PathBuf> = names.iter().map(|name| cleaned(name)).collect();
    misplaced.iter().filter(|other| names.contains(&other.path)).cloned().collect()
}

/// A path without `.`.
fn cleaned(name: &Path) -> PathBuf {
    name.components().filter(|part| *part != Component::CurDir).collect()
}

/// Adds all other names of files that are meant by one.
pub(super) fn with_all_names(entries: &[Entry], mut paths: HashSet<PathBuf>) -> HashSet<PathBuf> {
    for names in by_inode(entries.iter().filter(|entry| matches!(entry.found, EntryForm::Clear(_) | EntryForm::Disk))) {
        if names.len() > 1 && names.iter().any(|entry| paths.contains(&entry.path)) {
            paths.extend(names.iter().map(|entry| entry.path.clone()));
        }
    }
    paths
}

fn no_disk(name: &Path) -> Error {
    Error::new(Kind::Invalid, format!("{} is not a disk", name.shown()))
}

/// Where descriptors and what they name are looked for.
struct Folder<'a> {
    root: &'a File,
    entries: &'a [Entry],
    keys: Option<&'a HomeKeys>,
}

impl Folder<'_> {
    fn entry(&self, path: &Path) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.path == path)
    }

    /// The VMDK descriptor that a file is; `None` if it is none.
    fn descriptor(&self, entry: &Entry) -> Result<Option<Descriptor>> {
        let named = || format!("{}: its extents are not known", entry.path.shown());
        let form = open_file(self.root, entry, self.keys).context(named)?;
        match vmdk::read(&Arc::new(form)).context(named)? {
            Some(DiskFile::Descriptor(descriptor)) => Ok(Some(descriptor)),
            None if entry.len() < MIN_DISK_LEN && vmdk::has_vmdk_name(entry.path.as_os_str()) => Err(Error::new(
                Kind::Corrupt,
                format!(
                    "{} is called as a VMDK's descriptor is, but is not one: its extents are not known",
                    entry.path.shown()
                ),
            )),
            Some(DiskFile::Monolithic { .. } | DiskFile::Extent(_)) | None => Ok(None),
        }
    }

    /// The files of a descriptor's extents, all of which are there.
    fn extents(&self, entry: &Entry, descriptor: &Descriptor) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for extent in descriptor.extents() {
            let of = || format!("{}, line {}", entry.path.shown(), extent.line);
            let Some(name) = extent.file_name().map_err(vmdk_error).context(of)? else { continue };
            let path = self.beside(&entry.path, &name).context(of)?;
            match self.entry(&path).map(|extent| extent.found) {
                Some(EntryForm::Clear(_) | EntryForm::Disk) => paths.push(path),
                _ => return Err(no_disk(&path)).context(of),
            }
        }
        if paths.is_empty() {
            let message = format!("{} names no file with an extent: no disk is known by it", entry.path.shown());
            return Err(Error::new(Kind::Corrupt, message));
        }
        Ok(paths)
    }

    /// The file of a name that another file gives, which VMware may spell in another case or form.
    fn beside(&self, path: &Path, name: &FileName) -> Result<PathBuf> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let names = self.entries.iter().filter(|entry| entry.path.parent() == Some(folder));
        let names: Vec<_> = names.filter_map(|entry| Some(entry.path.file_name()?.to_os_string())).collect();
        vmdk::meant(name, names).map(|name| folder.join(name))
    }

    /// What a snapshot builds on, if it stays in the clear.
    fn note_on_parents(&self, child: &Path, parent: &Parent, chosen: &HashSet<PathBuf>) -> Option<String> {
        let of_extents = |entry: &Entry, descriptor: &Descriptor| {
            let extents = self.extents(entry, descriptor).unwrap_or_default();
            extents.into_iter().find(|path| {
                let is_clear = self.entry(path).is_some_and(|entry| matches!(entry.found, EntryForm::Clear(_)));
                is_clear && !chosen.contains(path)
            })
        };
        let (mut parent, mut seen) = (parent.clone(), HashSet::new());
        loop {
            let hint = parent.hint.clone().unwrap_or_default();
            let path = parent.base_name().ok().and_then(|name| self.beside(child, &name).ok());
            let Some(entry) = path.as_deref().and_then(|path| self.entry(path)) else {
                return Some(format!(
                    "{} is a snapshot of {}, which is not in this folder and is left unchanged",
                    child.shown(),
                    hint.shown()
                ));
            };
            if !seen.insert(entry.path.clone()) {
                return None; // a loop, which is not a disk anyway
            }
            let descriptor = match entry.found {
                EntryForm::Clear(kind) if kind.is_disk() && !chosen.contains(&entry.path) => {
                    return Some(stays(child, &entry.path, &entry.path));
                }
                EntryForm::Clear(_) | EntryForm::Sealed => self.descriptor(entry).ok().flatten()?,
                EntryForm::Folder
                | EntryForm::Disk
                | EntryForm::ClearLink
                | EntryForm::SealedLink
                | EntryForm::FormNeutral
                | EntryForm::UnreadableOrForeign => {
                    return None;
                }
            };
            if let Some(extent) = of_extents(entry, &descriptor) {
                return Some(stays(child, &entry.path, &extent));
            }
            parent = descriptor.parent()?.clone();
        }
    }
}

fn stays(child: &Path, parent: &Path, clear: &Path) -> String {
    format!(
        "{} is a snapshot of {}, and {} remains in the clear: --disk {} includes it as well",
        child.shown(),
        parent.shown(),
        clear.shown(),
        parent.shown()
    )
}

/// Opens a regular file that is in the clear or sealed by the home, for reading.
///
/// # Errors
/// `Corrupt`, or `Io`.
pub(super) fn open_file(root: &File, entry: &Entry, keys: Option<&HomeKeys>) -> Result<OpenForm> {
    let file = file_beneath(root, &entry.path).context(|| "opening it".into())?;
    let storage = FileStorage::new(file);
    match keys.filter(|_| entry.found == EntryForm::Sealed) {
        Some(keys) => OpenForm::home(storage, keys),
        None => OpenForm::clear(storage),
    }
}

/// What is worth knowing before anything is touched.
pub(super) fn notes(entries: &[Entry]) -> Vec<String> {
    let mut notes = Vec::new();
    for names in by_inode(entries.iter().filter(|entry| matches!(entry.found, EntryForm::Clear(_)))) {
        let outside = names[0].stat.st_nlink.saturating_sub(names.len() as u64);
        if outside > 0 {
            let path = names[0].path.shown();
            notes.push(format!(
                "{path} has {outside} more hard links outside of this folder: their content is unchanged"
            ));
        }
    }
    let lock = entries.iter().find(|entry| {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        // A disk is none, whatever an editor or a backup has added to its name.
        let is_disk = entry.found == EntryForm::Disk || matches!(entry.found, EntryForm::Clear(kind) if kind.is_disk());
        !is_disk && Role::of_name(&name) == Role::Lock
    });
    notes.extend(lock.map(|lock| format!("{} looks like a lock of VMware's: is the VM off?", lock.path.shown())));
    notes
}
