//! Storage that knows every state in which its process could have been killed.

use std::cell::Cell;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::error::Result;
use crate::storage::Storage;
use crate::storage::memory::{Image, MemoryStorage, index};

/// What the kernel writes without looking whether the process is being killed.
const PAGE: u64 = 4096;
/// A thread whose turn it is may be waiting for the other one: then that one goes first.
const GIVES_UP_ITS_TURN: Duration = Duration::from_millis(20);

/// A file that keeps its states on the way: before each change, and in the midst of one at each border of a page. All that was done
/// is there, as in the page cache of a kernel that lives on.
pub struct StopStorage {
    live: MemoryStorage,
    stops: Mutex<Vec<Image>>,
    turns: Mutex<Turns>,
    next_turn: Condvar,
}

/// Which of two threads makes the next change: bits, the lowest first.
#[derive(Default)]
struct Turns {
    order: u64,
    left: u32,
}

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

impl StopStorage {
    /// A file that holds `image`.
    pub fn new(image: impl Into<Image>) -> Self {
        let live = MemoryStorage::new(image);
        Self { live, stops: Mutex::default(), turns: Mutex::default(), next_turn: Condvar::new() }
    }

    /// What it holds now.
    pub fn snapshot(&self) -> Image {
        self.live.snapshot()
    }

    /// The states since this was last asked, from the first to the one that it holds now.
    pub fn take_stops(&self) -> Vec<Image> {
        let mut stops = std::mem::take(&mut *self.stops.lock());
        stops.push(self.snapshot());
        stops
    }

    /// Lets two threads change the file side by side, in this order as long as both go on, and tells what they returned.
    pub fn side_by_side<T: Send>(&self, order: u64, threads: [&(dyn Fn() -> T + Sync); 2]) -> Vec<T> {
        *self.turns.lock() = Turns { order, left: u64::BITS };
        std::thread::scope(|scope| {
            let run = |number, work: &'_ (dyn Fn() -> T + Sync)| {
                THREAD.set(number);
                let done = work();
                self.turns.lock().left = 0;
                self.next_turn.notify_all();
                done
            };
            let threads = [0, 1].map(|number| {
                let work = threads[number];
                scope.spawn(move || run(number as u64, work))
            });
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    fn change(&self, offset: u64, len: u64, change: impl Fn(u64, u64) -> Result<()>) -> Result<()> {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let next = (at / PAGE + 1).saturating_mul(PAGE).min(end);
            self.await_turn(THREAD.get());
            let mut stops = self.stops.lock();
            stops.push(self.snapshot());
            change(at, next - at)?;
            at = next;
        }
        Ok(())
    }

    fn await_turn(&self, number: u64) {
        let mut turns = self.turns.lock();
        while turns.left > 0 && turns.order & 1 != number {
            let others_turn = turns.left;
            let waited = self.next_turn.wait_for(&mut turns, GIVES_UP_ITS_TURN);
            if waited.timed_out() && turns.left == others_turn {
                break;
            }
        }
        turns.order >>= 1;
        turns.left = turns.left.saturating_sub(1);
        self.next_turn.notify_all();
    }
}

impl Storage for StopStorage {
    fn len(&self) -> Result<u64> {
        self.live.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(0, 1, |_, _| self.live.set_len(len))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.live.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let piece = |at: u64, len: u64| &data[index(at - offset)..][..index(len)];
        self.change(offset, data.len() as u64, |at, len| self.live.write_at(at, piece(at, len)))
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        let end = (offset + len).min(self.live.len()?);
        self.change(offset, end.saturating_sub(offset), |at, len| self.live.punch(at, len))
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
