//! Names of a VM folder that change, while its home lists which of them are disks'.

use std::path::Path;
use std::sync::Arc;

use crate::error::Result;
use crate::format::members::MemberList;
use crate::vm::home::Home;

/// A change of names, of which a home's list of disks learns.
#[derive(Clone, Copy, Debug)]
pub enum NameChange<'p> {
    /// A name that was free is given to a file that is no disk.
    Made(&'p Path),
    /// A further name of a file.
    Linked(&'p Path, &'p Path),
    /// Another name, in place of what has it.
    Renamed(&'p Path, &'p Path),
    /// Two names are swapped.
    Exchanged(&'p Path, &'p Path),
    /// A name is removed.
    Removed(&'p Path),
}

impl NameChange<'_> {
    fn concerns(self, list: &MemberList) -> bool {
        match self {
            Self::Made(path) | Self::Removed(path) => list.touches(path),
            Self::Linked(from, to) | Self::Renamed(from, to) | Self::Exchanged(from, to) => {
                list.touches(from) || list.touches(to)
            }
        }
    }

    fn after(self, list: &MemberList) -> MemberList {
        match self {
            Self::Made(path) | Self::Removed(path) => list.without(path),
            Self::Linked(from, to) => list.linked(from, to),
            Self::Renamed(from, to) => list.renamed(from, to, false),
            Self::Exchanged(from, to) => list.renamed(from, to, true),
        }
    }
}

/// Changes names by `work`. The home's list, where it has to do with them, allows what is and what is to be until the new names are
/// durable, which nothing waits for: [`Owner::settle`](crate::vm::owner::Owner::settle) is called later. Only a removed name is durably
/// so at once: no copy of the list is to have it, should its file come back. At any moment a crash leaves files that open.
///
/// # Errors
/// Those of `work`, which then has changed nothing, or of the list.
pub fn change_names<T>(
    home: Option<&Arc<Home>>,
    change: NameChange<'_>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let listed = home.map(|home| home.owner.change(|list| change.concerns(list))).transpose()?.flatten();
    let Some(mut listed) = listed else { return work() };
    let before = listed.list().clone();
    let after = change.after(&before);
    match change {
        NameChange::Made(_) => listed.make(after.clone())?, // nothing has the name
        NameChange::Linked(..) => listed.announce(&after)?,
        NameChange::Renamed(..) | NameChange::Exchanged(..) => listed.announce(&after)?,
        NameChange::Removed(_) => {}
    }
    let done = match work() {
        Ok(done) => done,
        Err(error) => {
            listed.settle(before)?;
            return Err(error);
        }
    };
    match change {
        NameChange::Made(_) => {}
        NameChange::Linked(..) | NameChange::Renamed(..) | NameChange::Exchanged(..) => listed.put_off(after),
        NameChange::Removed(path) => listed.make_without(path)?,
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
