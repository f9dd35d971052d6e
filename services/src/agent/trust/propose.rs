//! Sets that this host proposes to its authorities: what it is going to measure, so that it is approved before the host boots it.

use uuid::Uuid;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::agent::trust::Proposed;
use vmcryptfs::provider::kinds::trusted::Settings;

use super::Trust;
use super::client::Failed;
use super::enrolled::Enrolled;
use crate::trust_wire::{ProposeRequest, ProposedSet, Refusal};

impl Trust {
    /// Proposes a set at each authority that this host has enrolled at.
    pub(super) fn propose(&self, set: &str) -> Result<Vec<Proposed>> {
        let propose =
            |known: &Enrolled| self.propose_at(known, set).context(|| format!("authority {}", known.authority));
        let all = self.known_anywhere()?;
        // One that does not answer keeps this host from none of the others.
        let proposed: Vec<Result<Proposed>> = all.iter().map(propose).collect();
        proposed.into_iter().collect()
    }

    fn propose_at(&self, known: &Enrolled, set: &str) -> Result<Proposed> {
        let settings = Settings { authority: known.urls.clone(), pin: known.pin };
        let proposed = self.ask(&settings, &mut |members, _, proved| {
            let call = ProposeRequest { token: proved.token.clone(), set: set.to_owned() };
            match members.post("/v1/propose", &call) {
                // A token that is refused is one of an earlier policy or boot: the host attests once more.
                Err(Failed::Refused(refusal)) if refusal.kind != Kind::Denied => Ok(Err(refusal)),
                answered => answered.map(Ok),
            }
        })?;
        let proposed = proposed.map_err(|Refusal { kind, message, .. }| Error::new(kind, message))?;
        Ok(told(known.authority, proposed))
    }
}

fn told(authority: Uuid, proposed: ProposedSet) -> Proposed {
    match proposed {
        ProposedSet::Waiting { proposal } => Proposed { authority, is_approved: false, name: proposal },
        ProposedSet::Approved { set } => Proposed { authority, is_approved: true, name: set },
    }
}
