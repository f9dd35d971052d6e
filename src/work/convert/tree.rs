//! What lies in a VM folder, file by file: its form, and what a file in the clear would become.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};

use crate::error::{Context, Error, Kind, Result};
use crate::format::erasure::Erasure;
use crate::format::header::ComponentKind;
use crate::format::home_file::HEADER_LEN;
use crate::format::names::DiskNames;
use crate::progress::GoOn;
use crate::storage::FileStorage;
use crate::store::home_file::{HomeFile, HomeKeys, open_target};
use crate::sys::file::file_beneath;
use crate::text::Show;
use crate::vm::attributes::xattr_names;
use crate::vm::clear::ClearKind;
use crate::vm::inventory::{self, FolderKind, Inventory, What};
use crate::work::convert::attributes;
use crate::work::convert::replace::parent_of;

/// What something in a VM folder is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EntryForm {
    /// A directory.
    Folder,
    /// A regular file in the clear.
    Clear(ClearKind),
    /// A file of this home.
    Sealed,
    /// A sector store.
    Disk,
    /// A symbolic link in the clear.
    ClearLink,
    /// A symbolic link of this home.
    SealedLink,
    /// An empty file, a fifo, a socket or a device: the same in both forms.
    FormNeutral,
    /// A file of another home, or a damaged one.
    UnreadableOrForeign,
}

/// Something in a VM folder.
#[derive(Debug)]
pub(super) struct Entry {
    /// Below the folder.
    pub(super) path: PathBuf,
    pub(super) found: EntryForm,
    pub(super) stat: Stat,
    /// Length in bytes in the clear, as far as it is known.
    pub(super) plain_len: u64,
    /// Of a disk that was erased.
    pub(super) erased: Option<Erasure>,
}

impl Entry {
    /// Length in bytes, of the form that it has.
    pub(super) fn len(&self) -> u64 {
        u64::try_from(self.stat.st_size).unwrap_or(0)
    }

    /// Whether it is a regular file.
    pub(super) fn is_regular(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::RegularFile
    }

    /// Bytes that it takes on the medium.
    pub(super) fn allocated(&self) -> u64 {
        u64::try_from(self.stat.st_blocks).unwrap_or(0) * 512
    }
}

/// What files without any content are: empty, or all a hole. Their form shows no difference.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum EmptyFiles {
    /// Either, as their length tells: the home is not sealed as a whole.
    Either,
    /// The home's, but for those that are called as disks, or longer than what a full file system leaves of a file: an interrupted
    /// conversion may have left such disks in the clear.
    OfHomeButDisks,
    /// The home's, as a mount shows them.
    OfHome,
}

impl EmptyFiles {
    fn are_of_home(self, kind: ClearKind, stat: &Stat) -> bool {
        match self {
            Self::Either => false,
            Self::OfHomeButDisks => {
                !kind.is_disk() && u64::try_from(stat.st_size).is_ok_and(|len| len <= HEADER_LEN as u64)
            }
            Self::OfHome => true,
        }
    }
}

/// What an inventory of a VM folder has, directories before what they hold. Without `keys` nothing counts as sealed. `empty` says
/// what files without any content are.
///
/// # Errors
/// `Denied` for a VM folder or a mount within, or what cannot be read; `Io`; that of `go_on`.
pub(super) fn list(
    root: &File,
    (keys, empty): (Option<&HomeKeys>, EmptyFiles),
    inventory: Inventory,
    go_on: &GoOn<'_>,
) -> Result<Vec<Entry>> {
    let device = rustix::fs::fstat(root).context(|| "reading attributes".into())?.st_dev;
    Folder { root, keys, empty, device: Some(device) }.list(inventory, go_on)
}

/// Lists all of an encrypted VM folder, for work that replaces files where they are: on other file systems, too.
///
/// # Errors
/// As [`list`].
pub(super) fn list_home(root: &File, keys: &HomeKeys, go_on: &GoOn<'_>) -> Result<Vec<Entry>> {
    let inventory = Inventory::take_watched(root, &DiskNames::default(), go_on)?;
    Folder { root, keys: Some(keys), empty: EmptyFiles::OfHome, device: None }.list(inventory, go_on)
}

/// Groups what leads to the same inode: the names of each, in order.
pub(super) fn by_inode<'e>(entries: impl Iterator<Item = &'e Entry>) -> Vec<Vec<&'e Entry>> {
    let mut groups: Vec<Vec<&Entry>> = Vec::new();
    let mut known: HashMap<u64, usize> = HashMap::new();
    for entry in entries {
        match known.get(&entry.stat.st_ino).filter(|_| entry.stat.st_nlink > 1) {
            Some(&at) => groups[at].push(entry),
            None => {
                known.insert(entry.stat.st_ino, groups.len());
                groups.push(vec![entry]);
            }
        }
    }
    groups
}

