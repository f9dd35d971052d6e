//! Which hosts use which approved set, so that old ones retire when the last host has left them.

use super::{ApprovedSet, Policy};
use crate::pcr::PcrIndex;

/// The use of one set.
#[derive(Clone, Debug)]
pub struct SetUse<'a> {
    /// The set.
    pub set: &'a ApprovedSet,
    /// Hosts whose last attestation matched it.
    pub hosts: Vec<&'a str>,
    /// Sets that hosts use in its place: approved later, for the same class and of the same registers.
    pub successors: Vec<&'a str>,
}

impl SetUse<'_> {
    /// Whether hosts have moved on from this set, all of them, and nobody wants to keep it. A set that no host has booted yet has no
    /// successor.
    pub fn may_retire(&self) -> bool {
        self.hosts.is_empty() && !self.successors.is_empty() && !self.set.keeps()
    }
}

impl Policy {
    /// The use of all sets, by what each host matched when it last attested ([`Satisfied::sets`](super::Satisfied::sets)).
    /// A host that was refused since then counts with the sets that it matched before.
    pub fn set_use<'a>(&'a self, attested: &[(&'a str, &[String])]) -> Vec<SetUse<'a>> {
        let hosts_of = |set: &ApprovedSet| {
            let uses = |(_, sets): &&(&'a str, &[String])| sets.iter().any(|name| name == set.name());
            attested.iter().filter(uses).map(|(host, _)| *host).collect::<Vec<_>>()
        };
        let in_use: Vec<_> = self.sets.iter().map(hosts_of).collect();
        let successors = |old: &ApprovedSet| {
            let follows = |(new, hosts): &(&'a ApprovedSet, &Vec<&str>)| {
                !hosts.is_empty() && new.approved() > old.approved() && self.share_a_class(new, old) && alike(new, old)
            };
            self.sets.iter().zip(&in_use).filter(follows).map(|(set, _)| set.name()).collect()
        };
        let uses = self.sets.iter().zip(&in_use);
        uses.map(|(set, hosts)| SetUse { set, hosts: hosts.clone(), successors: successors(set) }).collect()
    }

    fn share_a_class(&self, one: &ApprovedSet, other: &ApprovedSet) -> bool {
        self.classes.iter().any(|class| [one, other].iter().all(|set| class.sets.iter().any(|name| name == set.name())))
    }
}

fn alike(one: &ApprovedSet, other: &ApprovedSet) -> bool {
    let registers = |set: &ApprovedSet| -> Vec<PcrIndex> {
        let mut registers: Vec<_> = set.registers().iter().map(super::ApprovedRegister::register).collect();
        registers.sort_unstable();
        registers
    };
    registers(one) == registers(other)
}
