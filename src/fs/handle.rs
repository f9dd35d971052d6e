//! What is open: handles by number, and disks shared between handles.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};
use crate::format::home_file::FileId;
use crate::fs::CacheMode;
use crate::fs::listing::Listing;
use crate::fs::node::BackingId;
use crate::fs::places::Place;
use crate::fs::raw::OpenImage;
use crate::fs::undecided::Undecided;
use crate::storage::{Access, FileStorage};
use crate::store::disk::Disk;
use crate::store::home_file::HomeFile;
use crate::store::plain_file::PlainFile;
use crate::store::raw_image::AsPlainFile;
use crate::sys;
use crate::vm::home;
use crate::vm::home::Home;

/// Number of a handle, as given to the kernel.
pub type HandleNumber = u64;

/// The content of a regular file, unlocked.
pub(super) enum Content {
    Disk(Disk<FileStorage>),
    Home(Box<HomeFile<FileStorage>>),
    /// Empty when it was opened: what is first written makes it one of the others.
    Undecided(Box<Undecided>),
}

impl Content {
    pub(super) fn file(&self) -> &dyn PlainFile {
        match self {
            Self::Disk(disk) => disk,
            Self::Home(home) => home.as_ref(),
            Self::Undecided(file) => file.as_ref(),
        }
    }

    pub(super) fn disk(&self) -> Option<&Disk<FileStorage>> {
        match self {
            Self::Disk(disk) => Some(disk),
            Self::Home(_) => None,
            Self::Undecided(file) => file.disk(),
        }
    }

    pub(super) fn home(&self) -> Option<&HomeFile<FileStorage>> {
        match self {
            Self::Disk(_) => None,
            Self::Home(home) => Some(home),
            Self::Undecided(file) => file.home(),
        }
    }

    /// What extended attributes are bound to. An empty home file gets its id by being asked.
    pub(super) fn file_id(&self) -> Result<FileId> {
        match self {
            Self::Disk(disk) => Ok(home::disk_id(disk.uuid())),
            Self::Home(home) => home.ensure_id(),
            Self::Undecided(file) => file.ensure_id(),
        }
    }

    pub(super) fn storage(&self) -> &FileStorage {
        match self {
            Self::Disk(disk) => disk.storage(),
            Self::Home(home) => home.storage(),
            Self::Undecided(file) => file.storage(),
        }
    }
}

/// A regular file that at least one handle uses.
pub(super) struct OpenFile {
    pub(super) content: Content,
    /// Who caches the content, as was decided when the first handle was opened.
    pub(super) cache: CacheMode,
    /// Whether the backing file is open and claimed for writing. Changed only while `header_claimed` is locked.
    writable: AtomicBool,
    /// Whether a handle was opened with `O_DSYNC` or `O_SYNC`.
    pub(super) durable: AtomicBool,
    /// Whether it was opened and not read since, by someone who wants the time of last access to follow.
    pub(super) unread: AtomicBool,
    /// Whether a handle was opened for both reading and writing, which mapping for writing takes.
    pub(super) mappable: AtomicBool,
    /// Whether a command works on the header, for which the backing file is claimed for writing as well.
    header_claimed: Mutex<bool>,
    /// Whether the backing file is open for writing.
    may_write: AtomicBool,
    /// Of a home file, its home: it stays in use for as long as the file is open.
    _home: Option<Arc<Home>>,
    _place: Option<Place>,
    /// Fields are dropped in order: once this is gone, so is the claim on the backing file.
    _turn: Arc<()>,
}

/// Who of this mount has a claim on a backing file. The kernel tells of a file's last close and of its next open side by
/// side, on two event loops: without taking turns the second would find the file in use by the first.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<BackingId, Weak<()>>>);

impl Turns {
    /// Waits until a file that is being closed is closed, and takes the turn. A file that stays open does not hold it up: then
    /// claiming it tells whether it may be had.
    pub(super) fn take(&self, file: BackingId) -> Arc<()> {
        const PATIENCE: Duration = Duration::from_millis(200);
        let start = Instant::now();
        loop {
            let mut turns = self.0.lock();
            let taken = turns.get(&file).is_some_and(|turn| turn.strong_count() > 0);
            if !taken || start.elapsed() > PATIENCE {
                if turns.len().is_power_of_two() {
                    turns.retain(|_, turn| turn.strong_count() > 0); // now and then: those of files long closed
                }
                let turn = Arc::new(());
                turns.insert(file, Arc::downgrade(&turn));
                return turn;
            }
            drop(turns);
            thread::sleep(Duration::from_micros(20));
        }
    }
}

