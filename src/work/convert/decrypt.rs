//! Decrypting disks of a VM folder, and at last its home.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{Header, Shape};
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::seen::Memory;
use crate::storage::Access;
use crate::text::Show;
use crate::vm::attributes::give_times;
use crate::vm::home_state::HomeState;
use crate::vm::inventory::misplaced::{self, Found, Misplaced};
use crate::vm::manifest::Proof;
use crate::vm::open_form::OpenForm;
use crate::vm::scan;
use crate::work::convert::feasible::{Trial, Verdict};
use crate::work::convert::form::TargetForm;
use crate::work::convert::home_files::{self, Direction};
use crate::work::convert::opened::ClaimedFolder;
use crate::work::convert::places::{Names, Place};
use crate::work::convert::plan::{Obstacle, Plan};
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::{Drafts, ReplaceContext, SourceFile, listed, unlocked};
use crate::work::convert::tree::{self, Entry, EntryForm, by_inode};
use crate::work::convert::{Converted, choice, nested};

/// What to decrypt.
#[derive(Clone, Debug)]
pub enum DecryptScope {
    /// These disks, by their paths below the VM folder. A VMDK descriptor means its extents.
    Disks(Vec<PathBuf>),
    /// The home, whose disks are all in the clear.
    Home,
    /// All disks, then the home.
    All,
}

impl DecryptScope {
    /// Whether the home is decrypted, too.
    pub fn has_home(&self) -> bool {
        !matches!(self, Self::Disks(_))
    }
}

/// What is believed of a folder that is to be decrypted, because someone says so.
#[derive(Clone, Debug, Default)]
pub struct Believed {
    /// That an older version began this, of which only the name of the header tells.
    pub resume_by_name: bool,
    /// That these are in the clear, by their paths below the VM folder, although nothing in them shows it.
    pub clear_disks: Vec<PathBuf>,
}

/// A decryption that is planned and can begin. Holds the claim on the folder.
pub struct Decryption<'p> {
    folder: ClaimedFolder,
    what: DecryptScope,
    believed: Believed,
    /// What the home's manifest proves, if the home is decrypted and has one.
    proof: Option<Proof>,
    entries: Vec<Entry>,
    chosen: HashSet<PathBuf>,
    plan: Plan,
    engine: Engine,
    providers: &'p Providers,
}

impl<'p> Decryption<'p> {
    /// Looks at a folder, and changes nothing.
    ///
    /// # Errors
    /// `Denied` for a home with encrypted disks, `NotFound` for a disk that is not there, `Invalid` for a folder that is not
    /// encrypted, `Corrupt` for files that the home did not write, `Busy`, `KeyUnavailable`, also for erased disks, `Stopped`, or `Io`.
    pub fn prepare(
        path: &Path,
        providers: &'p Providers,
        what: DecryptScope,
        believed: Believed,
        engine: Engine,
        on_progress: OnProgress<'_>,
    ) -> Result<Self> {
        let folder = ClaimedFolder::open(path, providers, Access::Write)?;
        folder.refuse_unproven(believed.resume_by_name)?;
        let Some(home) = &folder.home else {
            scan::refuse_lost_home(&folder.path)?;
            return Err(Error::new(Kind::Invalid, format!("{} is not encrypted", folder.path.shown())));
        };
        let looking = ProgressCounter::looking(on_progress);
        let proof = if what.has_home() {
            home.claim_alone()?;
            folder.refuse_changed(&Memory::of(providers), &looking)?
        } else {
            None
        };
        let (entries, chosen, plan) = look(&folder, &what, &believed.clear_disks, &looking)?;
        Ok(Self { folder, what, believed, proof, entries, chosen, plan, engine, providers })
    }

    /// What will be done, with all that would stop it before it begins. Takes the keys of the disks, and changes nothing.
    ///
    /// # Errors
    /// `Corrupt`, or `Io`.
    pub fn rehearse(mut self) -> Result<Plan> {
        for entry in &self.entries {
            let found = if entry.found == EntryForm::Disk {
                if !self.chosen.contains(&entry.path) {
                    continue;
                }
                let keys = (self.providers, &self.folder.unlocked()?.owner);
                let open = |storage| unlocked(storage, &entry.path, keys, self.engine);
                SourceFile::claim_with(&self.folder.dir, &entry.path, Access::Write, open)
                    .and_then(|(original, _)| nested::refuse_ciphertext(&original.form))
            } else if self.what.has_home() {
                self.check_file(entry)
            } else {
                continue;
            };
            let found = found.context(|| entry.path.shown().to_string());
            self.plan.obstacles.extend(found.err().map(|error| Obstacle::new(error.kind(), error.chain())));
        }
        Ok(self.plan)
    }

