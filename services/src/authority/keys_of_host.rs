//! Which keys a host ever got, as the log has it: what to rekey once a host is not trusted any more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::error::{Error, Kind, Result};

use super::entry::{Entry, What};
use super::log::Log;

/// Entries that are looked at with one reading, and their bytes.
const STEP: usize = 1000;
const STEP_BYTES: usize = 4 << 20;

/// A key that a host got.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct KeyGiven {
    /// SHA-256 of its key id.
    pub(super) key: String,
    /// UUID of the VM's home that it was made for; none where the log does not have that.
    pub(super) vm: Option<Uuid>,
    /// When the host got it first and last, RFC 3339.
    pub(super) first: String,
    pub(super) last: String,
    /// How often.
    pub(super) times: u64,
}

/// The keys that a host got, ordered by when it got them first.
///
/// # Errors
/// `Corrupt` for an entry that is not understood, `Io`.
pub(super) fn keys_of(log: &Log, host: Uuid) -> Result<Vec<KeyGiven>> {
    let mut given = BTreeMap::<String, KeyGiven>::new();
    let (of_host, made) = (host.to_string(), "\"key-made\"");
    each(
        log,
        |text| text.contains(&of_host),
        |entry| {
            let Some((to, key, vm)) = given_by(entry.what) else { return };
            if to != host {
                return;
            }
            let (first, last) = (entry.time.clone(), entry.time);
            let known = given.entry(key.clone()).or_insert(KeyGiven { key, vm, first, last: String::new(), times: 0 });
            (known.last, known.times) = (last, known.times + 1);
        },
    )?;
    if given.values().any(|given| given.vm.is_none()) {
        // Another host had them made.
        each(
            log,
            |text| text.contains(made),
            |entry| {
                if let What::KeyMade { key, vm, .. } = entry.what
                    && let Some(known) = given.get_mut(&key)
                {
                    known.vm = Some(vm);
                }
            },
        )?;
    }
    let mut given: Vec<KeyGiven> = given.into_values().collect();
    given.sort_by(|a, b| a.first.cmp(&b.first));
    Ok(given)
}

/// The host that an entry has a key go to, the key, and what it was made for.
fn given_by(what: What) -> Option<(Uuid, String, Option<Uuid>)> {
    if let What::KeyMade { host, key, vm, .. } = what {
        return Some((host, key, Some(vm)));
    }
    if let What::KeyReleased { host, key, .. } = what {
        return Some((host, key, None));
    }
    None
}

/// Calls `work` with each entry whose text may matter. The log is not held up in between.
fn each(log: &Log, may_matter: impl Fn(&str) -> bool, mut work: impl FnMut(Entry)) -> Result<()> {
    let damaged = |number: usize, error: String| {
        Error::new(Kind::Corrupt, format!("entry {number} of the log is not understood: {error}"))
    };
    let end = log.len();
    let mut first = 0;
    while first < end {
        let found = log.entries(first, STEP.min(end - first), STEP_BYTES)?;
        for (number, bytes) in (first..).zip(&found) {
            let text = std::str::from_utf8(bytes).map_err(|error| damaged(number, error.to_string()))?;
            if may_matter(text) {
                work(serde_json::from_str(text).map_err(|error| damaged(number, error.to_string()))?);
            }
        }
        first += found.len();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vmcryptfs::crypto::sign::SigningKey;

    use super::*;

    #[test]
    fn all_keys_of_a_host_are_found_with_their_vms_and_none_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(dir.path(), Uuid::nil(), &SigningKey::generate().unwrap()).unwrap();
        let [one, two, vm, token] = [1, 2, 3, 4].map(Uuid::from_u128);
        let made = |host, key: &str| What::KeyMade { host, key: key.into(), vm, token };
        let released = |host, key: &str| What::KeyReleased { host, key: key.into(), token };
        let append = |what: What| log.append(&[what.now().unwrap()]).unwrap();
        append(made(one, "a"));
        append(made(two, "b"));
        append(made(two, "c"));
        for _ in 0..2 * STEP {
            append(released(two, "c"));
        }
        append(released(one, "b"));
        append(released(one, "a"));
        append(released(one, "unknown"));
        append(What::Removed { host: one, name: "kvm1".into(), by: "uid 0".into() });
        let found = keys_of(&log, one).unwrap();
        let brief: Vec<_> = found.iter().map(|given| (given.key.as_str(), given.vm, given.times)).collect();
        assert_eq!(brief.len(), 3, "{brief:?}");
        for expected in [("a", Some(vm), 2), ("b", Some(vm), 1), ("unknown", None, 1)] {
            assert!(brief.contains(&expected), "{brief:?}");
        }
        assert!(found.iter().all(|given| given.first <= given.last));
        assert_eq!(keys_of(&log, Uuid::nil()).unwrap(), []);
        assert_eq!(keys_of(&log, two).unwrap().iter().map(|given| given.times).sum::<u64>(), 2 + 2 * STEP as u64);
    }
}
