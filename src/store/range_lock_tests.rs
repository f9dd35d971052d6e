//! Range locks among real threads. Outside of range_lock.rs, which the model checker compiles as well.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::range_lock::RangeLock;

const SOON: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_secs(20);

/// Starts a thread that takes a lock, reports it, and holds it until told.
fn holder<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    lock: &'scope RangeLock,
    range: Range<u64>,
    exclusive: bool,
) -> (mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (taken, on_taken) = mpsc::channel();
    let (release, on_release) = mpsc::channel();
    scope.spawn(move || {
        let _guard = if exclusive { lock.exclusive(range) } else { lock.shared(range) };
        taken.send(()).unwrap();
        let _ = on_release.recv();
    });
    (on_taken, release)
}

#[test]
fn writers_of_one_range_take_turns_and_others_go_by() {
    let lock = RangeLock::default();
    thread::scope(|scope| {
        let (first, release_first) = holder(scope, &lock, 0..100, true);
        first.recv_timeout(LATE).unwrap();
        let (second, release_second) = holder(scope, &lock, 99..200, true);
        assert!(second.recv_timeout(SOON).is_err(), "overlaps the first");
        let (third, release_third) = holder(scope, &lock, 200..300, true);
        third.recv_timeout(LATE).unwrap();
        drop(release_first);
        second.recv_timeout(LATE).unwrap();
        drop((release_second, release_third));
    });
}

#[test]
fn readers_share_but_not_past_a_waiting_writer() {
    let lock = RangeLock::default();
    thread::scope(|scope| {
        let (reader, release_reader) = holder(scope, &lock, 0..10, false);
        reader.recv_timeout(LATE).unwrap();
        let (other, release_other) = holder(scope, &lock, 0..10, false);
        other.recv_timeout(LATE).unwrap();
        let (writer, release_writer) = holder(scope, &lock, 5..6, true);
        assert!(writer.recv_timeout(SOON).is_err());
        let (late_reader, release_late_reader) = holder(scope, &lock, 0..10, false);
        assert!(late_reader.recv_timeout(SOON).is_err(), "the writer came first");
        drop((release_reader, release_other));
        writer.recv_timeout(LATE).unwrap();
        drop(release_writer);
        late_reader.recv_timeout(LATE).unwrap();
        drop(release_late_reader);
    });
}

#[test]
fn who_does_not_wait_gets_a_range_only_when_nobody_is_before_it() {
    let lock = RangeLock::default();
    let kept = lock.try_exclusive(0..10).unwrap().into_ticket();
    assert!(lock.try_shared(9..20).is_none() && lock.try_exclusive(0..1).is_none());
    drop(lock.try_shared(10..20).unwrap());
    thread::scope(|scope| {
        let (writer, release_writer) = holder(scope, &lock, 5..15, true);
        assert!(writer.recv_timeout(SOON).is_err());
        assert!(lock.try_shared(12..20).is_none(), "the writer that waits came first");
        drop(lock.resume(kept));
        writer.recv_timeout(LATE).unwrap();
        drop(release_writer);
    });
    let _readers = (lock.try_shared(0..10).unwrap(), lock.try_shared(0..10).unwrap());
    assert!(lock.try_exclusive(3..4).is_none());
}

#[test]
fn an_empty_range_waits_for_nobody() {
    let lock = RangeLock::default();
    let _all = lock.exclusive(0..u64::MAX);
    let _none = lock.exclusive(5..5);
}

#[test]
fn no_two_writers_are_inside_at_once() {
    const SLOTS: usize = 8;
    let lock = RangeLock::default();
    let inside: [AtomicU32; SLOTS] = Default::default();
    thread::scope(|scope| {
        for seed in 0..8_usize {
            let (lock, inside) = (&lock, &inside);
            scope.spawn(move || {
                for turn in 0..2000_usize {
                    let first = (seed * 7 + turn * 5) % SLOTS;
                    let last = (first + turn % 3).min(SLOTS - 1);
                    let _guard = lock.exclusive(first as u64..last as u64 + 1);
                    for slot in &inside[first..=last] {
                        assert_eq!(slot.fetch_add(1, Ordering::SeqCst), 0);
                    }
                    for slot in &inside[first..=last] {
                        slot.fetch_sub(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
}
