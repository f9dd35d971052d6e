//! What lies in a VM folder, compared with what its home says of its disks: the one place where that is done.

use std::fs::File;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::erasure::Erasure;
use crate::format::header::ComponentKind;
use crate::format::members::{MemberList, home_file_for_disk};
use crate::format::names::DiskNames;
use crate::progress::GoOn;
use crate::store::header_area::RESTORE;
use crate::text::advice::{Places, below_vm_folder};
use crate::text::{Show, quoted};
use crate::vm::inventory::{Entry, Inventory, What};
use crate::vm::owner::{self, Owner};

/// How often a folder is looked at whose list of disks changes in the meantime.
const LOOKS: usize = 3;

/// What a verified home says of its disks.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'l> {
    /// The home's UUID.
    pub home: Uuid,
    /// Whether each of its disks names it.
    pub binds_disks: bool,
    /// Its list of disks, if it has one.
    pub list: Option<&'l MemberList>,
}

/// Something that is not as the home says: a place of a disk where that disk is not, or a disk that has no place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Misplaced {
    /// Below the VM folder.
    pub path: PathBuf,
    /// What lies there.
    pub found: Found,
    /// What was found and expected, and what to do about it, for people.
    pub message: String,
}

/// What lies in the place of a disk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A file without the header of a disk, not even a damaged or an erased one.
    NoHeader,
    /// A file of a home.
    HomeFile,
    /// A disk of this UUID, which has another place, is another VM's, or has no place here.
    Disk(Uuid),
    /// What is not a file of a disk at all.
    Other(&'static str),
}

impl Misplaced {
    /// The same as an error.
    pub fn error(&self) -> Error {
        Error::new(Kind::Corrupt, self.message.clone())
    }
}

/// Refuses what is not as the home says, naming the first; the others are counted.
///
/// # Errors
/// `Corrupt`.
pub fn refuse(misplaced: &[Misplaced]) -> Result<()> {
    match misplaced {
        [] => Ok(()),
        [one] => Err(one.error()),
        [first, others @ ..] => {
            let others: Vec<String> = others.iter().map(|other| other.path.shown().to_string()).collect();
            Err(Error::new(Kind::Corrupt, format!("{}; the same of {}", first.message, others.join(", "))))
        }
    }
}

impl Inventory {
    /// All that lies below a VM folder, as [`take_watched`](Self::take_watched) has it, and what of it is not as its home says. A mount
    /// may change names in the meantime.
    ///
    /// # Errors
    /// As [`take_watched`](Self::take_watched), and those of the list.
    pub fn take_compared(
        root: &File,
        owner: &Owner,
        disk_names: &DiskNames,
        go_on: &GoOn<'_>,
    ) -> Result<(Self, Vec<Misplaced>)> {
        let mut looks = LOOKS;
        loop {
            let before = owner.list()?;
            let inventory = Self::take_watched(root, disk_names, go_on)?;
            let list = owner.list()?;
            let (home, binds_disks) = owner.home();
            let expected = Expected { home, binds_disks, list: list.as_deref() };
            let misplaced = inventory.misplaced(Path::new(""), &expected);
            looks -= 1;
            let is_settled = misplaced.is_empty() || before == list || looks == 0;
            if is_settled {
                return Ok((inventory, misplaced));
            }
        }
    }

