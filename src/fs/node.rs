//! The nodes that the kernel knows by number: where each lies in the backing tree, and what it is.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustix::fs::Stat;

use crate::error::{Error, Kind, Result};
use crate::fs::handle::OpenFile;
use crate::fs::raw::ImageNode;

/// Number of a node. Where possible it is the backing inode's number, so that it survives remounts.
pub type NodeNumber = u64;

/// The root's number, as FUSE has it.
pub const ROOT: NodeNumber = 1;

/// Numbers of nodes whose backing inode's number is taken begin here; file systems hand theirs out from below.
pub(super) const FIRST_OWN_NUMBER: u64 = 1 << 63;

/// What a directory is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    /// Holds VM folders, nothing else.
    Datastore,
    /// An encrypted VM folder.
    Vm,
    /// A directory in a VM folder.
    Inside,
}

/// What a node is.
pub(super) enum NodeKind {
    Directory(Place),
    File(FileNode),
    Symlink,
    /// A fifo, a socket or a device: the kernel serves them itself.
    Special,
    /// A VM folder's directory of raw images, which is not on disk.
    ImageDirectory,
    /// A raw image in it.
    Image(ImageNode),
}

/// A regular file, as far as it is remembered between opens.
pub(super) struct FileNode {
    pub(super) content: ContentKind,
    /// Shared by all handles on it.
    pub(super) open: Mutex<Weak<OpenFile>>,
}

impl NodeKind {
    /// A regular file that nothing is open on.
    pub(super) fn file(content: ContentKind) -> Self {
        Self::File(FileNode { content, open: Mutex::default() })
    }
}

/// How a regular file keeps its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ContentKind {
    /// As a sector store. Where its header says that data begin; 8 MiB when it cannot be read.
    Disk {
        /// Bytes.
        data_offset: u64,
    },
    /// As a home file.
    Home,
}

pub(super) struct Node {
    pub(super) number: NodeNumber,
    pub(super) kind: NodeKind,
    pub(super) backing: BackingId,
    entry: Mutex<Entry>,
}

/// Which inode of which file system a node stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct BackingId(u64, u64);

impl BackingId {
    /// Of what is not on disk.
    const NONE: Self = Self(0, 0);

