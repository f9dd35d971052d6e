//! A policy tried on what hosts have sent, before it is in force.

use super::{Policy, Refusal, Satisfied};
use crate::event_log::EventLog;
use crate::pcr::PcrValues;
use crate::replay::Replayed;
use crate::userspace_log::UserspaceLog;

/// What a host last attested with. The quote of `values` was checked when it came.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The host's name.
    pub host: &'a str,
    /// The firmware's log.
    pub firmware_log: &'a [u8],
    /// systemd's log; empty where the host has none.
    pub userspace_log: &'a [u8],
    /// The values of the quote.
    pub values: &'a PcrValues,
}

/// A host that the policy accepts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Passed {
    /// The host.
    pub host: String,
    /// The sets that it matches.
    pub sets: Vec<String>,
}

/// What a policy would do.
#[derive(Clone, Debug, Default)]
pub struct DryRun {
    /// Hosts that it accepts.
    pub passed: Vec<Passed>,
    /// Hosts that it refuses, and why.
    pub refused: Vec<Refusal>,
}

/// Appraises stored evidence by a policy. A host whose last quote lacks registers that the policy needs is refused by
/// [`Rule::Selection`](super::Rule::Selection): what those hold is known only once it attests
/// again.
pub fn dry_run<'a>(policy: &Policy, evidence: impl IntoIterator<Item = Evidence<'a>>) -> DryRun {
    let mut result = DryRun::default();
    for evidence in evidence {
        match evidence.appraise(policy) {
            Ok(satisfied) => {
                result.passed.push(Passed { host: evidence.host.to_owned(), sets: satisfied.sets().to_vec() });
            }
            Err(refusal) => result.refused.push(*refusal),
        }
    }
    result
}

impl Evidence<'_> {
    /// Reads the logs, replays them against the values, and judges the result.
    ///
    /// # Errors
    /// Why the host is refused.
    pub fn appraise(&self, policy: &Policy) -> Result<Satisfied, Box<Refusal>> {
        policy.appraise(self.host, &self.replay()?)
    }

    /// Reads the logs, and replays them against the values.
    ///
    /// # Errors
    /// Why the host is refused.
    pub fn replay(&self) -> Result<Replayed, Box<Refusal>> {
        let unreadable = |error| Box::new(Refusal::of_log(self.host, &error));
        let log = EventLog::parse(self.firmware_log).map_err(unreadable)?;
        let userspace = UserspaceLog::parse(self.userspace_log).map_err(unreadable)?;
        Replayed::new(&log, &userspace, self.values).map_err(|error| Box::new(Refusal::of_replay(self.host, &error)))
    }
}
