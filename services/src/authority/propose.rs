//! What becomes of sets without a person: hosts propose them, classes learn them, and those that no host uses any more retire.

use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::pcr::PcrSelection;
use vmcryptfs_attest::policy::{ApprovedSet, Class};
use vmcryptfs_attest::verdict::Attested;

use super::entry::What;
use super::hosts::{HostRecord, HostState};
use super::policies::ApprovedPolicy;
use super::proposals::{Proposal, Source};
use super::{Authority, record_refusal};
use crate::trust_wire::{MAX_PROPOSAL, ProposeRequest, ProposedSet};

/// The date of a set that is made now.
pub(super) fn today() -> String {
    Timestamp::now().to_seconds().unwrap_or_else(|| "9999-12-31".to_owned())
}

impl Authority {
    /// Keeps what a host is going to boot, for a person to approve.
    ///
    /// # Errors
    /// `Denied` for a token that is not good, `Invalid` for what is not a set that a host may propose, `Busy` when too many wait, `Io`.
    pub(super) fn propose(&self, call: &ProposeRequest) -> Result<ProposedSet> {
        let proposed = self.proposed(call);
        if let Err(error) = &proposed {
            record_refusal(&Event::of(EventName::AuthorityPolicy), error);
        }
        proposed
    }

    fn proposed(&self, call: &ProposeRequest) -> Result<ProposedSet> {
        let host = self.tokens.admit(&call.token, self.standing())?;
        let wrong = |error| Error::with_source(Kind::Invalid, "a proposal that is not understood", error);
        if call.set.len() > MAX_PROPOSAL {
            let found = format!("a proposal of {} bytes, expected at most {MAX_PROPOSAL}", call.set.len());
            return Err(Error::new(Kind::Invalid, found));
        }
        let set = ApprovedSet::parse(&call.set).map_err(wrong)?;
        let policy = self.policies.current()?;
        set.check(policy.policy.bank()).map_err(wrong)?;
        if set.keeps() || set.note().is_some() || set.registers().iter().any(|register| !register.ignored().is_empty())
        {
            let found = "a proposal with \"ignored\", \"keep\" or \"note\": only an administrator can say that";
            return Err(Error::new(Kind::Invalid, found));
        }
        let no_class =
            || Error::new(Kind::Denied, format!("no class of policy {} has {}", policy.version(), host.name()));
        let class = policy.policy.class_of(host.name()).ok_or_else(no_class)?;
        if let Some(same) = policy.policy.same_set(class, &set) {
            return Ok(ProposedSet::Approved { set: same.name().to_owned() });
        }
        // The host's clock decides nothing.
        let set = set.clone().renamed(set.name(), &today(), None).map_err(wrong)?;
        let proposal = Proposal::new(class.name(), Source::Host, Some(host.name()), &set);
        let id = proposal.id.clone();
        if self.keep_proposal(proposal, &format!("host {}", host.host()))? {
            let mut event = Event::of(EventName::AuthorityPolicy);
            event.uuid(host.host()).reason(format!("proposal {id} of host {} waits for approval", host.name())).done();
        }
        Ok(ProposedSet::Waiting { proposal: id })
    }

    /// Keeps a proposal, with an entry of the log. Returns whether it is new, or of another host as well.
    ///
    /// # Errors
    /// `Busy` when too many wait, `Invalid`, `Io`.
    pub(super) fn keep_proposal(&self, proposal: Proposal, by: &str) -> Result<bool> {
        let entry =
            What::SetProposed { proposal: proposal.id.clone(), class: proposal.class.clone(), by: by.to_owned() };
        self.proposals.add(proposal, || self.log.append(&[entry.now()?]).map(drop))
    }

    /// Proposes what a host of a class that learns has measured, if it is in none of its sets. What goes wrong is only logged: the host has
    /// proved all that it has to.
    pub(super) fn learn(&self, policy: &ApprovedPolicy, host: &HostRecord, attested: &Attested) {
        let Some(class) = policy.policy.class_of(&host.name).filter(|class| !class.learn().is_empty()) else { return };
        let learned = self.learned(policy, class, host, attested);
        if let Err(error) = learned {
            tracing::warn!("what host {} measured is not proposed: {}", host.name, error.chain());
        }
    }

    fn learned(&self, policy: &ApprovedPolicy, class: &Class, host: &HostRecord, attested: &Attested) -> Result<()> {
        let registers = PcrSelection::new(policy.policy.bank(), class.learn().iter().copied());
        let set =
            ApprovedSet::of_host(vmcryptfs::text::beginning(&host.name, 100), &today(), attested.replayed(), registers);
        let set = set.map_err(|error| Error::with_source(Kind::Invalid, "what it measured is no set", error))?;
        if policy.policy.same_set(class, &set).is_some() {
            return Ok(());
        }
        let proposal = Proposal::new(class.name(), Source::Learned, Some(&host.name), &set);
        self.keep_proposal(proposal, &format!("host {}", host.uuid)).map(drop)
    }

    /// Takes sets out of the policy that all hosts have left. What goes wrong is only logged: it is tried again after the next change.
    pub(super) fn retire_sets(&self) {
        while let Some(retired) = self.retire_one().transpose() {
            if let Err(error) = retired {
                tracing::warn!("a set that no host uses stays: {}", error.chain());
                return;
            }
        }
    }

    /// Takes one out, if there is one.
    fn retire_one(&self) -> Result<Option<()>> {
        let Ok(policy) = self.policies.current() else { return Ok(None) };
        let hosts = self.hosts.list();
        let approved = hosts.iter().filter(|host| host.state == HostState::Approved);
        let matched: Option<Vec<(&str, Vec<String>)>> =
            approved.map(|host| Some((host.name.as_str(), self.evidence.sets_of(host.uuid)?))).collect();
        // Where it is not known what a host uses, nothing retires until it has attested again.
        let Some(matched) = matched else { return Ok(None) };
        let matched: Vec<(&str, &[String])> = matched.iter().map(|(host, sets)| (*host, sets.as_slice())).collect();
        let uses = policy.policy.set_use(&matched);
        let old = uses.iter().filter(|set| set.may_retire());
        // One without which a class could not be satisfied stays.
        let mut old = old.filter(|old| policy.policy.without_set(old.set.name()).is_ok());
        let Some(old) = old.next().map(|old| old.set.name().to_owned()) else { return Ok(None) };
        let retired = self.policies.retire(&policy, &old, |policy| {
            let (name, sha256) = (policy.policy.name().to_owned(), policy.sha256.clone());
            let entry = What::SetRetired { policy: name, sha256, set: old.clone() };
            self.log.append(&[entry.now()?]).map(drop)
        })?;
        if retired.is_some() {
            Event::of(EventName::AuthorityPolicy).reason(format!("set {old} retired: all hosts have left it")).done();
        }
        Ok(Some(()))
    }
}
