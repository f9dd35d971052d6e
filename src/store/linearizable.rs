//! Whether what threads saw of a place could have come about one request after the other (linearizability).
//!
//! For a place whose every write has a value of its own this can be decided exactly (Gibbons and Korach, "Testing Shared
//! Memories", 1997): the requests of one value, its write and the reads that gave it, must fit together before or after
//! those of every other value.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// A request to one place, with the moments between which it took effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) began: u64,
    pub(super) ended: u64,
    pub(super) value: u64,
    pub(super) is_write: bool,
}

/// The requests of one value.
#[derive(Clone, Copy)]
struct Cluster {
    written: Option<Event>,
    first_end: u64,
    last_begin: u64,
}

impl Cluster {
    /// One request ended before another began: in between, the place certainly held the value.
    fn is_forward(self) -> bool {
        self.first_end < self.last_begin
    }
}

/// Says what is impossible about the history of a place that held 0 at first; values of writes differ.
pub(super) fn contradiction(history: &[Event]) -> Option<String> {
    let initial = Event { began: 0, ended: 0, value: 0, is_write: true };
    let mut clusters: BTreeMap<u64, Cluster> = BTreeMap::new();
    for event in std::iter::once(&initial).chain(history) {
        let cluster =
            clusters.entry(event.value).or_insert(Cluster { written: None, first_end: u64::MAX, last_begin: 0 });
        cluster.first_end = cluster.first_end.min(event.ended);
        cluster.last_begin = cluster.last_begin.max(event.began);
        if event.is_write {
            cluster.written = Some(*event);
        }
    }
    for event in history.iter().filter(|event| !event.is_write) {
        match clusters[&event.value].written {
            None => return Some(format!("{event:?} gave what nobody wrote")),
            Some(write) if event.ended < write.began => return Some(format!("{event:?} came before {write:?}")),
            Some(_) => {}
        }
    }
    let mut forward: Vec<(u64, Cluster)> = clusters
        .iter()
        .map(|(&value, &cluster)| (value, cluster))
        .filter(|(_, cluster)| cluster.is_forward())
        .collect();
    forward.sort_by_key(|(_, cluster)| cluster.first_end);
    for pair in forward.windows(2) {
        if pair[1].1.first_end < pair[0].1.last_begin {
            return Some(format!("the place held {} and {} at once", pair[0].0, pair[1].0));
        }
    }
    for (value, cluster) in clusters.iter().filter(|(_, cluster)| !cluster.is_forward()) {
        let (begin, end) = (cluster.last_begin, cluster.first_end);
        let before = forward.partition_point(|(_, other)| other.first_end < begin);
        if let Some((other, zone)) = forward[..before].last()
            && end < zone.last_begin
        {
            return Some(format!("the place held {value} while it certainly held {other}"));
        }
    }
    None
}

/// Bytes of a place: neither a unit nor a part of one, so that neighbours share units.
const PLACE: usize = 100;
const PLACES: u64 = 64;
/// What [`contradictions_of`] works on.
pub(super) const FILE_LEN: u64 = PLACES * PLACE as u64;

/// Threads write and read overlapping ranges of a file of zeros, in whole places; what they saw is judged place by place.
pub(super) fn contradictions_of(
    read: impl Fn(u64, &mut [u8]) + Sync,
    write: impl Fn(u64, &[u8]) + Sync,
    requests: u64,
) -> Vec<String> {
    let clock = AtomicU64::new(1);
    let tick = || clock.fetch_add(1, Ordering::SeqCst);
    let work = |thread: u64| {
        let mut events: Vec<(u64, Event)> = Vec::new();
        let mut torn = Vec::new();
        for number in 0..requests {
            let mixed = (thread << 32 | number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let first = mixed >> 20 & (PLACES - 1);
            let count = ((mixed >> 40 & 7) + 1).min(PLACES - first);
            let is_write = mixed >> 60 < 9;
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * PLACE];
            let value = thread << 32 | (number + 1);
            let began = tick();
            if is_write {
                bytes.chunks_mut(PLACE).for_each(|place| fill(place, value));
                write(first * PLACE as u64, &bytes);
            } else {
                read(first * PLACE as u64, &mut bytes);
            }
            let ended = tick();
            for (place, bytes) in (first..).zip(bytes.chunks(PLACE)) {
                match value_in(bytes) {
                    Some(value) => events.push((place, Event { began, ended, value, is_write })),
                    None => torn.push(format!("place {place} is a mixture of two writes")),
                }
            }
        }
        (events, torn)
    };
    let seen: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread panicked")).collect()
    });
    let mut contradictions: Vec<String> = seen.iter().flat_map(|(_, torn)| torn.clone()).collect();
    for place in 0..PLACES {
        let events = seen.iter().flat_map(|(events, _)| events).filter(|(at, _)| *at == place);
        let history: Vec<Event> = events.map(|&(_, event)| event).collect();
        contradictions.extend(contradiction(&history).map(|said| format!("place {place}: {said}")));
    }
    contradictions
}

