//! Whether a thread in whose place nobody stands serves operations on names and attributes itself.
//!
//! They take microseconds, but where a journal is full, or a medium slow, one of them can take as long as many reads and writes, which
//! would wait behind it. So after one that did, the next ones go to the dispatcher.

use std::time::Duration;

/// One that takes longer holds up others.
const SLOW: Duration = Duration::from_micros(500);
/// How many the dispatcher gets after the first slow one, and at most, as powers of two.
const FIRST_BITS: u32 = 4;
const MOST_BITS: u32 = 12;
/// Quick ones in a row after which a slow one counts as the first again.
const BELIEVED: u32 = 64;

/// What the last operations took.
#[derive(Debug, Default)]
pub(in crate::fuse::transport) struct Quickness {
    /// Slow ones that are remembered.
    slow: u32,
    /// Quick ones since the last of them.
    quick: u32,
    /// Operations that are still for the dispatcher.
    elsewhere: u32,
}

impl Quickness {
    /// Whether the thread serves the next one itself.
    pub(in crate::fuse::transport) fn is_likely(&mut self) -> bool {
        let is_likely = self.elsewhere == 0;
        self.elsewhere = self.elsewhere.saturating_sub(1);
        is_likely
    }

    /// One that it served took so long.
    pub(in crate::fuse::transport) fn took(&mut self, time: Duration) {
        if time > SLOW {
            self.elsewhere = 1 << (FIRST_BITS + self.slow).min(MOST_BITS);
            (self.slow, self.quick) = (self.slow.saturating_add(1), 0);
        } else {
            self.quick += 1;
            if self.quick >= BELIEVED {
                (self.slow, self.quick) = (0, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_elsewhere(quickness: &mut Quickness) -> u32 {
        (0..).find(|_| quickness.is_likely()).unwrap()
    }

    #[test]
    fn the_slower_the_medium_the_less_is_tried() {
        let mut quickness = Quickness::default();
        assert!(quickness.is_likely(), "what is not known is tried");
        let tried: Vec<u32> = (0..20)
            .map(|_| {
                quickness.took(SLOW * 2);
                goes_elsewhere(&mut quickness)
            })
            .collect();
        assert_eq!(tried[..3], [1 << FIRST_BITS, 2 << FIRST_BITS, 4 << FIRST_BITS]);
        assert_eq!(tried.last(), Some(&(1 << MOST_BITS)));
    }

    #[test]
    fn what_was_slow_long_ago_is_forgotten() {
        let mut quickness = Quickness::default();
        for _ in 0..3 {
            quickness.took(SLOW * 2);
            assert_eq!(goes_elsewhere(&mut quickness), 1 << FIRST_BITS);
            (0..BELIEVED).for_each(|_| quickness.took(SLOW));
            assert!(quickness.is_likely());
        }
    }
}
