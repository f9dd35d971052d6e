//! The list of a home's disks, compared with what lies in its folder.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::format::header::Header;
use crate::format::members::MemberList;
use crate::key::Dek;
use crate::seen::{Floor, GoneBack, Memory, Past, Point};
use crate::vm::inventory::misplaced::{Expected, Misplaced};
use crate::vm::inventory::{Entry, Inventory};
use crate::vm::{members, owner};

/// What a verified home says of its disks.
pub(super) struct Listed {
    home: Uuid,
    binds_disks: bool,
    list: Option<MemberList>,
    /// How the list compares with what this host has seen of it.
    pub(super) past: Option<Past>,
}

impl Listed {
    /// That of the home with this header.
    pub(super) fn of(
        open: &dyn Fn(&Path) -> Result<File>,
        entry: &Entry,
        (home, dek): (&Header, &Dek),
        memory: &Arc<Memory>,
    ) -> Result<Self> {
        let vm = entry.path.parent().unwrap_or(Path::new(""));
        let read = || members::list_in(&open(vm)?, home, dek, memory);
        let (list, past) = home.lists_disks.then(read).transpose()?.unzip();
        Ok(Self { home: home.uuid, binds_disks: home.binds_disks, list, past })
    }

    /// Refuses a disk that is another VM's, or not where the list has it.
    pub(super) fn refuse(&self, disk: &Header, entry: &Entry) -> Result<()> {
        owner::refuse_foreign(disk, self.home, self.binds_disks)?;
        let Some(list) = &self.list else { return Ok(()) };
        list.refuse_path(disk.uuid, below(entry))
    }

    /// How a disk has gone back by what the list says, if it has.
    pub(super) fn gone_back(&self, there: &Point) -> Result<Option<GoneBack>> {
        GoneBack::below(there, self)
    }

    /// Refuses a home file that lies where the list has a disk.
    pub(super) fn refuse_home_file(&self, entry: &Entry) -> Result<()> {
        match &self.list {
            Some(list) if entry.is_shown_file() && !entry.is_disk() => list.refuse_home_file(below(entry)),
            _ => Ok(()),
        }
    }

    /// What of a VM folder is not as the home says.
    pub(super) fn misplaced(&self, vm: &Path, inventory: &Inventory) -> Vec<Misplaced> {
        inventory.misplaced(vm, &Expected { home: self.home, binds_disks: self.binds_disks, list: self.list.as_ref() })
    }
}

impl Floor for Listed {
    fn least(&self, disk: Uuid) -> Result<Option<(u32, u64)>> {
        Ok(self.list.as_ref().and_then(|list| list.least(disk)))
    }
}

/// Its path below its VM folder.
fn below(entry: &Entry) -> &Path {
    entry.vm.as_deref().and_then(|vm| entry.path.strip_prefix(vm).ok()).unwrap_or(&entry.path)
}
