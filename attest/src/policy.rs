//! Policies: which hosts must prove what, and what is approved.
//!
//! A policy puts hosts into classes by their names. A class has a [`Level`] and the names of approved sets. A set
//! is what one state of hosts measures: it matches a host as a whole or not at all, so that a kernel of one set and a
//! command line of another are not approved together. Several sets of a class are approved at once, for example that of the
//! installed kernel and that of the next one.

mod appraise;
mod dry_run;
mod level;
mod refusal;
mod rules;
mod set;
mod set_use;
mod text;

pub use appraise::Satisfied;
pub use dry_run::{DryRun, Evidence, Passed, dry_run};
pub use level::Level;
pub use refusal::{AlsoDiffers, Found, Nearest, Refusal, Rule};
pub use set::{Approved, ApprovedRegister, ApprovedSet};
pub use set_use::SetUse;
pub use text::MAX_POLICY_BYTES;

use crate::error::{Error, Kind, Result};
use crate::pcr::{HashAlgorithm, PcrIndex, PcrSelection};

/// A policy whose parts fit together.
#[derive(Clone, Debug)]
pub struct Policy {
    name: String,
    bank: HashAlgorithm,
    classes: Vec<Class>,
    sets: Vec<ApprovedSet>,
}

/// Hosts that are judged alike.
#[derive(Clone, Debug)]
pub struct Class {
    name: String,
    /// Patterns of host names.
    hosts: Vec<String>,
    level: Level,
    /// Names of approved sets.
    sets: Vec<String>,
    /// Registers that its hosts are quoted as well, so that a set can be proposed of them.
    learn: Vec<PcrIndex>,
}

impl Policy {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bank that hosts are quoted in.
    pub fn bank(&self) -> HashAlgorithm {
        self.bank
    }

    /// All classes. A host is in the first whose patterns have its name.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// All approved sets.
    pub fn sets(&self) -> &[ApprovedSet] {
        &self.sets
    }

    /// The class of a host.
    pub fn class_of(&self, host: &str) -> Option<&Class> {
        self.classes.iter().find(|class| class.hosts.iter().any(|pattern| matches(pattern, host)))
    }

    /// The registers that a host has to be quoted: all that sets of its class name, and those that it is to learn. `None` for a host
    /// without a class.
    pub fn selection_for(&self, host: &str) -> Option<PcrSelection> {
        let class = self.class_of(host)?;
        let registers = self.sets_of(class).flat_map(|set| set.registers().iter().map(ApprovedRegister::register));
        Some(PcrSelection::new(self.bank, registers.chain(class.learn.iter().copied())))
    }

    /// This policy with another set, approved for hosts of a class.
    ///
    /// # Errors
    /// `Invalid` when there is no such class, there is a set of this name already, or the set is of another bank.
    pub fn with_set(&self, set: ApprovedSet, class: &str) -> Result<Self> {
        self.with_set_and_level(set, class, None)
    }

    /// The same, and the class demands another level from now on.
    ///
    /// # Errors
    /// As for [`with_set`](Self::with_set); `Invalid` when no set of the class has what the level demands.
    pub fn with_set_and_level(&self, set: ApprovedSet, class: &str, level: Option<Level>) -> Result<Self> {
        let mut policy = self.clone();
        let Some(into) = policy.classes.iter_mut().find(|it| it.name == class) else {
            return Err(invalid(format!("there is no class {class:?}: expected one of {}", self.class_names())));
        };
        into.sets.push(set.name().to_owned());
        into.level = level.unwrap_or(into.level);
        policy.sets.push(set);
        policy.checked()
    }

    /// This policy without a set, for example one that no host uses any more ([`SetUse::may_retire`]).
    ///
    /// # Errors
    /// `Invalid` when there is no such set, or a class could not be satisfied without it.
    pub fn without_set(&self, name: &str) -> Result<Self> {
        let mut policy = self.clone();
        policy.sets.retain(|set| set.name() != name);
        if policy.sets.len() == self.sets.len() {
            return Err(invalid(format!("there is no set {name:?}")));
        }
        policy.classes.iter_mut().for_each(|class| class.sets.retain(|set| set != name));
        policy.checked()
    }

