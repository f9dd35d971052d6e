//! Whether the event log is what was written to it.

use std::path::Path;

use crate::error::{Error, Kind, Result};
use crate::event::EventName;
use crate::event::verify::{Chain, verify};
use crate::gate::{Object, Operation, Trail};
use crate::progress::OnProgress;
use crate::text;

/// Verifies the chains of an event log. What is wrong with them is in the outcome, and in the event.
pub struct VerifyEvents<'a> {
    /// The log.
    pub log: &'a Path,
    /// Hash of an event that should be there.
    pub expected: Option<&'a str>,
}

impl Operation for VerifyEvents<'_> {
    const NAME: EventName = EventName::EventsVerify;
    type Outcome = Vec<Chain>;

    fn object(&self) -> Object {
        Object::EventLog(self.log.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<Chain>> {
        let chains = verify(self.log, self.expected)?;
        match found(&chains) {
            Ok(()) => {
                let events: u64 = chains.iter().map(|chain| chain.linked).sum();
                trail.event().reason(text::count(events, "event is linked", "events are linked"));
            }
            Err(error) => trail.failed_part(&self.object(), &error),
        }
        Ok(chains)
    }
}

/// Whether chains are whole.
///
/// # Errors
/// `Corrupt` with the first problem.
pub fn found(chains: &[Chain]) -> Result<()> {
    let mut problems = chains.iter().flat_map(|chain| &chain.problems);
    match (problems.next(), problems.count()) {
        (None, _) => Ok(()),
        (Some(first), 0) => Err(Error::new(Kind::Corrupt, format!("the event log is not as it was written: {first}"))),
        (Some(first), more) => Err(Error::new(
            Kind::Corrupt,
            format!(
                "the event log is not as it was written: {first}; {}",
                text::count(more, "more problem", "more problems")
            ),
        )),
    }
}