/// Tries again for a while what finds a file in use: a program's close is over before the kernel tells of it.
///
/// # Errors
/// Those of `task`.
pub(super) fn past_closing<T>(task: impl Fn() -> Result<T>) -> Result<T> {
    const PATIENCE: Duration = Duration::from_millis(500);
    let start = Instant::now();
    loop {
        match task() {
            Err(error) if error.kind() == Kind::Busy && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

impl OpenFile {
    pub(super) fn new(
        content: Content,
        home_cache: CacheMode,
        access: Access,
        may_write: bool,
        home: Arc<Home>,
        place: Option<Place>,
        turn: Arc<()>,
    ) -> Self {
        let writable = AtomicBool::new(access == Access::Write);
        let (cache, home) = match content {
            Content::Disk(_) => (CacheMode::Direct, None),
            Content::Home(_) | Content::Undecided(_) => (home_cache, Some(home)),
        };
        Self {
            content,
            cache,
            writable,
            durable: AtomicBool::default(),
            unread: AtomicBool::default(),
            mappable: AtomicBool::default(),
            header_claimed: Mutex::default(),
            may_write: AtomicBool::new(may_write),
            _home: home,
            _place: place,
            _turn: turn,
        }
    }

    /// Whether the backing file is open for reading alone.
    pub(super) fn is_read_only(&self) -> bool {
        !self.may_write.load(Ordering::Acquire)
    }

    /// Goes on with the same backing file, opened for writing as well.
    pub(super) fn widen(&self, wider: File) -> Result<()> {
        self.content.storage().widen(wider)?;
        self.may_write.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes sure that a handle with this access may be had.
    pub(super) fn admit(&self, access: Access) -> Result<()> {
        if access == Access::Read || self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.refuse_read_only()?;
        let _claims = self.header_claimed.lock();
        self.content.storage().claim(Access::Write)?;
        self.content.file().prepare_writes()?;
        self.writable.store(true, Ordering::Release);
        Ok(())
    }

    /// Keeps commands away from the header for as long as the answer lives.
    pub(super) fn hold_header(&self) -> MutexGuard<'_, bool> {
        self.header_claimed.lock()
    }

    /// Makes sure that nobody else, on this host or another, works on the header or uses the file.
    pub(super) fn claim_for_header(&self) -> Result<()> {
        self.refuse_read_only()?;
        let mut claimed = self.header_claimed.lock();
        if *claimed {
            return Err(Error::new(Kind::Busy, "in use: another command works on its keys"));
        }
        self.content.storage().claim(Access::Write)?;
        *claimed = true;
        Ok(())
    }

    /// Ends what [`claim_for_header`](Self::claim_for_header) began: who opened the file for reading shares it again.
    pub(super) fn release_header(&self) {
        let mut claimed = self.header_claimed.lock();
        *claimed = false;
        if !self.writable.load(Ordering::Acquire) {
            // A claim is never harder to have than the one before; if it fails, others see the file in use until it is closed.
            let _ = self.content.storage().claim(Access::Read);
        }
    }

    fn refuse_read_only(&self) -> Result<()> {
        match self.is_read_only() {
            false => Ok(()),
            true => Err(Error::new(Kind::ReadOnly, "the backing file can only be read")),
        }
    }
}

impl AsPlainFile for OpenFile {
    fn plain_file(&self) -> &dyn PlainFile {
        self.content.file()
    }

    fn may_change(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }
}

/// Something the kernel has open.
pub(super) enum Handle {
    File(Arc<OpenFile>),
    Image(Arc<OpenImage>),
    Directory(Listing),
}

/// Handles by number.
///
/// Each request looks one up, so the table exists several times: a thread takes the lock of its own copy, and counts its
/// use of a handle in that copy. Threads that read one disk thus share no cache line that either of them writes.
pub(super) struct Handles {
    copies: Box<[CachePadded<Mutex<Copy>>]>,
    /// Numbers that may be given again, and the first one that was never given.
    numbers: Mutex<(Vec<usize>, usize)>,
}

/// One copy of the table.
type Copy = Vec<Option<HandleUse>>;

/// A handle as one copy of the table has it, with a count of uses of its own. Closed when all copies dropped theirs.
pub(super) type HandleUse = Arc<Arc<Handle>>;

impl Default for Handles {
    fn default() -> Self {
        Self { copies: (0..sys::thread::places()).map(|_| CachePadded::default()).collect(), numbers: Mutex::default() }
    }
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> HandleNumber {
        let index = {
            let mut numbers = self.numbers.lock();
            let (free, fresh) = &mut *numbers;
            free.pop().unwrap_or_else(|| std::mem::replace(fresh, *fresh + 1))
        };
        let handle = Arc::new(handle);
        for copy in &self.copies {
            let mut copy = copy.lock();
            if copy.len() <= index {
                copy.resize_with(index + 1, || None);
            }
            copy[index] = Some(Arc::new(Arc::clone(&handle)));
        }
        index as HandleNumber
    }

    pub(super) fn get(&self, number: HandleNumber) -> Result<HandleUse> {
        let copy = self.copies[sys::thread::ordinal() % self.copies.len()].lock();
        let handle = usize::try_from(number).ok().and_then(|index| copy.get(index)).and_then(Option::as_ref);
        handle.cloned().ok_or_else(bad_handle)
    }

    /// What had this number, which is given back; closed when the last request that uses it is done.
    pub(super) fn remove(&self, number: HandleNumber) -> Option<Arc<Handle>> {
        let index = usize::try_from(number).ok()?;
        let take = |copy: &CachePadded<Mutex<Copy>>| copy.lock().get_mut(index).and_then(Option::take);
        let removed: Vec<HandleUse> = self.copies.iter().filter_map(take).collect();
        let handle = removed.first().map(|used| Arc::clone(used.as_ref()))?;
        self.numbers.lock().0.push(index);
        Some(handle)
    }
}

impl Handle {
    /// The regular file behind a handle.
    pub(super) fn file(&self) -> Result<&dyn PlainFile> {
        match self {
            Self::File(open) => Ok(open.content.file()),
            Self::Image(open) => Ok(&open.image),
            Self::Directory(_) => Err(bad_handle()),
        }
    }
}

fn bad_handle() -> Error {
    Error::errno("no such handle", Errno::BADF)
}
