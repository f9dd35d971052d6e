//! The list of a VM's disks made of those that lie in its folder.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header};
use crate::format::members::{Member, MemberList};
use crate::progress::GoOn;
use crate::storage::claims::FileLocks;
use crate::store::header_area::RESTORE;
use crate::sys::file::open_beneath;
use crate::text::{self, Show, quoted};
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::inventory::Inventory;
use crate::vm::inventory::misplaced::{self, Expected, Found, Misplaced};
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
    /// Of a dry run, why the list would not be made.
    pub obstacle: Option<Error>,
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

/// How a list is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rebuild<'a> {
    /// Whether it is only looked at.
    pub dry_run: bool,
    /// Disks that leave the list although something else lies in their places, by one of their names below the VM folder.
    pub forget: &'a [PathBuf],
}

/// Makes the list of a VM's disks of those that lie in its folder, in place of one that the home has. All of them must be
/// this VM's. A crash leaves a VM that opens as before, and another run finishes. A dry run changes nothing.
///
/// A disk in whose place something else lies leaves the list only if that is said: it may be the disk, without its header, and only the
/// list protects that from being taken for a disk in the clear.
///
/// # Errors
/// `Denied` for such a disk; `NotFound` for one that is to be forgotten, and is not such a disk; `ReadOnly` for a list that has gone back,
/// `Corrupt` for a disk of another VM, `Exists` for two copies of one disk, `Busy` for a folder that is in use; `NotFound` without a home;
/// or those of [`UnlockedComponent::open`].
pub fn make_list(place: &dyn VmAccess, how: Rebuild<'_>, go_on: &GoOn<'_>) -> Result<Listed> {
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
    let place_of = |name: &Path| place_of(folder, &all, name);
    let changes = changes(&former, &list, place_of);
    let taken = Taken { changes: &changes, list: &list, forget: how.forget };
    let obstacle = taken.refuse(|| {
        let inventory = Inventory::take_watched(folder, &header.disk_names, go_on)?;
        let expected = Expected { home: header.uuid, binds_disks: header.binds_disks, list: Some(&former) };
        Ok(inventory.misplaced(Path::new(""), &expected))
    });
    let listed = Listed { disks: list.disks.len(), changes, unread, obstacle: obstacle.err() };
    if how.dry_run {
        return Ok(listed);
    }
    if let Some(obstacle) = listed.obstacle {
        return Err(obstacle);
    }
    members::create(folder, header.uuid, home.dek(), &list)?;
    if !header.lists_disks {
        home.list_disks()?;
    }
    Ok(listed)
}

/// What lies in the place of a disk that is to leave the list.
fn place_of(folder: &File, all: &[FoundComponent], name: &Path) -> Place {
    if all.iter().any(|component| component.is_erased() && component.path == name) {
        return Place::Erased;
    }
    match open_beneath(folder, name, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Place::Empty,
        _ => Place::Taken,
    }
}

/// Disks that leave a list while something else lies in their places.
struct Taken<'a> {
    changes: &'a [Change],
    /// The new one.
    list: &'a MemberList,
    forget: &'a [PathBuf],
}

impl Taken<'_> {
    /// Refuses those that are not to be forgotten, and names to be forgotten that are none of theirs. `misplaced` says what lies where.
    fn refuse(&self, misplaced: impl FnOnce() -> Result<Vec<Misplaced>>) -> Result<()> {
        // A disk of this VM that has the place now is known as what it is.
        let is_listed = |name: &PathBuf| self.list.disks.values().any(|member| member.names.contains_key(name));
        let is_forgotten = |change: &Change| change.from.iter().any(|name| self.forget.contains(name));
        let is_taken = |change: &&Change| change.to.is_empty() && change.place == Place::Taken;
        let taken = self.changes.iter().filter(is_taken).filter(|change| !change.from.iter().any(is_listed));
        let kept: Vec<&Change> = taken.filter(|change| !is_forgotten(change)).collect();
        let leaves =
            |name: &&PathBuf| self.changes.iter().any(|change| change.to.is_empty() && change.from.contains(*name));
        if let Some(name) = self.forget.iter().find(|name| !leaves(name)) {
            let message = format!("no disk {} leaves the list: it is not in it, or lies in the folder", name.shown());
            return Err(Error::new(Kind::NotFound, message));
        }
        let Some(first) = kept.first() else { return Ok(()) };
        let names = first.from.iter();
        let there = misplaced()?.into_iter().filter(|other| other.found != Found::Nothing);
        let there =
            there.filter(|other| first.from.contains(&other.path)).map(|other| (other.path, other.found)).next();
        let unknown = || names.map(|name| (name.clone(), Found::Other("something else"))).next();
        let Some((name, found)) = there.or_else(unknown) else { return Ok(()) };
        let more = match kept.len() - 1 {
            0 => String::new(),
            more => format!(" (and {}, which --dry-run shows)", text::count(more, "more such disk", "more such disks")),
        };
        Err(Error::new(
            Kind::Denied,
            format!(
                "{}: {RESTORE}; if the disk is gone for good, --forget-disk {} takes it out of the list, and leaves what lies there \
                 as it is{more}",
                misplaced::in_place_of(found, &name, first.uuid),
                quoted(&name)
            ),
        ))
    }
}

/// That two files of one VM are the same disk.
pub(super) fn copy_of(disk: &Component, twin: &Component, uuid: Uuid) -> Error {
    Error::new(
        Kind::Exists,
        format!(
            "{disk} is a copy of {twin}, and a VM has a disk once: remove the one that is not to be used. Both have the UUID {uuid}"
        ),
    )
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