    /// Decrypts, telling `converted` of each component that is done, and returns what was done. Whatever stops it, a new one
    /// takes up where it was.
    ///
    /// # Errors
    /// `Stopped`, `ENOSPC` before anything is touched, `KeyUnavailable`, `Busy`, also for what comes to the folder during it,
    /// `Corrupt` or `Io`, naming the file.
    pub fn run(mut self, on_progress: OnProgress<'_>, converted: &mut dyn FnMut(Converted<'_>)) -> Result<Plan> {
        self.plan.check()?;
        let pace = ProgressCounter::looking(&mut *on_progress);
        let names = self.check_keys(&pace)?;
        // The keys of disks may have been waited for.
        (self.entries, self.chosen, self.plan) = look(&self.folder, &self.what, &self.believed.clear_disks, &pace)?;
        self.plan.check()?;
        // They may lead through a mount, which nothing tells; what leads into the folder is right from now on.
        self.plan.notes.extend(names.outside);
        let pace = ProgressCounter::new(self.plan.bytes(), on_progress);
        let memory = Memory::of(self.providers);
        let expected = self.folder.expected(self.proof.as_ref(), &memory, &pace)?;
        let others_left = self.folder.converts_disks();
        if self.what.has_home() {
            self.give_lost_headers()?;
        }
        if !self.chosen.is_empty() {
            self.folder.begin_disks(self.what.has_home())?;
        }
        let site = self.site(&pace)?;
        site.clean(false)?;
        for names in by_inode(disks(&self.entries).filter(|entry| self.chosen.contains(&entry.path))) {
            let first = &names[0].path;
            pace.turn_to(first.shown().to_string());
            let header = self.decrypt_disk(&site, &names).context(|| first.shown().to_string())?;
            tell(&self.folder.path.join(first), &header, converted);
        }
        site.sync_folders_of(self.chosen.iter())?;
        if !self.what.has_home() {
            site.clean(true)?;
            self.folder.sync()?;
            if !others_left {
                self.folder.end_disks()?;
            }
            return Ok(self.plan);
        }
        self.look_for_what_needs_the_home(&pace)?;
        self.folder.turn(HomeState::Decrypting)?;
        let site = self.site(&pace)?;
        site.clean_components(self.folder.unlocked()?.header.uuid)?;
        let decrypt = Direction::Decrypt(expected.as_ref());
        home_files::convert(&site, &self.entries, decrypt, |_| false)?;
        site.clean(true)?;
        // With the header goes the only way to what is still sealed.
        self.refuse_what_is_left(&memory, &pace)?;
        self.folder.remove_manifest(&memory, &pace)?;
        let header = self.folder.unlocked()?.header.clone();
        self.folder.end()?;
        tell(&self.folder.path, &header, converted);
        Ok(self.plan)
    }

    /// Looks at the folder again: nothing in it is sealed, and what was decrypted is there. What was moved away for a moment may come back.
    fn refuse_what_is_left(&mut self, memory: &Arc<Memory>, pace: &ProgressCounter<'_>) -> Result<()> {
        let is_sealed = |entry: &&Entry| matches!(entry.found, EntryForm::Sealed | EntryForm::SealedLink);
        let decrypted: Vec<PathBuf> = self.entries.iter().filter(is_sealed).map(|entry| entry.path.clone()).collect();
        self.look_for_what_needs_the_home(pace)?;
        if let Some(sealed) = self.entries.iter().find(is_sealed) {
            return Err(came(&self.folder, sealed));
        }
        let there: HashSet<&Path> = self.entries.iter().map(|entry| entry.path.as_path()).collect();
        if let Some(gone) = decrypted.iter().find(|path| !there.contains(path.as_path())) {
            let path = self.folder.path.join(gone);
            let message =
                format!("{} was there, and is gone while the folder is decrypted: run it again", path.shown());
            return Err(Error::new(Kind::Busy, message));
        }
        self.folder.refuse_changed(memory, pace).map(drop)
    }

    /// Looks at the folder again: by now, no disk in it is encrypted.
    fn look_for_what_needs_the_home(&mut self, pace: &ProgressCounter<'_>) -> Result<()> {
        self.entries = self.folder.walk(pace)?;
        match self.entries.iter().find(|entry| matches!(entry.found, EntryForm::Disk | EntryForm::UnreadableOrForeign))
        {
            None => Ok(()),
            Some(entry) => Err(came(&self.folder, entry)),
        }
    }

    /// Gives files without a header one, so that a run that resumes this one tells them from what is decrypted already.
    fn give_lost_headers(&self) -> Result<()> {
        let keys = &self.folder.unlocked()?.keys;
        for entry in self.entries.iter().filter(|entry| entry.found == EntryForm::Sealed) {
            let open = |storage| OpenForm::home(storage, keys);
            let given = SourceFile::claim(&self.folder.dir, &entry.path, Access::Write, open).and_then(|file| {
                let has_header = matches!(&file.form, OpenForm::Home(home) if home.id().is_some());
                if has_header {
                    return Ok(());
                }
                file.form.ensure_id()?;
                give_times(&entry.stat, file.form.backing())?;
                file.form.backing().sync_all().context(|| "making its header durable".into())
            });
            given.context(|| entry.path.shown().to_string())?;
        }
        Ok(())
    }

    /// All disks' keys are available, and nothing else has the disks open: otherwise nothing is begun.
    fn check_keys(&self, pace: &ProgressCounter<'_>) -> Result<Names> {
        let mut names = Names::default();
        let keys = &self.folder.unlocked()?.keys;
        let place = Place { path: &self.folder.path, root: &self.folder.dir, entries: &self.entries, anywhere: false };
        for entry in disks(&self.entries).filter(|entry| self.chosen.contains(&entry.path)) {
            pace.tell()?;
            let (original, _) = self.claim(&entry.path).context(|| entry.path.shown().to_string())?;
            nested::refuse_ciphertext(&original.form).context(|| entry.path.shown().to_string())?;
            place.image(entry, original.form, &mut names);
        }
        let home_goes = self.what.has_home();
        for entry in self.entries.iter().filter(|_| home_goes) {
            pace.tell()?;
            self.check_file(entry).context(|| entry.path.shown().to_string())?;
        }
        if home_goes {
            place.files(Some(keys), (&mut names, pace))?;
        }
        Ok(names)
    }

    fn check_file(&self, entry: &Entry) -> Result<()> {
        let keys = &self.folder.unlocked()?.keys;
        if entry.found == EntryForm::Sealed {
            let open = |storage| OpenForm::home(storage, keys);
            let original = SourceFile::claim(&self.folder.dir, &entry.path, Access::Write, open)?;
            return nested::refuse_ciphertext(&original.form);
        }
        if entry.found == EntryForm::SealedLink {
            let target = home_files::opened_target(&self.folder.dir, keys, &entry.path)?;
            return nested::refuse_sealed_target(keys, &target);
        }
        if entry.found == EntryForm::Folder {
            return nested::refuse_sealed_values(&self.folder.dir, keys, &entry.path);
        }
        Ok(())
    }

    /// A disk, and its header.
    fn claim(&self, path: &Path) -> Result<(SourceFile, Header)> {
        let keys = (self.providers, &self.folder.unlocked()?.owner);
        SourceFile::claim_disk(&self.folder.dir, path, Access::Write, keys, self.engine)
    }

    fn decrypt_disk(&self, site: &ReplaceContext<'_, '_>, names: &[&Entry]) -> Result<Header> {
        let (original, header) = self.claim(&names[0].path)?;
        original.refuse_exchanged(&names[0].stat)?;
        let paths: Vec<&Path> = names.iter().map(|entry| entry.path.as_path()).collect();
        let owner = &self.folder.unlocked()?.owner;
        listed(site.root, owner, &paths, None, || site.replace(&original, &paths, &TargetForm::Clear))?;
        Ok(header)
    }

    fn site<'a, 't>(&'a self, pace: &'a ProgressCounter<'t>) -> Result<ReplaceContext<'a, 't>> {
        let keys = &self.folder.unlocked()?.keys;
        Ok(ReplaceContext { root: &self.folder.dir, keys, overwrite: false, pace, drafts: Drafts::InRoot })
    }
}

