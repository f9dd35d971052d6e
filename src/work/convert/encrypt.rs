//! Encrypting a VM folder that is in the clear, or clear disks of an encrypted one: the home first, then disk by disk.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::progress::OnProgress;
use crate::provider::{KeyProvider, NewKey, Providers};
use crate::sector::SectorSize;
use crate::seen::Memory;
use crate::storage::Access;
use crate::text::Show;
use crate::vm::home_state::HomeState;
use crate::vm::open_form::OpenForm;
use crate::vm::{keyring, outer};
use crate::work::convert::Converted;
use crate::work::convert::form::{DiskSpec, TargetForm, WrappingKey};
use crate::work::convert::home_files::{self, Direction};
use crate::work::convert::opened::{ClaimedFolder, OpenHome};
use crate::work::convert::plan::Plan;
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::{Drafts, ReplaceContext, SourceFile, listed};
use crate::work::convert::survey::{Options, Survey};
use crate::work::convert::tree::{Entry, EntryForm, by_inode};

/// How often a folder is looked at again for what came to it in the meantime.
const MAX_ROUNDS: usize = 8;

/// An encryption that is planned and can begin. Holds the claim on the folder, if it has a header already.
pub struct Encryption<'p> {
    folder: ClaimedFolder,
    survey: Survey,
    options: Options,
    providers: &'p Providers,
}

impl<'p> Encryption<'p> {
    /// Looks at a folder, and changes nothing.
    ///
    /// # Errors
    /// `Denied` for what cannot be encrypted as it is, `NotFound` for a disk that is not there, `Busy` when something else works
    /// on the folder, `KeyUnavailable`, `Stopped`, `Corrupt`, or `Io`.
    pub fn prepare(
        path: &Path,
        providers: &'p Providers,
        options: Options,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let folder = ClaimedFolder::open(path, providers, Access::Write)?;
        folder.refuse_unproven(options.resume_by_name)?;
        if folder.state == HomeState::Clear {
            outer::refuse(&folder.path)?;
        }
        let looking = ProgressCounter::looking(on_progress);
        if folder.state == HomeState::Decrypting {
            folder.refuse_changed(&Memory::of(providers), &looking)?;
        }
        let survey = Survey::of(&folder, &options, &looking)?;
        Ok(Self { folder, survey, options, providers })
    }

    /// What will be done, as far as it can be seen now.
    pub fn rehearse(self) -> Plan {
        self.survey.plan
    }

