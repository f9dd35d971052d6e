//! What hosts have sent last: another policy is tried out on it, and sets are made of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;
use vmcryptfs::crypto::derive::sha256;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;
use vmcryptfs::timestamp::Timestamp;
use vmcryptfs_attest::pcr::{Digest, HashAlgorithm, PcrIndex, PcrSelection, PcrValues};
use vmcryptfs_attest::policy::{Evidence, Refusal};
use vmcryptfs_attest::replay::Replayed;

use crate::trust_wire::{AttestRequest, Blob};

const MAX_EVIDENCE: u64 = 4 << 20;
/// More than the names of all sets of the longest policy.
const MAX_NOTE: u64 = 8 << 20;

/// What a host's own TPM has quoted, with the logs that came with it.
#[derive(Deserialize, Serialize)]
pub(super) struct Kept {
    bank: String,
    registers: Vec<u32>,
    values: Blob,
    firmware_log: Blob,
    userspace_log: Blob,
}

/// How a host's attestations ended.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Note {
    /// The last one that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attested: Option<Accepted>,
    /// The last one, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<Refused>,
}

/// An attestation that was accepted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Accepted {
    /// Since when it has been this one, RFC 3339.
    pub(super) since: String,
    pub(super) level: String,
    pub(super) policy: String,
    /// Approved sets that it matches.
    pub(super) sets: Vec<String>,
}

/// One that was refused, although the host's own TPM had quoted.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Refused {
    /// Since when it has been refused so, RFC 3339.
    pub(super) since: String,
    pub(super) reason: String,
    /// The refusal's fields, where a policy has refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) explained: Option<Value>,
}

/// The evidence of all hosts. The lock of the authority's folder is held as long as this is there.
pub(super) struct EvidenceStore {
    folder: PathBuf,
    known: Mutex<BTreeMap<Uuid, Known>>,
    /// Held while files of a host are written: one of them for each host, and few for all.
    keeping: [Mutex<()>; 16],
}

/// What is known of a host's files.
#[derive(Clone, Default)]
struct Known {
    /// None where there is evidence of a version that kept no note.
    note: Option<Note>,
    /// Digests of what was last written: accepted and refused.
    written: [Option<[u8; 32]>; 2],
}

impl EvidenceStore {
    /// That in this folder.
    ///
    /// # Errors
    /// `Corrupt`, `Denied` when others can change it, `Io`.
    pub(super) fn load(folder: PathBuf) -> Result<Self> {
        private_file::create_folder(&folder)?;
        let reading = || format!("reading {}", folder.shown());
        let mut known = BTreeMap::<Uuid, Known>::new();
        for entry in fs::read_dir(&folder).context(reading)? {
            let path = entry.context(reading)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((uuid, kind)) = name.split_once('.') else { continue };
            let Ok(uuid) = Uuid::try_parse(uuid) else { continue };
            let host = known.entry(uuid).or_default();
            if kind == "note.json" {
                host.note = Some(read_json(&path, MAX_NOTE)?);
            }
        }
        Ok(Self { folder, known: Mutex::new(known), keeping: <[Mutex<()>; 16]>::default() })
    }

    /// How the attestations of a host ended.
    pub(super) fn note(&self, host: Uuid) -> Note {
        self.known.lock().get(&host).and_then(|known| known.note.clone()).unwrap_or_default()
    }

    /// The sets that a host matched last. `None` where an earlier version has not noted them.
    pub(super) fn sets_of(&self, host: Uuid) -> Option<Vec<String>> {
        let known = self.known.lock();
        let Some(known) = known.get(&host) else { return Some(Vec::new()) };
        Some(known.note.as_ref()?.attested.as_ref().map_or_else(Vec::new, |attested| attested.sets.clone()))
    }

