//! The hosts that an authority knows: a file each, written by one process, and all of them in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use vmcryptfs::error::{Context, Error, Kind, Result};
use vmcryptfs::provider::private_file;
use vmcryptfs::text::Show;
use vmcryptfs::timestamp::Timestamp;

use crate::trust_wire::Blob;

const VERSION: u16 = 1;
const MAX_RECORD: u64 = 64 << 10;
/// Former keys of a host that its record names.
const MAX_FORMER: usize = 32;

/// Whether a host gets keys.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostState {
    /// Its TPM has proved its keys; an administrator has to approve it.
    Pending,
    /// It does if it attests.
    Approved,
    /// It does not, and its tokens are void.
    Removed,
}

impl HostState {
    /// As people read it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Removed => "removed",
        }
    }
}

/// A host.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecord {
    version: u16,
    /// Its UUID, which the authority gave it.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Fingerprint of its TPM's endorsement key, in hex.
    pub ek: String,
    /// Name of its attestation key, in hex.
    pub ak_name: String,
    /// Both keys and the host as one record, which is what attestations are judged by.
    pub identity: Blob,
    /// Whether it gets keys.
    pub state: HostState,
    /// Counts changes of the state. Tokens are of one epoch.
    pub epoch: u64,
    /// When the state was changed, RFC 3339.
    pub since: String,
    /// Keys that it had before its TPM was replaced, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<FormerKeys>,
}

/// Keys that a host had.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FormerKeys {
    /// Fingerprint of the endorsement key, in hex.
    pub ek: String,
    /// Name of the attestation key, in hex.
    pub ak_name: String,
    /// Until when, RFC 3339.
    pub until: String,
}

impl HostRecord {
    /// A host that has just enrolled.
    pub fn new(host: (Uuid, &str), keys: (String, String, Blob), state: HostState) -> Self {
        let ((uuid, name), (ek, ak_name, identity)) = (host, keys);
        let (name, since) = (name.to_owned(), Timestamp::now().to_millis());
        Self { version: VERSION, uuid, name, ek, ak_name, identity, state, epoch: 1, since, former: Vec::new() }
    }

    /// Whether this epoch's tokens are good.
    pub fn admits(&self, epoch: u64) -> bool {
        self.state == HostState::Approved && self.epoch == epoch
    }
}

/// All of them. The lock of the authority's folder is held as long as this is there.
pub struct Hosts {
    folder: PathBuf,
    records: Mutex<BTreeMap<Uuid, HostRecord>>,
    /// Removals that are not on disk or in the log yet. Locked after the records.
    unfinished: Mutex<BTreeSet<Uuid>>,
}

impl Hosts {
    /// Reads all records.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported` for a later version, `Denied` when others can change them, `Io`.
    pub fn load(folder: &Path) -> Result<Self> {
        private_file::create_folder(folder)?;
        let reading = || format!("reading {}", folder.shown());
        let mut records = BTreeMap::new();
        for entry in fs::read_dir(folder).context(reading)? {
            let path = entry.context(reading)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(uuid) = name.strip_suffix(".json").and_then(|uuid| Uuid::try_parse(uuid).ok()) else {
                continue; // an unfinished one, or a file of somebody else
            };
            let record = read(&path)?;
            if record.uuid != uuid {
                let found = format!("{} is of host {}, expected the one of its name", path.shown(), record.uuid);
                return Err(Error::new(Kind::Corrupt, found));
            }
            records.insert(uuid, record);
        }
        Ok(Self { folder: folder.to_path_buf(), records: Mutex::new(records), unfinished: Mutex::default() })
    }

