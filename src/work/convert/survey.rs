//! What lies in a folder that is to be encrypted, and what becomes of it: looked at before anything is done, and again whenever
//! something may have changed.

use std::collections::HashSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::crypto::xts::Engine;
use crate::error::{Error, Kind, Result};
use crate::format::header::HOME_FILE;
use crate::key::ProviderName;
use crate::store::header_area::RESTORE_HOME;
use crate::store::home_file::looks_like_sealed_target;
use crate::text::advice::Places;
use crate::text::{Show, quoted};
use crate::vm::home_state::HomeState;
use crate::vm::inventory::misplaced::{self, Misplaced};
use crate::work::convert::feasible::{Trial, Verdict};
use crate::work::convert::opened::ClaimedFolder;
use crate::work::convert::places::{Names, Place};
use crate::work::convert::plan::{Obstacle, Plan, encrypted_space};
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::tree::{Entry, EntryForm, read_text};
use crate::work::convert::{choice, several_vms};

/// What to encrypt, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Disks, by their paths below the VM folder; none means all. A VMDK descriptor means its extents.
    pub disks: Vec<PathBuf>,
    /// Where the keys come from; by default, for a new home the default provider, for disks of an encrypted home the home's
    /// key.
    pub provider: Option<ProviderName>,
    /// Whether names that lead into the folder by its place stay, and lead to ciphertext.
    pub keep_references: bool,
    /// Whether a folder is one VM's that looks like that of several.
    pub one_vm: bool,
    /// Whether originals are overwritten before they are removed.
    pub overwrite: bool,
    /// Whether a header that an older version made is believed by its name.
    pub resume_by_name: bool,
    /// Cipher engine of the disks.
    pub engine: Engine,
}

/// A folder's files, and what each becomes.
pub(super) struct Survey {
    pub(super) entries: Vec<Entry>,
    /// Paths of what becomes a disk, now or never.
    pub(super) disks: HashSet<PathBuf>,
    /// Those of them that become one now.
    pub(super) chosen: HashSet<PathBuf>,
    pub(super) plan: Plan,
}

impl Survey {
    /// Looks at a folder, and changes nothing.
    ///
    /// # Errors
    /// `Denied` for what cannot be encrypted as it is, `NotFound` for a disk that is not there, `Stopped`, `Corrupt`, or `Io`.
    pub(super) fn of(folder: &ClaimedFolder, options: &Options, pace: &ProgressCounter<'_>) -> Result<Self> {
        let keys = folder.home.as_ref().map(|home| &home.keys);
        let (entries, misplaced) = folder.look(pace)?;
        if folder.state != HomeState::Encrypted {
            refuse_what_is_encrypted(folder, &entries)?;
        }
        misplaced::refuse(&choice::of_named(&misplaced, &options.disks))?;
        let choice::Choice { paths: named, notes } = choice::disks(&folder.dir, &entries, keys, &options.disks)?;
        let is_disk = |entry: &&Entry| matches!(entry.found, EntryForm::Clear(kind) if kind.is_disk() || named.contains(&entry.path));
        let disks = entries.iter().filter(is_disk).map(|entry| entry.path.clone()).collect();
        let disks = choice::with_all_names(&entries, disks);
        let chosen = if options.disks.is_empty() { disks.clone() } else { &disks & &named };
        let mut plan = make_plan(folder, &entries, (&disks, &chosen), pace)?;
        plan.notes.extend(notes);
        plan.take_misplaced(&misplaced, |path| options.disks.is_empty() || named.contains(path));
        let mut names = Names::default();
        let place = Place { path: &folder.path, root: &folder.dir, entries: &entries, anywhere: false };
        // What is sealed in a whole home was looked at when it came in, or came through a mount.
        place.files(keys.filter(|_| folder.state != HomeState::Encrypted), (&mut names, pace))?;
        if folder.state == HomeState::Clear && !options.one_vm {
            plan.obstacles.extend(several_vms::sign(&folder.path, &entries, &names.linked).map(|sign| {
                Obstacle::new(
                    Kind::Denied,
                    format!("this looks like a folder of several VMs: {sign}. Make a folder for each VM first, and encrypt those; \
                             --one-vm if it is one VM's after all"),
                )
            }));
        }
        plan.take_names(names, options.keep_references);
        // Encrypted once more, the data would be lost for the header that could be restored.
        let is_told = |entry: &Entry| misplaced.iter().any(|other| other.path == entry.path);
        let is_came = |entry: &&Entry| chosen.contains(&entry.path) && !is_told(entry);
        let unsure = entries.iter().filter(is_came).filter(|entry| is_silent(entry));
        let unsure: Vec<&Path> =
            unsure.filter(|_| folder.state == HomeState::Encrypted).map(|entry| entry.path.as_path()).collect();
        if !options.disks.is_empty() {
            plan.notes.extend(unsure.iter().map(|path| choice::no_sign(&[path])));
        } else if !unsure.is_empty() {
            // A run that resumes another one has to take all that is left.
            let all = entries.iter().filter(|entry| chosen.contains(&entry.path)).map(|entry| entry.path.as_path());
            let named = if folder.converts_disks() { all.collect() } else { unsure.clone() };
            let (what, them) = (choice::no_sign(&unsure), if unsure.len() == 1 { "it is" } else { "they are" });
            let message = format!("{what}; if {them} in the clear: `{}`", command(folder, &named));
            plan.obstacles.push(Obstacle::new(Kind::Denied, message));
        }
        if folder.state == HomeState::Encrypted && !folder.converts_disks() {
            let came = entries.iter().filter(is_came).filter(|entry| !is_silent(entry));
            plan.take_in(came.map(|entry| entry.path.shown()), !options.disks.is_empty());
        }
        Ok(Self { entries, disks, chosen, plan })
    }

