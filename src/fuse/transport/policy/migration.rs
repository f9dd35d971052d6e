//! Queue-depth-1 clients that the scheduler migrates between CPUs, and which thread serves them best.
//!
//! The thread on a client's CPU serves it without waking another CPU, as long as the client stays there. But a client that is not
//! pinned migrates when it gets its reply, to an idle CPU or to that of the replying thread, and its next request comes to another
//! thread. Then each request wakes idle CPUs, which takes longer than all the rest. So of two threads that alternate on one client,
//! one gets the entries of both. As long as the client is on another CPU, that thread spins for the next request instead of going to
//! sleep: the client keeps its CPU to itself and stays.
//!
//! The kernel sends the next request of a queue to the entry that came back last, so it takes one entry to move a client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

/// How long a thread spins: long enough for a client that sleeps on an idle CPU between its requests.
const SPIN_TIME: Duration = Duration::from_micros(60);
/// A request sooner than this after one that another thread served is likely from another client.
const SOON: Duration = Duration::from_micros(20);
/// A request later than this is from a client in no hurry.
const LATE: Duration = Duration::from_micros(100);
/// A thread that waited longer than this does not spin next time. Most of that time goes into waking up to two CPUs.
const LONG: Duration = Duration::from_micros(200);
/// After this many spins in vain in a row the thread skips some; and the longest run of skipped spins, as a power of two.
const MAX_VAIN_SPINS: u32 = 3;
const MAX_SKIP_BITS: u32 = 6;
/// This many requests in a row must point to the same placement before the entry moves.
const MIN_STREAK: u32 = 8;

/// Which thread of a mount was the last to get a single request, and when; and which threads are busy.
pub(in crate::fuse::transport) struct Latest {
    began: Instant,
    /// Nanoseconds since `began`, above [`THREAD_BITS`] for the thread's number.
    at: CachePadded<AtomicU64>,
    busy: Box<[CachePadded<AtomicBool>]>,
}

const THREAD_BITS: u32 = 16;

impl Latest {
    /// For this many threads.
    pub(in crate::fuse::transport) fn new(threads: usize) -> Self {
        let busy = (0..threads).map(|_| CachePadded::default()).collect();
        Self { began: Instant::now(), at: CachePadded::default(), busy }
    }

    fn set_busy(&self, thread: usize, busy: bool) {
        if let Some(flag) = self.busy.get(thread) {
            flag.store(busy, Ordering::Relaxed);
        }
    }

    fn is_busy(&self, thread: usize) -> bool {
        self.busy.get(thread).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Records a request of this thread. If another thread had the one before, returns which, and how long ago.
    fn replace(&self, thread: usize, now: Instant) -> Option<(usize, Duration)> {
        // The highest bits are lost, so every 3 days one request seems to come sooner than it did.
        let now = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX) & (u64::MAX >> THREAD_BITS);
        let last = self.at.swap(now << THREAD_BITS | thread as u64, Ordering::Relaxed);
        let other = usize::try_from(last & ((1 << THREAD_BITS) - 1)).unwrap_or_default();
        (other != thread).then(|| (other, Duration::from_nanos(now.saturating_sub(last >> THREAD_BITS))))
    }
}

/// Which thread should serve a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::fuse::transport) enum Placement {
    /// The one that does so now.
    Same,
    /// This one, which serves the client as well.
    Other(usize),
    /// The one on the client's CPU.
    OnItsCpu,
}

/// Whether spinning for the next request pays.
#[derive(Default)]
struct SpinBackoff {
    /// Whether the last request came soon.
    came_soon: bool,
    /// Spins in a row in vain.
    in_vain: u32,
    /// Waits that are still to pass without spinning.
    skip: u32,
}

impl SpinBackoff {
    /// Whether to spin in a wait that begins.
    fn begins(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.came_soon
    }

