//! Which VM a disk belongs to, and where in it: its header names its home under its own key, and the home lists its disks. So what is
//! genuine but in another place is known as that.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::Header;
use crate::format::members::MemberList;
use crate::key::Dek;
use crate::seen::{Floor, GoneBack, Memory, Past, Point};
use crate::storage::claims::Claims;
use crate::vm::members::{ListChange, Members};

/// What is told of a new disk's header before the disk is where it belongs.
pub type Announce<'a> = dyn FnMut(&Header) -> Result<()> + 'a;

/// A home, as far as its disks have to know it.
#[derive(Clone)]
pub struct Owner {
    home: Uuid,
    binds_disks: bool,
    members: Option<Arc<Members>>,
}

impl Owner {
    /// That of a home in `dir` whose header is verified by `dek`.
    ///
    /// # Errors
    /// Those of [`Members::open`].
    pub fn of(dir: &File, home: (&Header, &Dek), claims: &'static dyn Claims, memory: &Arc<Memory>) -> Result<Self> {
        let members = Members::open(dir, home, claims, memory)?;
        Ok(Self { home: home.0.uuid, binds_disks: home.0.binds_disks, members })
    }

    /// How the home's list of disks compares with what this host has seen of it.
    pub fn past_of_list(&self) -> Option<Past> {
        self.members.as_ref()?.past()
    }

    /// Refuses changes of a home whose list of disks has gone back, and of its disks.
    ///
    /// # Errors
    /// Those of [`Members::allow_changes`].
    pub fn allow_changes(&self) -> Result<()> {
        self.members.as_ref().map_or(Ok(()), |members| members.allow_changes())
    }

    /// Takes what the home's list of disks says for the newest, if it has gone back.
    ///
    /// # Errors
    /// Those of [`Members::accept`].
    pub fn accept_list(&self) -> Result<Option<GoneBack>> {
        self.members.as_ref().map_or(Ok(None), |members| members.accept())
    }

    /// Refuses a disk that is another VM's, or that the home does not have at these paths below the VM folder, by its verified header.
    ///
    /// # Errors
    /// `Corrupt`, with what is there and what was expected; those of [`Members::list`].
    pub fn refuse_foreign(&self, disk: &Header, paths: &[&Path]) -> Result<()> {
        refuse_foreign(disk, self.home, self.binds_disks)?;
        let Some(members) = &self.members else { return Ok(()) };
        members.judge(|list| paths.iter().try_for_each(|path| list.refuse_path(disk.uuid, path)))
    }

    /// Refuses what is open and genuine at a path that the list does not give it: a disk of this UUID, or a home file.
    ///
    /// # Errors
    /// As [`refuse_foreign`](Self::refuse_foreign).
    pub fn refuse_place(&self, disk: Option<Uuid>, paths: &[&Path]) -> Result<()> {
        let Some(members) = &self.members else { return Ok(()) };
        members.judge(|list| {
            paths.iter().try_for_each(|path| match disk {
                Some(uuid) => list.refuse_path(uuid, path),
                None => list.refuse_home_file(path),
            })
        })
    }

    /// The home's UUID, and whether each of its disks names it.
    pub fn home(&self) -> (Uuid, bool) {
        (self.home, self.binds_disks)
    }

    /// The list of the home's disks, if it has one.
    ///
    /// # Errors
    /// Those of [`Members::list`].
    pub fn list(&self) -> Result<Option<Arc<MemberList>>> {
        self.members.as_ref().map(|members| members.list()).transpose()
    }

