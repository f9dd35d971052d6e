//! One file of an encrypted home made a disk of its own, or a disk made a file of the home again.
//!
//! Both forms are encrypted: at no moment does anything of the content reach the medium in the clear.

use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::key::KeyId;
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::sector::SectorSize;
use crate::storage::Access;
use crate::text::{Show, quoted};
use crate::vm::home_state::HomeState;
use crate::vm::inventory::misplaced::{self, Misplaced};
use crate::vm::open_form::OpenForm;
use crate::vm::{keyring, scan};
use crate::work::convert::form::{DiskSpec, TargetForm, WrappingKey};
use crate::work::convert::opened::{ClaimedFolder, OpenHome};
use crate::work::convert::plan::{SIDE_BY_SIDE, encrypted_space};
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::{Drafts, ReplaceContext, SourceFile, listed};
use crate::work::convert::tree::{Entry, EntryForm, by_inode};
use crate::work::space::Space;

/// How a file of a VM is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoredAs {
    /// As a disk: sectors under a key of its own.
    Disk,
    /// As a file of the home, under the home's key.
    HomeFile,
}

/// A file that was given its other form.
#[derive(Clone, Debug)]
pub struct ConvertedFile {
    /// Its names below the VM folder.
    pub names: Vec<PathBuf>,
    /// Of the disk that it is or was.
    pub uuid: Uuid,
    /// The KEK that wraps, or wrapped, the DEK of that disk.
    pub key_id: KeyId,
    /// Names outside of the VM folder, which lead to the former form still.
    pub names_outside: u64,
}

/// Gives a file its other form, under all the names that it has in the VM folder. Whatever stops it, a second run takes up
/// where it was.
///
/// # Errors
/// `Exists` when it has that form already, `NotFound`, `Invalid` for what is not a regular file or is in the clear, `Denied` for
/// a folder that is not encrypted, `Busy` when a mount has the folder's keys or something has the file open, `ENOSPC`,
/// `KeyUnavailable`, `Stopped`, `Corrupt` or `Io`.
pub fn convert_file(
    folder: &Path,
    file: &Path,
    to: StoredAs,
    providers: &Providers,
    on_progress: OnProgress<'_>,
) -> Result<ConvertedFile> {
    let Found { folder, entries, key } = Found::new((folder, file), to, providers, &mut *on_progress)?;
    let home = folder.unlocked()?;
    let names = names_of(&entries, file)?;
    let first = names[0];
    space_for(&folder, first, to)?.check(SIDE_BY_SIDE)?;
    let pace = ProgressCounter::new(first.allocated().saturating_mul(2), on_progress);
    pace.turn_to(file.shown().to_string());
    let site =
        ReplaceContext { root: &folder.dir, keys: &home.keys, overwrite: false, pace: &pace, drafts: Drafts::InRoot };
    site.clean(false)?;
    let paths: Vec<&Path> = names.iter().map(|entry| entry.path.as_path()).collect();
    let (uuid, key_id) = replace(&site, &paths, to, (key, home), providers).context(|| file.shown().to_string())?;
    site.sync_root()?;
    site.clean(true)?;
    folder.sync()?;
    let names_outside = first.stat.st_nlink.saturating_sub(names.len() as u64);
    Ok(ConvertedFile { names: paths.into_iter().map(Path::to_path_buf).collect(), uuid, key_id, names_outside })
}

/// What [`convert_file`] would do.
#[derive(Clone, Debug)]
pub struct FilePlan {
    /// Names of the file below the VM folder.
    pub names: Vec<PathBuf>,
    /// What it takes.
    pub space: Space,
}

impl FilePlan {
    /// Refuses what there is no space for.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn check(&self) -> Result<()> {
        self.space.check(SIDE_BY_SIDE)
    }
}

/// Looks at what [`convert_file`] would do, and changes nothing.
///
/// # Errors
/// As [`convert_file`], but for `ENOSPC`.
pub fn plan_file(
    folder: &Path,
    file: &Path,
    to: StoredAs,
    providers: &Providers,
    on_progress: OnProgress<'_>,
) -> Result<FilePlan> {
    let Found { folder, entries, .. } = Found::new((folder, file), to, providers, on_progress)?;
    let names = names_of(&entries, file)?;
    let space = space_for(&folder, names[0], to)?;
    Ok(FilePlan { names: names.iter().map(|entry| entry.path.clone()).collect(), space })
}

/// A VM folder with a file that can get its other form.
struct Found {
    folder: ClaimedFolder,
    entries: Vec<Entry>,
    key: WrappingKey,
}

