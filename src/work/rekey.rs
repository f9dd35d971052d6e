//! Shallow rekey: a new KEK for components of a VM folder. Data are not touched; only headers change.
//!
//! One transaction over many files, without a journal: the leader (the home, else the first disk) gets the new slot in one of
//! its two header copies, then all others in both, then the leader in its second. As long as the leader's copies differ, the
//! rekey is unfinished, and its copy in use names the new key. docs/FORMAT.md, "Rekey", has the states and why each opens.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Slots};
use crate::key::{Kek, KeyId, KeyName, ProviderName};
use crate::progress::{Looking, OnProgress, Progress, Unit};
use crate::provider::{KeyProvider, NewKey};
use crate::text::Show;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::keyring::{self, slot_for};
use crate::vm::scan::{self, FoundComponent};
use crate::work::unlocked_component::{UnlockedComponent, fetch_keks};
use crate::work::{ComponentResult, PassedOver};

/// Headers that are written side by side: each waits for its medium.
const AT_ONCE: usize = 16;

/// What to rekey.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Rekey {
    /// Disks, below the VM folder. None: the home and all disks.
    #[serde(with = "crate::text::path")]
    pub disks: Vec<PathBuf>,
    /// Where the new key comes from, if not from the provider of the present one.
    pub provider: Option<String>,
}

/// What a rekey did.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rekeyed {
    /// The new key.
    pub key: KeyName,
    /// Whether an earlier rekey had made it, and this one finished it.
    pub resumed: bool,
    /// What it wraps now.
    pub components: Vec<ComponentResult<Rewrapped>>,
    /// Of a VM folder that was rekeyed as a whole: what has the keys that it had, if it is a disk.
    #[serde(flatten)]
    pub passed_over: PassedOver,
}

/// How a component was rekeyed.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Rewrapped {
    /// The key that it had before; absent when an earlier rekey had replaced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub former_key: Option<KeyName>,
}

/// The disks that are meant where a component was named: of a VM folder those that were listed, or else that one disk.
///
/// # Errors
/// `Invalid` for a disk and a list.
pub fn disks_of(component: Component, listed: &[PathBuf]) -> Result<Vec<PathBuf>> {
    match (component, listed.is_empty()) {
        (Component::Home, _) => Ok(listed.to_vec()),
        (Component::Disk(disk), true) => Ok(vec![disk]),
        (Component::Disk(disk), false) => Err(Error::new(
            Kind::Invalid,
            format!("{} is a disk, expected its VM folder where disks are listed", disk.shown()),
        )),
    }
}

impl Rekey {
    /// Makes a new KEK and wraps the DEKs of the chosen components by it, in place of each one's first slot. Other slots stay.
    ///
    /// Everything that can be refused is refused before anything is written. After a crash or an error every component opens,
    /// with its former key or the new one, and running again finishes with the same new key.
    ///
    /// # Errors
    /// `NotFound` for a disk that is not there, `Busy`, `KeyUnavailable` when the former or the new provider cannot be used,
    /// `Corrupt`, `Stopped` when `on_progress` says so, or `Io`.
    pub fn run(&self, place: &dyn VmAccess, on_progress: OnProgress<'_>) -> Result<Rekeyed> {
        let looking = Looking::new(&mut *on_progress);
        let go_on = || looking.tell();
        let chosen = choose(&self.disks, place.components(&go_on)?)?;
        let keks = fetch_keks(place, &chosen);
        let passed_over = PassedOver::of(self.disks.is_empty(), place, &keks, &go_on)?;
        let mut keyed: Vec<UnlockedComponent<'_>> = Vec::new();
        for found in chosen {
            let component = found.component();
            found.header.context(|| component.to_string())?;
            keyed.push(UnlockedComponent::open(place, &component, &keks)?);
        }
        let Some((leader, followers)) = keyed.split_first_mut() else {
            return Err(Error::new(Kind::NotFound, "no component to rekey"));
        };
        let new = self.new_key(place, leader)?;
        let former = std::iter::once(&*leader).chain(&*followers).map(|keyed| new.would_replace(keyed)).collect();
        let total = followers.len() as u64 + 1;
        let mut report =
            |done: u64| on_progress(&Progress { what: "rekey".to_owned(), done, total, unit: Unit::Components });
        report(0)?;
        passed_over.outdate_erased(place, &keks)?;
        new.begin(leader)?;
        let mut done = 0;
        for some in followers.chunks_mut(AT_ONCE) {
            new.finish_all(some)?;
            done += some.len() as u64;
            report(done)?;
        }
        new.finish(leader)?;
        report(total)?;
        Ok(Rekeyed { passed_over, ..new.outcome(&keyed, former) })
    }

