//! What lies in a VM folder, file by file: its form, and what a file in the clear would become.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::error::{Context, Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::storage::FileStorage;
use crate::store::home_file::{HomeFile, HomeKeys, open_target};
use crate::text::Show;
use crate::vm::attributes::xattr_names;
use crate::vm::clear::{self, ClearKind};
use crate::vm::home_state::HomeState;
use crate::vm::{disk, folder, home, scan};
use crate::work::convert::attributes;

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

/// Lists all of a VM folder, directories after what they hold. Without `keys` nothing counts as sealed;
/// `disk_names` tell which files in the clear are disks whose content does not.
///
/// # Errors
/// `Denied` for a VM folder or a mount within, or what cannot be read; `Io`.
pub(super) fn walk(root: &File, keys: Option<&HomeKeys>, disk_names: &DiskNames) -> Result<Vec<Entry>> {
    let device = Some(stat(root)?.st_dev);
    let mut entries = Vec::new();
    Walk { keys, disk_names, device, entries: &mut entries }.folder(root, Path::new(""), 0)?;
    Ok(entries)
}

/// Lists all of an encrypted VM folder, for work that replaces files where they are: on other file systems, too.
///
/// # Errors
/// As [`walk`].
pub(super) fn walk_home(root: &File, keys: &HomeKeys) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let disk_names = &DiskNames::default();
    Walk { keys: Some(keys), disk_names, device: None, entries: &mut entries }.folder(root, Path::new(""), 0)?;
    Ok(entries)
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

struct Walk<'a> {
    keys: Option<&'a HomeKeys>,
    disk_names: &'a DiskNames,
    /// The only one that folders may be on.
    device: Option<u64>,
    entries: &'a mut Vec<Entry>,
}

impl Walk<'_> {
    fn folder(&mut self, dir: &File, path: &Path, depth: usize) -> Result<()> {
        let refuse = |why: &str| Err(Error::new(Kind::Denied, format!("{} {why}", path.shown())));
        if depth > scan::MAX_DEPTH {
            return refuse("is nested too deep");
        }
        let own = stat(dir)?;
        if self.device.is_some_and(|device| own.st_dev != device) {
            return refuse("is on another file system, where files cannot be replaced at once");
        }
        for name in scan::sorted_names(dir)? {
            if scan::is_reserved(&name) {
                if depth > 0 && HomeState::of_header_file(&name).is_some() {
                    return refuse("is a VM folder of its own, which is encrypted or about to be");
                }
                continue;
            }
            let path = path.join(&name);
            self.entry(dir, &name, &path, depth).context(|| path.shown().to_string())?;
        }
        self.entries.push(Entry { path: path.to_path_buf(), found: EntryForm::Folder, stat: own });
        Ok(())
    }

    fn entry(&mut self, dir: &File, name: &OsStr, path: &Path, depth: usize) -> Result<()> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).context(|| "reading attributes".into())?;
        let found = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => return self.folder(&folder::open_at(dir, name)?, path, depth + 1),
            FileType::RegularFile => self.file(dir, name)?,
            FileType::Symlink => self.link(dir, name)?,
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => EntryForm::FormNeutral,
        };
        self.entries.push(Entry { path: path.to_path_buf(), found, stat });
        Ok(())
    }

    fn file(&self, dir: &File, name: &OsStr) -> Result<EntryForm> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(dir, name, flags, Mode::empty()).map(File::from).context(|| "opening it".into())?;
        if disk::is_disk(&file)? {
            return Ok(EntryForm::Disk);
        }
        let kind = clear::kind_of(&file, name, self.disk_names)?;
        let len = file.metadata().context(|| "reading the length".into())?.len();
        if len == 0 && !kind.is_disk() {
            let has_values = xattr_names(&file)?.iter().any(|name| attributes::is_user(name));
            return Ok(if has_values { EntryForm::Clear(kind) } else { EntryForm::FormNeutral });
        }
        if !home::is_home_file(&file)? {
            return Ok(EntryForm::Clear(kind));
        }
        let Some(keys) = self.keys else { return Ok(EntryForm::UnreadableOrForeign) };
        match HomeFile::open(FileStorage::new(file), keys) {
            Ok(_) => Ok(EntryForm::Sealed),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                Ok(EntryForm::UnreadableOrForeign)
            }
            Err(error) => Err(error),
        }
    }

    fn link(&self, dir: &File, name: &OsStr) -> Result<EntryForm> {
        let text = read_link(dir, name)?;
        let sealed = self.keys.is_some_and(|keys| open_target(keys, text.as_bytes()).is_ok());
        Ok(if sealed { EntryForm::SealedLink } else { EntryForm::ClearLink })
    }
}

/// Text of a symbolic link.
///
/// # Errors
/// `Io`.
pub(super) fn read_link(dir: &File, name: &OsStr) -> Result<OsString> {
    rustix::fs::readlinkat(dir, name, Vec::new())
        .map(|text| OsString::from_vec(text.into_bytes()))
        .context(|| "reading a symbolic link".into())
}

fn stat(file: &File) -> Result<Stat> {
    rustix::fs::fstat(file).context(|| "reading attributes".into())
}
