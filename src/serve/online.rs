//! Work on the keys of a served VM folder's components, while guests use them.

use std::fs::File;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, Header, UnverifiedHeader};
use crate::key::Dek;
use crate::progress::GoOn;
use crate::provider::Providers;
use crate::seen::{Floor, Memory};
use crate::serve::{BackingId, CLOSE_RACE_TIMEOUT, Opened, ServedFolder};
use crate::storage::claims::wait_for_claim;
use crate::storage::{Access, Storage};
use crate::store::disk::RekeyInPlace;
use crate::store::header_area;
use crate::sys::file::path_of;
use crate::text::Show;
use crate::vm::access::{self, Claimed, OpenDisk, VmAccess};
use crate::vm::component::Component;
use crate::vm::keyring::FetchedKeks;
use crate::vm::owner::Owner;
use crate::vm::scan::{self, FoundComponent};

/// A VM folder of one that is served.
pub struct OnlineVm<'f> {
    served: &'f ServedFolder,
    /// Below the served folder.
    folder: PathBuf,
}

impl ServedFolder {
    /// The VM folder that holds what lies at a path below this one, and which component it is. Configured providers are read
    /// again, so that one that was just added can be used.
    ///
    /// # Errors
    /// `Invalid` for a datastore as a whole, or those of the configuration.
    pub fn vm_at(&self, below: &Path) -> Result<(OnlineVm<'_>, Component)> {
        self.keyring.reload_providers()?;
        if self.is_vm {
            return Ok((OnlineVm { served: self, folder: PathBuf::new() }, Component::at(below)));
        }
        let mut parts = below.components();
        let Some(path::Component::Normal(folder)) = parts.next() else {
            return Err(Error::new(Kind::Invalid, "a datastore, expected one of its VM folders"));
        };
        Ok((OnlineVm { served: self, folder: PathBuf::from(folder) }, Component::at(parts.as_path())))
    }

    /// Device and inode number of the folder, by which others find out what is mounted.
    ///
    /// # Errors
    /// `Io`.
    pub fn id(&self) -> Result<BackingId> {
        BackingId::of_file(&self.root)
    }
}

impl OnlineVm<'_> {
    fn refuse_read_only(&self) -> Result<()> {
        match self.served.options.read_only {
            true => Err(Error::new(Kind::ReadOnly, "it is mounted read-only: unmount it, or mount it writable")),
            false => Ok(()),
        }
    }

    fn dir(&self) -> Result<File> {
        self.served.dir(&self.folder)
    }

    /// Opens a disk as a guest would, and keeps others from its header. A guest that opens it shares it.
    fn claim_disk(&self, path: &Path, access: Access) -> Result<ClaimedDisk> {
        let below = self.folder.join(path);
        let open = self.served.retry_after_fetch(|| self.served.open_at(&below, access))?;
        open.claim_for_header().context(|| path.shown().to_string())?;
        Ok(ClaimedDisk(open))
    }
}

impl VmAccess for OnlineVm<'_> {
    fn path(&self) -> PathBuf {
        // The folder may have been renamed since it was mounted: the system knows its path.
        path_of(&self.served.root).join(&self.folder)
    }

    fn providers(&self) -> Arc<Providers> {
        self.served.keyring.providers()
    }

    fn components(&self, go_on: &GoOn<'_>) -> Result<Vec<FoundComponent>> {
        scan::scan_vm(&self.dir()?, go_on)
    }

    fn known_dek(&self, header: &UnverifiedHeader) -> Option<Arc<Dek>> {
        self.served.keyring.known_dek(header)
    }

    fn claim(&self, component: &Component) -> Result<Box<dyn Claimed + '_>> {
        self.refuse_read_only()?;
        match component {
            // A mount claims a home, so that its DEK stays, but not the header.
            Component::Home => {
                Ok(Box::new(access::claim_backing(&self.dir()?, component, self.served.options.claims)?))
            }
            Component::Disk(path) => Ok(Box::new(self.claim_disk(path, Access::Read)?)),
        }
    }

    fn claim_exclusive(&self, component: &Component, go_on: &GoOn<'_>) -> Result<Box<dyn Claimed + '_>> {
        // What is open here is claimed by its open file, and so refused as any other's. Homes that are kept come back.
        let folder = self.dir()?;
        wait_for_claim(CLOSE_RACE_TIMEOUT, || {
            self.served.homes.forget();
            access::claim_exclusive(&folder, component, self.served.options.claims, go_on).map(|claimed| claimed as _)
        })
    }

    /// Disks were opened as guests open them, which refuses those of other VMs.
    fn refuse_foreign(&self, path: &Path, _disk: &Header, _keks: &FetchedKeks) -> Result<()> {
        self.served.home_at(&self.folder.join(path))?.owner.allow_changes()
    }

    fn home_of_disks(&self, _keks: &FetchedKeks) -> Result<Option<Owner>> {
        let open = || self.served.home_at(&self.folder.join(HOME_FILE));
        self.served.retry_after_fetch(open).map(|home| Some(home.owner.clone()))
    }

    fn floor(&self, path: &Path) -> Option<Arc<dyn Floor>> {
        self.served.home_at(&self.folder.join(path)).ok()?.owner.floor()
    }

    fn note_newer(&self, path: &Path, disk: &Header) -> Result<()> {
        self.served.home_at(&self.folder.join(path))?.owner.note_newer(disk)
    }

    fn accept_older(&self, path: &Path, disk: &Header) -> Result<()> {
        self.served.home_at(&self.folder.join(path))?.owner.accept(disk)
    }

    fn forget(&self, header: &UnverifiedHeader) {
        self.served.keyring.lock(header);
        self.served.homes.forget();
    }

    fn open_disk(&self, path: &Path, _keks: &FetchedKeks) -> Result<Box<dyn OpenDisk + '_>> {
        self.refuse_read_only()?;
        let claim = self.claim_disk(path, Access::Write)?;
        if claim.0.disk().is_none() {
            return Err(Error::new(Kind::Invalid, "not a disk"));
        }
        let stored = header_area::load(claim.storage(), ComponentKind::Disk)?;
        let dek = self.served.keyring.dek(&stored.header)?;
        Ok(Box::new(ServedDisk { claim, dek }))
    }

    fn folder_if_unused(&self) -> Option<&File> {
        None
    }

    fn memory(&self) -> &Arc<Memory> {
        self.served.keyring.memory()
    }

    fn remember_dek(&self, header: &UnverifiedHeader, dek: &Dek) {
        self.served.keyring.insert(header.claims().uuid, header.place(), dek.duplicate());
    }
}

/// A disk that is open for writing, with its header claimed.
struct ServedDisk {
    claim: ClaimedDisk,
    dek: Arc<Dek>,
}

impl Claimed for ServedDisk {
    fn storage(&self) -> &dyn Storage {
        self.claim.storage()
    }

    fn sync(&self) -> Result<()> {
        self.claim.sync()
    }
}

impl OpenDisk for ServedDisk {
    fn dek(&self) -> &Dek {
        &self.dek
    }

    fn deep_rekey(&self) -> &dyn RekeyInPlace {
        match self.claim.0.disk() {
            Some(disk) => disk,
            None => unreachable!("only disks are opened as such"),
        }
    }
}

/// A disk that is open, with its header claimed.
struct ClaimedDisk(Opened);

impl Claimed for ClaimedDisk {
    fn storage(&self) -> &dyn Storage {
        self.0.storage()
    }

    fn sync(&self) -> Result<()> {
        self.0.file().sync()
    }
}

impl Drop for ClaimedDisk {
    fn drop(&mut self) {
        self.0.release_header();
    }
}
