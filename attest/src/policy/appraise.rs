//! One host against a policy.

use super::refusal::AlsoDiffers;
use super::set::Differs;
use super::{ApprovedRegister, ApprovedSet, Class, Found, Level, Nearest, Policy, Refusal, Rule, level, rules};
use crate::pcr::{PcrIndex, PcrSelection, PcrValues};
use crate::replay::Replayed;

/// The proof that a host satisfies a policy. Only [`Policy::appraise`] makes one.
#[derive(Clone, Debug)]
pub struct Satisfied {
    host: String,
    policy: String,
    class: String,
    level: Level,
    sets: Vec<String>,
    values: PcrValues,
}

impl Satisfied {
    /// The host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The policy's name.
    pub fn policy(&self) -> &str {
        &self.policy
    }

    /// The host's class.
    pub fn class(&self) -> &str {
        &self.class
    }

    /// What it has proven.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The approved sets that it matches.
    pub fn sets(&self) -> &[String] {
        &self.sets
    }

    /// The values of registers that this was found for. Those of the quote must be the same.
    pub fn values(&self) -> &PcrValues {
        &self.values
    }
}

/// A set that a host does not match, and where it differs first.
struct Miss<'a> {
    set: &'a ApprovedSet,
    /// Digests that were as approved, up to the first that was not.
    matched: usize,
    /// The first register that differs, and the others.
    first: (PcrIndex, Differs<'a>),
    others: Vec<(PcrIndex, Differs<'a>)>,
}

impl Policy {
    /// Judges what a host has measured.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn appraise(&self, host: &str, replayed: &Replayed) -> Result<Satisfied, Box<Refusal>> {
        let Some(class) = self.class_of(host) else {
            let reason = format!("no class of policy \"{}\" has this host", self.name());
            return Err(Box::new(Refusal::new(host, Rule::Class, reason)));
        };
        let of_class = |mut refusal: Box<Refusal>| {
            (refusal.class, refusal.level) = (Some(class.name.clone()), Some(class.level));
            refusal
        };
        self.check_selection(host, replayed).map_err(of_class)?;
        check_rules(host, class.level, replayed).map_err(of_class)?;
        let sets = self.check_sets(host, class, replayed).map_err(of_class)?;
        Ok(Satisfied {
            host: host.to_owned(),
            policy: self.name.clone(),
            class: class.name.clone(),
            level: class.level,
            sets,
            values: replayed.values().clone(),
        })
    }

    fn check_selection(&self, host: &str, replayed: &Replayed) -> Result<(), Box<Refusal>> {
        let Some(needed) = self.selection_for(host) else { return Ok(()) };
        let found = replayed.selection();
        let missing = needed.iter().find(|register| !found.contains(*register));
        if (found.bank() == needed.bank() || needed.is_empty()) && missing.is_none() {
            return Ok(());
        }
        let reason = format!("the quote is of {found}: expected {needed}");
        Err(Box::new(Refusal { register: missing, ..Refusal::new(host, Rule::Selection, reason) }))
    }

    /// The sets that match, if they have what the level demands.
    fn check_sets(&self, host: &str, class: &Class, replayed: &Replayed) -> Result<Vec<String>, Box<Refusal>> {
        let (mut matching, mut misses) = (Vec::new(), Vec::new());
        for set in self.sets_of(class) {
            match miss(set, replayed) {
                None => matching.push(set),
                Some(miss) => misses.push(miss),
            }
        }
        for group in class.level.demanded() {
            if matching.iter().any(|set| set.has_one_of(group)) {
                continue;
            }
            let candidates = misses.iter().filter(|miss| miss.set.has_one_of(group));
            let refusal = match candidates.max_by_key(|miss| miss.matched) {
                Some(nearest) => unapproved(host, nearest, replayed.values()),
                None => {
                    let reason = format!("no approved set has {}", level::registers(group));
                    Refusal::new(host, Rule::ApprovedSets, reason)
                }
            };
            return Err(Box::new(refusal));
        }
        Ok(matching.iter().map(|set| set.name().to_owned()).collect())
    }
}

fn check_rules(host: &str, level: Level, replayed: &Replayed) -> Result<(), Box<Refusal>> {
    let refuse = |rule: Rule, register: PcrIndex, broken: rules::Broken<'_>| {
        let event = broken.event.map(Found::of);
        Box::new(Refusal { register: Some(register), event, ..Refusal::new(host, rule, broken.reason) })
    };
    for (register, events) in replayed.iter().filter(|(register, _)| register.number() <= 7) {
        rules::one_separator(events).map_err(|broken| refuse(Rule::Separator, register, broken))?;
        if register.number() == 7 && level >= Level::SecureBoot {
            rules::secure_boot(events).map_err(|broken| refuse(Rule::SecureBoot, register, broken))?;
        }
    }
    Ok(())
}

/// Where a host differs from a set; `None` where it does not.
fn miss<'a>(set: &'a ApprovedSet, replayed: &'a Replayed) -> Option<Miss<'a>> {
    let mut found: Option<Miss<'a>> = None;
    let mut matched = 0;
    for approved in set.registers() {
        // A register that was not quoted has no events; a policy's own selection has all registers of its sets.
        let events = replayed.events(approved.register()).unwrap_or_default();
        match (approved.first_difference(events), &mut found) {
            (None, None) => matched += events.len(),
            (None, Some(_)) => {}
            (Some(differs), Some(miss)) => miss.others.push((approved.register(), differs)),
            (Some(differs), none) => {
                matched += differs.matched;
                *none = Some(Miss { set, matched, first: (approved.register(), differs), others: Vec::new() });
            }
        }
    }
    found
}

fn unapproved(host: &str, miss: &Miss<'_>, values: &PcrValues) -> Refusal {
    let (register, differs) = miss.first;
    let reason = match (differs.found, differs.wanted) {
        (Some(_), Some(_)) => "an event is not the approved one",
        (Some(_), None) => "an event comes after all that are approved",
        (None, _) => "an approved event was not measured",
    };
    let also = |(register, differs): &(PcrIndex, Differs<'_>)| AlsoDiffers {
        register: register.number(),
        event: differs.found.map(Found::of),
    };
    Refusal {
        register: Some(register),
        event: differs.found.map(Found::of),
        nearest: Some(Nearest::of(miss.set.name(), differs.matched, differs.wanted)),
        also: miss.others.iter().map(also).collect(),
        command: command(host, miss.set, values),
        ..Refusal::new(host, Rule::ApprovedSets, reason)
    }
}

/// The command that approves what a host has measured in the registers of a set, all of them: a set matches as a whole. It names these values:
/// when it is typed, the host may have sent others. A name of a host that a shell would read otherwise gets no command.
fn command(host: &str, nearest: &ApprovedSet, values: &PcrValues) -> Option<String> {
    super::check_name("the host", host).ok().filter(|()| !host.starts_with('-'))?;
    let registers = PcrSelection::new(values.bank(), nearest.registers().iter().map(ApprovedRegister::register));
    let numbers: Vec<String> = registers.iter().map(|register| register.number().to_string()).collect();
    let measured = values.name_of(registers);
    Some(format!("vmcryptfs-authority policy approve {host} --measured {measured} --pcr {}", numbers.join(",")))
}
