//! Files that are open, each shared between all handles and doors that use it.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::HeaderPlace;
use crate::format::home_file::FileId;
use crate::seen::Past;
use crate::serve::places::Place;
use crate::serve::undecided::Undecided;
use crate::storage::claims::Claim;
use crate::storage::{Access, FileStorage};
use crate::store::disk::Disk;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;
use crate::store::raw_image::AsPlainFile;
use crate::vm::home;
use crate::vm::home::Home;
use crate::vm::owner::Owner;

/// Which inode of which file system a backing file is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackingId {
    /// Number of the file system.
    pub device: u64,
    /// Number of the inode in it.
    pub inode: u64,
}

impl BackingId {
    /// That of an open file.
    ///
    /// # Errors
    /// `Io`.
    pub fn of_file(file: &File) -> Result<Self> {
        let stat = rustix::fs::fstat(file).context(|| "reading attributes".into())?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }

    /// The same, as headers have it that are read from the file.
    pub fn place(self) -> HeaderPlace {
        (self.device, self.inode)
    }
}

/// What caches a file's content, for all handles that are open at once: what one writes past the kernel's cache, another must
/// not read from there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CacheMode {
    /// Only the page cache of the backing file: a disk's guest has a cache of its own.
    Direct,
    /// The kernel, as for any file: programs read small files again and again, and map them.
    Kernel,
}

/// The content of a regular file, unlocked.
pub(super) enum Content {
    Disk(Box<dyn Disk<FileStorage>>),
    Home(Box<HomeFile<FileStorage>>),
    /// Empty when it was opened: the first write makes it one of the others.
    Undecided(Box<Undecided>),
}

/// What an open file is used for, which decides how its backing file is claimed.
pub(super) struct Uses {
    /// Handles that may write.
    writers: usize,
    /// Readers that need that nobody else writes in the meantime.
    stable_readers: usize,
    /// Whether a command works on the header.
    header: bool,
    claimed: Claim,
}

/// A regular file that at least one handle uses.
pub struct OpenFile {
    pub(super) content: Content,
    /// What caches the content, as was decided when the first handle was opened.
    pub cache: CacheMode,
    /// Whether a handle could ever write.
    was_writable: AtomicBool,
    /// Whether a handle was opened with `O_DSYNC` or `O_SYNC`.
    pub durable: AtomicBool,
    /// Whether it was opened and not read since, by a program that wants the time of last access to follow.
    pub unread: AtomicBool,
    /// Whether a handle was opened for both reading and writing, which mapping for writing takes.
    pub mappable: AtomicBool,
    uses: Mutex<Uses>,
    /// Whether other hosts may use the folder.
    shared: bool,
    /// Whether the backing file is open for writing.
    may_write: AtomicBool,
    /// Its home. That of a home file stays in use for as long as the file is open; a disk needs none.
    home: Option<Arc<Home>>,
    /// The home that lists what lies where.
    owner: Owner,
    /// A disk's, by what this host has seen of it.
    past: Option<Past>,
    _place: Option<Place>,
    /// Fields are dropped in order: once this is gone, so is the claim on the backing file.
    _claimed: Arc<()>,
}

impl OpenFile {
    pub(super) fn new(
        (content, past): (Content, Option<Past>),
        (home_cache, shared): (CacheMode, bool),
        access: Access,
        may_write: bool,
        home: Arc<Home>,
        place: Option<Place>,
        claimed: Arc<()>,
    ) -> Self {
        let owner = home.owner.clone();
        let (cache, home) = match content {
            Content::Disk(_) => (CacheMode::Direct, None),
            Content::Home(_) | Content::Undecided(_) => (home_cache, Some(home)),
        };
        let uses = Uses {
            writers: usize::from(access == Access::Write),
            stable_readers: 0,
            header: false,
            claimed: access.into(),
        };
        let open = Self {
            content,
            cache,
            was_writable: AtomicBool::default(),
            durable: AtomicBool::default(),
            unread: AtomicBool::default(),
            mappable: AtomicBool::default(),
            uses: Mutex::new(uses),
            shared,
            may_write: AtomicBool::new(may_write),
            home,
            owner,
            past,
            _place: place,
            _claimed: claimed,
        };
        {
            let uses = &mut *open.uses.lock();
            uses.claimed = open.needed(uses);
            open.follow_others(uses);
            uses.writers = 0; // they are counted when they begin
        }
        open
    }

    /// Its plaintext.
    pub fn file(&self) -> &dyn PlainFile {
        match &self.content {
            Content::Disk(disk) => disk.as_ref(),
            Content::Home(home) => home.as_ref(),
            Content::Undecided(file) => file.as_ref(),
        }
    }

    /// Whether the file system has lost its claims.
    pub(super) fn has_lost_claims(&self) -> bool {
        self.shared && self.storage().has_lost_claims()
    }

    /// Whether others have made it another file, while it was only read here.
    pub(super) fn is_stale(&self) -> bool {
        let uses = self.uses.lock();
        let prepared =
            if uses.claimed == Claim::Peek && self.disk().is_none() { self.file().prepare_writes() } else { Ok(()) };
        prepared.is_err_and(|error| error.os_error() == Some(libc::ESTALE))
    }

