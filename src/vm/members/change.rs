//! A change of the list of a VM's disks: announced before names change, made when they are durable.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use parking_lot::MutexGuard;

use super::stored::write;
use super::{Known, Members, meet, stamp};
use crate::error::{Context, Error, Kind, Result};
use crate::format::members::{MemberList, There};
use crate::seen::Past;
use crate::storage::FileStorage;
use crate::sys::file::folder_beneath;

/// A change of the list that is under way: others wait.
pub struct ListChange<'m> {
    pub(super) members: &'m Members,
    pub(super) file: FileStorage,
    /// What the file says.
    pub(super) stored: MemberList,
    /// What holds.
    pub(super) list: MemberList,
    pub(super) past: Past,
    /// Whether the file allows more than what holds, for names that may not be durable yet.
    pub(super) is_put_off: bool,
    pub(super) durable: usize,
    pub(super) _alone: MutexGuard<'m, ()>,
}

impl ListChange<'_> {
    /// What holds before the change.
    pub fn list(&self) -> &MemberList {
        &self.list
    }

    /// Makes the list allow what is now and what is to be, durably, before names change.
    ///
    /// # Errors
    /// `Invalid` for a list that is too long, or `Io`.
    pub fn announce(&mut self, after: &MemberList) -> Result<()> {
        let allowed = self.stored.until(after);
        self.write(allowed.clone(), true)?;
        self.know(allowed);
        Ok(())
    }

    /// Makes the list say what is, durably. What others have put off is durable before that.
    ///
    /// # Errors
    /// As [`announce`](Self::announce).
    pub fn make(&mut self, after: MemberList) -> Result<()> {
        if self.is_put_off {
            self.sync_names()?;
        }
        self.write(after.clone(), true)?;
        self.know(after);
        Ok(())
    }

    /// Makes the list have no disk at a path or below it any more, durably, once it is durable that nothing lies there.
    ///
    /// # Errors
    /// As [`announce`](Self::announce).
    pub fn make_without(&mut self, path: &Path) -> Result<()> {
        self.sync_folder(path.parent().unwrap_or(Path::new("")))?;
        self.make(self.list.without(path))
    }

    /// Makes the list say what is, after names have changed for good, or have not changed. If this is lost, what was announced is
    /// still allowed. It is put off for as long as an earlier one is.
    ///
    /// # Errors
    /// As [`announce`](Self::announce).
    pub fn settle(&mut self, after: MemberList) -> Result<()> {
        if !self.is_put_off {
            self.write(after.clone(), false)?;
        }
        self.know(after);
        Ok(())
    }

    /// Says what is, after names have changed that may not be durable yet. The file allows what was announced until
    /// [`Members::settle`].
    pub fn put_off(&mut self, after: MemberList) {
        self.is_put_off = true;
        self.know(after);
    }

    /// Decides names that a crash has left changing by what lies there, durably.
    ///
    /// # Errors
    /// As [`announce`](Self::announce).
    pub fn decide(&mut self, look: impl Fn(&Path) -> There) -> Result<()> {
        self.sync_names()?; // what is seen now is there after another crash
        self.is_put_off = false;
        let decided = self.stored.decided(look);
        self.make(decided)
    }

    /// Makes the names durable that the file has as changing.
    pub(super) fn sync_names(&mut self) -> Result<()> {
        let folders: BTreeSet<&Path> = self.stored.changing().flat_map(|name| name.ancestors().skip(1)).collect();
        folders.into_iter().try_for_each(|folder| self.sync_folder(folder))?;
        self.is_put_off = false;
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> Result<()> {
        match folder_beneath(&self.members.dir, folder) {
            Ok(dir) => rustix::fs::fsync(dir),
            // It is gone, or has another name: the folder that says so is synced as well.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
            Err(_) => rustix::fs::syncfs(self.file.file()), // one that this process may not read
        }
        .context(|| "making names durable".into())
    }

    fn write(&mut self, next: MemberList, durably: bool) -> Result<()> {
        if next.disks == self.stored.disks {
            return Ok(());
        }
        let sequence = self.stored.sequence.checked_add(1);
        let sequence =
            sequence.ok_or_else(|| Error::new(Kind::Unsupported, "the list was changed too often to count"))?;
        let next = MemberList { sequence, ..next };
        let bytes = self.members.keys[0].encode(&next)?;
        self.durable =
            write(&self.file, &bytes, self.durable, durably).context(|| "writing the VM's list of disks".into())?;
        self.stored = next;
        if durably {
            self.past = meet(&self.members.memory, &self.members.header, &self.stored, Some(&self.stored))?;
        }
        Ok(())
    }

    /// Lets this process go by a list, for as long as the file is what it is now.
    fn know(&mut self, list: MemberList) {
        self.list = MemberList { sequence: self.stored.sequence, ..list };
        // Without the file's attributes it is read again.
        *self.members.known.lock() = rustix::fs::fstat(self.file.file()).ok().map(|stat| Known {
            stamp: stamp(&stat),
            stored: Arc::new(self.stored.clone()),
            list: Arc::new(self.list.clone()),
            past: self.past.clone(),
            durable: Some(self.durable),
        });
    }
}
