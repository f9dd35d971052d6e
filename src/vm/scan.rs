//! Finding VM folders and their components in a backing directory.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};

use crate::error::{Kind, Result};
use crate::format::header::{ComponentKind, UnverifiedHeader, is_reserved};
use crate::format::names::DiskNames;
use crate::store::header_area::StoredHeader;
use crate::sys::file::{folder_beneath, open_unnoticed, stat_at};
use crate::text::Show;
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::inventory::{self, Entry, Inventory, What};
use crate::vm::under_way::UnderWay;
use crate::vm::{disk, folder, home};

/// A component, where it lies, and what its header says or why it cannot be read.
#[derive(Debug)]
pub struct FoundComponent {
    /// Below the scanned directory. A home's path is its VM folder's.
    pub path: PathBuf,
    /// Home or disk.
    pub kind: ComponentKind,
    /// The header, unverified.
    pub header: Result<StoredHeader>,
    /// Length of the backing file in bytes.
    pub cipher_len: u64,
    /// Of a disk, device and number of its inode: it may have several names.
    pub inode: Option<(u64, u64)>,
    /// A deep rekey that is under way.
    pub deep_rekey: Option<UnderWay>,
}

impl FoundComponent {
    /// Which one it is of the VM folder that was scanned.
    pub fn component(&self) -> Component {
        match self.kind {
            ComponentKind::Home => Component::Home,
            ComponentKind::Disk => Component::Disk(self.path.clone()),
        }
    }

    fn of_disk(folder: &Path, entry: Entry) -> Option<Self> {
        let (kind, inode, cipher_len) = (ComponentKind::Disk, entry.inode(), entry.stored_len());
        let (header, deep_rekey) = if let What::Disk(headers) = entry.what {
            (headers.stored, headers.deep_rekey)
        } else if let What::Erased(mark) = entry.what
            && mark.kind == kind
        {
            (Err(mark.error()), None)
        } else {
            return None;
        };
        Some(Self { path: folder.join(&entry.path), kind, header, cipher_len, inode, deep_rekey })
    }

    /// Whether it was erased: there is nothing left that a key opens.
    pub fn is_erased(&self) -> bool {
        self.header.as_ref().is_err_and(|error| error.kind() == Kind::KeyUnavailable)
    }

    /// What can be tried to unlock.
    pub fn unverified(&self) -> Option<&UnverifiedHeader> {
        self.header.as_ref().ok().map(|stored| &stored.header)
    }
}

/// Leaves each file's first name alone: a disk with several names is one, and can be claimed only once.
pub(crate) fn each_file_once<C: Borrow<FoundComponent>>(found: &mut Vec<C>) {
    let mut seen = HashSet::new();
    found.retain(|component| component.borrow().inode.is_none_or(|inode| seen.insert(inode)));
}

/// All components below `root`: it is a VM folder itself, or a datastore of VM folders. Files that cannot be read are
/// passed over: they belong to no component that this user could unlock.
///
/// # Errors
/// `Io` when `root` cannot be read.
pub fn scan(root: &File) -> Result<Vec<FoundComponent>> {
    let mut found = Vec::new();
    if !scan_folder(root, Path::new(""), &mut found)? {
        for name in folder::sorted_names(root)?.into_iter().filter(|name| !is_reserved(name)) {
            let Ok(dir) = folder_beneath(root, Path::new(&name)) else {
                continue;
            };
            scan_folder(&dir, Path::new(&name), &mut found)?;
        }
    }
    Ok(found)
}

/// Home and disks of one VM folder; only disks where it is not one.
///
/// # Errors
/// As [`scan`].
pub fn scan_vm(folder: &File) -> Result<Vec<FoundComponent>> {
    let mut found = Vec::new();
    if !scan_folder(folder, Path::new(""), &mut found)? {
        scan_disks(folder, Path::new(""), &mut found)?;
    }
    Ok(found)
}

/// Adds the home and the disks of one directory; `false` when it is not a VM folder of ours, not even in part.
fn scan_folder(dir: &File, path: &Path, found: &mut Vec<FoundComponent>) -> Result<bool> {
    let header = match folder::read_whole_home(dir) {
        Ok(None) => return Ok(false),
        Ok(Some(stored)) => Ok(stored),
        Err(error) => Err(error),
    };
    let in_transition = header.as_ref().is_ok_and(|stored| stored.header.claims().transition.is_some());
    let deep_rekey = in_transition.then_some(UnderWay { percent: None });
    let path_of_home = path.to_path_buf();
    let kind = ComponentKind::Home;
    found.push(FoundComponent { path: path_of_home, kind, header, cipher_len: 0, inode: None, deep_rekey });
    scan_disks(dir, path, found)?;
    Ok(true)
}

