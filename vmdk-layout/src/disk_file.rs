//! What one `.vmdk` file is, by its content.

use crate::descriptor::Descriptor;
use crate::encryption::Encryption;
use crate::error::{Error, Kind, Result};
use crate::limits::{MAX_TEXT_LEN, SECTOR_LEN};
use crate::source::{Source, len_of};
use crate::sparse::Sparse;

/// The content of a file that a disk is opened by, or that is part of one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DiskFile {
    /// Only a descriptor; its extents are other files.
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
    /// `Invalid` if the file is neither, as a flat extent is; `Encrypted` if it cannot be read but names the keys that
    /// it was encrypted with; else as [`Descriptor::parse`] and [`Sparse::open`].
    pub fn read<S: Source + ?Sized>(source: &S) -> Result<Self> {
        let file_len = len_of(source)?;
        Self::read_clear(source, file_len).map_err(|error| match error.kind() {
            // Full encryption of Workstation covers what would be recognised, but not the names of the keys.
            Kind::Corrupt | Kind::Invalid | Kind::Unsupported => encrypted(source, file_len).unwrap_or(error),
            Kind::Denied | Kind::Encrypted | Kind::Io => error,
        })
    }

    /// Whether a file that begins with `head` (its first 512 bytes, or all of it) claims to be one of these. Flat extents
    /// do not, nor does what VMware encrypted as a whole.
    pub fn is_recognised(head: &[u8]) -> bool {
        Sparse::detect(head).is_some() || Descriptor::is_recognised(head)
    }

    /// The descriptor, if there is one.
    pub fn descriptor(&self) -> Option<&Descriptor> {
        match self {
            Self::Descriptor(descriptor) | Self::Monolithic { descriptor, .. } => Some(descriptor),
            Self::Extent(_) => None,
        }
    }

    fn read_clear<S: Source + ?Sized>(source: &S, file_len: u64) -> Result<Self> {
        let most = MAX_TEXT_LEN as u64;
        let head = head_of(source, file_len, SECTOR_LEN)?;
        if Sparse::detect(&head).is_some() {
            let sparse = Sparse::open(source)?;
            return Ok(match sparse.embedded_descriptor(source)? {
                // A header without a disk: all it does is carry the descriptor, and there is nothing else in the file.
                Some(descriptor) if sparse.capacity() == 0 && file_len <= most => Self::Descriptor(descriptor),
                Some(descriptor) => Self::Monolithic { descriptor, sparse },
                None => Self::Extent(sparse),
            });
        }
        if !Descriptor::is_recognised(&head) {
            let message = "the file is neither a disk descriptor nor a sparse extent";
            return Err(Error::new(Kind::Invalid, message).at_offset(0));
        }
        if file_len > most {
            let message = format!("the descriptor is {file_len} bytes long, expected at most {most}");
            return Err(Error::new(Kind::Invalid, message));
        }
        Descriptor::parse(&head_of(source, file_len, most)?).map(Self::Descriptor)
    }
}

/// The first bytes of a file, at most `most`.
fn head_of<S: Source + ?Sized>(source: &S, file_len: u64, most: u64) -> Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(file_len.min(most)).expect("most is a small limit")];
    source.read_at(0, &mut head).map_err(|error| Error::io(0, error))?;
    Ok(head)
}

/// The refusal of a file whose head names the keys that it was encrypted with.
fn encrypted<S: Source + ?Sized>(source: &S, file_len: u64) -> Option<Error> {
    /// Where an embedded descriptor would end.
    const HEAD: u64 = 64 << 10;
    const KEY: &[u8] = b"encryptionKeys=\"";
    let head = head_of(source, file_len, HEAD).ok()?;
    let start = head.windows(KEY.len()).position(|window| window.eq_ignore_ascii_case(KEY))? + KEY.len();
    let keys = head.get(start..)?.split(|byte| *byte == b'"').next()?;
    Encryption::new(std::str::from_utf8(keys).ok()?, None).ok().map(|encryption| encryption.refusal())
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

    #[test]
    fn a_file_that_only_names_its_keys_is_said_to_be_encrypted() {
        let keys = b"\0\xff junk encryptionKeys=\"vmware:key/list/(pair/(phrase/x/a%3db,HMAC%2dSHA%2d1,AAAA))\"\n";
        for head in [&b"KDMV\x09"[..], b"", b"# Disk DescriptorFile\n"] {
            let bytes = [head, &[b' '; 600], keys].concat();
            assert_eq!(DiskFile::read(&bytes).unwrap_err().kind(), Kind::Encrypted);
        }
        assert_eq!(DiskFile::read(&b"encryptionKeys=\"nonsense\"".to_vec()).unwrap_err().kind(), Kind::Invalid);
    }
}
