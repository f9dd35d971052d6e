//! The nodes that the kernel knows by number: where each lies in the backing tree, and what it is.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::fs::content::FileNode;
use crate::fs::leaving::Left;
use crate::fs::open_image::ImageNode;
use crate::fs::stat::Stat;
use crate::serve::{BackingId, OpenFile};
use crate::sys;

mod table;

pub(super) use crate::fs::number::{FIRST_OWN_NUMBER, NodeNumber, ROOT};
pub(super) use table::Name;
use table::Table;

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

pub(super) struct Node {
    pub(super) number: NodeNumber,
    /// Tells the node from others that have had its number, now or in an earlier mount.
    generation: u32,
    pub(super) kind: NodeKind,
    pub(super) backing: BackingId,
    birth: Birth,
}

impl BackingId {
    /// Of what is not on disk.
    const NONE: Self = Self { device: 0, inode: 0 };

    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// What a file has from its beginning to its end, and a later one with its inode number has not.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Birth {
    /// Type bits of its mode.
    file_type: u32,
    time: Option<(i64, u32)>,
    /// Digest of the handle that the file system has for it.
    handle: Option<u64>,
}

impl Birth {
    /// What comes with a file's attributes.
    pub(super) fn of(stat: &Stat) -> Self {
        let file_type = FileType::from_raw_mode(stat.st_mode).as_raw_mode();
        Self { file_type, time: stat.born, handle: None }
    }

    /// What comes with the attributes of `name` in `dir`, or without a name of `dir` itself, and what is to be asked for. The
    /// only the time would not do: two files may be made within one tick of the clock.
    pub(super) fn in_full(self, dir: &File, name: &OsStr) -> Self {
        let digest = |handle: Vec<u8>| {
            let mut hasher = DefaultHasher::new();
            handle.hash(&mut hasher);
            hasher.finish()
        };
        Self { handle: self.handle.or_else(|| sys::file::file_handle(dir, name).map(digest)), ..self }
    }

    /// Whether the attributes say nothing of the time, so that only the handle tells.
    pub(super) fn lacks_time(&self) -> bool {
        self.time.is_none()
    }

    /// Whether both may be those of one file: so far as both are known they are the same.
    fn may_be(self, other: Self) -> bool {
        let handles_agree = self.handle.zip(other.handle).is_none_or(|(one, other)| one == other);
        self.file_type == other.file_type && self.time == other.time && handles_agree
    }

    fn generation(self) -> Option<u32> {
        self.handle.and_then(|digest| u32::try_from(digest >> 32).ok())
    }
}

/// All nodes that the kernel may name.
pub(super) struct Nodes(RwLock<Table>);

