//! One file, value or link of a home, from the old DEK to the new one.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Mode, Stat};

use crate::error::{Context, Kind, Result};
use crate::format::home_file::{FileId, MAGIC};
use crate::storage::{Access, FileStorage, Storage};
use crate::store::buffer::request_buffer;
use crate::store::home_file::{self, HomeFile, HomeKeys, Value};
use crate::store::plain_file::{MAX_REQUEST, PlainFile};
use crate::vm::acl;
use crate::vm::attributes::{give_owner, set_xattr, times_after, xattr, xattr_names};
use crate::vm::draft::Draft;

/// Beginning of the names of files that are being encrypted anew.
pub(super) const DRAFT_PREFIX: &str = "rekey-";

/// Asked now and then whether to go on.
pub(super) type Ask<'a> = &'a mut dyn FnMut() -> Result<()>;

/// The keys of a home before and after.
pub(super) struct OldAndNew {
    pub(super) old: HomeKeys,
    pub(super) new: HomeKeys,
}

/// What a home file is encrypted under.
pub(super) enum Under {
    /// Nothing is: it is empty, a hole, or no home file and so none of this home's secrets.
    Nothing,
    New(FileId),
    Old(FileId),
}

impl OldAndNew {
    /// # Errors
    /// `Corrupt` for a home file that neither DEK opens.
    pub(super) fn of_file(&self, storage: &FileStorage) -> Result<Under> {
        let mut magic = [0; 8];
        storage.read_at(0, &mut magic)?;
        if magic != MAGIC {
            return Ok(Under::Nothing);
        }
        match HomeFile::open(storage, &self.new) {
            Ok(file) => return Ok(file.id().map_or(Under::Nothing, Under::New)),
            Err(error) if error.kind() == Kind::Corrupt => {}
            Err(error) => return Err(error),
        }
        HomeFile::open(storage, &self.old).map(|file| file.id().map_or(Under::Nothing, Under::Old))
    }

    /// Whether two home files have the same content, the first under the old DEK, the second under the new one.
    pub(super) fn same_content(&self, old: &FileStorage, new: &FileStorage) -> Result<bool> {
        let (old, new) = (HomeFile::open(old, &self.old)?, HomeFile::open(new, &self.new)?);
        let (mut a, mut b) = (request_buffer(), request_buffer());
        let mut at = 0;
        while at < old.plain_len() {
            if old.read_at(at, MAX_REQUEST, &mut a)? != new.read_at(at, MAX_REQUEST, &mut b)? {
                return Ok(false);
            }
            at += MAX_REQUEST as u64;
        }
        Ok(old.plain_len() == new.plain_len())
    }

    /// Writes the content of an old file into a new one, which gets `id`; holes stay holes.
    fn copy(&self, old: &FileStorage, new: &FileStorage, id: FileId, ask: Ask<'_>) -> Result<()> {
        let (old, new) = (HomeFile::open(old, &self.old)?, HomeFile::with_id(new, &self.new, id)?);
        let (mut read, mut write) = (request_buffer(), request_buffer());
        new.ensure_id()?;
        new.set_len(old.plain_len())?;
        let mut at = 0;
        while let Some(data) = old.seek_data(at)? {
            let end = old.seek_hole(data)?.unwrap_or(old.plain_len());
            at = data;
            while at < end {
                ask()?;
                let len = usize::try_from(end - at).map_or(MAX_REQUEST, |left| left.min(MAX_REQUEST));
                let plain = old.read_at(at, len, &mut read)?;
                new.write_at(at, plain, &mut write)?;
                at += len as u64;
            }
        }
        new.sync()
    }

    /// Replaces a home file by one under the new DEK, of the id it had, or of another one.
    pub(super) fn replace_file(
        &self,
        dir: &File,
        name: &OsStr,
        old: &FileStorage,
        ids: [FileId; 2],
        ask: Ask<'_>,
    ) -> Result<()> {
        replace(dir, name, |draft| {
            let new = FileStorage::new(draft.make_file(Mode::from_raw_mode(0o600))?);
            new.claim(Access::Write)?;
            self.copy(old, &new, ids[1], ask)?;
            self.copy_metadata(old.file(), new.file(), ids)?;
            new.file().sync_all().context(|| "syncing a file".into())
        })
    }

