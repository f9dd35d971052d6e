//! One file replaced by another form of itself: at any moment its name leads to the old one or to the whole new one.
//!
//! The new form is made under a temporary name in the VM folder's root, synced, reopened, compared byte for byte
//! with the original, and only then given the original's name.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{Header, NEW_PREFIX};
use crate::format::members::MemberList;
use crate::provider::Providers;
use crate::seen::Point;
use crate::storage::{Access, FileStorage};
use crate::store::disk::LockedDisk;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::sys::file::{file_beneath, folder_beneath, regular_beneath, stat_at};
use crate::text::Show;
use crate::vm::attributes::give_times;
use crate::vm::draft::Draft;
use crate::vm::manifest::Expected;
use crate::vm::open_form::OpenForm;
use crate::vm::owner::Owner;
use crate::vm::{disk, folder, keyring};
use crate::work::convert::attributes::{self, Attributes, ChangeTime};
use crate::work::convert::copy;
use crate::work::convert::form::TargetForm;
use crate::work::convert::overwrite;
use crate::work::convert::progress_counter::ProgressCounter;

/// Temporary names: half-made replacements...
pub(super) const PART: &str = "part-";
/// ...replaced originals that wait for being overwritten...
const OLD: &str = "old-";
/// ...and whole replacements of files with several names, not all of which lead to them yet.
const LINK: &str = "link-";
/// Half-made replacements of a deep rekey, each in the folder of what it replaces, and marks of files with several names.
pub(super) const REKEY: &str = "rekey-";

/// Where replacements are made, and under which temporary names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Drafts {
    /// In the VM folder's root.
    InRoot,
    /// Beside what they replace.
    Beside,
}

/// A VM folder in which files are replaced.
pub(super) struct ReplaceContext<'a, 'p> {
    /// The folder.
    pub(super) root: &'a File,
    /// What its home seals with.
    pub(super) keys: &'a HomeKeys,
    /// Whether originals are overwritten before they go.
    pub(super) overwrite: bool,
    /// Progress sink.
    pub(super) pace: &'a ProgressCounter<'p>,
    pub(super) drafts: Drafts,
}

/// An original, claimed: nobody else has it open through vmcryptfs, nor in QEMU, which locks its images too.
pub(super) struct SourceFile {
    pub(super) form: OpenForm,
    stat: Stat,
    writable: bool,
}

impl SourceFile {
    /// Opens and claims a file; `open` says in which form it is.
    ///
    /// # Errors
    /// `Busy` when something else has it open, those of `open`, or `Io`.
    pub(super) fn claim(
        root: &File,
        path: &Path,
        access: Access,
        open: impl FnOnce(FileStorage) -> Result<OpenForm>,
    ) -> Result<Self> {
        Self::claim_with(root, path, access, |storage| open(storage).map(|form| (form, ())))
            .map(|(claimed, ())| claimed)
    }

    /// Claims and unlocks a disk, and returns its header as well. For writing, what a deep rekey was about to write is completed.
    ///
    /// # Errors
    /// `Busy`, `KeyUnavailable`, `Corrupt`, also for a disk of another VM, or `Io`.
    pub(super) fn claim_disk(
        root: &File,
        path: &Path,
        access: Access,
        keys: (&Providers, &Owner),
        engine: Engine,
    ) -> Result<(Self, Header)> {
        let claimed = Self::claim_with(root, path, access, |storage| unlocked(storage, path, keys, engine))?;
        if access == Access::Write {
            claimed.0.form.content().prepare_writes()?;
        }
        Ok(claimed)
    }

