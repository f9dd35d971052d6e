//! All that a home has sealed: its files, links and values, folder by folder.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use crate::crypto::random;
use crate::error::{Context, Result};
use crate::format::header::NEW_PREFIX;
use crate::format::home_file::{FILE_ID_LEN, FileId};
use crate::progress::{OnProgress, Progress, Unit};
use crate::storage::{Access, FileStorage};
use crate::sys::file::open_beneath;
use crate::text::Show;
use crate::vm::{disk, home, scan};
use crate::work::deep_rekey::sealed::{self, DRAFT_PREFIX, OldAndNew, Under};

/// A VM folder whose home is in transition.
pub(super) struct Tree<'t> {
    root: &'t File,
    keys: &'t OldAndNew,
    /// Files of several names that were encrypted anew, by what they were: one of their new names.
    moved: HashMap<(u64, u64), PathBuf>,
    /// Files that an earlier run has encrypted anew, by their ids: a crash may have come between the names of one file. Looked
    /// for when the first file under the old DEK is met.
    earlier: Option<HashMap<FileId, PathBuf>>,
    done: u64,
    total: u64,
}

/// A name in an open folder.
struct Entry<'e> {
    dir: &'e File,
    name: &'e OsStr,
    path: PathBuf,
    stat: Stat,
}

impl<'t> Tree<'t> {
    /// `resumed`: an earlier run may have done a part.
    pub(super) fn new(root: &'t File, keys: &'t OldAndNew, resumed: bool) -> Self {
        let earlier = if resumed { None } else { Some(HashMap::new()) };
        Self { root, keys, moved: HashMap::new(), earlier, done: 0, total: 0 }
    }

    /// Goes over everything until a pass finds nothing under the old DEK.
    pub(super) fn reencrypt(&mut self, on_progress: OnProgress<'_>) -> Result<()> {
        self.total = self.count()?;
        loop {
            self.done = 0;
            let mut changed = false;
            let mut folders = vec![PathBuf::new()];
            while let Some(path) = folders.pop() {
                changed |= self.folder(&path, &mut folders, on_progress)?;
            }
            if !changed {
                return Ok(());
            }
        }
    }

