//! Key slots of a component: adding one, for escrow or recovery, and removing one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{MAX_SLOTS, Slot, Slots};
use crate::key::{Kek, KeyId, KeyName, ProviderName};
use crate::progress::to_the_end;
use crate::provider;
use crate::text::Show;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::keyring::{self, FetchedKeks, slot_for};
use crate::vm::scan::{self, FoundComponent};
use crate::work::rekey::make_key;
use crate::work::unlocked_component::{UnlockedComponent, fetch_keks};
use crate::work::{ComponentResult, PassedOver};

/// Adds a slot.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct AddKey {
    /// Which one; `None` for the home and all disks.
    #[serde(default)]
    pub component: Option<Component>,
    /// Where the KEK comes from; the default provider otherwise.
    pub provider: Option<String>,
    /// A KEK that the provider has; otherwise the one that another component of the VM has from it, or a new one.
    pub key_id: Option<String>,
}

/// Removes a slot.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RemoveKey {
    /// Which one; `None` for the home and all disks.
    #[serde(default)]
    pub component: Option<Component>,
    /// The slot's provider.
    pub provider: String,
    /// The slot's key id, if the provider has several.
    pub key_id: Option<String>,
    /// Whether it is removed even if no other slot can be used now.
    pub force: bool,
}

/// What became of slots.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SlotsChanged {
    /// One for each component that was looked at.
    pub components: Vec<ComponentResult<SlotChanged>>,
    /// What of the VM folder has no other keys than it had, if it is a disk. Looked for where all of it was meant.
    #[serde(flatten)]
    pub passed_over: PassedOver,
}

/// What became of a component's slots.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct SlotChanged {
    /// The key that was added or removed; absent where nothing was to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyName>,
    /// Slots it has now.
    pub slots: usize,
}

impl AddKey {
    /// Wraps the DEK of each chosen component by one KEK more. What has a slot of that KEK already is passed over, so that
    /// running again finishes what was interrupted.
    ///
    /// # Errors
    /// `Exists` when nothing was to be done, `Invalid` when all slots are taken, `KeyUnavailable` when the provider gives no
    /// key that may wrap, or as [`UnlockedComponent::open`].
    pub fn run(&self, place: &dyn VmAccess) -> Result<SlotsChanged> {
        let found = place.components(&to_the_end)?;
        let chosen = choose(&found, self.component.as_ref())?;
        let mut keyed = open_all(place, &chosen)?;
        let (key_id, kek) = self.key(place, &found, &keyed)?;
        let lacking = |keyed: &UnlockedComponent<'_>| !keyed.header().slots.has(&key_id);
        if let Some(full) = keyed.iter().find(|keyed| lacking(keyed) && keyed.header().slots.is_full()) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{} already has {MAX_SLOTS} key slots, the maximum: remove one", full.component),
            ));
        }
        if keyed.iter().all(|keyed| !lacking(keyed) && keyed.is_settled()) {
            return Err(Error::new(Kind::Exists, format!("key {key_id} already has a slot")));
        }
        let mut components = Vec::new();
        for keyed in &mut keyed {
            let added = lacking(keyed);
            let slots = match added {
                true => keyed
                    .header()
                    .slots
                    .with(slot_for(&key_id, kek.as_ref(), keyed.dek()).context(|| keyed.component.to_string())?)?,
                false => keyed.header().slots.clone(),
            };
            keyed.replace(slots)?;
            components.push(changed(keyed, added.then_some(&key_id)));
        }
        Ok(SlotsChanged { components, passed_over: passed_over(place, self.component.as_ref())? })
    }

    fn key(
        &self,
        place: &dyn VmAccess,
        found: &[FoundComponent],
        chosen: &[UnlockedComponent<'_>],
    ) -> Result<(KeyId, Arc<dyn Kek>)> {
        let (wanted, provider) = place.providers().chosen_or_default(self.provider.as_deref())?;
        let slots =
            || found.iter().filter_map(FoundComponent::unverified).flat_map(|header| header.claims().slots.iter());
        let fetch = |key_id: KeyId| {
            let kek = match slots().find(|slot| slot.key_id == key_id) {
                Some(slot) => keyring::fetch_for(slot, &place.providers()),
                None => place.providers().fetch(&key_id),
            };
            let kek = kek.context(|| format!("fetching key {key_id}"))?;
            Ok((key_id, kek))
        };
        if let Some(id) = &self.key_id {
            let key_id = KeyId::new(wanted, id)?;
            provider::require_own_spelling(&*provider, &key_id)?;
            return fetch(key_id);
        }
        // One VM's components share a KEK: a recovery key is one, not one a disk.
        let shared: Vec<&KeyId> = slots().map(|slot| &slot.key_id).filter(|key| *key.provider() == wanted).collect();
        let lacking = shared.iter().find(|key| !chosen.iter().all(|keyed| keyed.header().slots.has(key)));
        match lacking.or(shared.first()) {
            Some(key_id) => fetch(KeyId::clone(key_id)),
            None => {
                let vm_uuid = chosen.first().map(|keyed| keyed.header().uuid).unwrap_or_default();
                make_key(place, vm_uuid, provider.as_ref())
            }
        }
    }
}

