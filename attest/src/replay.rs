//! What event logs say that registers hold, compared with what a quote says that they hold.
//!
//! Only (PCR, digest) is proven by this: for each register, which digests were extended, in which order, and that nothing
//! else was. Which register an event is in and what its digest is comes out of the logs; a log that lies there gives other
//! values than those of the quote.

use std::fmt;

use crate::error::{Error, Kind, Result};
use crate::event_log::{Content, Description, Event, EventLog, EventType, SEPARATORS};
use crate::pcr::{Digest, HashAlgorithm, PcrIndex, PcrSelection, PcrValues};
use crate::userspace_log::UserspaceLog;

/// Which event of which log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventPlace {
    /// Of the firmware's log; the header is event 0.
    Firmware(usize),
    /// Of systemd's userspace log, counted from 1.
    Userspace(usize),
}

impl fmt::Display for EventPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Firmware(index) => write!(f, "event {index} of the firmware's log"),
            Self::Userspace(index) => write!(f, "record {index} of the userspace log"),
        }
    }
}

/// One digest that a register was extended by.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The digest. It is proven to have been extended at this place in its register.
    pub digest: Digest,
    /// Where the logs have it.
    pub place: EventPlace,
    /// What people are shown.
    pub description: Description,
    pub(crate) meaning: Meaning,
}

/// What an event is for the rules that need more than its digest. All of it but labels is proven by the digest.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Meaning {
    /// The end of what firmware measures, whatever the log calls it.
    Separator,
    /// Labelled a separator, but with another content.
    WrongSeparator,
    /// The variable SecureBoot, whatever the log calls it. Its label is that of a configuration variable, or not.
    SecureBoot { on: bool, labelled: bool },
    /// Another variable that configures Secure Boot.
    Configuration,
    /// What Secure Boot accepted an image by.
    Authority,
    /// Words, of the firmware or of systemd.
    Words,
    /// Something whose digest proves no content.
    Unproven,
}

/// All that was measured into the registers of a quote, proven to be all. Only [`Replayed::new`] makes one.
#[derive(Clone, Debug)]
pub struct Replayed {
    values: PcrValues,
    /// In the order of the selection.
    registers: Vec<(PcrIndex, Vec<Measured>)>,
}

/// Why logs do not prove a quote's values.
#[derive(Clone, Debug)]
pub enum ReplayError {
    /// The logs do not fit the bank: an event has no digest there.
    Unusable(Error),
    /// A register has another value than the logs give.
    Differs(Box<Difference>),
}

/// The first register that differs, and what is known about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Difference {
    /// The register.
    pub register: PcrIndex,
    /// The value of the quote.
    pub quoted: Digest,
    /// The value that the logs give.
    pub replayed: Digest,
    /// How many events the logs have for it.
    pub events: usize,
    /// After how many of them the value was that of the quote, if it ever was. 0: before the first one.
    pub reached_after: Option<usize>,
    /// Where the first event past those is, which then was not measured.
    pub first_excess: Option<EventPlace>,
}

impl Replayed {
    /// Replays logs in the bank of `quoted`, and compares the result with it.
    ///
    /// # Errors
    /// The first register whose value differs.
    pub fn new(
        log: &EventLog<'_>,
        userspace: &UserspaceLog,
        quoted: &PcrValues,
    ) -> std::result::Result<Self, ReplayError> {
        let bank = quoted.bank();
        let mut registers: Vec<_> = quoted.selection().iter().map(|index| (index, Vec::new())).collect();
        let selected = |registers: &mut Vec<(PcrIndex, Vec<Measured>)>, index: PcrIndex, event: Measured| {
            if let Some((_, events)) = registers.iter_mut().find(|(register, _)| *register == index) {
                events.push(event);
            }
        };
        for event in log.events().iter().filter(|event| event.extends()) {
            if let Some(register) = event.register().filter(|register| quoted.selection().contains(*register)) {
                selected(&mut registers, register, of_firmware(event, bank).map_err(ReplayError::Unusable)?);
            }
        }
        for record in userspace.records().iter().filter(|record| quoted.selection().contains(record.register())) {
            let place = EventPlace::Userspace(record.index());
            let digest = record.digest(bank).ok_or_else(|| ReplayError::Unusable(no_digest(place, bank)))?;
            let meaning = match record.text(bank) {
                _ if is_separator(&digest) => Meaning::Separator,
                Some(_) => Meaning::Words,
                None => Meaning::Unproven,
            };
            let event = Measured { digest, place, description: record.description(bank), meaning };
            selected(&mut registers, record.register(), event);
        }
        for (register, events) in &registers {
            let start = start_value(*register, bank, log.startup_locality()).map_err(ReplayError::Unusable)?;
            // The registers are those of the selection, so there is a value for each.
            let quoted = quoted.get(*register).copied().unwrap_or(start);
            compare(*register, start, quoted, events)?;
        }
        Ok(Self { values: quoted.clone(), registers })
    }

