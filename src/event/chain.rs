//! The chain that the events of a file are: each one has a number, and the hash of the line before.
//!
//! SHA-256 without a key: a key on the same host would protect nothing, since a user that can write the file could read it, too.
//! Without one, every reader of the file can verify it. docs/THREAT-MODEL.md says what that proves.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use serde::Deserialize;

use super::Record;
use crate::crypto::derive::sha256;

/// What is read of a file to find its last line: of a usual length, and of any that an event can have.
const TAILS: [u64; 2] = [4 << 10, 256 << 10];

/// The end of a file, to which an event is linked.
#[derive(Default)]
pub(super) struct Tail {
    /// The last line, without its end.
    line: Option<Vec<u8>>,
    /// Whether it has one: it has none if the power failed while it was written.
    is_torn: bool,
    /// The number of the last event that has one.
    sequence: u64,
}

#[derive(Deserialize)]
struct Numbered {
    sequence: u64,
}

impl Tail {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let mut tail = Self::default();
        for most in TAILS {
            let mut bytes = vec![0; usize::try_from(len.min(most)).expect("a tail is short")];
            file.read_exact_at(&mut bytes, len.saturating_sub(most))?;
            tail.is_torn = bytes.pop_if(|last| *last == b'\n').is_none() && len > 0;
            let mut lines = bytes.rsplit(|byte| *byte == b'\n');
            let number = |line| serde_json::from_slice(line).ok().map(|Numbered { sequence }| sequence);
            let sequence = lines.clone().find_map(number);
            tail.sequence = sequence.unwrap_or(0);
            tail.line = lines.next().filter(|_| len > 0).map(<[u8]>::to_vec);
            if sequence.is_some() || len <= most {
                break;
            }
        }
        Ok(tail)
    }

    /// The number and the hash of the last line, if it is an event that has a number.
    pub(super) fn newest(&self) -> Option<(u64, [u8; 32])> {
        let line = self.line.as_deref().filter(|_| !self.is_torn)?;
        let Numbered { sequence } = serde_json::from_slice(line).ok()?;
        Some((sequence, sha256(line)))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_none()
    }

    pub(super) fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// Links an event to the last line. The first one of all has no hash.
    pub(super) fn link(&self, record: &mut Record) {
        record.sequence = Some(self.sequence + 1);
        record.previous = self.line.as_deref().map(hash);
    }
}

/// SHA-256 of a line without its end, in hexadecimal digits.
pub(super) fn hash(line: &[u8]) -> String {
    sha256(line).iter().map(|byte| format!("{byte:02x}")).collect()
}