    /// As [`claim`](Self::claim), with what else `open` finds out.
    pub(super) fn claim_with<T>(
        root: &File,
        path: &Path,
        access: Access,
        open: impl FnOnce(FileStorage) -> Result<(OpenForm, T)>,
    ) -> Result<(Self, T)> {
        let open_as = |access| match access {
            Access::Write => regular_beneath(root, path, OFlags::RDWR),
            Access::Read => regular_beneath(root, path, OFlags::RDONLY),
        };
        // Its owner may replace a file that he may not write, but then only other writers can be kept out.
        let (file, access) = match open_as(access) {
            Err(error) if access == Access::Write && error.kind() == io::ErrorKind::PermissionDenied => {
                (open_as(Access::Read), Access::Read)
            }
            other => (other, access),
        };
        let file = file.context(|| "opening it".into())?;
        let stat = rustix::fs::fstat(&file).context(|| "reading attributes".into())?;
        let storage = FileStorage::new(file);
        storage.claim(access)?;
        let (form, found) = open(storage)?;
        Ok((Self { form, stat, writable: access == Access::Write }, found))
    }

    /// Copies all of it, durably, into an empty file that gets another form: what a home seals, from `keys` to `new_keys`.
    ///
    /// # Errors
    /// `Stopped`, `Corrupt`, or `Io`.
    pub(super) fn copy_to(
        &self,
        file: File,
        target: &TargetForm<'_>,
        [keys, new_keys]: [&HomeKeys; 2],
        pace: &ProgressCounter<'_>,
    ) -> Result<()> {
        let sealing = self.form.sealing(keys);
        let attributes = match target {
            TargetForm::HomeOfId(..) => Attributes::read_with_foreign(self.form.backing(), sealing)?,
            TargetForm::Clear | TargetForm::Home(_) | TargetForm::Disk(_) => {
                Attributes::read(self.form.backing(), sealing)?
            }
        };
        let to = target.make(FileStorage::new(file))?;
        if attributes.has_user_xattrs() {
            to.ensure_id()?;
        }
        copy::copy(self.form.content(), to.content(), pace)?;
        attributes.give(to.backing(), to.sealing(new_keys), target.time())?;
        to.backing().sync_all().context(|| "making the new file durable".into())
    }

    /// Refuses another file than that which was listed under its name: someone exchanged them since.
    ///
    /// # Errors
    /// `Busy`.
    pub(super) fn refuse_exchanged(&self, listed: &Stat) -> Result<()> {
        if is_same(&self.stat, listed) { Ok(()) } else { Err(exchanged()) }
    }

    /// Refuses a home file that is not what the home's manifest says of its name, if there is one.
    ///
    /// # Errors
    /// `Corrupt`, or `Io`.
    pub(super) fn refuse_unexpected(&self, path: &Path, keys: &HomeKeys, expected: Option<&Expected>) -> Result<()> {
        let Some(expected) = expected else { return Ok(()) };
        if let OpenForm::Home(file) = &self.form {
            return expected.check_file(path, file);
        }
        let backing = self.form.backing().try_clone().context(|| "duplicating a descriptor".into())?;
        expected.check_file(path, &HomeFile::open(FileStorage::new(backing), keys)?)
    }

    /// Refuses what cannot be overwritten.
    ///
    /// # Errors
    /// `Denied`.
    pub(super) fn refuse_if_not_writable(&self) -> Result<()> {
        match self.writable {
            true => Ok(()),
            false => Err(Error::new(Kind::Denied, "it cannot be overwritten: no write permission")),
        }
    }

    /// Whether it is what it was when it was claimed: not all programs lock what they write.
    fn refuse_if_changed(&self) -> Result<()> {
        let now = rustix::fs::fstat(self.form.backing()).context(|| "reading attributes".into())?;
        let state = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        if state(&now) == state(&self.stat) {
            return Ok(());
        }
        Err(Error::new(Kind::Busy, "it changed while it was copied: something else writes to it"))
    }

    /// Tells it from every other file that had, or will get, its inode number.
    fn link_name(&self) -> String {
        let Stat { st_ino, st_size, st_mtime, st_mtime_nsec, .. } = self.stat;
        format!("{NEW_PREFIX}{LINK}{st_ino}-{st_size}-{st_mtime}.{st_mtime_nsec}")
    }
}

