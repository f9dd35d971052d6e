//! Putting a saved header back, without putting it where it does not belong, or keys back that were taken away, by accident.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::header::{HOME_FILE, Header, UnverifiedHeader};
use crate::format::names::DiskNames;
use crate::format::saved_header::{SAVED_LEN, SavedHeader};
use crate::key::KeyName;
use crate::progress::to_the_end;
use crate::provider::private_file;
use crate::seen::Point;
use crate::storage::Storage;
use crate::store::header_area::{self, OtherCopy, StoredHeader};
use crate::sys::file::{file_beneath, regular_at};
use crate::text::Show;
use crate::timestamp::Timestamp;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::keyring::{self, FetchedKeks};
use crate::vm::{clear, folder};
use crate::work::ComponentResult;
use crate::work::unlocked_component::{refuse_transition, refuse_unsettled};

/// Puts a saved header back.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RestoreHeader {
    /// Of which one it is.
    pub component: Component,
    /// The file of the saved header.
    pub saved: Vec<u8>,
    /// Whether to do what may be wrong; what that would be is said when it is refused.
    pub force: bool,
    /// Beginning of the path that a header is saved under before one of another component, or of another data key, takes its
    /// place: so the way back stays open whichever of the two was the right one.
    #[serde(with = "crate::text::path")]
    pub replaced: PathBuf,
}

/// What restoring did. Field names are part of the stable JSON output.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Restored {
    /// Whether anything had to be written.
    pub changed: bool,
    /// Why the saved header could not be verified with its key; absent when it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unverified: Option<String>,
    /// Keys that open the component again and had been taken away.
    pub keys_back: Vec<KeyName>,
    /// Keys that do not open it any more.
    pub keys_gone: Vec<KeyName>,
    /// Files of the headers that were there and are of another component or of another data key.
    #[serde(with = "crate::text::path", default, skip_serializing_if = "Vec::is_empty")]
    pub replaced: Vec<PathBuf>,
    /// Why the list of the VM's disks may have a newer header still, by which the disk is read-only; absent when it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list_not_lowered: Option<String>,
}

impl RestoreHeader {
    /// Overwrites both header copies of a component that nothing uses.
    ///
    /// # Errors
    /// `Denied` in the midst of a deep rekey, and, unless forced, for the header of another component or of another data key,
    /// when keys would come back, or when nothing tells whether the header belongs here; `Corrupt` for a damaged file or a
    /// header that its key does not verify; `Busy`, or `Io`.
    pub fn run(&self, place: &dyn VmAccess) -> Result<ComponentResult<Restored>> {
        let saved = SavedHeader::decode(&self.saved)?.header;
        refuse_unsettled(saved.claims())?;
        let kind = saved.claims().shape.kind();
        if kind != self.component.kind() {
            let message = format!("the saved header is that of a {}, not of the {}", kind.word(), self.component);
            return Err(Error::new(Kind::Denied, message));
        }
        let made = self.make_missing_home(&place.path())?;
        let restored = self.put_back(place, &saved);
        if let (Some(home), Err(_)) = (made, &restored)
            && home.metadata().is_ok_and(|made| made.len() == 0)
        {
            let _ = std::fs::remove_file(home);
        }
        restored.map(|done| ComponentResult::new(&self.component, saved.claims().uuid, done))
    }

    /// A home whose header file is gone altogether gets an empty one, into which the saved header goes.
    fn make_missing_home(&self, folder: &Path) -> Result<Option<PathBuf>> {
        let home = folder.join(HOME_FILE);
        if self.component != Component::Home || home.exists() {
            return Ok(None);
        }
        folder::refuse_unfinished(folder)?;
        if !self.force {
            let folder = folder.shown();
            return Err(Error::new(
                Kind::Denied,
                format!("{folder} is no longer an encrypted VM folder; if the saved header belongs to it, use --force"),
            ));
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&home);
        made.context(|| format!("creating {}", home.shown())).map(|_| Some(home))
    }

