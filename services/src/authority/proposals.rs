//! Sets that are proposed: by hosts that know what they will boot, by administrators, or because a class learns. None of them counts until
//! a person has approved it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::policy::{ApprovedRegister, ApprovedSet};

use crate::trust_wire::MAX_PROPOSAL;

/// Proposals that wait at once, and those that one host has alone.
const MAX: usize = 256;
const MAX_OF_HOST: usize = 8;
/// Hosts of one proposal that are named; the others are counted.
const MAX_NAMED: usize = 16;
/// JSON has two characters for each backslash of a set, and the hosts beside it.
const MAX_FILE: u64 = 4 * MAX_PROPOSAL as u64;
const KIND: &str = "json";
/// Digits of a proposal's name.
const ID_LEN: usize = 16;

/// Where a proposal comes from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Source {
    /// A host sent it: it is going to boot that.
    Host,
    /// A host of a class that learns has measured it.
    Learned,
    /// An administrator made it.
    Administrator,
}

/// A set that waits for approval.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proposal {
    /// Names it: a part of the digest of what it would approve.
    pub(super) id: String,
    /// The class that it is for.
    pub(super) class: String,
    pub(super) source: Source,
    /// Since when it has been waiting, RFC 3339.
    pub(super) since: String,
    /// Some of the hosts that have sent or measured it.
    pub(super) hosts: Vec<String>,
    /// How many others there are.
    pub(super) more_hosts: usize,
    /// The set, as TOML.
    pub(super) set: String,
}

impl Proposal {
    /// One of these digests.
    pub(super) fn new(class: &str, source: Source, host: Option<&str>, set: &ApprovedSet) -> Self {
        Self {
            id: id_of(class, set),
            class: class.to_owned(),
            source,
            since: Timestamp::now().to_millis(),
            hosts: host.into_iter().map(str::to_owned).collect(),
            more_hosts: 0,
            set: set.to_text(),
        }
    }

    /// The set.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(super) fn read_set(&self) -> Result<ApprovedSet> {
        let damaged = |error| Error::with_source(Kind::Corrupt, format!("proposal {} is damaged", self.id), error);
        ApprovedSet::parse(&self.set).map_err(damaged)
    }
}

/// All that wait: a file each. The lock of the authority's folder is held as long as this is there.
pub(super) struct Proposals {
    folder: PathBuf,
    waiting: Mutex<BTreeMap<String, Proposal>>,
}

impl Proposals {
    /// Those in this folder.
    ///
    /// # Errors
    /// `Corrupt`, `Denied` when others can change one, `Io`.
    pub(super) fn load(folder: PathBuf) -> Result<Self> {
        private_file::create_folder(&folder)?;
        let reading = || format!("reading {}", folder.shown());
        let mut waiting = BTreeMap::new();
        for entry in fs::read_dir(&folder).context(reading)? {
            let path = entry.context(reading)?.path();
            let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !hidden && path.extension().is_some_and(|kind| kind == KIND) {
                let proposal = read(&path)?;
                waiting.insert(proposal.id.clone(), proposal);
            }
        }
        Ok(Self { folder, waiting: Mutex::new(waiting) })
    }

    /// All of them, by name.
    pub(super) fn list(&self) -> Vec<Proposal> {
        self.waiting.lock().values().cloned().collect()
    }

    /// The one with this name.
    ///
    /// # Errors
    /// `NotFound`.
    pub(super) fn get(&self, id: &str) -> Result<Proposal> {
        self.waiting.lock().get(id).cloned().ok_or_else(|| unknown(id))
    }

    /// Keeps a proposal, once `before` has succeeded. One of the same digests takes its hosts instead. Returns whether anything is new.
    ///
    /// # Errors
    /// `Busy` when too many wait; those of `before`; `Invalid` for one that is too long; `Io`.
    pub(super) fn add(&self, proposal: Proposal, before: impl FnOnce() -> Result<()>) -> Result<bool> {
        let mut waiting = self.waiting.lock();
        if let Some(known) = waiting.get(&proposal.id) {
            let Some(host) = proposal.hosts.first().filter(|host| !known.hosts.contains(host)) else {
                return Ok(false);
            };
            let mut joined = known.clone();
            match joined.hosts.len() < MAX_NAMED {
                true => joined.hosts.push(host.clone()),
                // Who comes again is counted again: the number is for people only, and is not stored for each.
                false => {
                    joined.more_hosts += 1;
                    waiting.insert(joined.id.clone(), joined);
                    return Ok(false);
                }
            }
            before()?;
            self.write(&joined)?;
            waiting.insert(joined.id.clone(), joined);
            return Ok(true);
        }
        if proposal.set.len() > MAX_PROPOSAL {
            let found = format!("a proposal of {} bytes, expected at most {MAX_PROPOSAL}", proposal.set.len());
            return Err(Error::new(Kind::Invalid, found));
        }
        let alone = |other: &&Proposal| other.hosts == proposal.hosts && !proposal.hosts.is_empty();
        if waiting.len() >= MAX || waiting.values().filter(alone).count() >= MAX_OF_HOST {
            let found = format!("{} proposals wait for an administrator: none is taken now", waiting.len());
            return Err(Error::new(Kind::Busy, found));
        }
        before()?;
        self.write(&proposal)?;
        waiting.insert(proposal.id.clone(), proposal);
        Ok(true)
    }

    /// Ends one: it was approved or rejected.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub(super) fn remove(&self, id: &str) -> Result<Proposal> {
        // Until both are done: a host that joins it in between would write the file again.
        let mut waiting = self.waiting.lock();
        let found = waiting.get(id).cloned().ok_or_else(|| unknown(id))?;
        let path = self.path(id);
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        let removed = removed.and_then(|()| private_file::sync_folder(&self.folder));
        removed.context(|| format!("removing {}", path.shown()))?;
        waiting.remove(id);
        Ok(found)
    }

    fn write(&self, proposal: &Proposal) -> Result<()> {
        let json = serde_json::to_vec(proposal)
            .map_err(|error| Error::with_source(Kind::Invalid, "a proposal that has no JSON form", error))?;
        private_file::replace(&self.path(&proposal.id), &[&json])
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id).with_extension(KIND)
    }
}

fn unknown(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("no proposal {id:?} waits: `policy list` names those that do"))
}

/// Two proposals have one name if they approve the same for the same class: words, dates and names of sets count for nothing.
fn id_of(class: &str, set: &ApprovedSet) -> String {
    let mut registers: Vec<&ApprovedRegister> = set.registers().iter().collect();
    registers.sort_by_key(|register| register.register());
    let mut text = class.to_owned();
    for register in registers {
        text.push_str(&format!("\n{}", register.register()));
        register.measured().iter().for_each(|approved| text.push_str(&format!("\n={}", approved.digest)));
        register.ignored().iter().for_each(|approved| text.push_str(&format!("\n-{}", approved.digest)));
    }
    let mut id = HEXLOWER.encode(&sha256(text.as_bytes()));
    id.truncate(ID_LEN);
    id
}

fn read(path: &Path) -> Result<Proposal> {
    let bytes = private_file::read_at_most(MAX_FILE, path, private_file::open(path)?)?;
    let proposal: Proposal = serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))?;
    match path.file_stem().is_some_and(|stem| stem == proposal.id.as_str()) {
        true => Ok(proposal),
        false => {
            let found = format!("{} is proposal {:?}, expected the one of its name", path.shown(), proposal.id);
            Err(Error::new(Kind::Corrupt, found))
        }
    }
}

#[cfg(test)]
mod tests;
