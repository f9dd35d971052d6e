//! Whether the event log is what was written to it.

use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::event::verify::{Chain, verify};
use crate::event::{EventName, log_name};
use crate::format::manifest::LogEnd;
use crate::gate::{Object, Operation, Trail};
use crate::progress::OnProgress;
use crate::progress::to_the_end;
use crate::provider::Providers;
use crate::seen::Memory;
use crate::store::home_file::HomeKeys;
use crate::text::{self, Show};
use crate::vm::manifest::HomeTree;
use crate::vm::{folder, keyring};

/// Verifies the chains of an event log. What is wrong with them is in the outcome, and in the event.
pub struct VerifyEvents<'a> {
    /// The log.
    pub log: &'a Path,
    /// Hash of an event that should be there.
    pub expected: Option<&'a str>,
    /// A VM folder whose home has a manifest, which vouches for events, and where keys come from.
    pub home: Option<(&'a Path, &'a Providers)>,
}

impl Operation for VerifyEvents<'_> {
    const NAME: EventName = EventName::EventsVerify;
    type Outcome = Vec<Chain>;

    fn object(&self) -> Object {
        Object::EventLog(self.log.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<Chain>> {
        let ends =
            self.home.map_or_else(|| Ok(Vec::new()), |(folder, providers)| sealed_ends(folder, providers, self.log))?;
        let chains = verify(self.log, self.expected, &ends)?;
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

/// The ends of a log that the manifest of a home has.
fn sealed_ends(folder: &Path, providers: &Providers, log: &Path) -> Result<Vec<LogEnd>> {
    let of_vm = || folder.shown().to_string();
    let dir = folder::open_dir(folder)?;
    let stored = folder::read_whole_home(&dir).context(of_vm)?;
    let stored = stored.ok_or_else(|| Error::new(Kind::Invalid, "not an encrypted VM folder")).context(of_vm)?;
    let keks = providers.fetch_all(stored.header.claims().slots.key_ids().cloned());
    let dek = keyring::unlock(&stored.header, &keks).context(of_vm)?;
    let header = stored.header.verify(&dek)?;
    let (keys, memory) = (HomeKeys::of(&header, &dek)?, Memory::of(providers));
    let tree = HomeTree { dir: &dir, header: &header, keys: &keys, memory: &memory, go_on: &to_the_end };
    let mut ends = tree.newest().context(of_vm)?.logs;
    let name = log_name(log);
    if ends.iter().all(|end| end.log != name) {
        let message = format!("its manifest vouches for no event of {}", text::one_line(&name));
        return Err(Error::new(Kind::NotFound, message)).context(of_vm);
    }
    ends.retain(|end| end.log == name);
    Ok(ends)
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