/// Refuses disks that were erased, naming the first: there is nothing in them that could be decrypted or copied.
///
/// # Errors
/// `KeyUnavailable`.
pub(super) fn refuse_erased<'e>(mut entries: impl Iterator<Item = &'e Entry>) -> Result<()> {
    let erased = entries.find_map(|entry| Some((entry.path.shown(), entry.erased.as_ref()?.describe())));
    let Some((path, what)) = erased else { return Ok(()) };
    let remedy =
        "no key opens it: remove it in a mount first, or move it out of the folder and run `vmcryptfs adopt VM_FOLDER`";
    Err(Error::new(Kind::KeyUnavailable, format!("{path} was {what}, and {remedy}")))
}

struct Folder<'a> {
    root: &'a File,
    keys: Option<&'a HomeKeys>,
    empty: EmptyFiles,
    /// The only one that folders may be on.
    device: Option<u64>,
}

impl Folder<'_> {
    fn list(&self, inventory: Inventory, go_on: &GoOn<'_>) -> Result<Vec<Entry>> {
        let found = inventory.entries.into_iter();
        let entry = |found: inventory::Entry| go_on().and_then(|()| self.entry(found));
        found.filter(|entry| !entry.reserved).map(entry).collect()
    }

    fn entry(&self, found: inventory::Entry) -> Result<Entry> {
        let plain_len = found.plain_len();
        let inventory::Entry { path, what, stat, .. } = found;
        let refuse = |why: &str| Err(Error::new(Kind::Denied, format!("{} {why}", path.shown())));
        let (what, stat) = match (what, stat) {
            (What::Unreadable(error), _) => {
                // What is nested too deep cannot be converted as it is.
                let kind = if error.kind() == Kind::Unsupported { Kind::Denied } else { error.kind() };
                return Err(Error::with_source(kind, path.shown().to_string(), error));
            }
            (What::Mount, _) | (_, None) => return refuse("is a mount of vmcryptfs, whose files lie elsewhere"),
            (What::Folder(FolderKind::Vm(_) | FolderKind::SeveralHeaders(..) | FolderKind::Erased), _)
                if !path.as_os_str().is_empty() =>
            {
                return refuse("is a VM folder of its own, which is encrypted or about to be");
            }
            (What::Folder(_), Some(stat)) if self.device.is_some_and(|device| stat.st_dev != device) => {
                return refuse("is on another file system, where files cannot be replaced at once");
            }
            (what, Some(stat)) => (what, stat),
        };
        let erased = if let What::Erased(mark) = what { Some(mark) } else { None };
        let found = self.form(&path, what, &stat).context(|| path.shown().to_string())?;
        Ok(Entry { path, found, stat, plain_len, erased })
    }

    fn form(&self, path: &Path, what: What, stat: &Stat) -> Result<EntryForm> {
        Ok(match what {
            What::Folder(_) => EntryForm::Folder,
            What::Disk(_) | What::Erased(Erasure { kind: ComponentKind::Disk, .. }) => EntryForm::Disk,
            What::Home(_) | What::SavedHeader(_) | What::Erased(_) => EntryForm::Clear(ClearKind::Home("saved header")),
            What::Clear(kind) => EntryForm::Clear(kind),
            // Its header was lost, or never came: of its length nothing counts but what a home file has of it.
            What::Empty(kind) if stat.st_size > 0 && self.empty.are_of_home(kind, stat) => EntryForm::Sealed,
            What::Empty(kind) if stat.st_size > 0 || self.has_values(path)? => EntryForm::Clear(kind),
            What::Empty(kind) if kind.is_disk() && !self.empty.are_of_home(kind, stat) => EntryForm::Clear(kind),
            What::Sealed if self.opens(path)? => EntryForm::Sealed,
            What::Link(_) if self.is_own_link(path)? => EntryForm::SealedLink,
            What::Link(_) => EntryForm::ClearLink,
            What::Empty(_) | What::Special(_) => EntryForm::FormNeutral,
            What::Sealed | What::Mount | What::Unreadable(_) => EntryForm::UnreadableOrForeign,
        })
    }

    fn open(&self, path: &Path) -> Result<File> {
        file_beneath(self.root, path).context(|| "opening it".into())
    }

    fn has_values(&self, path: &Path) -> Result<bool> {
        Ok(xattr_names(&self.open(path)?)?.iter().any(|name| attributes::is_user(name)))
    }

    /// Whether a sealed file is this home's.
    fn opens(&self, path: &Path) -> Result<bool> {
        let Some(keys) = self.keys else { return Ok(false) };
        match HomeFile::open(FileStorage::new(self.open(path)?), keys) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn is_own_link(&self, path: &Path) -> Result<bool> {
        let Some(keys) = self.keys else { return Ok(false) };
        Ok(open_target(keys, read_text(self.root, path)?.as_bytes()).is_ok())
    }
}

/// The text of a symbolic link as it is stored.
///
/// # Errors
/// `Io`.
pub(super) fn read_text(root: &File, path: &Path) -> Result<OsString> {
    rustix::fs::readlinkat(parent_of(root, path)?, path.file_name().unwrap_or_default(), Vec::new())
        .map(|text| OsString::from_vec(text.into_bytes()))
        .context(|| "reading a symbolic link".into())
}
