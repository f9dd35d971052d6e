//! What a home's tree holds now, as a manifest has it.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::crypto::derive::{Sha256, sha256};
use crate::error::{Context, Result};
use crate::format::home_file::plain_len;
use crate::format::manifest::{Digest, Entry, EntryKind, ManifestVersion};
use crate::format::names::DiskNames;
use crate::progress::GoOn;
use crate::storage::FileStorage;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::sys::file::{file_beneath, folder_beneath, readable};
use crate::text::Show;
use crate::vm::attributes::{xattr, xattr_names};
use crate::vm::inventory::{self, Inventory, Link, What};

/// How a tree is looked through.
#[derive(Clone, Copy)]
pub(super) struct Look<'l> {
    /// What entries say of files is that of manifests of this version.
    pub(super) version: ManifestVersion,
    /// Asked before each name, twice.
    pub(super) go_on: &'l GoOn<'l>,
}

/// Looks through a VM folder. What does not open under the keys of the home is of the kind "anything else".
///
/// # Errors
/// `Io`, and that of `go_on`.
pub(super) fn look(dir: &File, disk_names: &DiskNames, keys: &HomeKeys, look: Look<'_>) -> Result<Vec<Entry>> {
    let own = |entry: &&inventory::Entry| !entry.reserved && entry.vm.as_deref() == Some(Path::new(""));
    let found = Inventory::take_watched(dir, disk_names, look.go_on)?;
    let looked = found.entries.iter().filter(own).map(|entry| {
        (look.go_on)()?;
        entry_of(dir, entry, keys, look.version).context(|| format!("looking at {}", entry.path.shown()))
    });
    let mut entries = looked.collect::<Result<Vec<Entry>>>()?;
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// Makes durable what of a tree differs from an older one: a manifest must not be ahead of what it is of.
///
/// # Errors
/// `Io`.
pub(super) fn sync_changes(dir: &File, old: &[Entry], new: &[Entry]) -> Result<()> {
    let old: HashMap<&[u8], &Entry> = old.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
    for entry in new {
        let changed = old.get(entry.path.as_slice()).is_none_or(|old| *old != entry);
        let path = path_of(entry);
        let file = match entry.kind {
            EntryKind::Folder => open_folder(dir, path),
            EntryKind::File | EntryKind::Empty | EntryKind::Disk if changed => file_beneath(dir, path),
            EntryKind::File | EntryKind::Empty | EntryKind::Disk | EntryKind::Link | EntryKind::Other => continue,
        };
        let synced = file.and_then(|file| Ok(rustix::fs::fsync(file)?));
        synced.context(|| format!("making {} durable", path.shown()))?;
    }
    Ok(())
}

fn entry_of(dir: &File, entry: &inventory::Entry, keys: &HomeKeys, version: ManifestVersion) -> Result<Entry> {
    let plain = |kind| Entry {
        path: entry.path.as_os_str().as_bytes().to_vec(),
        kind,
        id: [0; 16],
        content: [0; 32],
        values: [0; 32],
    };
    Ok(match &entry.what {
        What::Folder(_) => {
            let folder = open_folder(dir, &entry.path).context(|| "opening it".into())?;
            Entry { values: values(&folder)?, ..plain(EntryKind::Folder) }
        }
        What::Sealed => {
            let file = open_file(dir, &entry.path)?;
            let values = values(&file)?;
            let opened = HomeFile::open(FileStorage::new(file), keys);
            let state = opened.and_then(|file| Ok((file.id(), file.state_digest(version)?)));
            match state {
                Ok((Some(id), content)) => Entry { id: id.0, content, values, ..plain(EntryKind::File) },
                Ok((None, content)) => Entry { content, values, ..plain(EntryKind::Empty) },
                Err(_) => plain(EntryKind::Other),
            }
        }
        What::Empty(_) => {
            let file = open_file(dir, &entry.path)?;
            let (values, content) = (values(&file)?, length(&file, version)?);
            Entry { content, values, ..plain(EntryKind::Empty) }
        }
        What::Disk(headers) => match headers.uuid {
            Some(uuid) => {
                let values = values(&open_file(dir, &entry.path)?)?;
                Entry { id: uuid.into_bytes(), values, ..plain(EntryKind::Disk) }
            }
            None => plain(EntryKind::Other),
        },
        What::Erased(mark) => Entry { id: mark.uuid.unwrap_or_default().into_bytes(), ..plain(EntryKind::Disk) },
        What::Link(Link::Sealed) => {
            Entry { content: sha256(link_text(dir, &entry.path)?.as_bytes()), ..plain(EntryKind::Link) }
        }
        What::Home(_)
        | What::SavedHeader(_)
        | What::Clear(_)
        | What::Link(Link::Inside(_) | Link::Outside(_))
        | What::Special(_)
        | What::Mount
        | What::Unreadable(_) => plain(EntryKind::Other),
    })
}

/// Where an entry lies.
pub(super) fn path_of(entry: &Entry) -> &Path {
    Path::new(OsStr::from_bytes(&entry.path))
}

pub(super) fn open_folder(dir: &File, path: &Path) -> std::io::Result<File> {
    if path.as_os_str().is_empty() { readable(dir) } else { folder_beneath(dir, path) }
}

pub(super) fn open_file(dir: &File, path: &Path) -> Result<File> {
    file_beneath(dir, path).context(|| "opening it".into())
}

/// The text of a symbolic link as it is stored.
pub(super) fn link_text(dir: &File, path: &Path) -> Result<CString> {
    let parent = open_folder(dir, path.parent().unwrap_or(Path::new("")));
    let parent = parent.context(|| "opening its folder".into())?;
    rustix::fs::readlinkat(&parent, path.file_name().unwrap_or_default(), Vec::new())
        .context(|| "reading a symbolic link".into())
}

/// Of a file that is a hole: of an empty one zeros.
fn length(file: &File, version: ManifestVersion) -> Result<Digest> {
    let len = file.metadata().context(|| "asking for its length".into())?.len();
    let tells = version != ManifestVersion::First && len > 0;
    Ok(if tells { sha256(&len.to_le_bytes()) } else { [0; 32] })
}

/// Whether a home file in this state is the hole of which a manifest of this version has an entry, with a header that it got since.
pub(super) fn is_hole_with_header(was: &Entry, file: &File, state: &Digest, version: ManifestVersion) -> Result<bool> {
    let len = file.metadata().context(|| "asking for its length".into())?.len();
    let mut empty = Sha256::new();
    empty.add(plain_len(len).to_le_bytes());
    if version != ManifestVersion::First {
        empty.add([0; 16]); // its known and its filled length
    }
    Ok(was.kind == EntryKind::Empty && was.content == length(file, version)? && *state == empty.finish())
}

/// Of the extended attributes of the `user` namespace, as they are stored, in the order of their names.
pub(super) fn values(file: &File) -> Result<Digest> {
    let names = user_names(file)?;
    if names.is_empty() {
        return Ok([0; 32]);
    }
    let mut values = Sha256::new();
    for name in names {
        let value = xattr(file, &name)?;
        for part in [name.as_bytes(), &value] {
            values.add((part.len() as u64).to_le_bytes());
            values.add(part);
        }
    }
    Ok(values.finish())
}

/// Those of these attributes.
pub(super) fn user_names(file: &File) -> Result<Vec<OsString>> {
    let mut names = xattr_names(file)?;
    names.retain(|name| name.as_bytes().starts_with(b"user."));
    names.sort();
    Ok(names)
}