    /// The key of an unfinished rekey, if it is of the wanted provider, else a new one. Either is fetched from its provider
    /// before anything depends on it.
    fn new_key(&self, place: &dyn VmAccess, leader: &UnlockedComponent<'_>) -> Result<NewSlots> {
        let named = self.provider.as_deref().map(ProviderName::new).transpose()?;
        let present = place.providers().present_name(leader.header().slots.first_key());
        let wanted = named.as_ref().unwrap_or(&present);
        let unusable = || format!("new key from provider {wanted}");
        let provider = place.providers().chosen_or(named.as_ref(), wanted).context(unusable)?;
        let unfinished = leader.unfinished_rekey().filter(|slot| slot.key_id.provider() == wanted);
        let resumed = unfinished.is_some();
        let (key_id, kek) = match unfinished {
            Some(slot) => {
                let doing = || format!("key {} of the unfinished rekey", slot.key_id);
                (slot.key_id.clone(), keyring::fetch_for(slot, &place.providers()).context(doing)?)
            }
            None => make_key(place, leader.header().uuid, provider.as_ref()).context(unusable)?,
        };
        Ok(NewSlots { key_id, kek, resumed })
    }
}

/// These disks; without any, the home and all disks.
pub(super) fn choose(disks: &[PathBuf], found: Vec<FoundComponent>) -> Result<Vec<FoundComponent>> {
    for disk in disks {
        if !found.iter().any(|component| component.kind == ComponentKind::Disk && component.path == *disk) {
            return Err(Error::new(Kind::NotFound, format!("no encrypted disk {} in this VM folder", disk.shown())));
        }
    }
    let wanted = |component: &FoundComponent| match component.kind {
        ComponentKind::Home => disks.is_empty(),
        // One that was erased is as good as gone, unless it is meant.
        ComponentKind::Disk if disks.is_empty() => !component.is_erased(),
        ComponentKind::Disk => disks.contains(&component.path),
    };
    let mut chosen: Vec<FoundComponent> = found.into_iter().filter(wanted).collect();
    scan::each_file_once(&mut chosen);
    Ok(chosen)
}

/// A new KEK. It is fetched again at once: what is not available again must not wrap the only copy of a DEK.
pub(super) fn make_key(
    place: &dyn VmAccess,
    vm_uuid: Uuid,
    provider: &dyn KeyProvider,
) -> Result<(KeyId, Arc<dyn Kek>)> {
    let (key_id, made) = provider.create_key(&NewKey { vm_name: place.vm_name(), vm_uuid })?;
    let fetched = place.providers().fetch(&key_id)?;
    if fetched.check()? != made.check()? {
        return Err(Error::new(
            Kind::KeyRejected,
            format!("key {key_id} is not the one that was made under this key id"),
        ));
    }
    Ok((key_id, fetched))
}

/// The new KEK, and how a component gets a slot under it.
struct NewSlots {
    key_id: KeyId,
    kek: Arc<dyn Kek>,
    resumed: bool,
}

impl NewSlots {
    /// The first slot's key, unless it is the new one already.
    fn would_replace(&self, keyed: &UnlockedComponent<'_>) -> Option<KeyName> {
        Some(keyed.header().slots.first_key()).filter(|key| **key != self.key_id).map(KeyName::of)
    }

    /// The slots of a component under the new KEK: in place of the first one, and of others under the same former key.
    fn slots_of(&self, keyed: &UnlockedComponent<'_>) -> Result<Slots> {
        let slots = &keyed.header().slots;
        if *slots.first_key() == self.key_id {
            return Ok(slots.clone());
        }
        let new = slot_for(&self.key_id, self.kek.as_ref(), keyed.dek()).context(|| keyed.component.to_string())?;
        Slots::new(std::iter::once(new).chain(slots.beside(&self.key_id).cloned()).collect())
    }

    /// Records the new key: from here on the rekey is unfinished.
    fn begin(&self, leader: &mut UnlockedComponent<'_>) -> Result<()> {
        match self.would_replace(leader) {
            Some(_) => leader.update(self.slots_of(leader)?),
            None => Ok(()),
        }
    }

    fn finish(&self, keyed: &mut UnlockedComponent<'_>) -> Result<()> {
        keyed.replace(self.slots_of(keyed)?)
    }

    /// Side by side. All are tried; the first failure is reported.
    fn finish_all(&self, some: &mut [UnlockedComponent<'_>]) -> Result<()> {
        thread::scope(|scope| {
            let running: Vec<_> = some.iter_mut().map(|keyed| scope.spawn(|| self.finish(keyed))).collect();
            let died = || Err(Error::new(Kind::Io, "a thread of the rekey failed: this is a bug, please report it"));
            let ended: Vec<Result<()>> =
                running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| died())).collect();
            ended.into_iter().collect()
        })
    }

    fn outcome(&self, keyed: &[UnlockedComponent<'_>], former: Vec<Option<KeyName>>) -> Rekeyed {
        let component = |(keyed, former_key): (&UnlockedComponent<'_>, Option<KeyName>)| {
            ComponentResult::new(&keyed.component, keyed.header().uuid, Rewrapped { former_key })
        };
        let components = keyed.iter().zip(former).map(component).collect();
        Rekeyed {
            key: KeyName::of(&self.key_id),
            resumed: self.resumed,
            components,
            passed_over: PassedOver::default(),
        }
    }
}

#[cfg(test)]
mod tests;
