//! The two copies of a list of disks in its file.

use super::REMEDY;
use crate::error::{Error, Kind, Result};
use crate::format::members::{COPY_OFFSETS, MemberList, MembersKey, copy_len};
use crate::storage::Storage;

/// Bytes of a copy that are read at first: most are no longer.
const FIRST_READ: usize = 4096;
/// What the copies of a list say.
pub(super) struct Copies {
    /// The list that counts.
    pub(super) list: MemberList,
    /// Which copy has it.
    pub(super) copy: usize,
    /// What the other one says, if it is whole.
    pub(super) other: Option<MemberList>,
}

pub(super) fn read(storage: &dyn Storage, keys: &[MembersKey]) -> Result<Copies> {
    let mut newest: Option<Copies> = None;
    let mut problem = None;
    for (copy, offset) in COPY_OFFSETS.into_iter().enumerate() {
        let mut bytes = vec![0; FIRST_READ];
        let mut len = storage.read_at(offset, &mut bytes)?;
        let whole = bytes.first_chunk().map_or(0, copy_len);
        if whole > len && len == FIRST_READ {
            bytes = vec![0; whole];
            len = storage.read_at(offset, &mut bytes)?;
        }
        match decode(&bytes[..len], keys) {
            Ok(list) => {
                newest = Some(match newest {
                    Some(first) if first.list.sequence >= list.sequence => Copies { other: Some(list), ..first },
                    first => Copies { list, copy, other: first.map(|first| first.list) },
                });
            }
            // Not passed over for an older copy, which a newer program has outdated.
            Err(error) if error.kind() == Kind::Unsupported => return Err(error),
            Err(error) => problem = Some(error),
        }
    }
    match (newest, problem) {
        (Some(newest), _) => Ok(newest),
        (None, Some(error)) => {
            Err(Error::new(Kind::Corrupt, format!("the VM's list of disks: {}: {REMEDY}", error.chain())))
        }
        (None, None) => Err(Error::new(Kind::Corrupt, "no copy of the VM's list of disks")),
    }
}

fn decode(bytes: &[u8], keys: &[MembersKey]) -> Result<MemberList> {
    let mut last = Err(Error::new(Kind::Corrupt, "no key of the list of disks"));
    for key in keys {
        last = key.decode(bytes);
        if last.is_ok() {
            break;
        }
    }
    last
}

/// Writes a list over the copy that is not the durable one, and returns which one is durable then. Once the new list is durable, no
/// copy keeps the former one.
pub(super) fn write(storage: &dyn Storage, bytes: &[u8], durable: usize, durably: bool) -> Result<usize> {
    let other = 1 - durable;
    storage.write_at(COPY_OFFSETS[other], bytes)?;
    if !durably {
        return Ok(durable);
    }
    storage.sync()?;
    storage.write_at(COPY_OFFSETS[durable], bytes)?;
    Ok(other)
}