impl ReplaceContext<'_, '_> {
    /// Replaces a file under all its names, of which there is at least one. What stood under them is gone then, or, with
    /// hard links from outside, lives on there.
    ///
    /// # Errors
    /// `Stopped`, `Corrupt` when the replacement does not hold what the original holds, `Busy` when the original changed, or
    /// `Io`. Then every name leads to the original or to the whole replacement.
    pub(super) fn replace(&self, original: &SourceFile, names: &[&Path], target: &TargetForm<'_>) -> Result<()> {
        let linked = original.link_name();
        let known = self.open(OsStr::new(&linked)).ok();
        if names.len() == 1 && known.is_none() {
            return self.replace_name(original, names[0], target);
        }
        match known {
            // Made before an interruption: whole, since it has this name.
            Some(file) => {
                let made = target.open(FileStorage::new(file))?;
                copy::compare(original.form.content(), made.content(), self.pace)?;
            }
            None => {
                let draft = self.draft(self.root)?;
                self.fill(&draft, original, target)?;
                draft.replace(self.root, OsStr::new(&linked))?;
                self.sync_root()?;
            }
        }
        let old = self.keep_for_overwriting(original, names[0])?;
        for name in names {
            self.link(Path::new(&linked), name, &original.stat)?;
        }
        self.overwrite(original, old)?;
        self.remove(&linked)
    }

    /// Replaces one name of a file. What stood under it is gone then, or lives on under its other names.
    ///
    /// # Errors
    /// As [`replace`](Self::replace).
    pub(super) fn replace_name(&self, original: &SourceFile, name: &Path, target: &TargetForm<'_>) -> Result<()> {
        let parent = parent_of(self.root, name)?;
        let draft = self.draft(&parent)?;
        self.fill(&draft, original, target)?;
        let old = self.keep_for_overwriting(original, name)?;
        self.publish(draft, name, &original.stat)?;
        self.overwrite(original, old)
    }

    /// Replaces a name of what has these attributes by a link to a file.
    ///
    /// # Errors
    /// `Busy` if the name leads to something else by now, `Io`.
    pub(super) fn link(&self, file: &Path, name: &Path, replaced: &Stat) -> Result<()> {
        let parent = parent_of(self.root, name)?;
        let draft = self.draft(&parent)?;
        link(self.root, file, draft.dir(), draft.name())?;
        self.publish(draft, name, replaced)
    }

    /// Replaces a symbolic link by one to another text.
    ///
    /// # Errors
    /// `Busy` if the name leads to something else by now, `Io`.
    pub(super) fn replace_link(&self, path: &Path, stat: &Stat, text: &OsStr, time: ChangeTime) -> Result<()> {
        let parent = parent_of(self.root, path)?;
        let draft = self.draft(&parent)?;
        rustix::fs::symlinkat(text, draft.dir(), draft.name()).context(|| "making a symbolic link".into())?;
        attributes::give_to_link(stat, draft.dir(), draft.name(), time)?;
        self.publish(draft, path, stat)
    }

    /// Of what is to lie in `parent`.
    fn draft<'d>(&'d self, parent: &'d File) -> Result<Draft<'d>> {
        match self.drafts {
            Drafts::InRoot => Draft::new(self.root, PART),
            Drafts::Beside => Draft::new(parent, REKEY),
        }
    }

    /// Gives a draft the name, in place of what has it now: that of which it is the new form. To observers of the folder nothing has changed.
    fn publish(&self, draft: Draft<'_>, path: &Path, replaced: &Stat) -> Result<()> {
        let dir = parent_of(self.root, path)?;
        let now = stat_at(&dir, path.file_name().unwrap_or_default()).context(|| "looking at it again".into())?;
        if !is_same(&now, replaced) {
            return Err(exchanged());
        }
        let before = rustix::fs::fstat(&dir).context(|| "reading attributes".into())?;
        draft.replace(&dir, path.file_name().unwrap_or_default())?;
        if path.components().count() > 1 {
            let _ = give_times(&before, &dir); // only its owner may
        }
        Ok(())
    }