    fn ended(&mut self, waited: Duration, found: Option<bool>) {
        self.came_soon = waited < LONG;
        match found {
            None => {}
            Some(true) => self.in_vain = 0,
            Some(false) => {
                self.in_vain += 1;
                if self.in_vain >= MAX_VAIN_SPINS {
                    // Less and less often, as long as none of them finds a request.
                    self.skip = 1 << (self.in_vain + 1).min(MAX_SKIP_BITS);
                }
            }
        }
    }
}

/// What the thread on a CPU has seen of the clients that it serves.
pub(in crate::fuse::transport) struct MigrationPolicy<'a> {
    latest: &'a Latest,
    thread: usize,
    backoff: SpinBackoff,
    /// Single requests in a row: after one that another thread had; from other CPUs than the thread's; and of these, those that came
    /// late.
    shared: u32,
    elsewhere: u32,
    slow: u32,
    /// Single requests in a row with none of another thread between them.
    undisturbed: u32,
}

impl<'a> MigrationPolicy<'a> {
    /// For the thread with this number.
    pub(in crate::fuse::transport) fn new(latest: &'a Latest, thread: usize) -> Self {
        Self { latest, thread, backoff: SpinBackoff::default(), shared: 0, elsewhere: 0, slow: 0, undisturbed: 0 }
    }

    /// A wait begins. Returns until when to spin; `None`: not at all. If the client shares the thread's CPU, spinning would keep it from
    /// running.
    pub(in crate::fuse::transport) fn begin_wait(&mut self, now: Instant) -> Option<Instant> {
        self.latest.set_busy(self.thread, false);
        let is_likely = self.elsewhere >= MIN_STREAK || (self.elsewhere > 0 && self.undisturbed >= 2 * MIN_STREAK);
        (is_likely && self.backoff.begins()).then(|| now + SPIN_TIME)
    }

    /// A wait of this length is over. `found`: whether spinning found a request, if it was tried.
    pub(in crate::fuse::transport) fn end_wait(&mut self, waited: Duration, found: Option<bool>) {
        self.latest.set_busy(self.thread, true);
        self.backoff.ended(waited, found);
    }

    /// Several requests came at once, or something else that does not show queue-depth-1 clients.
    pub(in crate::fuse::transport) fn reset(&mut self) {
        (self.shared, self.elsewhere, self.slow, self.undisturbed) = (0, 0, 0, 0);
    }

