//! Storage that fails once, to show that every failure is survived.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::Storage;
use crate::storage::memory::SECTOR;

/// How a call fails. Numbers are errno values.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// Nothing was done.
    Refused(i32),
    /// A write did the first half of its sectors; other calls did nothing.
    Torn(i32),
    /// All was done, and the caller is told that it failed.
    Late(i32),
    /// A read gives half of what there is and no error, as if the file ended there; other calls neither count nor fail.
    ShortRead,
}

/// Calls that may pass, counted over all storages that share it.
#[derive(Debug)]
pub struct Countdown {
    left: AtomicI64,
    /// How many calls fail, one after the other.
    failing: AtomicI64,
    /// Whether all calls after the failing one fail as well, and none of them changes anything: the process is gone.
    is_end: bool,
}

impl Countdown {
    /// Lets `calls` calls pass and fails only the next one.
    pub fn fault_after(calls: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(calls), failing: AtomicI64::new(1), is_end: false })
    }

    /// Lets `calls` calls pass and fails all others, as if the process had ended.
    pub fn end_after(calls: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(calls), failing: AtomicI64::new(1), is_end: true })
    }

    /// Whether a call has failed.
    pub fn has_failed(&self) -> bool {
        self.left() < 0
    }

    /// Calls that would still pass; negative after one has failed.
    pub fn left(&self) -> i64 {
        self.left.load(Ordering::SeqCst)
    }

    fn fails(&self) -> bool {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        left <= 0 && (self.is_end || left > -self.failing.load(Ordering::SeqCst))
    }
}

/// Storage whose `n`-th call from now fails.
pub struct FaultStorage<S> {
    inner: S,
    fault: Fault,
    calls: Arc<Countdown>,
}

impl<S: Storage> FaultStorage<S> {
    /// Passes calls on to `inner` until told to fail with `errno`, in the midst of what it does.
    pub fn new(inner: S, errno: i32) -> Self {
        Self::with(inner, Fault::Torn(errno))
    }

    /// Passes calls on to `inner` until told to fail in this way.
    pub fn with(inner: S, fault: Fault) -> Self {
        Self { inner, fault, calls: Countdown::fault_after(i64::MAX) }
    }

    /// As [`new`](Self::new), with a countdown that other storages share.
    pub fn sharing(inner: S, errno: i32, calls: Arc<Countdown>) -> Self {
        Self { inner, fault: Fault::Torn(errno), calls }
    }

    /// Lets `calls` calls pass, fails the next one, and passes all after it.
    pub fn fail_after(&self, calls: i64) {
        self.fail_some_after(calls, 1);
    }

    /// The same, but fails as many calls as this.
    pub fn fail_some_after(&self, calls: i64, failing: i64) {
        self.calls.failing.store(failing, Ordering::SeqCst);
        self.calls.left.store(calls, Ordering::SeqCst);
    }

    /// Lets all further calls pass, and tells whether the fault has happened.
    pub fn disarm(&self) -> bool {
        self.calls.left.swap(i64::MAX, Ordering::SeqCst) < 0
    }

    /// Whether the fault has happened.
    pub fn has_failed(&self) -> bool {
        self.calls.has_failed()
    }

    /// The storage below.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// A call that either happens or does not.
    fn call<T>(&self, call: impl FnOnce(&S) -> Result<T>) -> Result<T> {
        if self.fault == Fault::ShortRead || !self.calls.fails() {
            return call(&self.inner);
        }
        match self.fault {
            Fault::Refused(errno) | Fault::Torn(errno) => Err(injected(errno)),
            Fault::Late(errno) => call(&self.inner).and(Err(injected(errno))),
            Fault::ShortRead => call(&self.inner),
        }
    }
}

fn injected(errno: i32) -> Error {
    Error::errno("injected fault", Errno::from_raw_os_error(errno))
}

impl<S: Storage> Storage for FaultStorage<S> {
    fn len(&self) -> Result<u64> {
        self.call(S::len)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.call(|inner| inner.set_len(len))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        if self.fault == Fault::ShortRead && self.calls.fails() {
            let half = buffer.len() / 2;
            return self.inner.read_at(offset, &mut buffer[..half]);
        }
        self.call(|inner| inner.read_at(offset, buffer))
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if let Fault::Torn(errno) = self.fault {
            if !self.calls.fails() {
                return self.inner.write_at(offset, data);
            }
            let half = if self.calls.is_end { 0 } else { data.len() / 2 / SECTOR * SECTOR };
            return self.inner.write_at(offset, &data[..half]).and(Err(injected(errno)));
        }
        self.call(|inner| inner.write_at(offset, data))
    }

    fn sync(&self) -> Result<()> {
        self.call(S::sync)
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.call(|inner| inner.punch(offset, len))
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.call(|inner| inner.zero(offset, len))
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.call(|inner| inner.allocate(offset, len))
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.call(|inner| inner.seek_data(offset))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.call(|inner| inner.seek_hole(offset))
    }
}
