//! The nodes that the kernel knows by number: where each lies in the backing tree, and what it is.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use crate::error::{Error, Kind, Result};
use crate::fs::handle::OpenFile;
use crate::fs::raw::ImageNode;
use crate::fs::stat::Stat;

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

/// All nodes that the kernel may name.
pub(super) struct Nodes(RwLock<Table>);

#[cfg_attr(test, derive(Clone))]
struct Table {
    slots: HashMap<NodeNumber, Slot>,
    by_backing: HashMap<BackingId, NodeNumber>,
    next_own: NodeNumber,
}

/// A node, and what keeps it in the table.
#[cfg_attr(test, derive(Clone))]
struct Slot {
    node: Arc<Node>,
    /// The names that the kernel was told of, the latest first: hard links have several. None once they were removed;
    /// handles still work then.
    names: Vec<Name>,
    /// What the kernel has not given back.
    lookups: u64,
    /// Names of nodes that lie in this directory. The kernel may forget a directory before the files in it; the way to them
    /// leads through it all the same.
    children: u64,
}

impl Nodes {
    pub(super) fn new(root: &Stat, place: Place) -> Self {
        let backing = BackingId::of(root);
        let node = Arc::new(Node { number: ROOT, kind: NodeKind::Directory(place), backing });
        let mut table = Table { slots: HashMap::new(), by_backing: HashMap::new(), next_own: FIRST_OWN_NUMBER };
        table.insert(node);
        Self(RwLock::new(table))
    }

    pub(super) fn get(&self, number: NodeNumber) -> Result<Arc<Node>> {
        self.0.read().slots.get(&number).map(|slot| Arc::clone(&slot.node)).ok_or_else(stale)
    }

    /// Path of a node below the root, by the name that was seen last.
    pub(super) fn path(&self, node: &Node) -> Result<PathBuf> {
        let table = self.0.read();
        let mut names = Vec::new();
        let mut number = node.number;
        while number != ROOT {
            let (parent, name) = table.last_name(number)?;
            names.push(name);
            number = parent;
        }
        Ok(names.iter().rev().collect())
    }

    /// The directory that a node lies in, and its name there; the one that was seen last.
    pub(super) fn name(&self, node: &Node) -> Result<Name> {
        self.0.read().last_name(node.number)
    }

    /// The directories that a node lies in, and its names there; at least one.
    pub(super) fn names(&self, node: &Node) -> Result<Vec<Name>> {
        let names = self.0.read().slots.get(&node.number).ok_or_else(stale)?.names.clone();
        if names.is_empty() { Err(stale()) } else { Ok(names) }
    }

