//! One file of a VM folder copied into a clone: under other keys, or as the bytes that it is.

use std::fs::File;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header};
use crate::provider::Providers;
use crate::seen::Point;
use crate::storage::{Access, FileStorage};
use crate::store::header_area;
use crate::store::home_file::HomeKeys;
use crate::vm::home::disk_id;
use crate::vm::keyring;
use crate::vm::manifest::Expected;
use crate::vm::open_form::OpenForm;
use crate::vm::owner::Owner;
use crate::work::convert::attributes::{Attributes, ChangeTime, Sealing};
use crate::work::convert::copy;
use crate::work::convert::form::{DiskSpec, TargetForm, WrappingKey};
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::{SourceFile, parent_of};
use crate::work::convert::tree::{Entry, EntryForm};

/// The folder that is cloned.
pub(super) struct Source<'a> {
    pub(super) root: &'a File,
    pub(super) keys: &'a HomeKeys,
    /// What the home's manifest says of its files.
    pub(super) expected: Option<&'a Expected>,
    pub(super) owner: &'a Owner,
    pub(super) providers: &'a Providers,
    pub(super) engine: Engine,
}

impl Source<'_> {
    /// Opens and unlocks a disk, for reading.
    ///
    /// # Errors
    /// `Busy` when something writes to it, `KeyUnavailable`, `Corrupt`, or `Io`.
    pub(super) fn open_disk(&self, entry: &Entry) -> Result<OpenForm> {
        self.claim_disk(entry).map(|(original, _)| original.form)
    }

    fn claim_disk(&self, entry: &Entry) -> Result<(SourceFile, Header)> {
        let keys = (self.providers, self.owner);
        let (disk, header) = SourceFile::claim_disk(self.root, &entry.path, Access::Read, keys, self.engine)?;
        disk.refuse_exchanged(&entry.stat)?;
        Ok((disk, header))
    }
}

/// The clone under construction.
pub(super) struct Copied<'a> {
    pub(super) draft: &'a File,
    /// Its home's UUID.
    pub(super) home: Uuid,
    pub(super) keys: &'a HomeKeys,
    pub(super) key: &'a WrappingKey,
    pub(super) same_keys: bool,
}

impl Copied<'_> {
    /// Copies a regular file, durably. The original stays claimed for as long as what is returned lives.
    ///
    /// # Errors
    /// `Busy` when something writes to it, `KeyUnavailable`, `Corrupt`, `Stopped` or `Io`.
    pub(super) fn file(&self, source: &Source<'_>, entry: &Entry, pace: &ProgressCounter<'_>) -> Result<SourceFile> {
        let parent = parent_of(self.draft, &entry.path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = entry.path.file_name().unwrap_or_default();
        let file = rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600))
            .map(File::from)
            .context(|| "making the copy".into())?;
        match entry.found {
            EntryForm::Disk if self.same_keys => self.same_disk(source, entry, file, pace),
            EntryForm::Disk => self.new_disk(source, entry, file, pace),
            EntryForm::Sealed if !self.same_keys => {
                let sealed = |storage| OpenForm::home(storage, source.keys);
                let original = SourceFile::claim(source.root, &entry.path, Access::Read, sealed)?;
                original.refuse_exchanged(&entry.stat)?;
                original.refuse_unexpected(&entry.path, source.keys, source.expected)?;
                original.copy_to(file, &TargetForm::Home(self.keys), [source.keys, self.keys], pace)?;
                Ok(original)
            }
            // In the clear, or sealed by a home that has the same keys: the bytes are what they are.
            EntryForm::Clear(_) | EntryForm::Sealed | EntryForm::FormNeutral => {
                let original = SourceFile::claim(source.root, &entry.path, Access::Read, OpenForm::clear)?;
                original.refuse_exchanged(&entry.stat)?;
                if entry.found == EntryForm::Sealed {
                    original.refuse_unexpected(&entry.path, source.keys, source.expected)?;
                }
                let values = Attributes::read(original.form.backing(), Sealing::Clear)?;
                let to = clone_bytes(&original, file, pace)?;
                values.give(to.backing(), Sealing::Clear, ChangeTime::Kept)?;
                to.backing().sync_all().context(|| "making the copy durable".into())?;
                Ok(original)
            }
            EntryForm::Folder | EntryForm::ClearLink | EntryForm::SealedLink | EntryForm::UnreadableOrForeign => {
                Err(Error::new(Kind::Invalid, "no regular file of this home"))
            }
        }
    }

    /// Under a DEK of its own.
    fn new_disk(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        file: File,
        pace: &ProgressCounter<'_>,
    ) -> Result<SourceFile> {
        let (original, header) = source.claim_disk(entry)?;
        let shape = header.shape.disk().ok_or_else(|| Error::new(Kind::Corrupt, "a home's header in a disk"))?;
        let spec = DiskSpec {
            key: self.key.clone(),
            owner: self.home,
            uuid: random::uuid()?,
            shape,
            label: header.label,
            engine: source.engine,
        };
        original.copy_to(file, &TargetForm::Disk(spec), [source.keys, self.keys], pace)?;
        Ok(original)
    }

    /// Under the same DEK: the ciphertext is copied, and only the header differs.
    fn same_disk(
        &self,
        source: &Source<'_>,
        entry: &Entry,
        file: File,
        pace: &ProgressCounter<'_>,
    ) -> Result<SourceFile> {
        let open = |storage| {
            let stored = header_area::load(&storage, ComponentKind::Disk)?;
            let dek = keyring::unlock_by(&stored.header, source.providers)?;
            let there = Point::of(&stored.header, &dek)?;
            let header = stored.header.verify(&dek)?;
            source.owner.refuse_foreign(&header, &[&entry.path])?;
            source.owner.refuse_older(&there)?;
            Ok((OpenForm::clear(storage)?, (header, dek)))
        };
        let (original, (header, dek)) = SourceFile::claim_with(source.root, &entry.path, Access::Read, open)?;
        original.refuse_exchanged(&entry.stat)?;
        if header.transition.is_some() {
            return Err(Error::new(
                Kind::Busy,
                "its deep rekey is not finished: `vmcryptfs rekey --deep VM_FOLDER` resumes it",
            ));
        }
        let sealed_by = Sealing::By(source.keys, Some(disk_id(header.uuid)));
        let values = Attributes::read(original.form.backing(), sealed_by)?;
        let to = clone_bytes(&original, file, pace)?;
        let header = Header { uuid: random::uuid()?, sequence: 1, owner: Some(self.home), ..header };
        let storage = FileStorage::new(to.backing().try_clone().context(|| "duplicating a descriptor".into())?);
        header_area::create(&storage, &header, &dek)?;
        values.give(to.backing(), Sealing::By(self.keys, Some(disk_id(header.uuid))), ChangeTime::Later)?;
        to.backing().sync_all().context(|| "making the copy durable".into())?;
        Ok(original)
    }
}

/// Copies a file's bytes; where the file system can, both share them until one is changed.
fn clone_bytes(original: &SourceFile, file: File, pace: &ProgressCounter<'_>) -> Result<OpenForm> {
    let shared = rustix::fs::ioctl_ficlone(&file, original.form.backing()).is_ok();
    let to = OpenForm::clear(FileStorage::new(file))?;
    if !shared {
        copy::copy(original.form.content(), to.content(), pace)?;
    }
    Ok(to)
}