    /// Makes a disk at a path below the VM folder by `make`, which announces the disk's header before it is there.
    ///
    /// # Errors
    /// Those of `make`, or of the list.
    pub fn with_new_disk<T>(&self, path: &Path, make: impl FnOnce(&mut Announce<'_>) -> Result<T>) -> Result<T> {
        let Some(mut listed) = self.change(|_| true)? else { return make(&mut |_| Ok(())) };
        let before = listed.list().clone();
        let mut after = None;
        let made = make(&mut |header| {
            let next = before.with_disk(header, &[path]);
            listed.announce(&next)?;
            after = Some(next);
            Ok(())
        });
        if let Some(after) = after {
            listed.settle(if made.is_ok() { after } else { before })?;
        }
        made
    }

    /// What says of the home's disks how far they are at least, if it has a list of them.
    pub fn floor(&self) -> Option<Arc<dyn Floor>> {
        self.members.clone().map(|members| members as Arc<dyn Floor>)
    }

    /// How a disk has gone back by what the list says, if it has.
    ///
    /// # Errors
    /// Those of [`Members::list`].
    pub fn gone_back(&self, disk: &Point) -> Result<Option<GoneBack>> {
        self.members.as_ref().map_or(Ok(None), |members| GoneBack::below(disk, members.as_ref()))
    }

    /// Refuses a disk that has gone back, of which something is to be made.
    ///
    /// # Errors
    /// `ReadOnly`, or as [`gone_back`](Self::gone_back).
    pub fn refuse_older(&self, disk: &Point) -> Result<()> {
        self.allow_changes()?;
        self.gone_back(disk)?.map_or(Ok(()), |gone_back| Err(gone_back.error()))
    }

    /// Records a header of a disk that the list has as the oldest that may be there, if the list has an older one. The header is durable.
    ///
    /// # Errors
    /// Those of [`Members::begin`].
    pub fn note_newer(&self, disk: &Header) -> Result<()> {
        let there = (disk.dek_generation, disk.sequence);
        self.note(disk, |least| least < there)
    }

    /// The same if the list has a newer one: a person accepts what is there.
    ///
    /// # Errors
    /// Those of [`Members::begin`].
    pub fn accept(&self, disk: &Header) -> Result<()> {
        let there = (disk.dek_generation, disk.sequence);
        self.note(disk, |least| least > there)
    }

    /// Records that a disk with the header that it had is one that was put back: a mark of erasure is in its place, and others get
    /// other keys.
    ///
    /// # Errors
    /// Those of [`Members::begin`].
    pub fn outdate(&self, path: &Path) -> Result<()> {
        let Some(mut listed) = self.change(|list| list.touches(path))? else { return Ok(()) };
        let outdated = listed.list().with_outdated(path);
        listed.make(outdated)
    }

    fn note(&self, disk: &Header, is_due: impl Fn((u32, u64)) -> bool) -> Result<()> {
        let Some(mut listed) = self.change(|list| list.least(disk.uuid).is_some_and(is_due))? else { return Ok(()) };
        let noted = listed.list().with_least(disk);
        listed.make(noted)
    }

    /// Makes the list say what is, if that was put off after names had changed.
    ///
    /// # Errors
    /// Those of [`Members::settle`].
    pub fn settle(&self) -> Result<()> {
        self.members.as_ref().map_or(Ok(()), |members| members.settle())
    }

    /// Begins a change of the list, if there is one, and if what it says now has to do with the change.
    ///
    /// # Errors
    /// Those of [`Members::begin`].
    pub fn change(&self, concerns: impl FnOnce(&MemberList) -> bool) -> Result<Option<ListChange<'_>>> {
        let Some(members) = &self.members else { return Ok(None) };
        if concerns(&*members.list()?) { members.begin().map(Some) } else { Ok(None) }
    }
}

/// Refuses a disk that is another VM's, by its verified header and that of a home.
///
/// # Errors
/// `Corrupt`, with the UUIDs of the disk and of both VMs.
pub fn refuse_foreign(disk: &Header, home: Uuid, binds_disks: bool) -> Result<()> {
    let uuid = disk.uuid;
    let why = match disk.owner {
        Some(owner) if owner == home => return Ok(()),
        None if !binds_disks => return Ok(()),
        Some(owner) => format!("disk {uuid} is of the VM {owner}, and lies in the folder of the VM {home}"),
        None => format!("disk {uuid} names no VM, as all disks of the VM {home} do, in whose folder it lies"),
    };
    Err(Error::new(Kind::Corrupt, format!("{why}: `vmcryptfs adopt DISK` takes it in if it is to belong there")))
}
