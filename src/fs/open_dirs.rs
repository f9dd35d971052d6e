//! Directories that were used lately, open: an operation on a name need not walk the path to its directory again.

use std::ffi::OsString;
use std::fs::File;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::fs::node::{BackingId, Name, Node, NodeKind, NodeNumber};
use crate::fs::stat::Stat;
use crate::fs::{FileSystem, backing, raw};

/// Most directories that are kept open: descriptors do not grow with the datastore.
const MAX_OPEN: usize = 64;

/// Open directories by their inode, the one used last in front. An inode's number is not given to another file while it is
/// open, so an entry is never another directory than it was.
#[derive(Default)]
pub(super) struct OpenDirs(Mutex<Vec<(BackingId, Arc<File>)>>);

impl OpenDirs {
    fn get(&self, wanted: BackingId) -> Option<Arc<File>> {
        let mut dirs = self.0.lock();
        let at = dirs.iter().position(|(backing, _)| *backing == wanted)?;
        dirs[..=at].rotate_right(1);
        Some(Arc::clone(&dirs[0].1))
    }

    fn keep(&self, backing: BackingId, dir: &Arc<File>) {
        let mut dirs = self.0.lock();
        dirs.retain(|(known, _)| *known != backing);
        dirs.truncate(MAX_OPEN - 1);
        dirs.insert(0, (backing, Arc::clone(dir)));
    }

    /// Closes a directory that was removed.
    pub(super) fn forget(&self, backing: BackingId) {
        self.0.lock().retain(|(known, _)| *known != backing);
    }
}

impl FileSystem {
    /// A directory's node, and the directory, open.
    pub(super) fn directory(&self, number: NodeNumber) -> Result<(Arc<Node>, Arc<File>)> {
        let node = self.nodes.get(number)?;
        raw::refuse_virtual(&node)?;
        let dir = self.dir_of(&node)?;
        Ok((node, dir))
    }

    /// The directory that a node stands for, open.
    pub(super) fn dir_of(&self, node: &Node) -> Result<Arc<File>> {
        if let Some(dir) = self.open_dirs.get(node.backing) {
            return Ok(dir);
        }
        let dir = Arc::new(self.backing.dir(&self.nodes.path(node)?)?);
        if BackingId::of(&backing::stat(&dir)?) == node.backing {
            self.open_dirs.keep(node.backing, &dir);
        }
        Ok(dir)
    }

    /// The directory that a node lies in, and its name there. Of several names, one that still leads to it: another mount or host
    /// may have replaced the file of this name, and its inode be that of a new file since.
    pub(super) fn place_of(&self, node: &Node) -> Result<(Arc<File>, OsString)> {
        let names = self.nodes.names(node)?;
        let place = |(parent, name): &Name| Ok((self.directory(*parent)?.1, name.clone()));
        let leads_to_it = |(dir, name): &(Arc<File>, OsString)| {
            backing::stat_at(dir, name).is_ok_and(|stat| BackingId::of(&stat) == node.backing)
        };
        let mut others = names.iter().filter(|_| names.len() > 1).filter_map(|name| place(name).ok());
        others.find(leads_to_it).map_or_else(|| place(&names[0]), Ok)
    }

    /// Calls `work` with a handle on the node's backing file that is good for attributes: an open one of ours, or one got by
    /// its name.
    pub(super) fn with_backing<T>(&self, node: &Node, work: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        if let Some(open) = node.open_file() {
            return work(open.content.storage().file());
        }
        if let NodeKind::Directory(_) = node.kind {
            return work(&*self.dir_of(node)?);
        }
        let (dir, name) = self.place_of(node)?;
        work(&backing::any_at(&dir, &name)?)
    }

    /// Attributes of the node's backing file.
    pub(super) fn stat_of(&self, node: &Node) -> Result<Stat> {
        if let Some(open) = node.open_file() {
            return backing::stat(open.content.storage().file());
        }
        if let NodeKind::Directory(_) = node.kind {
            return backing::stat(&*self.dir_of(node)?);
        }
        let (dir, name) = self.place_of(node)?;
        backing::stat_at(&dir, &name)
    }
}
