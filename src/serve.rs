//! What is open of a VM folder or a datastore, for all doors to it.
//!
//! A door is a way in for the programs of this host: a mount (`fs` shows names and inodes over this layer), or any other reader and
//! writer in this process. A component's file is opened once, whichever doors use it: its claim holds for all of them, and all
//! their requests go to the same store. So they see one state.

mod first_write;
mod homes;
mod lock;
mod making;
mod manifests;
mod naming;
mod online;
mod open;
mod open_file;
mod places;
mod undecided;
mod unusable;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};

pub use manifests::ManifestNews;
pub use naming::{NameChange, change_names};
pub use online::OnlineVm;
pub use open::{OpenRequest, Opened, Unopened};
pub use open_file::{BackingId, CacheMode, FileUse, OpenFile, Purpose};
pub use places::{Place, is_of_reserve};
pub use unusable::Unusable;

use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{CopyDigest, UnverifiedHeader};
use crate::provider::Providers;
use crate::storage::BackingIo;
use crate::storage::claims::{Claims, FileLocks, Holder, InUse, LOCAL_PAUSE, SHARED_PAUSE, retry_while};
use crate::sys::file::{file_beneath, open_beneath};
use crate::text::Show;
use crate::vm::inventory::Inventory;
use crate::vm::keyring::{self, ByPlace, Keyring, PendingFetch};
use crate::vm::{folder, scan};

use homes::Homes;
use manifests::Manifests;
use open_file::OpenFiles;
use places::Places;

/// One operation may need a home's key, a disk's, and to know whether a key may wrap. Each may be needed again when another
/// operation was quicker to use the answer.
const MAX_FETCH_RETRIES: usize = 8;

/// Components of one VM folder that are unlocked and shown on their own; others are unlocked when they are opened. Anyone who can
/// write the folder can forge any number of them.
pub const MAX_COMPONENTS: usize = 1024;

/// How long a command waits for a file that is being closed: a program's close is over before the kernel reports it.
const CLOSE_RACE_TIMEOUT: Duration = Duration::from_millis(500);

/// How components are served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// No backing file is opened for writing.
    pub read_only: bool,
    /// Cipher engine of all disks.
    pub engine: Engine,
    /// Which way data of disks take to the backing files.
    pub backing_io: BackingIo,
    /// What keeps the claims on components.
    pub claims: &'static dyn Claims,
    /// For how long opening a file waits for another mount that has it open.
    pub hand_over: Duration,
    /// Whether other hosts may use the folder at the same time: nothing of it that can be kept elsewhere is believed.
    pub shared: bool,
    /// Whether homes that have no manifest get one, and how often it is renewed while they change.
    pub manifest: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            read_only: false,
            engine: Engine::default(),
            backing_io: BackingIo::default(),
            claims: &FileLocks,
            hand_over: Duration::from_secs(10),
            shared: false,
            manifest: None,
        }
    }
}

/// Refuses a VM folder whose home is neither clear nor encrypted. Only then a provider is asked: for whether its header is genuine.
fn refuse_unfinished(root: &File, providers: &Providers) -> Result<()> {
    let Err(unfinished) = folder::refuse_unfinished_at(root) else { return Ok(()) };
    if let Ok(Some(stored)) = folder::read_home_of_any_state(root) {
        let keks = providers.fetch_all(stored.header.claims().slots.key_ids().cloned());
        keyring::refuse_forged(&stored.header, &keks)?;
    }
    Err(unfinished)
}

/// One VM folder, or a datastore of VM folders, with what is open of it.
pub struct ServedFolder {
    root: File,
    path: PathBuf,
    is_vm: bool,
    /// Where components lay when the folder was last looked through.
    paths: RwLock<HashMap<CopyDigest, ByPlace<PathBuf>>>,
    keyring: Keyring,
    /// Whether all headers could be read when the folder was first looked through.
    had_whole_headers: bool,
    folders_without_home: Vec<PathBuf>,
    files_without_sign: Vec<PathBuf>,
    /// What was found then, until a mount of it is there.
    first_found: Mutex<Option<Arc<Vec<scan::FoundComponent>>>>,
    /// Whether its first attempt to unlock it has begun.
    was_tried: AtomicBool,
    homes: Homes,
    manifests: Manifests,
    open_files: OpenFiles,
    places: Places,
    /// Components that were not among the latest [`components`](Self::components).
    left_out: AtomicUsize,
    options: Options,
}

