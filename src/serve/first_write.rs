//! The first write to an empty file, which may make it a disk.

use std::path::PathBuf;

use crate::error::{Context, Kind, Result};
use crate::serve::ServedFolder;
use crate::serve::open_file::{Content, OpenFile};
use crate::serve::undecided::Undecided;
use crate::storage::{Access, FileStorage, Storage};
use crate::store::disk::Disk;
use crate::store::home_file::HomeFile;
use crate::vm::{clear, disk};

/// As many bytes as formats of disks are known by.
const HEAD_LEN: usize = 512;

impl Content {
    /// An unlocked home file; an empty one may still become a disk.
    pub(super) fn of_home(home: HomeFile<FileStorage>, user: Option<u32>) -> Self {
        let home = Box::new(home);
        let is_empty = home.id().is_none() && !home.has_lost_header();
        if is_empty { Self::Undecided(Box::new(Undecided::new(user, home))) } else { Self::Home(home) }
    }
}

impl ServedFolder {
    /// Called before a write of `data` at `offset`: makes a disk of an empty file if a disk's format begins with them. `path` is where
    /// the file lies, if it has a name. Returns whether it became a disk by this.
    ///
    /// # Errors
    /// `Io`.
    pub fn prepare_first_write(
        &self,
        open: &OpenFile,
        offset: u64,
        data: &[u8],
        path: impl FnOnce() -> Option<PathBuf>,
    ) -> Result<bool> {
        let Content::Undecided(file) = &open.content else { return Ok(false) };
        if offset != 0 || file.is_decided() || clear::disk_in(&data[..data.len().min(HEAD_LEN)]).is_none() {
            return Ok(false);
        }
        let _held = open.hold_header(); // a command may find the first copy before there is a second
        let mut is_new_disk = false;
        file.decide(|| {
            let disk = self.disk_in_place(file, path())?;
            is_new_disk = disk.is_some();
            Ok(disk)
        })?;
        Ok(is_new_disk)
    }

    /// Makes a disk in an empty backing file; `None` where no disk can be made without asking a provider, or of a file that
    /// has no name any more.
    fn disk_in_place(&self, file: &Undecided, path: Option<PathBuf>) -> Result<Option<Box<dyn Disk<FileStorage>>>> {
        let Some(path) = path else { return Ok(None) };
        let Ok(home) = self.home_at(&path) else { return Ok(None) };
        let Ok((key_id, kek)) = self.keyring.kek(&home.header) else { return Ok(None) };
        let storage = file.home.storage();
        let place = self.below_vm(&path);
        let made = self.make_disk(path, file.user, || {
            let (header, dek) = home.owner.with_new_disk(&place, |announce| {
                disk::create_in_place(storage, home.header.uuid, (&key_id, kek.as_ref()), announce)
            })?;
            self.keyring.insert(header.uuid, storage.inode(), dek);
            // A twin of the descriptor has the same claim.
            let opened = storage.file().try_clone().context(|| "opening the new disk".into()).and_then(|twin| {
                disk::open(
                    FileStorage::with_claims(twin, self.options.claims),
                    Access::Write,
                    (&self.keyring, &home.owner, &[place.as_path()]),
                    self.options.engine,
                    self.options.backing_io,
                )
            });
            match opened {
                Ok((disk, _)) => Ok((disk, header)),
                Err(error) => {
                    storage.set_len(0).context(|| format!("emptying a file again after: {}", error.chain()))?;
                    Err(error)
                }
            }
        });
        match made {
            Err(error) if error.kind() == Kind::KeyUnavailable => Ok(None), // it may not wrap
            made => made.map(Some),
        }
    }
}
