//! What administrators do with policies, and with the sets that are proposed for them.

use serde::{Deserialize, Serialize};
use vmcryptfs::error::{Error, Kind, Result};
use vmcryptfs::event::{Event, EventName};
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::pcr::{PcrIndex, PcrSelection};
use vmcryptfs_attest::policy::{ApprovedSet, Class, Level, Policy, Refusal, dry_run};

use super::{Answer, called, logged};
use crate::authority::Authority;
use crate::authority::entry::What;
use crate::authority::evidence::Note;
use crate::authority::hosts::{HostRecord, HostState};
use crate::authority::policies::ApprovedPolicy;
use crate::authority::proposals::{Proposal, Source};
use crate::authority::propose::today;

/// What an administrator asks about policies.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "policy", rename_all = "kebab-case")]
pub(in crate::authority) enum PolicyAsked {
    List,
    Show { proposal: Option<String> },
    Explain { host: String },
    Approve { text: String },
    ApproveSet { set: SetSource, name: Option<String>, level: Option<String> },
    Propose { set: SetSource, name: Option<String> },
    Reject { proposal: String },
    Test { text: String },
    TestSet { set: SetSource, level: Option<String> },
}

/// Where a set comes from.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "from", rename_all = "kebab-case")]
pub(in crate::authority) enum SetSource {
    /// What a host sent last; if `measured` is given, only if the values of these registers have that name.
    Host { host: String, registers: Option<Vec<u8>>, measured: Option<String> },
    /// A proposal.
    Proposal { proposal: String },
    /// TOML, for a class.
    Text { text: String, class: String },
}

/// The policy that is in force.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::authority) struct PolicyStatus {
    pub(in crate::authority) name: String,
    pub(in crate::authority) sha256: String,
    pub(in crate::authority) classes: Vec<ClassStatus>,
    pub(in crate::authority) sets: Vec<SetStatus>,
    /// Sets that wait for approval.
    pub(in crate::authority) proposals: Vec<Proposal>,
}

/// A class of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::authority) struct ClassStatus {
    pub(in crate::authority) name: String,
    pub(in crate::authority) level: String,
    pub(in crate::authority) sets: Vec<String>,
    pub(in crate::authority) learn: Vec<u8>,
}

/// An approved set.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::authority) struct SetStatus {
    pub(in crate::authority) name: String,
    pub(in crate::authority) approved: String,
    pub(in crate::authority) registers: Vec<u8>,
    /// Approved hosts that matched it when they last attested.
    pub(in crate::authority) hosts: Vec<String>,
}

/// What a policy would do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::authority) struct Tried {
    /// Hosts that it accepts, with the sets that they match.
    pub(in crate::authority) passed: Vec<(String, Vec<String>)>,
    /// Hosts that it refuses, and why.
    pub(in crate::authority) refused: Vec<Explained>,
    /// Approved hosts that have not attested yet.
    pub(in crate::authority) unknown: Vec<String>,
}

/// Why a host is refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::authority) struct Explained {
    pub(in crate::authority) host: String,
    /// In words.
    pub(in crate::authority) reason: String,
    /// In fields (docs/ATTESTATION.md, "Refusals").
    pub(in crate::authority) refusal: serde_json::Value,
}

/// How the attestations of a host ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(in crate::authority) struct HostExplained {
    pub(in crate::authority) host: String,
    pub(in crate::authority) state: HostState,
    #[serde(flatten)]
    pub(in crate::authority) note: Note,
}