impl ServedFolder {
    /// Opens a VM folder or a datastore. No provider is asked yet: what is in it waits for
    /// [`retry_locked`](Self::retry_locked).
    ///
    /// # Errors
    /// `NotFound` or `Io` for the folder, `Busy` for one whose home is neither clear nor encrypted, `Corrupt` where its
    /// key shows that this is not so.
    pub fn open(path: &Path, providers: Providers, options: Options) -> Result<Self> {
        let root = folder::open_dir(path)?;
        refuse_unfinished(&root, &providers).context(|| path.shown().to_string())?;
        let is_vm = folder::read_home(&root).map_or_else(|error| error.kind() != Kind::Io, |home| home.is_some());
        let keyring = Keyring::of_mount(providers);
        let look = scan::first_look(&root)?;
        let served = Self {
            root,
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf()),
            is_vm,
            paths: RwLock::new(paths_of(&look.components)),
            keyring,
            had_whole_headers: look.components.iter().all(|component| component.header.is_ok()),
            folders_without_home: look.without_home,
            files_without_sign: look.without_sign,
            first_found: Mutex::default(),
            was_tried: AtomicBool::new(false),
            homes: Homes::default(),
            manifests: Manifests::default(),
            open_files: OpenFiles::default(),
            places: Places::new(if options.backing_io == BackingIo::Direct { 2 } else { 1 }),
            left_out: AtomicUsize::new(0),
            options,
        };
        let expected = served.counted(look.components);
        expected.iter().filter_map(scan::FoundComponent::unverified).for_each(|header| served.keyring.expect(header));
        *served.first_found.lock() = Some(Arc::new(expected));
        Ok(served)
    }

    /// The folder itself.
    pub fn root(&self) -> &File {
        &self.root
    }

    /// Its path when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is one VM folder, and not a datastore of them.
    pub fn is_vm(&self) -> bool {
        self.is_vm
    }

    /// How its components are served.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The keys of its components.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// What counts the files that are open for each user.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// A directory, for operations on names in it. Callers may use names in it that they may not list, and its owner its attributes
    /// in any case: so it is opened without the right to read it.
    ///
    /// # Errors
    /// `Io`.
    pub fn dir(&self, path: &Path) -> Result<File> {
        open_beneath(&self.root, path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .context(|| format!("opening folder {}", path.shown()))
    }

    /// Whether nothing was found so far that is locked or damaged.
    pub fn is_all_unlocked(&self) -> bool {
        self.had_whole_headers && self.keyring.count().1 == 0
    }

    /// The components as they were when this was opened. They are given once: a mount is there then.
    pub fn take_first_found(&self) -> Option<Arc<Vec<scan::FoundComponent>>> {
        self.first_found.lock().take()
    }

    /// The components as they are now on disk, of each VM folder at most [`MAX_COMPONENTS`].
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn components(&self) -> Result<Vec<scan::FoundComponent>> {
        Ok(self.counted(self.all_components()?))
    }

    fn counted(&self, found: Vec<scan::FoundComponent>) -> Vec<scan::FoundComponent> {
        let all = found.len();
        let kept = self.bounded(found);
        self.left_out.store(all - kept.len(), Ordering::Relaxed);
        kept
    }

    /// How many components of VM folders that have more than [`MAX_COMPONENTS`] the latest [`components`](Self::components)
    /// did not give.
    pub fn left_out(&self) -> usize {
        self.left_out.load(Ordering::Relaxed)
    }

    fn all_components(&self) -> Result<Vec<scan::FoundComponent>> {
        let found = scan::scan(&self.root)?;
        *self.paths.write() = paths_of(&found);
        self.keyring.retain(found.iter().filter_map(scan::FoundComponent::unverified));
        Ok(found)
    }

    /// Without the surplus of VM folders that have too many. Those that are unlocked stay in any case.
    fn bounded(&self, mut found: Vec<scan::FoundComponent>) -> Vec<scan::FoundComponent> {
        if found.len() <= MAX_COMPONENTS {
            return found;
        }
        let vm_of = |component: &scan::FoundComponent| match self.is_vm {
            true => OsString::new(),
            false => component.path.iter().next().unwrap_or_default().to_owned(),
        };
        let is_unlocked = |component: &scan::FoundComponent| {
            component.unverified().is_some_and(|header| self.keyring.known_dek(header).is_some())
        };
        let mut kept: HashMap<OsString, usize> = HashMap::new();
        found
            .iter()
            .filter(|component| is_unlocked(component))
            .for_each(|one| *kept.entry(vm_of(one)).or_default() += 1);
        found.retain(|component| {
            let kept = kept.entry(vm_of(component)).or_default();
            let is_kept = is_unlocked(component);
            let has_room = *kept < MAX_COMPONENTS;
            *kept += usize::from(!is_kept && has_room);
            is_kept || has_room
        });
        found
    }

    /// Folders of the datastore that do not show, since their home header was lost when this was opened.
    pub fn folders_without_home(&self) -> &[PathBuf] {
        &self.folders_without_home
    }

    /// Files that may be disks whose header was overwritten when this was opened: none of them is shown.
    pub fn files_without_sign(&self) -> &[PathBuf] {
        &self.files_without_sign
    }

    /// All that lies in the folder, what a mount does not show included.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read.
    pub fn inventory(&self) -> Result<Inventory> {
        Inventory::take(&self.root, self.keyring.providers().disk_names())
    }

    /// The other opener that has the data of a file claimed, by its path below the folder, if its name is known.
    pub fn other_holder(&self, path: &Path) -> Option<Holder> {
        let file = file_beneath(&self.root, path).ok()?;
        self.options.claims.holder(&file).filter(|holder| !holder.is_this_process())
    }

    /// Backing path of the component with this header. One that is not known is looked for.
    pub fn component_path(&self, header: &UnverifiedHeader) -> Option<PathBuf> {
        let known = || Some(self.path.join(self.paths.read().get(&header.digest())?.get(header.place())?));
        known().or_else(|| self.components().ok().and_then(|_| known()))
    }

    /// Whether work that ended with this error is to be done by [`retry`](Self::retry), where waiting stops nothing else.
    pub fn must_wait(error: &Error) -> bool {
        PendingFetch::of(error).is_some() || InUse::ended(error)
    }

    /// Does `work`, as [`retry_after_fetch`](Self::retry_after_fetch), and again for a while when it needs a file that another mount
    /// has open and may hand over: a guest that migrates is opened at its target before it is closed at its source.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn retry<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let pause = if self.options.shared { SHARED_PAUSE } else { LOCAL_PAUSE };
        retry_while((self.options.hand_over, pause), InUse::ended, || self.retry_after_fetch(&work))
    }

    /// Does `work`, and asks a provider for what `work` needs to know first, however long that takes.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn retry_after_fetch<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        let mut result = work();
        for _ in 0..MAX_FETCH_RETRIES {
            let Some(fetch) = result.as_ref().err().and_then(PendingFetch::of) else { break };
            self.keyring.ask(fetch)?;
            result = work();
        }
        result
    }
}

fn paths_of(found: &[scan::FoundComponent]) -> HashMap<CopyDigest, ByPlace<PathBuf>> {
    let mut paths: HashMap<CopyDigest, ByPlace<PathBuf>> = HashMap::new();
    for component in found {
        if let Some(header) = component.unverified() {
            paths.entry(header.digest()).or_default().insert(header.place(), component.path.clone());
        }
    }
    paths
}

#[cfg(test)]
mod tests;
