//! Keys that could not be fetched, and how long that counts. Headers can name any number of keys: their servers are not asked
//! again and again for what they do not have.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind};
use crate::key::KeyId;
use crate::provider::{Trouble, reword};

/// How long what a key server said of a key counts, unless someone asks for another try.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Most keys that are remembered as missing.
const MAX_MISSING: usize = 16_384;

/// By key, why it is missing.
#[derive(Default)]
pub(super) struct MissingKeys(HashMap<KeyId, Missing>);

struct Missing {
    error: Error,
    /// When its provider was asked, until someone asks for another try.
    asked: Option<Instant>,
}

impl Missing {
    /// Whether its server said so lately, and would hardly say anything else now.
    fn is_settled(&self) -> bool {
        let is_of_key = Trouble::of(&self.error).is_some_and(|trouble| !trouble.is_of_server());
        is_of_key && self.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN_AFTER)
    }
}

impl MissingKeys {
    /// Why a key is missing, if there is no point in asking for it again now.
    pub(super) fn settled(&self, key_id: &KeyId) -> Option<Error> {
        let missing = self.0.get(key_id).filter(|missing| missing.is_settled())?;
        Some(reword(&missing.error, missing.error.chain()))
    }

    /// Lets each key be asked for again.
    pub(super) fn unsettle(&mut self) {
        self.0.values_mut().for_each(|missing| missing.asked = None);
    }

    /// Remembers whether a key could be fetched; `false` when nothing has changed.
    pub(super) fn learn(&mut self, key_id: &KeyId, error: Option<&Error>) -> bool {
        let meaning = |error: &Error| -> (Kind, Option<Trouble>) { (error.kind(), Trouble::of(error)) };
        let before = self.0.remove(key_id).map(|missing| meaning(&missing.error));
        if self.0.len() >= MAX_MISSING {
            self.0.retain(|_, missing| missing.is_settled());
        }
        if let Some(error) = error.filter(|_| self.0.len() < MAX_MISSING) {
            let missing = Missing { error: reword(error, error.chain()), asked: Some(Instant::now()) };
            self.0.insert(key_id.clone(), missing);
        }
        before != error.map(meaning)
    }
}