    /// Looks again, in the midst of the work: what was chosen stays so, and what came is added.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn follow(
        &mut self,
        folder: &ClaimedFolder,
        options: &Options,
        pace: &ProgressCounter<'_>,
    ) -> Result<()> {
        let (entries, misplaced) = folder.look(pace)?;
        self.entries = entries;
        if folder.state != HomeState::Encrypted {
            refuse_what_is_encrypted(folder, &self.entries)?;
        }
        let came = self.entries.iter().filter(|entry| matches!(entry.found, EntryForm::Clear(kind) if kind.is_disk()));
        let came: HashSet<PathBuf> = came.map(|entry| entry.path.clone()).collect();
        if options.disks.is_empty() && (folder.state != HomeState::Encrypted || folder.converts_disks()) {
            self.chosen.extend(came.iter().cloned());
        }
        self.disks.extend(came);
        let is_chosen = |other: &Misplaced| self.chosen.contains(&other.path);
        misplaced::refuse(&misplaced.into_iter().filter(is_chosen).collect::<Vec<_>>())
    }

    /// Directories.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.found == EntryForm::Folder)
    }

    /// What is in the clear and becomes no disk.
    pub(super) fn clear_files(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| self.is_clear_file(entry))
    }

    /// Whether something is in the clear and becomes no disk.
    pub(super) fn is_clear_file(&self, entry: &Entry) -> bool {
        matches!(entry.found, EntryForm::Clear(_) | EntryForm::ClearLink) && !self.disks.contains(&entry.path)
    }

    /// The command that resumes this, where another run would not take the disks that are left without being told to.
    pub(super) fn resuming(&self, folder: &ClaimedFolder) -> Option<String> {
        let disks: Vec<&Entry> = self.clear_disks().collect();
        let is_asked = folder.state == HomeState::Encrypted && disks.iter().any(|disk| is_silent(disk));
        let paths: Vec<&Path> = disks.iter().map(|disk| disk.path.as_path()).collect();
        is_asked.then(|| command(folder, &paths))
    }

    /// The chosen disks that are in the clear still.
    pub(super) fn clear_disks(&self) -> impl Iterator<Item = &Entry> {
        let chosen = |entry: &&Entry| matches!(entry.found, EntryForm::Clear(_)) && self.chosen.contains(&entry.path);
        self.entries.iter().filter(chosen)
    }
}

/// Whether it may be ciphertext, as far as its content shows.
fn is_silent(entry: &Entry) -> bool {
    matches!(entry.found, EntryForm::Clear(kind) if kind.may_be_ciphertext())
}

/// The command that encrypts these disks.
fn command(folder: &ClaimedFolder, disks: &[&Path]) -> String {
    format!("vmcryptfs encrypt {} {}", quoted(&folder.path), choice::options("--disk", disks))
}

/// What is encrypted already belongs to a home; without that home's header nothing can be made of it.
fn refuse_what_is_encrypted(folder: &ClaimedFolder, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let is_link = |text: OsString| looks_like_sealed_target(text.as_bytes());
        let what = if entry.found == EntryForm::Disk {
            "an encrypted disk"
        } else if entry.found == EntryForm::UnreadableOrForeign {
            "a file of another encrypted home"
        } else if entry.found == EntryForm::ClearLink && is_link(read_text(&folder.dir, &entry.path)?) {
            "a link of another encrypted home"
        } else {
            continue;
        };
        let path = folder.path.join(&entry.path);
        let message = format!(
            "{} is {what}, in a folder that is not encrypted. If the folder's {HOME_FILE} is lost, {RESTORE_HOME}; if not, move it away first",
            path.shown()
        );
        let places = Places { vm_folder: Some(&folder.path), component: Some(&folder.path), mountpoint: None };
        return Err(Error::new(Kind::Denied, message).with_places(&places));
    }
    Ok(())
}

fn make_plan(
    folder: &ClaimedFolder,
    entries: &[Entry],
    (disks, chosen): (&HashSet<PathBuf>, &HashSet<PathBuf>),
    pace: &ProgressCounter<'_>,
) -> Result<Plan> {
    let home_is_new = folder.state != HomeState::Encrypted;
    let trial = Trial::new(&folder.dir, folder.home.as_ref().map(|home| &home.keys), true)?;
    let mut plan = trial.plan(folder.state, entries, home_is_new, pace, |names| {
        let (entry, as_disk) = (names[0], disks.contains(&names[0].path));
        let is_clear = matches!(entry.found, EntryForm::Clear(_) | EntryForm::ClearLink);
        let chosen = || names.iter().any(|entry| chosen.contains(&entry.path));
        let note = || {
            let path = entry.path.shown();
            format!("{path} is in the clear in an encrypted home, and not a disk: it is left unchanged")
        };
        Verdict {
            convert: is_clear && if as_disk { chosen() } else { home_is_new },
            as_disk,
            space: if entry.is_regular() { encrypted_space(entry, as_disk) } else { entry.allocated() },
            note: (!home_is_new && !as_disk && is_clear).then(note),
        }
    })?;
    plan.notes.splice(0..0, choice::notes(entries));
    Ok(Plan { ends: HomeState::Encrypted, ..plan })
}
