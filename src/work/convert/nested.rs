//! Content that is ciphertext of vmcryptfs itself: a copy of an encrypted disk, say, kept as data in an encrypted VM.
//!
//! Once such a file is decrypted, it looks as if it were not, since content tells what is left to do. So it is refused before
//! anything is decrypted. docs/FORMAT.md, section 11.

use std::fs::File;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, PREFIX_LEN, component_kind};
use crate::format::home_file::is_home_file;
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeKeys, open_target};
use crate::sys::file::folder_beneath;
use crate::vm::open_form::OpenForm;
use crate::work::convert::attributes;

/// Refuses a file whose content would be taken for an encrypted disk or a file of an encrypted home.
///
/// # Errors
/// `Denied`, `Corrupt`, or `Io`.
pub(super) fn refuse_ciphertext(file: &OpenForm) -> Result<()> {
    let mut buffer = request_buffer();
    for offset in ComponentKind::Disk.copy_offsets() {
        let beginning = file.content().read_at(offset, PREFIX_LEN, &mut buffer)?;
        let is_disk = <[u8; PREFIX_LEN]>::try_from(beginning).is_ok_and(|prefix| component_kind(&prefix).is_some());
        if is_disk || (offset == 0 && is_home_file(beginning)) {
            return Err(refusal("its content is itself an encrypted file of vmcryptfs"));
        }
    }
    Ok(())
}

/// Refuses a symbolic link's target that would be taken for a sealed one.
///
/// # Errors
/// `Denied`.
pub(super) fn refuse_sealed_target(keys: &HomeKeys, target: &[u8]) -> Result<()> {
    if open_target(keys, target).is_ok() { Err(refusal("its target is itself a sealed one")) } else { Ok(()) }
}

/// Refuses a folder with an extended attribute whose value would be taken for a sealed one.
///
/// # Errors
/// `Denied`, or `Io`.
pub(super) fn refuse_sealed_values(root: &File, keys: &HomeKeys, folder: &Path) -> Result<()> {
    let dir = folder_beneath(root, folder).context(|| "opening it".into())?;
    match attributes::has_nested_values(&dir, keys)? {
        true => Err(refusal("the value of an extended attribute is itself a sealed one")),
        false => Ok(()),
    }
}

fn refusal(what: &str) -> Error {
    Error::new(
        Kind::Denied,
        format!(
            "{what}: once decrypted, it could not be distinguished from what is still to be decrypted; move it away through a mount first"
        ),
    )
}
