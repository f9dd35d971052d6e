//! The two copies of a header in a backing file: which one counts, and how to change it without ever being without one.

use crate::error::{Error, Kind, Result};
use crate::format::erasure::{Erasure, MARK_LEN};
use crate::format::header::{COPY_LEN, ComponentKind, Header, UnverifiedHeader};
use crate::key::Dek;
use crate::storage::Storage;

/// What both copies say together. Its header is not verified: that takes the DEK.
#[derive(Debug)]
pub struct StoredHeader {
    /// The copy that counts.
    pub header: UnverifiedHeader,
    /// Which of the two it is.
    pub in_use: usize,
    /// The state of the other one.
    pub other: OtherCopy,
}

/// The copy that is not in use.
#[derive(Debug)]
pub enum OtherCopy {
    /// The same bytes: nothing was updated since creation.
    Same,
    /// A valid former state.
    Older(Box<UnverifiedHeader>),
    /// Damaged, or missing. The next update repairs it.
    Damaged(Error),
}

impl StoredHeader {
    /// What to say of a copy that is damaged, if one is; nothing else shows it, as the other is in use.
    pub fn damaged_copy(&self) -> Option<String> {
        let OtherCopy::Damaged(error) = &self.other else { return None };
        let why = error.chain();
        Some(format!(
            "one of two header copies is damaged ({why}); the other is in use, `vmcryptfs header repair COMPONENT` repairs it"
        ))
    }

    /// The verified header that counts, with the least sequence of the copies that say the same: either may be lost.
    ///
    /// # Errors
    /// `Corrupt` when `dek` does not verify it.
    pub fn verify_least(&self, dek: &Dek) -> Result<Header> {
        let header = self.header.clone().verify(dek)?;
        let twin = match &self.other {
            OtherCopy::Older(older) if older.state_mark() == self.header.state_mark() => older.clone().verify(dek).ok(),
            OtherCopy::Older(_) | OtherCopy::Same | OtherCopy::Damaged(_) => None,
        };
        Ok(Header { sequence: twin.map_or(header.sequence, |twin| twin.sequence), ..header })
    }
}

/// Reads both copies and chooses.
///
/// # Errors
/// `Invalid` for a foreign file, `Unsupported` when any copy is of a newer format, `KeyUnavailable` for an erased component,
/// `Corrupt` when no copy is whole or the two contradict each other.
pub fn load(storage: &dyn Storage, kind: ComponentKind) -> Result<StoredHeader> {
    choose(kind, copies(storage, kind)?)
}

/// The mark of an erased component: both copies have one.
///
/// # Errors
/// `Io`.
pub fn erasure(storage: &dyn Storage, kind: ComponentKind) -> Result<Option<Erasure>> {
    let mut found = None;
    for offset in kind.copy_offsets() {
        let mut mark = [0; MARK_LEN];
        storage.read_at(offset, &mut mark)?;
        found = Erasure::decode(&mark).filter(|mark| mark.kind == kind);
        if found.is_none() {
            break;
        }
    }
    Ok(found)
}

/// Both copies, each judged on its own.
///
/// # Errors
/// `Io`.
pub fn copies(storage: &dyn Storage, kind: ComponentKind) -> Result<[Result<UnverifiedHeader>; 2]> {
    let [first, second] = kind.copy_offsets();
    Ok([read_copy(storage, kind, first)?, read_copy(storage, kind, second)?])
}

/// The outer error is of the storage, the inner one of the bytes.
fn read_copy(storage: &dyn Storage, kind: ComponentKind, offset: u64) -> Result<Result<UnverifiedHeader>> {
    let mut bytes = vec![0; COPY_LEN];
    let len = storage.read_at(offset, &mut bytes)?;
    let copy = UnverifiedHeader::decode(&bytes[..len]).and_then(|copy| match copy.claims().shape.kind() {
        found if found == kind => Ok(copy),
        found => Err(Error::new(Kind::Invalid, format!("a {}, expected a {}", found.word(), kind.word()))),
    });
    Ok(copy.map(|copy| copy.at(storage.inode())))
}

/// The way out where no copy of a component's header is left.
pub const RESTORE: &str = "`vmcryptfs header restore COMPONENT FILE` brings a saved header back";

/// The same for a home, where nothing is left that could tell whether the header is its own.
pub const RESTORE_HOME: &str = "`vmcryptfs header restore VM_FOLDER FILE --force` brings a saved header back";

