//! Handles by number.

use std::sync::Arc;

use crossbeam::utils::CachePadded;
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::fs::node::NodeNumber;
use crate::fs::open_image::OpenImage;
use crate::fs::open_listing::Listing;
use crate::serve::Opened;
use crate::store::plain_file::PlainFile;
use crate::sys;

/// Number of a handle, as given to the kernel.
pub type HandleNumber = u64;

/// Something the kernel has open.
pub(super) enum Handle {
    /// A regular file, opened by this node.
    File(Opened, NodeNumber),
    Image(Arc<OpenImage>),
    Directory(Listing),
}

/// Handles by number.
///
/// Each request looks one up, so the table exists several times: a thread takes the lock of its own copy, and counts its
/// use of a handle in that copy. So threads that read one disk share no cache line that either of them writes.
pub(super) struct Handles {
    copies: Box<[CachePadded<Mutex<TableCopy>>]>,
    /// Numbers that may be given again, and the first one that was never given.
    numbers: Mutex<(Vec<usize>, usize)>,
}

/// One copy of the table.
type TableCopy = Vec<Option<HandleUse>>;

/// A handle as one copy of the table has it, with a count of uses of its own. Closed when all copies dropped theirs.
pub(super) type HandleUse = Arc<Arc<Handle>>;

impl Default for Handles {
    fn default() -> Self {
        Self { copies: (0..sys::thread::shards()).map(|_| CachePadded::default()).collect(), numbers: Mutex::default() }
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
        let copy = self.copies[sys::thread::thread_index() % self.copies.len()].lock();
        let handle = usize::try_from(number).ok().and_then(|index| copy.get(index)).and_then(Option::as_ref);
        handle.cloned().ok_or_else(bad_handle)
    }

    /// What had this number, which is given back; closed when the last request that uses it is done.
    pub(super) fn remove(&self, number: HandleNumber) -> Option<Arc<Handle>> {
        let index = usize::try_from(number).ok()?;
        let take = |copy: &CachePadded<Mutex<TableCopy>>| copy.lock().get_mut(index).and_then(Option::take);
        let removed: Vec<HandleUse> = self.copies.iter().filter_map(take).collect();
        let handle = removed.first().map(|used| Arc::clone(used.as_ref()))?;
        self.numbers.lock().0.push(index);
        Some(handle)
    }

    /// Gives all numbers back, and closes what had them.
    pub(super) fn clear(&self) {
        let mut closed = Vec::new(); // outside of the locks
        let mut numbers = self.numbers.lock();
        for copy in &self.copies {
            closed.extend(std::mem::take(&mut *copy.lock()));
        }
        *numbers = Default::default();
        drop(numbers);
    }
}

impl Handle {
    /// The regular file of a handle.
    pub(super) fn file(&self) -> Result<&dyn PlainFile> {
        match self {
            Self::File(open, _) => Ok(open.file()),
            Self::Image(open) => Ok(&open.image),
            Self::Directory(_) => Err(bad_handle()),
        }
    }
}

fn bad_handle() -> Error {
    Error::errno("no such handle", Errno::BADF)
}
