//! VMDKs of a VM folder: which files are one, what it is made of, and its bytes as one raw image.
//!
//! A VMDK is known by its content: a descriptor, or a sparse disk with its descriptor within. A guest must not make one: names of
//! extents are never looked into, and a disk leads to other files only if the home names it as a VMDK (module `named`). Its extents and
//! its parents are files of the same folder; no name leads out of it.

mod create;
mod inventory;
mod named;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use vmdk_layout::{
    Access, Ancestry, Chain, Descriptor, DiskFile, FileName, Kind as VmdkKind, Layout, Meant, Role, Side, Source,
};

use crate::error::{Context, Error, Kind, Result};
use crate::store::raw_image::{AsPlainFile, ImageFile, RawImage, vmdk_error};
use crate::text::{Show, Shown};

pub use create::{create, is_new_vmdk};
pub use inventory::{FoundFile, FoundVmdk, VmdkInventory, files, vmdks};

/// How names of VMDKs end, in either case.
const ENDING: &[u8] = b".vmdk";
/// How names of raw images end.
const RAW_ENDING: &[u8] = b".raw";

/// The files of one VM folder, opened for reading.
pub trait VmFiles {
    /// An open file.
    type File: AsPlainFile;

    /// Opens the file of this name.
    ///
    /// # Errors
    /// `NotFound`, `KeyUnavailable` when it is locked, `Busy`, or what else opening a file gives.
    fn open(&self, name: &OsStr) -> Result<Arc<Self::File>>;

    /// The names of the folder's regular files.
    ///
    /// # Errors
    /// `Io`.
    fn names(&self) -> Result<Vec<OsString>>;
}

/// The file that a descriptor or a VM's settings name: of this name, else the only one whose name differs in case or
/// Unicode form only.
///
/// # Errors
/// `NotFound` if there is none, with those that it might be if there are several.
pub fn meant(wanted: &FileName, names: Vec<OsString>) -> Result<OsString> {
    match wanted.find(names, |name| name.as_bytes()) {
        Meant::One(name) => Ok(name),
        Meant::Several(names) => {
            let names: Vec<_> = names.iter().map(|name| name.shown().to_string()).collect();
            let message = format!("{} does not exist, and may be any of {}", called(wanted), names.join(", "));
            Err(Error::new(Kind::NotFound, message))
        }
        Meant::None => Err(Error::new(Kind::NotFound, format!("{} does not exist", called(wanted)))),
    }
}

/// A name from a descriptor, as people are shown it.
fn called(name: &FileName) -> Shown<'_> {
    OsStr::from_bytes(name.spellings().next().unwrap_or_default()).shown()
}

/// Opens the file that is [meant]. The folder is only listed if none has just this name.
fn open_meant<V: VmFiles>(folder: &V, wanted: &FileName) -> Result<(OsString, Arc<V::File>)> {
    for spelling in wanted.spellings().map(OsStr::from_bytes) {
        match folder.open(spelling) {
            Err(error) if error.kind() == Kind::NotFound => {}
            opened => return Ok((spelling.to_os_string(), opened?)),
        }
    }
    let name = meant(wanted, folder.names()?)?;
    let file = folder.open(&name)?;
    Ok((name, file))
}

/// Whether a file may be a VMDK, by its name. That of an extent is none: guests write those.
pub fn has_vmdk_name(name: &OsStr) -> bool {
    stem(name).is_some()
}

/// The name of a VMDK's raw image: `root.raw` for `root.vmdk`.
pub fn raw_name(vmdk: &OsStr) -> Option<OsString> {
    stem(vmdk).map(|stem| OsString::from_vec([stem, RAW_ENDING].concat()))
}

/// Which of the names in a folder is the VMDK of a raw image's name. Where several differ only in case, it is the first
/// in the order of bytes, which has the most capital letters; the others have no raw image.
pub fn vmdk_name(raw: &OsStr, names: impl IntoIterator<Item = OsString>) -> Option<OsString> {
    names.into_iter().filter(|name| raw_name(name).is_some_and(|own| own == raw)).min()
}