impl Found {
    fn new(
        (folder, file): (&Path, &Path),
        to: StoredAs,
        providers: &Providers,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let folder = ClaimedFolder::open(folder, providers, Access::Write)?;
        if folder.state != HomeState::Encrypted {
            scan::refuse_lost_home(&folder.path)?;
            return Err(Error::new(Kind::Denied, format!("{} is not an encrypted VM folder", folder.path.shown())));
        }
        let home = folder.unlocked()?;
        home.claim_alone()?;
        let key = keyring::first_kek(&home.header, providers).map(|(id, kek)| WrappingKey { id, kek })?;
        if to == StoredAs::Disk {
            key.check_wraps().context(|| "no new disk can be encrypted under this key".into())?;
        }
        let (entries, misplaced) = folder.look(&ProgressCounter::looking(on_progress))?;
        let names = names_of(&entries, file)?;
        let is_named = |other: &Misplaced| names.iter().any(|entry| entry.path == other.path);
        misplaced::refuse(&misplaced.into_iter().filter(is_named).collect::<Vec<_>>())?;
        refuse_other_forms(names[0], file, to)?;
        Ok(Self { folder, entries, key })
    }
}

fn space_for(folder: &ClaimedFolder, file: &Entry, to: StoredAs) -> Result<Space> {
    Space::at(&folder.dir, encrypted_space(file, to == StoredAs::Disk))
}

/// All names of a file, the one that was asked for at last: as long as it leads to the former form, a second run sees that there
/// is more to do.
fn names_of<'e>(entries: &'e [Entry], file: &Path) -> Result<Vec<&'e Entry>> {
    let file: PathBuf = file.components().collect(); // without `./` and doubled slashes
    let groups = by_inode(entries.iter().filter(|entry| entry.found != EntryForm::Folder));
    let group = groups.into_iter().find(|names| names.iter().any(|entry| entry.path == file));
    let mut names = group.ok_or_else(|| Error::new(Kind::NotFound, format!("no file {} in this VM", file.shown())))?;
    names.sort_by_key(|entry| entry.path == file);
    Ok(names)
}

fn refuse_other_forms(entry: &Entry, file: &Path, to: StoredAs) -> Result<()> {
    let path = file.shown();
    match (entry.found, to) {
        (EntryForm::Sealed, StoredAs::Disk) | (EntryForm::Disk, StoredAs::HomeFile) => Ok(()),
        (EntryForm::FormNeutral, StoredAs::Disk) if entry.is_regular() => Ok(()),
        (EntryForm::FormNeutral, StoredAs::HomeFile) if entry.is_regular() => {
            Err(Error::new(Kind::Exists, format!("{path} is a home file already")))
        }
        (EntryForm::Disk, StoredAs::Disk) => Err(Error::new(Kind::Exists, format!("{path} is a disk already"))),
        (EntryForm::Sealed, StoredAs::HomeFile) => {
            Err(Error::new(Kind::Exists, format!("{path} is a home file already")))
        }
        (EntryForm::Clear(_), _) => Err(Error::new(
            Kind::Invalid,
            format!(
                "{path} is in the clear: `vmcryptfs encrypt VM_FOLDER --disk {}` makes it an encrypted disk",
                quoted(file)
            ),
        )),
        (EntryForm::UnreadableOrForeign, _) => {
            Err(Error::new(Kind::Corrupt, format!("{path} is damaged, or a file of another home")))
        }
        (EntryForm::Folder | EntryForm::ClearLink | EntryForm::SealedLink | EntryForm::FormNeutral, _) => {
            Err(Error::new(Kind::Invalid, format!("{path} is not a regular file")))
        }
    }
}

/// Returns the disk's UUID and KEK.
fn replace(
    site: &ReplaceContext<'_, '_>,
    names: &[&Path],
    to: StoredAs,
    (key, home): (WrappingKey, &OpenHome),
    providers: &Providers,
) -> Result<(Uuid, KeyId)> {
    let engine = Engine::default();
    match to {
        StoredAs::Disk => {
            let sealed = |storage| OpenForm::home(storage, site.keys);
            let original = SourceFile::claim(site.root, names[0], Access::Write, sealed)?;
            let (uuid, key_id) = (random::uuid()?, key.id.clone());
            let label = String::new();
            let shape = DiskShape::new(SectorSize::DEFAULT);
            let spec = DiskSpec { key, owner: home.header.uuid, uuid, shape, label, engine };
            let target = TargetForm::Disk(spec);
            listed(site.root, &home.owner, names, Some(uuid), || site.replace(&original, names, &target))?;
            Ok((uuid, key_id))
        }
        StoredAs::HomeFile => {
            let (original, header) =
                SourceFile::claim_disk(site.root, names[0], Access::Write, (providers, &home.owner), engine)?;
            let target = TargetForm::Home(site.keys);
            listed(site.root, &home.owner, names, None, || site.replace(&original, names, &target))?;
            Ok((header.uuid, header.slots.first_key().clone()))
        }
    }
}

#[cfg(test)]
mod tests;
