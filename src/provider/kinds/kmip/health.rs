//! Which members are asked: one that fails repeatedly is set aside for a while.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::provider::{Failure, Trouble};
use crate::text;

/// Failures in a row after which a member is set aside.
const MAX_FAILURES: u32 = 3;
/// How long a member is set aside.
const ASIDE: Duration = Duration::from_secs(30);
/// The same when there is no other member to ask.
const ASIDE_IF_ONLY: Duration = Duration::from_secs(1);

/// Recent failures of one member.
#[derive(Debug, Default)]
pub(super) struct Health(Mutex<Failures>);

#[derive(Debug, Default)]
struct Failures {
    in_a_row: u32,
    last: Option<(Instant, String)>,
}

impl Health {
    /// Whether it must not be asked now.
    pub(super) fn is_aside(&self, now: Instant) -> bool {
        self.0.lock().aside_since(now, ASIDE).is_some()
    }

    /// Lets a caller ask, or says why not. When the time aside ends, only one caller gets through.
    pub(super) fn admit(&self, now: Instant, is_only: bool) -> Result<(), Failure> {
        let mut failures = self.0.lock();
        if let Some(reason) = failures.aside_since(now, if is_only { ASIDE_IF_ONLY } else { ASIDE }) {
            let in_a_row = text::count(failures.in_a_row, "failure", "failures");
            let message = format!("not asked after {in_a_row} in a row, the last: {reason}");
            return Err(Failure::new(Trouble::Unreachable, message));
        }
        if failures.in_a_row >= MAX_FAILURES
            && let Some((last, _)) = &mut failures.last
        {
            *last = now;
        }
        Ok(())
    }

    /// Counts a failure; `true` when it is the one that sets the member aside.
    pub(super) fn failed(&self, failure: &Failure) -> bool {
        let mut failures = self.0.lock();
        failures.in_a_row = failures.in_a_row.saturating_add(1);
        failures.last = Some((Instant::now(), failure.to_string()));
        failures.in_a_row == MAX_FAILURES
    }

    /// Forgets all failures; `true` when they had set the member aside.
    pub(super) fn answered(&self) -> bool {
        std::mem::take(&mut *self.0.lock()).in_a_row >= MAX_FAILURES
    }
}

impl Failures {
    fn aside_since(&self, now: Instant, time: Duration) -> Option<&str> {
        let (last, reason) = self.last.as_ref()?;
        (self.in_a_row >= MAX_FAILURES && now.saturating_duration_since(*last) < time).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(times: u32) -> (Health, Instant) {
        let health = Health::default();
        for _ in 0..times {
            health.failed(&Failure::new(Trouble::Unreachable, "refused"));
        }
        (health, Instant::now())
    }

    #[test]
    fn three_failures_in_a_row_set_a_member_aside() {
        let (health, now) = failing(2);
        assert!(!health.is_aside(now) && health.admit(now, false).is_ok());
        health.failed(&Failure::new(Trouble::Silent, "no answer"));
        assert!(health.is_aside(now));
        let refused = health.admit(now, false).unwrap_err();
        assert_eq!(refused.to_string(), "not asked after 3 failures in a row, the last: no answer");
        health.answered();
        assert!(!health.is_aside(now) && health.admit(now, false).is_ok());
    }

    #[test]
    fn after_a_while_one_caller_tries_again() {
        let (health, now) = failing(3);
        let later = now + ASIDE;
        assert!(health.admit(later, false).is_ok());
        assert!(health.admit(later, false).is_err(), "the others wait for what the first one finds");
        assert!(health.admit(later + ASIDE, false).is_ok());
    }

    #[test]
    fn the_only_member_is_tried_sooner() {
        let (health, now) = failing(8);
        assert!(health.admit(now, true).is_err());
        assert!(health.admit(now + ASIDE_IF_ONLY, false).is_err());
        assert!(health.admit(now + ASIDE_IF_ONLY, true).is_ok());
    }
}
