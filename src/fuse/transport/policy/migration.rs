//! Clients with one request at a time whom the scheduler moves from CPU to CPU, and which thread serves them best.
//!
//! The thread on a client's CPU serves it without waking another CPU, as long as the client stays there. But one that may roam is
//! moved when it gets its reply, to an idle CPU or to that of the thread which gives it, and its next request comes to another
//! thread. Then each request wakes idle CPUs, which takes longer than all the rest. So of two threads that serve one client in turns,
//! one gets the entries of both, and as long as the client is on another CPU, it looks for the next request instead of going to
//! sleep: the client keeps its CPU to itself and stays.
//!
//! The kernel sends the next request of a queue to the entry that came back last, so it takes one entry to move a client.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;

/// How long a thread looks: long enough for a client that sleeps on an idle CPU between its requests.
const PATIENCE: Duration = Duration::from_micros(60);
/// A request sooner than this behind one that another thread served is likely by another client.
const SOON: Duration = Duration::from_micros(20);
/// One later than this is by a client in no hurry.
const LATE: Duration = Duration::from_micros(100);
/// Who waited longer than this does not look next time. Two CPUs may have had to be woken meanwhile, which takes most of it.
const LONG: Duration = Duration::from_micros(200);
/// Looks in a row that may be in vain before the thread gives it a rest, and the longest rest, as a power of two.
const MOST_IN_VAIN: u32 = 3;
const MOST_REST_BITS: u32 = 6;
/// Requests in a row that have to say the same before something is made of it.
const ENOUGH: u32 = 8;

/// Which thread of a mount last had a request alone, and when; and which threads are at work.
pub(in crate::fuse::transport) struct Latest {
    began: Instant,
    /// Nanoseconds since then, above [`THREAD_BITS`] for the thread's number.
    at: CachePadded<AtomicU64>,
    at_work: Box<[CachePadded<AtomicBool>]>,
}

const THREAD_BITS: u32 = 16;

impl Latest {
    /// For so many threads.
    pub(in crate::fuse::transport) fn new(threads: usize) -> Self {
        let at_work = (0..threads).map(|_| CachePadded::default()).collect();
        Self { began: Instant::now(), at: CachePadded::default(), at_work }
    }

    fn set_at_work(&self, thread: usize, at_work: bool) {
        if let Some(flag) = self.at_work.get(thread) {
            flag.store(at_work, Ordering::Relaxed);
        }
    }

    fn is_at_work(&self, thread: usize) -> bool {
        self.at_work.get(thread).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Notes a request of this thread. Returns which other thread had the one before, if another had, and how long ago.
    fn replace(&self, thread: usize, now: Instant) -> Option<(usize, Duration)> {
        // The highest bits are lost, so after 3 days one request seems to come sooner than it did.
        let now = now.saturating_duration_since(self.began).as_nanos();
        let now = u64::try_from(now).unwrap_or(u64::MAX) & (u64::MAX >> THREAD_BITS);
        let last = self.at.swap(now << THREAD_BITS | thread as u64, Ordering::Relaxed);
        let other = usize::try_from(last & ((1 << THREAD_BITS) - 1)).unwrap_or_default();
        (other != thread).then(|| (other, Duration::from_nanos(now.saturating_sub(last >> THREAD_BITS))))
    }
}

/// Which thread had better serve a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::fuse::transport) enum Better {
    /// The one that does.
    Same,
    /// This one, which serves the client as well.
    Other(usize),
    /// The one on the client's CPU.
    OnItsCpu,
}

/// Whether looking for the next request pays.
#[derive(Default)]
struct Looking {
    /// Whether the last request did not take long to come.
    came_soon: bool,
    /// Looks in a row in vain.
    in_vain: u32,
    /// Waits that go by without a look.
    rest: u32,
}

impl Looking {
    /// Whether to look in a wait that begins.
    fn begins(&mut self) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
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
                if self.in_vain >= MOST_IN_VAIN {
                    // Ever more seldom, as long as none of them finds any.
                    self.rest = 1 << (self.in_vain + 1).min(MOST_REST_BITS);
                }
            }
        }
    }
}

/// What the thread on a CPU knows of the clients that it serves.
pub(in crate::fuse::transport) struct Roaming<'a> {
    latest: &'a Latest,
    thread: usize,
    looking: Looking,
    /// Requests in a row, each alone: behind one that another thread had; from other CPUs than the thread's; of these, those that
    /// took long to come.
    shared: u32,
    elsewhere: u32,
    slow: u32,
    /// Requests in a row, each alone, with none of another thread between them.
    single: u32,
}

impl<'a> Roaming<'a> {
    /// For a thread of this number.
    pub(in crate::fuse::transport) fn new(latest: &'a Latest, thread: usize) -> Self {
        Self { latest, thread, looking: Looking::default(), shared: 0, elsewhere: 0, slow: 0, single: 0 }
    }

    /// A wait begins. Returns until when to look; `None`: not at all. Where the client shares the thread's CPU, that would keep it from
    /// asking.
    pub(in crate::fuse::transport) fn begin_wait(&mut self, now: Instant) -> Option<Instant> {
        self.latest.set_at_work(self.thread, false);
        let is_likely = self.elsewhere >= ENOUGH || (self.elsewhere > 0 && self.single >= 2 * ENOUGH);
        (is_likely && self.looking.begins()).then(|| now + PATIENCE)
    }

    /// A wait is over that took so long; `found`: by looking, or not, if that was tried.
    pub(in crate::fuse::transport) fn end_wait(&mut self, waited: Duration, found: Option<bool>) {
        self.latest.set_at_work(self.thread, true);
        self.looking.ended(waited, found);
    }

