//! Whether the chains of the event log are whole.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::Serialize;

use super::log::{KEPT, numbered};
use super::{Class, Record, chain, reader};
use crate::error::{Context, Result};
use crate::format::manifest::LogEnd;
use crate::text::{self, Show};

/// At most this many problems of a chain are described.
const MAX_PROBLEMS: u64 = 20;

/// The chain of one class of events, as its files show it. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Chain {
    /// The file that is written to; its older ones are beside it.
    #[serde(with = "crate::text::path")]
    pub file: PathBuf,
    /// Events that are linked to the line before.
    pub linked: u64,
    /// Lines that are not: an earlier version wrote them, or they were cut off.
    pub unlinked: u64,
    /// The oldest event that is linked. What was before it was rotated away, if its number is not 1.
    pub first: Option<Link>,
    /// The newest one. Nothing in the files vouches for it.
    pub last: Option<Link>,
    /// What is missing, changed or put in.
    pub problems: Vec<String>,
    /// Events that the manifest of a home vouches for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vouched: Vec<Vouched>,
}

/// An event that the manifest of a home vouches for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Vouched {
    /// Its number.
    pub sequence: u64,
    /// Whether it is there.
    pub state: VouchedState,
}

/// Whether an event is there that should be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VouchedState {
    /// It is, and so is all before it.
    There,
    /// The files are later than it, as many as are kept.
    RotatedAway,
    /// It is not, or it was changed.
    Missing,
}

/// An event of a chain.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Link {
    /// Its number.
    pub sequence: u64,
    /// When it was recorded.
    pub time: String,
    /// SHA-256 of its line.
    pub hash: String,
}

/// Follows the chains of both classes. Where an event with the hash `expected` should be in one of them, its absence is a problem;
/// so is that of the events that are at one of `ends`, unless they were rotated away.
///
/// # Errors
/// `Denied`, or `Io`.
pub fn verify(log: &Path, expected: Option<&str>, ends: &[LogEnd]) -> Result<Vec<Chain>> {
    let mut is_found = expected.is_none();
    let mut chains = Vec::new();
    for class in Class::ALL {
        let mut walk = Walk::default();
        walk.chain.file = class.file(log);
        let mut missing: HashMap<String, u64> = HashMap::new();
        for end in ends.iter().filter(|end| end.class == class.number()) {
            missing.insert(HEXLOWER.encode(&end.hash), end.sequence);
        }
        let mut vouched = Vec::new();
        walk.follow(|hash| {
            is_found |= expected == Some(hash);
            vouched.extend(missing.remove(hash).map(|sequence| Vouched { sequence, state: VouchedState::There }));
        })?;
        vouched.extend(missing.into_values().map(|sequence| walk.missing(sequence)));
        chains.push(Chain { vouched, ..walk.chain });
    }
    if let Some((expected, first)) = expected.filter(|_| !is_found).zip(chains.first_mut()) {
        let expected = text::one_line(expected);
        first
            .problems
            .push(format!("no event has the hash {expected}: the log was cut or written again, or has rotated"));
    }
    Ok(chains)
}

#[derive(Default)]
struct Walk {
    chain: Chain,
    /// Hash of the line before.
    before: Option<String>,
    /// Lines without a link since the last event that has one.
    between: u64,
    problems: u64,
}

impl Walk {
    fn follow(&mut self, mut see: impl FnMut(&str)) -> Result<()> {
        let path = self.chain.file.clone();
        let mut files = reader::open_all(&path)?.into_iter().peekable();
        while let Some(file) = files.next() {
            let (mut file, mut line) = (BufReader::new(file), Vec::new());
            while file.read_until(b'\n', &mut line).context(|| format!("reading {}", path.shown()))? > 0 {
                let is_whole = line.pop_if(|last| *last == b'\n').is_some();
                if is_whole || files.peek().is_some() {
                    let hash = chain::hash(&line);
                    see(&hash);
                    self.add(&line, hash);
                }
                line.clear();
            }
        }
        if let Some(last) = self.chain.last.clone().filter(|_| self.between > 0) {
            self.put_in(&last);
        }
        if let Some(more @ 1..) = self.problems.checked_sub(MAX_PROBLEMS) {
            self.chain.problems.push(format!("and {more} more"));
        }
        Ok(())
    }

    /// What became of an event that should be there and is not.
    fn missing(&mut self, sequence: u64) -> Vouched {
        let is_older = self.chain.first.as_ref().is_some_and(|first| first.sequence > sequence);
        if is_older && numbered(&self.chain.file, KEPT).exists() {
            return Vouched { sequence, state: VouchedState::RotatedAway };
        }
        self.chain.problems.push(format!(
            "event {sequence}, which the home vouches for, is missing or was changed: the log was cut or written again"
        ));
        Vouched { sequence, state: VouchedState::Missing }
    }

    fn add(&mut self, line: &[u8], hash: String) {
        match serde_json::from_slice(line).ok().and_then(|record: Record| Some((record.sequence?, record))) {
            Some((sequence, record)) => {
                let time = text::one_line(&record.time).into_owned();
                self.link(Link { sequence, time, hash: hash.clone() }, record.previous.as_deref());
            }
            None => {
                self.chain.unlinked += 1;
                self.between += 1;
            }
        }
        self.before = Some(hash);
    }

    fn link(&mut self, event: Link, previous: Option<&str>) {
        let follows = previous == self.before.as_deref();
        match self.chain.last.clone() {
            // The line that the oldest event was written after is not there any more, unless it has no link.
            None if follows || self.before.is_none() => {}
            None => self.problem(format!("event {} was not written after the line before it", event.sequence)),
            Some(_) if follows && self.between <= 1 => {}
            Some(last) if follows || previous == Some(&last.hash) => self.put_in(&last),
            Some(last) => self.broken(&last, &event),
        }
        self.chain.linked += 1;
        self.chain.first.get_or_insert_with(|| event.clone());
        self.chain.last = Some(event);
        self.between = 0;
    }

    fn put_in(&mut self, last: &Link) {
        let (count, Link { sequence, time, .. }) = (self.between, last);
        self.problem(format!(
            "{} after event {sequence} of {time}, not part of the chain: an earlier version wrote this, or it was put in",
            text::count(count, "line", "lines")
        ));
    }

    fn broken(&mut self, last: &Link, event: &Link) {
        let missing = (last.sequence.saturating_add(1), event.sequence.saturating_sub(1));
        self.problem(match missing {
            (first, final_one) if first < final_one => {
                format!("events {first} to {final_one} are missing, between {} and {}", last.time, event.time)
            }
            (first, final_one) if first == final_one => {
                format!("event {first} is missing, or was changed, between {} and {}", last.time, event.time)
            }
            _ if event.sequence == missing.0 => {
                format!("event {} of {} was changed, or event {} was", last.sequence, last.time, event.sequence)
            }
            _ => format!("event {} of {} stands after event {}", event.sequence, event.time, last.sequence),
        });
    }

    fn problem(&mut self, problem: String) {
        self.problems += 1;
        if self.problems <= MAX_PROBLEMS {
            self.chain.problems.push(problem);
        }
    }
}

#[cfg(test)]
mod tests;