fn stem(name: &OsStr) -> Option<&[u8]> {
    let name = name.as_bytes();
    let (stem, ending) = name.split_at_checked(name.len().checked_sub(ENDING.len())?)?;
    let is_disk = || Role::of_name(&String::from_utf8_lossy(name)) == Role::Disk;
    (ending.eq_ignore_ascii_case(ENDING) && !stem.is_empty() && is_disk()).then_some(stem)
}

/// What an open file is; `None` if it is not a VMDK, but an extent of one, or anything else.
///
/// # Errors
/// `Invalid`, `Corrupt` or `Unsupported` for what claims to be one and is not, or cannot be read; those of the file.
pub fn read<F: AsPlainFile>(file: &Arc<F>) -> Result<Option<DiskFile>> {
    let source = ImageFile::new(Arc::clone(file));
    match DiskFile::read(&source) {
        Ok(disk) => Ok(Some(disk).filter(|disk| disk.descriptor().is_some())),
        Err(error) if error.kind() == VmdkKind::Invalid && !claims_to_be_one(&source) => Ok(None),
        Err(error) => Err(vmdk_error(error)),
    }
}

/// What the file of this name in a folder is, by what a guest cannot have written; `None` if it is not a VMDK.
///
/// # Errors
/// `Denied` for a disk that leads to other files and is not known as a VMDK; those of [`read`] and of the file.
pub fn describe<V: VmFiles>(folder: &V, name: &OsStr) -> Result<Option<DiskFile>> {
    described(folder, name, &folder.open(name)?)
}

fn described<V: VmFiles>(folder: &V, name: &OsStr, file: &Arc<V::File>) -> Result<Option<DiskFile>> {
    let disk = read(file)?;
    disk.iter().try_for_each(|disk| named::refuse_unnamed(folder, name, file, disk))?;
    Ok(disk)
}

fn claims_to_be_one<F: AsPlainFile>(source: &ImageFile<F>) -> bool {
    let mut head = [0; 512];
    let len = source.byte_len().map_or(0, |len| usize::try_from(len).map_or(head.len(), |len| len.min(head.len())));
    source.read_at(0, &mut head[..len]).is_err() || DiskFile::is_recognised(&head[..len])
}

/// Whether the raw image of a VMDK can be written, as far as the descriptor tells.
pub fn is_writable(disk: &DiskFile) -> bool {
    let flat = |descriptor: &Descriptor| {
        let mut extents = descriptor.extents().iter();
        extents
            .all(|extent| extent.extent_type.is_flat() && extent.access == Access::ReadWrite && extent.file.is_some())
            && descriptor.parent().is_none()
    };
    match disk {
        DiskFile::Descriptor(descriptor) => flat(descriptor),
        DiskFile::Monolithic { .. } | DiskFile::Extent(_) => false,
    }
}

/// Opens a VMDK, its extents and its ancestors as one raw image, for reading.
///
/// # Errors
/// `Invalid` if the file is not a VMDK; `Corrupt` for damage, missing extents or parents, and parents of another content;
/// `Denied` for names that lead out of the folder; `Unsupported` for what VMware encrypted; those of the files.
pub fn open<V: VmFiles>(folder: &V, name: &OsStr) -> Result<RawImage<V::File>> {
    let file = folder.open(name)?;
    let disk = described(folder, name, &file).context(|| name.shown().to_string())?;
    let top = Link::of(folder, name, file, disk)?;
    let mut ancestry = Ancestry::new(&name.to_string_lossy(), &top.descriptor);
    let mut links = vec![top];
    while let Some(parent) = ancestry.parent() {
        // The folder may have been elsewhere when the child was made, so of a path only the name counts.
        let wanted = parent.base_name().map_err(vmdk_error)?;
        let missing = |error| gone(error, "parent", &wanted, links.last().map(|link| &link.descriptor));
        let (name, file) = open_meant(folder, &wanted).map_err(missing)?;
        let disk = read(&file).context(|| name.shown().to_string()).map_err(missing)?;
        let link = Link::of(folder, &name, file, disk).map_err(missing)?;
        ancestry.add(&name.to_string_lossy(), &link.descriptor).map_err(vmdk_error)?;
        links.push(link);
    }
    let (mut layouts, mut files, mut descriptors) = (Vec::new(), Vec::new(), Vec::new());
    for link in links {
        layouts.push(link.layout);
        files.push(link.files);
        descriptors.push(link.file);
    }
    RawImage::new(Chain::new(layouts).map_err(vmdk_error)?, files, descriptors)
}

