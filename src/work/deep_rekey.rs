//! Deep rekey: a new KEK and new DEKs for components of a VM folder; all their data is re-encrypted.
//!
//! First every chosen component goes into transition, which is quick: from then on the new KEK opens all of them. Then one
//! after the other is re-encrypted. As long as one is in transition its header names the new KEK, so running again finds what
//! was begun, and resumes it: what is under the new KEK already, and not in transition, is done.

mod home;
mod rate_limit;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, Header, Shape, Slots};
use crate::key::{Dek, Kek, KeyId, KeyName, ProviderName};
use crate::progress::{Looking, OnProgress, Progress, Unit};
use crate::seen::{Memory, Point};
use crate::store::header_area;
use crate::text::Show;
use crate::vm::access::{OpenDisk, VmAccess};
use crate::vm::component::Component;
use crate::vm::keyring::{self, FetchedKeks, slot_for};
use crate::vm::scan::FoundComponent;
use crate::work::rekey::{choose, make_key};
use crate::work::space::Space;
use crate::work::unlocked_component::fetch_all_keks;
use crate::work::{ComponentResult, PassedOver};
use home::HomeWork;
use rate_limit::RateLimit;

/// Bytes that are re-encrypted at once where nobody waits for them, and where guests do. Measured: docs/FORMAT.md leaves the
/// choice to each step; a longer chunk needs fewer syncs, a shorter one keeps guests from their data for less long.
const CHUNK_ALONE: u64 = 16 << 20;
const CHUNK_SHARED: u64 = 1 << 20;

/// How often this host remembers the progress: what is put back of the journal is noticed but for what was done since.
const KEEP_PERIOD: Duration = Duration::from_secs(1);

/// What to rekey.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct DeepRekey {
    /// Disks, below the VM folder. None: the home and all disks.
    #[serde(with = "crate::text::path")]
    pub disks: Vec<PathBuf>,
    /// Where the new key comes from, if not from the provider of the present one.
    pub provider: Option<String>,
    /// Most bytes a second.
    pub rate: Option<u64>,
}

/// What a deep rekey did.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct DeepRekeyed {
    /// The new key.
    pub key: KeyName,
    /// Whether an earlier deep rekey had begun, and this one finished it.
    pub resumed: bool,
    /// What is under it now.
    pub components: Vec<ComponentResult<Reencrypted>>,
    /// Of a VM folder that was rekeyed as a whole: what has the keys that it had, if it is a disk.
    #[serde(flatten)]
    pub passed_over: PassedOver,
}

/// How a component got its new DEK.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Reencrypted {
    /// Whether this run had anything to do for it.
    pub done_now: bool,
}

/// The new KEK, and the KEKs of slots that stay.
struct Target {
    key_id: KeyId,
    kek: Arc<dyn Kek>,
    keks: FetchedKeks,
}

impl Target {
    /// The slots of a new DEK: the new KEK's in place of the first one, and of others under the same former key; each other
    /// one's KEK wraps the new DEK as well.
    fn slots(&self, former: &Slots, new: &Dek) -> Result<Slots> {
        let mut slots = vec![slot_for(&self.key_id, self.kek.as_ref(), new)?];
        for slot in former.beside(&self.key_id) {
            let doing = || {
                format!(
                    "the new data key for slot {id} (`vmcryptfs key remove COMPONENT --provider {}` drops a slot)",
                    slot.key_id.provider(),
                    id = slot.key_id
                )
            };
            let kek = keyring::kek_of(slot, &self.keks).context(doing)?;
            slots.push(slot_for(&slot.key_id, kek.as_ref(), new).context(doing)?);
        }
        Slots::new(slots)
    }
}

impl DeepRekey {
    /// Gives the chosen components a new KEK and new DEKs.
    ///
    /// What can be refused is refused before anything is written. After a crash, an error or a stop every component opens, and
    /// running again resumes.
    ///
    /// # Errors
    /// `NotFound` for a disk that is not there, `Busy`, `KeyUnavailable` when a provider cannot be used, `Stopped` when
    /// `on_progress` says so, `Corrupt`, or `Io`.
    pub fn run(&self, place: &dyn VmAccess, on_progress: OnProgress<'_>) -> Result<DeepRekeyed> {
        let looking = Looking::new(&mut *on_progress);
        let go_on = || looking.tell();
        let chosen = choose(&self.disks, place.components(&go_on)?)?;
        let keks = fetch_all_keks(place, &chosen);
        let passed_over = PassedOver::of(self.disks.is_empty(), place, &keks, &go_on)?;
        let mut disks = Vec::new();
        let mut home = None;
        for component in &chosen {
            match component.kind {
                ComponentKind::Disk => disks.push(DiskWork::open(place, component, &keks)?),
                ComponentKind::Home => home = Some(HomeWork::open(place, &keks, &go_on).context(|| "home".into())?),
            }
        }
        refuse_unfit(place, &chosen, home.as_ref(), &mut *on_progress)?;
        let (target, resumed) = self.target(place, &chosen, keks)?;
        let total = chosen.len() as u64;
        on_progress(&Progress { what: "rekey".to_owned(), done: 0, total, unit: Unit::Components })?;
        self.reencrypt(place, (disks, home), &target, on_progress)
            .map(|components| DeepRekeyed { key: KeyName::of(&target.key_id), resumed, components, passed_over })
            .map_err(|error| if is_out_of_space(&error) { resumes(error) } else { error })
    }