    /// Makes the replacement whole, durable and proven, under its temporary name.
    fn fill(&self, draft: &Draft<'_>, original: &SourceFile, target: &TargetForm<'_>) -> Result<()> {
        let new_keys = match target {
            TargetForm::Home(keys) | TargetForm::HomeOfId(keys, _) => keys,
            TargetForm::Clear | TargetForm::Disk(_) => self.keys,
        };
        original.copy_to(draft.make_file(Mode::from_raw_mode(0o600))?, target, [self.keys, new_keys], self.pace)?;
        let file = draft.open()?;
        // What the page cache holds would prove nothing about the medium.
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        let made = target.open(FileStorage::new(file))?;
        copy::compare(original.form.content(), made.content(), self.pace)?;
        original.refuse_if_changed()
    }

    fn open(&self, name: &OsStr) -> Result<File> {
        file_beneath(self.root, Path::new(name)).context(|| "opening the new file again".into())
    }

    /// Gives the original a second name that outlives its replacement, if it is to be overwritten.
    fn keep_for_overwriting(&self, original: &SourceFile, name: &Path) -> Result<Option<String>> {
        let is_clear = matches!(original.form, OpenForm::Clear(_));
        if !self.overwrite || !is_clear {
            return Ok(None);
        }
        original.refuse_if_not_writable()?;
        let old = format!("{NEW_PREFIX}{OLD}{}", random::uuid()?);
        link(self.root, name, self.root, OsStr::new(&old)).context(|| "keeping it until it is overwritten".into())?;
        Ok(Some(old))
    }

    fn overwrite(&self, original: &SourceFile, old: Option<String>) -> Result<()> {
        let Some(old) = old else { return Ok(()) };
        // Only when no crash can bring the original's name back may its content go, and only if nobody else has it.
        self.sync_root()?;
        if is_last_name(original.form.backing())? {
            overwrite::overwrite(original.form.backing())?;
        }
        self.remove(&old)
    }

    pub(super) fn sync_root(&self) -> Result<()> {
        rustix::fs::fsync(self.root).context(|| "making names durable".into())
    }

    /// Makes the names of these files durable, wherever they lie.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn sync_folders_of<'p>(&self, paths: impl Iterator<Item = &'p PathBuf>) -> Result<()> {
        let in_folders: HashMap<_, _> = paths.map(|path| (path.parent(), path)).collect();
        for path in in_folders.into_values() {
            parent_of(self.root, path)?.sync_all().context(|| "making names durable".into())?;
        }
        self.sync_root()
    }

    fn remove(&self, name: &str) -> Result<()> {
        rustix::fs::unlinkat(self.root, name, AtFlags::empty()).context(|| format!("removing {name}"))
    }

    /// Removes what was left behind. A process that gives way removes its own at the same moment.
    fn remove_left(&self, name: &OsStr) -> Result<()> {
        match rustix::fs::unlinkat(self.root, name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => removed.context(|| format!("removing {}", name.shown())),
        }
    }

    /// Removes what an interrupted run left behind, but for whole replacements of files with several names, which `all` takes
    /// as well: those are still needed until each of the names leads to one.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn clean(&self, all: bool) -> Result<()> {
        for name in folder::sorted_names(self.root)? {
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(NEW_PREFIX)) else { continue };
            if rest.starts_with(OLD) && self.overwrite {
                self.overwrite_leftover(&name)?;
            }
            if rest.starts_with(PART) || rest.starts_with(OLD) || (all && rest.starts_with(LINK)) {
                self.remove_left(&name)?;
            }
        }
        Ok(())
    }

    /// Removes headers and disks that were never finished, and lists of disks that are not this home's, in a folder whose home is
    /// not encrypted, or claimed alone. What is claimed, another process makes: a header that it will take back when it finds this home.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn clean_components(&self, home: Uuid) -> Result<()> {
        folder::remove_other_lists(self.root, home)?;
        for name in folder::sorted_names(self.root)? {
            let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(NEW_PREFIX)) else { continue };
            if Uuid::parse_str(rest).is_err() {
                continue;
            }
            if let Ok(file) = self.open(&name)
                && FileStorage::new(file).is_unclaimed()?
            {
                self.remove_left(&name)?;
            }
        }
        Ok(())
    }

    /// Overwrites an original that was replaced before an interruption. One that still has another name may not have been.
    fn overwrite_leftover(&self, name: &OsStr) -> Result<()> {
        let file = regular_beneath(self.root, Path::new(name), OFlags::RDWR)
            .context(|| format!("opening {}", name.shown()))?;
        if is_last_name(&file)? { overwrite::overwrite(&file) } else { Ok(()) }
    }
}