/// Looks at a folder whose home is claimed: its files, the chosen disks, and what will be done.
fn look(
    folder: &ClaimedFolder,
    what: &DecryptScope,
    clear_disks: &[PathBuf],
    pace: &ProgressCounter<'_>,
) -> Result<(Vec<Entry>, HashSet<PathBuf>, Plan)> {
    let keys = &folder.unlocked()?.keys;
    let (entries, misplaced) = folder.look(pace)?;
    if let DecryptScope::Disks(names) = what {
        misplaced::refuse(&choice::of_named(&misplaced, names))?;
    }
    let chosen = match what {
        DecryptScope::Home => HashSet::new(),
        DecryptScope::All => disks(&entries).map(|entry| entry.path.clone()).collect(),
        DecryptScope::Disks(names) => choice::disks(&folder.dir, &entries, Some(keys), names)?.paths,
    };
    if what.has_home() {
        refuse_what_needs_the_home(folder, &entries, &chosen)?;
    }
    tree::refuse_erased(entries.iter().filter(|entry| chosen.contains(&entry.path)))?;
    // Once the home itself is being decrypted, a disk that was moved away is as good as one that was never there.
    let needs = |other: &Misplaced| folder.state == HomeState::Encrypted || other.found != Found::Nothing;
    let (refused, told): (Vec<_>, Vec<_>) =
        misplaced.into_iter().partition(|other| (what.has_home() && needs(other)) || chosen.contains(&other.path));
    misplaced::refuse(&refused)?;
    let mut plan = make_plan(folder, &entries, (&chosen, what.has_home()), pace)?;
    plan.notes.extend(told.into_iter().map(|other| other.message));
    // Once the home itself is being decrypted, this was looked at.
    if what.has_home() && folder.state == HomeState::Encrypted {
        take_unsure(folder, &entries, clear_disks, &mut plan);
    }
    Ok((entries, chosen, plan))
}

