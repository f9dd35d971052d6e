//! Approved sets: what one state of hosts measures.

use std::fmt;
use std::str::FromStr;

use super::{check_name, invalid};
use crate::error::{Error, Result};
use crate::event_log::printable;
use crate::pcr::{Digest, HashAlgorithm, PcrIndex, PcrSelection};
use crate::replay::{Measured, Replayed};

/// Digests of one register that a set may have.
const MAX_DIGESTS: usize = 4096;

/// A digest, and what people call it. The words decide nothing. Its text is the digest, a space and the words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Approved {
    /// The digest.
    pub digest: Digest,
    /// The words; empty where there are none.
    pub description: String,
}

/// What is approved in one register.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApprovedRegister {
    pub(super) register: PcrIndex,
    /// All digests, in the order in which they have to be measured.
    pub(super) measured: Vec<Approved>,
    /// Digests that may be measured into this register as well, anywhere and any number of times.
    pub(super) ignored: Vec<Approved>,
}

/// A named and dated state of hosts. It matches a host whose registers all have exactly its digests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApprovedSet {
    pub(super) name: String,
    pub(super) approved: String,
    pub(super) note: Option<String>,
    pub(super) keep: bool,
    pub(crate) registers: Vec<ApprovedRegister>,
}

/// Where a host first differs from what is approved in a register.
#[derive(Clone, Copy, Debug)]
pub(super) struct Differs<'a> {
    /// How many digests were as approved.
    pub(super) matched: usize,
    /// What was measured there; `None` if nothing more was.
    pub(super) found: Option<&'a Measured>,
    /// What is approved there; `None` if nothing more is.
    pub(super) wanted: Option<&'a Approved>,
}

impl ApprovedSet {
    /// A set without registers. `approved` is its date: `2026-11-30`, or with the time `2026-11-30T16:00:00Z`.
    ///
    /// # Errors
    /// `Invalid` when the name or the date is not of the right form.
    pub fn new(name: &str, approved: &str) -> Result<Self> {
        check_name("the set", name)?;
        check_date(approved)?;
        Ok(Self {
            name: name.to_owned(),
            approved: approved.to_owned(),
            note: None,
            keep: false,
            registers: Vec::new(),
        })
    }

    /// A proposal: what a host has measured into these registers. Registers that it was not quoted are left out.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn of_host(name: &str, approved: &str, replayed: &Replayed, registers: PcrSelection) -> Result<Self> {
        let mut set = Self::new(name, approved)?;
        for (register, events) in replayed.iter().filter(|(register, _)| registers.contains(*register)) {
            let approved =
                |event: &Measured| Approved { digest: event.digest, description: event.description.to_string() };
            set.push(register, events.iter().map(approved).collect());
        }
        Ok(set)
    }

    pub(crate) fn push(&mut self, register: PcrIndex, measured: Vec<Approved>) {
        self.registers.push(ApprovedRegister { register, measured, ignored: Vec::new() });
    }

    /// Lets a digest be measured into a register, wherever it comes. Only this digest, whatever type an event has.
    ///
    /// # Errors
    /// `Invalid` when the set does not have this register.
    pub fn ignore(&mut self, register: PcrIndex, digest: Approved) -> Result<()> {
        let missing = || invalid(format!("set {:?} does not have {register}", self.name));
        let place = self.registers.iter().position(|it| it.register == register).ok_or_else(missing)?;
        let into = &mut self.registers[place];
        into.measured.retain(|approved| approved.digest != digest.digest);
        into.ignored.push(digest);
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it was approved.
    pub fn approved(&self) -> &str {
        &self.approved
    }

    /// What people noted about it.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Whether it stays when hosts have moved on from it.
    pub fn keeps(&self) -> bool {
        self.keep
    }

    /// The same digests under another name, with another date and note. One that stays when hosts have moved on still does.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn renamed(self, name: &str, approved: &str, note: Option<String>) -> Result<Self> {
        Ok(Self { note, keep: self.keep, registers: self.registers, ..Self::new(name, approved)? })
    }

    /// Whether both match the same hosts. Words count for nothing.
    pub fn approves_the_same(&self, other: &Self) -> bool {
        let same = |mine: &ApprovedRegister| {
            let theirs = other.register(mine.register.number());
            theirs.is_some_and(|theirs| theirs.digests().eq(mine.digests()))
        };
        self.registers.len() == other.registers.len() && self.registers.iter().all(same)
    }

    /// What is approved, by register.
    pub fn registers(&self) -> &[ApprovedRegister] {
        &self.registers
    }

    pub(crate) fn register(&self, number: u8) -> Option<&ApprovedRegister> {
        self.registers.iter().find(|it| it.register.number() == number)
    }

    /// Whether it says what was measured into one of these registers ([`Level::demanded`](super::Level::demanded)). Where several would do,
    /// a loader leaves those empty that it does not use: that one of them is empty says nothing of what was booted.
    pub(super) fn has_one_of(&self, group: &[u8]) -> bool {
        let says = |register: &ApprovedRegister| group.len() == 1 || !register.measured.is_empty();
        group.iter().any(|number| self.register(*number).is_some_and(says))
    }

    /// Refuses a set that no policy of this bank can have.
    ///
    /// # Errors
    /// `Invalid`.
    pub fn check(&self, bank: HashAlgorithm) -> Result<()> {
        let within = |error: Error| error.within(format_args!("set {:?}", self.name));
        check_name("the set", &self.name)?;
        check_date(&self.approved).map_err(within)?;
        if self.registers.is_empty() {
            return Err(within(invalid("it has no registers: expected at least one")));
        }
        for (place, register) in self.registers.iter().enumerate() {
            let twice = self.registers[..place].iter().any(|earlier| earlier.register == register.register);
            let check = if twice { Err(invalid("twice: expected once")) } else { register.check(bank) };
            check.map_err(|error| within(error.within(register.register)))?;
        }
        Ok(())
    }
}

