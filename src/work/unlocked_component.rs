//! A component whose key slots may be changed: claimed, its DEK at hand, its header verified.

use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{Header, Shape, Slot, Slots, StoredState};
use crate::format::names::DiskNames;
use crate::key::Dek;
use crate::seen::{Memory, Point};
use crate::store::header_area::{self, OtherCopy};
use crate::text::advice::Places;
use crate::vm::access::{Claimed, VmAccess};
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::keyring::{self, FetchedKeks};
use crate::vm::scan::FoundComponent;

/// A claimed and unlocked component.
pub struct UnlockedComponent<'w> {
    /// Which one.
    pub component: Component,
    claim: Box<dyn Claimed + 'w>,
    dek: Arc<Dek>,
    header: Header,
    in_use: usize,
    /// What the copy that is not in use holds; `None` when it is damaged.
    older: Option<Header>,
    memory: &'w Arc<Memory>,
}

impl<'w> UnlockedComponent<'w> {
    /// Claims a component and unlocks it: by a DEK in memory, else by one of the KEKs.
    ///
    /// # Errors
    /// `Busy`, `KeyUnavailable`, `KeyRejected` or `Corrupt`, `ReadOnly` for one that has gone back; the message names the component.
    pub fn open(place: &'w dyn VmAccess, component: &Component, keks: &FetchedKeks) -> Result<Self> {
        let opened = Self::open_unnamed(place, component, keks).and_then(|opened| {
            let is_disk = opened.header.shape != Shape::Home;
            if is_disk {
                place.refuse_foreign(component.path(), &opened.header, keks)?;
                let there = Point::written(&opened.header, &opened.dek)?;
                place.memory().meet_above(there, place.floor(component.path())).allow_changes().map(|()| opened)
            } else {
                Ok(opened)
            }
        });
        named(opened, place, component)
    }

    /// The same for a disk of whatever VM.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_of_any_vm(place: &'w dyn VmAccess, component: &Component, keks: &FetchedKeks) -> Result<Self> {
        named(Self::open_unnamed(place, component, keks), place, component)
    }

    fn open_unnamed(place: &'w dyn VmAccess, component: &Component, keks: &FetchedKeks) -> Result<Self> {
        let claim = place.claim(component)?;
        // Read under the claim: what was scanned before may have been changed since.
        let stored = header_area::load(claim.storage(), component.kind())?;
        let dek = match place.known_dek(&stored.header) {
            Some(dek) => dek,
            None => Arc::new(keyring::unlock(&stored.header, keks)?),
        };
        let header = stored.header.clone().verify(&dek)?;
        HomeState::Encrypted.refuse_unfinished(&header)?;
        refuse_transition(&header)?;
        place.memory().meet(Point::of(&stored.header, &dek)?).allow_changes()?;
        // One that someone without the DEK put there says nothing.
        let older = match stored.other {
            OtherCopy::Same => Some(header.clone()),
            OtherCopy::Older(older) => older.verify(&dek).ok(),
            OtherCopy::Damaged(_) => None,
        };
        Ok(Self {
            component: component.clone(),
            claim,
            dek,
            header,
            in_use: stored.in_use,
            older,
            memory: place.memory(),
        })
    }

    /// What the header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The header as a list of disks has it, which is never ahead of what is durable.
    ///
    /// # Errors
    /// `Io`, or `Corrupt`.
    pub fn durable_header(&self) -> Result<Header> {
        self.claim.sync()?; // a process that was killed may have written it
        header_area::load(self.claim.storage(), self.component.kind())?.verify_least(&self.dek)
    }

    /// The component's DEK.
    pub fn dek(&self) -> &Dek {
        &self.dek
    }

    /// Whether both copies hold the same slots.
    pub fn is_settled(&self) -> bool {
        self.older.as_ref().is_some_and(|older| older.slots == self.header.slots)
    }

    /// The slot of a rekey that began here and did not finish: the copy in use has a first key that the other copy does not
    /// have, and the other way round (docs/FORMAT.md, "Rekey").
    pub fn unfinished_rekey(&self) -> Option<&Slot> {
        let older = self.older.as_ref()?;
        let (new, old) = (self.header.slots.first_key(), older.slots.first_key());
        let follows = self.header.sequence == older.sequence.saturating_add(1);
        (follows && !older.slots.has(new) && !self.header.slots.has(old)).then(|| &self.header.slots[0])
    }

    /// Writes one copy with these slots, durably; the other copy still holds what was.
    ///
    /// # Errors
    /// `Io`: then what was still counts, but the copy may have been written.
    pub fn update(&mut self, slots: Slots) -> Result<()> {
        self.write(Header { slots, ..self.header.clone() })
    }

    /// Makes both copies of a home's header hold these patterns for names of disks.
    ///
    /// # Errors
    /// `Io`: then either list may count, and running again finishes.
    pub fn rename_disks(&mut self, disk_names: &DiskNames) -> Result<()> {
        self.write_twice(&Header { disk_names: disk_names.clone(), ..self.header.clone() })
    }

    /// Makes both copies of a disk's header name its home.
    ///
    /// # Errors
    /// `Io`: then running again finishes.
    pub fn bind_to(&mut self, home: Uuid) -> Result<()> {
        self.write_twice(&Header { owner: Some(home), ..self.header.clone() })
    }

    /// Makes both copies of a home's header say that all its disks name it, and that it is encrypted as a whole.
    ///
    /// # Errors
    /// As [`bind_to`](Self::bind_to).
    pub fn bind_disks(&mut self) -> Result<()> {
        let state = self.header.state.or(Some(StoredState::Encrypted));
        self.write_twice(&Header { binds_disks: true, state, ..self.header.clone() })
    }

    /// Makes both copies of a home's header say that it has a list of its disks.
    ///
    /// # Errors
    /// As [`bind_to`](Self::bind_to).
    pub fn list_disks(&mut self) -> Result<()> {
        self.write_twice(&Header { lists_disks: true, ..self.header.clone() })
    }

    fn write_twice(&mut self, next: &Header) -> Result<()> {
        self.write(next.clone())?;
        self.write(next.clone())
    }

    /// Writes the copy that is not in use, as the next in sequence.
    fn write(&mut self, next: Header) -> Result<()> {
        let sequence = self
            .header
            .sequence
            .checked_add(1)
            .ok_or_else(|| Error::new(Kind::Unsupported, "the header was changed too often to count"))?;
        let next = Header { sequence, ..next };
        let target = header_area::write(self.claim.storage(), self.in_use, &next, &self.dek)
            .context(|| self.component.to_string())?;
        self.claim.sync().context(|| self.component.to_string())?;
        self.memory.meet(Point::written(&next, &self.dek)?);
        self.older = Some(std::mem::replace(&mut self.header, next));
        self.in_use = target;
        Ok(())
    }

    /// Makes both copies hold these slots and no others.
    ///
    /// # Errors
    /// As [`update`](Self::update); then running again finishes.
    pub fn replace(&mut self, slots: Slots) -> Result<()> {
        if self.header.slots != slots {
            self.update(slots)?;
        }
        if self.is_settled() { Ok(()) } else { self.update(self.header.slots.clone()) }
    }
}

