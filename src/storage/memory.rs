//! Storage in memory, and the two variants that tests need: one that fails, one that loses power.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::storage::Storage;

/// What a disk writes at once: a power cut leaves each such piece old or new.
const SECTOR: usize = 512;

/// A file in memory. Zero sectors count as holes.
#[derive(Default)]
pub struct MemoryStorage(Mutex<Vec<u8>>);

impl MemoryStorage {
    /// A file that holds `image`.
    pub fn new(image: Vec<u8>) -> Self {
        Self(Mutex::new(image))
    }

    /// All bytes.
    pub fn image(&self) -> Vec<u8> {
        self.0.lock().clone()
    }

    fn holds(&self, offset: u64, data: &[u8]) -> bool {
        self.0.lock().get(index(offset)..).is_some_and(|rest| rest.starts_with(data))
    }
}

impl Storage for MemoryStorage {
    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.lock().resize(index(len), 0);
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let image = self.0.lock();
        let rest = image.get(index(offset)..).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        Change::Write(offset, data.to_vec()).apply(&mut self.0.lock());
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        Change::Zero(offset, len).apply(&mut self.0.lock());
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn allocate(&self, _offset: u64, _len: u64) -> Result<()> {
        Ok(())
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok(seek(&self.0.lock(), offset, false))
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        let image = self.0.lock();
        let end = (offset < image.len() as u64).then_some(image.len() as u64);
        Ok(seek(&image, offset, true).or(end))
    }
}

/// First position from `offset` on whose sector is, or is not, all zeros.
fn seek(image: &[u8], offset: u64, zero: bool) -> Option<u64> {
    let mut at = index(offset);
    while at < image.len() {
        let start = at - at % SECTOR;
        let sector = &image[start..image.len().min(start + SECTOR)];
        if sector.iter().all(|&byte| byte == 0) == zero {
            return Some(at as u64);
        }
        at = start + SECTOR;
    }
    None
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Storage whose `n`-th call from now fails, to show that every failure is survived.
pub struct FaultStorage<S> {
    inner: S,
    errno: i32,
    calls: Arc<Countdown>,
}

/// Calls that may pass, counted over all storages that share it.
#[derive(Debug)]
pub struct Countdown {
    left: AtomicI64,
    /// Whether all calls after the failing one fail as well, and none of them changes anything: the process is gone.
    is_end: bool,
}

impl Countdown {
    /// Lets `calls` calls pass and fails the next one, alone.
    pub fn fault_after(calls: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(calls), is_end: false })
    }

    /// Lets `calls` calls pass and fails all others, as if the process had ended.
    pub fn end_after(calls: i64) -> Arc<Self> {
        Arc::new(Self { left: AtomicI64::new(calls), is_end: true })
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
        left == 0 || (left < 0 && self.is_end)
    }
}

impl<S: Storage> FaultStorage<S> {
    /// Passes calls on to `inner` until told to fail with `errno`.
    pub fn new(inner: S, errno: i32) -> Self {
        Self::sharing(inner, errno, Countdown::fault_after(i64::MAX))
    }

    /// As [`new`](Self::new), with a countdown that other storages share.
    pub fn sharing(inner: S, errno: i32, calls: Arc<Countdown>) -> Self {
        Self { inner, errno, calls }
    }

    /// Lets `calls` calls pass, fails the next one, and passes all after it. A write that fails has written the first
    /// half of its sectors.
    pub fn fail_after(&self, calls: i64) {
        self.calls.left.store(calls, Ordering::SeqCst);
    }

    /// Whether the fault has happened.
    pub fn has_failed(&self) -> bool {
        self.calls.has_failed()
    }

    /// The storage beneath.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn pass(&self) -> Result<&S> {
        if self.calls.fails() {
            return Err(Error::io("injected fault", std::io::Error::from_raw_os_error(self.errno)));
        }
        Ok(&self.inner)
    }
}

impl<S: Storage> Storage for FaultStorage<S> {
    fn len(&self) -> Result<u64> {
        self.pass()?.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.pass()?.set_len(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.pass()?.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let passed = self.pass();
        if passed.is_err() && !self.calls.is_end {
            let half = data.len() / 2 / SECTOR * SECTOR;
            self.inner.write_at(offset, &data[..half])?;
        }
        passed?.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        self.pass()?.sync()
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.pass()?.punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.pass()?.zero(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.pass()?.allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.pass()?.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.pass()?.seek_hole(offset)
    }
}

/// Storage that knows what a power cut could leave: what was synced, and any part of what was not.
pub struct CrashStorage {
    live: MemoryStorage,
    state: Mutex<Unsynced>,
}

#[derive(Default)]
struct Unsynced {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    SetLen(u64),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let start = index(*offset);
                if image.len() < start + data.len() {
                    image.resize(start + data.len(), 0);
                }
                image[start..start + data.len()].copy_from_slice(data);
            }
            Self::Zero(offset, len) => {
                let end = index(offset + len).min(image.len());
                let start = index(*offset).min(end);
                image[start..end].fill(0);
            }
            Self::SetLen(len) => image.resize(index(*len), 0),
        }
    }
}

impl CrashStorage {
    /// Most unsynced changes whose subsets are all tried: 2^14 images.
    pub const MAX_PENDING: usize = 14;

    /// A file that durably holds `image`.
    pub fn new(image: Vec<u8>) -> Self {
        Self {
            live: MemoryStorage::new(image.clone()),
            state: Mutex::new(Unsynced { durable: image, pending: Vec::new() }),
        }
    }

    /// Every image that a power cut could leave now: what was synced, plus any subset of what was not, in order, each
    /// write split into sectors.
    ///
    /// # Panics
    /// When over [`MAX_PENDING`](Self::MAX_PENDING) changes are unsynced: the test must be smaller.
    pub fn crash_images(&self) -> Vec<Vec<u8>> {
        let state = self.state.lock();
        let pending = &state.pending;
        assert!(pending.len() <= Self::MAX_PENDING, "{} unsynced changes are too many to try", pending.len());
        (0..1_usize << pending.len())
            .map(|kept| {
                let mut image = state.durable.clone();
                let survived = pending.iter().enumerate().filter(|(number, _)| kept >> number & 1 == 1);
                survived.for_each(|(_, change)| change.apply(&mut image));
                image
            })
            .collect()
    }

    fn changed(&self, change: Change) {
        self.state.lock().pending.push(change);
    }
}

impl Storage for CrashStorage {
    fn len(&self) -> Result<u64> {
        self.live.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.changed(Change::SetLen(len));
        self.live.set_len(len)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.live.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < data.len() {
            let start = offset + at as u64;
            let room = SECTOR - index(start) % SECTOR;
            let piece = &data[at..data.len().min(at + room)];
            // What is there already is the same whether it is written again or not.
            if !self.live.holds(start, piece) {
                self.changed(Change::Write(start, piece.to_vec()));
            }
            at += piece.len();
        }
        self.live.write_at(offset, data)
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state.lock();
        state.durable = self.live.image();
        state.pending.clear();
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.changed(Change::Zero(offset, len));
        self.live.punch(offset, len)
    }

    fn zero(&self, offset: u64, len: u64) -> Result<()> {
        self.punch(offset, len)
    }

    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        self.live.allocate(offset, len)
    }

    fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.live.seek_data(offset)
    }

    fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.live.seek_hole(offset)
    }
}
