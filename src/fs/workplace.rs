//! Work on the keys of a mounted VM folder's components, while guests use them.

use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, UnverifiedHeader};
use crate::fs::handle::{OpenFile, past_closing};
use crate::fs::modes::Rights;
use crate::fs::node::{NodeKind, NodeNumber, Place, ROOT};
use crate::fs::{FileSystem, backing};
use crate::key::Dek;
use crate::provider::Providers;
use crate::storage::{Access, Storage};
use crate::store::disk::DeepRekey;
use crate::store::header_area;
use crate::text::Show;
use crate::vm::access::{self, Claimed, OpenDisk, Workplace};
use crate::vm::keyring::{FetchedKeks, LockState};
use crate::vm::scan::{self, FoundComponent};

/// A VM folder of this mount.
pub struct MountedVm<'f> {
    fs: &'f FileSystem,
    /// Below the mount.
    folder: PathBuf,
}

impl FileSystem {
    /// The VM folder that holds what lies at a path below the mount, and the rest of the path. Configured providers are read
    /// anew, so that one that was just added can be used.
    ///
    /// # Errors
    /// `Invalid` for a datastore as a whole, or those of the configuration.
    pub fn vm_at(&self, below: &Path) -> Result<(MountedVm<'_>, PathBuf)> {
        self.keyring.reload_providers()?;
        let home = |rest: &Path| if rest == Path::new(HOME_FILE) { PathBuf::new() } else { rest.to_path_buf() };
        if !matches!(self.nodes.get(ROOT)?.kind, NodeKind::Directory(Place::Datastore)) {
            return Ok((MountedVm { fs: self, folder: PathBuf::new() }, home(below)));
        }
        let mut parts = below.components();
        let Some(Component::Normal(folder)) = parts.next() else {
            return Err(Error::new(Kind::Invalid, "a datastore, expected one of its VM folders"));
        };
        Ok((MountedVm { fs: self, folder: PathBuf::from(folder) }, home(parts.as_path())))
    }

    /// Whether nothing can be written through this mount.
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// Device and inode number of the mounted folder, by which others find out what is mounted.
    ///
    /// # Errors
    /// `Io`.
    pub fn root_id(&self) -> Result<(u64, u64)> {
        backing::stat(self.root()).map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Opens a file as a guest would. A guest that opens it shares it for as long as its nodes are known.
    fn open_at(&self, path: &Path, access: Access) -> Result<(Arc<OpenFile>, LookedUp<'_>)> {
        let mut looked_up = LookedUp { fs: self, nodes: Vec::new() };
        for part in path.components() {
            let Component::Normal(name) = part else {
                return Err(Error::new(Kind::Invalid, format!("{} is no path below a VM folder", path.shown())));
            };
            looked_up.enter(name)?;
        }
        let number = looked_up.nodes.last().copied().unwrap_or(ROOT);
        let node = self.nodes.get(number)?;
        Ok((self.asking(|fs| fs.open_node(&node, access, Rights::Process))?, looked_up))
    }
}

/// Nodes that are known as long as this lives, as if the kernel had looked them up.
struct LookedUp<'f> {
    fs: &'f FileSystem,
    nodes: Vec<NodeNumber>,
}

impl LookedUp<'_> {
    fn enter(&mut self, name: &std::ffi::OsStr) -> Result<()> {
        let (parent, dir) = self.fs.directory(self.nodes.last().copied().unwrap_or(ROOT))?;
        let (node, _) = self.fs.find(&parent, &dir, name)?;
        self.nodes.push(node.number);
        Ok(())
    }
}

impl Drop for LookedUp<'_> {
    fn drop(&mut self) {
        self.nodes.iter().rev().for_each(|&node| self.fs.forget(node, 1));
    }
}