/// With the component's name in an error, and its path in the advice of one.
fn named<T>(opened: Result<T>, place: &dyn VmAccess, component: &Component) -> Result<T> {
    let with_places = |error: Error| {
        let folder = place.path();
        let path = if *component == Component::Home { folder.clone() } else { folder.join(component.path()) };
        error.with_places(&Places { vm_folder: Some(&folder), component: Some(&path), mountpoint: None })
    };
    opened.map_err(with_places).context(|| component.to_string())
}

/// Between the two DEKs of a deep rekey, headers are only that one's.
///
/// # Errors
/// `Denied` for a component in transition.
pub fn refuse_transition(header: &Header) -> Result<()> {
    match header.transition {
        None => Ok(()),
        Some(_) => Err(Error::new(
            Kind::Denied,
            "a deep rekey of it is not finished: `vmcryptfs rekey --deep VM_FOLDER` finishes it; its keys can be changed and its header saved \
             or restored after that",
        )),
    }
}

/// A header that is saved, or comes back, says what stays true: neither that a deep rekey is under way, nor that disks in the
/// clear belong to its home.
///
/// # Errors
/// `Denied` for any other.
pub fn refuse_unsettled(header: &Header) -> Result<()> {
    refuse_transition(header)?;
    match header.state {
        None | Some(StoredState::Encrypted) => Ok(()),
        Some(StoredState::Encrypting | StoredState::Decrypting | StoredState::ConvertingDisks) => Err(Error::new(
            Kind::Denied,
            "it is not wholly encrypted or decrypted: `vmcryptfs encrypt VM_FOLDER` or `vmcryptfs decrypt VM_FOLDER --all` finishes it; its header can be saved or \
             restored after that",
        )),
    }
}

/// KEKs of all slots of what is not unlocked already: each is fetched once, side by side.
pub fn fetch_keks<'f>(place: &dyn VmAccess, found: impl IntoIterator<Item = &'f FoundComponent>) -> FetchedKeks {
    let headers = found.into_iter().filter_map(FoundComponent::unverified);
    let locked = headers.filter(|header| place.known_dek(header).is_none());
    let ids = locked.flat_map(|header| header.claims().slots.key_ids().cloned());
    place.providers().fetch_all(ids)
}

/// KEKs of all slots, also of what is unlocked already: to wrap new DEKs by them.
pub fn fetch_all_keks<'f>(place: &dyn VmAccess, found: impl IntoIterator<Item = &'f FoundComponent>) -> FetchedKeks {
    let headers = found.into_iter().filter_map(FoundComponent::unverified);
    let ids = headers.flat_map(|header| header.claims().slots.key_ids().cloned());
    place.providers().fetch_all(ids)
}