    /// Whether what others write shows in a file that is only read here, by how it is claimed.
    fn follow_others(&self, uses: &Uses) {
        let home = match &self.content {
            Content::Disk(_) => return,
            Content::Home(home) => home,
            Content::Undecided(file) => &file.home,
        };
        home.follow_others(uses.claimed == Claim::Peek);
    }

    /// Length of the plaintext: of a file that is only read here, and may grow elsewhere, what the backing file says.
    pub fn plain_len(&self) -> u64 {
        let _ = self.home_file().map_or(Ok(()), HomeFile::follow_len); // else it is what it was
        if let (Some(disk), Some(uses)) = (self.disk(), self.uses.try_lock())
            && uses.writers == 0
            && !uses.header
        {
            let _ = disk.read_len(); // else it is what it was
        }
        self.file().plain_len()
    }

    /// Its backing file, whose bytes are ciphertext.
    pub fn storage(&self) -> &FileStorage {
        match &self.content {
            Content::Disk(disk) => disk.storage(),
            Content::Home(home) => home.storage(),
            Content::Undecided(file) => file.storage(),
        }
    }

    /// The disk that it is, if it is one.
    pub fn disk(&self) -> Option<&dyn Disk<FileStorage>> {
        match &self.content {
            Content::Disk(disk) => Some(disk.as_ref()),
            Content::Home(_) => None,
            Content::Undecided(file) => file.disk(),
        }
    }

    /// The home file that it is, if that is known.
    pub fn home_file(&self) -> Option<&HomeFile<FileStorage>> {
        match &self.content {
            Content::Disk(_) => None,
            Content::Home(home) => Some(home),
            Content::Undecided(file) => file.home_file(),
        }
    }

    /// What extended attributes are bound to. An empty home file gets its id by this.
    ///
    /// # Errors
    /// `Io`.
    pub fn ensure_id(&self) -> Result<FileId> {
        match &self.content {
            Content::Disk(disk) => Ok(home::disk_id(disk.uuid())),
            Content::Home(home) => home.ensure_id(),
            Content::Undecided(file) => file.ensure_id(),
        }
    }

    /// What extended attributes are bound to; `None` for an empty file that is not yet one or the other, which has none.
    ///
    /// # Errors
    /// `Io`.
    pub fn id(&self) -> Result<Option<FileId>> {
        match &self.content {
            Content::Undecided(file) if !file.is_decided() => Ok(None),
            Content::Undecided(_) | Content::Disk(_) | Content::Home(_) => self.ensure_id().map(Some),
        }
    }

    /// The component whose key it is open with.
    pub(super) fn component(&self) -> Option<Uuid> {
        self.disk().map(|disk| disk.uuid()).or_else(|| self.home.as_ref().map(|home| home.header.uuid))
    }

    /// Refuses the file where it does not belong: at these paths below its VM folder.
    pub(super) fn refuse_place(&self, paths: &[PathBuf]) -> Result<()> {
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        self.owner.refuse_place(self.disk().map(|disk| disk.uuid()), &paths)
    }

    /// Whether the backing file is open for reading only.
    pub(super) fn is_read_only(&self) -> bool {
        !self.may_write.load(Ordering::Acquire)
    }

    /// Continues with the same backing file, opened for writing as well.
    pub(super) fn widen(&self, wider: File) -> Result<()> {
        let uses = self.uses.lock();
        self.storage().widen(wider, uses.claimed)?;
        self.may_write.store(true, Ordering::Release);
        Ok(())
    }

    /// Uses the file for as long as the answer lives. Where nothing else needs it, a file that is only read is not claimed against
    /// writers elsewhere: another mount can take it over.
    ///
    /// # Errors
    /// `Busy`, `ReadOnly`, or `Io`.
    pub fn begin(self: &Arc<Self>, purpose: Purpose) -> Result<FileUse> {
        if purpose == Purpose::Write {
            self.refuse_read_only()?;
            match (&self.past, &self.home) {
                (Some(past), _) => {
                    past.allow_changes()?;
                    self.owner.allow_changes()?; // the list may have gone back since it was opened
                }
                (None, Some(home)) => home.allow_changes()?,
                (None, None) => {}
            }
        }
        let mut uses = self.uses.lock();
        *uses.count(purpose) += 1;
        let begun = self.claim(&mut uses).and_then(|()| match purpose {
            Purpose::Write if uses.writers == 1 => {
                if self.shared {
                    self.storage().ask_anew()?;
                }
                self.file().prepare_writes()
            }
            Purpose::Write | Purpose::ReadStable => Ok(()),
        });
        if begun.is_ok() && purpose == Purpose::Write {
            self.was_writable.store(true, Ordering::Release);
        }
        drop(uses);
        let used = FileUse { open: Arc::clone(self), purpose }; // dropped, it ends what could not be begun
        begun.map(|()| used)
    }

