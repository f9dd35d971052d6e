//! The firmware's event log, in the crypto-agile form of the TCG PC Client Platform Firmware Profile.
//!
//! A log is written by the host that is judged, so nothing in it is trusted by itself. What counts is that its digests
//! give the values of a quote, which [`replay`](crate::replay) proves. An event's type is not in its digest: a host can
//! label its events as it likes. See [`Event::content`] for when the content of an event counts.

mod content;
mod describe;
mod event_type;
mod fields;
mod header;

pub use content::{Content, Guid, SECURE_BOOT};

pub(crate) use content::SEPARATORS;
pub use describe::Description;
pub use event_type::EventType;

pub(crate) use describe::printable;
pub(crate) use fields::Fields;

use crate::error::{Error, Result};
use crate::pcr::{Digest, HashAlgorithm, PcrIndex};
use header::Algorithms;

/// Bytes of the longest log that is read. Logs of real hosts have up to 100 kB.
pub const MAX_LOG_BYTES: usize = 1 << 20;

/// A parsed log, which borrows the bytes that it was made of.
#[derive(Clone, Debug)]
pub struct EventLog<'a> {
    events: Vec<Event<'a>>,
    startup_locality: Option<u8>,
}

/// One event of a log.
#[derive(Clone, Debug)]
pub struct Event<'a> {
    index: usize,
    /// None only for an event that extends nothing.
    register: Option<PcrIndex>,
    event_type: EventType,
    digests: Vec<(u16, &'a [u8])>,
    data: &'a [u8],
}

impl<'a> EventLog<'a> {
    /// Reads a log, such as /sys/kernel/security/tpm0/binary_bios_measurements.
    ///
    /// # Errors
    /// `Unsupported` for the older form, which has only SHA-1. `Malformed` when it is longer than [`MAX_LOG_BYTES`] or
    /// does not follow its format to the last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        if bytes.len() > MAX_LOG_BYTES {
            return Err(Error::malformed(format!(
                "an event log of {} bytes: expected at most {MAX_LOG_BYTES}",
                bytes.len()
            )));
        }
        let mut fields = Fields::new(bytes);
        let algorithms = header::read(&mut fields).map_err(|error| error.within("the event log's first event"))?;
        let mut log = Self { events: Vec::new(), startup_locality: None };
        // The header is event 0, as in what other tools print.
        let mut index = 1;
        while !fields.is_empty() {
            let event = Event::read(&mut fields, &algorithms, index)
                .map_err(|error| error.within(format_args!("event {index} of the event log")))?;
            log.note_locality(&event)?;
            log.events.push(event);
            index += 1;
        }
        Ok(log)
    }

    /// All events past the header, in the order in which they were measured.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The locality that started the TPM, which is the first value of PCR 0. 0 where the log does not name one.
    pub fn startup_locality(&self) -> u8 {
        self.startup_locality.unwrap_or(0)
    }

    /// Takes the locality out of an event that names it. It stands once, before anything is measured into PCR 0.
    fn note_locality(&mut self, event: &Event<'a>) -> Result<()> {
        let Some(locality) = event.locality() else { return Ok(()) };
        let refuse = |what: &str| Err(Error::malformed(format!("event {} of the event log: {what}", event.index)));
        if ![0, 3, 4].contains(&locality) {
            return refuse(&format!("startup locality {locality}: expected 0, 3 or 4"));
        }
        if self.startup_locality.is_some() {
            return refuse("a second startup locality: expected one");
        }
        if self.events.iter().any(|earlier| earlier.extends() && earlier.register.is_some_and(|it| it.number() == 0)) {
            return refuse("a startup locality after an event of PCR 0: expected it before");
        }
        self.startup_locality = Some(locality);
        Ok(())
    }
}

impl<'a> Event<'a> {
    fn read(fields: &mut Fields<'a>, algorithms: &Algorithms, index: usize) -> Result<Self> {
        let register = fields.u32("a PCR number")?;
        let event_type = EventType(fields.u32("an event type")?);
        let count = fields.u32("a number of digests")?;
        if u32::try_from(algorithms.len()).is_ok_and(|most| count > most) {
            return Err(Error::malformed(format!(
                "{count} digests: expected at most {}, as many algorithms as the log has",
                algorithms.len()
            )));
        }
        let mut digests: Vec<(u16, &[u8])> = Vec::new();
        for _ in 0..count {
            let algorithm = fields.u16("an algorithm")?;
            let len = algorithms.digest_len(algorithm)?;
            if digests.iter().any(|(earlier, _)| *earlier == algorithm) {
                return Err(Error::malformed(format!("two digests of algorithm {algorithm:#06x}: expected one")));
            }
            digests.push((algorithm, fields.take(len, "a digest")?));
        }
        let len = fields.size("a length")?;
        let data = fields.take(len, "an event's content")?;
        let register = match PcrIndex::new(register) {
            Ok(register) => Some(register),
            Err(_) if event_type == EventType::NO_ACTION => None,
            Err(error) => return Err(error),
        };
        Ok(Self { index, register, event_type, digests, data })
    }

    /// Its place in the log; the header is 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The register that it was extended into; none for some events that extend nothing.
    pub fn register(&self) -> Option<PcrIndex> {
        self.register
    }

    /// How the log labels it. The digest says nothing about this.
    pub fn event_type(&self) -> EventType {
        self.event_type
    }

    /// Whether it changed its register.
    pub fn extends(&self) -> bool {
        self.event_type != EventType::NO_ACTION
    }

    /// What the log has as its content, proven or not.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Its digest in a bank, if the log has one.
    pub fn digest(&self, bank: HashAlgorithm) -> Option<Digest> {
        let (_, bytes) = self.digests.iter().find(|(id, _)| *id == bank.id())?;
        Digest::new(bank, bytes).ok()
    }

    /// What was measured, where the digest proves it: the content's hash is the digest, and the type is one whose digest
    /// is that hash. `None` says nothing about the event: what the log claims of it may be true or not.
    pub fn content(&self, bank: HashAlgorithm) -> Option<Content<'a>> {
        let proven = self.event_type.digest_is_of_content() && self.digest_is_of_data(bank);
        proven.then(|| Content::read(self.event_type, self.data))
    }

    /// The content as a variable, where its hash is the digest, whatever type the log gives it.
    pub(crate) fn proven_variable(&self, bank: HashAlgorithm) -> Option<Content<'a>> {
        content::variable(self.data).filter(|_| self.digest_is_of_data(bank))
    }

    /// Whether what was extended is the hash of what the log has as the event's content.
    fn digest_is_of_data(&self, bank: HashAlgorithm) -> bool {
        self.extends() && self.digest(bank) == Some(Digest::of(bank, &[self.data]))
    }

    /// What people are shown of it.
    pub fn description(&self, bank: HashAlgorithm) -> Description {
        describe::describe(self, bank)
    }

    fn locality(&self) -> Option<u8> {
        const SIGNATURE: &[u8] = b"StartupLocality\0";
        if self.extends() || self.register.is_none_or(|register| register.number() != 0) {
            return None;
        }
        match self.data.strip_prefix(SIGNATURE) {
            Some([locality]) => Some(*locality),
            _ => None,
        }
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
#[path = "event_log/tests.rs"]
mod tests;