    /// Keeps what a host has attested with. Returns whether its sets are others than before.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn accepted(
        &self,
        host: Uuid,
        (level, policy, sets): (&str, &str, &[String]),
        (values, call): (&PcrValues, &AttestRequest),
    ) -> Result<bool> {
        let _keeping = self.keep(host);
        self.write(host, 0, &Kept::of(values, call))?;
        let before = self.known.lock().get(&host).cloned().unwrap_or_default().note;
        let attested = before.as_ref().and_then(|note| note.attested.clone());
        let same = |it: &Accepted| (it.level.as_str(), it.policy.as_str(), it.sets.as_slice()) == (level, policy, sets);
        let since = attested.as_ref().filter(|it| same(it)).map_or_else(now, |it| it.since.clone());
        let (level, policy) = (level.to_owned(), policy.to_owned());
        let moved = attested.is_none_or(|before| before.sets != sets);
        let accepted = Accepted { since, level, policy, sets: sets.to_vec() };
        self.write_note(host, before.as_ref(), Note { attested: Some(accepted), refused: None })?;
        if before.is_none_or(|note| note.refused.is_some()) {
            self.forget(host, 1)?;
        }
        Ok(moved)
    }

    /// Keeps what a host was refused with.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn refused(
        &self,
        host: Uuid,
        (reason, refusal): (&str, Option<&Refusal>),
        (values, call): (&PcrValues, &AttestRequest),
    ) -> Result<()> {
        let _keeping = self.keep(host);
        self.write(host, 1, &Kept::of(values, call))?;
        let before = self.known.lock().get(&host).cloned().unwrap_or_default().note;
        let refused = before.as_ref().and_then(|note| note.refused.clone()).filter(|it| it.reason == reason);
        let explained = refusal.and_then(|refusal| serde_json::to_value(refusal).ok());
        let new = || Refused { since: now(), reason: reason.to_owned(), explained };
        let refused = refused.unwrap_or_else(new);
        let attested = before.as_ref().and_then(|note| note.attested.clone());
        self.write_note(host, before.as_ref(), Note { attested, refused: Some(refused) })
    }

    /// What a host sent last, whether it was accepted or not.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(super) fn newest(&self, host: Uuid) -> Result<Option<(Kept, PcrValues)>> {
        let _keeping = self.keep(host);
        let path = self.path(host, usize::from(self.note(host).refused.is_some()));
        let stored = private_file::read_if_there(MAX_EVIDENCE, &path)?;
        let read = stored.map(|bytes| read_evidence(&bytes)).transpose();
        read.context(|| format!("reading {}", path.shown()))
    }

    /// Forgets what a host sent by a TPM that it no longer has. The sets that it matched count until it attests again.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn forget_sent(&self, host: Uuid) -> Result<()> {
        let _keeping = self.keep(host);
        let Some(known) = self.known.lock().get(&host).cloned() else { return Ok(()) };
        if let Some(before) = known.note.filter(|note| note.refused.is_some()) {
            self.write_note(host, Some(&before), Note { refused: None, ..before.clone() })?;
        }
        [0, 1].into_iter().try_for_each(|which| self.forget(host, which))
    }

    /// A host may attest several times at once, and the files that are replaced have one name.
    fn keep(&self, host: Uuid) -> parking_lot::MutexGuard<'_, ()> {
        let [.., last] = *host.as_bytes();
        self.keeping[usize::from(last) % self.keeping.len()].lock()
    }

    fn write(&self, host: Uuid, which: usize, kept: &Kept) -> Result<()> {
        let json = to_json(kept)?;
        let digest = Some(sha256(&json));
        if self.known.lock().entry(host).or_default().written[which] == digest {
            return Ok(()); // it attests again and again with the same
        }
        private_file::replace(&self.path(host, which), &[&json])?;
        self.known.lock().entry(host).or_default().written[which] = digest;
        Ok(())
    }

    fn write_note(&self, host: Uuid, before: Option<&Note>, note: Note) -> Result<()> {
        if before != Some(&note) {
            private_file::replace(&self.folder.join(format!("{host}.note.json")), &[&to_json(&note)?])?;
        }
        self.known.lock().entry(host).or_default().note = Some(note);
        Ok(())
    }

    fn forget(&self, host: Uuid, which: usize) -> Result<()> {
        self.known.lock().entry(host).or_default().written[which] = None;
        let path = self.path(host, which);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(|| format!("removing {}", path.shown()))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, host: Uuid, which: usize) -> PathBuf {
        self.folder.join(format!("{host}.{}", ["json", "refused.json"][which]))
    }
}

impl Kept {
    fn of(values: &PcrValues, call: &AttestRequest) -> Self {
        let selection = values.selection();
        Self {
            bank: selection.bank().to_string(),
            registers: selection.iter().map(|index| index.number().into()).collect(),
            values: call.values.clone(),
            firmware_log: call.firmware_log.clone(),
            userspace_log: call.userspace_log.clone(),
        }
    }

    /// As the checks take it.
    pub(super) fn evidence<'a>(&'a self, host: &'a str, values: &'a PcrValues) -> Evidence<'a> {
        Evidence { host, firmware_log: &self.firmware_log.0, userspace_log: &self.userspace_log.0, values }
    }

    /// All that was measured.
    ///
    /// # Errors
    /// `Denied` when the logs do not give the values of the quote.
    pub(super) fn replay(&self, host: &str, values: &PcrValues) -> Result<Replayed> {
        self.evidence(host, values).replay().map_err(|refusal| Error::new(Kind::Denied, refusal.to_string()))
    }
}

fn now() -> String {
    Timestamp::now().to_millis()
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value)
        .map_err(|error| Error::with_source(Kind::Invalid, "evidence that has no JSON form", error))
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path, max: u64) -> Result<T> {
    let bytes = private_file::read_at_most(max, path, private_file::open(path)?)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))
}

fn read_evidence(bytes: &[u8]) -> Result<(Kept, PcrValues)> {
    let damaged = |error: String| Error::new(Kind::Corrupt, format!("damaged evidence: {error}"));
    let kept: Kept = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
    let wrong = |error: vmcryptfs_attest::Error| damaged(error.to_string());
    let bank: HashAlgorithm = kept.bank.parse().map_err(wrong)?;
    let registers = kept.registers.iter().map(|number| PcrIndex::new(*number));
    let selection = PcrSelection::new(bank, registers.collect::<vmcryptfs_attest::Result<Vec<_>>>().map_err(wrong)?);
    let digests = kept.values.0.chunks(bank.digest_len()).map(|value| Digest::new(bank, value));
    let values = PcrValues::new(selection, digests.collect::<vmcryptfs_attest::Result<_>>().map_err(wrong)?);
    Ok((kept, values.map_err(wrong)?))
}

#[cfg(test)]
mod tests;
