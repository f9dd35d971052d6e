//! What work on all components of a VM folder passes over.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::progress::GoOn;
use crate::text::{self, Show};
use crate::vm::access::VmAccess;
use crate::vm::folder;
use crate::vm::inventory::{Inventory, What};
use crate::vm::keyring::FetchedKeks;

/// What of a VM folder is passed over by work on all of its components, for people.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct PassedOver {
    /// What could not be read, so that nobody knows whether it is a disk: each with its reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
    /// Where its home's list has a disk that does not lie there, or that was erased. A mark of erasure is not authentic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub misplaced: Vec<String>,
    /// Of those, what has a mark of erasure in the place of its header.
    #[serde(skip)]
    erased: Vec<PathBuf>,
}

impl PassedOver {
    /// What is passed over where work is on `all` of a VM folder; nothing where it is on components that were named.
    ///
    /// # Errors
    /// `Stopped` by `go_on`.
    pub(super) fn of(all: bool, place: &dyn VmAccess, keks: &FetchedKeks, go_on: &GoOn<'_>) -> Result<Self> {
        if !all {
            return Ok(Self::default());
        }
        let (names, owner) = (DiskNames::default(), place.home_of_disks(keks));
        let taken = folder::open_dir(&place.path()).and_then(|dir| match owner? {
            Some(owner) => Inventory::take_compared(&dir, &owner, &names, go_on),
            None => Inventory::take_watched(&dir, &names, go_on).map(|inventory| (inventory, Vec::new())),
        });
        let (inventory, misplaced) = match taken {
            Ok(taken) => taken,
            Err(error) if error.kind() == Kind::Stopped => return Err(error),
            Err(error) => return Ok(Self { unreadable: vec![error.chain()], ..Self::default() }),
        };
        let unreadable = inventory.entries.iter().filter_map(|entry| {
            let What::Unreadable(error) = &entry.what else { return None };
            Some(format!("{}: {}", entry.path.shown(), error.chain()))
        });
        let unreadable = unreadable.collect();
        let erased = inventory.entries.iter().filter_map(|entry| {
            let What::Erased(mark) = &entry.what else { return None };
            Some((entry.path.clone(), format!("{} was {}", entry.path.shown(), mark.describe())))
        });
        let (erased, said): (Vec<PathBuf>, Vec<String>) = erased.unzip();
        let misplaced = said.into_iter().chain(misplaced.into_iter().map(|other| other.message)).collect();
        Ok(Self { unreadable, misplaced, erased })
    }

    /// Says in the VM's list that a disk which has a mark of erasure is older than the others, if its header is put back: anyone may have
    /// written the mark, to keep it from getting another key.
    ///
    /// # Errors
    /// Those of the list.
    pub(super) fn outdate_erased(&self, place: &dyn VmAccess, keks: &FetchedKeks) -> Result<()> {
        let owner = if self.erased.is_empty() { None } else { place.home_of_disks(keks)? };
        let Some(owner) = owner else { return Ok(()) };
        self.erased.iter().try_for_each(|path| owner.outdate(path).context(|| path.shown().to_string()))
    }

    /// Refuses to call work done that passed over something. To be asked once the work is done.
    ///
    /// # Errors
    /// `Corrupt` where a disk of the list is not in its place, else `Io`.
    pub fn check(&self) -> Result<()> {
        let kind = if self.misplaced.is_empty() { Kind::Io } else { Kind::Corrupt };
        match self.unreadable.len() + self.misplaced.len() {
            0 => Ok(()),
            number => {
                let (one, others) = ("place that was passed over", "places that were passed over");
                Err(Error::new(kind, format!("done, but for {}", text::count(number, one, others))))
            }
        }
    }

    /// A line for each.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let unreadable = self.unreadable.iter();
        let unreadable =
            unreadable.map(|what| format!("Cannot be read, so its keys are as they were if it is a disk: {what}"));
        let misplaced = self.misplaced.iter();
        unreadable.chain(misplaced.map(|what| format!("Passed over, so its keys are as they were: {what}")))
    }
}
