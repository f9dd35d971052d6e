//! Files with several names that a deep rekey gives their new form name by name: marked, so that a run which resumes it knows which names
//! were those of one file. By its content and its id a copy of a file could not be told from it.
//!
//! The mark is one more name of the old file, beside the first one, and says the id of the new form. It goes once no other name leads to the
//! old file.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Stat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::error::{Context, Error, Result};
use crate::format::header::NEW_PREFIX;
use crate::format::home_file::FileId;
use crate::sys::file::{folder_beneath, stat_at};
use crate::text::Show;
use crate::vm::attributes::give_times;
use crate::vm::folder;
use crate::work::convert::replace::{REKEY, link, parent_of};
use crate::work::convert::tree::{Entry, EntryForm};

/// Marks of a home's files.
#[derive(Debug, Default)]
pub(super) struct Parted {
    /// By device and inode, paths below the VM folder.
    marks: HashMap<(u64, u64), Vec<PathBuf>>,
}

impl Parted {
    /// The marks that an interrupted run left. What else it left in the home's folders is removed.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn take_up(root: &File, entries: &[Entry]) -> Result<Self> {
        let files: HashSet<_> =
            entries.iter().filter(|entry| entry.is_regular()).map(|entry| inode(&entry.stat)).collect();
        let mut parted = Self::default();
        for folder in entries.iter().filter(|entry| entry.found == EntryForm::Folder) {
            let dir = folder_beneath(root, &folder.path).context(|| folder.path.shown().to_string())?;
            for name in left_by_rekey(&dir)? {
                match stat_at(&dir, &name).ok().map(|stat| inode(&stat)).filter(|inode| files.contains(inode)) {
                    Some(inode) => parted.marks.entry(inode).or_default().push(folder.path.join(name)),
                    None => remove(&dir, &name)?,
                }
            }
        }
        Ok(parted)
    }

    /// The ids that its new form may have, by its marks: all names of the file were, and are to be, those of one file.
    pub(super) fn ids(&self, file: &Stat) -> impl Iterator<Item = FileId> {
        self.marks.get(&inode(file)).into_iter().flatten().filter_map(|mark| id_of(mark))
    }

    /// Whether this id is that of another file's new form: what has it as well is a copy.
    pub(super) fn is_of_another(&self, id: FileId, file: &Stat) -> bool {
        let others = self.marks.iter().filter(|(marked, _)| **marked != inode(file));
        others.flat_map(|(_, marks)| marks).any(|mark| id_of(mark) == Some(id))
    }

    /// Marks a file, durably, before one of its names leads to a new form with this id.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn begin(&mut self, root: &File, (name, file): (&Path, &Stat), new: FileId) -> Result<()> {
        if self.ids(file).any(|id| id == new) {
            return Ok(());
        }
        let mark = name.with_file_name(format!("{NEW_PREFIX}{REKEY}{}", Uuid::from_bytes(new.0)));
        unnoticed(root, &mark, |dir, own| {
            link(root, name, dir, own)?;
            dir.sync_all().context(|| "making a further name durable".into())
        })?;
        self.marks.entry(inode(file)).or_default().push(mark);
        Ok(())
    }

    /// Removes the marks of a file that has no other name in the home any more.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn end(&mut self, root: &File, file: &Stat) -> Result<()> {
        let marks = self.marks.remove(&inode(file)).unwrap_or_default();
        marks.iter().try_for_each(|mark| unnoticed(root, mark, remove))
    }

    /// Removes all marks: of files that are as they were, somebody else made them.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn end_all(&mut self, root: &File) -> Result<()> {
        self.marks.drain().flat_map(|(_, marks)| marks).try_for_each(|mark| unnoticed(root, &mark, remove))
    }
}

fn id_of(mark: &Path) -> Option<FileId> {
    let id = mark.file_name()?.to_str()?.strip_prefix(NEW_PREFIX)?.strip_prefix(REKEY)?;
    Uuid::parse_str(id).ok().map(|id| FileId(id.into_bytes()))
}

fn inode(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Changes a name in its folder, which keeps its times where that is allowed.
fn unnoticed(root: &File, path: &Path, change: impl FnOnce(&File, &OsStr) -> Result<()>) -> Result<()> {
    let dir = parent_of(root, path)?;
    let before = rustix::fs::fstat(&dir).context(|| "reading attributes".into())?;
    change(&dir, path.file_name().unwrap_or_default())?;
    if path.components().count() > 1 {
        let _ = give_times(&before, &dir); // only its owner may
    }
    Ok(())
}

/// What an interrupted deep rekey left in a folder.
fn left_by_rekey(dir: &File) -> Result<Vec<OsString>> {
    let prefix = [NEW_PREFIX, REKEY].concat();
    let mut names = folder::sorted_names(dir)?;
    names.retain(|name| name.as_bytes().starts_with(prefix.as_bytes()));
    Ok(names)
}

fn remove(dir: &File, name: &OsStr) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(Error::errno(format!("removing {}", name.shown()), error)),
    }
}