    /// A single request came, from the thread's own CPU or another.
    pub(in crate::fuse::transport) fn placement(&mut self, from_own_cpu: bool, now: Instant) -> Placement {
        let other = self.latest.replace(self.thread, now);
        self.undisturbed = if other.is_some() { 0 } else { self.undisturbed.saturating_add(1) };
        let other = other.filter(|&(other, since)| {
            // A busy thread has another request.
            (SOON..LATE).contains(&since) && !self.latest.is_busy(other)
        });
        self.shared = if other.is_some() { self.shared.saturating_add(1) } else { 0 };
        if from_own_cpu {
            (self.elsewhere, self.slow) = (0, 0);
        } else {
            self.elsewhere = self.elsewhere.saturating_add(1);
            self.slow = if self.backoff.came_soon { 0 } else { self.slow + 1 };
        }
        match other {
            // Both threads see it; one of them hands over.
            Some((other, _)) if self.shared >= MIN_STREAK && other < self.thread => {
                self.shared = 0;
                Placement::Other(other)
            }
            _ if self.slow >= MIN_STREAK => {
                self.slow = 0;
                Placement::OnItsCpu
            }
            _ => Placement::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: usize = 1;
    const OTHER: usize = 0;

    /// Placements for requests from the thread's own CPU, each this long after one of another thread, which is still busy or not.
    fn after_others(microseconds: u64, busy: bool) -> Vec<Placement> {
        let latest = Latest::new(2);
        let (mut migration, mut now) = (MigrationPolicy::new(&latest, THIS), latest.began);
        let serve = |_| {
            now += Duration::from_micros(500);
            latest.replace(OTHER, now);
            latest.set_busy(OTHER, busy);
            migration.placement(true, now + Duration::from_micros(microseconds))
        };
        (0..2 * MIN_STREAK).map(serve).collect()
    }

    #[test]
    fn client_that_alternates_between_two_threads_moves_to_one() {
        let said = after_others(40, false);
        assert_eq!(said.iter().filter(|&&better| better == Placement::Other(OTHER)).count(), 2);
        assert_eq!(said[MIN_STREAK as usize - 1], Placement::Other(OTHER));
        for (other_client, busy) in [(5, false), (400, false), (40, true)] {
            let said = after_others(other_client, busy);
            assert!(said.iter().all(|&better| better == Placement::Same), "{other_client} {busy}");
        }
    }

    #[test]
    fn client_that_stays_is_left_alone() {
        let latest = Latest::new(2);
        let mut migration = MigrationPolicy::new(&latest, THIS);
        for request in 0..100 {
            let now = latest.began + Duration::from_micros(request * 40);
            assert_eq!(migration.placement(true, now), Placement::Same);
            migration.end_wait(Duration::from_micros(10), None);
            assert_eq!(migration.begin_wait(now), None, "the client needs the CPU");
        }
    }

    /// Whether the thread spins for a single request, which is then found or not, and the placement for it.
    fn comes(
        migration: &mut MigrationPolicy<'_>,
        from_own_cpu: bool,
        microseconds: u64,
        found: bool,
    ) -> (bool, Placement) {
        let now = migration.latest.began;
        let looks = migration.begin_wait(now).is_some();
        migration.end_wait(Duration::from_micros(microseconds), looks.then_some(found));
        (looks, migration.placement(from_own_cpu, now))
    }

    #[test]
    fn thread_spins_for_clients_on_other_cpus() {
        let latest = Latest::new(2);
        let mut migration = MigrationPolicy::new(&latest, THIS);
        let mut looked = 0;
        for _ in 0..100 {
            let (looks, better) = comes(&mut migration, false, 30, true);
            looked += u32::from(looks);
            assert_eq!(better, Placement::Same);
        }
        assert_eq!(looked, 100 - MIN_STREAK);
        migration.reset();
        assert_eq!(migration.begin_wait(latest.began), None);
    }

    #[test]
    fn thread_spins_for_a_migrating_client_only_while_it_is_elsewhere() {
        let latest = Latest::new(2);
        let mut migration = MigrationPolicy::new(&latest, THIS);
        latest.replace(THIS, latest.began);
        let mut looked = [0, 0];
        for request in 0..100 {
            looked[request % 2] += u32::from(comes(&mut migration, request % 2 == 0, 30, true).0);
        }
        assert_eq!(looked, [(100 - 2 * MIN_STREAK) / 2, 0]);
    }

    #[test]
    fn spins_in_vain_become_rare() {
        let latest = Latest::new(2);
        let mut migration = MigrationPolicy::new(&latest, THIS);
        let looked: u32 = (0..1_000).map(|_| u32::from(comes(&mut migration, false, 150, false).0)).sum();
        assert!((MAX_VAIN_SPINS + 5..30).contains(&looked), "{looked}");
    }

    #[test]
    fn client_in_no_hurry_is_served_on_its_cpu() {
        let latest = Latest::new(2);
        let (mut migration, now) = (MigrationPolicy::new(&latest, THIS), latest.began);
        let mut serve = |_| {
            migration.end_wait(Duration::from_millis(1), None);
            migration.placement(false, now)
        };
        let said: Vec<Placement> = (0..MIN_STREAK).map(&mut serve).collect();
        assert_eq!(said.last(), Some(&Placement::OnItsCpu));
        assert!(said[..said.len() - 1].iter().all(|&better| better == Placement::Same));
    }
}
