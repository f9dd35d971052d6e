//! Which disks were meant, and what someone should know of a folder before it is converted.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use vmdk_layout::{DiskFile, Role};

use crate::error::{Context, Error, Kind, Result};
use crate::storage::FileStorage;
use crate::store::buffer::request_buffer;
use crate::store::home_file::HomeKeys;
use crate::store::plain_file::MAX_REQUEST;
use crate::sys::file::open_beneath;
use crate::text::Show;
use crate::vm::convert::form::Target;
use crate::vm::convert::tree::{Entry, Found, by_inode};

/// The paths that were meant by names of disks: a VMDK descriptor, as VMware names its disks, means the extents beside it.
/// All names of a file are meant by any of them.
///
/// # Errors
/// `NotFound`, `Invalid` for what is no regular file, or `Io`.
pub(super) fn disks(
    root: &File,
    entries: &[Entry],
    keys: Option<&HomeKeys>,
    names: &[PathBuf],
) -> Result<HashSet<PathBuf>> {
    let mut chosen = HashSet::new();
    for name in names {
        let name: PathBuf = name.components().collect(); // without `./` and doubled slashes
        let entry = entries.iter().find(|entry| entry.path == name);
        let entry =
            entry.ok_or_else(|| Error::new(Kind::NotFound, format!("no disk {} in this VM folder", name.shown())))?;
        match entry.found {
            Found::Clear(kind) if kind.is_disk() => drop(chosen.insert(name)),
            Found::Disk => drop(chosen.insert(name)),
            Found::Clear(_) | Found::Sealed => match (extents(root, entry, keys)?, entry.found) {
                (Some(extents), _) => chosen.extend(extents),
                (None, Found::Sealed) => return Err(no_disk(&name)),
                (None, _) => drop(chosen.insert(name)),
            },
            Found::Folder | Found::ClearLink | Found::SealedLink | Found::Neither | Found::Foreign => {
                return Err(no_disk(&name));
            }
        }
    }
    Ok(with_all_names(entries, chosen))
}

/// Adds all other names of files that are meant by one.
pub(super) fn with_all_names(entries: &[Entry], mut paths: HashSet<PathBuf>) -> HashSet<PathBuf> {
    for names in by_inode(entries.iter().filter(|entry| matches!(entry.found, Found::Clear(_) | Found::Disk))) {
        if names.len() > 1 && names.iter().any(|entry| paths.contains(&entry.path)) {
            paths.extend(names.iter().map(|entry| entry.path.clone()));
        }
    }
    paths
}

fn no_disk(name: &Path) -> Error {
    Error::new(Kind::Invalid, format!("{} is no disk", name.shown()))
}

/// The extents that a VMDK descriptor names, if the file is one.
fn extents(root: &File, entry: &Entry, keys: Option<&HomeKeys>) -> Result<Option<Vec<PathBuf>>> {
    let text = beginning(root, entry, keys).context(|| format!("reading {}", entry.path.shown()))?;
    let Ok(DiskFile::Descriptor(descriptor)) = DiskFile::read(text.as_slice()) else { return Ok(None) };
    let mut paths = Vec::new();
    for extent in descriptor.extents() {
        let name = extent.file_name().map_err(|error| {
            Error::with_source(Kind::Invalid, format!("an extent of {}", entry.path.shown()), error)
        })?;
        paths.extend(name.map(|name| entry.path.with_file_name(name.as_str())));
    }
    Ok(Some(paths))
}

/// The content of a file as programs see it, at most what a descriptor can have.
fn beginning(root: &File, entry: &Entry, keys: Option<&HomeKeys>) -> Result<Vec<u8>> {
    let file = open_beneath(root, &entry.path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
        .context(|| "opening it".into())?;
    let storage = FileStorage::new(file);
    let form = match keys.filter(|_| entry.found == Found::Sealed) {
        Some(keys) => Target::Home(keys).open(storage)?,
        None => Target::Clear.open(storage)?,
    };
    let mut buffer = request_buffer();
    form.content().read_at(0, MAX_REQUEST, &mut buffer).map(<[u8]>::to_vec)
}

/// What is worth knowing before anything is touched.
pub(super) fn notes(entries: &[Entry]) -> Vec<String> {
    let mut notes = Vec::new();
    for names in by_inode(entries.iter().filter(|entry| matches!(entry.found, Found::Clear(_)))) {
        let outside = names[0].stat.st_nlink.saturating_sub(names.len() as u64);
        if outside > 0 {
            let path = names[0].path.shown();
            notes.push(format!(
                "{path} has {outside} more hard links outside of this folder: its content stays there as it is"
            ));
        }
    }
    let lock = entries.iter().find(|entry| {
        let name = entry.path.file_name().unwrap_or_default().to_string_lossy();
        Role::of_name(&name) == Role::Lock
    });
    notes.extend(lock.map(|lock| format!("{} looks like a lock of VMware's: is the VM off?", lock.path.shown())));
    notes
}
