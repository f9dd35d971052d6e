//! Which thread serves which of the kernel's queues: a queue for each possible CPU, a thread for each CPU that we may use.

use std::fs;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::error::{Context, Error, Kind, Result};

/// Entries of a queue with the thread that is on its CPU. Few: the kernel gives requests to the entry that came back last, so
/// a thread that is too slow leaves requests to others.
const OWN_ENTRIES: usize = 6;
/// Entries of a queue with threads on other CPUs, in all. As many as its own thread has: a client's large requests, which the
/// kernel puts into one queue, are then divided between two threads.
const SPARE_ENTRIES: usize = 6;
/// Threads that hold spare entries of a queue, a divisor of how many there are.
const NEIGHBOURS: usize = 3;

/// What one thread serves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::fuse::transport) struct Share {
    /// Of the thread, counted from 0.
    pub(in crate::fuse::transport) number: usize,
    /// The CPU that the thread stays on.
    pub(in crate::fuse::transport) cpu: Option<usize>,
    /// Whether each of several threads stays on a CPU.
    pub(in crate::fuse::transport) is_kept: bool,
    pub(in crate::fuse::transport) queues: Vec<QueueShare>,
}

/// What one thread holds of one queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::fuse::transport) struct QueueShare {
    pub(in crate::fuse::transport) queue: u16,
    pub(in crate::fuse::transport) entries: usize,
    /// Number of the thread that the queue belongs to.
    pub(in crate::fuse::transport) home: usize,
}

/// Shares for at most `threads` threads, of all queues of this machine.
///
/// # Errors
/// `Io` or `Unsupported` when the system does not say which CPUs it has.
pub(in crate::fuse::transport) fn shares(threads: usize) -> Result<Vec<Share>> {
    const POSSIBLE: &str = "/sys/devices/system/cpu/possible";
    let text = fs::read_to_string(POSSIBLE).context(|| format!("reading {POSSIBLE}"))?;
    let queues = count_cpus(text.trim())
        .ok_or_else(|| Error::new(Kind::Unsupported, format!("{POSSIBLE} says {text:?}, expected ranges of CPUs")))?;
    let mask = sched_getaffinity(None).context(|| "asking for usable CPUs".into())?;
    let usable: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| mask.is_set(cpu)).collect();
    Ok(plan(queues, &usable, threads))
}

/// Keeps the calling thread on a CPU. If that is not allowed any more, the thread stays free.
pub(in crate::fuse::transport) fn stay_on(cpu: usize) {
    let mut mask = CpuSet::new();
    mask.set(cpu);
    if let Err(error) = sched_setaffinity(None, &mask) {
        tracing::debug!("{}", Error::errno(format!("keeping a thread on CPU {cpu}"), error).chain());
    }
}

/// How many CPUs a list such as `0-3,8` names.
fn count_cpus(list: &str) -> Option<u16> {
    let mut count: u16 = 0;
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        count = count.checked_add(last.checked_sub(first)?.checked_add(1)?)?;
    }
    Some(count)
}

fn plan(queues: u16, usable: &[usize], threads: usize) -> Vec<Share> {
    let count = threads.clamp(1, usable.len().max(1));
    let pinned = count == usable.len();
    let mut shares: Vec<Share> = (0..count)
        .map(|number| Share {
            number,
            cpu: usable.get(number).copied().filter(|_| pinned),
            is_kept: pinned && count > 1,
            queues: Vec::new(),
        })
        .collect();
    for queue in 0..queues {
        let home = shares.iter().position(|share| share.cpu == Some(usize::from(queue)));
        let home = home.unwrap_or(usize::from(queue) % count);
        shares[home].queues.push(QueueShare { queue, entries: OWN_ENTRIES, home });
        let neighbours = NEIGHBOURS.min(count - 1);
        for distance in 1..=neighbours {
            let entries = SPARE_ENTRIES / neighbours;
            shares[(home + distance) % count].queues.push(QueueShare { queue, entries, home });
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_counted() {
        for (list, count) in [("0", Some(1)), ("0-1", Some(2)), ("0-3,8,10-11", Some(7)), ("", None), ("3-1", None)] {
            assert_eq!(count_cpus(list), count, "{list:?}");
        }
    }

    #[test]
    fn queue_belongs_to_thread_on_its_cpu() {
        let shares = plan(2, &[0, 1], 2);
        let held = |queue, entries| QueueShare { queue, entries, home: queue.into() };
        let (first, second) = (held(0, OWN_ENTRIES), held(1, SPARE_ENTRIES));
        assert_eq!(shares[0], Share { number: 0, cpu: Some(0), is_kept: true, queues: vec![first, second] });
        let (first, second) = (held(0, SPARE_ENTRIES), held(1, OWN_ENTRIES));
        assert_eq!(shares[1], Share { number: 1, cpu: Some(1), is_kept: true, queues: vec![first, second] });
    }

    #[test]
    fn every_queue_has_entries() {
        for (queues, usable, threads) in [
            (1, vec![0], 1),
            (8, vec![5], 4),
            (8, vec![2, 3, 7], 3),
            (8, vec![2, 3, 7], 2),
            (64, (0..64).collect(), 64),
            (4, vec![], 2),
        ] {
            let shares = plan(queues, &usable, threads);
            assert!(shares.len() <= threads && shares.iter().all(|share| !share.queues.is_empty()));
            for queue in 0..queues {
                let held: Vec<usize> = shares
                    .iter()
                    .flat_map(|share| &share.queues)
                    .filter(|held| held.queue == queue)
                    .map(|held| held.entries)
                    .collect();
                let spare = if shares.len() > 1 { SPARE_ENTRIES } else { 0 };
                assert_eq!(held.iter().sum::<usize>(), OWN_ENTRIES + spare, "{queue} of {queues}");
                assert_eq!(held.len(), 1 + NEIGHBOURS.min(shares.len() - 1));
            }
        }
    }
}
