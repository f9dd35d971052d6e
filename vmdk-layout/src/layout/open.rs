//! From a descriptor and its files to a [`Layout`].

use std::collections::HashMap;

use super::{Layout, Piece, Place};
use crate::descriptor::{Access, Descriptor, Extent, ExtentType};
use crate::error::{Error, Kind, Result};
use crate::limits::SECTOR_LEN;
use crate::name::FileName;
use crate::source::{Source, len_of};
use crate::sparse::{Sparse, SparseFormat};

impl Descriptor {
    /// The files that hold the disk's extents, each once, in the order of their first extents. ZERO extents have none,
    /// and those of NOACCESS extents are not needed.
    ///
    /// # Errors
    /// `Denied` or `Invalid` with the line of a name that is not one of the VM folder.
    pub fn files(&self) -> Result<Vec<FileName>> {
        let mut numbers = HashMap::new();
        let mut names = Vec::new();
        for extent in self.extents().iter().filter(|extent| extent.access != Access::None) {
            if let Some(name) = extent.file_name()? {
                numbers.entry(name.clone()).or_insert_with(|| names.push(name));
            }
        }
        Ok(names)
    }
}

impl Layout {
    /// Maps the disk of a descriptor. `files` are opened by the caller: one for each of [`Descriptor::files`], in that
    /// order, by which runs number them.
    ///
    /// # Errors
    /// `Encrypted` if VMware encrypted the disk; `Unsupported` for versions of the future and for raw device mappings
    /// without their device; `Corrupt`, with the extent's line or the offset in its file, if a file is shorter than its
    /// extent, if its header contradicts the descriptor, or if extents overlap.
    pub fn open<S: Source>(descriptor: &Descriptor, files: &[S]) -> Result<Self> {
        check_readable(descriptor)?;
        let names = descriptor.files()?;
        if names.len() != files.len() {
            let message = format!("{} files for a disk of {}", files.len(), names.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let numbers: HashMap<_, _> = names.iter().enumerate().map(|(number, name)| (name.as_str(), number)).collect();
        let mut pieces = Vec::with_capacity(descriptor.extents().len());
        let mut start = 0;
        for extent in descriptor.extents() {
            let number = extent.file.as_deref().and_then(|name| numbers.get(name)).copied();
            let place = match (extent.access, number.and_then(|file| Some((file, files.get(file)?)))) {
                (Access::None, _) => Place::NoAccess,
                (Access::ReadWrite | Access::ReadOnly, None) => Place::Zero,
                (Access::ReadWrite | Access::ReadOnly, Some((file, source))) => {
                    let name = extent.file.as_deref().unwrap_or_default();
                    place(extent, file, source).map_err(|error| error.in_file(name))?
                }
            };
            let end = start + extent.sectors * SECTOR_LEN; // Descriptor::parse checked the sum
            pieces.push(Piece { start, end, place });
            start = end;
        }
        check_overlaps(descriptor, &pieces)?;
        let flat = pieces.iter().all(|piece| matches!(piece.place, Place::Flat { .. }));
        let read_write = descriptor.extents().iter().all(|extent| extent.access == Access::ReadWrite);
        let has_parent = descriptor.parent().is_some();
        Ok(Self { pieces, names, has_parent, is_writable: flat && read_write && !has_parent })
    }

    /// Maps a disk that is one file: the layout's only file, number 0. The extent's name within is not looked at, since
    /// it does not change when the file is renamed.
    ///
    /// # Errors
    /// `Encrypted` and `Unsupported` as by [`open`](Self::open); `Corrupt` unless the descriptor has one sparse extent
    /// no longer than the file's header says.
    pub fn open_monolithic(descriptor: &Descriptor, sparse: Sparse) -> Result<Self> {
        check_readable(descriptor)?;
        let sectors = match descriptor.extents() {
            [extent] if extent.extent_type == ExtentType::Sparse => {
                check_capacity(extent, &sparse)?;
                extent.sectors
            }
            extents => {
                let message = format!("a disk in one file has one SPARSE extent, found {} extents", extents.len());
                return Err(Error::new(Kind::Corrupt, message));
            }
        };
        Ok(Self::of_sparse(sparse, sectors, descriptor.parent().is_some()))
    }

    /// Maps a sparse extent by itself, as if it were a whole disk; what it does not hold reads as zeros.
    pub fn of_extent(sparse: Sparse) -> Self {
        let sectors = sparse.capacity();
        Self::of_sparse(sparse, sectors, false)
    }

    fn of_sparse(sparse: Sparse, sectors: u64, has_parent: bool) -> Self {
        let place = Place::Sparse { file: 0, sparse: Box::new(sparse) };
        let piece = Piece { start: 0, end: sectors * SECTOR_LEN, place };
        Self { pieces: vec![piece], names: Vec::new(), has_parent, is_writable: false }
    }
}

fn check_readable(descriptor: &Descriptor) -> Result<()> {
    if let Some(encryption) = descriptor.encryption() {
        return Err(encryption.refusal());
    }
    if !(1..=3).contains(&descriptor.version()) {
        let message = format!("descriptor version {}, expected 1, 2 or 3", descriptor.version());
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(())
}

fn place<S: Source>(extent: &Extent, file: usize, source: &S) -> Result<Place> {
    if !extent.extent_type.is_flat() {
        let sparse = Sparse::open(source)?;
        check_format(extent, sparse.format())?;
        check_capacity(extent, &sparse)?;
        return Ok(Place::Sparse { file, sparse: Box::new(sparse) });
    }
    let found = len_of(source)?;
    let offset = extent.offset * SECTOR_LEN; // both at most MAX_DISK_SECTORS, so neither product nor sum overflows
    let needed = offset + extent.sectors * SECTOR_LEN;
    if found >= needed {
        return Ok(Place::Flat { file, offset });
    }
    let (kind, message) = if extent.extent_type.is_device() {
        let message = format!(
            "a raw device mapping of {needed} bytes whose file has {found}: the data is on the mapped device, which \
             must be given in its place"
        );
        (Kind::Unsupported, message)
    } else {
        (Kind::Corrupt, format!("the file has {found} bytes, expected at least {needed} by its extent line"))
    };
    Err(Error::new(kind, message).at_line(extent.line))
}

fn check_format(extent: &Extent, format: SparseFormat) -> Result<()> {
    let is_sesparse = format == SparseFormat::SeSparse;
    if is_sesparse == (extent.extent_type == ExtentType::SeSparse) {
        return Ok(()); // SPARSE and VMFSSPARSE are written for hosted and COWD files alike
    }
    let message = format!("the extent line says {}, but the file is {format:?}", extent.extent_type.name());
    Err(Error::new(Kind::Corrupt, message).at_line(extent.line))
}

fn check_capacity(extent: &Extent, sparse: &Sparse) -> Result<()> {
    if extent.sectors <= sparse.capacity() {
        return Ok(());
    }
    let message =
        format!("the extent line says {} sectors, the header of its file {}", extent.sectors, sparse.capacity());
    Err(Error::new(Kind::Corrupt, message).at_line(extent.line))
}

/// Two extents on the same bytes would make one write change the disk in two places.
fn check_overlaps(descriptor: &Descriptor, pieces: &[Piece]) -> Result<()> {
    let mut ranges: Vec<_> = pieces
        .iter()
        .zip(descriptor.extents())
        .filter_map(|(piece, extent)| match &piece.place {
            Place::Flat { file, offset } => Some((*file, *offset, offset + (piece.end - piece.start), extent.line)),
            Place::Sparse { file, .. } => Some((*file, 0, u64::MAX, extent.line)),
            Place::Zero | Place::NoAccess => None,
        })
        .collect();
    ranges.sort_unstable();
    for (one, other) in ranges.iter().zip(ranges.iter().skip(1)) {
        if one.0 == other.0 && other.1 < one.2 {
            let (first, second) = (one.3.min(other.3), one.3.max(other.3));
            let message = format!("the extent lies on the same bytes of its file as that of line {first}");
            return Err(Error::new(Kind::Corrupt, message).at_line(second));
        }
    }
    Ok(())
}
