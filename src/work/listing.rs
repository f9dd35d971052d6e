//! The list of a VM's disks made of those that lie in its folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header};
use crate::format::members::{Member, MemberList};
use crate::progress::GoOn;
use crate::storage::claims::FileLocks;
use crate::sys::file::open_beneath;
use crate::text::Show;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::members;
use crate::vm::owner::{self, Owner};
use crate::vm::scan::{self, FoundComponent};
use crate::work::unlocked_component::{UnlockedComponent, fetch_keks};

/// A list that was made.
#[derive(Debug)]
pub struct Listed {
    /// How many disks it has.
    pub disks: usize,
    /// How it differs from the one before, in order of UUIDs.
    pub changes: Vec<Change>,
    /// Why the one before could not be read: then it is compared with none.
    pub unread: Option<Error>,
}

/// What becomes of a disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Which.
    pub uuid: Uuid,
    /// Its names so far, below the VM folder.
    pub from: BTreeSet<PathBuf>,
    /// Those that it has now; none for a disk that leaves the list.
    pub to: BTreeSet<PathBuf>,
    /// Where one that leaves the list was.
    pub place: Place,
}

/// What lies where a disk was that leaves the list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// Nothing.
    Empty,
    /// What was erased.
    Erased,
    /// Something else than that disk.
    Taken,
}

/// Makes the list of a VM's disks of those that lie in its folder, in place of one that the home has. All of them must be
/// this VM's. A crash leaves a VM that opens as before, and another run finishes. A `dry_run` changes nothing.
///
/// # Errors
/// `ReadOnly` for a list that has gone back, `Corrupt` for a disk of another VM, `Exists` for two copies of one disk, `Busy` for a folder
/// that is in use; `NotFound` without a home; or those of [`UnlockedComponent::open`].
pub fn make_list(place: &dyn VmAccess, dry_run: bool, go_on: &GoOn<'_>) -> Result<Listed> {
    let folder = place.folder_if_unused().ok_or_else(|| Error::new(Kind::Busy, "the VM folder is mounted"))?;
    let all = place.components(go_on)?;
    let found: Vec<&FoundComponent> = all.iter().filter(|component| !component.is_erased()).collect();
    let keks = fetch_keks(place, found.iter().copied());
    let mut home = UnlockedComponent::open(place, &Component::Home, &keks)?;
    let header = home.header().clone();
    let owner = Owner::of(folder, (&header, home.dek()), &FileLocks, place.memory());
    owner.as_ref().map_or(Ok(()), Owner::allow_changes)?; // that it has gone back is accepted by another verb
    let (former, unread) = match owner.and_then(|owner| owner.list()) {
        Ok(former) => (former.unwrap_or_default(), None),
        Err(error) => (Arc::default(), Some(error)),
    };
    let sequence = members::next_sequence(&header, &former, place.memory())?;
    let mut list = MemberList { sequence, ..MemberList::default() };
    let disks: Vec<&FoundComponent> = found.into_iter().filter(|found| found.kind == ComponentKind::Disk).collect();
    let mut files = disks.clone();
    scan::each_file_once(&mut files);
    for file in files {
        let disk = UnlockedComponent::open_of_any_vm(place, &file.component(), &keks)?;
        let disk = &disk.durable_header()?;
        owner::refuse_foreign(disk, header.uuid, true).context(|| file.path.shown().to_string())?;
        if let Some(twin) = list.disks.get(&disk.uuid).and_then(|twin| twin.names.keys().next()) {
            return Err(copy_of(&file.component(), &Component::Disk(twin.clone()), disk.uuid));
        }
        let is_same =
            |other: &&&FoundComponent| other.path == file.path || (file.inode.is_some() && other.inode == file.inode);
        let paths: Vec<&Path> = disks.iter().filter(is_same).map(|other| other.path.as_path()).collect();
        list = list.with_disk(disk, &paths);
        // That one has gone back is accepted by another verb.
        if let Some((dek_generation, sequence)) =
            former.least(disk.uuid).filter(|least| list.least(disk.uuid) < Some(*least))
        {
            list = list.with_least(&Header { dek_generation, sequence, ..disk.clone() });
        }
    }
    let erased: BTreeSet<&Path> =
        all.iter().filter(|component| component.is_erased()).map(|component| component.path.as_path()).collect();
    let place_of = |name: &Path| {
        let found = open_beneath(folder, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty());
        match (erased.contains(name), found) {
            (true, _) => Place::Erased,
            (false, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => Place::Empty,
            (false, _) => Place::Taken,
        }
    };
    let listed = Listed { disks: list.disks.len(), changes: changes(&former, &list, place_of), unread };
    if dry_run {
        return Ok(listed);
    }
    members::create(folder, header.uuid, home.dek(), &list)?;
    if !header.lists_disks {
        home.list_disks()?;
    }
    Ok(listed)
}

/// That two files of one VM are the same disk.
pub(super) fn copy_of(disk: &Component, twin: &Component, uuid: Uuid) -> Error {
    Error::new(Kind::Exists, format!("{disk} is a copy of {twin}: both have the UUID {uuid}"))
}

fn changes(former: &MemberList, list: &MemberList, place_of: impl Fn(&Path) -> Place) -> Vec<Change> {
    let names = |member: Option<&Member>| -> BTreeSet<PathBuf> {
        member.map(|member| member.names.keys().cloned().collect()).unwrap_or_default()
    };
    let uuids: BTreeSet<&Uuid> = former.disks.keys().chain(list.disks.keys()).collect();
    let change = |&uuid: &Uuid| {
        let (from, to) = (names(former.disks.get(&uuid)), names(list.disks.get(&uuid)));
        if from == to {
            return None;
        }
        let mut places = from.iter().map(|name| place_of(name));
        let place = places.find(|place| *place != Place::Empty).unwrap_or(Place::Empty);
        Some(Change { uuid, from, to, place })
    };
    uuids.into_iter().filter_map(change).collect()
}
