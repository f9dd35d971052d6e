//! Counters of the requests that this process served: how many of each operation and how long they took, bytes, and errors by errno. A
//! request counts when it is answered; its time runs from when it was read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use crate::fuse::opcode;
use crate::sys::thread::thread_index;

/// Upper bounds of the times that are counted together; the last counter is for requests that took longer.
pub const BOUNDS: [Duration; 11] = [
    Duration::from_micros(10),
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(10),
];
/// Numbers of errors are below it.
const MAX_ERRNO: usize = 134;
/// Busy threads mostly have a shard each, so that no two write to the same memory.
const SHARDS: usize = 64;

/// What was counted so far.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Each operation that there were requests for.
    pub operations: Vec<OperationCount>,
    /// Failed requests: the errno, and how many.
    pub errors: Vec<(i32, u64)>,
    /// Bytes that `read` requests returned.
    pub bytes_read: u64,
    /// Bytes that `write` requests wrote.
    pub bytes_written: u64,
}

/// The requests of one operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperationCount {
    /// The name that FUSE has for it, in lower case.
    pub name: &'static str,
    /// How many took no longer than each of [`BOUNDS`], and longer than the one before; the last one is of those above all.
    pub by_time: [u64; BOUNDS.len() + 1],
    /// How long all of them took.
    pub total: Duration,
}

impl OperationCount {
    /// How many there were.
    pub fn requests(&self) -> u64 {
        self.by_time.iter().sum()
    }
}

/// The counters as they are now. Of a request that is being answered a part may be missing.
pub fn snapshot() -> Snapshot {
    COUNTERS.snapshot()
}

/// A request was answered, with this errno or 0, after this time. `len` is how many bytes were read or written.
pub(super) fn count(opcode: u32, errno: i32, len: usize, time: Duration) {
    COUNTERS.count(opcode, errno, len, time);
}

static COUNTERS: Counters = Counters::new();

struct Counters([CachePadded<Shard>; SHARDS]);

struct Shard {
    /// By number.
    operations: [Requests; opcode::NAMES.len()],
    errors: [AtomicU64; MAX_ERRNO],
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

struct Requests {
    by_time: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Counters {
    const fn new() -> Self {
        const fn requests() -> Requests {
            Requests { by_time: [const { AtomicU64::new(0) }; BOUNDS.len() + 1], nanos: AtomicU64::new(0) }
        }
        const fn shard() -> CachePadded<Shard> {
            CachePadded::new(Shard {
                operations: [const { requests() }; opcode::NAMES.len()],
                errors: [const { AtomicU64::new(0) }; MAX_ERRNO],
                bytes_read: AtomicU64::new(0),
                bytes_written: AtomicU64::new(0),
            })
        }
        Self([const { shard() }; SHARDS])
    }

    fn count(&self, opcode: u32, errno: i32, len: usize, time: Duration) {
        let shard = &self.0[thread_index() % SHARDS];
        let add = |counter: &AtomicU64, more: u64| {
            counter.fetch_add(more, Ordering::Relaxed);
        };
        let operation = usize::try_from(opcode).ok().and_then(|index| shard.operations.get(index));
        let operation = operation.unwrap_or(&shard.operations[0]);
        add(&operation.by_time[BOUNDS.partition_point(|bound| *bound < time)], 1);
        add(&operation.nanos, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        if errno != 0 {
            let error = usize::try_from(errno).ok().and_then(|errno| shard.errors.get(errno));
            add(error.unwrap_or(&shard.errors[0]), 1);
        } else if opcode == opcode::READ {
            add(&shard.bytes_read, len as u64);
        } else if opcode == opcode::WRITE {
            add(&shard.bytes_written, len as u64);
        }
    }

    fn snapshot(&self) -> Snapshot {
        let sum = |counter: &dyn Fn(&Shard) -> &AtomicU64| -> u64 {
            self.0.iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
        };
        let of_one = |(index, name): (usize, &&'static str)| OperationCount {
            name,
            by_time: std::array::from_fn(|bound| sum(&|shard| &shard.operations[index].by_time[bound])),
            total: Duration::from_nanos(sum(&|shard| &shard.operations[index].nanos)),
        };
        let errors = (0..).zip(0..MAX_ERRNO).map(|(errno, index)| (errno, sum(&|shard| &shard.errors[index])));
        Snapshot {
            operations: opcode::NAMES.iter().enumerate().map(of_one).filter(|one| one.requests() > 0).collect(),
            errors: errors.filter(|&(_, count)| count > 0).collect(),
            bytes_read: sum(&|shard| &shard.bytes_read),
            bytes_written: sum(&|shard| &shard.bytes_written),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_all_threads_are_counted_by_operation_time_and_errno() {
        static COUNTERS: Counters = Counters::new();
        let work = || {
            COUNTERS.count(opcode::READ, 0, 4096, BOUNDS[0]);
            COUNTERS.count(opcode::READ, libc::EIO, 0, BOUNDS[1] + Duration::from_nanos(1));
            COUNTERS.count(opcode::WRITE, 0, 512, Duration::from_secs(60));
            COUNTERS.count(opcode::LOOKUP, libc::ENOENT, 0, Duration::ZERO);
            COUNTERS.count(1000, 100_000, 0, Duration::ZERO);
        };
        let threads = [0; 3].map(|_| std::thread::spawn(work));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let Snapshot { operations, errors, bytes_read, bytes_written } = COUNTERS.snapshot();
        let count = |name, at: &[usize], total| OperationCount {
            name,
            by_time: std::array::from_fn(|bound| if at.contains(&bound) { 3 } else { 0 }),
            total,
        };
        let expected = [
            count("other", &[0], Duration::ZERO),
            count("lookup", &[0], Duration::ZERO),
            count("read", &[0, 2], 3 * (BOUNDS[0] + BOUNDS[1] + Duration::from_nanos(1))),
            count("write", &[BOUNDS.len()], Duration::from_secs(180)),
        ];
        assert_eq!(operations, expected);
        assert_eq!(errors, [(0, 3), (libc::ENOENT, 3), (libc::EIO, 3)]);
        assert_eq!((bytes_read, bytes_written), (3 * 4096, 3 * 512));
    }
}
