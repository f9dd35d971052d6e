//! What one regular file is.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, PREFIX_LEN, component_kind};
use crate::format::home_file::is_home_file;
use crate::format::names::DiskNames;
use crate::format::saved_header::{self, SAVED_LEN, SavedHeader};
use crate::key::KeyId;
use crate::storage::FileStorage;
use crate::store::header_area;
use crate::sys::file::seek_data;
use crate::vm::clear::{self, MIN_RAW_LEN};
use crate::vm::home_state::HomeState;
use crate::vm::inventory::{Headers, What};
use crate::vm::under_way::UnderWay;

/// Says what a file is, by its content; by its name only whether it is its folder's home header, and where the content is silent,
/// whether it is a disk by the list of its home, or of homes that are made here.
///
/// # Errors
/// `Io`.
pub(crate) fn classify(file: File, name: &OsStr, disk_names: &DiskNames) -> Result<What> {
    if let Some(component) = component(&file, name)? {
        return Ok(component);
    }
    let mut prefix = [0; 8];
    let len = read(&file, 0, &mut prefix)?;
    if is_home_file(&prefix[..len]) {
        return Ok(What::Sealed);
    }
    if saved_header::begins(&prefix[..len]) {
        return saved_header(&file);
    }
    let kind = clear::kind_of(&file, name, disk_names)?;
    let may_be_blank = kind.is_disk() && file.metadata().context(|| "reading the length".into())?.len() >= MIN_RAW_LEN;
    if len == 0 || (!may_be_blank && seek_data(&file, 0).context(|| "looking for data".into())?.is_none()) {
        return Ok(What::Empty(kind)); // all of it is a hole
    }
    Ok(What::Clear(kind))
}

/// The component that a file is, whole, damaged or erased; `None` if it is none.
///
/// # Errors
/// `Io`.
pub(super) fn component(file: &File, name: &OsStr) -> Result<Option<What>> {
    let kind = match HomeState::of_header_file(name) {
        Some(_) => Some(ComponentKind::Home),
        None if has_copy_of(file, ComponentKind::Home)? => Some(ComponentKind::Home),
        None if has_copy_of(file, ComponentKind::Disk)? => Some(ComponentKind::Disk),
        None => None,
    };
    kind.map(|kind| headers(file.try_clone().context(|| "duplicating a descriptor".into())?, kind)).transpose()
}

/// Whether a header copy of this kind, or the mark of one that was erased, stands at one of its places.
fn has_copy_of(file: &File, kind: ComponentKind) -> Result<bool> {
    kind.copy_offsets().into_iter().try_fold(false, |found, offset| {
        let mut prefix = [0; PREFIX_LEN];
        let len = read(file, offset, &mut prefix)?;
        Ok(found || (len == PREFIX_LEN && component_kind(&prefix) == Some(kind)))
    })
}

fn headers(file: File, kind: ComponentKind) -> Result<What> {
    let storage = FileStorage::new(file);
    if let Some(erasure) = header_area::erasure(&storage, kind)? {
        return Ok(What::Erased(erasure));
    }
    let copies = header_area::copies(&storage, kind)?;
    let keys: BTreeSet<KeyId> =
        copies.iter().flatten().flat_map(|copy| copy.claims().slots.key_ids()).cloned().collect();
    let uuid = copies.iter().flatten().map(|copy| copy.claims().uuid).next();
    let stored = header_area::choose(kind, copies);
    let current: BTreeSet<&KeyId> = stored.iter().flat_map(|stored| stored.header.claims().slots.key_ids()).collect();
    let former_keys = keys.iter().filter(|key| !current.contains(key)).cloned().collect();
    let in_transition = UnderWay { percent: None };
    let deep_rekey = stored
        .as_ref()
        .ok()
        .and_then(|stored| UnderWay::of(&storage, stored.header.claims()).unwrap_or(Some(in_transition)));
    let headers = Headers { uuid, stored, keys, former_keys, deep_rekey };
    Ok(match kind {
        ComponentKind::Home => What::Home(headers),
        ComponentKind::Disk => What::Disk(headers),
    })
}

fn saved_header(file: &File) -> Result<What> {
    let mut bytes = vec![0; SAVED_LEN + 1];
    let len = read(file, 0, &mut bytes)?;
    Ok(What::SavedHeader(SavedHeader::decode(&bytes[..len])))
}

/// Fills the buffer as far as the file reaches.
fn read(file: &File, offset: u64, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("reading it", error)),
        }
    }
    Ok(filled)
}

/// An error of a system call about an entry: `None` for what has vanished since its name was read.
pub(super) fn unless_gone(error: Error) -> Option<What> {
    (error.kind() != Kind::NotFound).then_some(What::Unreadable(error))
}
