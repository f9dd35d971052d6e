//! The chain that the events of a file are: each one has a number, and the hash of the line before.
//!
//! SHA-256 without a key: whoever may write the file could read a key on the same host as well, and without one anybody who may
//! read the file can verify it. docs/THREAT-MODEL.md says what that proves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::Record;
use crate::crypto::derive::sha256;

/// What is read of a file to find its last line: an event is much shorter.
const TAIL: u64 = 64 << 10;

/// The end of a file, to which an event is linked.
pub(super) struct Tail {
    bytes: Vec<u8>,
}

impl Tail {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let mut bytes = vec![0; usize::try_from(len.min(TAIL)).expect("TAIL fits")];
        file.read_exact_at(&mut bytes, len.saturating_sub(TAIL))?;
        Ok(Self { bytes })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether the last line has its end: it has none if the power failed while it was written.
    pub(super) fn is_whole(&self) -> bool {
        self.is_empty() || self.bytes.ends_with(b"\n")
    }

    /// Links an event to the last line. The first one of all has no hash.
    pub(super) fn link(&self, record: &mut Record) {
        let text = self.bytes.strip_suffix(b"\n").unwrap_or(&self.bytes);
        let mut lines = text.rsplit(|byte| *byte == b'\n');
        let numbers = lines.clone().filter_map(|line| serde_json::from_slice::<Record>(line).ok()?.sequence);
        record.sequence = Some(numbers.max().unwrap_or(0) + 1);
        record.previous = lines.next().filter(|_| !self.is_empty()).map(hash);
    }
}

/// SHA-256 of a line without its end, in hexadecimal digits.
pub(super) fn hash(line: &[u8]) -> String {
    sha256(line).iter().map(|byte| format!("{byte:02x}")).collect()
}
