//! Work on the keys of a mounted VM folder's components, while guests use them.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, UnverifiedHeader};
use crate::fs::handle::OpenFile;
use crate::fs::node::{NodeKind, NodeNumber, Place, ROOT};
use crate::fs::{FileSystem, backing};
use crate::key::Dek;
use crate::provider::Providers;
use crate::storage::{Access, Storage};
use crate::vm::keyring::LockState;
use crate::vm::scan::{self, FoundComponent};
use crate::vm::workplace::{self, Claimed, Workplace};

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

    /// Opens a file as a guest would, so that a guest that opens it now shares it.
    fn open_at(&self, path: &Path) -> Result<Arc<OpenFile>> {
        let mut looked_up = LookedUp { fs: self, nodes: Vec::new() };
        for part in path.components() {
            let Component::Normal(name) = part else {
                return Err(Error::new(Kind::Invalid, format!("{} is no path below a VM folder", path.display())));
            };
            looked_up.enter(name)?;
        }
        let number = looked_up.nodes.last().copied().unwrap_or(ROOT);
        let node = self.nodes.get(number)?;
        self.asking(|fs| fs.open_node(&node, Access::Read))
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
            // A mount reads a home's header now and then, but keeps no claim on it.
            ComponentKind::Home => {
                let storage = workplace::claim_backing(&self.fs.backing.dir(&self.folder)?, path, kind)?;
                Ok(Box::new(storage))
            }
            ComponentKind::Disk => {
                let open = self.fs.open_at(&self.folder.join(path))?;
                open.claim_for_header().context(|| path.display().to_string())?;
                Ok(Box::new(MountedDisk(open)))
            }
        }
    }

    fn claim_unused(&self, path: &Path, kind: ComponentKind) -> Result<Box<dyn Claimed + '_>> {
        // What this mount has open is claimed by its open file, and so refused as any other's.
        workplace::claim_unused(&self.fs.backing.dir(&self.folder)?, path, kind).map(|claimed| claimed as _)
    }

    fn forget(&self, header: &UnverifiedHeader) {
        self.fs.keyring.lock(header);
        self.fs.homes.forget();
    }
}

/// A disk that the mount has open, alone with its header.
struct MountedDisk(Arc<OpenFile>);

impl Claimed for MountedDisk {
    fn storage(&self) -> &dyn Storage {
        self.0.content.storage()
    }

    fn sync(&self) -> Result<()> {
        self.0.content.file().sync()
    }
}

impl Drop for MountedDisk {
    fn drop(&mut self) {
        self.0.release_header();
    }
}
