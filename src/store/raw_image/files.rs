//! Open files as `vmdk-layout` reads them, and its errors as ours.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use vmdk_layout::Source;

use crate::error::{Error, Kind, Result};
use crate::store::buffer::RequestBuffer;
use crate::store::plain_file::{MAX_REQUEST, PlainFile};

/// Something open that has plaintext bytes.
pub trait AsPlainFile: Send + Sync {
    /// Its bytes.
    fn plain_file(&self) -> &dyn PlainFile;

    /// Whether somebody may be writing to it now. Once true, it stays so for as long as the file is open.
    fn may_change(&self) -> bool;

    /// Whether it is kept as a disk. A guest may have written all of it.
    fn is_disk(&self) -> bool;
}

/// A file of a VMDK.
pub struct ImageFile<F>(Arc<F>);

impl<F: AsPlainFile> ImageFile<F> {
    /// An open file, which others may share.
    pub fn new(file: Arc<F>) -> Self {
        Self(file)
    }

    /// What is open.
    pub fn file(&self) -> &Arc<F> {
        &self.0
    }

    pub(super) fn plain_file(&self) -> &dyn PlainFile {
        self.0.plain_file()
    }

    pub(super) fn may_change(&self) -> bool {
        self.0.may_change()
    }

    /// Exactly `len` bytes, in a request's buffer.
    pub(super) fn read_in_place<'b>(&self, offset: u64, len: usize, buffer: &'b mut [u8]) -> Result<&'b [u8]> {
        let bytes = self.plain_file().read_at(offset, len, buffer)?;
        if bytes.len() == len {
            return Ok(bytes);
        }
        let found = offset + bytes.len() as u64;
        Err(Error::new(Kind::Corrupt, format!("the extent ends at byte {found}, expected {}", offset + len as u64)))
    }
}

impl<F: AsPlainFile> Source for ImageFile<F> {
    fn byte_len(&self) -> io::Result<u64> {
        Ok(self.plain_file().plain_len())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut own = RequestBuffer::take(); // the request's buffer is where the image's bytes are put together
        let mut at = offset;
        let read = buf.chunks_mut(MAX_REQUEST).try_for_each(|chunk| {
            chunk.copy_from_slice(self.read_in_place(at, chunk.len(), &mut own)?);
            at += chunk.len() as u64;
            Ok(())
        });
        read.map_err(|error: Error| io::Error::other(error))
    }
}

/// An error of `vmdk-layout`, of the kind that the backing file gave if it is to blame.
pub fn vmdk_error(error: vmdk_layout::Error) -> Error {
    let beneath = error.source().and_then(|source| source.downcast_ref::<io::Error>()).and_then(io::Error::get_ref);
    let beneath = beneath.and_then(|source| source.downcast_ref::<Error>()).map(Error::kind);
    let kind = match error.kind() {
        // What breaks the grammar is stored, and somebody damaged it.
        vmdk_layout::Kind::Corrupt | vmdk_layout::Kind::Invalid => Kind::Corrupt,
        vmdk_layout::Kind::Denied => Kind::Denied,
        vmdk_layout::Kind::Io => beneath.unwrap_or(Kind::Io),
        vmdk_layout::Kind::Encrypted | vmdk_layout::Kind::Unsupported => Kind::Unsupported,
    };
    Error::with_source(kind, "virtual disk", error)
}
