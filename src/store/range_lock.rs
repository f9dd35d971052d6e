//! Locks on byte ranges of one component: readers share, a writer is alone, others go by.
//!
//! First come, first served: a request waits for every earlier one that overlaps it and may not share with it. So
//! nobody starves, and overlapping requests take effect in the order of their arrival. Uncontended, a lock is one short
//! critical section to take and one to release; nothing is allocated once the list has grown to the number of threads.
//!
//! tests/range_lock.rs compiles this file with the primitives of a model checker in place of `sync`, and tries all
//! interleavings of a few threads.

use std::ops::Range;

use super::sync::{Condvar, Mutex};

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