    /// Several requests came at once, or something else that says nothing of a client with one at a time.
    pub(in crate::fuse::transport) fn lose_track(&mut self) {
        (self.shared, self.elsewhere, self.slow, self.single) = (0, 0, 0, 0);
    }

    /// A request came alone, from the thread's own CPU or another.
    pub(in crate::fuse::transport) fn came_alone(&mut self, from_own_cpu: bool, now: Instant) -> Better {
        let other = self.latest.replace(self.thread, now);
        self.single = if other.is_some() { 0 } else { self.single.saturating_add(1) };
        let other = other.filter(|&(other, since)| {
            // One that is at work has another request.
            (SOON..LATE).contains(&since) && !self.latest.is_at_work(other)
        });
        self.shared = if other.is_some() { self.shared.saturating_add(1) } else { 0 };
        if from_own_cpu {
            (self.elsewhere, self.slow) = (0, 0);
        } else {
            self.elsewhere = self.elsewhere.saturating_add(1);
            self.slow = if self.looking.came_soon { 0 } else { self.slow + 1 };
        }
        match other {
            // Both see it; one of them gives.
            Some((other, _)) if self.shared >= ENOUGH && other < self.thread => {
                self.shared = 0;
                Better::Other(other)
            }
            _ if self.slow >= ENOUGH => {
                self.slow = 0;
                Better::OnItsCpu
            }
            _ => Better::Same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THIS: usize = 1;
    const OTHER: usize = 0;

    /// What is said of requests from the own CPU, each so long behind one that another thread had, which is still at work or not.
    fn behind_others(microseconds: u64, at_work: bool) -> Vec<Better> {
        let latest = Latest::new(2);
        let (mut roaming, mut now) = (Roaming::new(&latest, THIS), latest.began);
        let serve = |_| {
            now += Duration::from_micros(500);
            latest.replace(OTHER, now);
            latest.set_at_work(OTHER, at_work);
            roaming.came_alone(true, now + Duration::from_micros(microseconds))
        };
        (0..2 * ENOUGH).map(serve).collect()
    }

    #[test]
    fn a_client_that_comes_back_after_another_thread_served_it_roams() {
        let said = behind_others(40, false);
        assert_eq!(said.iter().filter(|&&better| better == Better::Other(OTHER)).count(), 2);
        assert_eq!(said[ENOUGH as usize - 1], Better::Other(OTHER));
        for (other_client, at_work) in [(5, false), (400, false), (40, true)] {
            let said = behind_others(other_client, at_work);
            assert!(said.iter().all(|&better| better == Better::Same), "{other_client} {at_work}");
        }
    }

    #[test]
    fn a_client_that_stays_does_not_roam() {
        let latest = Latest::new(2);
        let mut roaming = Roaming::new(&latest, THIS);
        for request in 0..100 {
            let now = latest.began + Duration::from_micros(request * 40);
            assert_eq!(roaming.came_alone(true, now), Better::Same);
            roaming.end_wait(Duration::from_micros(10), None);
            assert_eq!(roaming.begin_wait(now), None, "the client needs the CPU");
        }
    }

    /// Whether the thread looks for a request that comes alone, which then is found or not, and what is said of it.
    fn comes(roaming: &mut Roaming<'_>, from_own_cpu: bool, microseconds: u64, found: bool) -> (bool, Better) {
        let now = roaming.latest.began;
        let looks = roaming.begin_wait(now).is_some();
        roaming.end_wait(Duration::from_micros(microseconds), looks.then_some(found));
        (looks, roaming.came_alone(from_own_cpu, now))
    }

    #[test]
    fn clients_on_other_cpus_are_looked_for() {
        let latest = Latest::new(2);
        let mut roaming = Roaming::new(&latest, THIS);
        let mut looked = 0;
        for _ in 0..100 {
            let (looks, better) = comes(&mut roaming, false, 30, true);
            looked += u32::from(looks);
            assert_eq!(better, Better::Same);
        }
        assert_eq!(looked, 100 - ENOUGH);
        roaming.lose_track();
        assert_eq!(roaming.begin_wait(latest.began), None);
    }

    #[test]
    fn a_client_that_comes_and_goes_is_looked_for_while_it_is_elsewhere() {
        let latest = Latest::new(2);
        let mut roaming = Roaming::new(&latest, THIS);
        latest.replace(THIS, latest.began);
        let mut looked = [0, 0];
        for request in 0..100 {
            looked[request % 2] += u32::from(comes(&mut roaming, request % 2 == 0, 30, true).0);
        }
        assert_eq!(looked, [(100 - 2 * ENOUGH) / 2, 0]);
    }

    #[test]
    fn who_looks_in_vain_does_so_ever_more_seldom() {
        let latest = Latest::new(2);
        let mut roaming = Roaming::new(&latest, THIS);
        let looked: u32 = (0..1_000).map(|_| u32::from(comes(&mut roaming, false, 150, false).0)).sum();
        assert!((MOST_IN_VAIN + 5..30).contains(&looked), "{looked}");
    }

    #[test]
    fn a_client_in_no_hurry_is_better_served_on_its_cpu() {
        let latest = Latest::new(2);
        let (mut roaming, now) = (Roaming::new(&latest, THIS), latest.began);
        let mut serve = |_| {
            roaming.end_wait(Duration::from_millis(1), None);
            roaming.came_alone(false, now)
        };
        let said: Vec<Better> = (0..ENOUGH).map(&mut serve).collect();
        assert_eq!(said.last(), Some(&Better::OnItsCpu));
        assert!(said[..said.len() - 1].iter().all(|&better| better == Better::Same));
    }
}
