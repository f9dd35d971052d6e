//! Why a host was refused: for people as sentences, for programs as fields.

use std::fmt;

use serde::{Serialize, Serializer};

use super::{Approved, Level};
use crate::error::Error;
use crate::pcr::{Digest, PcrIndex};
use crate::replay::{EventPlace, Measured, ReplayError};

/// Which rule was broken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Event logs follow their format.
    EventLog,
    /// Event logs give the values of the quote.
    Replay,
    /// A host is in a class.
    Class,
    /// A host is quoted the registers that its class needs.
    Selection,
    /// PCR 0 to 7 have one separator each.
    Separator,
    /// Secure Boot is on, beyond doubt.
    SecureBoot,
    /// What was measured is in an approved set.
    ApprovedSets,
}

/// The event by which a host was refused.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Found {
    /// `firmware` or `userspace`.
    pub log: &'static str,
    /// Its place in that log.
    pub index: usize,
    /// What it is.
    pub description: String,
    /// Whether its digest proves the description; otherwise it is what the log says.
    pub proven: bool,
    /// Its digest.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
}

/// The approved set that is the most like what was found, and what it has in the same place.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Nearest {
    /// The set's name.
    pub set: String,
    /// How many digests of the register were as approved there.
    pub matched: usize,
    /// What is approved next; `None` where nothing more is.
    #[serde(serialize_with = "as_optional_text")]
    pub digest: Option<Digest>,
    /// What people call it.
    pub description: Option<String>,
}

/// Another register that differs from the nearest set. In a unified kernel image, PCR 11 says which section changed.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct AlsoDiffers {
    /// The register's number.
    pub register: u8,
    /// The first event that is not as approved; `None` where one is missing.
    pub event: Option<Found>,
}

/// Why a host was refused.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Refusal {
    /// The host.
    pub host: String,
    /// Its class, if it has one.
    pub class: Option<String>,
    /// What its class demands.
    pub level: Option<Level>,
    /// The rule.
    pub rule: Rule,
    /// The register in which it was broken.
    #[serde(serialize_with = "as_number")]
    pub register: Option<PcrIndex>,
    /// What was found, and what was expected: a sentence without a full stop.
    pub reason: String,
    /// The event.
    pub event: Option<Found>,
    /// What is approved that is the most like it.
    pub nearest: Option<Nearest>,
    /// What else differs from it.
    pub also: Vec<AlsoDiffers>,
    /// What an administrator of the authority types to approve what was measured; `None` where that would not help.
    pub command: Option<String>,
}

fn as_text<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

#[allow(clippy::ref_option, reason = "serde's form of it")]
fn as_optional_text<S: Serializer>(value: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(digest) => serializer.collect_str(digest),
        None => serializer.serialize_none(),
    }
}

#[allow(clippy::ref_option, reason = "serde's form of it")]
fn as_number<S: Serializer>(value: &Option<PcrIndex>, serializer: S) -> Result<S::Ok, S::Error> {
    value.map(PcrIndex::number).serialize(serializer)
}

impl Refusal {
    pub(super) fn new(host: &str, rule: Rule, reason: impl Into<String>) -> Self {
        Self {
            host: host.to_owned(),
            class: None,
            level: None,
            rule,
            register: None,
            reason: reason.into(),
            event: None,
            nearest: None,
            also: Vec::new(),
            command: None,
        }
    }

    /// The refusal of a host whose event log or userspace log cannot be read.
    pub fn of_log(host: &str, error: &Error) -> Self {
        Self::new(host, Rule::EventLog, error.to_string())
    }

    /// The refusal of a host whose logs do not give the values of its quote.
    pub fn of_replay(host: &str, error: &ReplayError) -> Self {
        let register = match error {
            ReplayError::Differs(difference) => Some(difference.register),
            ReplayError::Unusable(_) => None,
        };
        Self { register, ..Self::new(host, Rule::Replay, error.to_string()) }
    }
}

impl Found {
    pub(super) fn of(event: &Measured) -> Self {
        let (log, index) = match event.place {
            EventPlace::Firmware(index) => ("firmware", index),
            EventPlace::Userspace(index) => ("userspace", index),
        };
        Self {
            log,
            index,
            description: event.description.text().to_owned(),
            proven: event.description.is_proven(),
            digest: event.digest,
        }
    }

    fn place(&self) -> EventPlace {
        if self.log == "firmware" { EventPlace::Firmware(self.index) } else { EventPlace::Userspace(self.index) }
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let claimed = if self.proven { "" } else { " (as the log says)" };
        write!(f, "{}{claimed}, {}", self.description, self.digest)
    }
}

impl Nearest {
    pub(super) fn of(set: &str, matched: usize, wanted: Option<&Approved>) -> Self {
        Self {
            set: set.to_owned(),
            matched,
            digest: wanted.map(|approved| approved.digest),
            description: wanted.map(|approved| approved.description.clone()).filter(|words| !words.is_empty()),
        }
    }
}

impl Rule {
    fn words(self) -> &'static str {
        match self {
            Self::EventLog => "event logs can be read",
            Self::Replay => "event logs give the values of the quote",
            Self::Class => "every host is in a class",
            Self::Selection => "a quote has the registers that the class needs",
            Self::Separator => "PCR 0 to 7 have one separator each",
            Self::SecureBoot => "Secure Boot is on",
            Self::ApprovedSets => "what was booted is approved",
        }
    }
}

/// A reason as a sentence of its own.
fn capitalised(reason: &str) -> String {
    let mut characters = reason.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is refused", self.host)?;
        if let (Some(class), Some(level)) = (&self.class, self.level) {
            write!(f, " as a host of class \"{class}\", level \"{level}\"")?;
        }
        write!(f, ". The rule is: {}.", self.rule.words())?;
        match self.register {
            // A difference of values begins with its register.
            Some(register) if self.rule != Rule::Replay => write!(f, " {register}: {}.", self.reason)?,
            _ => write!(f, " {}.", capitalised(&self.reason))?,
        }
        if let Some(event) = &self.event {
            write!(f, " It is {}: {event}.", event.place())?;
        }
        if let Some(nearest) = &self.nearest {
            write!(f, " The nearest approved set is \"{}\"", nearest.set)?;
            match (nearest.digest, &nearest.description) {
                (Some(digest), Some(words)) => write!(f, "; it has {words}, {digest}, in this place.")?,
                (Some(digest), None) => write!(f, "; it has {digest} in this place.")?,
                (None, _) => write!(f, "; it has nothing more in this place.")?,
            }
        }
        for also in &self.also {
            write!(f, " PCR {} differs as well", also.register)?;
            match &also.event {
                Some(event) => write!(f, ", from {} on: {event}.", event.place())?,
                None => write!(f, ": an approved event was not measured.")?,
            }
        }
        if let Some(command) = &self.command {
            write!(f, " To approve what was measured: {command}")?;
        }
        Ok(())
    }
}