/// Says which of two copies counts. A file is a home's header by its name, and a disk by what it holds: a disk that holds none is foreign.
///
/// # Errors
/// As [`load`], `Io` aside.
pub fn choose(kind: ComponentKind, copies: [Result<UnverifiedHeader>; 2]) -> Result<StoredHeader> {
    match copies.into() {
        (Err(too_new), _) | (_, Err(too_new)) if too_new.kind() == Kind::Unsupported => Err(too_new),
        (Err(first), Err(second))
            if first.kind() == second.kind()
                && (first.kind() == Kind::KeyUnavailable
                    || (first.kind() == Kind::Invalid && kind == ComponentKind::Disk)) =>
        {
            Err(first) // both erased, or both foreign
        }
        (Err(first), Err(second)) => {
            let restore = if kind == ComponentKind::Home { RESTORE_HOME } else { RESTORE };
            let (first, second) = (first.chain(), second.chain());
            let why = if first == second { first } else { format!("first: {first}; second: {second}") };
            Err(Error::new(Kind::Corrupt, format!("both header copies are damaged ({why}): {restore}")))
        }
        (Ok(header), Err(damage)) => Ok(StoredHeader { header, in_use: 0, other: OtherCopy::Damaged(damage) }),
        (Err(damage), Ok(header)) => Ok(StoredHeader { header, in_use: 1, other: OtherCopy::Damaged(damage) }),
        (Ok(first), Ok(second)) => choose_valid(first, second),
    }
}

fn choose_valid(first: UnverifiedHeader, second: UnverifiedHeader) -> Result<StoredHeader> {
    let sequences = (first.claims().sequence, second.claims().sequence);
    if first.claims().uuid != second.claims().uuid {
        Err(Error::new(
            Kind::Corrupt,
            format!("header copies of two components, {} and {}", first.claims().uuid, second.claims().uuid),
        ))
    } else if first.same_bytes(&second) {
        Ok(StoredHeader { header: first, in_use: 0, other: OtherCopy::Same })
    } else if sequences.0 > sequences.1 {
        Ok(StoredHeader { header: first, in_use: 0, other: OtherCopy::Older(Box::new(second)) })
    } else if sequences.1 > sequences.0 {
        Ok(StoredHeader { header: second, in_use: 1, other: OtherCopy::Older(Box::new(first)) })
    } else {
        Err(Error::new(Kind::Corrupt, format!("two different header copies of one sequence {}", sequences.0)))
    }
}

/// Writes both copies of a component under construction. The caller syncs and gives the file its name.
///
/// # Errors
/// `Invalid` for fields outside their limits, or `Io`.
pub fn create(storage: &dyn Storage, header: &Header, dek: &Dek) -> Result<()> {
    let bytes = header.encode(dek)?;
    for offset in header.shape.kind().copy_offsets() {
        storage.write_at(offset, &bytes)?;
    }
    Ok(())
}

/// Replaces the header by a changed one, over the copy that is not in use; the caller syncs. Returns the copy then in use.
/// `header.sequence` is the number of the update: one more than that of the copy in use.
///
/// # Errors
/// `Invalid` for fields outside their limits, or `Io`; the former header then still counts.
pub fn write(storage: &dyn Storage, in_use: usize, header: &Header, dek: &Dek) -> Result<usize> {
    let target = 1 - in_use.min(1);
    let bytes = header.encode(dek)?;
    storage.write_at(header.shape.kind().copy_offsets()[target], &bytes)?;
    Ok(target)
}

/// Replaces the header in both copies, one after the other, so that nothing of a former state is left: to be used where a
/// slot must not outlive the change, or where an older copy would be wrong. The header gets its sequence here; `sync` is how
/// its owner makes it durable. Returns the copy then in use and its header.
///
/// # Errors
/// As [`write()`]; then one copy may say the new, the other the old, and doing it again finishes the work.
pub fn update_both(
    storage: &dyn Storage,
    in_use: usize,
    header: Header,
    dek: &Dek,
    sync: &dyn Fn() -> Result<()>,
) -> Result<(usize, Header)> {
    let mut state = (in_use, header);
    for _ in 0..2 {
        let sequence = state.1.sequence.checked_add(1);
        let sequence =
            sequence.ok_or_else(|| Error::new(Kind::Unsupported, "the header was changed too often to count"))?;
        state.1 = Header { sequence, ..state.1 };
        state.0 = write(storage, state.0, &state.1, dek)?;
        sync()?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
