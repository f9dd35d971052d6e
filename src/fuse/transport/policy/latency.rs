//! Whether a thread without a stand-in handles name and attribute operations itself.
//!
//! They take microseconds, but when a journal is full, or a medium slow, one of them can take as long as many reads and writes, which
//! would have to wait for it. So after a slow one, the next ones go to the dispatcher.

use std::time::Duration;

/// An operation that takes longer holds up others.
const SLOW: Duration = Duration::from_micros(500);
/// How many operations the dispatcher gets after the first slow one, and at most, as powers of two.
const FIRST_BITS: u32 = 4;
const MAX_BITS: u32 = 12;
/// After this many quick ones in a row a slow one counts as the first again.
const QUICK_STREAK: u32 = 64;

/// How long the last operations took.
#[derive(Debug, Default)]
pub(in crate::fuse::transport) struct LatencyPolicy {
    /// Slow ones that are remembered.
    slow: u32,
    /// Quick ones since the last of them.
    quick: u32,
    /// Operations that are still to go to the dispatcher.
    to_dispatcher: u32,
}

impl LatencyPolicy {
    /// Whether the thread serves the next one itself.
    pub(in crate::fuse::transport) fn expects_quick(&mut self) -> bool {
        let expects_quick = self.to_dispatcher == 0;
        self.to_dispatcher = self.to_dispatcher.saturating_sub(1);
        expects_quick
    }

    /// The thread served one, in this time.
    pub(in crate::fuse::transport) fn took(&mut self, time: Duration) {
        if time > SLOW {
            self.to_dispatcher = 1 << (FIRST_BITS + self.slow).min(MAX_BITS);
            (self.slow, self.quick) = (self.slow.saturating_add(1), 0);
        } else {
            self.quick += 1;
            if self.quick >= QUICK_STREAK {
                (self.slow, self.quick) = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_to_dispatcher(latency: &mut LatencyPolicy) -> u32 {
        (0..).find(|_| latency.expects_quick()).unwrap()
    }

    #[test]
    fn slow_medium_is_tried_less_and_less() {
        let mut latency = LatencyPolicy::default();
        assert!(latency.expects_quick(), "what is not known is tried");
        let tried: Vec<u32> = (0..20)
            .map(|_| {
                latency.took(SLOW * 2);
                sent_to_dispatcher(&mut latency)
            })
            .collect();
        assert_eq!(tried[..3], [1 << FIRST_BITS, 2 << FIRST_BITS, 4 << FIRST_BITS]);
        assert_eq!(tried.last(), Some(&(1 << MAX_BITS)));
    }

    #[test]
    fn slow_operations_of_long_ago_are_forgotten() {
        let mut latency = LatencyPolicy::default();
        for _ in 0..3 {
            latency.took(SLOW * 2);
            assert_eq!(sent_to_dispatcher(&mut latency), 1 << FIRST_BITS);
            (0..QUICK_STREAK).for_each(|_| latency.took(SLOW));
            assert!(latency.expects_quick());
        }
    }
}