impl RemoveKey {
    /// Destroys a slot of each chosen component, in both header copies. One that has no such slot is passed over.
    ///
    /// # Errors
    /// `NotFound` when no component has it, `Invalid` when the provider has several, `Denied` for the last slot, or when none
    /// of those that stay can be used now, or as [`UnlockedComponent::open`].
    pub fn run(&self, place: &dyn VmAccess) -> Result<SlotsChanged> {
        let found = place.components(&to_the_end)?;
        let chosen = choose(&found, self.component.as_ref())?;
        let provider = ProviderName::new(&self.provider)?;
        let mut keyed = open_all(place, &chosen)?;
        let keks = match self.force {
            true => FetchedKeks::new(),
            false => {
                let stay = keyed.iter().flat_map(|keyed| self.split(&provider, &keyed.header().slots).1);
                place.providers().fetch_all(stay.map(|slot| slot.key_id))
            }
        };
        let mut plans = Vec::new();
        for keyed in &keyed {
            plans.push(self.plan(keyed, &provider, &keks).context(|| keyed.component.to_string())?);
        }
        // A copy that differs is what an interrupted removal leaves: it is overwritten.
        if keyed.iter().zip(&plans).all(|(keyed, (removed, _))| removed.is_none() && keyed.is_settled()) {
            let key = self.key_id.as_ref().map(|id| format!(" and key id {id}")).unwrap_or_default();
            return Err(Error::new(Kind::NotFound, format!("no slot of provider {provider}{key}")));
        }
        let mut components = Vec::new();
        for (keyed, (removed, slots)) in keyed.iter_mut().zip(plans) {
            keyed.replace(slots)?;
            components.push(changed(keyed, removed.as_ref()));
        }
        Ok(SlotsChanged { components, passed_over: passed_over(place, self.component.as_ref())? })
    }

    /// The slots that are meant, and those that stay. A key id that no slot has may be another spelling of one.
    fn split(&self, provider: &ProviderName, slots: &[Slot]) -> (Vec<Slot>, Vec<Slot>) {
        let is_exact = |slot: &Slot, id: &str| slot.key_id.provider() == provider && slot.key_id.id() == id;
        let is_meant = |slot: &Slot| match &self.key_id {
            Some(id) if slots.iter().any(|slot| is_exact(slot, id)) => is_exact(slot, id),
            Some(id) => slot.key_id.provider() == provider && slot.key_id.may_be_called(id),
            None => slot.key_id.provider() == provider,
        };
        slots.iter().cloned().partition(is_meant)
    }

    /// The key whose slots go, and the slots that stay.
    fn plan(
        &self,
        keyed: &UnlockedComponent<'_>,
        provider: &ProviderName,
        keks: &FetchedKeks,
    ) -> Result<(Option<KeyId>, Slots)> {
        let (go, stay) = self.split(provider, &keyed.header().slots);
        let Some(first) = go.first() else { return Ok((None, keyed.header().slots.clone())) };
        if let Some(other) = go.iter().find(|slot| slot.key_id != first.key_id) {
            return Err(Error::new(
                Kind::Invalid,
                format!("slots of {} and of {}: choose one with --key", first.key_id, other.key_id),
            ));
        }
        if stay.is_empty() {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "{} is the last key: without it the data is lost. Use `vmcryptfs erase COMPONENT` for that",
                    first.key_id
                ),
            ));
        }
        let usable = || stay.iter().any(|slot| keyring::opens(slot, keyed.dek(), keks));
        if !self.force && !usable() {
            return Err(Error::new(
                Kind::Denied,
                format!(
                    "none of the remaining keys is available now, so {} is kept (--force removes it)",
                    first.key_id
                ),
            ));
        }
        Ok((Some(first.key_id.clone()), Slots::new(stay)?))
    }
}

/// What was passed over where all of a VM folder was meant.
fn passed_over(place: &dyn VmAccess, component: Option<&Component>) -> Result<PassedOver> {
    PassedOver::of(component.is_none(), place, &FetchedKeks::new(), &to_the_end)
}

fn choose<'f>(found: &'f [FoundComponent], component: Option<&Component>) -> Result<Vec<&'f FoundComponent>> {
    let wanted = |found: &&FoundComponent| component.map_or(!found.is_erased(), |wanted| found.component() == *wanted);
    let mut chosen: Vec<_> = found.iter().filter(wanted).collect();
    scan::each_file_once(&mut chosen);
    match (chosen.is_empty(), component) {
        (true, Some(Component::Home)) => Err(Error::new(Kind::NotFound, "no encrypted home in this folder")),
        (true, Some(Component::Disk(path))) => {
            Err(Error::new(Kind::NotFound, format!("{} is not an encrypted disk", path.shown())))
        }
        (true, None) => Err(Error::new(Kind::NotFound, "no component in this folder")),
        (false, _) => Ok(chosen),
    }
}

fn open_all<'w>(place: &'w dyn VmAccess, chosen: &[&FoundComponent]) -> Result<Vec<UnlockedComponent<'w>>> {
    let keks = fetch_keks(place, chosen.iter().copied());
    chosen.iter().map(|found| UnlockedComponent::open(place, &found.component(), &keks)).collect()
}

fn changed(keyed: &UnlockedComponent<'_>, key: Option<&KeyId>) -> ComponentResult<SlotChanged> {
    let done = SlotChanged { key: key.map(KeyName::of), slots: keyed.header().slots.len() };
    ComponentResult::new(&keyed.component, keyed.header().uuid, done)
}

#[cfg(test)]
mod tests;