    fn copy_metadata(&self, old: &File, new: &File, ids: [FileId; 2]) -> Result<()> {
        let stat = rustix::fs::fstat(old).context(|| "reading attributes".into())?;
        give_owner(&stat, new)?;
        let mut acls = Vec::new();
        for name in xattr_names(old)? {
            let stored = xattr(old, &name)?;
            match is_sealed(&name) {
                true => set_xattr(new, &name, &self.reseal(ids.map(Some), &name, &stored)?.unwrap_or(stored))?,
                false if acl::is_acl(&name) => acls.push((name, stored)),
                false => set_xattr(new, &name, &stored)?,
            }
        }
        acl::give_permissions(&stat, &acls, new)?;
        change_times(&stat, new)
    }

    /// A value under the new DEK, of a file whose ids were and will be these. `None`: it is, or neither DEK opens it, so that
    /// there is nothing to lose.
    fn reseal(&self, ids: [Option<FileId>; 2], name: &OsStr, stored: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = |file| Value::Xattr { file, name: name.as_bytes() };
        if home_file::open_value(&self.new, &value(ids[1]), stored).is_ok() {
            return Ok(None);
        }
        match home_file::open_value(&self.old, &value(ids[0]), stored) {
            Ok(plain) => home_file::seal_value(&self.new, &value(ids[1]), &plain).map(Some),
            Err(error) if error.kind() == Kind::Corrupt => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces what is under the old DEK of the values of a directory, a disk or an empty file. Returns whether there was any.
    pub(super) fn reseal_xattrs(&self, file: &File, id: Option<FileId>) -> Result<bool> {
        let mut changed = false;
        for name in xattr_names(file)?.into_iter().filter(|name| is_sealed(name)) {
            if let Some(value) = self.reseal([id; 2], &name, &xattr(file, &name)?)? {
                set_xattr(file, &name, &value)?;
                changed = true;
            }
        }
        if changed {
            let stat = rustix::fs::fstat(file).context(|| "reading attributes".into())?;
            // Only an owner may; a copy of attributes goes by these themselves.
            let _ = change_times(&stat, file);
        }
        Ok(changed)
    }

    /// Replaces a symbolic link whose target is under the old DEK. Returns whether it was.
    pub(super) fn replace_symlink(&self, dir: &File, name: &OsStr) -> Result<bool> {
        let stored = rustix::fs::readlinkat(dir, name, Vec::new());
        let stored = stored.context(|| "reading a symbolic link".into())?.into_bytes();
        let Ok(target) = home_file::open_target(&self.old, &stored) else { return Ok(false) };
        let sealed = home_file::seal_target(&self.new, &target)?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.context(|| "reading attributes".into())?;
        let (owner, group) = (owner(stat.st_uid), group(stat.st_gid));
        replace(dir, name, |draft| {
            rustix::fs::symlinkat(&sealed, dir, draft.name())
                .and_then(|()| rustix::fs::chownat(dir, draft.name(), owner, group, AtFlags::SYMLINK_NOFOLLOW))
                .and_then(|()| rustix::fs::utimensat(dir, draft.name(), &times_after(&stat), AtFlags::SYMLINK_NOFOLLOW))
                .context(|| "making a symbolic link".into())
        })?;
        Ok(true)
    }
}

/// Makes something under a temporary name and gives it the name of what it replaces.
pub(super) fn replace(dir: &File, name: &OsStr, make: impl FnOnce(&Draft<'_>) -> Result<()>) -> Result<()> {
    let draft = Draft::new(dir, DRAFT_PREFIX)?;
    make(&draft)?;
    draft.replace(dir, name)
}

/// What was re-encrypted says so by its times: a copy of the ciphertext that is brought up to date by size and time must get it.
fn change_times(before: &Stat, file: &File) -> Result<()> {
    rustix::fs::futimens(file, &times_after(before)).context(|| "setting times".into())
}

fn is_sealed(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"user.")
}

fn owner(uid: u32) -> Option<rustix::fs::Uid> {
    Some(rustix::fs::Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<rustix::fs::Gid> {
    Some(rustix::fs::Gid::from_raw(gid))
}