pub(in crate::authority) fn answer(authority: &Authority, asked: PolicyAsked, by: u32) -> Result<Answer> {
    match asked {
        PolicyAsked::List => status(authority, &*authority.policies.current()?),
        PolicyAsked::Show { proposal: None } => Ok(Answer::Text { text: authority.policies.current()?.text.clone() }),
        PolicyAsked::Show { proposal: Some(id) } => Ok(Answer::Text { text: authority.proposals.get(&id)?.set }),
        PolicyAsked::Explain { host } => {
            let HostRecord { uuid, name: host, state, .. } = authority.hosts.find(&host)?;
            Ok(Answer::Explained(HostExplained { host, state, note: authority.evidence.note(uuid) }))
        }
        PolicyAsked::Approve { text } => {
            let approved = authority.policies.approve(&text, |policy| {
                let (name, sha256) = (policy.policy.name().to_owned(), policy.sha256.clone());
                logged(authority, What::PolicyApproved { policy: name, sha256, by: called(by) })
            });
            in_force(authority, approved, by, |policy| format!("policy {} was approved", policy.version()))
        }
        PolicyAsked::ApproveSet { set, name, level } => approve_set(authority, &set, (name, level), by),
        PolicyAsked::Propose { set, name } => propose(authority, &set, name, by),
        PolicyAsked::Reject { proposal } => {
            let rejected = authority.proposals.get(&proposal).and_then(|_| {
                logged(authority, What::ProposalRejected { proposal: proposal.clone(), by: called(by) })?;
                authority.proposals.remove(&proposal)
            });
            let mut event = Event::of(EventName::AuthorityPolicy);
            event.by(by).reason(format!("proposal {proposal} was rejected")).outcome(&rejected);
            rejected.map(Answer::Proposal)
        }
        PolicyAsked::Test { text } => try_out(authority, &ApprovedPolicy::parse(&text, 0)?.policy).map(Answer::Tried),
        PolicyAsked::TestSet { set, level } => {
            let current = authority.policies.current()?;
            let (class, set) = taken(authority, &current.policy, &set)?;
            let policy = with(&current.policy, &class, set, (None, level_of(level)?))?;
            try_out(authority, &policy).map(Answer::Tried)
        }
    }
}

fn in_force(
    authority: &Authority,
    approved: Result<std::sync::Arc<ApprovedPolicy>>,
    by: u32,
    words: impl FnOnce(&ApprovedPolicy) -> String,
) -> Result<Answer> {
    let mut event = Event::of(EventName::AuthorityPolicy);
    if let Ok(policy) = &approved {
        event.reason(words(policy));
    }
    event.by(by).outcome(&approved);
    approved?;
    authority.retire_sets();
    status(authority, &*authority.policies.current()?) // without what has just retired
}

fn wrong(error: vmcryptfs_attest::Error) -> Error {
    Error::with_source(Kind::Invalid, "the policy would not be good", error)
}

fn level_of(level: Option<String>) -> Result<Option<Level>> {
    let parse = |level: String| {
        let unknown = || {
            let found = format!("level {level:?}, expected identity, secureboot, measured or pinned");
            Error::new(Kind::Invalid, found)
        };
        serde_json::from_value(serde_json::Value::String(level.clone())).map_err(|_| unknown())
    };
    level.map(parse).transpose()
}

/// A policy with one more set.
fn with(
    policy: &Policy,
    class: &str,
    set: ApprovedSet,
    (name, level): (Option<String>, Option<Level>),
) -> Result<Policy> {
    let name = name.unwrap_or_else(|| free_name(policy, set.name()));
    let note = set.note().map(str::to_owned);
    let set = set.renamed(&name, &date_after(policy), note).map_err(wrong)?;
    policy.with_set_and_level(set, class, level).map_err(wrong)
}

/// Now, or after the last date of a set, which somebody may have typed: which of two retires is decided by their dates, as texts.
fn date_after(policy: &Policy) -> String {
    let now = today();
    let last = policy.sets().iter().map(ApprovedSet::approved).max();
    let Some(last) = last.filter(|last| *last >= now.as_str()) else { return now };
    if last.len() < now.len() {
        return format!("{last}T00:00:00Z"); // a day is before each of its seconds
    }
    let next = Timestamp::parse(last).map(|last| Timestamp::from_secs(last.since_1970().as_secs() + 1));
    next.and_then(Timestamp::to_seconds).unwrap_or(now)
}

/// A name that no set has yet.
fn free_name(policy: &Policy, wanted: &str) -> String {
    let is_free = |name: &String| policy.sets().iter().all(|set| set.name() != name.as_str());
    let wanted = vmcryptfs::text::beginning(wanted, 90).to_owned();
    let others = (2_u32..).map(|number| format!("{wanted}.{number}"));
    std::iter::once(wanted.clone()).chain(others).find(is_free).unwrap_or(wanted)
}

