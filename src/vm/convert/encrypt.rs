//! Encrypting a VM folder that is in the clear, or clear disks of an encrypted one: the home first, then disk by disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::DEFAULT_DATA_OFFSET;
use crate::key::ProviderName;
use crate::progress::OnProgress;
use crate::provider::{KeyProvider, NewKey, Providers};
use crate::sector::SectorSize;
use crate::storage::{Access, FileStorage};
use crate::store::clear_file::ClearFile;
use crate::store::home_file::MAX_TARGET_LEN;
use crate::text::Show;
use crate::vm::convert::form::{DiskSpec, Form, Target, WrappingKey};
use crate::vm::convert::home_files::{self, Direction};
use crate::vm::convert::opened::OpenFolder;
use crate::vm::convert::pace::Pace;
use crate::vm::convert::plan::{Action, Plan, encrypted_space, free_space, peak_space, planned};
use crate::vm::convert::replace::{Original, Site};
use crate::vm::convert::tree::{self, Entry, Found, by_inode};
use crate::vm::convert::{Converted, choice};
use crate::vm::folder::HomeState;
use crate::vm::keyring;

/// What to encrypt, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Disks, by their paths below the VM folder; none means all. A VMDK descriptor means its extents.
    pub disks: Vec<PathBuf>,
    /// Where the keys come from; by default, for a new home the default provider, for disks of an encrypted home the home's
    /// key.
    pub provider: Option<ProviderName>,
    /// Whether originals are overwritten before they are removed.
    pub overwrite: bool,
    /// Cipher engine of the disks.
    pub engine: Engine,
}

/// An encryption that is planned and can begin. Holds the claim on the folder, if it has a header already.
pub struct Encryption<'p> {
    folder: OpenFolder,
    entries: Vec<Entry>,
    /// Paths of what becomes a disk, now or never.
    disks: HashSet<PathBuf>,
    /// Those of them that become one now.
    chosen: HashSet<PathBuf>,
    plan: Plan,
    options: Options,
    providers: &'p Providers,
}

impl<'p> Encryption<'p> {
    /// Looks at a folder, and changes nothing.
    ///
    /// # Errors
    /// `Denied` for what cannot be encrypted as it is, `NotFound` for a disk that is not there, `Busy` when something else works
    /// on the folder, `KeyUnavailable`, `Corrupt`, or `Io`.
    pub fn prepare(path: &Path, providers: &'p Providers, options: Options) -> Result<Self> {
        let folder = OpenFolder::open(path, providers, Access::Write)?;
        let keys = folder.home.as_ref().map(|home| &home.keys);
        let entries = tree::walk(&folder.dir, keys)?;
        if folder.state != HomeState::Encrypted {
            refuse_what_is_encrypted(&folder, &entries)?;
        }
        let named = choice::disks(&folder.dir, &entries, keys, &options.disks)?;
        let is_disk =
            |entry: &&Entry| matches!(entry.found, Found::Clear(kind) if kind.is_disk() || named.contains(&entry.path));
        let disks = entries.iter().filter(is_disk).map(|entry| entry.path.clone()).collect();
        let disks = choice::with_all_names(&entries, disks);
        let chosen = if options.disks.is_empty() { disks.clone() } else { &disks & &named };
        let plan = make_plan(&folder, &entries, &disks, &chosen)?;
        Ok(Self { folder, entries, disks, chosen, plan, options, providers })
    }

    /// What will be done.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Encrypts, telling `converted` of each component that is done. Whatever stops it, a new one takes up where it was.
    ///
    /// # Errors
    /// `Stopped`, `ENOSPC` before anything is touched, `KeyUnavailable` when the provider has no key that wraps, `Busy`,
    /// `Corrupt` or `Io`, naming the file.
    pub fn run(mut self, on_progress: OnProgress<'_>, converted: &mut dyn FnMut(Converted<'_>)) -> Result<()> {
        self.plan.check_space()?;
        self.refuse_what_is_in_use()?;
        let key = if self.chosen.is_empty() { None } else { self.key_of_disks()? };
        let pace = Pace::new(self.plan.bytes(), on_progress);
        if self.folder.state == HomeState::Clear {
            let provider = match &self.options.provider {
                Some(name) => self.providers.provider(name)?,
                None => self.providers.default_provider()?.1,
            };
            self.folder.begin(&provider)?;
        }
        if self.folder.state != HomeState::Encrypted {
            self.folder.turn(HomeState::Encrypting)?;
            let site = self.site(&pace)?;
            site.clean(false)?;
            site.clean_components()?;
            let is_disk = |entry: &Entry| self.disks.contains(&entry.path);
            home_files::convert(&site, &self.entries, Direction::Encrypt, is_disk)?;
            self.folder.turn(HomeState::Encrypted)?;
            let (path, header) = (&self.folder.path, &self.folder.unlocked()?.header);
            if let Some(slot) = header.slots.first() {
                converted(Converted { path, is_disk: false, uuid: header.uuid, key_id: &slot.key_id });
            }
        }
        let key = match key {
            Some(key) => key,
            None => self.home_key()?,
        };
        let site = self.site(&pace)?;
        site.clean(false)?;
        for names in by_inode(self.entries.iter().filter(|entry| self.chosen.contains(&entry.path))) {
            let first = &names[0].path;
            pace.turn_to(first.shown().to_string());
            let uuid =
                encrypt_disk(&site, &names, key.clone(), self.options.engine).context(|| first.shown().to_string())?;
            let path = &self.folder.path.join(first);
            converted(Converted { path, is_disk: true, uuid, key_id: &key.id });
        }
        site.clean(true)?;
        self.folder.sync()
    }

    /// Nothing else has any of it open: otherwise nothing is begun.
    fn refuse_what_is_in_use(&self) -> Result<()> {
        let home_goes = self.folder.state != HomeState::Encrypted;
        let wanted = |entry: &&Entry| {
            let is_disk = self.disks.contains(&entry.path);
            matches!(entry.found, Found::Clear(_))
                && if is_disk { self.chosen.contains(&entry.path) } else { home_goes }
        };
        for names in by_inode(self.entries.iter().filter(wanted)) {
            let path = &names[0].path;
            Original::claim(&self.folder.dir, path, Access::Write, clear).context(|| path.shown().to_string())?;
        }
        Ok(())
    }

    /// The key of clear disks of an encrypted home, proven to wrap; `None` when the home has yet to get one.
    fn key_of_disks(&self) -> Result<Option<WrappingKey>> {
        if self.folder.home.is_none() {
            return Ok(None);
        }
        let key = match &self.options.provider {
            None => self.home_key()?,
            Some(name) => {
                let purpose = NewKey {
                    vm_name: self.folder.vm_name().shown().to_string(),
                    vm_uuid: self.folder.unlocked()?.header.uuid,
                };
                let provider: Arc<dyn KeyProvider> = self.providers.provider(name)?;
                let (id, kek) = provider.create_key(&purpose)?;
                WrappingKey { id, kek }
            }
        };
        key.check_wraps().context(|| "no new disk can be encrypted under this key".into())?;
        Ok(Some(key))
    }

    fn home_key(&self) -> Result<WrappingKey> {
        let (id, kek) = keyring::first_kek(&self.folder.unlocked()?.header, self.providers)?;
        Ok(WrappingKey { id, kek })
    }

    fn site<'a, 't>(&'a self, pace: &'a Pace<'t>) -> Result<Site<'a, 't>> {
        let keys = &self.folder.unlocked()?.keys;
        Ok(Site { root: &self.folder.dir, keys, overwrite: self.options.overwrite, pace })
    }
}

