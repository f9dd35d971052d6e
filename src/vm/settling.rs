//! Names that a crash has left changing in a home's list of disks: decided when the home is next opened for changes.

use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::Result;
use crate::format::header::ComponentKind;
use crate::format::members::There;
use crate::storage::claims::Claims;
use crate::storage::{FileStorage, Storage};
use crate::store::header_area;
use crate::sys::file::file_beneath;
use crate::vm::access::claim_backing;
use crate::vm::component::Component;
use crate::vm::owner::Owner;
use crate::vm::{disk, home};

/// Makes the list of the home in `dir` say what lies there of each name that is changing. Until that is done such a name may lead to
/// a disk or to a home file.
///
/// # Errors
/// `Busy` while something changes the home's header or converts its files, whose names may be changing now; those of the list; or
/// `Io`.
pub fn decide_left_names(dir: &File, owner: &Owner, claims: &'static dyn Claims) -> Result<()> {
    let is_left = owner.list()?.is_some_and(|list| list.changing().next().is_some());
    if !is_left {
        return Ok(());
    }
    let _claimed = claim_backing(dir, &Component::Home, claims)?;
    match owner.change(|_| true)? {
        Some(mut change) => change.decide(|path| there(dir, path)),
        None => Ok(()),
    }
}

fn there(dir: &File, path: &Path) -> There {
    match file_beneath(dir, path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => There::Nothing,
        Err(_) => There::Unknown,
        Ok(file) => what(file).unwrap_or(There::Unknown),
    }
}

fn what(file: File) -> Result<There> {
    if disk::is_disk(&file)? {
        let stored = header_area::load(&FileStorage::new(file), ComponentKind::Disk)?;
        return Ok(There::Disk(stored.header.claims().uuid));
    }
    let is_home_file = home::is_home_file(&file)? || FileStorage::new(file).len()? == 0;
    Ok(if is_home_file { There::HomeFile } else { There::Unknown })
}