    fn put_back(&self, place: &dyn VmAccess, saved: &UnverifiedHeader) -> Result<Restored> {
        let claimed = place.claim_exclusive(&self.component, &to_the_end)?;
        let (storage, kind) = (claimed.storage(), saved.claims().shape.kind());
        refuse_short_file(storage, saved.claims())?;
        let others = self.others(storage, saved)?;
        let present = if others.is_empty() { self.present(place, storage, saved)? } else { None };
        let ids = [Some(saved.claims()), present.as_ref().map(|stored| stored.header.claims())];
        let ids = ids.into_iter().flatten().flat_map(|header| header.slots.key_ids().cloned());
        let keks = place.providers().fetch_all(ids);
        let unverified = verify(saved, &keks)?;
        if let Some(stored) = &present {
            self.refuse_former_keys(stored, saved)?;
        }
        let (keys_back, keys_gone) = match &present {
            Some(stored) => (missing(saved, &stored.header), missing(&stored.header, saved)),
            None => (Vec::new(), Vec::new()),
        };
        let changed = !present
            .as_ref()
            .is_some_and(|stored| stored.header.same_bytes(saved) && matches!(stored.other, OtherCopy::Same));
        let replaced = others.iter().map(|other| self.keep(other)).collect::<Result<Vec<_>>>()?;
        let mut list_not_lowered = None;
        if changed {
            if let Component::Disk(path) = &self.component {
                // Where the list of the VM's disks cannot say so now, `accept-rollback` does it later.
                list_not_lowered = place.accept_older(path, saved.claims()).err().map(|error| error.chain());
            }
            // The copy in use last: until then it still counts.
            let last = present.map_or(1, |stored| stored.in_use);
            for copy in [1 - last, last] {
                storage.write_at(kind.copy_offsets()[copy], &saved.bytes())?;
                claimed.sync()?;
            }
            // It may be older than what was seen, and is so on purpose.
            place.memory().forget(saved.claims().uuid)?;
        }
        Ok(Restored { changed, unverified, keys_back, keys_gone, replaced, list_not_lowered })
    }

    /// Copies that are there and are not of the saved header's component or data key: only if forced. A wrong header that was
    /// restored by force is one of those when the right one is to be restored.
    fn others(&self, storage: &dyn Storage, saved: &UnverifiedHeader) -> Result<Vec<UnverifiedHeader>> {
        let mut others: Vec<UnverifiedHeader> = Vec::new();
        for copy in header_area::copies(storage, saved.claims().shape.kind())? {
            let copy = match copy {
                Ok(copy) => copy,
                Err(error) if error.kind() == Kind::Unsupported => return Err(error),
                Err(_) => continue,
            };
            let Some(difference) = difference(copy.claims(), saved.claims())? else { continue };
            if !self.force {
                let advice =
                    "use --force only if the header that is there is the wrong one; it is saved before it is replaced";
                return Err(Error::new(Kind::Denied, format!("{difference}; {advice}")));
            }
            if !others.iter().any(|other| other.same_bytes(&copy)) {
                others.push(copy);
            }
        }
        Ok(others)
    }

    /// Saves a header that is about to be replaced, durably; returns its file.
    fn keep(&self, header: &UnverifiedHeader) -> Result<PathBuf> {
        let mut path = self.replaced.clone().into_os_string();
        path.push(format!(".replaced-{}-{}", header.claims().uuid, header.claims().sequence));
        let path = PathBuf::from(path);
        let bytes = SavedHeader { time: Timestamp::now(), header: header.clone() }.encode()?;
        match private_file::create(&path, &[&bytes]) {
            // An earlier run was interrupted.
            Err(error) if error.kind() == Kind::Exists && holds(&path, header) => Ok(path),
            written => written.context(|| "saving the header that is there".into()).map(|()| path),
        }
    }

    /// The header that is there. `None`, if forced or if the list of the VM's disks tells, when no copy says whose it is.
    fn present(
        &self,
        place: &dyn VmAccess,
        storage: &dyn Storage,
        saved: &UnverifiedHeader,
    ) -> Result<Option<StoredHeader>> {
        let claims = saved.claims();
        let stored = header_area::load(storage, claims.shape.kind());
        let stored = match (stored, &self.component) {
            // One that was erased is to stay so, whatever the list says.
            (Err(error), Component::Disk(path)) if !self.force && error.kind() != Kind::KeyUnavailable => {
                match listed(place, path, saved) {
                    Ok(true) => return Ok(None),
                    Ok(false) => Err(error),
                    Err(why) => Err(why),
                }
            }
            (stored, _) => stored,
        };
        match stored {
            Ok(stored) if stored.header.claims().transition.is_some() => {
                refuse_transition(stored.header.claims()).map(|()| None)
            }
            Ok(stored) => Ok(Some(stored)),
            Err(_) if self.force => Ok(None),
            Err(error) => Err(Error::with_source(
                Kind::Denied,
                match self.component {
                    Component::Home => format!(
                        "no header copy is left that shows whether this home belongs to the saved header of {}. If you are certain, \
                         use --force: `vmcryptfs check VM_FOLDER` then shows whether its files open",
                        claims.uuid
                    ),
                    Component::Disk(_) => format!(
                        "no header copy is left that shows whether this data belongs to the saved header of {}, and XTS would not \
                         show it either: restoring a wrong one would make the data unreadable. If you are certain, use --force",
                        claims.uuid
                    ),
                },
                error,
            )),
        }
    }