    /// What of the VM folder `vm`, a path of this inventory, is not as its home says. A name that is changing may lead to anything.
    /// Nothing is said of what cannot be looked at, of disks whose headers are damaged, and of those that were erased.
    pub fn misplaced(&self, vm: &Path, expected: &Expected<'_>) -> Vec<Misplaced> {
        let of_list = expected.list.into_iter().flat_map(|list| self.in_place_of_disks(vm, list));
        let mut misplaced: Vec<Misplaced> = of_list.collect();
        let disks = self.entries.iter().filter(|entry| !entry.reserved && entry.vm.as_deref() == Some(vm));
        for (entry, path) in disks.filter_map(|entry| Some((entry, entry.path.strip_prefix(vm).ok()?))) {
            if let What::Disk(headers) = &entry.what
                && let Some(header) = headers.unverified().map(|header| header.claims())
                && let Err(error) = owner::refuse_foreign(header, expected.home, expected.binds_disks)
                    .and_then(|()| expected.list.map_or(Ok(()), |list| list.refuse_path(header.uuid, path)))
            {
                let found = Found::Disk(header.uuid);
                misplaced.push(Misplaced { path: path.to_path_buf(), found, message: advised(path, &error.chain()) });
            }
        }
        misplaced.sort_by(|a, b| a.path.cmp(&b.path));
        misplaced
    }

    /// What lies at places of disks and is not a disk.
    fn in_place_of_disks<'a>(&'a self, vm: &'a Path, list: &'a MemberList) -> impl Iterator<Item = Misplaced> + 'a {
        let names = list.disks.iter().flat_map(|(disk, member)| member.names.iter().map(move |name| (disk, name)));
        names.filter(|(_, (_, is_settled))| **is_settled).filter_map(move |(disk, (path, _))| {
            let whole = vm.join(path);
            let entry = self.entries.iter().find(|entry| entry.path.as_os_str() == whole.as_os_str());
            let found = entry.map_or(Some(Found::Nothing), in_place_of_disk)?;
            Some(Misplaced { path: path.clone(), found, message: advised(path, &describe(path, *disk, found)) })
        })
    }
}

/// Advice about the disk at a path below the VM folder.
fn advised(path: &Path, message: &str) -> String {
    Places { component: Some(&below_vm_folder(path)), ..Places::default() }.put_into(message)
}

/// What an entry is, unless it is a disk, was one, or cannot be looked at.
fn in_place_of_disk(entry: &Entry) -> Option<Found> {
    match &entry.what {
        What::Disk(_) | What::Erased(Erasure { kind: ComponentKind::Disk, .. }) | What::Unreadable(_) => None,
        What::Clear(_) | What::Empty(_) => Some(Found::NoHeader),
        What::Sealed => Some(Found::HomeFile),
        What::Folder(_) => Some(Found::Other("a folder")),
        What::Link(_) => Some(Found::Other("a symbolic link")),
        What::Special(what) => Some(Found::Other(what)),
        What::Mount => Some(Found::Other("a mount of vmcryptfs")),
        What::Home(_) | What::Erased(_) => Some(Found::Other("the header of a home")),
        What::SavedHeader(_) => Some(Found::Other("a saved header")),
    }
}

fn describe(path: &Path, disk: Uuid, found: Found) -> String {
    let lies = in_place_of(found, path, disk);
    match found {
        Found::Nothing => format!(
            "{lies}: put it back; if it is gone for good, `vmcryptfs adopt VM_FOLDER` makes the list say what is there"
        ),
        Found::NoHeader => format!(
            "{lies}: {RESTORE}; if the disk is gone for good, `vmcryptfs adopt VM_FOLDER --forget-disk {}` takes it out of the list, \
             and leaves the file as it is",
            quoted(path)
        ),
        Found::HomeFile => home_file_for_disk(path, disk),
        Found::Disk(_) => lies,
        Found::Other(_) => format!("{lies}: put the disk back, or remove it in a mount"),
    }
}

/// What lies where the list of a VM's disks has a disk, for people.
pub fn in_place_of(found: Found, path: &Path, disk: Uuid) -> String {
    let what = match found {
        Found::Nothing => "nothing".to_owned(),
        Found::NoHeader => "a file without a header".to_owned(),
        Found::HomeFile => "a home file".to_owned(),
        Found::Disk(other) => format!("disk {other}"),
        Found::Other(what) => what.to_owned(),
    };
    format!("{what} lies at {}, where the VM's list of disks has disk {disk}", path.shown())
}