fn approve_set(
    authority: &Authority,
    from: &SetSource,
    (name, level): (Option<String>, Option<String>),
    by: u32,
) -> Result<Answer> {
    let approved = (|| {
        let level = level_of(level)?;
        let (class, set) = taken(authority, &authority.policies.current()?.policy, from)?;
        let approved = authority.policies.change(
            // The policy may have become another one since.
            |policy| with(policy, &class, set, (name, level)),
            |policy| {
                let (set, class, by) = (last_set(policy), class.clone(), called(by));
                let (policy, sha256) = (policy.policy.name().to_owned(), policy.sha256.clone());
                logged(authority, What::SetApproved { policy, sha256, set, class, by })
            },
        )?;
        if let SetSource::Proposal { proposal } = from
            && let Err(error) = authority.proposals.remove(proposal)
        {
            tracing::warn!("proposal {proposal} was approved, and still waits: {}", error.chain());
        }
        Ok(approved)
    })();
    in_force(authority, approved, by, |policy| format!("set {} was approved", last_set(policy)))
}

/// The set that a policy was given last.
fn last_set(policy: &ApprovedPolicy) -> String {
    policy.policy.sets().last().map_or_else(String::new, |set| set.name().to_owned())
}

fn propose(authority: &Authority, from: &SetSource, name: Option<String>, by: u32) -> Result<Answer> {
    let proposed = (|| {
        let current = authority.policies.current()?;
        let (class, set) = taken(authority, &current.policy, from)?;
        let name = name.unwrap_or_else(|| set.name().to_owned());
        let note = set.note().map(str::to_owned);
        let set = set.renamed(&name, &today(), note).map_err(wrong)?;
        let host = match from {
            SetSource::Host { host, .. } => Some(authority.hosts.find(host)?.name),
            SetSource::Proposal { .. } | SetSource::Text { .. } => None,
        };
        let proposal = Proposal::new(&class, Source::Administrator, host.as_deref(), &set);
        let id = proposal.id.clone();
        authority.keep_proposal(proposal, &called(by))?;
        authority.proposals.get(&id)
    })();
    let mut event = Event::of(EventName::AuthorityPolicy);
    event.by(by).reason("a set was proposed").outcome(&proposed);
    proposed.map(Answer::Proposal)
}

/// A set from where it is, and the class that it is for.
fn taken(authority: &Authority, policy: &Policy, from: &SetSource) -> Result<(String, ApprovedSet)> {
    match from {
        SetSource::Host { host, registers, measured } => {
            measured_by(authority, policy, host, (registers.as_deref(), measured.as_deref()))
        }
        SetSource::Proposal { proposal } => {
            let proposal = authority.proposals.get(proposal)?;
            let set = proposal.read_set()?;
            Ok((proposal.class, set))
        }
        SetSource::Text { text, class } => {
            let set = ApprovedSet::parse(text).and_then(|set| set.check(policy.bank()).map(|()| set));
            let set = set.map_err(|error| Error::with_source(Kind::Invalid, "a set that is not understood", error))?;
            Ok((class.clone(), set))
        }
    }
}

