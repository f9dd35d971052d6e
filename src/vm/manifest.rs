//! The manifest of a home (docs/FORMAT.md, section 17): by it is noticed what others than a mount or a verb did to the home's names
//! and files, and that the home as a whole, or its manifest, is older than it was.
//!
//! A manifest is written again as a whole, under a temporary name, and renamed. Before a home is changed its manifest is *open*: what
//! differs from it then may be what the one that opened it did. So an unclean end is no alarm, and proves nothing.

mod between;
mod differences;
mod expected;
mod keeper;
mod proof;
mod tree;

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::event::ends;
use crate::format::header::{Header, NEW_PREFIX};
use crate::format::manifest::{Entry, MANIFEST_FILE, MANIFEST_ID, MAX_MANIFEST_LEN, Manifest, ManifestVersion, Note};
use crate::progress::GoOn;
use crate::seen::{Memory, Point};
use crate::storage::FileStorage;
use crate::store::buffer::RequestBuffer;
use crate::store::home_file::{HomeFile, HomeKeys};
use crate::store::plain_file::{MAX_REQUEST, PlainFile};
use crate::sys::file::{readable, regular_beneath, stat_at};
use crate::text;
use crate::timestamp::Timestamp;
use crate::vm::draft::Draft;
use crate::vm::folder;
use between::Between;
use differences::{differences, is_settled_by};
pub use expected::Expected;
pub use keeper::Keeper;
pub use proof::Proof;
use proof::Stamp;
use tree::Look;

/// How a draft's temporary name begins.
const DRAFT: &str = "manifest-";
/// Most notes that a manifest keeps; of what else is found, only that there is more.
const MAX_NOTES: usize = 64;

/// An unlocked home, whose manifest is read or made.
#[derive(Clone, Copy)]
pub struct HomeTree<'a> {
    /// The VM folder.
    pub dir: &'a File,
    /// The home's verified header.
    pub header: &'a Header,
    /// Its keys.
    pub keys: &'a HomeKeys,
    /// What this host has seen.
    pub memory: &'a Arc<Memory>,
    /// Asked while the folder is looked through, before each name; its error ends that.
    pub go_on: &'a GoOn<'a>,
}

/// What a manifest is made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// The home is about to be changed.
    Open,
    /// The home goes on being changed: what is there now is kept, in case of an unclean end.
    Renew,
    /// Nothing changes the home any more.
    Close,
    /// All of it gets other keys or is decrypted, by a process that has the home for itself. What is there is kept under the keys that it
    /// has: by it is judged what has its old form, and what an interruption leaves.
    Replace,
}

/// Whether a VM folder holds a manifest, by its name.
pub fn is_there(dir: &File) -> bool {
    stat_at(dir, MANIFEST_FILE.as_ref()).is_ok()
}

