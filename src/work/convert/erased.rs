//! Disks that were erased: there is nothing in them that could be decrypted or copied.

use std::fs::File;

use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::ComponentKind;
use crate::storage::FileStorage;
use crate::store::header_area;
use crate::sys::file::open_beneath;
use crate::text::Show;
use crate::work::convert::tree::{Entry, EntryForm};

/// Refuses disks that were erased, naming the first.
///
/// # Errors
/// `KeyUnavailable`, or `Io`.
pub(super) fn refuse<'e>(root: &File, entries: impl Iterator<Item = &'e Entry>) -> Result<()> {
    for entry in entries.filter(|entry| entry.found == EntryForm::Disk) {
        let path = entry.path.shown();
        let file = open_beneath(root, &entry.path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
            .context(|| format!("opening {path}"))?;
        if let Some(erasure) = header_area::erasure(&FileStorage::new(file), ComponentKind::Disk)? {
            let message = format!(
                "{path} was {}, and no key opens it: remove it, or move it out of the folder, first",
                erasure.describe()
            );
            return Err(Error::new(Kind::KeyUnavailable, message));
        }
    }
    Ok(())
}
