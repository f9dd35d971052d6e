//! Changes that are durable before they are answered, although no sync asks for them: by flags of the file, of one write, or of the
//! mount.

use std::fs::File;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;

use crate::error::{Context, Result};
use crate::fs::handle::{Handle, HandleNumber};
use crate::fs::modes::Rights;
use crate::fs::node::{Node, NodeKind};
use crate::fs::{CacheMode, FileSystem, backing};

/// What a mount makes durable before it answers, beside what syncs and the flags of files and writes ask for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// Nothing.
    #[default]
    OnRequest,
    /// Changes of names: the mount option `dirsync`.
    Names,
    /// Every change: the mount option `sync`.
    Everything,
}

impl FileSystem {
    /// Remembers what the flags of `open(2)` say of a handle. What changes the file otherwise than by a write comes without flags.
    pub fn heed_sync_flags(&self, handle: HandleNumber, open_flags: i32) {
        if open_flags & libc::O_DSYNC == 0 {
            return;
        }
        if let Ok(handle) = self.handles.get(handle) {
            match handle.as_ref().as_ref() {
                Handle::File(open, _) => open.durable.store(true, Ordering::Relaxed),
                Handle::Image(open) => open.durable.store(true, Ordering::Relaxed),
                Handle::Directory(_) => {}
            }
        }
    }

    /// Whether a write is to be durable before it is answered. The kernel adds to the file's flags those that the write came
    /// with (`RWF_DSYNC`, `RWF_SYNC`). Where it caches the file it syncs by itself after a write of several requests.
    pub fn syncs_write(&self, handle: HandleNumber, open_flags: u32) -> bool {
        let has = |flag: i32| open_flags & flag.cast_unsigned() != 0;
        if !has(libc::O_DSYNC) && self.durability != Durability::Everything {
            return false;
        }
        let kernel_syncs = !has(libc::O_DIRECT)
            && self.handles.get(handle).is_ok_and(
                |handle| matches!(handle.as_ref().as_ref(), Handle::File(open, _) if open.cache == CacheMode::Kernel),
            );
        !kernel_syncs
    }

    /// The same for another change of an open file's content.
    pub(super) fn syncs_change(&self, handle: &Handle) -> bool {
        self.durability == Durability::Everything
            || match handle {
                Handle::File(open, _) => open.durable.load(Ordering::Relaxed),
                Handle::Image(open) => open.durable.load(Ordering::Relaxed),
                Handle::Directory(_) => false,
            }
    }

    /// Called after names in these folders have changed.
    pub(super) fn settle_names(&self, dirs: &[&File]) -> Result<()> {
        match self.durability {
            Durability::OnRequest => Ok(()),
            Durability::Names | Durability::Everything => dirs.iter().try_for_each(|dir| self.sync_names(dir)),
        }
    }

    /// Returns once all changes of names in an open directory are durable.
    pub(super) fn sync_names(&self, dir: &File) -> Result<()> {
        match backing::open_again(dir) {
            Ok(dir) => backing::sync(&dir),
            Err(_) => self.sync_all(), // one that this process may not read
        }
    }

    /// Called after a node's length, attributes or extended attributes have changed.
    pub(super) fn settle(&self, node: &Node) -> Result<()> {
        if self.durability != Durability::Everything {
            return Ok(());
        }
        if let Some(open) = node.open_file() {
            open.file().sync()?;
            return backing::sync(open.storage().file());
        }
        match &node.kind {
            NodeKind::Directory(_) => self.dir_of(node).and_then(|dir| self.sync_names(&dir)),
            NodeKind::File(_) => {
                match self.open_backing(node, OFlags::RDONLY, Rights::Process) {
                    Ok(file) => backing::sync(&file),
                    Err(_) => self.sync_all(), // one that this process may not read
                }
            }
            NodeKind::Symlink | NodeKind::Special | NodeKind::ImageDirectory | NodeKind::Image(_) => self.sync_all(),
        }
    }

    fn sync_all(&self) -> Result<()> {
        rustix::fs::syncfs(self.root()).context(|| "syncing the backing file system".into())
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;

    use super::*;
    use crate::fs::{NewFile, OpenMode, ROOT};
    use crate::serve::{Options, ServedFolder};
    use crate::vm::datastore::Datastore;

    fn asked(flags: i32) -> u32 {
        (flags | libc::O_RDWR).cast_unsigned()
    }

    #[test]
    fn a_write_is_synced_when_a_flag_asks_for_it_and_the_kernel_does_not() {
        let store = Datastore::new(&["web01"]);
        let [uid, gid] = [rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()];
        for durability in [Durability::OnRequest, Durability::Names, Durability::Everything] {
            let served = ServedFolder::open(&store.path("web01"), store.providers(), Options::default()).unwrap();
            served.retry_locked().unwrap();
            let fs = FileSystem::new(Arc::new(served), durability).unwrap();
            let made = |name: &str, mode| {
                let new = NewFile { mode: 0o600, umask: 0, uid, gid };
                fs.create(ROOT, OsStr::new(name), new, mode).unwrap().1
            };
            fs.allow_uncached_homes();
            let disk = made("a.raw", OpenMode::ReadWrite);
            let cached = made("cached", OpenMode::ReadWrite);
            let uncached = made("uncached", OpenMode::Write);
            let always = durability == Durability::Everything;
            for (handle, by_kernel) in [(disk, false), (cached, true), (uncached, false)] {
                assert_eq!(fs.syncs_write(handle, asked(0)), always && !by_kernel);
                assert_eq!(fs.syncs_write(handle, asked(libc::O_DIRECT)), always);
                for flag in [libc::O_DSYNC, libc::O_SYNC] {
                    assert_eq!(fs.syncs_write(handle, asked(flag)), !by_kernel);
                    assert!(fs.syncs_write(handle, asked(flag | libc::O_DIRECT)));
                }
                let changes = || fs.syncs_change(&fs.handles.get(handle).unwrap());
                assert_eq!(changes(), always);
                fs.heed_sync_flags(handle, libc::O_RDWR);
                assert_eq!(changes(), always);
                fs.heed_sync_flags(handle, libc::O_SYNC);
                assert!(changes());
                fs.close(handle);
            }
            ["a.raw", "cached", "uncached"].iter().for_each(|name| fs.remove(ROOT, OsStr::new(name), false).unwrap());
        }
    }
}
