//! The file system that a mount shows, on our own types: no FUSE types, no logging, no threads of its own.
//!
//! A node is something the kernel knows by number; a handle is something it has open. Reading and writing go from the
//! handle straight to the disk's store; only operations on names take the node table's lock.

mod attr;
mod attributes;
mod backing;
mod caller;
mod content;
mod data;
mod durable;
mod handle;
mod homes;
mod leaving;
mod listing;
mod lock;
mod modes;
mod namespace;
mod node;
mod open;
mod open_dirs;
mod opened;
mod pending;
mod places;
mod raw;
mod stat;
mod sync_times;
mod undecided;
mod workplace;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use parking_lot::RwLock;
use uuid::Uuid;

pub use attr::{Attr, Changes, FileKind, TimeChange};
pub use attributes::XattrMode;
pub use caller::Caller;
pub use data::{Seek, Space};
pub use durable::Durability;
pub use handle::HandleNumber;
pub use listing::DirEntry;
pub use namespace::{NewFile, RenameMode};
pub use node::{NodeNumber, ROOT};
pub use open::{CacheMode, OpenMode};
pub use pending::Pending;
pub use workplace::MountedVm;

use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::provider::Providers;
use crate::storage::BackingIo;
use crate::text::Show;
use crate::vm::home_state::HomeState;
use crate::vm::inventory::Inventory;
use crate::vm::keyring::{Keyring, Question};
use crate::vm::{acl, folder, scan};

use backing::Backing;
use handle::{Handles, Turns};
use homes::Homes;
use node::{Nodes, Place};
use open_dirs::OpenDirs;
use places::Places;
use raw::ImageNodes;
use sync_times::SyncTimes;

/// Questions that one operation may lead to: a home's key, a disk's, and whether a key may wrap; each may come up again
/// when another operation was quicker to use the answer.
const MOST_QUESTIONS: usize = 8;

/// What a mount is made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// No backing file is opened for writing.
    pub read_only: bool,
    /// Cipher engine of all disks.
    pub engine: Engine,
    /// Which way data of disks take to the backing files.
    pub backing_io: BackingIo,
    /// What is durable without being asked for.
    pub durability: Durability,
}

/// One mounted VM folder, or a datastore of VM folders.
pub struct FileSystem {
    /// The folder that is shown.
    path: PathBuf,
    /// Where components lay when the folder was last looked through.
    paths: RwLock<HashMap<Uuid, PathBuf>>,
    backing: Backing,
    open_dirs: OpenDirs,
    nodes: Nodes,
    /// Shared by those who change names on disk, until the nodes know of it.
    name_changes: RwLock<()>,
    handles: Handles,
    turns: Turns,
    places: Places,
    sync_times: SyncTimes,
    keyring: Keyring,
    /// Whether all headers could be read when the folder was first looked through.
    had_whole_headers: bool,
    homes: Homes,
    image_nodes: ImageNodes,
    /// Whether the file system beneath knows ACLs.
    has_acls: bool,
    /// Whether home files may be written past the kernel's cache.
    uncached_homes: AtomicBool,
    options: Options,
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
    /// Opens a VM folder or a datastore. No provider is asked yet: what is in it waits for
    /// [`retry_locked`](Self::retry_locked).
    ///
    /// # Errors
    /// `NotFound` or `Io` for the folder, `Busy` for one whose home is neither clear nor encrypted.
    pub fn open(path: &Path, providers: Providers, options: Options) -> Result<Self> {
        let root = folder::open_dir(path)?;
        if let Some(why) = HomeState::of(&root)?.unfinished() {
            return Err(Error::new(Kind::Busy, format!("{}: {why}", path.shown())));
        }
        let is_vm = folder::read_home(&root).map_or_else(|error| error.kind() != Kind::Io, |home| home.is_some());
        let keyring = Keyring::of_mount(providers);
        let found = scan::scan(&root)?;
        found
            .iter()
            .filter_map(scan::FoundComponent::unverified)
            .for_each(|header| keyring.expect(header.claims().uuid));
        let stat = backing::stat(&root)?;
        Ok(Self {
            has_acls: acl::are_known_to(&root)?,
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
            paths: RwLock::new(paths_of(&found)),
            backing: Backing::new(root),
            open_dirs: OpenDirs::default(),
            name_changes: RwLock::default(),
            nodes: Nodes::new(&stat, if is_vm { Place::Vm } else { Place::Datastore }),
            handles: Handles::default(),
            turns: Turns::default(),
            places: Places::new(if options.backing_io == BackingIo::Direct { 2 } else { 1 }),
            sync_times: SyncTimes::default(),
            keyring,
            had_whole_headers: found.iter().all(|component| component.header.is_ok()),
            homes: Homes::default(),
            image_nodes: ImageNodes::default(),
            uncached_homes: AtomicBool::default(),
            options,
        })
    }

    /// The keys of this mount.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// Whether nothing was found so far that is locked or damaged.
    pub fn is_all_unlocked(&self) -> bool {
        self.had_whole_headers && self.keyring.is_all_unlocked()
    }

    /// Which way data of disks take to the backing files.
    pub fn backing_io(&self) -> BackingIo {
        self.options.backing_io
    }

    /// All components as they are now on disk.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn components(&self) -> Result<Vec<scan::FoundComponent>> {
        let found = scan::scan(self.root())?;
        *self.paths.write() = paths_of(&found);
        Ok(found)
    }

    /// Folders of the datastore that do not show, since their home header is lost.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn folders_without_home(&self) -> Result<Vec<PathBuf>> {
        scan::folders_without_home(self.root())
    }

    /// All that lies in the backing folder, what the mount does not show included.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn inventory(&self) -> Result<Inventory> {
        Inventory::take(self.root())
    }

    /// Does `work`, and asks a provider for what has to be known first, however long that takes.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn asking<T>(&self, work: impl Fn(&Self) -> Result<T>) -> Result<T> {
        let mut result = work(self);
        for _ in 0..MOST_QUESTIONS {
            let Some(question) = result.as_ref().err().and_then(Question::of) else { break };
            self.keyring.ask(question)?;
            result = work(self);
        }
        result
    }

    /// Backing path of a component. One that is not known is looked for.
    pub fn backing_path(&self, uuid: Uuid) -> Option<PathBuf> {
        let known = || self.paths.read().get(&uuid).map(|below| self.path.join(below));
        known().or_else(|| self.components().ok().and_then(|_| known()))
    }

    /// Backing path of what is known by this name in the mount.
    pub fn beneath(&self, number: NodeNumber) -> PathBuf {
        self.path.join(self.name(number))
    }

    /// Space of the file system beneath a node: each VM folder may be on another one.
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
        self.backing.root()
    }
}

fn paths_of(found: &[scan::FoundComponent]) -> HashMap<Uuid, PathBuf> {
    let of_one =
        |component: &scan::FoundComponent| Some((component.unverified()?.claims().uuid, component.path.clone()));
    found.iter().filter_map(of_one).collect()
}
