//! Which other files a disk image names: backing and data files, extents, parents.
//!
//! An image is given as its bytes, and may come from anyone: what is read is bounded, and nothing that it names is opened. Where
//! the names lead is not known here. VDI has no names: what a parent is called stands in VirtualBox's settings.

mod json;
mod qemu;
mod virtual_pc;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use vmdk_layout::{DiskFile, Source};

use crate::error::{Context, Error, Kind, Result};
use crate::store::raw_image::vmdk_error;

/// What a file is to the image that names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// What is below it, and its format if the image says so.
    Backing(Option<String>),
    /// Where its guest data is.
    Data,
    /// A part of it.
    Extent,
    /// What a VMDK, VHD or VHDX is a difference to.
    Parent,
}

/// A file that an image names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reference {
    /// What it is.
    pub role: Role,
    /// As it stands there: relative to the image, or absolute.
    pub path: PathBuf,
}

/// All files that an image names by paths of this kind of system; none for what is not an image. Paths of Windows, network
/// addresses and devices of QEMU's are not among them.
///
/// # Errors
/// `Corrupt` or `Unsupported` for an image that cannot be understood, or `Io`.
pub fn of<S: Source + ?Sized>(image: &S) -> Result<Vec<Reference>> {
    let head = read_up_to(image, 0, 8)?;
    match head.as_slice() {
        [b'Q', b'F', b'I', 0xfb, ..] => qemu::qcow2(image),
        [b'Q', b'E', b'D', 0, ..] => qemu::qed(image),
        b"vhdxfile" => virtual_pc::vhdx(image),
        b"conectix" => virtual_pc::vhd(image),
        _ => vmdk(image),
    }
}

fn vmdk<S: Source + ?Sized>(image: &S) -> Result<Vec<Reference>> {
    if !DiskFile::is_recognised(&read_up_to(image, 0, 512)?) {
        return Ok(Vec::new());
    }
    let disk = DiskFile::read(image).map_err(vmdk_error)?;
    let Some(descriptor) = disk.descriptor() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for text in descriptor.extents().iter().filter_map(|extent| extent.file.as_deref()) {
        found.extend(named(text.as_bytes(), &Role::Extent));
    }
    if let Some(hint) = descriptor.parent().and_then(|parent| parent.hint.as_deref()) {
        found.extend(named(hint.as_bytes(), &Role::Parent));
    }
    Ok(found)
}

/// What a name means: QEMU's pseudo-protocols `file:` and `json:` are resolved.
fn named(text: &[u8], role: &Role) -> Vec<Reference> {
    let paths = if let Some(options) = text.strip_prefix(b"json:") {
        json::file_names(options)
    } else {
        path_of(text).into_iter().collect()
    };
    paths.into_iter().map(|path| Reference { role: role.clone(), path }).collect()
}

/// A path, if the text is one of this kind of system.
fn path_of(text: &[u8]) -> Option<PathBuf> {
    let text = text.strip_prefix(b"file:").unwrap_or(text);
    let first = text.split(|byte| *byte == b'/').next().unwrap_or_default();
    let is_foreign = first.contains(&b':') || first.contains(&b'\\') || text.contains(&0);
    (!text.is_empty() && !is_foreign).then(|| Path::new(OsStr::from_bytes(text)).to_path_buf())
}

/// Bytes of an image from an offset on, fewer at its end.
fn read_up_to<S: Source + ?Sized>(image: &S, offset: u64, len: u64) -> Result<Vec<u8>> {
    let doing = || format!("reading the image at {offset}");
    let end = offset.saturating_add(len).min(image.byte_len().context(doing)?);
    let len = usize::try_from(end.saturating_sub(offset)).map_err(|_| damaged("an offset too far"))?;
    let mut bytes = vec![0; len];
    image.read_at(offset, &mut bytes).context(doing)?;
    Ok(bytes)
}

/// Exactly this many bytes.
fn read<S: Source + ?Sized>(image: &S, offset: u64, len: u64) -> Result<Vec<u8>> {
    let bytes = read_up_to(image, offset, len)?;
    match bytes.len() as u64 == len {
        true => Ok(bytes),
        false => Err(damaged(&format!("{len} bytes at {offset}, the image ends before"))),
    }
}

/// A field of fixed length.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let field = bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
    field.copied().ok_or_else(|| damaged(&format!("a header of {} bytes", bytes.len())))
}

fn damaged(what: &str) -> Error {
    Error::new(Kind::Corrupt, format!("a damaged disk image: {what}"))
}

#[cfg(test)]
mod tests;
