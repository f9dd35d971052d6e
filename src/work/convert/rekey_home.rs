//! All that a home in transition has sealed, from its old DEK to its new one: files, links and values (docs/FORMAT.md, section 10).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use uuid::Uuid;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::Header;
use crate::format::home_file::{FILE_ID_LEN, FileId};
use crate::key::Dek;
use crate::progress::OnProgress;
use crate::storage::{Access, FileStorage};
use crate::store::buffer::request_buffer;
use crate::store::home_file::{HomeFile, HomeKeys, open_target, seal_target};
use crate::store::plain_file::read_all;
use crate::sys::file::{file_beneath, folder_beneath};
use crate::text::Show;
use crate::vm::attributes::times_after;
use crate::vm::manifest::Expected;
use crate::vm::open_form::OpenForm;
use crate::vm::{disk, home};
use crate::work::convert::attributes::{self, ChangeTime, Sealing};
use crate::work::convert::copy;
use crate::work::convert::form::TargetForm;
use crate::work::convert::parted::Parted;
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::{Drafts, ReplaceContext, SourceFile};
use crate::work::convert::tree::{self, Entry, EntryForm, by_inode, read_text};

/// Gives everything that is under the old DEK of a home in transition the new one, `dek`, until nothing of it is left. The home
/// is claimed: nothing else uses it. What is under the old DEK must be what is `expected`, if anything is.
///
/// # Errors
/// `Stopped`, `Busy`, `Corrupt` for what neither DEK opens or was exchanged, or `Io`, naming the file. What was done stays done.
pub(in crate::work) fn rekey_home(
    root: &File,
    (header, dek): (&Header, &Dek),
    expected: Option<&Expected>,
    on_progress: OnProgress<'_>,
) -> Result<()> {
    let old = header.transition.as_ref().map(|transition| transition.old_dek(dek)).transpose()?.flatten();
    let old = old.ok_or_else(|| Error::new(Kind::Corrupt, "a home in transition without its old DEK"))?;
    let keys = Keys { both: HomeKeys::of(header, dek)?, old: HomeKeys::new(&old)?, new: HomeKeys::new(dek)? };
    let mut parted = None;
    loop {
        let looking = ProgressCounter::looking(&mut *on_progress);
        let entries = tree::list_home(root, &keys.both, &|| looking.tell())?;
        refuse_unfit(&entries)?;
        let names = entries.iter().filter(|entry| entry.found != EntryForm::Folder).count() as u64;
        let pace = ProgressCounter::of_files("home", names, &mut *on_progress);
        let site = ReplaceContext { root, keys: &keys.both, overwrite: false, pace: &pace, drafts: Drafts::Beside };
        let mut rekey = Rekey { site, keys: &keys, expected, entries: &entries, moved: HashMap::new() };
        let parted = match &mut parted {
            Some(parted) => parted,
            none => none.insert(rekey.tidy_up(header.uuid)?),
        };
        if !rekey.pass(parted)? {
            return Ok(());
        }
    }
}

/// Refuses a home in which [`rekey_home`] would not come to an end: all of it but holes is read. Returns the bytes that it takes at most
/// beyond what is taken now.
///
/// # Errors
/// `Denied` for a VM folder within it or a folder that is nested too deep; `KeyUnavailable` for an erased disk, `Corrupt` for what does
/// not authenticate, with what to do; `Stopped`; `Io`.
pub(in crate::work) fn refuse_unfit_home(root: &File, keys: &HomeKeys, on_progress: OnProgress<'_>) -> Result<u64> {
    let looking = ProgressCounter::looking(on_progress);
    let entries = tree::list_home(root, keys, &|| looking.tell())?;
    refuse_unfit(&entries)?;
    let groups = by_inode(entries.iter().filter(|entry| entry.found == EntryForm::Sealed));
    let mut buffer = request_buffer();
    for names in &groups {
        let path = &names[0].path;
        let file = file_beneath(root, path).context(|| path.shown().to_string())?;
        HomeFile::open(FileStorage::new(file), keys)
            .and_then(|file| read_all(&file, &mut buffer, &|| looking.tell()))
            .map_err(|error| unfit(path, error))?;
    }
    // One by one gets its new form, which is as long, beside itself.
    Ok(groups.iter().map(|names| names[0].allocated()).max().unwrap_or(0))
}