/// What a host has measured when it attested last, whether it was refused or not.
fn measured_by(
    authority: &Authority,
    policy: &Policy,
    host: &str,
    (registers, measured): (Option<&[u8]>, Option<&str>),
) -> Result<(String, ApprovedSet)> {
    let HostRecord { uuid, name, state, .. } = authority.hosts.find(host)?;
    if state != HostState::Approved {
        let found =
            format!("host {name} is {}, expected approved: what it measured is approved for nobody", state.word());
        return Err(Error::new(Kind::Invalid, found));
    }
    let no_class = || Error::new(Kind::Invalid, format!("no class of policy {} has host {name}", policy.name()));
    let class = policy.class_of(&name).map(Class::name).ok_or_else(no_class)?;
    let none = || Error::new(Kind::NotFound, format!("host {name} has not attested yet: it measures when it does"));
    let (kept, values) = authority.evidence.newest(uuid)?.ok_or_else(none)?;
    let quoted = values.selection();
    let wanted = match registers {
        None => quoted,
        Some(numbers) => {
            let registers: vmcryptfs_attest::Result<Vec<_>> =
                numbers.iter().map(|number| PcrIndex::new(u32::from(*number))).collect();
            PcrSelection::new(quoted.bank(), registers.map_err(wrong)?)
        }
    };
    if let Some(missing) = wanted.iter().find(|register| !quoted.contains(*register)) {
        let found = format!(
            "host {name} was last quoted {quoted}, without {missing}: add it to \"learn\" of class {class}, and let the host attest"
        );
        return Err(Error::new(Kind::Invalid, found));
    }
    if wanted.is_empty() {
        let found = format!(
            "host {name} was quoted no registers: add \"learn = [4, 7, 9, 11, 12]\" to class {class}, and let the host attest"
        );
        return Err(Error::new(Kind::Invalid, found));
    }
    if measured.is_some_and(|measured| values.name_of(wanted) != measured) {
        let found = format!("host {name} has sent something else since: `policy explain` says what it measured last");
        return Err(Error::new(Kind::Denied, found));
    }
    let replayed = kept.replay(&name, &values)?;
    let date = today();
    let set_name = format!("{}-{}", vmcryptfs::text::beginning(&name, 80), date.get(..10).unwrap_or_default());
    let set = ApprovedSet::of_host(&set_name, &date, &replayed, wanted).map_err(wrong)?;
    let set = set.renamed(&set_name, &date, Some(format!("what {name} measured"))).map_err(wrong)?;
    Ok((class.to_owned(), set))
}

/// What a policy would do to approved hosts, by what they sent last.
fn try_out(authority: &Authority, policy: &Policy) -> Result<Tried> {
    let mut tried = Tried { passed: Vec::new(), refused: Vec::new(), unknown: Vec::new() };
    for host in authority.hosts.list().iter().filter(|host| host.state == HostState::Approved) {
        let Some((kept, values)) = authority.evidence.newest(host.uuid)? else {
            tried.unknown.push(host.name.clone());
            continue;
        };
        let result = dry_run(policy, [kept.evidence(&host.name, &values)]);
        tried.passed.extend(result.passed.into_iter().map(|passed| (passed.host, passed.sets)));
        tried.refused.extend(result.refused.iter().map(Explained::of));
    }
    Ok(tried)
}

impl Explained {
    fn of(refusal: &Refusal) -> Self {
        Self {
            host: refusal.host.clone(),
            reason: refusal.to_string(),
            refusal: serde_json::to_value(refusal).unwrap_or_default(),
        }
    }
}

fn status(authority: &Authority, approved: &ApprovedPolicy) -> Result<Answer> {
    let policy = &approved.policy;
    let hosts = authority.hosts.list();
    let attested = hosts.iter().filter(|host| host.state == HostState::Approved);
    let attested: Vec<(&str, Vec<String>)> =
        attested.map(|host| (host.name.as_str(), authority.evidence.sets_of(host.uuid).unwrap_or_default())).collect();
    let attested: Vec<(&str, &[String])> = attested.iter().map(|(host, sets)| (*host, sets.as_slice())).collect();
    let class = |class: &Class| ClassStatus {
        name: class.name().to_owned(),
        level: class.level().to_string(),
        sets: class.sets().to_vec(),
        learn: class.learn().iter().map(|register| register.number()).collect(),
    };
    let sets = policy.set_use(&attested).into_iter().map(|used| SetStatus {
        name: used.set.name().to_owned(),
        approved: used.set.approved().to_owned(),
        registers: used.set.registers().iter().map(|register| register.register().number()).collect(),
        hosts: used.hosts.into_iter().map(str::to_owned).collect(),
    });
    Ok(Answer::Policy(PolicyStatus {
        name: policy.name().to_owned(),
        sha256: approved.sha256.clone(),
        classes: policy.classes().iter().map(class).collect(),
        sets: sets.collect(),
        proposals: authority.proposals.list(),
    }))
}

#[cfg(test)]
mod tests;
