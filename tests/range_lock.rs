//! Range locks under a model checker: all interleavings of a few threads, with the memory model's liberties.
//!
//! What is checked does not depend on how the locks are made: the holder of a range is the only one in it or among readers, what a
//! holder did is seen by the next one, requests that do not overlap never wait for each other, and nobody waits for ever. The
//! file under test is compiled here once more, with the checker's primitives in place of parking_lot's.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ops::Range;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

#[path = "../src/store/range_lock.rs"]
#[allow(dead_code, unreachable_pub, reason = "a file of the library, which uses all of it")]
mod range_lock;

use range_lock::RangeLock;

/// The checker's primitives under the names and signatures of parking_lot's.
mod sync {
    use std::ops::{Deref, DerefMut};

    use loom::sync as checked;

    #[derive(Default)]
    pub(crate) struct Mutex<T>(checked::Mutex<T>);

    /// Empty only while it waits.
    pub(crate) struct MutexGuard<'a, T>(Option<checked::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().unwrap()))
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().unwrap()
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().unwrap()
        }
    }

    pub(crate) struct Condvar(checked::Condvar);

    impl Default for Condvar {
        fn default() -> Self {
            Self(checked::Condvar::new())
        }
    }

    impl Condvar {
        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            guard.0 = guard.0.take().map(|held| self.0.wait(held).unwrap());
        }

        pub(crate) fn notify_all(&self) {
            self.0.notify_all();
        }
    }
}

const UNITS: usize = 4;

/// A disk of very few units. The checker fails a model in which two accesses to a unit are not ordered by the lock.
struct Disk {
    locks: RangeLock,
    units: [UnsafeCell<usize>; UNITS],
}

impl Disk {
    fn new() -> Arc<Self> {
        Arc::new(Self { locks: RangeLock::default(), units: std::array::from_fn(|_| UnsafeCell::new(0)) })
    }

    fn units(range: Range<u64>) -> Range<usize> {
        let index = |unit: u64| usize::try_from(unit).unwrap_or(UNITS).min(UNITS);
        index(range.start)..index(range.end)
    }

    /// Adds one to each unit.
    #[allow(unsafe_code, reason = "the checker's cell shows whether the lock does its duty")]
    fn write(&self, range: Range<u64>) {
        let _guard = self.locks.exclusive(range.clone());
        for unit in &self.units[Self::units(range)] {
            // SAFETY: the lock keeps everyone else out, or the checker ends the test.
            unit.with_mut(|value| unsafe { *value += 1 });
        }
    }

    /// What the units hold, all at one time.
    #[allow(unsafe_code, reason = "the checker's cell shows whether the lock does its duty")]
    fn read(&self, range: Range<u64>) -> Vec<usize> {
        let _guard = self.locks.shared(range.clone());
        // SAFETY: the lock keeps writers out, or the checker ends the test.
        self.units[Self::units(range)].iter().map(|unit| unit.with(|value| unsafe { *value })).collect()
    }
}

/// Tries all schedules in which the checker takes the CPU away from a running thread up to three times.
fn model(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

/// Writers of these ranges, each in a thread of its own but the last; how often each unit was written.
fn write_side_by_side(ranges: &[Range<u64>]) -> Vec<usize> {
    let disk = Disk::new();
    let (last, others) = ranges.split_last().unwrap();
    let others: Vec<_> = others
        .iter()
        .cloned()
        .map(|range| {
            let disk = Arc::clone(&disk);
            thread::spawn(move || disk.write(range))
        })
        .collect();
    disk.write(last.clone());
    others.into_iter().for_each(|thread| thread.join().unwrap());
    disk.read(0..u64::MAX)
}

#[test]
fn no_update_of_a_unit_is_lost() {
    model(|| assert_eq!(write_side_by_side(&[0..2, 1..3]), [1, 2, 1, 0]));
    model(|| assert_eq!(write_side_by_side(&[0..2, 1..3, 0..3]), [2, 3, 2, 0]));
}

/// The third range overlaps both others, which do not overlap each other; the second model grows the disk.
#[test]
fn a_writer_that_waits_for_two_others_gets_its_turn() {
    model(|| assert_eq!(write_side_by_side(&[0..1, 2..3, 0..3]), [2, 1, 2, 0]));
    model(|| assert_eq!(write_side_by_side(&[0..1, 1..u64::MAX, 3..u64::MAX]), [1, 1, 1, 2]));
}

#[test]
fn a_reader_sees_all_of_a_write_or_nothing_of_it() {
    model(|| {
        let disk = Disk::new();
        let writer = Arc::clone(&disk);
        let reader = Arc::clone(&disk);
        let writer = thread::spawn(move || writer.write(0..3));
        let reader = thread::spawn(move || reader.read(1..4));
        let seen = disk.read(0..2);
        assert!(seen == [0, 0] || seen == [1, 1], "{seen:?}");
        let seen = reader.join().unwrap();
        assert!(seen == [0, 0, 0] || seen == [1, 1, 0], "{seen:?}");
        writer.join().unwrap();
        assert_eq!(disk.read(0..3), [1, 1, 1], "what is done is seen");
    });
}

/// Whoever would wait here would wait for ever: the holder goes on only after the others are done.
#[test]
fn requests_that_may_go_side_by_side_never_wait() {
    model(|| {
        let disk = Disk::new();
        let other = Arc::clone(&disk);
        let held = disk.locks.exclusive(1..2);
        thread::spawn(move || {
            other.write(2..4);
            other.read(0..1);
        })
        .join()
        .unwrap();
        drop(held);
        let other = Arc::clone(&disk);
        let held = disk.locks.shared(0..4);
        assert_eq!(thread::spawn(move || other.read(2..4)).join().unwrap(), [1, 1]);
        drop(held);
    });
}

/// The range is released on another thread than took it, as the end of a transfer does.
#[test]
fn a_kept_range_is_held_until_somebody_releases_it() {
    model(|| {
        let disk = Disk::new();
        let ticket = disk.locks.exclusive(0..2).into_ticket();
        let writer = Arc::clone(&disk);
        let writer = thread::spawn(move || writer.write(1..3));
        let releaser = Arc::clone(&disk);
        let releaser = thread::spawn(move || {
            assert!(releaser.locks.try_shared(0..1).is_none());
            drop(releaser.locks.resume(ticket));
        });
        writer.join().unwrap();
        releaser.join().unwrap();
        assert!(disk.locks.try_exclusive(0..4).is_some(), "nothing is left behind");
        assert_eq!(disk.read(0..4), [0, 1, 1, 0]);
    });
}
