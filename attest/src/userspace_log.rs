//! systemd's log of what it measures after the kernel has started: /run/log/systemd/tpm2-measure.log.
//!
//! It is a JSON text sequence (RFC 7464): each record is an object between the character RS and a line feed, nearly as in
//! the TCG's Canonical Event Log. It follows the firmware's log: its records extend registers after all events of that one.
//! As there, only (PCR, digest) counts, and a record's text only where its hash is the digest.

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::event_log::{Description, printable};
use crate::pcr::{Digest, HashAlgorithm, PcrIndex};

/// Bytes of the longest log that is read. A boot of systemd leaves about 5 kB.
pub const MAX_LOG_BYTES: usize = 1 << 20;

/// Digests of one record: TPMs have no more banks.
const MAX_DIGESTS: usize = 16;

/// Registers from this one on are reset without a boot, and the kernel's own measurements are in PCR 10.
const FIRST_DYNAMIC: u8 = 16;
const KERNELS_OWN: u8 = 10;

const RECORD_SEPARATOR: u8 = 0x1e;

/// A parsed log.
#[derive(Clone, Debug, Default)]
pub struct UserspaceLog {
    records: Vec<Record>,
}

/// What was measured once.
#[derive(Clone, Debug)]
pub struct Record {
    index: usize,
    register: PcrIndex,
    digests: Vec<Digest>,
    event_type: Option<String>,
    text: Option<String>,
}

#[derive(Deserialize)]
struct JsonRecord {
    /// Absent where an NV index was extended instead of a register.
    pcr: Option<u32>,
    digests: Vec<JsonDigest>,
    content: Option<JsonContent>,
}

#[derive(Deserialize)]
struct JsonDigest {
    #[serde(rename = "hashAlg")]
    algorithm: String,
    digest: String,
}

#[derive(Deserialize)]
struct JsonContent {
    #[serde(rename = "eventType")]
    event_type: Option<String>,
    string: Option<String>,
}

impl UserspaceLog {
    /// Reads a log. Records about NV indexes are left out: they extend no register.
    ///
    /// # Errors
    /// `Malformed` when it is longer than [`MAX_LOG_BYTES`], or does not follow its format to the last byte: the
    /// last record may be one that systemd was about to write.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_LOG_BYTES {
            return Err(Error::malformed(format!(
                "a userspace log of {} bytes: expected at most {MAX_LOG_BYTES}",
                bytes.len()
            )));
        }
        let mut texts = bytes.split(|byte| *byte == RECORD_SEPARATOR);
        if let Some(before) = texts.next().filter(|before| !before.is_empty()) {
            return Err(Error::malformed(format!(
                "the userspace log begins with {:?}: expected the character RS (0x1e)",
                printable(before)
            )));
        }
        let mut records = Vec::new();
        for (place, text) in texts.enumerate() {
            // Counted from 1, as events of the other log are.
            let index = place + 1;
            let within = |error: Error| error.within(format_args!("record {index} of the userspace log"));
            records.extend(Record::read(index, text).map_err(within)?);
        }
        Ok(Self { records })
    }

    /// All records about registers, in the order in which they were measured.
    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Record {
    fn read(index: usize, text: &[u8]) -> Result<Option<Self>> {
        let Some(text) = text.strip_suffix(b"\n") else {
            return Err(Error::malformed("it does not end with a line feed, so it is not complete"));
        };
        // Fields that are not named are skipped without recursion.
        let json: JsonRecord = serde_json::from_slice(text).map_err(|error| Error::malformed(error.to_string()))?;
        let Some(register) = json.pcr else { return Ok(None) };
        let register = PcrIndex::new(register)?;
        if register.number() >= FIRST_DYNAMIC || register.number() == KERNELS_OWN {
            return Err(Error::malformed(format!(
                "{register}: expected PCR 0 to {}, without {KERNELS_OWN}",
                FIRST_DYNAMIC - 1
            )));
        }
        let (event_type, text) = json.content.map_or((None, None), |content| (content.event_type, content.string));
        Ok(Some(Self { index, register, digests: digests(&json.digests)?, event_type, text }))
    }

    /// Its place in the log, counted from 1.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The register that it was extended into.
    pub fn register(&self) -> PcrIndex {
        self.register
    }

    /// Its digest in a bank, if the log has one.
    pub fn digest(&self, bank: HashAlgorithm) -> Option<Digest> {
        self.digests.iter().copied().find(|digest| digest.algorithm() == bank)
    }

    /// The words that were measured, such as `enter-initrd`, where their hash is the digest.
    pub fn text(&self, bank: HashAlgorithm) -> Option<&str> {
        let text = self.text.as_deref()?;
        (self.digest(bank)? == Digest::of(bank, &[text.as_bytes()])).then_some(text)
    }

    /// What people are shown of it.
    pub fn description(&self, bank: HashAlgorithm) -> Description {
        if let Some(text) = self.text(bank) {
            return Description::proven(format!("\"{}\"", printable(text.as_bytes())));
        }
        let shown = |words: &Option<String>| words.as_deref().map(|words| printable(words.as_bytes()));
        let kind = shown(&self.event_type).unwrap_or_else(|| "a measurement of userspace".to_owned());
        Description::claimed(match shown(&self.text) {
            Some(text) => format!("{kind} \"{text}\""),
            None => kind,
        })
    }
}

/// The digests of known algorithms; at most one of each.
fn digests(found: &[JsonDigest]) -> Result<Vec<Digest>> {
    if found.len() > MAX_DIGESTS {
        return Err(Error::malformed(format!("{} digests: expected at most {MAX_DIGESTS}", found.len())));
    }
    let mut digests: Vec<Digest> = Vec::new();
    for found in found {
        if !HashAlgorithm::ALL.iter().any(|known| known.name() == found.algorithm) {
            continue;
        }
        let digest: Digest = format!("{}:{}", found.algorithm, found.digest).parse()?;
        if digests.iter().any(|earlier| earlier.algorithm() == digest.algorithm()) {
            return Err(Error::malformed(format!("two digests of {}: expected one", digest.algorithm())));
        }
        digests.push(digest);
    }
    Ok(digests)
}

#[cfg(test)]
#[path = "userspace_log/tests.rs"]
pub(crate) mod tests;