    fn reencrypt<'w>(
        &self,
        place: &'w dyn VmAccess,
        (mut disks, mut home): (Vec<DiskWork<'w>>, Option<HomeWork<'w>>),
        target: &Target,
        on_progress: OnProgress<'_>,
    ) -> Result<Vec<ComponentResult<Reencrypted>>> {
        let mut components = Vec::new();
        if let Some(home) = &mut home {
            let looking = Looking::new(&mut *on_progress);
            let done_now = home.begin(target, &|| looking.tell()).context(|| "home".into())?;
            components.push(ComponentResult::new(&Component::Home, home.uuid(), Reencrypted { done_now }));
        }
        for disk in &mut disks {
            let (uuid, done_now) = disk.begin(place, target).context(|| disk.component.to_string())?;
            components.push(ComponentResult::new(&disk.component, uuid, Reencrypted { done_now }));
        }
        place.memory().keep();
        let shared = place.folder_if_unused().is_none();
        let mut pace = RateLimit::new(self.rate, shared);
        let chunk = if shared { CHUNK_SHARED } else { CHUNK_ALONE };
        for disk in disks.iter().filter(|disk| disk.new_dek.is_some()) {
            disk.finish(place, (chunk, &mut pace), on_progress).context(|| disk.component.to_string())?;
        }
        drop(disks); // they may be used again
        if let Some(home) = home {
            home.finish(on_progress).context(|| "home".into())?;
        }
        Ok(components)
    }

    /// The KEK of a deep rekey that was begun, else a new one.
    fn target(&self, place: &dyn VmAccess, chosen: &[FoundComponent], keks: FetchedKeks) -> Result<(Target, bool)> {
        let claims = || chosen.iter().filter_map(FoundComponent::unverified).map(|header| header.claims());
        let begun = claims().find(|header| header.transition.is_some()).map(|header| &header.slots[0]);
        let leader = claims().next().ok_or_else(|| Error::new(Kind::NotFound, "no component to rekey"))?;
        let named = self.provider.as_deref().map(ProviderName::new).transpose()?;
        let present = match begun {
            Some(slot) => slot.key_id.provider().clone(),
            None => place.providers().present_name(&leader.slots[0].key_id),
        };
        let wanted = named.as_ref().unwrap_or(&present);
        if let Some(slot) = begun {
            let key_id = slot.key_id.clone();
            if key_id.provider() != wanted {
                return Err(Error::new(
                    Kind::Exists,
                    format!("a deep rekey to key {key_id} is under way: finish it first, without another provider"),
                ));
            }
            let doing = || format!("key {key_id} of the deep rekey under way");
            let kek = keyring::fetch_for(slot, &place.providers()).context(doing)?;
            return Ok((Target { key_id, kek, keks }, true));
        }
        let unusable = || format!("new key from provider {wanted}");
        let provider = place.providers().chosen_or(named.as_ref(), wanted).context(unusable)?;
        let (key_id, kek) = make_key(place, leader.uuid, provider.as_ref()).context(unusable)?;
        Ok((Target { key_id, kek, keks }, false))
    }
}

/// Bytes that the journal of a disk takes until the disk is done.
const DISK_SPACE: u64 = 4 << 20;

