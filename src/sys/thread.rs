//! A thread's number, and failures of threads.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// A number of this thread: 0 for the first thread that calls this, 1 for the second and so on. Spreads threads over shards, so
/// that each mostly has one to itself.
pub fn thread_index() -> usize {
    thread_local! {
        static INDEX: usize = {
            static THREADS: AtomicUsize = AtomicUsize::new(0);
            THREADS.fetch_add(1, Ordering::Relaxed)
        };
    }
    INDEX.with(|&index| index)
}

/// How many shards threads are best spread over: enough for those that are busy at once, a power of two.
pub fn shards() -> usize {
    static SHARDS: OnceLock<usize> = OnceLock::new();
    const MAX: usize = 64;
    *SHARDS.get_or_init(|| {
        let cpus = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        (4 * cpus).next_power_of_two().min(MAX)
    })
}

/// Does something that must not end the thread; `None` if it unwound. What `work` changed before that remains changed, and its locks are
/// released.
pub fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Does something with each of `items`, on this thread and on as many more as make `at_once` together, as far as there are any.
pub fn side_by_side<T: Sync>(items: &[T], at_once: usize, each: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            each(item);
        }
    };
    thread::scope(|scope| {
        for _ in 1..items.len().min(at_once) {
            thread::Builder::new().spawn_scoped(scope, work).ok(); // without it the others do more
        }
        work();
    });
}

/// A place at which tests can make a thread fail: if the environment variable `VMCRYPTFS_FAIL_AT` is its name, a colon and a number n, it
/// panics when it is reached for the nth time. Only in debug builds.
#[inline]
pub fn may_fail(place: &str) {
    #[cfg(debug_assertions)]
    fail_if_chosen(place);
    #[cfg(not(debug_assertions))]
    let _ = place;
}

#[cfg(debug_assertions)]
fn fail_if_chosen(place: &str) {
    static CHOSEN: OnceLock<Option<(String, usize)>> = OnceLock::new();
    static REACHED: AtomicUsize = AtomicUsize::new(0);
    let chosen = CHOSEN.get_or_init(|| {
        let variable = std::env::var("VMCRYPTFS_FAIL_AT").ok()?;
        let (place, number) = variable.split_once(':')?;
        Some((place.to_owned(), number.parse().ok()?))
    });
    if let Some((_, number)) = chosen.as_ref().filter(|(chosen, _)| chosen == place) {
        assert!(REACHED.fetch_add(1, Ordering::Relaxed) + 1 != *number, "told to fail at {place}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_on_once() {
        for (len, at_once) in [(0, 8), (1, 8), (100, 1), (100, 8)] {
            let done: Vec<AtomicUsize> = (0..len).map(|_| AtomicUsize::new(0)).collect();
            side_by_side(&done, at_once, |item| _ = item.fetch_add(1, Ordering::Relaxed));
            assert!(done.iter().all(|item| item.load(Ordering::Relaxed) == 1), "{len} items, {at_once} at once");
        }
    }

    #[test]
    fn unwinding_does_not_end_the_thread() {
        assert_eq!(caught(|| 7), Some(7));
        assert_eq!(caught(|| -> u8 { panic!("on purpose") }), None);
    }
}