/// Adds what may be encrypted disks without their headers: they would be left as they are, and nothing would tell that there is ciphertext
/// once the home is gone. Those that an interrupted conversion may have left in the clear, and those that are `clear_disks`, are only noted.
fn take_unsure(folder: &ClaimedFolder, entries: &[Entry], clear_disks: &[PathBuf], plan: &mut Plan) {
    let unsure =
        entries.iter().filter(|entry| matches!(entry.found, EntryForm::Clear(kind) if kind.may_be_ciphertext()));
    let unsure: Vec<&Path> = unsure.map(|entry| entry.path.as_path()).collect();
    let is_told = |path: &&Path| folder.converts_disks() || clear_disks.iter().any(|clear| clear == path);
    let (told, silent): (Vec<&Path>, Vec<&Path>) = unsure.into_iter().partition(is_told);
    plan.notes.extend(told.into_iter().map(|path| format!("{}, and is left as it is", choice::no_sign(&[path]))));
    if !silent.is_empty() {
        let what = choice::no_sign(&silent);
        let message = format!(
            "{what}; if that is in the clear, it stays as it is with {}",
            choice::options("--clear-disk", &silent)
        );
        plan.obstacles.push(Obstacle::new(Kind::Denied, message));
    }
}

fn came(folder: &ClaimedFolder, entry: &Entry) -> Error {
    let path = folder.path.join(&entry.path);
    let message = format!("{} is encrypted, and came while the folder was decrypted: run it again", path.shown());
    Error::new(Kind::Busy, message)
}

fn tell(path: &Path, header: &Header, converted: &mut dyn FnMut(Converted<'_>)) {
    let is_disk = header.shape != Shape::Home;
    converted(Converted { path, is_disk, uuid: header.uuid, key_id: header.slots.first_key() });
}

fn disks(entries: &[Entry]) -> impl Iterator<Item = &Entry> {
    entries.iter().filter(|entry| entry.found == EntryForm::Disk)
}

/// vSphere's rule: disks first, the home last. And what the home cannot open would be lost with its key.
fn refuse_what_needs_the_home(folder: &ClaimedFolder, entries: &[Entry], chosen: &HashSet<PathBuf>) -> Result<()> {
    let path = |entry: &Entry| folder.path.join(&entry.path).shown().to_string();
    if let Some(disk) = disks(entries).next().filter(|_| folder.state != HomeState::Encrypted) {
        let message = format!(
            "{} is encrypted, in a folder whose disks are all decrypted before its home: it came later, move it away first",
            path(disk)
        );
        return Err(Error::new(Kind::Denied, message));
    }
    if let Some(disk) = disks(entries).find(|entry| !chosen.contains(&entry.path)) {
        return Err(Error::new(
            Kind::Denied,
            format!("{} is encrypted: a home is decrypted after all its disks (--all does both)", path(disk)),
        ));
    }
    match entries.iter().find(|entry| entry.found == EntryForm::UnreadableOrForeign) {
        None => Ok(()),
        Some(foreign) => Err(Error::new(
            Kind::Corrupt,
            format!("{} is damaged, or a file of another home: move it away first", path(foreign)),
        )),
    }
}

fn make_plan(
    folder: &ClaimedFolder,
    entries: &[Entry],
    (chosen, with_home): (&HashSet<PathBuf>, bool),
    pace: &ProgressCounter<'_>,
) -> Result<Plan> {
    let trial = Trial::new(&folder.dir, None, false)?;
    let plan = trial.plan(folder.state, entries, with_home, pace, |names| {
        let entry = names[0];
        let of_home = matches!(entry.found, EntryForm::Sealed | EntryForm::SealedLink);
        let as_disk = matches!(entry.found, EntryForm::Clear(kind) if kind.is_disk());
        let is_left = with_home && matches!(entry.found, EntryForm::Clear(_)) && !as_disk;
        Verdict {
            convert: (of_home && with_home) || (entry.found == EntryForm::Disk && chosen.contains(&entry.path)),
            as_disk,
            space: entry.allocated(),
            note: (is_left && folder.state == HomeState::Encrypted)
                .then(|| format!("{} is in the clear already: it is left unchanged", entry.path.shown())),
        }
    })?;
    Ok(Plan { ends: if with_home { HomeState::Clear } else { folder.state }, ..plan })
}

#[cfg(test)]
mod exchanged_tests;
#[cfg(test)]
mod tests;
