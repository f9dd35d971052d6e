//! The circumstances in which a key was made.

use super::public::only_sized;
use super::{ALG_NULL, MAX_DIGEST_LEN, MAX_NAME_LEN, Name, Reader};
use crate::error::{Error, Result};
use crate::pcr::PcrSelection;

/// Bytes of the longest data that a caller may have a key made with.
const MAX_OUTSIDE_INFO_LEN: usize = 2 + 64;
/// Bytes of the longest `TPMS_CREATION_DATA`.
const MAX_CREATION_LEN: usize = 1024;

/// `TPMS_CREATION_DATA`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CreationData {
    bytes: Vec<u8>,
    /// Registers whose values it has the digest of.
    pub selections: Vec<PcrSelection>,
    /// The digest of their values when the key was made.
    pub pcr_digest: Vec<u8>,
    /// The locality of the command.
    pub locality: u8,
    /// The Name of the parent; none for a primary key.
    pub parent: Option<Name>,
    /// The qualified Name of the parent: a hierarchy's handle, or a Name that all keys above it are in.
    pub parent_qualified: Vec<u8>,
    /// What its caller gave.
    pub outside_info: Vec<u8>,
}

impl CreationData {
    /// Reads a `TPM2B_CREATION_DATA`: a `TPMS_CREATION_DATA` after its length.
    ///
    /// # Errors
    /// `Malformed` when it does not follow its format; `Unsupported` when it has an unknown hash algorithm.
    pub fn from_tpm2b(bytes: &[u8]) -> Result<Self> {
        only_sized(bytes, "it", MAX_CREATION_LEN).and_then(read).map_err(|error| error.within("creation data of a key"))
    }

    /// The bytes of the `TPMS_CREATION_DATA`, of which statements have the digest.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn read(bytes: &[u8]) -> Result<CreationData> {
    let mut reader = Reader::new(bytes);
    let selections = reader.selections()?;
    let pcr_digest = reader.sized("the digest of PCRs", MAX_DIGEST_LEN)?.to_vec();
    let locality = reader.u8("the locality")?;
    let parent_algorithm = reader.u16("the Name algorithm of the parent")?;
    let parent_name = reader.sized("the Name of the parent", MAX_NAME_LEN)?;
    let parent_qualified = reader.sized("the qualified Name of the parent", MAX_NAME_LEN)?.to_vec();
    let outside_info = reader.sized("the data of the caller", MAX_OUTSIDE_INFO_LEN)?.to_vec();
    reader.finish()?;
    // The parent of a primary key is a hierarchy, whose Name is its handle.
    let parent = match (parent_algorithm, parent_name.len()) {
        (ALG_NULL, 4) => None,
        (algorithm, _) => {
            let name = Name::from_bytes(parent_name).map_err(|error| error.within("the parent"))?;
            if parent_name[..2] != algorithm.to_be_bytes() {
                return Err(Error::malformed(format!(
                    "the parent has the Name {name} and the algorithm {algorithm:#06x}"
                )));
            }
            Some(name)
        }
    };
    Ok(CreationData { bytes: bytes.to_vec(), selections, pcr_digest, locality, parent, parent_qualified, outside_info })
}