/// Refuses what no DEK of the home opens.
fn refuse_unfit(entries: &[Entry]) -> Result<()> {
    tree::refuse_erased(entries.iter())?;
    match entries.iter().find(|entry| entry.found == EntryForm::UnreadableOrForeign) {
        None => Ok(()),
        Some(entry) => Err(unfit(&entry.path, Error::new(Kind::Corrupt, "damaged, or a file of another home"))),
    }
}

fn unfit(path: &Path, error: Error) -> Error {
    if error.kind() != Kind::Corrupt {
        return Error::with_source(error.kind(), path.shown().to_string(), error);
    }
    let message = format!(
        "{} cannot be re-encrypted, and its home not without it: move it out of the folder, or bring it back from a backup, first",
        path.shown()
    );
    Error::with_source(Kind::Corrupt, message, error)
}

/// The keys of a home: those that open either form, those before and those after.
struct Keys {
    both: HomeKeys,
    old: HomeKeys,
    new: HomeKeys,
}

/// One pass over a home.
struct Rekey<'a, 'p> {
    site: ReplaceContext<'a, 'p>,
    keys: &'a Keys,
    /// What the manifest says of it.
    expected: Option<&'a Expected>,
    entries: &'a [Entry],
    /// What is under the new DEK, by file id: a crash may have come between the names of one file.
    moved: HashMap<FileId, PathBuf>,
}

impl Rekey<'_, '_> {
    /// Removes what an interruption has left, before anything is made: it may take the space that is needed. What appears later in a
    /// home that is claimed is another process's, which claims it in a moment. Returns the files between whose names it came.
    fn tidy_up(&self, home: Uuid) -> Result<Parted> {
        self.site.clean_components(home)?;
        Parted::take_up(self.site.root, self.entries)
    }

    /// Returns whether anything was under the old DEK.
    fn pass(&mut self, parted: &mut Parted) -> Result<bool> {
        let groups = by_inode(self.entries.iter().filter(|entry| entry.found != EntryForm::Folder));
        for names in &groups {
            self.site.pace.tell()?;
            if let Some(id) = self.new_id(names[0])? {
                self.moved.insert(id, names[0].path.clone());
            }
        }
        let mut changed = false;
        for names in &groups {
            self.site.pace.tell()?;
            let first = &names[0].path;
            changed |= self.entry(names, parted).context(|| first.shown().to_string())?;
            names.iter().for_each(|_| self.site.pace.count_file());
        }
        parted.end_all(self.site.root)?;
        for folder in self.folders() {
            self.site.pace.tell()?;
            changed |= self.folder(&folder.path).context(|| folder.path.shown().to_string())?;
        }
        Ok(changed)
    }