    /// Everything but folders, for showing how much there is to do.
    fn count(&self) -> Result<u64> {
        let mut folders = vec![PathBuf::new()];
        let mut count = 0;
        while let Some(path) = folders.pop() {
            let dir = self.open(&path)?;
            for (name, stat) in entries(&dir)? {
                match FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    true => folders.push(path.join(&name)),
                    false => count += 1,
                }
            }
        }
        Ok(count)
    }

    fn open(&self, path: &Path) -> Result<File> {
        open_beneath(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .context(|| format!("opening folder {}", path.shown()))
    }

    /// One folder; adds those in it to what is to be done. Returns whether anything was under the old DEK.
    fn folder(&mut self, path: &Path, folders: &mut Vec<PathBuf>, on_progress: OnProgress<'_>) -> Result<bool> {
        let dir = self.open(path)?;
        remove_drafts(&dir)?;
        let mut changed = self.keys.reseal_xattrs(&dir, None).context(|| path.shown().to_string())?;
        for (name, stat) in entries(&dir)? {
            let entry = Entry { dir: &dir, name: &name, path: path.join(&name), stat };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                folders.push(entry.path);
                continue;
            }
            let told = Progress { what: "home".to_owned(), done: self.done, total: self.total, unit: Unit::Files };
            on_progress(&told)?;
            changed |= self.entry(&entry, &mut || on_progress(&told)).context(|| entry.path.shown().to_string())?;
            self.done += 1;
        }
        if changed {
            rustix::fs::fsync(&dir).context(|| format!("syncing folder {}", path.shown()))?;
        }
        Ok(changed)
    }

    fn entry(&mut self, entry: &Entry<'_>, ask: sealed::Ask<'_>) -> Result<bool> {
        let kind = FileType::from_raw_mode(entry.stat.st_mode);
        if kind == FileType::RegularFile {
            self.regular(entry, ask)
        } else if kind == FileType::Symlink {
            self.keys.replace_symlink(entry.dir, entry.name)
        } else {
            Ok(false) // user xattrs are of regular files and folders alone
        }
    }

    fn regular(&mut self, entry: &Entry<'_>, ask: sealed::Ask<'_>) -> Result<bool> {
        let file = open(entry, OFlags::RDONLY).context(|| "opening it".into())?;
        if disk::is_disk(&file)? {
            // Its values are the home's, its data are not: whoever has it open is no hindrance.
            let (storage, stored) = disk::read_header(file)?;
            return self.keys.reseal_xattrs(storage.file(), Some(home::disk_id(stored.header.claims().uuid)));
        }
        let storage = claimed(entry, file)?;
        match self.keys.of_file(&storage)? {
            Under::Nothing => self.keys.reseal_xattrs(storage.file(), None),
            Under::New(id) => self.keys.reseal_xattrs(storage.file(), Some(id)),
            Under::Old(id) => self.old_file(entry, &storage, id, ask).map(|()| true),
        }
    }

    /// A file that has, or had, several names is encrypted anew with the first one, and linked with the others.
    fn old_file(&mut self, entry: &Entry<'_>, storage: &FileStorage, id: FileId, ask: sealed::Ask<'_>) -> Result<()> {
        let inode = (entry.stat.st_dev, entry.stat.st_ino);
        if let Some(twin) = self.moved.get(&inode) {
            return self.link(twin, entry);
        }
        let twin = self.earlier()?.get(&id).cloned();
        let new_id = match &twin {
            None => id,
            // Someone has written to one of the names since a crash came between them: both contents are kept.
            Some(twin) if !self.keys.same_content(storage, &self.twin(twin)?)? => {
                let mut other = FileId([0; FILE_ID_LEN]);
                random::fill(&mut other.0)?;
                other
            }
            Some(twin) => {
                self.link(twin, entry)?;
                self.remember(entry, twin.clone());
                return Ok(());
            }
        };
        self.keys.replace_file(entry.dir, entry.name, storage, [id, new_id], ask)?;
        self.remember(entry, entry.path.clone());
        Ok(())
    }

    /// Where the new file is, for the other names of the old one, if it has any.
    fn remember(&mut self, entry: &Entry<'_>, new: PathBuf) {
        if entry.stat.st_nlink > 1 {
            self.moved.insert((entry.stat.st_dev, entry.stat.st_ino), new);
        }
    }

    fn link(&self, twin: &Path, entry: &Entry<'_>) -> Result<()> {
        let from = self.open(twin.parent().unwrap_or(Path::new("")))?;
        let name = twin.file_name().unwrap_or_default();
        sealed::replace(entry.dir, entry.name, |draft| {
            rustix::fs::linkat(&from, name, entry.dir, draft.name(), AtFlags::empty())
                .context(|| format!("linking to {}", twin.shown()))
        })
    }

    fn twin(&self, path: &Path) -> Result<FileStorage> {
        let file = open_beneath(self.root, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty());
        file.map(FileStorage::new).context(|| format!("opening {}", path.shown()))
    }

    fn earlier(&mut self) -> Result<&HashMap<FileId, PathBuf>> {
        if self.earlier.is_none() {
            let mut earlier = HashMap::new();
            let mut folders = vec![PathBuf::new()];
            while let Some(path) = folders.pop() {
                let dir = self.open(&path)?;
                for (name, stat) in entries(&dir)? {
                    let path = path.join(&name);
                    let kind = FileType::from_raw_mode(stat.st_mode);
                    if kind == FileType::Directory {
                        folders.push(path);
                    } else if kind == FileType::RegularFile
                        && let Ok(Under::New(id)) = self.twin(&path).and_then(|file| self.keys.of_file(&file))
                    {
                        earlier.insert(id, path);
                    }
                }
            }
            self.earlier = Some(earlier);
        }
        Ok(self.earlier.get_or_insert_default())
    }
}

fn open(entry: &Entry<'_>, access: OFlags) -> rustix::io::Result<File> {
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(entry.dir, entry.name, flags, Mode::empty()).map(File::from)
}

/// Claims a file so that nobody else uses it meanwhile; against writers alone, where it may not be written.
fn claimed(entry: &Entry<'_>, for_reading: File) -> Result<FileStorage> {
    let (file, access) = match open(entry, OFlags::RDWR) {
        Ok(file) => (file, Access::Write),
        Err(_) => (for_reading, Access::Read),
    };
    let storage = FileStorage::new(file);
    storage.claim(access)?;
    Ok(storage)
}

/// Names in a folder that are not reserved, in their order.
fn entries(dir: &File) -> Result<Vec<(OsString, Stat)>> {
    let names = scan::sorted_names(dir)?.into_iter().filter(|name| !scan::is_reserved(name));
    let stat = |name: OsString| {
        let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW);
        stat.context(|| format!("looking at {}", name.shown())).map(|stat| (name, stat))
    };
    names.map(stat).collect()
}

/// What an interrupted run has left.
fn remove_drafts(dir: &File) -> Result<()> {
    let prefix = [NEW_PREFIX, DRAFT_PREFIX].concat();
    for name in scan::sorted_names(dir)?.into_iter().filter(|name| name.as_bytes().starts_with(prefix.as_bytes())) {
        rustix::fs::unlinkat(dir, &name, AtFlags::empty()).context(|| format!("removing {}", name.shown()))?;
    }
    Ok(())
}