    /// Encrypts, telling `converted` of each component that is done, and returns what was done: with what came to the folder
    /// since it was looked at. Whatever stops it, a new one takes up where it was.
    ///
    /// # Errors
    /// `Stopped`, `ENOSPC` before anything is touched, `KeyUnavailable` when the provider has no key that wraps, `Busy`, also when
    /// files come faster than they are encrypted, `Corrupt` or `Io`, naming the file.
    pub fn run(mut self, on_progress: OnProgress<'_>, converted: &mut dyn FnMut(Converted<'_>)) -> Result<Plan> {
        let pace = ProgressCounter::looking(&mut *on_progress);
        self.check(&pace)?;
        let mut key = if self.survey.chosen.is_empty() { None } else { self.key_of_disks()? };
        let begun = self.folder.state == HomeState::Clear;
        if begun {
            let provider = match &self.options.provider {
                Some(name) => self.providers.chosen(name)?,
                None => self.providers.default_provider()?.1,
            };
            self.folder.begin(self.providers, &provider)?;
        }
        // The keys may have been waited for, and the folder was not claimed if it had no header: what was seen before is old.
        if let Err(error) = self.look_again(&pace) {
            if begun {
                self.folder.abandon();
            }
            return Err(error);
        }
        let pace = ProgressCounter::new(self.survey.plan.bytes(), on_progress);
        if self.folder.state == HomeState::Decrypting {
            // By it was judged what is left of a decryption; of what is in the clear it can say nothing.
            self.folder.remove_manifest(&Memory::of(self.providers), &pace)?;
        }
        if self.folder.state != HomeState::Encrypted {
            self.folder.turn(HomeState::Encrypting)?;
            self.encrypt_home(&pace)?;
            self.folder.turn(HomeState::Encrypted)?;
            let (path, header) = (&self.folder.path, &self.folder.unlocked()?.header);
            converted(Converted { path, is_disk: false, uuid: header.uuid, key_id: header.slots.first_key() });
            key = Some(key.map_or_else(|| self.home_key(), Ok)?);
        }
        self.encrypt_disks(&pace, key, converted).map_err(|error| match self.survey.resuming(&self.folder) {
            Some(command) if error.kind() == Kind::Stopped => {
                Error::new(Kind::Stopped, format!("stopped at a safe point; to resume: `{command}`"))
            }
            _ => error,
        })?;
        let site = self.site(&pace)?;
        site.clean(true)?;
        site.sync_folders_of(self.survey.chosen.iter())?;
        self.folder.end_disks()?;
        Ok(self.survey.plan)
    }

    /// What would be found too late: before anything is touched.
    fn check(&self, pace: &ProgressCounter<'_>) -> Result<()> {
        self.survey.plan.check()?;
        self.refuse_what_is_in_use(pace)
    }

    /// Looks at the folder as it is now, under the claim.
    fn look_again(&mut self, pace: &ProgressCounter<'_>) -> Result<()> {
        let before = self.survey.plan.state;
        self.survey = Survey::of(&self.folder, &self.options, pace)?;
        self.survey.plan.state = before;
        self.check(pace)
    }

    /// Seals all that is not a disk, and what comes to the folder during that: nothing is in the clear when the home's state says so.
    fn encrypt_home(&mut self, pace: &ProgressCounter<'_>) -> Result<()> {
        let site = self.site(pace)?;
        site.clean(false)?;
        site.clean_components(self.folder.unlocked()?.header.uuid)?;
        for _ in 0..MAX_ROUNDS {
            let survey = &self.survey;
            let is_disk = |entry: &Entry| survey.disks.contains(&entry.path);
            home_files::convert(&self.site(pace)?, &survey.entries, Direction::Encrypt, is_disk)?;
            let folders: HashSet<PathBuf> = self.survey.folders().map(|entry| entry.path.clone()).collect();
            self.survey.follow(&self.folder, &self.options, pace)?;
            let is_new = |entry: &Entry| entry.found == EntryForm::Folder && !folders.contains(&entry.path);
            if !self.survey.entries.iter().any(|entry| self.survey.is_clear_file(entry) || is_new(entry)) {
                return Ok(());
            }
        }
        Err(still_coming(&self.folder.path))
    }

    /// Encrypts the chosen disks, and those that come to the folder during that if all are meant.
    fn encrypt_disks(
        &mut self,
        pace: &ProgressCounter<'_>,
        mut key: Option<WrappingKey>,
        converted: &mut dyn FnMut(Converted<'_>),
    ) -> Result<()> {
        self.site(pace)?.clean(false)?;
        let known: HashSet<PathBuf> = self.survey.clear_files().map(|entry| entry.path.clone()).collect();
        for _ in 0..MAX_ROUNDS {
            let site = self.site(pace)?;
            for names in by_inode(self.survey.clear_disks()) {
                let first = &names[0].path;
                pace.turn_to(first.shown().to_string());
                let key = match &mut key {
                    Some(key) => key,
                    none => none.insert(self.disk_key()?),
                };
                let home = self.folder.unlocked()?;
                let uuid = encrypt_disk(&site, &names, (key.clone(), home), self.options.engine)
                    .context(|| first.shown().to_string())?;
                let path = &self.folder.path.join(first);
                converted(Converted { path, is_disk: true, uuid, key_id: &key.id });
            }
            self.survey.follow(&self.folder, &self.options, pace)?;
            if let Some(came) = self.survey.clear_files().find(|entry| !known.contains(&entry.path)) {
                let path = self.folder.path.join(&came.path);
                return Err(Error::new(
                    Kind::Busy,
                    format!(
                        "{} came while the folder was encrypted and is in the clear: move it away, and copy it in through a mount",
                        path.shown()
                    ),
                ));
            }
            if self.survey.clear_disks().next().is_none() {
                return Ok(());
            }
        }
        Err(still_coming(&self.folder.path))
    }

    /// Nothing else has any of it open: otherwise nothing is begun.
    fn refuse_what_is_in_use(&self, pace: &ProgressCounter<'_>) -> Result<()> {
        let home_goes = self.folder.state != HomeState::Encrypted;
        let files = self.survey.clear_files().filter(|_| home_goes);
        for names in by_inode(self.survey.clear_disks().chain(files)) {
            pace.tell()?;
            let entry = names[0];
            if entry.found == EntryForm::ClearLink {
                continue;
            }
            SourceFile::claim(&self.folder.dir, &entry.path, Access::Write, OpenForm::clear)
                .and_then(|original| if self.options.overwrite { original.refuse_if_not_writable() } else { Ok(()) })
                .context(|| entry.path.shown().to_string())?;
        }
        Ok(())
    }

    /// The key of clear disks of an encrypted home, proven to wrap; `None` when the home has yet to get one.
    fn key_of_disks(&self) -> Result<Option<WrappingKey>> {
        if self.folder.home.is_none() { Ok(None) } else { self.disk_key().map(Some) }
    }

    fn disk_key(&self) -> Result<WrappingKey> {
        let key = match &self.options.provider {
            None => self.home_key()?,
            Some(name) => {
                let purpose = NewKey {
                    vm_name: self.folder.vm_name().shown().to_string(),
                    vm_uuid: self.folder.unlocked()?.header.uuid,
                };
                let provider: Arc<dyn KeyProvider> = self.providers.chosen(name)?;
                let (id, kek) = provider.create_key(&purpose)?;
                WrappingKey { id, kek }
            }
        };
        key.check_wraps().context(|| "no new disk can be encrypted under this key".into())?;
        Ok(key)
    }

    fn home_key(&self) -> Result<WrappingKey> {
        let (id, kek) = keyring::first_kek(&self.folder.unlocked()?.header, self.providers)?;
        Ok(WrappingKey { id, kek })
    }

    fn site<'a, 't>(&'a self, pace: &'a ProgressCounter<'t>) -> Result<ReplaceContext<'a, 't>> {
        let keys = &self.folder.unlocked()?.keys;
        Ok(ReplaceContext {
            root: &self.folder.dir,
            keys,
            overwrite: self.options.overwrite,
            pace,
            drafts: Drafts::InRoot,
        })
    }
}

/// Returns the new disk's UUID.
fn encrypt_disk(
    site: &ReplaceContext<'_, '_>,
    names: &[&Entry],
    (key, home): (WrappingKey, &OpenHome),
    engine: Engine,
) -> Result<Uuid> {
    let original = SourceFile::claim(site.root, &names[0].path, Access::Write, OpenForm::clear)?;
    original.refuse_exchanged(&names[0].stat)?;
    let uuid = random::uuid()?;
    let shape = DiskShape::new(SectorSize::DEFAULT);
    let spec = DiskSpec { key, owner: home.header.uuid, uuid, shape, label: String::new(), engine };
    let paths: Vec<&Path> = names.iter().map(|entry| entry.path.as_path()).collect();
    listed(site.root, &home.owner, &paths, Some(uuid), || site.replace(&original, &paths, &TargetForm::Disk(spec)))?;
    Ok(uuid)
}

fn still_coming(folder: &Path) -> Error {
    Error::new(
        Kind::Busy,
        format!("{}: files come to it faster than they are encrypted: is the VM off?", folder.shown()),
    )
}
