//! How often KEKs were fetched by this process, from which provider, how that ended and how long it took.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Kind;
use crate::key::ProviderName;

/// Fetches from one provider that ended in one way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fetches {
    /// How many.
    pub count: u64,
    /// How long all of them took.
    pub total: Duration,
}

/// Entries that are kept: names of providers come from headers, which anyone may have written.
const MAX_ENTRIES: usize = 256;

/// By provider, and the kind of the error where there was one.
static FETCHES: Mutex<BTreeMap<(ProviderName, Option<Kind>), Fetches>> = Mutex::new(BTreeMap::new());

pub(super) fn add(provider: &ProviderName, error: Option<Kind>, took: Duration) {
    let mut all = FETCHES.lock();
    let key = (provider.clone(), error);
    if all.len() >= MAX_ENTRIES && !all.contains_key(&key) {
        return;
    }
    let fetches = all.entry(key).or_default();
    fetches.count += 1;
    fetches.total += took;
}

/// All fetches: the provider, and the kind of the error where there was one.
pub fn all() -> Vec<(ProviderName, Option<Kind>, Fetches)> {
    FETCHES.lock().iter().map(|((provider, error), fetches)| (provider.clone(), *error, *fetches)).collect()
}