impl HomeTree<'_> {
    /// Whether the home has a manifest, or had one by what this host has seen.
    pub fn is_kept(&self) -> bool {
        Self::is_kept_of(self.dir, self.header.uuid, self.memory)
    }

    /// The same, of a home that is not unlocked.
    pub fn is_kept_of(dir: &File, home: Uuid, memory: &Memory) -> bool {
        is_there(dir) || memory.manifest_counter(home).is_some()
    }

    /// The manifest that is there.
    ///
    /// # Errors
    /// `Corrupt` for one that this home did not seal, or `Io`.
    pub fn load(&self) -> Result<Option<Manifest>> {
        self.load_by(self.keys)
    }

    /// Whether a deep rekey is under way that began when the manifest was made.
    fn is_before_rekey(&self) -> bool {
        self.keys.old().is_some_and(|old| matches!(self.load_by(old), Ok(Some(_))))
    }

    /// What the manifest says of each file that a verb replaces; `None` without one, or with one that proves nothing.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn expected(&self) -> Result<Option<Expected>> {
        Ok(self.load()?.filter(|manifest| !manifest.is_open).map(Expected::of))
    }

    fn load_by(&self, keys: &HomeKeys) -> Result<Option<Manifest>> {
        let reading = || format!("reading {MANIFEST_FILE}");
        let file = match regular_beneath(self.dir, Path::new(MANIFEST_FILE), OFlags::RDONLY) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.context(reading)?,
        };
        self.read(file, keys).map(Some).context(reading)
    }

    fn read(&self, file: File, keys: &HomeKeys) -> Result<Manifest> {
        let file = HomeFile::open(FileStorage::new(file), keys)?;
        if file.id() != Some(MANIFEST_ID) {
            return Err(Error::new(Kind::Corrupt, "another file of the home lies in its place"));
        }
        let len = file.plain_len();
        if len > MAX_MANIFEST_LEN {
            return Err(Error::new(Kind::Corrupt, format!("{len} bytes, expected at most {MAX_MANIFEST_LEN}")));
        }
        let (mut bytes, mut buffer) = (Vec::new(), RequestBuffer::take());
        while (bytes.len() as u64) < len {
            match file.read_at(bytes.len() as u64, MAX_REQUEST, &mut buffer)? {
                [] => break,
                read => bytes.extend_from_slice(read),
            }
        }
        Manifest::decode(&bytes, self.header.uuid)
    }

    /// The manifest that is there, unless this host has seen a newer one.
    ///
    /// # Errors
    /// `NotFound` without one, `Corrupt` for an older one or as [`load`](Self::load).
    pub fn newest(&self) -> Result<Manifest> {
        let none = || {
            Error::new(
                Kind::NotFound,
                "the home has no manifest: `vmcryptfs mount --manifest VM_FOLDER MOUNTPOINT` makes one",
            )
        };
        let manifest = self.load()?.ok_or_else(none)?;
        let (home, counter) = (self.header.uuid, manifest.counter);
        let seen = self.memory.manifest_counter(home).unwrap_or_default();
        match self.memory.meet(Point::of_manifest(home, counter, manifest.mark()?)).gone_back() {
            None => Ok(manifest),
            Some(_) => Err(Error::new(
                Kind::Corrupt,
                format!("its manifest is number {counter}, and this host has seen {seen}: it was put back"),
            )),
        }
    }

    /// Compares the home with its manifest, and the manifest with what this host has seen.
    ///
    /// # Errors
    /// `Io` when the folder cannot be looked through, and that of `go_on`.
    pub fn prove(&self) -> Result<Proof> {
        const ATTEMPTS: usize = 3;
        let mut proof = self.prove_once()?;
        for _ in 1..ATTEMPTS {
            // Another process may have sealed another one while the folder was looked through.
            let is_last = proof.findings.is_empty() || self.stamp() == proof.at;
            if is_last {
                break;
            }
            proof = self.prove_once()?;
        }
        Ok(proof)
    }

    fn prove_once(&self) -> Result<Proof> {
        let seen = self.memory.manifest_counter(self.header.uuid);
        let manifest = match self.load() {
            Ok(manifest) => manifest,
            Err(error) if error.kind() == Kind::Io => return Err(error),
            Err(error) => {
                let unusable = vec![format!("its manifest cannot be used: {}", error.chain())];
                return Ok(Proof { at: (None, seen), ..Proof::default() }.with(unusable));
            }
        };
        let Some(manifest) = manifest else {
            let removed = seen.map(|seen| format!("its manifest is gone: this host has seen number {seen}"));
            return Ok(Proof { at: (None, seen), ..Proof::default() }.with(removed.into_iter().collect()));
        };
        let (time, counter) = (Timestamp::from_secs(manifest.time), manifest.counter);
        let (findings, at) = (noted(&manifest), (Some(counter), seen));
        let noted = manifest.notes.clone();
        let proof = Proof { findings, noted, manifest: Some((time, counter)), at, ..Proof::default() };
        let there = Point::of_manifest(self.header.uuid, counter, manifest.mark()?);
        if self.memory.meet(there).gone_back().is_some() {
            // A comparison with an older tree says nothing.
            let seen = seen.unwrap_or_default();
            return Ok(proof.with(vec![format!(
                "its manifest is number {counter}, and this host has seen {seen}: the manifest, or the home as a whole, was put back"
            )]));
        }
        let differences = self.differences((manifest.version, &manifest.entries), self.look(manifest.version)?)?;
        if manifest.is_open {
            let unproven_since = (!differences.is_empty()).then_some(time);
            return Ok(Proof { unproven_since, ..proof });
        }
        Ok(proof.with(differences))
    }

    /// What is there now.
    fn stamp(&self) -> Stamp {
        let counter = self.load().ok().flatten().map(|manifest| manifest.counter);
        (counter, self.memory.manifest_counter(self.header.uuid))
    }

    /// Whether what was found is not accepted yet.
    pub fn is_found(&self, proof: &Proof) -> bool {
        let manifest = self.load().ok().flatten();
        let has_notes = manifest.as_ref().is_some_and(|manifest| !manifest.notes.is_empty());
        let counter = manifest.map(|manifest| manifest.counter);
        has_notes || (counter, self.memory.manifest_counter(self.header.uuid)) == proof.at
    }

    /// What is there otherwise than sealed, but for what a verb that has begun makes of it.
    fn differences(
        &self,
        (version, sealed): (ManifestVersion, &[Entry]),
        mut there: Vec<Entry>,
    ) -> Result<Vec<String>> {
        let (dir, header, keys) = (self.dir, self.header, self.keys);
        let is_before_rekey = self.is_before_rekey();
        Between { dir, header, keys, is_before_rekey, version }.settle(sealed, &mut there)?;
        Ok(differences(sealed, &there))
    }

    /// What is there, as manifests of this version have it.
    fn look(&self, version: ManifestVersion) -> Result<Vec<Entry>> {
        tree::look(self.dir, &self.header.disk_names, self.keys, Look { version, go_on: self.go_on })
    }

    /// Seals a manifest where one is due, with what `proof` found, unless someone has accepted that. The home must not have gone back.
    ///
    /// # Errors
    /// `Io`, and that of `go_on`; then the manifest is what it was.
    pub fn seal(&self, purpose: Purpose, proof: &Proof) -> Result<()> {
        self.seal_synced(purpose, proof, false)
    }

    /// The same; with `is_synced` all of the home is durable, and nothing changes it.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_synced(&self, purpose: Purpose, proof: &Proof, is_synced: bool) -> Result<()> {
        let locked = lock(self.dir)?;
        let current = self.load().ok().flatten();
        let seen = self.memory.manifest_counter(self.header.uuid);
        let (counter, is_open) =
            (current.as_ref().map(|now| now.counter), current.as_ref().is_some_and(|now| now.is_open));
        let is_news = (counter, seen) == proof.at;
        let news: &[String] = if is_news { &proof.news } else { &[] };
        let kept_notes = || if is_news { proof.noted.clone() } else { Vec::new() };
        let mut notes = current.as_ref().map_or_else(kept_notes, |now| now.notes.clone());
        if let Some(accepted) = &proof.accepted {
            notes.retain(|note| !is_settled_by(&note.text, accepted));
        }
        add(&mut notes, news);
        let has_news = current.as_ref().is_some_and(|now| now.notes != notes);
        let kept = current.as_ref().map(|now| (now.version, now.entries.clone()));
        let version = ManifestVersion::NEWEST;
        let (entries, time) = match (purpose, kept) {
            (Purpose::Open, Some(_)) if is_open && !has_news => return Ok(()),
            (Purpose::Renew, _) if !is_open => return Ok(()),
            (Purpose::Replace, Some(_))
                if !is_open && !has_news && (self.keys.old().is_none() || self.is_before_rekey()) =>
            {
                return Ok(());
            }
            (_, kept) => {
                let time = now();
                let entries = self.look(version)?;
                // Nothing was changed since the comparison, but for what others did in the meantime.
                if let Some((of, kept)) = kept.as_ref().filter(|_| !is_open && news.is_empty()) {
                    let found = if *of == version { entries.clone() } else { self.look(*of)? };
                    add(&mut notes, &self.differences((*of, kept), found)?);
                }
                if purpose == Purpose::Renew
                    && kept.as_ref().is_some_and(|(of, kept)| (*of, kept) == (version, &entries))
                {
                    return Ok(());
                }
                if !is_synced {
                    let kept = kept.map(|(_, kept)| kept).unwrap_or_default();
                    tree::sync_changes(self.dir, &kept, &entries)?;
                }
                (entries, time)
            }
        };
        let counter = counter.max(seen).max(Some(proof.least)).unwrap_or(0).saturating_add(1);
        let (home, is_open) = (self.header.uuid, !matches!(purpose, Purpose::Close | Purpose::Replace));
        let keys = self.keys.old().filter(|_| purpose == Purpose::Replace).unwrap_or(self.keys);
        self.store(&Manifest { version, home, counter, is_open, time, logs: ends(), notes, entries }, keys)?;
        drop(locked);
        Ok(())
    }

    /// Takes what is there for what was left: seals it, or where there is no manifest, forgets that there was one. Returns what was
    /// found before.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn accept(&self, is_in_use: bool) -> Result<Option<String>> {
        let found = self.prove()?.describe();
        let uuid = self.header.uuid;
        if found.is_none() {
            return Ok(None);
        }
        if !is_there(self.dir) {
            self.memory.forget_manifest(uuid)?;
            return Ok(found);
        }
        let locked = lock(self.dir)?;
        let current = self.load().ok().flatten();
        let is_open = is_in_use || current.as_ref().is_some_and(|now| now.is_open);
        let version = ManifestVersion::NEWEST;
        let (time, entries) = (now(), self.look(version)?);
        tree::sync_changes(self.dir, &[], &entries)?;
        let seen = self.memory.manifest_counter(uuid);
        let counter = current.map(|now| now.counter).max(seen).unwrap_or(0).saturating_add(1);
        let (home, notes) = (uuid, Vec::new());
        self.store(&Manifest { version, home, counter, is_open, time, logs: ends(), notes, entries }, self.keys)?;
        drop(locked);
        Ok(found)
    }

    /// Takes the manifest away, durably, before what it is of gets another form or other keys.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(&self) -> Result<()> {
        self.memory.forget_manifest(self.header.uuid)?;
        folder::remove_manifest(self.dir)?;
        self.sync_names()
    }

    fn store(&self, manifest: &Manifest, keys: &HomeKeys) -> Result<()> {
        let sealing = || format!("sealing {MANIFEST_FILE}");
        self.remove_drafts()?;
        let draft = Draft::new(self.dir, DRAFT)?;
        let storage = FileStorage::new(draft.make_file(Mode::from_raw_mode(0o600)).context(sealing)?);
        let file = HomeFile::with_id(storage, keys, MANIFEST_ID)?;
        let mut buffer = RequestBuffer::take();
        for (number, piece) in manifest.encode()?.chunks(MAX_REQUEST).enumerate() {
            file.write_at((number * MAX_REQUEST) as u64, piece, &mut buffer).context(sealing)?;
        }
        file.sync().context(sealing)?;
        make_room(self.dir).context(sealing)?;
        draft.replace(self.dir, OsStr::new(MANIFEST_FILE)).context(sealing)?;
        self.sync_names()?;
        self.memory.meet(Point::of_manifest(self.header.uuid, manifest.counter, manifest.mark()?));
        Ok(())
    }

    /// What a crash has left. Nobody else makes one: the folder is locked.
    fn remove_drafts(&self) -> Result<()> {
        let prefix = [NEW_PREFIX, DRAFT].concat();
        for name in
            folder::sorted_names(self.dir)?.iter().filter(|name| name.as_encoded_bytes().starts_with(prefix.as_bytes()))
        {
            let _ = rustix::fs::unlinkat(self.dir, name.as_os_str(), AtFlags::empty());
        }
        Ok(())
    }

    fn sync_names(&self) -> Result<()> {
        let dir = readable(self.dir).context(|| "opening the VM folder".into())?;
        rustix::fs::fsync(dir).context(|| "making the VM folder's names durable".into())
    }
}