    /// The host with this UUID.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, uuid: Uuid) -> Result<HostRecord> {
        let unknown = || Error::new(Kind::NotFound, format!("this authority knows no host {uuid}: it has to enrol"));
        self.records.lock().get(&uuid).cloned().ok_or_else(unknown)
    }

    /// The host with this name or UUID. Of several with one name, the one that was not removed.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` where several were removed that had the name.
    pub fn find(&self, called: &str) -> Result<HostRecord> {
        if let Ok(uuid) = Uuid::try_parse(called) {
            return self.get(uuid);
        }
        let named: Vec<HostRecord> = self.list().into_iter().filter(|record| record.name == called).collect();
        let present = named.iter().find(|record| record.state != HostState::Removed);
        match (present, named.as_slice()) {
            (Some(record), _) | (None, [record]) => Ok(record.clone()),
            (None, []) => Err(Error::new(Kind::NotFound, format!("this authority knows no host {called:?}"))),
            (None, several) => Err(Error::new(
                Kind::Invalid,
                format!("{} hosts that were called {called} were removed: use a UUID", several.len()),
            )),
        }
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<HostRecord> {
        let mut all: Vec<HostRecord> = self.records.lock().values().cloned().collect();
        all.sort_by(|a, b| (&a.name, a.uuid).cmp(&(&b.name, b.uuid)));
        all
    }

    /// Adds a host, once `before` has succeeded.
    ///
    /// # Errors
    /// `Exists` when another host that was not removed has its name, TPM or UUID; those of `before`; `Io`.
    pub fn add(&self, record: &HostRecord, before: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut records = self.records.lock();
        let same = |other: &&HostRecord| {
            let is_there = other.state != HostState::Removed;
            other.uuid == record.uuid || is_there && (other.name == record.name || other.ek == record.ek)
        };
        if let Some(other) = records.values().find(same) {
            let what = if other.name == record.name { "name" } else { "TPM" };
            let found = format!(
                "host {} ({}, {}) has this {what} already: remove it first",
                other.name,
                other.uuid,
                other.state.word()
            );
            return Err(Error::new(Kind::Exists, found));
        }
        before()?;
        self.write(record)?;
        records.insert(record.uuid, record.clone());
        Ok(())
    }

    /// Gives a host other keys, once `before` has succeeded: the ones that it had are void at once, and so are its tokens.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` for a host that was removed, or has another name; `Exists` when another host has the TPM; those of `before`;
    /// `Io`.
    pub fn replace(&self, record: &HostRecord, before: impl FnOnce(&HostRecord) -> Result<()>) -> Result<HostRecord> {
        let mut records = self.records.lock();
        let unknown = || Error::new(Kind::NotFound, format!("this authority knows no host {}", record.uuid));
        let found = records.get(&record.uuid).ok_or_else(unknown)?;
        if found.state == HostState::Removed || found.name != record.name {
            let found = format!("host {} is {}: it has to enrol as a new one", found.name, found.state.word());
            return Err(Error::new(Kind::Invalid, found));
        }
        let has_it = |other: &&HostRecord| {
            other.uuid != record.uuid && other.state != HostState::Removed && other.ek == record.ek
        };
        if let Some(other) = records.values().find(has_it) {
            let found = format!("host {} ({}) has this TPM already: remove it first", other.name, other.uuid);
            return Err(Error::new(Kind::Exists, found));
        }
        let mut former = found.former.clone();
        if former.len() >= MAX_FORMER {
            former.remove(0); // the log has all of them
        }
        let until = record.since.clone();
        former.push(FormerKeys { ek: found.ek.clone(), ak_name: found.ak_name.clone(), until });
        let next = HostRecord { epoch: found.epoch + 1, former, ..record.clone() };
        before(found)?;
        self.write(&next)?;
        records.insert(next.uuid, next.clone());
        Ok(next)
    }

    /// Gives a host another state, and its next epoch. An approval is stored after `log` has succeeded, a removal before it: what went
    /// wrong half-way gives no keys. A removal that went wrong half-way is ended by another one.
    ///
    /// # Errors
    /// `NotFound`; `Invalid` where the state is the same, or a removed host is to be approved; those of `log`; `Io`.
    pub fn change(
        &self,
        uuid: Uuid,
        state: HostState,
        log: impl FnOnce(&HostRecord) -> Result<()>,
    ) -> Result<HostRecord> {
        let mut records = self.records.lock();
        let unknown = || Error::new(Kind::NotFound, format!("this authority knows no host {uuid}"));
        let found = records.get_mut(&uuid).ok_or_else(unknown)?;
        let mut unfinished = self.unfinished.lock();
        let is_end = state == HostState::Removed && unfinished.contains(&uuid);
        if !is_end && (found.state == state || found.state == HostState::Removed) {
            let (name, word) = (&found.name, found.state.word());
            let advice = if found.state == HostState::Removed { ": it has to enrol again" } else { "" };
            return Err(Error::new(Kind::Invalid, format!("host {name} is {word}{advice}")));
        }
        let since = Timestamp::now().to_millis();
        let next = match is_end {
            true => found.clone(),
            false => HostRecord { state, epoch: found.epoch + 1, since, ..found.clone() },
        };
        if state == HostState::Approved {
            log(&next)?;
            self.write(&next)?;
            *found = next.clone();
        } else {
            *found = next.clone(); // at once, whatever happens to the file
            unfinished.insert(uuid);
            self.write(&next).and_then(|()| log(&next)).context(|| {
                format!("host {} gets no keys from now on, but perhaps after a restart: remove it again", next.name)
            })?;
            unfinished.remove(&uuid);
        }
        Ok(next)
    }

    fn write(&self, record: &HostRecord) -> Result<()> {
        let json = serde_json::to_vec_pretty(record)
            .map_err(|error| Error::with_source(Kind::Invalid, "a host that has no JSON form", error))?;
        private_file::replace(&self.folder.join(format!("{}.json", record.uuid)), &[&json])
    }
}

