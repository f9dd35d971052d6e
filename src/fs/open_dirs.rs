//! Ways to backing files: by a name that still leads to the node's file, or without one by the file that is held for it.
//!
//! Directories that were used lately are open: an operation on a name need not walk the path to its directory again.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::error::{Error, Kind, Result};
use crate::fs::modes::Rights;
use crate::fs::node::{Node, NodeKind, NodeNumber, ROOT, stale};
use crate::fs::stat::Stat;
use crate::fs::{FileSystem, backing, raw};
use crate::serve::BackingId;

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
        self.settled(|| self.find_dir(node))
    }

    /// The directory that a node lies in, and its name there.
    ///
    /// # Errors
    /// `NotFound` for a file without a name.
    pub(super) fn place_of(&self, node: &Node) -> Result<(Arc<File>, OsString)> {
        let removed = |_: Arc<File>| Err(Error::new(Kind::NotFound, "the file was removed"));
        self.reach(node, removed, |dir, name| {
            Ok(node.is(&backing::stat_at(dir, name)?).then(|| (Arc::clone(dir), name.to_os_string())))
        })
    }

    /// Calls `work` with a handle on the node's backing file that is good for attributes: an open one of ours, or one got by
    /// its name.
    pub(super) fn with_backing<T>(&self, node: &Node, work: impl FnOnce(&File) -> Result<T>) -> Result<T> {
        if let Some(open) = node.open_file() {
            return work(open.storage().file());
        }
        if let NodeKind::Directory(_) = node.kind {
            return work(&*self.dir_of(node)?);
        }
        let file = self.reach(node, Ok, |dir, name| {
            let file = backing::any_at(dir, name)?;
            Ok(node.is(&backing::stat(&file)?).then(|| Arc::new(file)))
        })?;
        work(&file)
    }

    /// The node's backing file, opened once more.
    ///
    /// # Errors
    /// `Io`, with `ESTALE` when another file has its name.
    pub(super) fn open_backing(&self, node: &Node, flags: OFlags, rights: Rights) -> Result<File> {
        let lent = |file: &File, refused| match rights {
            Rights::Caller => self.lend(file, refused, || backing::reopen(file, flags)),
            Rights::Process => Err(refused),
        };
        let held = |file: Arc<File>| backing::reopen(&file, flags).or_else(|refused| lent(&file, refused));
        self.reach(node, held, |dir, name| match backing::file_at(dir, name, flags) {
            Ok(file) => Ok(node.is(&backing::stat(&file)?).then_some(file)),
            // What cannot be opened may be something else by now.
            Err(refused) => {
                let found = backing::any_at(dir, name)?;
                if node.is(&backing::stat(&found)?) { lent(&found, refused).map(Some) } else { Ok(None) }
            }
        })
    }

    /// Attributes of the node's backing file.
    pub(super) fn stat_of(&self, node: &Node) -> Result<Stat> {
        if let Some(open) = node.open_file() {
            return backing::stat(open.storage().file());
        }
        if let NodeKind::Directory(_) = node.kind {
            return backing::stat(&*self.dir_of(node)?);
        }
        let by_name =
            |dir: &Arc<File>, name: &OsStr| Ok(Some(backing::stat_at(dir, name)?).filter(|stat| node.is(stat)));
        self.reach(node, |file| backing::stat(&file), by_name)
    }

    /// What `held` makes of the file of a node without a name, or `named` of a name and the directory that it is in, if that leads
    /// to the node's file.
    fn reach<T>(
        &self,
        node: &Node,
        held: impl Fn(Arc<File>) -> Result<T>,
        named: impl Fn(&Arc<File>, &OsStr) -> Result<Option<T>>,
    ) -> Result<T> {
        self.settled(|| {
            self.try_names(node, &held, |parent, name| {
                let parent = self.nodes.get(parent)?;
                named(&self.find_dir(&parent)?, name)
            })
        })
    }

    fn find_dir(&self, node: &Node) -> Result<Arc<File>> {
        if let Some(dir) = self.open_dirs.get(node.backing) {
            return Ok(dir);
        }
        let open = |path: &Path| {
            let dir = Arc::new(self.served.dir(path)?);
            let is_it = node.is(&backing::stat(&dir)?);
            is_it.then(|| self.open_dirs.keep(node.backing, &dir));
            Ok(is_it.then_some(dir))
        };
        if node.number == ROOT {
            return open(Path::new(""))?.ok_or_else(stale);
        }
        self.try_names(node, Ok, |parent, name| open(&self.nodes.path(&*self.nodes.get(parent)?)?.join(name)))
    }

    fn try_names<T>(
        &self,
        node: &Node,
        held: impl Fn(Arc<File>) -> Result<T>,
        named: impl Fn(NodeNumber, &OsStr) -> Result<Option<T>>,
    ) -> Result<T> {
        if let Some(file) = self.nodes.held(node) {
            return held(file);
        }
        let mut refused = None;
        for (parent, name) in self.nodes.names(node)? {
            match named(parent, &name) {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) if leads_nowhere(&error) => {}
                // The kernel let the caller in by one of the names, perhaps in another folder than this one.
                Err(error) if error.os_error() == Some(libc::EACCES) => refused = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or_else(stale))
    }

    /// Does `look` again if it found no way while a name was being changed: then the table did not know of that yet.
    fn settled<T>(&self, look: impl Fn() -> Result<T>) -> Result<T> {
        match look() {
            Err(error) if leads_nowhere(&error) => {
                let _all_changes_are_known = self.name_changes.write();
                look()
            }
            done => done,
        }
    }
}

/// Whether a name, or one on the way to it, is not there, or is that of something else.
fn leads_nowhere(error: &Error) -> bool {
    let codes = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ESTALE];
    error.os_error().is_some_and(|code| codes.contains(&code))
}
