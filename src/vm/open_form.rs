//! A regular file that is open, in the form that its content has in a VM folder: clear, sealed in the home, or a disk.

use std::fs::File;

use crate::error::Result;
use crate::storage::FileStorage;
use crate::store::clear_file::ClearFile;
use crate::store::disk::Disk;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::store::plain_file::PlainFile;
use crate::store::raw_image::AsPlainFile;

/// A file that is open in one of its forms, and claimed: nothing else changes it.
pub(crate) enum OpenForm {
    /// As it is.
    Clear(ClearFile<FileStorage>),
    /// A file of an encrypted home.
    Home(Box<HomeFile<FileStorage>>),
    /// A disk of any kind.
    Disk(Box<dyn Disk<FileStorage>>),
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
    /// Opens a file in the clear.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn clear(storage: FileStorage) -> Result<Self> {
        ClearFile::open(storage).map(Self::Clear)
    }

    /// Opens a file of a home; an empty one is valid.
    ///
    /// # Errors
    /// `Corrupt` for a file that this home did not write, or `Io`.
    pub(crate) fn home(storage: FileStorage, keys: &HomeKeys) -> Result<Self> {
        HomeFile::open(storage, keys).map(|file| Self::Home(Box::new(file)))
    }

    /// Its content.
    pub(crate) fn content(&self) -> &dyn PlainFile {
        match self {
            Self::Clear(file) => file,
            Self::Home(file) => file.as_ref(),
            Self::Disk(disk) => disk.as_ref(),
        }
    }

    /// Its backing file.
    pub(crate) fn backing(&self) -> &File {
        match self {
            Self::Clear(file) => file.storage().file(),
            Self::Home(file) => file.storage().file(),
            Self::Disk(disk) => disk.storage().file(),
        }
    }
}
