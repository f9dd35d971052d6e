//! Locks on byte ranges of one component: readers share, a writer excludes all, and ranges that do not overlap do not wait.
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
    ticket: Ticket,
}

/// A range held until it is given to [`RangeLock::resume`].
#[must_use]
#[derive(Debug, Eq, PartialEq)]
pub struct Ticket(u64);

impl RangeGuard<'_> {
    /// Keeps the range held beyond the guard's life, for a caller that cannot wait here for the end of what it is held for.
    pub fn into_ticket(self) -> Ticket {
        let ticket = Ticket(self.ticket.0);
        std::mem::forget(self);
        ticket
    }
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

    /// As [`shared`](Self::shared), without waiting: `None` when a writer is in `range` or waits for it.
    pub fn try_shared(&self, range: Range<u64>) -> Option<RangeGuard<'_>> {
        self.try_acquire(range, false)
    }

    /// As [`exclusive`](Self::exclusive), without waiting: `None` when anybody is in `range` or waits for it.
    pub fn try_exclusive(&self, range: Range<u64>) -> Option<RangeGuard<'_>> {
        self.try_acquire(range, true)
    }

    /// Resumes, on any thread, what [`RangeGuard::into_ticket`] left.
    pub fn resume(&self, ticket: Ticket) -> RangeGuard<'_> {
        RangeGuard { lock: self, ticket }
    }

    fn acquire(&self, range: Range<u64>, exclusive: bool) -> RangeGuard<'_> {
        let mut queue = self.queue.lock();
        let ticket = queue.push(range, exclusive);
        while queue.must_wait(ticket) {
            queue.waiting += 1;
            self.released.wait(&mut queue);
            queue.waiting -= 1;
        }
        RangeGuard { lock: self, ticket: Ticket(ticket) }
    }

    fn try_acquire(&self, range: Range<u64>, exclusive: bool) -> Option<RangeGuard<'_>> {
        let mut queue = self.queue.lock();
        let ticket = queue.push(range, exclusive);
        if queue.must_wait(ticket) {
            queue.requests.pop(); // nobody came in between
            return None;
        }
        Some(RangeGuard { lock: self, ticket: Ticket(ticket) })
    }
}

impl Queue {
    fn push(&mut self, range: Range<u64>, exclusive: bool) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.requests.push(Request { ticket, range, exclusive });
        ticket
    }

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
        queue.requests.retain(|request| request.ticket != self.ticket.0);
        if queue.waiting > 0 {
            self.lock.released.notify_all();
        }
    }
}