fn clear(storage: FileStorage) -> Result<Form> {
    ClearFile::open(storage).map(Form::Clear)
}

/// Returns the new disk's UUID.
fn encrypt_disk(site: &Site<'_, '_>, names: &[&Entry], key: WrappingKey, engine: Engine) -> Result<Uuid> {
    let original = Original::claim(site.root, &names[0].path, Access::Write, clear)?;
    let uuid = random::uuid()?;
    let spec = DiskSpec {
        key,
        uuid,
        sector_size: SectorSize::DEFAULT,
        data_offset: DEFAULT_DATA_OFFSET,
        label: String::new(),
        engine,
    };
    let paths: Vec<&Path> = names.iter().map(|entry| entry.path.as_path()).collect();
    site.replace(&original, &paths, &Target::Disk(spec))?;
    Ok(uuid)
}

/// What is encrypted already belongs to a home; without that home's header nothing can be made of it.
fn refuse_what_is_encrypted(folder: &OpenFolder, entries: &[Entry]) -> Result<()> {
    let Some(entry) = entries.iter().find(|entry| matches!(entry.found, Found::Disk | Found::Foreign)) else {
        return Ok(());
    };
    let what = if entry.found == Found::Disk { "an encrypted disk" } else { "a file of another encrypted home" };
    Err(Error::new(
        Kind::Denied,
        format!(
            "{} is {what}, in a folder that is not encrypted: move it away first",
            folder.path.join(&entry.path).shown()
        ),
    ))
}

fn make_plan(
    folder: &OpenFolder,
    entries: &[Entry],
    disks: &HashSet<PathBuf>,
    chosen: &HashSet<PathBuf>,
) -> Result<Plan> {
    let home_is_new = folder.state != HomeState::Encrypted;
    let (mut home_files, mut disk_files, mut space) = (Vec::new(), Vec::new(), Vec::new());
    let mut notes = choice::notes(entries);
    for names in by_inode(entries.iter().filter(|entry| entry.found != Found::Folder)) {
        let entry = names[0];
        let as_disk = disks.contains(&entry.path);
        let convert = match entry.found {
            Found::Clear(_) if as_disk => names.iter().any(|entry| chosen.contains(&entry.path)),
            Found::Clear(_) | Found::ClearLink => home_is_new,
            Found::Folder | Found::Sealed | Found::Disk | Found::SealedLink | Found::Neither | Found::Foreign => false,
        };
        if convert && entry.found == Found::ClearLink && entry.len() > MAX_TARGET_LEN as u64 {
            let message = format!(
                "{}: a link's target of {} bytes, at most {MAX_TARGET_LEN} can be sealed",
                entry.path.shown(),
                entry.len()
            );
            return Err(Error::new(Kind::Unsupported, message));
        }
        if !home_is_new && !as_disk && matches!(entry.found, Found::Clear(_) | Found::ClearLink) {
            notes.push(format!(
                "{} is in the clear in an encrypted home, and no disk: it stays as it is",
                entry.path.shown()
            ));
        }
        let action = if convert { Action::Convert } else { Action::Keep };
        let place = if as_disk || entry.found == Found::Disk { &mut disk_files } else { &mut home_files };
        place.push(planned(entry, action, as_disk));
        if convert && entry.found != Found::ClearLink {
            space.push((as_disk, entry.allocated(), encrypted_space(entry, as_disk)));
        }
    }
    space.sort_by_key(|(as_disk, ..)| *as_disk); // in the order of the work; otherwise as found
    home_files.append(&mut disk_files);
    Ok(Plan {
        state: folder.state,
        ends: HomeState::Encrypted,
        files: home_files,
        space_needed: peak_space(space.into_iter().map(|(_, now, then)| (now, then))),
        space_free: free_space(&folder.dir)?,
        notes,
    })
}