impl Nodes {
    pub(super) fn new(root: &Stat, place: Place) -> Self {
        let mut table = Table::new();
        table.add(BackingId::of(root), Birth::of(root), Some(ROOT), NodeKind::Directory(place));
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

    /// The backing file of a node without a name.
    pub(super) fn held(&self, node: &Node) -> Option<Arc<File>> {
        self.0.read().slots.get(&node.number).and_then(|slot| slot.held.clone())
    }

    /// The VM folder that a node is, or lies in, or lay in.
    pub(super) fn vm_of(&self, node: &Node) -> Result<Arc<Node>> {
        let table = self.0.read();
        let mut number = node.number;
        loop {
            let node = &table.slots.get(&number).ok_or_else(stale)?.node;
            match node.kind {
                NodeKind::Directory(Place::Vm) => return Ok(Arc::clone(node)),
                NodeKind::Directory(Place::Datastore) => {
                    return Err(Error::new(Kind::Denied, "a datastore contains only VM folders"));
                }
                NodeKind::Directory(Place::Inside)
                | NodeKind::File(_)
                | NodeKind::Symlink
                | NodeKind::Special
                | NodeKind::ImageDirectory
                | NodeKind::Image(_) => number = table.parent_of(number)?,
            }
        }
    }

    /// Whether this is the number of the root's backing inode.
    pub(super) fn is_root(&self, inode: u64) -> bool {
        self.0.read().slots.get(&ROOT).is_some_and(|root| root.node.backing.inode == inode)
    }

    /// Remembers that the kernel was told about `name` in `parent`, if the file of this name is known.
    pub(super) fn found_known(&self, parent: NodeNumber, name: &OsStr, stat: &Stat, birth: Birth) -> Option<Arc<Node>> {
        self.change(|table| {
            let number = table.known(BackingId::of(stat), birth)?;
            table.looked_up(number, parent, name, stat.st_nlink)
        })
    }

    /// Remembers that the kernel was told about `name` in `parent`, which is a node of this kind if it was not known.
    pub(super) fn found(
        &self,
        parent: NodeNumber,
        name: &OsStr,
        stat: &Stat,
        birth: Birth,
        kind: NodeKind,
    ) -> Result<Arc<Node>> {
        let backing = BackingId::of(stat);
        self.change(|table| {
            let known = table.known(backing, birth);
            let number = known.unwrap_or_else(|| table.add(backing, birth, Some(stat.st_ino), kind));
            table.looked_up(number, parent, name, stat.st_nlink).ok_or_else(stale)
        })
    }

    /// Makes a node of what is not on disk.
    pub(super) fn add_virtual(&self, parent: NodeNumber, name: &OsStr, kind: NodeKind) -> Result<Arc<Node>> {
        self.change(|table| {
            let number = table.add(BackingId::NONE, Birth::default(), None, kind);
            table.looked_up(number, parent, name, 1).ok_or_else(stale)
        })
    }

    /// Remembers that the kernel was told once more about a node, if it was not forgotten.
    pub(super) fn found_again(&self, number: NodeNumber) -> Option<Arc<Node>> {
        self.change(|table| {
            let slot = table.slots.get_mut(&number)?;
            slot.lookups += 1;
            Some(Arc::clone(&slot.node))
        })
    }

    /// The kernel forgot `count` lookups of a node.
    pub(super) fn forget(&self, number: NodeNumber, count: u64) {
        self.change(|table| {
            let Some(slot) = table.slots.get_mut(&number) else { return };
            slot.lookups = slot.lookups.saturating_sub(count);
            table.let_go(number);
        });
    }

    /// A name was removed.
    pub(super) fn removed(&self, parent: NodeNumber, name: &OsStr, file: Left) {
        self.change(|table| lose_name(table, (parent, name), file));
    }

    /// A name became another one, which led to `replaced` before.
    pub(super) fn renamed(
        &self,
        moved: &Stat,
        from: (NodeNumber, &OsStr),
        to: (NodeNumber, &OsStr),
        replaced: Option<Left>,
    ) {
        self.change(|table| {
            if let Some(file) = replaced {
                lose_name(table, to, file);
            }
            rename(table, moved, from, to);
        });
    }

    /// Two files swapped names.
    pub(super) fn exchanged(&self, one: &Stat, from: (NodeNumber, &OsStr), other: &Stat, to: (NodeNumber, &OsStr)) {
        self.change(|table| {
            rename(table, one, from, to);
            rename(table, other, to, from);
        });
    }

    /// Changes the table. Files that this closes are closed when others may use it again.
    fn change<T>(&self, work: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.0.write();
        let done = work(&mut table);
        let to_close = std::mem::take(&mut table.to_close);
        drop(table);
        drop(to_close);
        done
    }
}

fn lose_name(table: &mut Table, name: (NodeNumber, &OsStr), left: Left) {
    match table.known(BackingId::of(&left.stat), Birth::of(&left.stat)) {
        Some(number) => table.lose_name(number, name, left.links, left.file),
        None => table.to_close.extend(left.file.map(Arc::new)),
    }
}

fn rename(table: &mut Table, moved: &Stat, from: (NodeNumber, &OsStr), to: (NodeNumber, &OsStr)) {
    if let Some(number) = table.known(BackingId::of(moved), Birth::of(moved)) {
        table.add_name(number, to.0, to.1);
        table.remove_name(number, from.0, from.1);
    }
}

impl Node {
    /// Its number, and what tells it from others of this number.
    pub(super) fn id(&self) -> (NodeNumber, u32) {
        (self.number, self.generation)
    }

    /// Whether these are attributes of its file, and not of one that has its name or its inode number by now.
    pub(super) fn is(&self, stat: &Stat) -> bool {
        self.backing == BackingId::of(stat) && self.birth.may_be(Birth::of(stat))
    }

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

pub(super) fn stale() -> Error {
    Error::errno("the file has no name any more", Errno::STALE)
}

#[cfg(test)]
mod tests;
