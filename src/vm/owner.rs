//! Which VM a disk belongs to: its header names its home under its own key, so a genuine disk of another VM is known as one.

use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::format::header::Header;

/// A home, as far as its disks have to know it.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    home: Uuid,
    binds_disks: bool,
}

impl Owner {
    /// That of a home whose header is verified.
    pub fn of(home: &Header) -> Self {
        Self { home: home.uuid, binds_disks: home.binds_disks }
    }

    /// Refuses a disk that is another VM's, by its verified header.
    ///
    /// # Errors
    /// `Corrupt`, with the UUIDs of the disk and of both VMs.
    pub fn refuse_foreign(self, disk: &Header) -> Result<()> {
        let (uuid, home) = (disk.uuid, self.home);
        let why = match disk.owner {
            Some(owner) if owner == home => return Ok(()),
            None if !self.binds_disks => return Ok(()),
            Some(owner) => format!("disk {uuid} is of the VM {owner}, and lies in the folder of the VM {home}"),
            None => format!("disk {uuid} names no VM, as all disks of the VM {home} do, in whose folder it lies"),
        };
        Err(Error::new(Kind::Corrupt, format!("{why}: `vmcryptfs adopt` takes it in if it is to belong there")))
    }
}
