//! What is open: handles by number, disks shared between handles, and buffers shared between requests.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use parking_lot::RwLock;

use crate::error::{Error, Kind, Result};
use crate::fs::FileKind;
use crate::storage::{Access, FileStorage};
use crate::store::disk::Disk;
use crate::store::plain_file::{PlainFile, request_buffer};
use crate::sys::AlignedBuffer;

/// Number of a handle, as given to the kernel.
pub type HandleNumber = u64;

/// An unlocked disk that at least one handle uses.
pub(super) struct OpenDisk {
    pub(super) disk: Disk<FileStorage>,
    /// Whether the backing file is open and claimed for writing.
    writable: AtomicBool,
    /// Whether the backing file could be opened for writing at all.
    may_write: bool,
}

impl OpenDisk {
    pub(super) fn new(disk: Disk<FileStorage>, access: Access, may_write: bool) -> Self {
        Self { disk, writable: AtomicBool::new(access == Access::Write), may_write }
    }

    /// Makes sure that a handle with this access may be had.
    pub(super) fn admit(&self, access: Access) -> Result<()> {
        if access == Access::Read || self.writable.load(Ordering::Acquire) {
            return Ok(());
        }
        if !self.may_write {
            return Err(Error::new(Kind::ReadOnly, "the backing file can only be read"));
        }
        self.disk.storage().claim(Access::Write)?;
        self.disk.prepare_writes()?;
        self.writable.store(true, Ordering::Release);
        Ok(())
    }
}

/// An entry of a directory.
#[derive(Clone, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: OsString,
    /// Its kind.
    pub kind: FileKind,
    /// The backing inode's number; a hint, since the node may not be known yet.
    pub number: u64,
}

/// Something the kernel has open.
pub(super) enum Handle {
    Disk(Arc<OpenDisk>),
    /// The listing as it was when the directory was opened or last rewound.
    Directory(Vec<DirEntry>),
}

/// Handles by number. Looking one up takes a shared lock for a few instructions.
#[derive(Default)]
pub(super) struct Handles(RwLock<Slots>);

#[derive(Default)]
struct Slots {
    handles: Vec<Option<Arc<Handle>>>,
    free: Vec<usize>,
}

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> HandleNumber {
        let mut slots = self.0.write();
        let handle = Some(Arc::new(handle));
        let index = match slots.free.pop() {
            Some(index) => {
                slots.handles[index] = handle;
                index
            }
            None => {
                slots.handles.push(handle);
                slots.handles.len() - 1
            }
        };
        index as HandleNumber
    }

    pub(super) fn get(&self, number: HandleNumber) -> Result<Arc<Handle>> {
        let slots = self.0.read();
        let handle = usize::try_from(number).ok().and_then(|index| slots.handles.get(index)).and_then(Option::as_ref);
        handle.cloned().ok_or_else(bad_handle)
    }

    pub(super) fn disk(&self, number: HandleNumber) -> Result<Arc<OpenDisk>> {
        match &*self.get(number)? {
            Handle::Disk(disk) => Ok(Arc::clone(disk)),
            Handle::Directory(_) => Err(bad_handle()),
        }
    }

    pub(super) fn remove(&self, number: HandleNumber) {
        let mut slots = self.0.write();
        let Ok(index) = usize::try_from(number) else { return };
        if slots.handles.get_mut(index).and_then(Option::take).is_some() {
            slots.free.push(index);
        }
    }
}

fn bad_handle() -> Error {
    Error::io("no such handle", std::io::Error::from_raw_os_error(libc::EBADF))
}

/// Buffers that requests borrow. There are as many as requests were ever served at once, up to a bound.
pub(super) struct Buffers(Arc<ArrayQueue<AlignedBuffer>>);

/// More than event loops ever are; what exceeds it is unmapped after use.
const KEPT_BUFFERS: usize = 64;

impl Buffers {
    pub(super) fn new() -> Self {
        Self(Arc::new(ArrayQueue::new(KEPT_BUFFERS)))
    }

    pub(super) fn take(&self) -> PooledBuffer {
        let buffer = self.0.pop().unwrap_or_else(request_buffer);
        PooledBuffer { buffer: Some(buffer), pool: Arc::clone(&self.0) }
    }
}

/// A buffer for one request; it goes back to the pool when dropped.
pub struct PooledBuffer {
    buffer: Option<AlignedBuffer>,
    pool: Arc<ArrayQueue<AlignedBuffer>>,
}

impl Deref for PooledBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buffer.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            drop(self.pool.push(buffer)); // a full pool gives it back, to be unmapped
        }
    }
}
