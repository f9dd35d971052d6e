//! The form that a replacement gets, and what a new disk and extended attributes need for it.

use std::collections::HashMap;
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
use crate::store::disk::{self, LockedDisk};
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::vm::open_form::OpenForm;
use crate::vm::{home, keyring};
use crate::work::convert::attributes::{ChangeTime, Sealing};

impl OpenForm {
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
    /// The home that it belongs to.
    pub(super) owner: Uuid,
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
            Self::Clear => OpenForm::clear(storage),
            Self::Home(keys) => OpenForm::home(storage, keys),
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
            Self::HomeOfId(keys, _) => OpenForm::home(storage, keys),
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
        let header = Header::new(self.uuid, Shape::Disk(self.shape), self.label.clone(), slot);
        Ok(Header { owner: Some(self.owner), ..header })
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
