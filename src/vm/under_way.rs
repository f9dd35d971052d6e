//! How far a deep rekey that is under way claims to be: for showing, without any key.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::format::header::Header;
use crate::storage::Storage;
use crate::store::disk::claimed_progress;

/// That a component is between two DEKs. Field names are part of the stable JSON output.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct UnderWay {
    /// Of a disk: how much of it is under the new DEK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
}

impl UnderWay {
    /// What a header claims, and a disk's journal.
    ///
    /// # Errors
    /// `Io`.
    pub fn of(storage: &dyn Storage, header: &Header) -> Result<Option<Self>> {
        if header.transition.is_none() {
            return Ok(None);
        }
        let percent = match header.shape.disk() {
            None => None,
            Some(disk) => {
                let plain_len = disk.plain_len(storage.len()?);
                claimed_progress(storage, header)?.map(|done| percent(done, plain_len))
            }
        };
        Ok(Some(Self { percent }))
    }

    /// For people.
    pub fn describe(self) -> String {
        match self.percent {
            Some(percent) => format!("{percent}% done"),
            None => "not finished".to_owned(),
        }
    }
}

fn percent(done: u64, plain_len: u64) -> u8 {
    let done = u128::from(done.min(plain_len));
    u8::try_from(done * 100 / u128::from(plain_len.max(1))).unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_never_over_a_hundred() {
        for (done, plain_len, expected) in
            [(0, 0, 0), (0, 10, 0), (5, 10, 50), (999, 1000, 99), (u64::MAX, 1 << 62, 100)]
        {
            assert_eq!(percent(done, plain_len), expected);
        }
    }
}