fn fill(place: &mut [u8], value: u64) {
    place.iter_mut().zip(value.to_le_bytes().into_iter().cycle()).for_each(|(byte, of_value)| *byte = of_value);
}

/// The value that a place holds as a whole.
fn value_in(place: &[u8]) -> Option<u64> {
    let value = u64::from_le_bytes(*place.first_chunk()?);
    let mut whole = [0; PLACE];
    fill(&mut whole, value);
    (place == whole).then_some(value)
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn event(began: u64, ended: u64, value: u64, is_write: bool) -> Event {
        Event { began, ended, value, is_write }
    }

    #[test]
    fn possible_histories_are_possible() {
        let write = event(1, 5, 7, true);
        for history in [
            vec![],
            vec![event(1, 2, 0, false)],
            vec![write, event(2, 3, 0, false), event(3, 4, 7, false)],
            vec![write, event(2, 9, 0, false), event(6, 9, 7, false)],
            vec![write, event(2, 6, 8, true), event(7, 8, 7, false)],
            vec![event(1, 2, 7, true), event(3, 10, 8, true), event(4, 5, 7, false), event(6, 7, 8, false)],
        ] {
            assert_eq!(contradiction(&history), None, "{history:?}");
        }
    }

    #[test]
    fn impossible_histories_are_found() {
        let (one, two) = (event(1, 2, 1, true), event(3, 4, 2, true));
        let (slow_one, slow_two) = (event(1, 9, 1, true), event(1, 9, 2, true));
        for (history, why) in [
            (vec![event(1, 2, 9, false)], "nobody wrote"),
            (vec![event(1, 2, 1, false), event(3, 4, 1, true)], "came before"),
            (vec![one, two, event(5, 6, 1, false)], "while it certainly held"),
            (vec![one, event(5, 6, 0, false)], "while it certainly held"),
            (vec![slow_one, slow_two, event(10, 11, 1, false), event(12, 13, 2, false)], "at once"),
        ] {
            let said = contradiction(&history);
            assert!(said.as_ref().is_some_and(|said| said.contains(why)), "{history:?}: {said:?}");
        }
    }

    /// The control: units are read, changed and written back as a whole, without a lock in between.
    #[test]
    fn a_file_without_locks_is_found_out() {
        let file = Mutex::new(vec![0; 7000]);
        let range = |offset: u64, len: usize| {
            let start = usize::try_from(offset).unwrap();
            start..start + len
        };
        let read = |offset, bytes: &mut [u8]| bytes.copy_from_slice(&file.lock()[range(offset, bytes.len())]);
        let write = |offset, bytes: &[u8]| {
            let wanted = range(offset, bytes.len());
            let start = wanted.start / 512 * 512;
            let units = start..wanted.end.next_multiple_of(512);
            let mut copy = file.lock()[units.clone()].to_vec();
            std::thread::yield_now();
            copy[wanted.start - start..wanted.end - start].copy_from_slice(bytes);
            file.lock()[units].copy_from_slice(&copy);
        };
        assert!(!contradictions_of(read, write, 2000).is_empty(), "lost updates were not noticed");
    }
}
