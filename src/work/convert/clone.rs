//! A VM folder copied under keys of its own, or under the same: it appears atomically, complete, or not at all.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{HOME_FILE, Header, StoredState};
use crate::format::members::MemberList;
use crate::key::{Dek, KeyId, ProviderName};
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::seen::Memory;
use crate::storage::Access;
use crate::store::home_file::{HomeKeys, open_target, seal_target};
use crate::sys::file::{file_beneath, folder_beneath, open_beneath};
use crate::text::Show;
use crate::vm::draft::Draft;
use crate::vm::folder::{self, NewHome};
use crate::vm::home_state::HomeState;
use crate::vm::inventory::misplaced;
use crate::vm::manifest::Expected;
use crate::vm::{disk, inventory, keyring, members, outer, scan};
use crate::work::convert::attributes::{self, Attributes, ChangeTime, Sealing};
use crate::work::convert::clone_file::{Copied, Source};
use crate::work::convert::form::WrappingKey;
use crate::work::convert::opened::ClaimedFolder;
use crate::work::convert::places::{Names, Place};
use crate::work::convert::progress_counter::ProgressCounter;
use crate::work::convert::replace::{self, parent_of};
use crate::work::convert::tree::{self, Entry, EntryForm, by_inode, read_text};
use crate::work::space::Space;

/// How to clone.
#[derive(Clone, Debug, Default)]
pub struct CloneOptions {
    /// Where the clone's key comes from; by default from the provider of the source's.
    pub provider: Option<ProviderName>,
    /// Whether disk images and links of the clone may name files of the source.
    pub keep_references: bool,
    /// Whether the clone has the source's keys, and with them its ciphertext, instead of new ones.
    pub same_keys: bool,
    /// Cipher engine of the disks.
    pub engine: Engine,
}

/// What a clone got.
#[derive(Clone, Debug)]
pub struct Cloned {
    /// The clone's home.
    pub uuid: Uuid,
    /// The KEK of home and disks.
    pub key_id: KeyId,
    /// How many disks it has.
    pub disks: usize,
    /// Bytes that were copied.
    pub bytes: u64,
    /// How many names lead to what was copied in the clear, or may be; `notes` has each.
    pub in_the_clear: usize,
    /// What someone should know of the clone.
    pub notes: Vec<String>,
}

/// Copies an encrypted VM folder to a name that must be free. Nothing may write to it during that.
///
/// # Errors
/// `Exists`; `Busy` when something writes to the source or clones to the same name; `Denied` for a source with files that are not
/// its home's; `ENOSPC` before anything is copied; `Stopped`, `KeyUnavailable`, also for erased disks, `Corrupt`, or `Io`. Then there is no clone.
pub fn clone(
    from: &Path,
    to: &Path,
    providers: &Providers,
    options: &CloneOptions,
    on_progress: OnProgress<'_>,
) -> Result<Cloned> {
    let Prepared { source, entries, destination, plan } = prepare(from, to, providers, options, &mut *on_progress)?;
    let Destination { parent, name } = destination;
    let draft = Draft::of_folder(&parent, "clone-", &name)?;
    let bytes = plan.space.needed;
    Space::at(&parent, bytes)?.check(CLONE)?; // what an interruption had left is gone
    let (draft_root, name) = (draft.folder()?, name.as_os_str());
    let cloning = Cloning { source: &source, entries: &entries, draft: draft_root, name, providers, options };
    let pace = ProgressCounter::new(bytes, on_progress);
    let (uuid, key_id) = cloning.run(&pace)?;
    draft.publish(name)?;
    rustix::fs::fsync(&parent).context(|| "making the clone's name durable".into())?;
    let ClonePlan { disks, in_the_clear, notes, .. } = plan;
    Ok(Cloned { uuid, key_id, disks, bytes, in_the_clear, notes })
}

/// What needs the space.
const CLONE: &str = "the clone";

/// What a clone would be.
#[derive(Clone, Debug)]
pub struct ClonePlan {
    /// How many disks it would have.
    pub disks: usize,
    /// As of [`Cloned`].
    pub in_the_clear: usize,
    /// As of [`Cloned`].
    pub notes: Vec<String>,
    /// What it takes, where it would be.
    pub space: Space,
}

