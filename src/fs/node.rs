//! The nodes that the kernel knows by number: where each lies in the backing tree, and what it is.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use rustix::fs::Stat;

use crate::error::{Error, Kind, Result};
use crate::fs::handle::OpenDisk;

/// Number of a node. Where possible it is the backing inode's number, so that it survives remounts.
pub type NodeNumber = u64;

/// The root's number, as FUSE has it.
pub const ROOT: NodeNumber = 1;

/// Numbers of nodes whose backing inode's number is taken begin here; file systems hand theirs out from below.
const FIRST_OWN_NUMBER: u64 = 1 << 63;

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
    Disk(DiskNode),
    /// A regular file that is no disk.
    Other,
}

/// What is kept of a disk between opens.
pub(super) struct DiskNode {
    /// Where its header says that data begin; 8 MiB when it cannot be read.
    pub(super) data_offset: u64,
    /// Shared by all handles on it.
    pub(super) open: Mutex<Weak<OpenDisk>>,
}

pub(super) struct Node {
    pub(super) number: NodeNumber,
    pub(super) kind: NodeKind,
    backing: BackingId,
    entry: Mutex<Entry>,
}

/// Which inode of which file system a node stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct BackingId(u64, u64);

impl BackingId {
    pub(super) fn of(stat: &Stat) -> Self {
        Self(stat.st_dev, stat.st_ino)
    }
}

struct Entry {
    /// `None` once the name was removed; open handles still work then.
    name: Option<(NodeNumber, OsString)>,
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
        let entry = Mutex::new(Entry { name: None, lookups: 1 });
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

    /// Path of a node below the root.
    pub(super) fn path(&self, node: &Node) -> Result<PathBuf> {
        let table = self.0.read();
        let mut names = Vec::new();
        let mut number = node.number;
        while number != ROOT {
            let node = table.nodes.get(&number).ok_or_else(stale)?;
            let (parent, name) = node.entry.lock().name.clone().ok_or_else(stale)?;
            names.push(name);
            number = parent;
        }
        Ok(names.iter().rev().collect())
    }

    /// The VM folder that a directory is, or lies in.
    pub(super) fn vm_of(&self, node: &Node) -> Result<Arc<Node>> {
        let table = self.0.read();
        let mut number = node.number;
        loop {
            let node = table.nodes.get(&number).ok_or_else(stale)?;
            if matches!(node.kind, NodeKind::Directory(Place::Vm)) {
                return Ok(Arc::clone(node));
            }
            let entry = node.entry.lock();
            number = entry.name.as_ref().map(|(parent, _)| *parent).ok_or_else(|| {
                Error::new(Kind::Denied, "a datastore holds VM folders only: no file can be made here")
            })?;
        }
    }

    /// The node known for a backing inode, if there is one.
    pub(super) fn known(&self, backing: BackingId) -> Option<Arc<Node>> {
        let table = self.0.read();
        table.by_backing.get(&backing).and_then(|number| table.nodes.get(number)).cloned()
    }

    /// Remembers that the kernel was told about `name` in `parent`; `make` says what it is if it was not known. A node that
    /// was known under another name goes by the new one from now on.
    pub(super) fn found(
        &self,
        parent: NodeNumber,
        name: &OsStr,
        stat: &Stat,
        make: impl FnOnce() -> NodeKind,
    ) -> Arc<Node> {
        let backing = BackingId::of(stat);
        let mut table = self.0.write();
        let known = table.by_backing.get(&backing).and_then(|number| table.nodes.get(number)).cloned();
        let node = known.unwrap_or_else(|| table.add(backing, stat.st_ino, make()));
        let mut entry = node.entry.lock();
        entry.lookups += 1;
        entry.name = Some((parent, name.to_os_string()));
        drop(entry);
        node
    }

    /// The kernel forgot `count` lookups of a node.
    pub(super) fn forget(&self, number: NodeNumber, count: u64) {
        let mut table = self.0.write();
        let Some(node) = table.nodes.get(&number) else { return };
        let left = {
            let mut entry = node.entry.lock();
            entry.lookups = entry.lookups.saturating_sub(count);
            entry.lookups
        };
        if left == 0 && number != ROOT {
            let backing = node.backing;
            table.nodes.remove(&number);
            if table.by_backing.get(&backing) == Some(&number) {
                table.by_backing.remove(&backing);
            }
        }
    }

    /// A name was removed, or replaced by a rename. The backing inode may be reused for another file from now on.
    pub(super) fn removed(&self, parent: NodeNumber, name: &OsStr, backing: BackingId) {
        let mut table = self.0.write();
        let Some(node) = table.by_backing.get(&backing).and_then(|number| table.nodes.get(number)).cloned() else {
            return;
        };
        let mut entry = node.entry.lock();
        if entry.name.as_ref().is_some_and(|known| known.0 == parent && known.1 == name) {
            entry.name = None;
            table.by_backing.remove(&backing);
        }
    }

    /// A node got another name.
    pub(super) fn renamed(&self, backing: BackingId, parent: NodeNumber, name: &OsStr) {
        if let Some(node) = self.known(backing) {
            node.entry.lock().name = Some((parent, name.to_os_string()));
        }
    }
}

impl Table {
    fn add(&mut self, backing: BackingId, preferred: NodeNumber, kind: NodeKind) -> Arc<Node> {
        let free = preferred > ROOT && preferred < FIRST_OWN_NUMBER && !self.nodes.contains_key(&preferred);
        let number = if free { preferred } else { self.next_own };
        if !free {
            self.next_own += 1;
        }
        let node = Arc::new(Node { number, kind, backing, entry: Mutex::new(Entry { name: None, lookups: 0 }) });
        self.nodes.insert(number, Arc::clone(&node));
        self.by_backing.insert(backing, number);
        node
    }
}

fn stale() -> Error {
    Error::io("the file has no name any more", std::io::Error::from_raw_os_error(libc::ESTALE))
}