fn scan_disks(dir: &File, path: &Path, found: &mut Vec<FoundComponent>) -> Result<()> {
    let below = inventory::components_below(dir)?.into_iter().filter(|entry| !entry.reserved);
    found.extend(below.filter_map(|entry| FoundComponent::of_disk(path, entry)));
    Ok(())
}

/// Regular files of a VM folder that are no disks, with paths below it.
///
/// # Errors
/// `Io`.
pub fn home_files(folder: &File) -> Result<Vec<PathBuf>> {
    let files = Inventory::take(folder, &DiskNames::default())?.entries.into_iter();
    Ok(files.filter(|entry| entry.is_shown_file() && !entry.is_disk()).map(|entry| entry.path).collect())
}

/// Folders of a datastore that hold sealed files or disks, but no home header: a mount shows nothing of them. What lies deeper
/// in them is not looked at.
///
/// # Errors
/// `Io` when `root` cannot be read.
pub fn folders_without_home(root: &File) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if has_home(root) {
        return Ok(found);
    }
    for name in folder::sorted_names(root)?.into_iter().filter(|name| !is_reserved(name)) {
        let opened = folder_beneath(root, Path::new(&name));
        if opened.is_ok_and(|dir| !has_home(&dir) && has_ciphertext(&dir)) {
            found.push(PathBuf::from(name));
        }
    }
    Ok(found)
}

/// Files of VM folders that may be disks in the clear, and as well encrypted ones whose header was overwritten: a mount opens none
/// of them. Folders that cannot be read are passed over, as in [`scan`].
///
/// # Errors
/// `Io` when `root` cannot be read.
pub fn files_without_sign(root: &File, disk_names: &DiskNames) -> Result<Vec<PathBuf>> {
    let of_vm = |dir: &File, path: &Path| {
        let is_shown = matches!(folder::read_whole_home(dir), Ok(Some(_)));
        let inventory = is_shown.then(|| Inventory::take(dir, disk_names).ok()).flatten();
        let entries = inventory.map(|inventory| inventory.entries).unwrap_or_default();
        entries.into_iter().filter(Entry::may_be_ciphertext).map(|entry| path.join(entry.path)).collect::<Vec<_>>()
    };
    if has_home(root) {
        return Ok(of_vm(root, Path::new("")));
    }
    let names = folder::sorted_names(root)?.into_iter().filter(|name| !is_reserved(name));
    let folders = names.filter_map(|name| Some((folder_beneath(root, Path::new(&name)).ok()?, name)));
    Ok(folders.flat_map(|(dir, name)| of_vm(&dir, Path::new(&name))).collect())
}

/// The VM folders of a datastore, the first ones by name, for people; `None` for a folder that is not a datastore.
pub fn vm_folders(path: &Path) -> Option<String> {
    const MAX_NAMED: usize = 5;
    let root = folder::open_dir(path).ok()?;
    let is_vm = |name: &OsString| folder_beneath(&root, Path::new(name)).is_ok_and(|dir| has_home(&dir));
    let names = folder::sorted_names(&root).ok()?.into_iter().filter(|name| !is_reserved(name)).filter(is_vm);
    let mut names: Vec<String> = names.take(MAX_NAMED + 1).map(|name| Path::new(&name).shown().to_string()).collect();
    if names.len() > MAX_NAMED {
        names[MAX_NAMED] = "...".to_owned();
    }
    (!names.is_empty()).then(|| names.join(", "))
}

/// Whether a folder is one of a VM: also if its home is damaged, erased, not finished, or there are two.
pub fn has_home(dir: &File) -> bool {
    HomeState::of(dir).map_or(true, |state| state.header_file().is_some())
}

fn has_ciphertext(dir: &File) -> bool {
    let is_ciphertext = |name: &OsString| {
        let is_file =
            stat_at(dir, name).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let file = is_file.then(|| open_unnoticed(dir, name, OFlags::RDONLY).ok()).flatten();
        file.is_some_and(|file| disk::is_disk(&file).unwrap_or(false) || home::is_home_file(&file).unwrap_or(false))
    };
    folder::sorted_names(dir).is_ok_and(|names| names.iter().any(is_ciphertext))
}
