//! What a thread knows about itself.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A number of this thread: 0 for the first thread that asks, 1 for the second and so on. Spreads threads over places, so
/// that each mostly has one to itself.
pub fn ordinal() -> usize {
    thread_local! {
        static ORDINAL: usize = {
            static THREADS: AtomicUsize = AtomicUsize::new(0);
            THREADS.fetch_add(1, Ordering::Relaxed)
        };
    }
    ORDINAL.with(|&ordinal| ordinal)
}

/// How many places threads are best spread over: enough for those that are busy at once, a power of two.
pub fn places() -> usize {
    static PLACES: OnceLock<usize> = OnceLock::new();
    const MOST: usize = 64;
    *PLACES.get_or_init(|| {
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        (4 * cpus).next_power_of_two().min(MOST)
    })
}