    fn refuse_former_keys(&self, stored: &StoredHeader, saved: &UnverifiedHeader) -> Result<()> {
        let (now, then) = (stored.header.claims(), saved.claims());
        if self.force || now.slots == then.slots || now.sequence < then.sequence {
            return Ok(());
        }
        let list = |keys: Vec<KeyName>| match keys.is_empty() {
            true => "none".to_owned(),
            false => keys.iter().map(KeyName::to_string).collect::<Vec<_>>().join(", "),
        };
        Err(Error::new(
            Kind::Denied,
            format!(
                "the keys were changed since this header was saved (its sequence is {}, now it is {}). Restoring it would \
                 undo that: keys that would open it again: {}; keys that would no longer open it: {}; and slots of the same key would be as before. If that is intended, use --force",
                then.sequence,
                now.sequence,
                list(missing(saved, &stored.header)),
                list(missing(&stored.header, saved))
            ),
        ))
    }
}

/// Whether the home's list has the saved header's disk at this path, and the header is genuine and as new as list and host know it: then it
/// belongs to what lies there. `false` where there is no such list.
///
/// # Errors
/// Why the list does not say that: `Corrupt`, `Denied`, `ReadOnly`, or those of the keys.
fn listed(place: &dyn VmAccess, path: &Path, saved: &UnverifiedHeader) -> Result<bool> {
    let claims = saved.claims();
    let Some(folder) = place.folder_if_unused() else { return Ok(false) };
    let Some(owner) = place.home_of_disks(&FetchedKeks::new())? else { return Ok(false) };
    let Some(list) = owner.list()? else { return Ok(false) };
    owner.allow_changes()?;
    owner.refuse_foreign(claims, &[path])?;
    let (there, least) = ((claims.dek_generation, claims.sequence), list.least(claims.uuid));
    if least.is_some_and(|(generation, sequence)| generation != there.0 || sequence > there.1) {
        return Err(Error::new(Kind::Denied, "the VM's list of disks knows a header of it that was changed since"));
    }
    let dek = keyring::unlock_by(saved, &place.providers())?;
    place.memory().allow(Point::of(saved, &dek)?)?;
    // From a backup of the plaintext, for instance. The header would be written over its beginning.
    let name = path.file_name().unwrap_or_default();
    let file = file_beneath(folder, path).context(|| "opening it".into())?;
    let kind = clear::kind_of(&file, name, &DiskNames::default())?;
    match kind.is_shown() {
        true => Err(Error::new(Kind::Denied, format!("what lies there is in the clear: {}", kind.reason()))),
        false => Ok(true),
    }
}

/// What makes the header that is there one of other data than the saved one's, if anything does.
///
/// # Errors
/// `Denied` in the midst of a deep rekey of the same component.
fn difference(there: &Header, saved: &Header) -> Result<Option<String>> {
    if there.uuid != saved.uuid {
        return Ok(Some(format!("this is component {}, but the saved header is of {}", there.uuid, saved.uuid)));
    }
    if there.shape != saved.shape {
        return Ok(Some(
            "the saved header has the UUID of this component, but its data would lie elsewhere".to_owned(),
        ));
    }
    if there.dek_generation == saved.dek_generation {
        return Ok(None);
    }
    refuse_transition(there)?;
    Ok(Some(format!(
        "the saved header has the data key of generation {}, the header that is there that of generation {}: the data was \
         re-encrypted in between, and is unreadable with the wrong one",
        saved.dek_generation, there.dek_generation
    )))
}

/// Whether a file is this header, saved. What else lies there is neither waited for nor read whole.
fn holds(path: &Path, header: &UnverifiedHeader) -> bool {
    let read = |file| private_file::read_at_most(SAVED_LEN as u64, path, file).ok();
    let saved = regular_at(path).ok().and_then(read).and_then(|bytes| SavedHeader::decode(&bytes).ok());
    saved.is_some_and(|saved| saved.header.same_bytes(header))
}

/// Why the saved header could not be verified, if its keys are unavailable.
fn verify(saved: &UnverifiedHeader, keks: &FetchedKeks) -> Result<Option<String>> {
    match keyring::unlock(saved, keks) {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == Kind::KeyUnavailable => Ok(Some(error.chain())),
        Err(error) => Err(error).context(|| "the saved header is not genuine".into()),
    }
}

/// Keys that open by one header and not by another.
fn missing(from: &UnverifiedHeader, than: &UnverifiedHeader) -> Vec<KeyName> {
    from.claims().slots.key_ids().filter(|key| !than.claims().slots.has(key)).map(KeyName::of).collect()
}

fn refuse_short_file(storage: &dyn Storage, saved: &Header) -> Result<()> {
    let Some(DiskShape { data_offset, .. }) = saved.shape.disk() else { return Ok(()) };
    let len = storage.len()?;
    if len >= data_offset {
        return Ok(());
    }
    Err(Error::new(
        Kind::Denied,
        format!("the file ends at byte {len}, but the data of the saved header's disk begins at {data_offset}"),
    ))
}

#[cfg(test)]
mod tests;
