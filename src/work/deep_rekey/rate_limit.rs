//! How fast a deep rekey may go.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::format::journal::CURSOR_STEP;
use crate::store::disk::MAX_CHUNK_LEN;

/// Longest time without asking whether to continue.
const NAP: Duration = Duration::from_millis(200);
/// Chunks that a second has at least, so that a low rate does not come in gusts.
const CHUNKS_A_SECOND: u64 = 8;

/// Longest pause for guests after one chunk.
const TURN: Duration = Duration::from_millis(500);

/// Keeps work below a rate, if one is asked for, and where guests are at work takes turns with them: as long as a chunk took,
/// they have the medium and the processors for themselves. What is skipped as a hole counts for the rate as one chunk at most.
pub(super) struct RateLimit {
    rate: Option<u64>,
    takes_turns: bool,
    /// When the last chunk was begun, and where.
    last: Option<(Instant, u64)>,
}

impl RateLimit {
    pub(super) fn new(rate: Option<u64>, takes_turns: bool) -> Self {
        Self { rate, takes_turns, last: None }
    }

    /// The length of chunks, of at most `longest`.
    pub(super) fn chunk(&self, longest: u64) -> u64 {
        match self.rate {
            Some(rate) => (rate / CHUNKS_A_SECOND / CURSOR_STEP * CURSOR_STEP).clamp(CURSOR_STEP, longest),
            None => longest,
        }
    }

    /// Waits until the chunk at `position` may begin.
    ///
    /// # Errors
    /// Those of `ask`, which is called now and then.
    pub(super) fn wait(&mut self, position: u64, ask: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        if let Some((begun, before)) = self.last {
            let took = begun.elapsed();
            let turn = if self.takes_turns { took + took.min(TURN) } else { Duration::ZERO };
            let until = begun + turn.max(self.at_least(position.saturating_sub(before)));
            while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                thread::sleep(left.min(NAP));
                ask()?;
            }
        }
        self.last = Some((Instant::now(), position));
        Ok(())
    }

    /// How long this many bytes must take.
    fn at_least(&self, bytes: u64) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        let micros = u128::from(bytes.min(MAX_CHUNK_LEN)) * 1_000_000 / u128::from(rate.max(1));
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn a_rate_is_kept_and_no_rate_waits_for_nothing() {
        let started = Instant::now();
        let mut pace = RateLimit::new(Some(8 << 20), false);
        assert_eq!(pace.chunk(16 << 20), 1 << 20);
        for chunk in 0..4 {
            pace.wait(chunk << 20, &mut || Ok(())).unwrap();
        }
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(370), "{took:?} for three chunks of an eighth of a second");
        let mut pace = RateLimit::new(None, false);
        assert_eq!(pace.chunk(16 << 20), 16 << 20);
        (0..1000).for_each(|chunk| pace.wait(chunk << 30, &mut || Ok(())).unwrap());
    }

    #[test]
    fn guests_have_as_long_as_the_chunk_took() {
        let mut pace = RateLimit::new(None, true);
        pace.wait(0, &mut || Ok(())).unwrap();
        thread::sleep(Duration::from_millis(50));
        let turn = Instant::now();
        pace.wait(4096, &mut || Ok(())).unwrap();
        assert!(turn.elapsed() >= Duration::from_millis(50), "{:?}", turn.elapsed());
    }

    #[test]
    fn a_stop_ends_the_waiting() {
        let mut pace = RateLimit::new(Some(1), false);
        assert_eq!(pace.chunk(16 << 20), CURSOR_STEP, "even the slowest makes progress");
        pace.wait(0, &mut || Ok(())).unwrap();
        let stop = || Err(Error::new(Kind::Stopped, "enough"));
        assert_eq!(pace.wait(4096, &mut || stop()).unwrap_err().kind(), Kind::Stopped);
    }
}