    pub(super) fn of(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

/// A name in a directory.
pub(super) type Name = (NodeNumber, OsString);

#[derive(Default)]
struct Entry {
    /// All that the kernel was told of: hard links have several. None once they were removed; handles still work then.
    names: Vec<Name>,
    lookups: u64,
}

/// All nodes that the kernel may name.
pub(super) struct Nodes(RwLock<Table>);

struct Table {
    nodes: HashMap<NodeNumber, Arc<Node>>,
    by_backing: HashMap<BackingId, NodeNumber>,
    next_own: NodeNumber,
}

impl Nodes {
    pub(super) fn new(root: &Stat, place: Place) -> Self {
        let backing = BackingId::of(root);
        let entry = Mutex::new(Entry { names: Vec::new(), lookups: 1 });
        let node = Arc::new(Node { number: ROOT, kind: NodeKind::Directory(place), backing, entry });
        Self(RwLock::new(Table {
            nodes: HashMap::from([(ROOT, node)]),
            by_backing: HashMap::from([(backing, ROOT)]),
            next_own: FIRST_OWN_NUMBER,
        }))
    }

    pub(super) fn get(&self, number: NodeNumber) -> Result<Arc<Node>> {
        self.0.read().nodes.get(&number).cloned().ok_or_else(stale)
    }

    /// Path of a node below the root, by any of its names.
    pub(super) fn path(&self, node: &Node) -> Result<PathBuf> {
        let table = self.0.read();
        let mut names = Vec::new();
        let mut number = node.number;
        while number != ROOT {
            let (parent, name) = table.first_name(number)?;
            names.push(name);
            number = parent;
        }
        Ok(names.iter().rev().collect())
    }

    /// The directory that a node lies in, and its name there; by any of its names.
    pub(super) fn name(&self, node: &Node) -> Result<Name> {
        self.0.read().first_name(node.number)
    }

    /// The directories that a node lies in, and its names there; at least one.
    pub(super) fn names(&self, node: &Node) -> Result<Vec<Name>> {
        let names = self.get(node.number)?.entry.lock().names.clone();
        if names.is_empty() { Err(stale()) } else { Ok(names) }
    }

    /// The VM folder that a node is, or lies in.
    pub(super) fn vm_of(&self, node: &Node) -> Result<Arc<Node>> {
        let table = self.0.read();
        let mut number = node.number;
        loop {
            let node = table.nodes.get(&number).ok_or_else(stale)?;
            match node.kind {
                NodeKind::Directory(Place::Vm) => return Ok(Arc::clone(node)),
                NodeKind::Directory(Place::Datastore) => {
                    return Err(Error::new(Kind::Denied, "a datastore holds VM folders and nothing else"));
                }
                NodeKind::Directory(Place::Inside)
                | NodeKind::File(_)
                | NodeKind::Symlink
                | NodeKind::Special
                | NodeKind::ImageDirectory
                | NodeKind::Image(_) => number = table.first_name(number)?.0,
            }
        }
    }

    /// The node known for a backing inode, if there is one.
    pub(super) fn known(&self, backing: BackingId) -> Option<Arc<Node>> {
        self.0.read().known(backing)
    }

    /// All regular files that handles are open on.
    pub(super) fn open_files(&self) -> Vec<Arc<Node>> {
        let is_open = |node: &&Arc<Node>| match &node.kind {
            NodeKind::File(file) => file.open.lock().strong_count() > 0,
            NodeKind::Directory(_)
            | NodeKind::Symlink
            | NodeKind::Special
            | NodeKind::ImageDirectory
            | NodeKind::Image(_) => false,
        };
        self.0.read().nodes.values().filter(is_open).cloned().collect()
    }

    /// Remembers that the kernel was told about `name` in `parent`; `make` says what it is if it was not known.
    pub(super) fn found(
        &self,
        parent: NodeNumber,
        name: &OsStr,
        stat: &Stat,
        make: impl FnOnce() -> NodeKind,
    ) -> Arc<Node> {
        let backing = BackingId::of(stat);
        let mut table = self.0.write();
        let node = table.known(backing).unwrap_or_else(|| table.add(backing, stat.st_ino, make()));
        let mut entry = node.entry.lock();
        entry.lookups += 1;
        entry.add(parent, name);
        drop(entry);
        node
    }

    /// Makes a node of what is not on disk.
    pub(super) fn add_virtual(&self, parent: NodeNumber, name: &OsStr, kind: NodeKind) -> Arc<Node> {
        let mut table = self.0.write();
        let number = table.next_own;
        table.next_own += 1;
        let entry = Mutex::new(Entry { names: vec![(parent, name.to_os_string())], lookups: 1 });
        let node = Arc::new(Node { number, kind, backing: BackingId::NONE, entry });
        table.nodes.insert(number, Arc::clone(&node));
        node
    }

    /// Remembers that the kernel was told once more about a node, if it was not forgotten.
    pub(super) fn found_again(&self, number: NodeNumber) -> Option<Arc<Node>> {
        let table = self.0.write();
        let node = table.nodes.get(&number)?;
        node.entry.lock().lookups += 1;
        Some(Arc::clone(node))
    }

    /// The kernel forgot `count` lookups of a node.
    pub(super) fn forget(&self, number: NodeNumber, count: u64) {
        let mut table = self.0.write();
        let Some(node) = table.nodes.get(&number).cloned() else { return };
        let mut entry = node.entry.lock();
        entry.lookups = entry.lookups.saturating_sub(count);
        if entry.lookups == 0 && number != ROOT {
            table.nodes.remove(&number);
            table.forget_backing(&node);
        }
    }

    /// A name was removed, or replaced by a rename. After the last one (`links` were there before) the backing inode may
    /// be reused for another file, which is another node then.
    pub(super) fn removed(&self, parent: NodeNumber, name: &OsStr, backing: BackingId, links: u64) {
        let mut table = self.0.write();
        let Some(node) = table.known(backing) else { return };
        node.entry.lock().remove(parent, name);
        if links <= 1 || matches!(node.kind, NodeKind::Directory(_)) {
            table.forget_backing(&node);
        }
    }

    /// A name became another one.
    pub(super) fn renamed(&self, backing: BackingId, from: (NodeNumber, &OsStr), to: (NodeNumber, &OsStr)) {
        if let Some(node) = self.known(backing) {
            let mut entry = node.entry.lock();
            entry.remove(from.0, from.1);
            entry.add(to.0, to.1);
        }
    }
}

impl Node {
    /// The file that handles share, if there are any.
    pub(super) fn open_file(&self) -> Option<Arc<OpenFile>> {
        match &self.kind {
            NodeKind::File(file) => file.open.lock().upgrade(),
            NodeKind::Directory(_)
            | NodeKind::Symlink
            | NodeKind::Special
            | NodeKind::ImageDirectory
            | NodeKind::Image(_) => None,
        }
    }
}

impl Entry {
    fn add(&mut self, parent: NodeNumber, name: &OsStr) {
        if !self.names.iter().any(|known| known.0 == parent && known.1 == name) {
            self.names.push((parent, name.to_os_string()));
        }
    }

    fn remove(&mut self, parent: NodeNumber, name: &OsStr) {
        self.names.retain(|known| known.0 != parent || known.1 != name);
    }
}

impl Table {
    fn known(&self, backing: BackingId) -> Option<Arc<Node>> {
        self.by_backing.get(&backing).and_then(|number| self.nodes.get(number)).cloned()
    }

    fn first_name(&self, number: NodeNumber) -> Result<Name> {
        let node = self.nodes.get(&number).ok_or_else(stale)?;
        let entry = node.entry.lock();
        entry.names.first().cloned().ok_or_else(stale)
    }

    fn add(&mut self, backing: BackingId, preferred: NodeNumber, kind: NodeKind) -> Arc<Node> {
        let free = preferred > ROOT && preferred < FIRST_OWN_NUMBER && !self.nodes.contains_key(&preferred);
        let number = if free { preferred } else { self.next_own };
        if !free {
            self.next_own += 1;
        }
        let node = Arc::new(Node { number, kind, backing, entry: Mutex::default() });
        self.nodes.insert(number, Arc::clone(&node));
        self.by_backing.insert(backing, number);
        node
    }

    fn forget_backing(&mut self, node: &Node) {
        if self.by_backing.get(&node.backing) == Some(&node.number) {
            self.by_backing.remove(&node.backing);
        }
    }
}

fn stale() -> Error {
    Error::io("the file has no name any more", std::io::Error::from_raw_os_error(libc::ESTALE))
}