/// Removes an empty folder from the manifest's place: no file can be renamed over it.
///
/// # Errors
/// `Corrupt` for one that holds something, which a person has to look at; `Io`.
fn make_room(dir: &File) -> Result<()> {
    match rustix::fs::unlinkat(dir, MANIFEST_FILE, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Error::new(
            Kind::Corrupt,
            format!("{MANIFEST_FILE} is a folder that holds something, expected a file: move it out of the VM folder"),
        )),
        removed => removed.context(|| "removing the folder in its place".into()),
    }
}

/// Keeps others from sealing a manifest of the same home. A file system without such locks leaves that to chance: then the later one
/// counts.
fn lock(dir: &File) -> Result<File> {
    let dir = readable(dir).context(|| "opening the VM folder".into())?;
    let _ = rustix::fs::flock(&dir, FlockOperation::LockExclusive);
    Ok(dir)
}

fn now() -> u64 {
    Timestamp::now().since_1970().as_secs()
}

fn noted(manifest: &Manifest) -> Vec<String> {
    let line = |note: &Note| {
        let time = Timestamp::from_secs(note.time).to_millis();
        format!("{} (found at {time})", text::one_line(&note.text))
    };
    manifest.notes.iter().map(line).collect()
}

/// Adds what is not noted yet.
fn add(notes: &mut Vec<Note>, found: &[String]) {
    for text in found {
        if notes.iter().any(|note| note.text == *text) {
            continue;
        }
        if notes.len() == MAX_NOTES {
            notes[MAX_NOTES - 1].text = "and more".to_owned();
            break;
        }
        notes.push(Note { time: now(), text: text.clone() });
    }
}

#[cfg(test)]
mod tests;