    fn folders(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.found == EntryForm::Folder)
    }

    fn entry(&mut self, names: &[&Entry], parted: &mut Parted) -> Result<bool> {
        let first = names[0];
        match first.found {
            EntryForm::SealedLink => self.link(names),
            EntryForm::Disk => {
                // Its values are the home's, its data is not: another user of it is not an obstacle.
                let (storage, stored) = disk::read_header(self.open(&first.path)?)?;
                self.values(&first.path, storage.file(), Some(home::disk_id(stored.header.claims().uuid)))
            }
            EntryForm::Sealed | EntryForm::UnreadableOrForeign => self.file(names, parted),
            EntryForm::Clear(_) | EntryForm::FormNeutral if first.is_regular() => {
                let file = SourceFile::claim(self.site.root, &first.path, Access::Write, OpenForm::clear)?;
                file.refuse_exchanged(&first.stat)?;
                self.values(&first.path, file.form.backing(), None)
            }
            EntryForm::Folder | EntryForm::Clear(_) | EntryForm::ClearLink | EntryForm::FormNeutral => Ok(false),
        }
    }

    fn open(&self, path: &Path) -> Result<File> {
        file_beneath(self.site.root, path).context(|| "opening it".into())
    }

    fn open_folder(&self, path: &Path) -> Result<File> {
        folder_beneath(self.site.root, path).context(|| "opening it".into())
    }

    /// The id of a file that is under the new DEK.
    fn new_id(&self, entry: &Entry) -> Result<Option<FileId>> {
        if entry.found != EntryForm::Sealed {
            return Ok(None);
        }
        let storage = FileStorage::new(self.open(&entry.path)?);
        Ok(HomeFile::open(storage, &self.keys.new).ok().and_then(|file| file.id()))
    }

    /// A file of the home, under all its names.
    fn file(&mut self, names: &[&Entry], parted: &mut Parted) -> Result<bool> {
        let first = &names[0].path;
        let sealed = |storage| OpenForm::home(storage, &self.keys.both);
        let original = SourceFile::claim(self.site.root, first, Access::Write, sealed)?;
        original.refuse_exchanged(&names[0].stat)?;
        let OpenForm::Home(file) = &original.form else { return Ok(false) };
        let Some(id) = file.id() else { return self.values(first, original.form.backing(), None) };
        if self.new_id(names[0])?.is_some() {
            return self.values(first, original.form.backing(), Some(id));
        }
        original.refuse_unexpected(first, &self.keys.both, self.expected)?;
        let (twin, rest) = match self.twin(&original, parted.ids(&names[0].stat))? {
            Some(twin) => (twin, names),
            None => {
                // A copy, or a name that was written to after a crash came between the names, gets another one: both contents are kept.
                let is_taken = self.moved.contains_key(&id) || parted.is_of_another(id, &names[0].stat);
                let new_id = if is_taken { random_id()? } else { id };
                if names.len() > 1 {
                    parted.begin(self.site.root, (first, &names[0].stat), new_id)?;
                }
                self.site.replace_name(&original, first, &TargetForm::HomeOfId(&self.keys.new, new_id))?;
                self.moved.insert(new_id, first.clone());
                (first.clone(), &names[1..])
            }
        };
        for name in rest {
            self.site.pace.tell()?;
            self.site.link(&twin, &name.path, &name.stat)?;
        }
        parted.end(self.site.root, &names[0].stat)?;
        Ok(true)
    }

    /// A name that leads to the new form of a file under the old DEK: it has one of these ids, and still the same content.
    fn twin(&self, original: &SourceFile, ids: impl Iterator<Item = FileId>) -> Result<Option<PathBuf>> {
        for path in ids.filter_map(|id| self.moved.get(&id)) {
            let twin = HomeFile::open(FileStorage::new(self.open(path)?), &self.keys.new)?;
            match copy::compare(original.form.content(), &twin, self.site.pace) {
                Ok(()) => return Ok(Some(path.clone())),
                Err(error) if error.kind() == Kind::Corrupt => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A symbolic link, which may have several names.
    fn link(&self, names: &[&Entry]) -> Result<bool> {
        let mut changed = false;
        for entry in names {
            let text = read_text(self.site.root, &entry.path)?;
            if let Ok(target) = open_target(&self.keys.old, text.as_bytes()) {
                self.expected.map_or(Ok(()), |expected| expected.check_link(&entry.path, &text))?;
                let sealed = seal_target(&self.keys.new, &target)?;
                self.site.replace_link(&entry.path, &entry.stat, OsStr::new(&sealed), ChangeTime::Later)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn folder(&self, path: &Path) -> Result<bool> {
        let dir = self.open_folder(path)?;
        let changed = self.values(path, &dir, None)?;
        dir.sync_all().context(|| "making names durable".into())?;
        Ok(changed)
    }

    /// The values of what is not replaced. What changes says so by its times, and before it does: a copy that is brought up to
    /// date by size and time must get it, and a run that takes up this one does not see that it changed.
    fn values(&self, path: &Path, file: &File, id: Option<FileId>) -> Result<bool> {
        let (old, new) = (Sealing::By(&self.keys.old, id), Sealing::By(&self.keys.new, id));
        // Of what an earlier run has begun some are under the new DEK.
        if let Some(expected) = self.expected
            && attributes::all_open(file, old)?
        {
            expected.check_values(path, file)?;
        }
        attributes::convert_in_place(file, old, new, || {
            let stat = rustix::fs::fstat(file).context(|| "reading attributes".into())?;
            match rustix::fs::futimens(file, &times_after(&stat)) {
                // Only an owner may; a copy of attributes goes by these themselves.
                Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(()),
                Err(error) => Err(Error::errno("setting times", error)),
            }
        })
    }
}

fn random_id() -> Result<FileId> {
    let mut id = FileId([0; FILE_ID_LEN]);
    random::fill(&mut id.0)?;
    Ok(id)
}
