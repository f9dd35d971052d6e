//! The forms that a file's content has in a VM folder: clear, sealed in the home, or a disk.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::header::{Header, Shape, UnverifiedHeader};
use crate::format::home_file::FileId;
use crate::key::{Dek, Kek, KeyId};
use crate::storage::FileStorage;
use crate::store::clear_file::ClearFile;
use crate::store::disk::{self, Disk, LockedDisk};
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::store::plain_file::PlainFile;
use crate::store::raw_image::AsPlainFile;
use crate::vm::{home, keyring};
use crate::work::convert::attributes::{ChangeTime, Sealing};

/// A file that is open in one of its forms.
pub(super) enum OpenForm {
    /// As it is.
    Clear(ClearFile<FileStorage>),
    /// A file of an encrypted home.
    Home(Box<HomeFile<FileStorage>>),
    /// A sector store.
    Disk(Disk<FileStorage>),
}

impl AsPlainFile for OpenForm {
    fn plain_file(&self) -> &dyn PlainFile {
        self.content()
    }

    fn may_change(&self) -> bool {
        false
    }

    fn is_disk(&self) -> bool {
        matches!(self, Self::Disk(_))
    }
}

impl OpenForm {
    /// Its content.
    pub(super) fn content(&self) -> &dyn PlainFile {
        match self {
            Self::Clear(file) => file,
            Self::Home(file) => file.as_ref(),
            Self::Disk(disk) => disk,
        }
    }

    /// Its backing file.
    pub(super) fn backing(&self) -> &File {
        match self {
            Self::Clear(file) => file.storage().file(),
            Self::Home(file) => file.storage().file(),
            Self::Disk(disk) => disk.storage().file(),
        }
    }

    /// How its `user.` xattrs are kept, in a home with these keys.
    pub(super) fn sealing<'k>(&self, keys: &'k HomeKeys) -> Sealing<'k> {
        match self {
            Self::Clear(_) => Sealing::Clear,
            Self::Home(file) => Sealing::By(keys, file.id()),
            Self::Disk(disk) => Sealing::By(keys, Some(home::disk_id(disk.uuid()))),
        }
    }

    /// Gives an empty home file the id that xattrs need; the others have theirs.
    pub(super) fn ensure_id(&self) -> Result<()> {
        match self {
            Self::Home(file) => file.ensure_id().map(drop),
            Self::Clear(_) | Self::Disk(_) => Ok(()),
        }
    }
}

/// A KEK that wraps the DEKs of new disks.
#[derive(Clone)]
pub(super) struct WrappingKey {
    pub(super) id: KeyId,
    pub(super) kek: Arc<dyn Kek>,
}

/// What a new disk gets, beside its DEK.
pub(super) struct DiskSpec {
    pub(super) key: WrappingKey,
    pub(super) uuid: Uuid,
    pub(super) shape: DiskShape,
    pub(super) label: String,
    pub(super) engine: Engine,
}

/// The form that a replacement gets.
pub(super) enum TargetForm<'k> {
    Clear,
    Home(&'k HomeKeys),
    /// A file of a home that keeps the id of another one.
    HomeOfId(&'k HomeKeys, FileId),
    Disk(DiskSpec),
}

impl TargetForm<'_> {
    /// Its time of last change. Ciphertext of the same length may have had the original's time before, in a backup too; what is in
    /// the clear equals what had its time.
    pub(super) fn time(&self) -> ChangeTime {
        match self {
            Self::Clear => ChangeTime::Kept,
            Self::Home(_) | Self::HomeOfId(..) | Self::Disk(_) => ChangeTime::Later,
        }
    }

    /// Makes an empty one of an empty backing file.
    ///
    /// # Errors
    /// `KeyUnavailable` when the KEK may not wrap, or `Io`.
    pub(super) fn make(&self, storage: FileStorage) -> Result<OpenForm> {
        match self {
            Self::Clear => ClearFile::open(storage).map(OpenForm::Clear),
            Self::Home(keys) => HomeFile::open(storage, keys).map(|file| OpenForm::Home(Box::new(file))),
            Self::HomeOfId(keys, id) => {
                let file = HomeFile::with_id(storage, keys, *id)?;
                file.ensure_id()?;
                Ok(OpenForm::Home(Box::new(file)))
            }
            Self::Disk(spec) => {
                let dek = random::disk_dek()?;
                disk::create(&storage, &spec.header(&dek)?, &dek)?;
                LockedDisk::open(storage)?.unlock(&dek, spec.engine).map(OpenForm::Disk)
            }
        }
    }

    /// Opens one that was made, by nothing but what it holds and the keys that it will be opened with.
    ///
    /// # Errors
    /// `Corrupt` or `KeyRejected` when it is not what was made.
    pub(super) fn open(&self, storage: FileStorage) -> Result<OpenForm> {
        match self {
            Self::Clear | Self::Home(_) => self.make(storage),
            Self::HomeOfId(keys, _) => TargetForm::Home(keys).open(storage),
            Self::Disk(spec) => {
                let locked = LockedDisk::open(storage)?;
                let dek = spec.key.unlock(&locked.stored().header)?;
                locked.unlock(&dek, spec.engine).map(OpenForm::Disk)
            }
        }
    }
}

impl DiskSpec {
    fn header(&self, dek: &Dek) -> Result<Header> {
        let slot = keyring::slot_for(&self.key.id, self.key.kek.as_ref(), dek)?;
        Ok(Header::new(self.uuid, Shape::Disk(self.shape), self.label.clone(), slot))
    }
}

impl WrappingKey {
    /// The DEK of a header that this key wrapped.
    ///
    /// # Errors
    /// As [`keyring::unlock`].
    pub(super) fn unlock(&self, header: &UnverifiedHeader) -> Result<Dek> {
        keyring::unlock(header, &HashMap::from([(self.id.clone(), Ok(Arc::clone(&self.kek)))]))
    }

    /// Refuses a key that wraps nothing new, before anything is touched.
    ///
    /// # Errors
    /// `KeyUnavailable`.
    pub(super) fn check_wraps(&self) -> Result<()> {
        let dek = random::disk_dek()?;
        let unwrapped = self.kek.unwrap(&self.kek.wrap(&dek)?)?;
        match unwrapped.bytes() == dek.bytes() {
            true => Ok(()),
            false => Err(Error::new(Kind::KeyRejected, format!("key {} does not unwrap what it wraps", self.id))),
        }
    }
}