impl Workplace for MountedVm<'_> {
    fn path(&self) -> PathBuf {
        // The folder may have been renamed since it was mounted: the system knows its path.
        backing::path_of(self.fs.root()).join(&self.folder)
    }

    fn providers(&self) -> Arc<Providers> {
        self.fs.keyring.providers()
    }

    fn components(&self) -> Result<Vec<FoundComponent>> {
        scan::scan_vm(&self.fs.backing.dir(&self.folder)?)
    }

    fn known_dek(&self, uuid: Uuid) -> Option<Arc<Dek>> {
        match self.fs.keyring.state(uuid) {
            Some(LockState::Unlocked(dek)) => Some(dek),
            Some(LockState::Locked { .. }) | None => None,
        }
    }

    fn claim(&self, path: &Path, kind: ComponentKind) -> Result<Box<dyn Claimed + '_>> {
        if self.fs.options.read_only {
            return Err(Error::new(Kind::ReadOnly, "it is mounted read-only: unmount it, or mount it writable"));
        }
        match kind {
            // A mount claims a home, so that its DEK stays, but not the header.
            ComponentKind::Home => {
                let storage = access::claim_backing(&self.fs.backing.dir(&self.folder)?, path, kind)?;
                Ok(Box::new(storage))
            }
            ComponentKind::Disk => Ok(Box::new(self.claim_disk(path, Access::Read)?)),
        }
    }

    fn claim_unused(&self, path: &Path, kind: ComponentKind) -> Result<Box<dyn Claimed + '_>> {
        // What this mount has open is claimed by its open file, and so refused as any other's. What it keeps comes back.
        let folder = self.fs.backing.dir(&self.folder)?;
        past_closing(|| {
            self.fs.homes.forget();
            access::claim_unused(&folder, path, kind).map(|claimed| claimed as _)
        })
    }

    fn forget(&self, header: &UnverifiedHeader) {
        self.fs.keyring.lock(header);
        self.fs.homes.forget();
    }

    fn open_disk(&self, path: &Path, _keks: &FetchedKeks) -> Result<Box<dyn OpenDisk + '_>> {
        if self.fs.options.read_only {
            return Err(Error::new(Kind::ReadOnly, "it is mounted read-only: unmount it, or mount it writable"));
        }
        let claim = self.claim_disk(path, Access::Write)?;
        if claim.open.content.disk().is_none() {
            return Err(Error::new(Kind::Invalid, "not a disk"));
        }
        let stored = header_area::load(claim.storage(), ComponentKind::Disk)?;
        let dek = self.fs.keyring.dek(&stored.header)?;
        Ok(Box::new(MountedOpenDisk { claim, dek }))
    }

    fn folder_alone(&self) -> Option<&File> {
        None
    }

    fn learn(&self, uuid: Uuid, dek: &Dek) {
        self.fs.keyring.insert(uuid, dek.duplicate());
    }
}

/// A disk that the mount has open for writing, alone with its header.
struct MountedOpenDisk<'f> {
    claim: MountedDisk<'f>,
    dek: Arc<Dek>,
}

impl Claimed for MountedOpenDisk<'_> {
    fn storage(&self) -> &dyn Storage {
        self.claim.storage()
    }

    fn sync(&self) -> Result<()> {
        self.claim.sync()
    }
}

impl OpenDisk for MountedOpenDisk<'_> {
    fn dek(&self) -> &Dek {
        &self.dek
    }

    fn deep_rekey(&self) -> &dyn DeepRekey {
        match self.claim.open.content.disk() {
            Some(disk) => disk,
            None => unreachable!("only disks are opened as such"),
        }
    }
}

/// A disk that the mount has open, alone with its header.
struct MountedDisk<'f> {
    open: Arc<OpenFile>,
    /// So that a guest that opens the disk meanwhile finds it open, and shares it.
    _nodes: LookedUp<'f>,
}

impl<'f> MountedVm<'f> {
    fn claim_disk(&self, path: &Path, access: Access) -> Result<MountedDisk<'f>> {
        let (open, nodes) = self.fs.open_at(&self.folder.join(path), access)?;
        open.claim_for_header().context(|| path.shown().to_string())?;
        Ok(MountedDisk { open, _nodes: nodes })
    }
}

impl Claimed for MountedDisk<'_> {
    fn storage(&self) -> &dyn Storage {
        self.open.content.storage()
    }

    fn sync(&self) -> Result<()> {
        self.open.content.file().sync()
    }
}

impl Drop for MountedDisk<'_> {
    fn drop(&mut self) {
        self.open.release_header();
    }
}
