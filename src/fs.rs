//! The file system that a mount shows, on our own types: no FUSE types, no logging, no threads of its own.
//!
//! A node is something the kernel knows by number; a handle is something it has open. Reading and writing go from the
//! handle straight to the disk's store, which `serve` has open; only operations on names take the node table's lock.

mod attr;
mod attributes;
mod backing;
mod caller;
mod content;
mod data;
mod durable;
mod handle;
mod leaving;
mod listing;
mod modes;
mod namespace;
mod node;
mod number;
mod open;
mod open_dirs;
mod open_image;
mod open_listing;
mod opened;
mod pending;
mod raw;
mod stat;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::RwLock;

pub use attr::{Attr, Changes, FileKind, TimeChange};
pub use attributes::XattrMode;
pub use caller::Caller;
pub use data::{Seek, Space};
pub use durable::Durability;
pub use handle::HandleNumber;
pub use namespace::{NewFile, RenameMode};
pub use number::{NodeNumber, ROOT};
pub use open::OpenMode;
pub use open_listing::DirEntry;
pub use pending::Pending;

pub use crate::serve::CacheMode;

use crate::error::{Context, Result};
use crate::serve::ServedFolder;
use crate::text::Show;
use crate::vm::acl;
use crate::vm::home::Home;

use handle::Handles;
use node::{Node, Nodes, Place};
use open_dirs::OpenDirs;
use raw::ImageNodes;

/// The file system of a served folder: the door of programs that use a mount.
pub struct FileSystem {
    served: Arc<ServedFolder>,
    open_dirs: OpenDirs,
    nodes: Nodes,
    /// Shared by threads that change names on disk, until the nodes know of it.
    name_changes: RwLock<()>,
    handles: Handles,
    image_nodes: ImageNodes,
    /// Whether the backing file system knows ACLs.
    has_acls: bool,
    /// Whether home files may be written past the kernel's cache.
    uncached_homes: AtomicBool,
    durability: Durability,
}

/// Used and free space, as `statvfs(3)` has it.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Bytes of a block.
    pub block_size: u32,
    /// Blocks in all, free, and free for ordinary users.
    pub blocks: [u64; 3],
    /// Files that can exist, and of them those that do not.
    pub files: [u64; 2],
}

impl FileSystem {
    /// The file system of a folder, which other doors may share. `durability` says what is durable without being asked for.
    ///
    /// # Errors
    /// `Io`.
    pub fn new(served: Arc<ServedFolder>, durability: Durability) -> Result<Self> {
        let stat = backing::stat(served.root())?;
        Ok(Self {
            has_acls: acl::are_known_to(served.root())?,
            nodes: Nodes::new(&stat, if served.is_vm() { Place::Vm } else { Place::Datastore }),
            served,
            open_dirs: OpenDirs::default(),
            name_changes: RwLock::default(),
            handles: Handles::default(),
            image_nodes: ImageNodes::default(),
            uncached_homes: AtomicBool::default(),
            durability,
        })
    }

    /// The folder that it shows, with all that is open of it.
    pub fn served(&self) -> &ServedFolder {
        &self.served
    }

    /// Backing path of what is known by this name in the mount.
    pub fn backing_path(&self, number: NodeNumber) -> PathBuf {
        self.served.path().join(self.name(number))
    }

    /// Space of the backing file system a node: each VM folder may be on another one.
    ///
    /// # Errors
    /// `Io`.
    pub fn capacity(&self, number: NodeNumber) -> Result<Capacity> {
        let node = self.nodes.get(number)?;
        let read = |file: &File| rustix::fs::fstatvfs(file).context(|| "reading free space".into());
        let stat = if node.is_virtual() { self.with_original(&node, read) } else { self.with_backing(&node, read) }?;
        Ok(Capacity {
            block_size: u32::try_from(stat.f_frsize).unwrap_or(4096),
            blocks: [stat.f_blocks, stat.f_bfree, stat.f_bavail],
            files: [stat.f_files, stat.f_ffree],
        })
    }

    /// What a message calls a node: its path below the mount.
    pub fn name(&self, number: NodeNumber) -> String {
        let path = self.nodes.get(number).and_then(|node| self.nodes.path(&node));
        path.map_or_else(|_| "a removed file".into(), |path| path.shown().to_string())
    }

    fn root(&self) -> &File {
        self.served.root()
    }

    /// The home that a node belongs to.
    fn home_of(&self, node: &Node) -> Result<Arc<Home>> {
        let vm = self.nodes.vm_of(node)?;
        self.served.home_of(vm.backing, &*self.dir_of(&vm)?, || self.name(vm.number))
    }
}

#[cfg(test)]
mod tests;
