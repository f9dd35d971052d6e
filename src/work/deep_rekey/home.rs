//! Deep rekey of a home: its header, and then everything that is sealed under its DEK.

use std::fs::File;

use uuid::Uuid;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header, TRANSITION_ID_LEN, Transition, TransitionId};
use crate::key::{Dek, KeyId};
use crate::progress::{GoOn, Looking, OnProgress, to_the_end};
use crate::seen::Point;
use crate::storage::claims::FileLocks;
use crate::store::header_area;
use crate::store::home_file::HomeKeys;
use crate::vm::access::{Claimed, VmAccess};
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::keyring::{self, FetchedKeks};
use crate::vm::manifest::{Expected, HomeTree, Purpose};
use crate::vm::members;
use crate::vm::owner::Owner;
use crate::work::convert::{refuse_unfit_home, rekey_home};
use crate::work::deep_rekey::Target;

/// A home that is to be rekeyed.
pub(super) struct HomeWork<'w> {
    place: &'w dyn VmAccess,
    claim: Box<dyn Claimed + 'w>,
    /// That of the slots.
    dek: Dek,
    in_use: usize,
    header: Header,
}

impl<'w> HomeWork<'w> {
    /// # Errors
    /// `Busy` while a mount of any process or host uses the home, or those of [`VmAccess::claim_exclusive`] and of unlocking.
    pub(super) fn open(place: &'w dyn VmAccess, keks: &FetchedKeks, go_on: &GoOn<'_>) -> Result<Self> {
        if place.folder_if_unused().is_none() {
            return Err(Error::new(
                Kind::Busy,
                "its files cannot be re-encrypted while the VM folder is mounted: unmount it, or choose disks (--disk)",
            ));
        }
        // A process with the old DEK in memory could seal more under it, which nothing opens once it is gone.
        let claim = place.claim_exclusive(&Component::Home, go_on)?;
        let stored = header_area::load(claim.storage(), ComponentKind::Home)?;
        let dek = keyring::unlock(&stored.header, keks)?;
        let in_use = stored.in_use;
        let header = stored.header.clone().verify(&dek)?;
        HomeState::Encrypted.refuse_unfinished(&header)?;
        place.memory().meet(Point::of(&stored.header, &dek)?).allow_changes()?;
        if let (None, Some(folder)) = (&header.transition, place.folder_if_unused()) {
            Owner::of(folder, (&header, &dek), &FileLocks, place.memory())?.allow_changes()?;
        }
        Ok(Self { place, claim, dek, in_use, header })
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.header.uuid
    }

    /// Refuses a home that could be begun, and not be finished. Returns the bytes that it takes beyond what is taken now. One that was
    /// begun to get the key `begun` finishes as far as it can.
    pub(super) fn refuse_unfit(&self, begun: Option<&KeyId>, on_progress: OnProgress<'_>) -> Result<u64> {
        if self.header.transition.is_some() || begun == Some(self.header.slots.first_key()) {
            return Ok(0);
        }
        refuse_unfit_home(self.folder()?, &HomeKeys::of(&self.header, &self.dek)?, on_progress)
    }

    /// Puts the home in transition, or finds that it is; `go_on` is asked while it is compared with its manifest. `false`: it has the new
    /// KEK and is done.
    pub(super) fn begin(&mut self, target: &Target, go_on: &GoOn<'_>) -> Result<bool> {
        if self.header.transition.is_some() {
            self.keep_manifest(Purpose::Replace, go_on)?;
            return Ok(true);
        }
        if *self.header.slots.first_key() == target.key_id {
            return Ok(false);
        }
        self.keep_manifest(Purpose::Replace, go_on)?;
        let new = random::home_dek()?;
        let mut id = TransitionId([0; TRANSITION_ID_LEN]);
        random::fill(&mut id.0)?;
        let transition = Some(Transition::new(id, &self.dek, &new)?);
        let slots = target.slots(&self.header.slots, &new)?;
        let dek_generation = self.header.next_dek_generation()?;
        self.dek = new;
        self.update(Header { dek_generation, slots, transition, ..self.header.clone() })?;
        Ok(true)
    }

    /// Re-encrypts all that is under the old DEK, and ends the transition.
    pub(super) fn finish(mut self, on_progress: OnProgress<'_>) -> Result<()> {
        let Some(transition) = self.header.transition.clone() else { return Ok(()) };
        if transition.old_dek(&self.dek)?.is_some() {
            // Both copies must know the old DEK before anything is under the new one: a crash may have left one that does not.
            self.update(self.header.clone())?;
            members::reseal(self.folder()?, &self.header, &self.dek, self.place.memory())?;
            rekey_home(self.folder()?, (&self.header, &self.dek), self.expected()?.as_ref(), &mut *on_progress)?;
            let looking = Looking::new(on_progress);
            self.keep_manifest(Purpose::Close, &|| looking.tell())?;
        }
        self.update(Header { transition: Some(Transition { old: None, ..transition }), ..self.header.clone() })?;
        self.update(Header { transition: None, ..self.header.clone() })
    }

    /// Compares the home with its manifest, if it has one, and seals that with what was found: before the first file is replaced, and
    /// when none is left under the old DEK, without which the former one does not open.
    fn keep_manifest(&self, purpose: Purpose, go_on: &GoOn<'_>) -> Result<()> {
        self.with_tree(go_on, |tree| if tree.is_kept() { tree.seal(purpose, &tree.prove()?) } else { Ok(()) })
            .context(|| "its manifest".into())
    }

    /// What its manifest says of the files that are replaced.
    fn expected(&self) -> Result<Option<Expected>> {
        self.with_tree(&to_the_end, |tree| tree.expected())
    }

    fn with_tree<T>(&self, go_on: &GoOn<'_>, work: impl FnOnce(&HomeTree<'_>) -> Result<T>) -> Result<T> {
        let (dir, header, memory) = (self.folder()?, &self.header, self.place.memory());
        work(&HomeTree { dir, header, keys: &HomeKeys::of(header, &self.dek)?, memory, go_on })
    }

    fn folder(&self) -> Result<&'w File> {
        self.place.folder_if_unused().ok_or_else(|| Error::new(Kind::Busy, "the VM folder is mounted"))
    }

    fn update(&mut self, header: Header) -> Result<()> {
        let sync = || self.claim.sync();
        let updated = header_area::update_both(self.claim.storage(), self.in_use, header, &self.dek, &sync);
        (self.in_use, self.header) = updated.context(|| "updating the header".into())?;
        self.place.memory().meet(Point::written(&self.header, &self.dek)?);
        Ok(())
    }
}
