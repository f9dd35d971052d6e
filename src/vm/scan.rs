//! Finding VM folders and their components in a backing directory.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::error::{Context, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, RESERVED_PREFIX, UnverifiedHeader};
use crate::store::header_area::StoredHeader;
use crate::sys::file::{entries, open_beneath, open_unnoticed, stat_at};
use crate::text::Show;
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::under_way::UnderWay;
use crate::vm::{disk, folder, home};

/// Directories deeper than this below a VM folder are not searched for disks.
pub(crate) const MAX_DEPTH: usize = 128;

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

/// Names that a mount never shows and a user never makes.
pub fn is_reserved(name: &OsStr) -> bool {
    name == HOME_FILE || name.as_bytes().starts_with(RESERVED_PREFIX.as_bytes())
}

/// All components below `root`: it is a VM folder itself, or a datastore of VM folders. Files that cannot be read are
/// passed over: they belong to no component that this user could unlock.
///
/// # Errors
/// `Io` when `root` cannot be read.
pub fn scan(root: &File) -> Result<Vec<FoundComponent>> {
    let mut found = Vec::new();
    if !scan_folder(root, Path::new(""), &mut found)? {
        for name in sorted_names(root)?.into_iter().filter(|name| !is_reserved(name)) {
            let Ok(dir) = open_beneath(root, Path::new(&name), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            else {
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

/// Adds the home and the disks of one directory; `false` when it is no VM folder of ours, not even in part.
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
    walk(dir, path, 0, &mut |dir, name, path| scan_file(dir, name, path, found))
}

/// Calls `each` for every regular file at or below a directory that a mount would show.
fn walk(
    dir: &File,
    path: &Path,
    depth: usize,
    each: &mut dyn FnMut(&File, &OsStr, PathBuf) -> Result<()>,
) -> Result<()> {
    for name in sorted_names(dir)? {
        let Ok(stat) = stat_at(dir, &name) else { continue };
        let path = path.join(&name);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::RegularFile && !is_reserved(&name) {
            each(dir, &name, path)?;
        } else if kind == FileType::Directory
            && depth < MAX_DEPTH
            && let Ok(below) = folder::open_at(dir, &name)
        {
            walk(&below, &path, depth + 1, each)?;
        }
    }
    Ok(())
}

/// Regular files of a VM folder that are no disks, with paths below it.
///
/// # Errors
/// `Io`.
pub fn home_files(folder: &File) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut found = Vec::new();
    walk(folder, Path::new(""), 0, &mut |dir, name, path| {
        let before = found.len();
        scan_file(dir, name, path.clone(), &mut found)?;
        if found.len() == before {
            files.push(path);
        }
        Ok(())
    })?;
    Ok(files)
}

fn scan_file(dir: &File, name: &OsStr, path: PathBuf, found: &mut Vec<FoundComponent>) -> Result<()> {
    let Ok(file) = open_unnoticed(dir, name, OFlags::RDONLY) else { return Ok(()) };
    if !disk::is_disk(&file)? {
        return Ok(());
    }
    let metadata = file.metadata().context(|| format!("reading attributes of {}", path.shown()))?;
    let (cipher_len, inode) = (metadata.len(), Some((metadata.dev(), metadata.ino())));
    let (header, deep_rekey) = match disk::read_header(file) {
        Ok((storage, stored)) => {
            let under_way = UnderWay::of(&storage, stored.header.claims()).unwrap_or(Some(UnderWay { percent: None }));
            (Ok(stored), under_way)
        }
        Err(error) => (Err(error), None),
    };
    found.push(FoundComponent { path, kind: ComponentKind::Disk, header, cipher_len, inode, deep_rekey });
    Ok(())
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
    for name in sorted_names(root)?.into_iter().filter(|name| !is_reserved(name)) {
        let opened = open_beneath(root, Path::new(&name), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
        if opened.is_ok_and(|dir| !has_home(&dir) && has_ciphertext(&dir)) {
            found.push(PathBuf::from(name));
        }
    }
    Ok(found)
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
    sorted_names(dir).is_ok_and(|names| names.iter().any(is_ciphertext))
}

/// Names in a directory, `.` and `..` aside.
///
/// # Errors
/// `Io`.
pub(crate) fn sorted_names(dir: &File) -> Result<Vec<OsString>> {
    let names = |dir: &File| -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in entries(dir)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(&name).to_os_string());
            }
        }
        names.sort();
        Ok(names)
    };
    names(dir).context(|| "reading a folder".into())
}