impl ApprovedRegister {
    /// The register.
    pub fn register(&self) -> PcrIndex {
        self.register
    }

    /// All digests that have to be measured, in order.
    pub fn measured(&self) -> &[Approved] {
        &self.measured
    }

    /// Digests that may be measured as well.
    pub fn ignored(&self) -> &[Approved] {
        &self.ignored
    }

    /// All digests: those that have to be measured in their order, and then those that may be, in an order of their own.
    fn digests(&self) -> impl Iterator<Item = (bool, Digest)> {
        let mut ignored: Vec<Digest> = self.ignored.iter().map(|approved| approved.digest).collect();
        ignored.sort_unstable();
        let measured = self.measured.iter().map(|approved| (true, approved.digest));
        measured.chain(ignored.into_iter().map(|digest| (false, digest)))
    }

    /// Where events first differ from this; `None` where they are as approved.
    pub(super) fn first_difference<'a>(&'a self, events: &'a [Measured]) -> Option<Differs<'a>> {
        let ignored = |event: &&Measured| self.ignored.iter().any(|approved| approved.digest == event.digest);
        let mut events = events.iter().filter(|event| !ignored(event));
        let mut matched = 0;
        loop {
            let (found, wanted) = (events.next(), self.measured.get(matched));
            match (found, wanted) {
                (None, None) => return None,
                (Some(found), Some(wanted)) if found.digest == wanted.digest => matched += 1,
                _ => return Some(Differs { matched, found, wanted }),
            }
        }
    }

    fn check(&self, bank: HashAlgorithm) -> Result<()> {
        check_register(self.register)?;
        if self.measured.len() + self.ignored.len() > MAX_DIGESTS {
            return Err(invalid(format!("more than {MAX_DIGESTS} digests")));
        }
        let mut both = self.measured.iter().chain(&self.ignored);
        if let Some(other) = both.find(|approved| approved.digest.algorithm() != bank) {
            return Err(invalid(format!("digest {}: expected one of {bank}, the policy's bank", other.digest)));
        }
        let required = |ignored: &&Approved| self.measured.iter().any(|it| it.digest == ignored.digest);
        if let Some(both) = self.ignored.iter().find(required) {
            return Err(invalid(format!("digest {} both measured and ignored: expected one of them", both.digest)));
        }
        Ok(())
    }
}

/// Refuses the register that changes all the time (IMA).
pub(super) fn check_register(register: PcrIndex) -> Result<()> {
    match register.number() {
        10 => Err(invalid("it changes while a host runs: expected registers that do not")),
        _ => Ok(()),
    }
}

/// Dates are compared as text, so they all have one form: `2026-11-30`, or with the time in UTC.
fn check_date(text: &str) -> Result<()> {
    const FORM: &[u8] = b"dddd-dd-ddTdd:dd:ddZ";
    let fits = |form: &[u8]| {
        form.len() == text.len()
            && text
                .bytes()
                .zip(form)
                .all(|(byte, form)| if *form == b'd' { byte.is_ascii_digit() } else { byte == *form })
    };
    if fits(FORM) || fits(&FORM[..10]) {
        return Ok(());
    }
    Err(invalid(format!("approved = {text:?}: expected a date such as \"2026-11-30\" or \"2026-11-30T16:00:00Z\"")))
}

impl fmt::Display for Approved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.digest)?;
        if self.description.is_empty() { Ok(()) } else { write!(f, " {}", self.description) }
    }
}

impl FromStr for Approved {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (digest, description) = text.split_once(' ').unwrap_or((text, ""));
        let digest = digest.parse().map_err(|error: Error| invalid(error.to_string()))?;
        Ok(Self { digest, description: printable(description.trim().as_bytes()) })
    }
}