/// The directory that a path leads into, which never lies outside of the folder.
pub(super) fn parent_of(root: &File, path: &Path) -> Result<File> {
    let parent = path.parent().unwrap_or(Path::new(""));
    folder_beneath(root, parent).context(|| format!("opening folder {}", parent.shown()))
}

/// Gives a file a further name, in a directory.
pub(super) fn link(root: &File, file: &Path, dir: &File, name: &OsStr) -> Result<()> {
    let from = parent_of(root, file)?;
    rustix::fs::linkat(from, file.file_name().unwrap_or_default(), dir, name, AtFlags::empty())
        .context(|| "giving it a further name".into())
}

/// Replaces what has these names by `work`, of which the home's list of disks learns: what has the names after that is a disk if
/// that is what is made: the one with this UUID, or the one that an interrupted run made.
///
/// # Errors
/// Those of `work`, or of the list.
pub(super) fn listed<T>(
    root: &File,
    owner: &Owner,
    names: &[&Path],
    new_disk: Option<Uuid>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // A mount may change the list at the same time.
    let concerns = |list: &MemberList| new_disk.is_some() || names.iter().any(|name| list.touches(name));
    let without = |list: &MemberList| names.iter().fold(list.clone(), |list, name| list.without(name));
    let Some(mut change) = owner.change(concerns)? else { return work() };
    let after = without(change.list());
    change.announce(&new_disk.map_or_else(|| after.clone(), |uuid| after.with_coming(uuid, names)))?;
    drop(change);
    let done = work()?;
    for name in names {
        parent_of(root, name)?.sync_all().context(|| "making names durable".into())?;
    }
    if let Some(mut change) = owner.change(|_| true)? {
        let mut after = without(change.list());
        if new_disk.is_some() {
            let file = file_beneath(root, names[0]).context(|| "opening the new disk".into())?;
            after = after.with_disk(disk::read_header(file)?.1.header.claims(), names);
        }
        change.make(after)?;
    }
    Ok(done)
}

/// Unlocks a disk of this VM.
pub(super) fn unlocked(
    storage: FileStorage,
    path: &Path,
    (providers, owner): (&Providers, &Owner),
    engine: Engine,
) -> Result<(OpenForm, Header)> {
    let locked = LockedDisk::open(storage)?;
    let dek = keyring::unlock_by(&locked.stored().header, providers)?;
    let header = locked.stored().header.clone().verify(&dek)?;
    owner.refuse_foreign(&header, &[path])?;
    owner.refuse_older(&Point::of(&locked.stored().header, &dek)?)?;
    Ok((OpenForm::Disk(locked.unlock(&dek, engine)?), header))
}

fn is_last_name(file: &File) -> Result<bool> {
    let stat = rustix::fs::fstat(file).context(|| "reading attributes".into())?;
    Ok(stat.st_nlink == 1)
}

fn is_same(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn exchanged() -> Error {
    Error::new(
        Kind::Busy,
        "another file has its name than when the folder was looked at: something else uses the folder",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Progress;

    /// As a process does that gives way to this one between its look at the folder and the removal.
    #[test]
    fn what_another_process_took_back_is_removed_already() {
        let folder = tempfile::tempdir().unwrap();
        let root = File::open(folder.path()).unwrap();
        let keys = HomeKeys::new(&random::home_dek().unwrap()).unwrap();
        let mut go_on = |_: &Progress| Ok(());
        let pace = ProgressCounter::new(0, &mut go_on);
        let site = ReplaceContext { root: &root, keys: &keys, overwrite: false, pace: &pace, drafts: Drafts::InRoot };
        site.remove_left(OsStr::new("gone")).unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        assert_eq!(site.remove_left(OsStr::new("folder")).unwrap_err().kind(), Kind::Io);
    }
}