impl ClonePlan {
    /// Refuses a clone for which there is no space.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn check(&self) -> Result<()> {
        self.space.check(CLONE)
    }
}

/// Looks at what [`clone`] would copy, and changes nothing.
///
/// # Errors
/// As [`clone`], but for `ENOSPC`.
pub fn plan_clone(
    from: &Path,
    to: &Path,
    providers: &Providers,
    options: &CloneOptions,
    on_progress: OnProgress<'_>,
) -> Result<ClonePlan> {
    prepare(from, to, providers, options, on_progress).map(|prepared| prepared.plan)
}

/// A VM folder that can be copied, and where to.
struct Prepared {
    source: ClaimedFolder,
    entries: Vec<Entry>,
    destination: Destination,
    plan: ClonePlan,
}

fn prepare(
    from: &Path,
    to: &Path,
    providers: &Providers,
    options: &CloneOptions,
    on_progress: OnProgress<'_>,
) -> Result<Prepared> {
    let source = ClaimedFolder::open(from, providers, Access::Read)?;
    if source.state != HomeState::Encrypted {
        let unfinished = |why| Error::new(Kind::Invalid, format!("{}: {why}", from.shown()));
        return Err(source.unfinished().map_or_else(|| no_vm_folder(&source), unfinished));
    }
    let looking = ProgressCounter::looking(on_progress);
    let proof = source.refuse_changed(&Memory::of(providers), &looking)?;
    let (entries, misplaced) = source.look(&looking)?;
    if let Some(foreign) = entries.iter().find(|entry| entry.found == EntryForm::UnreadableOrForeign) {
        let path = source.path.join(&foreign.path);
        return Err(Error::new(Kind::Corrupt, format!("{} is damaged, or a file of another home", path.shown())));
    }
    tree::refuse_erased(entries.iter())?;
    misplaced::refuse(&misplaced)?;
    let mut notes = names(&source, &entries, (providers, options), &looking)?;
    notes.extend(proof.and_then(|proof| proof.describe_unproven()));
    let clear: Vec<String> = entries.iter().filter_map(in_the_clear).collect();
    let in_the_clear = clear.len();
    notes.extend(clear);
    let destination = Destination::new(&source, to)?;
    let needed = by_inode(entries.iter()).iter().map(|names| names[0].allocated()).sum();
    let space = Space::at(&destination.parent, needed)?;
    let disks = by_inode(entries.iter().filter(|entry| entry.found == EntryForm::Disk)).len();
    Ok(Prepared { source, entries, destination, plan: ClonePlan { disks, in_the_clear, notes, space } })
}

/// What a folder without a home is instead.
fn no_vm_folder(source: &ClaimedFolder) -> Error {
    if let Err(lost) = scan::refuse_lost_home(&source.path) {
        return lost;
    }
    let what = match scan::vm_folders(&source.path) {
        Some(vms) => format!("it is a datastore: a VM folder is cloned, of which it has {vms}"),
        None => "it is not encrypted: there are no keys to renew, `cp -a` copies it".to_owned(),
    };
    Error::new(Kind::Invalid, format!("{}: {what}", source.path.shown()))
}

/// Refuses names that lead to files of the source, to which the clone would write; returns those that lead elsewhere.
fn names(
    source: &ClaimedFolder,
    entries: &[Entry],
    (providers, options): (&Providers, &CloneOptions),
    pace: &ProgressCounter<'_>,
) -> Result<Vec<String>> {
    let home = source.unlocked()?;
    // A name that was written through a mount begins with a mountpoint, which nothing here knows.
    let place = Place { path: &source.path, root: &source.dir, entries, anywhere: true };
    let mut names = Names::default();
    place.files(Some(&home.keys), (&mut names, pace))?;
    let root = &source.dir;
    let engine = options.engine;
    let source = Source { root, keys: &home.keys, expected: None, owner: &home.owner, providers, engine };
    for entry in entries.iter().filter(|entry| entry.found == EntryForm::Disk) {
        pace.tell()?;
        let disk = source.open_disk(entry).context(|| entry.path.shown().to_string())?;
        place.image(entry, disk, &mut names);
    }
    let Names { by_old_place, mut outside, .. } = names;
    match by_old_place.first() {
        Some(first) if !options.keep_references => Err(Error::new(
            Kind::Denied,
            format!(
                "{first} (the clone would use the source's file: repair it in a mount of the source first; --keep-references to leave it)"
            ),
        )),
        _ => {
            outside.extend(by_old_place);
            Ok(outside)
        }
    }
}