    /// The set of a class that approves the same as this one, whatever it is called.
    pub fn same_set<'a>(&'a self, class: &'a Class, set: &ApprovedSet) -> Option<&'a ApprovedSet> {
        self.sets_of(class).find(|approved| approved.approves_the_same(set))
    }

    fn sets_of<'a>(&'a self, class: &'a Class) -> impl Iterator<Item = &'a ApprovedSet> {
        class.sets.iter().filter_map(|name| self.sets.iter().find(|set| set.name() == name))
    }

    fn class_names(&self) -> String {
        self.classes.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Makes sure that the parts fit together, so that a mistake is noticed here and not by hosts that are refused.
    fn checked(self) -> Result<Self> {
        check_name("the policy", &self.name)?;
        if self.bank == HashAlgorithm::Sha1 {
            return Err(invalid("bank sha1: expected sha256, sha384 or sha512, since SHA-1 proves nothing"));
        }
        for (place, set) in self.sets.iter().enumerate() {
            set.check(self.bank)?;
            if self.sets[..place].iter().any(|earlier| earlier.name() == set.name()) {
                return Err(invalid(format!("set {:?} twice: expected once", set.name())));
            }
        }
        for (place, class) in self.classes.iter().enumerate() {
            if self.classes[..place].iter().any(|earlier| earlier.name == class.name) {
                return Err(invalid(format!("class {:?} twice: expected once", class.name)));
            }
            self.check_class(class).map_err(|error| error.within(format_args!("class {:?}", class.name)))?;
        }
        Ok(self)
    }

    fn check_class(&self, class: &Class) -> Result<()> {
        check_name("the class", &class.name)?;
        if class.hosts.is_empty() || class.hosts.iter().any(String::is_empty) {
            return Err(invalid("no hosts: expected patterns of host names, such as \"kvm-*\""));
        }
        if let Some(missing) = class.sets.iter().find(|name| !self.sets.iter().any(|set| set.name() == *name)) {
            return Err(invalid(format!("there is no set {missing:?}")));
        }
        if class.level == Level::Identity && !class.sets.is_empty() {
            return Err(invalid("sets with level \"identity\", which looks at no set: choose a higher level"));
        }
        class
            .learn
            .iter()
            .try_for_each(|register| set::check_register(*register).map_err(|error| error.within(*register)))?;
        for group in class.level.demanded() {
            if !self.sets_of(class).any(|set| set.has_one_of(group)) {
                let digests = if group.len() > 1 { "digests of " } else { "" };
                return Err(invalid(format!(
                    "none of its sets has {digests}{}, which level \"{}\" demands",
                    level::registers(group),
                    class.level
                )));
            }
        }
        Ok(())
    }
}

impl Class {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its level.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The names of the sets that are approved for its hosts.
    pub fn sets(&self) -> &[String] {
        &self.sets
    }

    /// Registers that its hosts are quoted although no set of the class need have them.
    pub fn learn(&self) -> &[PcrIndex] {
        &self.learn
    }
}

pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, message)
}

/// Names stand in sentences and commands.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    const MOST: usize = 100;
    let allowed = |character: char| character.is_ascii_alphanumeric() || "._-+~".contains(character);
    if name.is_empty() || name.len() > MOST || !name.chars().all(allowed) {
        return Err(invalid(format!(
            "{what} is named {name:?}: expected 1 to {MOST} letters, digits and characters of ._-+~"
        )));
    }
    Ok(())
}

/// Whether a name is what a pattern with `*` (any characters) and `?` (any one) means.
fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut in_pattern, mut in_name) = (0, 0);
    // Where the last `*` is, and how much of the name it stands for: so nothing else is ever tried again.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(in_pattern) {
            Some('*') => {
                star = Some((in_pattern, in_name));
                in_pattern += 1;
            }
            Some(wanted) if *wanted == '?' || *wanted == name[in_name] => {
                in_pattern += 1;
                in_name += 1;
            }
            _ => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                in_pattern = place + 1;
                in_name = taken + 1;
            }
        }
    }
    pattern[in_pattern..].iter().all(|rest| *rest == '*')
}

#[cfg(test)]
mod attacks;
#[cfg(test)]
#[path = "policy/tests.rs"]
pub(crate) mod tests;