    /// The VM folder that a node is, or lies in.
    pub(super) fn vm_of(&self, node: &Node) -> Result<Arc<Node>> {
        let table = self.0.read();
        let mut number = node.number;
        loop {
            let node = &table.slots.get(&number).ok_or_else(stale)?.node;
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
                | NodeKind::Image(_) => number = table.last_name(number)?.0,
            }
        }
    }

    /// Whether this is the number of the root's backing inode.
    pub(super) fn is_root(&self, inode: u64) -> bool {
        self.0.read().slots.get(&ROOT).is_some_and(|root| root.node.backing.1 == inode)
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
        self.0.read().slots.values().map(|slot| &slot.node).filter(is_open).cloned().collect()
    }

    /// Remembers that the kernel was told about `name` in `parent`, if the file of this name is known.
    pub(super) fn found_known(&self, parent: NodeNumber, name: &OsStr, stat: &Stat) -> Option<Arc<Node>> {
        let mut table = self.0.write();
        let number = table.known(BackingId::of(stat))?;
        table.looked_up(number, parent, name)
    }

    /// Remembers that the kernel was told about `name` in `parent`, which is a node of this kind if it was not known.
    pub(super) fn found(&self, parent: NodeNumber, name: &OsStr, stat: &Stat, kind: NodeKind) -> Result<Arc<Node>> {
        let backing = BackingId::of(stat);
        let mut table = self.0.write();
        let number = table.known(backing).unwrap_or_else(|| table.add(backing, stat.st_ino, kind));
        table.looked_up(number, parent, name).ok_or_else(stale)
    }

    /// Makes a node of what is not on disk.
    pub(super) fn add_virtual(&self, parent: NodeNumber, name: &OsStr, kind: NodeKind) -> Result<Arc<Node>> {
        let mut table = self.0.write();
        let number = table.take_own_number();
        table.insert(Arc::new(Node { number, kind, backing: BackingId::NONE }));
        table.looked_up(number, parent, name).ok_or_else(stale)
    }

    /// Remembers that the kernel was told once more about a node, if it was not forgotten.
    pub(super) fn found_again(&self, number: NodeNumber) -> Option<Arc<Node>> {
        let mut table = self.0.write();
        let slot = table.slots.get_mut(&number)?;
        slot.lookups += 1;
        Some(Arc::clone(&slot.node))
    }

    /// The kernel forgot `count` lookups of a node.
    pub(super) fn forget(&self, number: NodeNumber, count: u64) {
        let mut table = self.0.write();
        let Some(slot) = table.slots.get_mut(&number) else { return };
        slot.lookups = slot.lookups.saturating_sub(count);
        table.let_go(number);
    }

    /// A name was removed, or replaced by a rename. After the last one (`links` were there before) the backing inode may
    /// be reused for another file, which is another node then.
    pub(super) fn removed(&self, parent: NodeNumber, name: &OsStr, backing: BackingId, links: u64) {
        let mut table = self.0.write();
        let Some(number) = table.known(backing) else { return };
        table.remove_name(number, parent, name);
        if links <= 1 || table.is_directory(number) {
            table.by_backing.remove(&backing);
        }
    }

    /// A name became another one.
    pub(super) fn renamed(&self, backing: BackingId, from: (NodeNumber, &OsStr), to: (NodeNumber, &OsStr)) {
        let mut table = self.0.write();
        if let Some(number) = table.known(backing) {
            table.add_name(number, to.0, to.1);
            table.remove_name(number, from.0, from.1);
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

impl Table {
    fn known(&self, backing: BackingId) -> Option<NodeNumber> {
        self.by_backing.get(&backing).copied()
    }

    fn last_name(&self, number: NodeNumber) -> Result<Name> {
        self.slots.get(&number).and_then(|slot| slot.names.first()).cloned().ok_or_else(stale)
    }

    fn is_directory(&self, number: NodeNumber) -> bool {
        self.slots.get(&number).is_some_and(|slot| matches!(slot.node.kind, NodeKind::Directory(_)))
    }

    fn add(&mut self, backing: BackingId, preferred: NodeNumber, kind: NodeKind) -> NodeNumber {
        let free = preferred > ROOT && preferred < FIRST_OWN_NUMBER && !self.slots.contains_key(&preferred);
        let number = if free { preferred } else { self.take_own_number() };
        self.insert(Arc::new(Node { number, kind, backing }));
        number
    }

    fn take_own_number(&mut self) -> NodeNumber {
        let number = self.next_own;
        self.next_own += 1;
        number
    }

    fn insert(&mut self, node: Arc<Node>) {
        if node.backing != BackingId::NONE {
            self.by_backing.insert(node.backing, node.number);
        }
        self.slots.insert(node.number, Slot { node, names: Vec::new(), lookups: 0, children: 0 });
    }

    fn looked_up(&mut self, number: NodeNumber, parent: NodeNumber, name: &OsStr) -> Option<Arc<Node>> {
        self.add_name(number, parent, name);
        let slot = self.slots.get_mut(&number)?;
        slot.lookups += 1;
        Some(Arc::clone(&slot.node))
    }

    /// The name becomes the first one. A directory has no other: what it was called before, it was renamed from.
    fn add_name(&mut self, number: NodeNumber, parent: NodeNumber, name: &OsStr) {
        if self.is_directory(number) {
            let old = self.slots.get(&number).map(|slot| slot.names.clone()).unwrap_or_default();
            let others =
                old.iter().filter(|(old_parent, old_name)| (*old_parent, old_name.as_os_str()) != (parent, name));
            others.for_each(|(parent, name)| self.remove_name(number, *parent, name));
        }
        let Some(slot) = self.slots.get_mut(&number) else { return };
        if let Some(at) = slot.names.iter().position(|known| known.0 == parent && known.1 == name) {
            slot.names[..=at].rotate_right(1);
        } else if let Some(directory) = self.slots.get_mut(&parent) {
            directory.children += 1;
            self.slots.entry(number).and_modify(|slot| slot.names.insert(0, (parent, name.to_os_string())));
        }
    }

    fn remove_name(&mut self, number: NodeNumber, parent: NodeNumber, name: &OsStr) {
        let Some(slot) = self.slots.get_mut(&number) else { return };
        let Some(at) = slot.names.iter().position(|known| known.0 == parent && known.1 == name) else { return };
        slot.names.remove(at);
        self.leave(parent);
    }

    /// A directory holds one name less.
    fn leave(&mut self, parent: NodeNumber) {
        if let Some(slot) = self.slots.get_mut(&parent) {
            slot.children = slot.children.saturating_sub(1);
            self.let_go(parent);
        }
    }

    /// Drops a node that the kernel does not know and in which none lies that it knows; then, maybe, those that this lay in.
    fn let_go(&mut self, number: NodeNumber) {
        let mut doubtful = vec![number];
        while let Some(number) = doubtful.pop() {
            let is_kept = |slot: &Slot| slot.lookups > 0 || slot.children > 0;
            if number == ROOT || self.slots.get(&number).is_none_or(is_kept) {
                continue;
            }
            let Some(slot) = self.slots.remove(&number) else { continue };
            if self.by_backing.get(&slot.node.backing) == Some(&number) {
                self.by_backing.remove(&slot.node.backing);
            }
            for (parent, _) in slot.names {
                self.slots.entry(parent).and_modify(|directory| directory.children -= 1);
                doubtful.push(parent);
            }
        }
    }
}

fn stale() -> Error {
    Error::io("the file has no name any more", std::io::Error::from_raw_os_error(libc::ESTALE))
}

#[cfg(test)]
mod tests;