fn read(path: &Path) -> Result<HostRecord> {
    let bytes = private_file::read_at_most(MAX_RECORD, path, private_file::open(path)?)?;
    let record: HostRecord = serde_json::from_slice(&bytes)
        .map_err(|error| Error::with_source(Kind::Corrupt, format!("{} is damaged", path.shown()), error))?;
    match record.version {
        VERSION => Ok(record),
        other => {
            Err(Error::new(Kind::Unsupported, format!("{} has version {other}, expected {VERSION}", path.shown())))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(name: &str, state: HostState) -> HostRecord {
        let keys = (format!("ek of {name}"), "000b".into(), Blob(vec![1, 2]));
        HostRecord::new((Uuid::new_v4(), name), keys, state)
    }

    fn logged(_: &HostRecord) -> Result<()> {
        Ok(())
    }

    #[test]
    fn hosts_come_back_and_each_change_is_another_epoch() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = Hosts::load(dir.path()).unwrap();
        let kvm1 = record("kvm1", HostState::Pending);
        hosts.add(&kvm1, || Ok(())).unwrap();
        assert!(!hosts.get(kvm1.uuid).unwrap().admits(1), "it is pending");
        let approved = hosts.change(kvm1.uuid, HostState::Approved, logged).unwrap();
        assert!(approved.admits(2) && !approved.admits(1));
        fs::write(dir.path().join(".x.json.new"), "unfinished").unwrap();
        let hosts = Hosts::load(dir.path()).unwrap();
        assert_eq!(hosts.find("kvm1").unwrap(), approved);
        let removed = hosts.change(kvm1.uuid, HostState::Removed, logged).unwrap();
        assert!(!removed.admits(2) && !removed.admits(3));
        for state in [HostState::Approved, HostState::Removed, HostState::Pending] {
            assert_eq!(hosts.change(kvm1.uuid, state, logged).unwrap_err().kind(), Kind::Invalid);
        }
        hosts.add(&record("kvm1", HostState::Approved), || Ok(())).unwrap();
        assert_eq!(hosts.find("kvm1").unwrap().state, HostState::Approved, "not the removed one");
        assert_eq!(hosts.list().len(), 2);
    }

    #[test]
    fn a_host_with_another_tpm_is_the_same_host_and_what_it_had_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = Hosts::load(dir.path()).unwrap();
        let [kvm1, kvm2] = ["kvm1", "kvm2"].map(|name| record(name, HostState::Approved));
        hosts.add(&kvm1, || Ok(())).unwrap();
        hosts.add(&kvm2, || Ok(())).unwrap();
        let next = HostRecord { ek: "other ek".into(), state: HostState::Pending, ..kvm1.clone() };
        let full = |_: &HostRecord| Err(Error::new(Kind::Io, "no space"));
        hosts.replace(&next, full).unwrap_err();
        assert_eq!(hosts.get(kvm1.uuid).unwrap(), kvm1);
        let replaced = hosts.replace(&next, logged).unwrap();
        assert_eq!((replaced.epoch, replaced.state, replaced.former.len()), (2, HostState::Pending, 1));
        assert_eq!((replaced.ek.as_str(), &replaced.former[0].ek), ("other ek", &kvm1.ek));
        assert_eq!(Hosts::load(dir.path()).unwrap().get(kvm1.uuid).unwrap(), replaced);
        let taken = HostRecord { ek: kvm2.ek.clone(), ..next.clone() };
        assert_eq!(hosts.replace(&taken, logged).unwrap_err().kind(), Kind::Exists);
        let renamed = HostRecord { name: "kvm3".into(), ..next.clone() };
        assert_eq!(hosts.replace(&renamed, logged).unwrap_err().kind(), Kind::Invalid);
        (0..40).for_each(|_| drop(hosts.replace(&next, logged).unwrap()));
        assert_eq!(hosts.get(kvm1.uuid).unwrap().former.len(), MAX_FORMER);
        hosts.change(kvm1.uuid, HostState::Removed, logged).unwrap();
        assert_eq!(hosts.replace(&next, logged).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(hosts.replace(&record("new", HostState::Approved), logged).unwrap_err().kind(), Kind::NotFound);
    }

    #[test]
    fn a_name_or_a_tpm_is_one_host_s() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = Hosts::load(dir.path()).unwrap();
        let kvm1 = record("kvm1", HostState::Approved);
        hosts.add(&kvm1, || Ok(())).unwrap();
        let same_tpm = HostRecord { ek: kvm1.ek.clone(), ..record("kvm2", HostState::Approved) };
        for other in [record("kvm1", HostState::Approved), same_tpm] {
            let error = hosts.add(&other, || panic!("nothing is logged")).unwrap_err();
            assert_eq!(error.kind(), Kind::Exists, "{error}");
        }
    }

    #[test]
    fn nobody_is_approved_without_an_entry_and_a_removal_holds_even_if_nothing_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let hosts = Hosts::load(dir.path()).unwrap();
        let full = |_: &HostRecord| Err(Error::new(Kind::Io, "no space"));
        let (new, kvm1) = (record("new", HostState::Approved), record("kvm1", HostState::Pending));
        hosts.add(&new, || Err(Error::new(Kind::Io, "no space"))).unwrap_err();
        assert!(hosts.list().is_empty());
        hosts.add(&kvm1, || Ok(())).unwrap();
        hosts.change(kvm1.uuid, HostState::Approved, full).unwrap_err();
        assert_eq!(hosts.get(kvm1.uuid).unwrap(), kvm1);
        hosts.change(kvm1.uuid, HostState::Approved, logged).unwrap();
        hosts.change(kvm1.uuid, HostState::Removed, full).unwrap_err();
        assert_eq!(hosts.get(kvm1.uuid).unwrap().state, HostState::Removed);
        assert_eq!(Hosts::load(dir.path()).unwrap().get(kvm1.uuid).unwrap().state, HostState::Removed);
    }

    #[test]
    fn a_removal_that_could_not_be_written_or_logged_is_ended_by_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, away) = (dir.path().join("hosts"), dir.path().join("away"));
        let hosts = Hosts::load(&folder).unwrap();
        let kvm1 = record("kvm1", HostState::Approved);
        hosts.add(&kvm1, || Ok(())).unwrap();
        fs::rename(&folder, &away).unwrap();
        let error = hosts.change(kvm1.uuid, HostState::Removed, |_| panic!("it is not on disk")).unwrap_err();
        assert!(error.chain().contains("remove it again"), "{}", error.chain());
        fs::rename(&away, &folder).unwrap();
        assert_eq!(Hosts::load(&folder).unwrap().get(kvm1.uuid).unwrap().state, HostState::Approved, "a restart");
        let full = |_: &HostRecord| Err(Error::new(Kind::Io, "no space"));
        hosts.change(kvm1.uuid, HostState::Removed, full).unwrap_err();
        let mut entries = 0;
        let removed = hosts.change(kvm1.uuid, HostState::Removed, |_| {
            entries += 1;
            Ok(())
        });
        assert_eq!((removed.unwrap().epoch, entries), (2, 1));
        assert_eq!(Hosts::load(&folder).unwrap().get(kvm1.uuid).unwrap().state, HostState::Removed);
        assert_eq!(hosts.change(kvm1.uuid, HostState::Removed, logged).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn a_record_that_is_damaged_renamed_or_open_to_others_stops_the_authority() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let kvm1 = record("kvm1", HostState::Approved);
        Hosts::load(dir.path()).unwrap().add(&kvm1, || Ok(())).unwrap();
        let path = dir.path().join(format!("{}.json", kvm1.uuid));
        let refused = || Hosts::load(dir.path()).map(drop).unwrap_err().kind();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, whole.replace("\"version\": 1", "\"version\": 2")).unwrap();
        assert_eq!(refused(), Kind::Unsupported);
        for wrong in [whole.replace("approved", "blessed"), whole.replace("\"epoch\"", "\"extra\": 1, \"epoch\"")] {
            fs::write(&path, wrong).unwrap();
            assert_eq!(refused(), Kind::Corrupt);
        }
        fs::write(&path, &whole).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(refused(), Kind::Denied);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&path, dir.path().join(format!("{}.json", Uuid::nil()))).unwrap();
        assert_eq!(refused(), Kind::Corrupt);
    }
}