    /// Claims what all uses take together.
    fn claim(&self, uses: &mut Uses) -> Result<()> {
        let needed = self.needed(uses);
        if needed != uses.claimed {
            if self.shared && uses.claimed == Claim::Writer && uses.writers == 0 {
                self.file().sync()?; // what the next writer on another host must see is with the server
            }
            self.storage().claim(needed)?;
            uses.claimed = needed;
            self.follow_others(uses);
        }
        Ok(())
    }

    fn needed(&self, uses: &Uses) -> Claim {
        let is_in_transition = self.disk().is_some_and(|disk| disk.is_in_transition());
        match (uses.writers, uses.stable_readers) {
            _ if uses.header => Claim::Exclusive,
            (1.., _) => Claim::in_use(Access::Write, is_in_transition),
            (0, 1..) => Claim::Shared,
            (0, 0) => Claim::in_use(Access::Read, is_in_transition),
        }
    }

    /// Keeps commands away from the header for as long as the answer lives.
    pub(super) fn hold_header(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock()
    }

    /// Makes sure that no other process, on this host or another, works on the header or uses the file.
    pub(super) fn claim_for_header(&self) -> Result<()> {
        self.refuse_read_only()?;
        let mut uses = self.uses.lock();
        if uses.header {
            return Err(Error::new(Kind::Busy, "in use: another command works on its keys"));
        }
        uses.header = true;
        self.claim(&mut uses).inspect_err(|_| uses.header = false)
    }

    /// Ends what [`claim_for_header`](Self::claim_for_header) began.
    pub(super) fn release_header(&self) {
        let mut uses = self.uses.lock();
        uses.header = false;
        self.lower_claim(&mut uses);
    }

    /// Gives up what nothing needs any more.
    fn lower_claim(&self, uses: &mut Uses) {
        // Downgrading a claim cannot fail unless the file system does; then others see the file in use until it is closed.
        let _ = self.claim(uses);
    }

    fn refuse_read_only(&self) -> Result<()> {
        match self.is_read_only() {
            false => Ok(()),
            true => Err(Error::new(Kind::ReadOnly, "the backing file can only be read")),
        }
    }
}

/// What is begun with an open file beyond reading what is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Writing.
    Write,
    /// Reading what nobody else writes in the meantime.
    ReadStable,
}

impl Uses {
    fn count(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Write => &mut self.writers,
            Purpose::ReadStable => &mut self.stable_readers,
        }
    }
}

/// An open file that is used for a purpose. Dropped, it ends that use: with the last writer goes the claim for writing.
pub struct FileUse {
    open: Arc<OpenFile>,
    purpose: Purpose,
}

impl Drop for FileUse {
    fn drop(&mut self) {
        let mut uses = self.open.uses.lock();
        *uses.count(self.purpose) -= 1;
        self.open.lower_claim(&mut uses);
    }
}

impl AsPlainFile for OpenFile {
    fn plain_file(&self) -> &dyn PlainFile {
        self.file()
    }

    fn may_change(&self) -> bool {
        self.was_writable.load(Ordering::Acquire)
    }

    fn is_disk(&self) -> bool {
        self.disk().is_some()
    }
}

/// The files that are open, by their backing files.
#[derive(Default)]
pub(super) struct OpenFiles(Mutex<HashMap<BackingId, Arc<Mutex<Shared>>>>);

/// One backing file of them.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) file: Weak<OpenFile>,
    /// Alive until the claim on the backing file has ended, which is after the last handle was closed.
    claimed: Weak<()>,
}

impl OpenFiles {
    /// The entry of a backing file. Locked, it keeps all others from opening that file.
    pub(super) fn entry(&self, id: BackingId) -> Arc<Mutex<Shared>> {
        let mut files = self.0.lock();
        if files.len().is_power_of_two() && !files.contains_key(&id) {
            files.retain(|_, file| Arc::strong_count(file) > 1 || file.lock().is_claimed()); // now and then: those long closed
        }
        Arc::clone(files.entry(id).or_default())
    }

    /// All files that are open.
    pub(super) fn all(&self) -> Vec<Arc<OpenFile>> {
        let entries: Vec<_> = self.0.lock().values().cloned().collect();
        entries.iter().filter_map(|entry| entry.lock().file.upgrade()).collect()
    }
}

impl Shared {
    fn is_claimed(&self) -> bool {
        self.claimed.strong_count() > 0
    }

    /// Waits until a file that is being closed is closed: the kernel reports the last close and the next open concurrently, and
    /// the second would find the file in use by the first. After a while claiming the file decides. What is returned belongs to
    /// the new open file.
    pub(super) fn claim_next(&mut self) -> Arc<()> {
        const CLOSE_RACE_TIMEOUT: Duration = Duration::from_millis(200);
        let start = Instant::now();
        while self.is_claimed() && start.elapsed() <= CLOSE_RACE_TIMEOUT {
            thread::sleep(Duration::from_micros(20));
        }
        let claimed = Arc::new(());
        self.claimed = Arc::downgrade(&claimed);
        claimed
    }
}
