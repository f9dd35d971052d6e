//! Locks on byte ranges of one component: readers share, a writer is alone, others go by.
//!
//! First come, first served: a request waits for every earlier one that overlaps it and may not share with it. So
//! nobody starves, and overlapping requests take effect in the order of their arrival. Uncontended, a lock is one short
//! critical section to take and one to release; nothing is allocated once the list has grown to the number of threads.

use std::ops::Range;

use parking_lot::{Condvar, Mutex};

/// A set of locked ranges.
#[derive(Default)]
pub struct RangeLock {
    queue: Mutex<Queue>,
    released: Condvar,
}

#[derive(Default)]
struct Queue {
    /// In order of arrival.
    requests: Vec<Request>,
    next_ticket: u64,
    waiting: usize,
}

struct Request {
    ticket: u64,
    range: Range<u64>,
    exclusive: bool,
}

/// A range held until this is dropped.
#[must_use]
pub struct RangeGuard<'a> {
    lock: &'a RangeLock,
    ticket: u64,
}

impl RangeLock {
    /// Waits until no writer is in `range`, and keeps writers out.
    pub fn shared(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.acquire(range, false)
    }

    /// Waits until nobody is in `range`, and keeps everybody out.
    pub fn exclusive(&self, range: Range<u64>) -> RangeGuard<'_> {
        self.acquire(range, true)
    }

    fn acquire(&self, range: Range<u64>, exclusive: bool) -> RangeGuard<'_> {
        let mut queue = self.queue.lock();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        queue.requests.push(Request { ticket, range, exclusive });
        while queue.must_wait(ticket) {
            queue.waiting += 1;
            self.released.wait(&mut queue);
            queue.waiting -= 1;
        }
        RangeGuard { lock: self, ticket }
    }
}

impl Queue {
    fn must_wait(&self, ticket: u64) -> bool {
        let Some(own) = self.requests.iter().position(|request| request.ticket == ticket) else { return false };
        let (earlier, own) = (&self.requests[..own], &self.requests[own]);
        earlier.iter().any(|other| (own.exclusive || other.exclusive) && overlap(&own.range, &other.range))
    }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start.max(b.start) < a.end.min(b.end) // an empty range overlaps nothing
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut queue = self.lock.queue.lock();
        queue.requests.retain(|request| request.ticket != self.ticket);
        if queue.waiting > 0 {
            self.lock.released.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

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
            let _guard = lock.acquire(range, exclusive);
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
}