    /// The values that the logs were proven to give: those that were compared with.
    pub fn values(&self) -> &PcrValues {
        &self.values
    }

    /// The bank.
    pub fn bank(&self) -> HashAlgorithm {
        self.values.bank()
    }

    /// Which registers.
    pub fn selection(&self) -> PcrSelection {
        self.values.selection()
    }

    /// All that was measured into a register, in order. `None` for one that is not in the selection.
    pub fn events(&self, register: PcrIndex) -> Option<&[Measured]> {
        self.registers.iter().find(|(index, _)| *index == register).map(|(_, events)| events.as_slice())
    }

    /// All registers with what was measured into them.
    pub fn iter(&self) -> impl Iterator<Item = (PcrIndex, &[Measured])> {
        self.registers.iter().map(|(register, events)| (*register, events.as_slice()))
    }
}

fn compare(
    register: PcrIndex,
    start: Digest,
    quoted: Digest,
    events: &[Measured],
) -> std::result::Result<(), ReplayError> {
    let mut value = start;
    let mut reached_after = (start == quoted).then_some(0);
    for (place, event) in events.iter().enumerate() {
        value = value.extended(&event.digest).map_err(ReplayError::Unusable)?;
        if value == quoted {
            reached_after = Some(place + 1);
        }
    }
    if value == quoted {
        return Ok(());
    }
    Err(ReplayError::Differs(Box::new(Difference {
        register,
        quoted,
        replayed: value,
        events: events.len(),
        reached_after,
        first_excess: reached_after.and_then(|after| events.get(after)).map(|event| event.place),
    })))
}

/// What a register holds before anything is measured.
pub(crate) fn start_value(register: PcrIndex, bank: HashAlgorithm, locality: u8) -> Result<Digest> {
    let mut bytes = vec![0; bank.digest_len()];
    match register.number() {
        0 => {
            if let Some(last) = bytes.last_mut() {
                *last = locality;
            }
        }
        // Of a dynamic launch, which has not happened.
        17..=22 => bytes.fill(0xff),
        _ => {}
    }
    Digest::new(bank, &bytes)
}

fn no_digest(place: EventPlace, bank: HashAlgorithm) -> Error {
    Error::new(Kind::Malformed, format!("{place} has no {bank} digest: expected one, since the quote is of that bank"))
}

fn of_firmware(event: &Event<'_>, bank: HashAlgorithm) -> Result<Measured> {
    let place = EventPlace::Firmware(event.index());
    let digest = event.digest(bank).ok_or_else(|| no_digest(place, bank))?;
    let meaning = meaning(event, &digest, bank);
    Ok(Measured { digest, place, description: event.description(bank), meaning })
}

/// Separators are known by their digest: a log that calls one something else changes nothing.
fn is_separator(digest: &Digest) -> bool {
    SEPARATORS.iter().any(|content| *digest == Digest::of(digest.algorithm(), &[content]))
}

fn meaning(event: &Event<'_>, digest: &Digest, bank: HashAlgorithm) -> Meaning {
    if is_separator(digest) {
        return Meaning::Separator;
    }
    let label = event.event_type();
    if label == EventType::SEPARATOR {
        return Meaning::WrongSeparator;
    }
    if let Some(variable) = event.proven_variable(bank).filter(Content::is_secure_boot) {
        let on = matches!(variable, Content::Variable { value: [1], .. });
        return Meaning::SecureBoot { on, labelled: label == EventType::VARIABLE_DRIVER_CONFIG };
    }
    match event.content(bank) {
        Some(Content::Variable { .. }) if label == EventType::VARIABLE_AUTHORITY => Meaning::Authority,
        Some(Content::Variable { .. }) => Meaning::Configuration,
        Some(Content::Text(_)) => Meaning::Words,
        Some(Content::Separator | Content::ErrorSeparator | Content::Other(_)) | None => Meaning::Unproven,
    }
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(error) => error.fmt(f),
            Self::Differs(difference) => difference.fmt(f),
        }
    }
}

impl std::error::Error for ReplayError {}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { register, quoted, replayed, events, .. } = self;
        write!(f, "{register} is {quoted} in the quote, but the logs give {replayed}")?;
        match (self.reached_after, self.first_excess) {
            (Some(after), Some(place)) => write!(
                f,
                ". After {after} of its {events} events the value was that of the quote: {place} and what follows were \
                 not measured"
            ),
            _ if *events == 0 => write!(f, ". The logs have no event for it, so an event is missing"),
            _ => write!(f, ". None of its {events} events leads to it: one is missing, changed or in another order"),
        }
    }
}

#[cfg(test)]
#[path = "replay/tests.rs"]
mod tests;