/// One disk of a chain.
struct Link<F> {
    file: Arc<F>,
    descriptor: Descriptor,
    layout: Layout,
    files: Vec<ImageFile<F>>,
}

impl<F: AsPlainFile> Link<F> {
    fn of<V: VmFiles<File = F>>(folder: &V, name: &OsStr, file: Arc<F>, disk: Option<DiskFile>) -> Result<Self> {
        let doing = || name.shown().to_string();
        let is_extent = Role::of_name(&name.to_string_lossy()).side() == Side::Disk;
        let (descriptor, layout, files) = match disk.filter(|_| !is_extent) {
            Some(DiskFile::Descriptor(descriptor)) => {
                let files = extent_files(folder, &descriptor).context(doing)?;
                let layout = Layout::open(&descriptor, &files).map_err(vmdk_error).context(doing)?;
                (descriptor, layout, files)
            }
            Some(DiskFile::Monolithic { descriptor, sparse }) => {
                let layout = Layout::open_monolithic(&descriptor, sparse).map_err(vmdk_error).context(doing)?;
                (descriptor, layout, vec![ImageFile::new(Arc::clone(&file))])
            }
            Some(DiskFile::Extent(_)) | None => {
                return Err(Error::new(Kind::Invalid, format!("{} is not a VMDK", name.shown())));
            }
        };
        Ok(Self { file, descriptor, layout, files })
    }
}

fn extent_files<V: VmFiles>(folder: &V, descriptor: &Descriptor) -> Result<Vec<ImageFile<V::File>>> {
    if let Some(encryption) = descriptor.encryption() {
        return Err(vmdk_error(encryption.refusal())); // which its extents, if they are there, could not say
    }
    let names = descriptor.files().map_err(vmdk_error)?;
    let open = |name: &FileName| {
        let (_, file) = open_meant(folder, name).map_err(|error| gone(error, "extent", name, Some(descriptor)))?;
        Ok(ImageFile::new(file))
    };
    names.iter().map(open).collect()
}

/// What is named but not there, or is not a regular file, is damage of the disk: the disk itself was found.
fn gone(error: Error, what: &str, name: &FileName, descriptor: Option<&Descriptor>) -> Error {
    let damage = matches!(error.kind(), Kind::NotFound | Kind::Invalid);
    let kind = if damage { Kind::Corrupt } else { error.kind() };
    let unknown =
        descriptor.map(Descriptor::encoding).filter(|encoding| !encoding.is_known() && !name.as_str().is_ascii());
    let note =
        unknown.map(|encoding| format!(" (its encoding, {:?}, is not known)", encoding.name())).unwrap_or_default();
    Error::with_source(kind, format!("{what} {}{note}", called(name)), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_images_are_named_after_their_vmdks() {
        let raw = |name: &str| raw_name(OsStr::new(name)).map(|raw| raw.into_string().unwrap());
        assert_eq!(raw("my disk.vmdk").as_deref(), Some("my disk.raw"));
        assert_eq!(raw("A.VMDK").as_deref(), Some("A.raw"));
        for other in
            ["a.raw", ".vmdk", "vmdk", "a.vmdk.bak", "é", "a-flat.vmdk", "a-f001.VMDK", "a-s001.vmdk", "a-delta.vmdk"]
        {
            assert_eq!(raw(other), None, "{other}");
        }
        let names = || ["a.raw", "a.vmdk", "a.VMDK", "b.vmdk", "c.Vmdk"].map(OsString::from);
        let of = |raw: &str| vmdk_name(OsStr::new(raw), names()).map(|name| name.into_string().unwrap());
        assert_eq!(of("a.raw").as_deref(), Some("a.VMDK"));
        assert_eq!(of("c.raw").as_deref(), Some("c.Vmdk"));
        assert_eq!((of("d.raw"), of("a.vmdk"), of("raw")), (None, None, None));
    }
}