/// Refuses what could be begun, and not be finished, also for want of space.
fn refuse_unfit(
    place: &dyn VmAccess,
    chosen: &[FoundComponent],
    home: Option<&HomeWork<'_>>,
    on_progress: OnProgress<'_>,
) -> Result<()> {
    let claims = || chosen.iter().filter_map(FoundComponent::unverified).map(|header| header.claims());
    let begun = claims().find(|header| header.transition.is_some()).map(|header| header.slots.first_key());
    let is_new = |header: &&Header| header.transition.is_none() && Some(header.slots.first_key()) != begun;
    let disks = claims().filter(|header| header.shape != Shape::Home).filter(is_new).count() as u64;
    let of_home = home.map(|home| home.refuse_unfit(begun, on_progress).context(|| "home".into())).transpose()?;
    // The path that a mount's process knows may lead into that mount.
    let Some(dir) = place.folder_if_unused() else { return Ok(()) };
    Space::at(dir, disks * DISK_SPACE + of_home.unwrap_or(0))?.check("a deep rekey")
}

fn is_out_of_space(error: &Error) -> bool {
    matches!(error.os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

fn resumes(error: Error) -> Error {
    let message = "the deep rekey is not finished, and everything can be used. Make space, and run `vmcryptfs rekey --deep VM_FOLDER` again, which resumes it";
    Error::with_source(error.kind(), message, error)
}

/// A disk that is to be rekeyed.
struct DiskWork<'w> {
    component: Component,
    open: Box<dyn OpenDisk + 'w>,
    /// Once the disk is in transition.
    new_dek: Option<Dek>,
    memory: &'w Arc<Memory>,
}

impl<'w> DiskWork<'w> {
    fn open(place: &'w dyn VmAccess, component: &FoundComponent, keks: &FetchedKeks) -> Result<Self> {
        let component = component.component();
        let open = place.open_disk(component.path(), keks).context(|| component.to_string())?;
        Ok(Self { component, open, new_dek: None, memory: place.memory() })
    }

    /// Puts the disk in transition, or finds that it is. `false`: it has the new KEK and is done.
    /// Also the disk's UUID.
    fn begin(&mut self, place: &dyn VmAccess, target: &Target) -> Result<(Uuid, bool)> {
        let stored = header_area::load(self.open.storage(), ComponentKind::Disk)?;
        let header = stored.header.clone().verify(self.open.dek())?;
        if header.transition.is_some() {
            let dek = self.open.dek().duplicate();
            self.open.deep_rekey().resume_deep_rekey(&dek)?;
            self.memory.meet(self.point(&dek)?);
            self.new_dek = Some(dek);
            return Ok((header.uuid, true));
        }
        if *header.slots.first_key() == target.key_id {
            self.open.sync()?; // it may have been interrupted after its end, before the list of the VM's disks knew
            place.note_newer(self.component.path(), &stored.verify_least(self.open.dek())?)?;
            return Ok((header.uuid, false));
        }
        let new = random::disk_dek()?;
        let slots = target.slots(&header.slots, &new)?;
        self.open.deep_rekey().begin_deep_rekey(self.open.dek(), &new, slots)?;
        self.memory.meet(self.point(&new)?);
        place.remember_dek(&stored.header, &new);
        self.new_dek = Some(new);
        Ok((header.uuid, true))
    }

    /// How far the disk is by its header, which is durable.
    fn point(&self, dek: &Dek) -> Result<Point> {
        Point::of(&header_area::load(self.open.storage(), ComponentKind::Disk)?.header, dek)
    }

    fn finish(
        &self,
        place: &dyn VmAccess,
        (chunk, pace): (u64, &mut RateLimit),
        on_progress: OnProgress<'_>,
    ) -> Result<()> {
        let Some(dek) = &self.new_dek else { return Ok(()) };
        let what = self.component.path().shown().to_string();
        let chunk = pace.chunk(chunk);
        let mut stopped = None;
        let there = self.point(dek)?;
        let (mut reached, mut kept) = (0, Instant::now());
        let mut go_on = |progress: crate::store::disk::Progress| {
            reached = progress.done;
            if kept.elapsed() >= KEEP_PERIOD {
                self.memory.meet(there.clone().at(Some(reached)));
                self.memory.keep();
                kept = Instant::now();
            }
            let told =
                Progress { what: what.clone(), done: progress.done, total: progress.plain_len, unit: Unit::Bytes };
            stopped = on_progress(&told).and_then(|()| pace.wait(progress.done, &mut || on_progress(&told))).err();
            stopped.is_none()
        };
        let done = self.open.deep_rekey().deep_rekey(dek, chunk, &mut go_on)?;
        self.memory.meet(if done { self.point(dek)? } else { there.at(Some(reached)) });
        if done {
            let stored = header_area::load(self.open.storage(), ComponentKind::Disk)?;
            place.note_newer(self.component.path(), &stored.verify_least(dek)?)?;
        }
        match stopped {
            Some(error) if !done => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod home_tests;
#[cfg(test)]
mod tests;
