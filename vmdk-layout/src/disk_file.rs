//! What one `.vmdk` file is, by its content.

use crate::descriptor::Descriptor;
use crate::error::{Error, Kind, Result};
use crate::limits::MAX_TEXT_LEN;
use crate::source::{Source, len_of};
use crate::sparse::Sparse;

/// The content of a file that a disk is opened by, or that is part of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DiskFile {
    /// A descriptor alone; its extents are other files.
    Descriptor(Descriptor),
    /// A whole disk in one file: monolithicSparse or streamOptimized.
    Monolithic {
        /// The descriptor within.
        descriptor: Descriptor,
        /// The only extent.
        sparse: Sparse,
    },
    /// A sparse extent of a disk whose descriptor is another file.
    Extent(Sparse),
}

impl DiskFile {
    /// Reads descriptor and header of a file.
    ///
    /// # Errors
    /// `Invalid` if the file is neither, as a flat extent is; else as [`Descriptor::parse`] and [`Sparse::open`].
    pub fn read<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let file_len = len_of(source)?;
        let mut head = vec![0; 512.min(usize::try_from(file_len).unwrap_or(usize::MAX))];
        source.read_at(0, &mut head).map_err(|error| Error::io(0, error))?;
        if Sparse::detect(&head).is_some() {
            let sparse = Sparse::open(source)?;
            return Ok(match sparse.embedded_descriptor(source)? {
                // A header without a disk: all it does is carry the descriptor.
                Some(descriptor) if sparse.capacity() == 0 => Self::Descriptor(descriptor),
                Some(descriptor) => Self::Monolithic { descriptor, sparse },
                None => Self::Extent(sparse),
            });
        }
        if !Descriptor::is_recognised(&head) {
            let message = "the file is neither a disk descriptor nor a sparse extent";
            return Err(Error::new(Kind::Invalid, message).at_offset(0));
        }
        let len = usize::try_from(file_len).ok().filter(|len| *len <= MAX_TEXT_LEN).ok_or_else(|| {
            let message = format!("the descriptor is {file_len} bytes long, expected at most {MAX_TEXT_LEN}");
            Error::new(Kind::Invalid, message)
        })?;
        let mut text = vec![0; len];
        source.read_at(0, &mut text).map_err(|error| Error::io(0, error))?;
        Descriptor::parse(&text).map(Self::Descriptor)
    }

    /// The descriptor, if there is one.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match self {
            Self::Descriptor(descriptor) | Self::Monolithic { descriptor, .. } => Some(descriptor),
            Self::Extent(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_content() {
        let text = b"# Disk DescriptorFile\nversion=1\nCID=1\ncreateType=\"custom\"\n".to_vec();
        assert!(matches!(DiskFile::read(&text).unwrap(), DiskFile::Descriptor(_)));
        for raw in [vec![], vec![0; 4096], b"KDM".to_vec()] {
            assert_eq!(DiskFile::read(&raw).unwrap_err().kind(), Kind::Invalid);
        }
        assert_eq!(DiskFile::read(&b"KDMV1234".to_vec()).unwrap_err().kind(), Kind::Corrupt);
    }
}