/// What to say of what is, or may be, in the clear in the source, and so in the clone.
fn in_the_clear(entry: &Entry) -> Option<String> {
    let what = if let EntryForm::Clear(kind) = entry.found {
        if kind.may_be_ciphertext() {
            return Some(format!("{} is the same in the clone: {}", entry.path.shown(), inventory::NO_SIGN));
        }
        inventory::clear_what(kind)
    } else if entry.found == EntryForm::ClearLink {
        "a symbolic link".to_owned()
    } else {
        return None;
    };
    Some(format!("{} is in the clear, in the clone too: {what}", entry.path.shown()))
}

fn file_name(entry: &Entry) -> &OsStr {
    entry.path.file_name().unwrap_or_default()
}

struct Cloning<'a> {
    source: &'a ClaimedFolder,
    entries: &'a [Entry],
    draft: &'a File,
    /// Its own.
    name: &'a OsStr,
    providers: &'a Providers,
    options: &'a CloneOptions,
}

impl Cloning<'_> {
    fn run(&self, pace: &ProgressCounter<'_>) -> Result<(Uuid, KeyId)> {
        let (header, dek) = self.make_home()?;
        let keys = HomeKeys::new(&dek)?;
        let (key_id, kek) = keyring::first_kek(&header, self.providers)?;
        let key = WrappingKey { id: key_id.clone(), kek };
        for folder in self.entries.iter().filter(|entry| entry.found == EntryForm::Folder) {
            pace.tell()?;
            if let Some(name) = folder.path.file_name() {
                rustix::fs::mkdirat(parent_of(self.draft, &folder.path)?, name, Mode::from_raw_mode(0o700))
                    .context(|| format!("making folder {}", folder.path.shown()))?;
            }
        }
        let expected = self.source.sealed_entries(&Memory::of(self.providers), pace)?;
        let source = Source {
            root: &self.source.dir,
            keys: &self.source.unlocked()?.keys,
            expected: expected.as_ref(),
            owner: &self.source.unlocked()?.owner,
            providers: self.providers,
            engine: self.options.engine,
        };
        let mut claims = Vec::new();
        let mut list = MemberList::default();
        let is_file = |entry: &&Entry| FileType::from_raw_mode(entry.stat.st_mode) == FileType::RegularFile;
        for names in by_inode(self.entries.iter().filter(is_file)) {
            let entry = names[0];
            pace.turn_to(entry.path.shown().to_string());
            let same_keys = self.options.same_keys;
            let copied = Copied { draft: self.draft, home: header.uuid, keys: &keys, key: &key, same_keys };
            let original = copied.file(&source, entry, pace).context(|| entry.path.shown().to_string())?;
            if entry.found == EntryForm::Disk {
                claims.push(original); // until all are copied: they belong together
                let made =
                    disk::read_header(file_beneath(self.draft, &entry.path).context(|| "opening the copy".into())?)?.1;
                let paths: Vec<&Path> = names.iter().map(|entry| entry.path.as_path()).collect();
                list = list.with_disk(made.header.claims(), &paths);
            }
            for other in &names[1..] {
                replace::link(self.draft, &entry.path, &parent_of(self.draft, &other.path)?, file_name(other))?;
            }
        }
        for entry in self.entries.iter().rev() {
            pace.tell()?;
            self.other(entry, (&keys, expected.as_ref())).context(|| entry.path.shown().to_string())?;
        }
        members::create(self.draft, header.uuid, &dek, &list)?;
        self.refuse_if_changed(pace)?;
        Ok((header.uuid, key_id))
    }

    fn make_home(&self) -> Result<(Header, Dek)> {
        let source = self.source.unlocked()?;
        if self.options.same_keys {
            let state = Some(StoredState::Encrypted);
            let uuid = random::uuid()?;
            let header =
                Header { uuid, sequence: 1, state, binds_disks: true, lists_disks: true, ..source.header.clone() };
            folder::write_home(self.draft, HOME_FILE, &header, &source.dek)?;
            return Ok((header, source.dek.duplicate()));
        }
        let former = self.providers.present_name(source.header.slots.first_key());
        let provider = self.providers.chosen_or(self.options.provider.as_ref(), &former)?;
        let disk_names = source.header.disk_names.clone();
        let label = source.header.label.clone();
        let new = NewHome { file: HOME_FILE, vm_name: self.name, label, disk_names };
        let (_, header, dek) = new.make(self.draft, &provider)?;
        Ok((header, dek))
    }

    /// What is not a regular file; each folder after what it holds.
    fn other(&self, entry: &Entry, (keys, expected): (&HomeKeys, Option<&Expected>)) -> Result<()> {
        let (parent, name) = (parent_of(self.draft, &entry.path)?, file_name(entry));
        match FileType::from_raw_mode(entry.stat.st_mode) {
            FileType::RegularFile => Ok(()),
            FileType::Directory => self.folder(entry, keys),
            FileType::Symlink => {
                let text = self.link_text(entry, keys, expected)?;
                let is_new = entry.found == EntryForm::SealedLink && !self.options.same_keys;
                let time = if is_new { ChangeTime::Later } else { ChangeTime::Kept };
                rustix::fs::symlinkat(text.as_os_str(), &parent, name).context(|| "making a symbolic link".into())?;
                attributes::give_to_link(&entry.stat, &parent, name, time)
            }
            kind @ (FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown) => {
                rustix::fs::mknodat(&parent, name, kind, Mode::from_raw_mode(0o600), entry.stat.st_rdev)
                    .context(|| "making a fifo, socket or device".into())?;
                let open = |root| {
                    open_beneath(root, &entry.path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
                        .context(|| "opening it for its attributes".into())
                };
                let (from, to) = (open(&self.source.dir)?, open(self.draft)?);
                attributes::give_to_special(&entry.stat, &from, &to)
            }
        }
    }

    fn folder(&self, entry: &Entry, keys: &HomeKeys) -> Result<()> {
        let open = |root| folder_beneath(root, &entry.path).context(|| "opening it".into());
        let (from, to) = (open(&self.source.dir)?, open(self.draft)?);
        let sealed_by = Sealing::By(&self.source.unlocked()?.keys, None);
        Attributes::read(&from, sealed_by)?.give(&to, Sealing::By(keys, None), ChangeTime::Kept)?;
        to.sync_all().context(|| "making names durable".into())
    }

    fn link_text(&self, entry: &Entry, keys: &HomeKeys, expected: Option<&Expected>) -> Result<OsString> {
        let text = read_text(&self.source.dir, &entry.path)?;
        if let (EntryForm::SealedLink, Some(expected)) = (entry.found, expected) {
            expected.check_link(&entry.path, &text)?;
        }
        if entry.found != EntryForm::SealedLink || self.options.same_keys {
            return Ok(text);
        }
        let target = open_target(&self.source.unlocked()?.keys, text.as_bytes())?;
        Ok(seal_target(keys, &target)?.into())
    }

    /// A mount that has nothing open keeps nobody out, and may have had something open for a while.
    fn refuse_if_changed(&self, pace: &ProgressCounter<'_>) -> Result<()> {
        let now = self.source.walk(pace)?;
        let state = |entry: &Entry| {
            let stat = &entry.stat;
            (entry.path.clone(), stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec)
        };
        if now.iter().map(state).eq(self.entries.iter().map(state)) {
            return Ok(());
        }
        Err(Error::new(Kind::Busy, "the VM folder changed while it was copied: something else uses it"))
    }
}

/// Where a clone is to be: its name must be free there.
struct Destination {
    parent: File,
    name: OsString,
}

impl Destination {
    fn new(source: &ClaimedFolder, to: &Path) -> Result<Self> {
        let name =
            to.file_name().ok_or_else(|| Error::new(Kind::Invalid, format!("{} is not a valid name", to.shown())))?;
        let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent_path = fs::canonicalize(parent).context(|| format!("opening folder {}", parent.shown()))?;
        if parent_path.starts_with(&source.path) {
            return Err(Error::new(Kind::Invalid, format!("{} lies in the folder that is cloned", to.shown())));
        }
        let parent = folder::open_dir(&parent_path)?;
        outer::refuse(&parent_path.join(name))?;
        if rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(Error::new(Kind::Exists, format!("{} exists already", to.shown())));
        }
        Ok(Self { parent, name: name.to_os_string() })
    }
}
