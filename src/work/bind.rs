//! Disks bound to their VM: an older version made them without the name of their home, or they come from another VM.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::ComponentKind;
use crate::key::KeyId;
use crate::progress::GoOn;
use crate::storage::claims::FileLocks;
use crate::text::{Show, quoted};
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::folder;
use crate::vm::owner::Owner;
use crate::vm::scan::{self, FoundComponent};
use crate::work::PassedOver;
use crate::work::listing::copy_of;
use crate::work::unlocked_component::{UnlockedComponent, fetch_keks};

/// What an upgrade bound.
#[derive(Debug, Serialize)]
pub struct Upgraded {
    /// The home's.
    pub uuid: Uuid,
    /// Disks that name their home now, below the VM folder.
    #[serde(with = "crate::text::path")]
    pub bound: Vec<PathBuf>,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Whether the home had a list of its disks.
    #[serde(skip)]
    pub has_list: bool,
    /// How many disks the list has that the home got by this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listed: Option<usize>,
    /// What of the VM folder is not bound, if it is a disk.
    #[serde(flatten)]
    pub passed_over: PassedOver,
}

/// A disk that was taken in.
#[derive(Debug)]
pub struct Adopted {
    /// The disk's UUID.
    pub uuid: Uuid,
    /// The home that it named before.
    pub former: Option<Uuid>,
    /// The names that it had in this VM.
    pub former_names: Vec<PathBuf>,
    /// The first of the disk's keys.
    pub key_id: KeyId,
}

/// Makes each disk of a VM name its home, and then the home say that each of them does. A crash leaves a VM that opens, and another
/// run finishes. A disk that has no key in common with its home may be another VM's: it is to be adopted first.
///
/// # Errors
/// `Denied` for such a disk and `Exists` for a copy of one, which no list could have, before anything is changed; that of `go_on`, which is asked at each name; `Corrupt` for a disk of another VM; `NotFound` without a home; or those of
/// [`UnlockedComponent::open`].
pub fn upgrade(place: &dyn VmAccess, go_on: &GoOn<'_>) -> Result<Upgraded> {
    let mut found = place.components(go_on)?;
    found.retain(|component| !component.is_erased());
    scan::each_file_once(&mut found);
    refuse_copies(&found)?;
    let keks = fetch_keks(place, &found);
    let mut home = UnlockedComponent::open(place, &Component::Home, &keks)?;
    let open = |component: &FoundComponent| UnlockedComponent::open(place, &component.component(), &keks);
    let disks: Result<Vec<_>> = found.iter().filter(|found| found.kind == ComponentKind::Disk).map(open).collect();
    let mut disks = disks?;
    disks.retain(|disk| disk.header().owner.is_none());
    let has_key = |key: &KeyId| home.header().slots.has(key);
    if let Some(strange) = disks.iter().find(|disk| !disk.header().slots.key_ids().any(has_key)) {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "{} has no key in common with its home, and may be of another VM: if it is this VM's, `vmcryptfs adopt {}` takes it in",
                strange.component,
                quoted(&place.path().join(strange.component.path()))
            ),
        ));
    }
    let passed_over = PassedOver::of(true, place, &keks, go_on)?;
    let uuid = home.header().uuid;
    for disk in &mut disks {
        disk.bind_to(uuid)?;
    }
    let bound: Vec<PathBuf> = disks.iter().map(|disk| disk.component.path().to_path_buf()).collect();
    let is_new = !home.header().binds_disks || home.header().state.is_none();
    if is_new {
        home.bind_disks()?;
    }
    let has_list = home.header().lists_disks;
    Ok(Upgraded { uuid, changed: is_new || !bound.is_empty(), bound, has_list, listed: None, passed_over })
}

/// Refuses two files that are the same disk, as far as headers say that are not verified.
fn refuse_copies(found: &[FoundComponent]) -> Result<()> {
    let mut known: HashMap<Uuid, &FoundComponent> = HashMap::new();
    for disk in found.iter().filter(|found| found.kind == ComponentKind::Disk) {
        let Some(uuid) = disk.unverified().map(|header| header.claims().uuid) else { continue };
        if let Some(twin) = known.insert(uuid, disk) {
            return Err(copy_of(&disk.component(), &twin.component(), uuid));
        }
    }
    Ok(())
}

/// Makes a disk that is another VM's, or nobody's, or that the VM has elsewhere, one that it has where it lies. Its keys stay.
/// All that can refuse it is looked at before anything is changed, and where it is `dry_run`, nothing is.
///
/// # Errors
/// `Exists` when it is that already, or where the disk is also elsewhere: in this VM, or in another one of the datastore; `Invalid`
/// for a home, or as [`upgrade`] and [`Owner::change`].
pub fn adopt(place: &dyn VmAccess, disk: &Component, dry_run: bool, go_on: &GoOn<'_>) -> Result<Adopted> {
    if *disk == Component::Home {
        return Err(Error::new(Kind::Invalid, format!("{} is not a disk", place.path().shown())));
    }
    scan::refuse_lost_home(&place.path())?;
    let found = place.components(go_on)?;
    let keks =
        fetch_keks(place, found.iter().filter(|found| [Component::Home, disk.clone()].contains(&found.component())));
    let home = UnlockedComponent::open(place, &Component::Home, &keks)?;
    let mut adopted = UnlockedComponent::open_of_any_vm(place, disk, &keks)?;
    let (uuid, former) = (adopted.header().uuid, adopted.header().owner);
    let folder = place.folder_if_unused().filter(|_| home.header().lists_disks);
    let owner =
        folder.map(|folder| Owner::of(folder, (home.header(), home.dek()), &FileLocks, place.memory())).transpose()?;
    let is_own = former == Some(home.header().uuid);
    let is_listed = |owner: &Owner| owner.refuse_foreign(adopted.header(), &[disk.path()]).is_ok();
    if is_own && owner.as_ref().is_none_or(is_listed) {
        return Err(Error::new(Kind::Exists, format!("{disk} is one of this VM already")));
    }
    let inode = found.iter().find(|found| found.component() == *disk).and_then(|found| found.inode);
    let same: Vec<&FoundComponent> = found.iter().filter(|found| found.is_disk(uuid)).collect();
    if let Some(twin) = same.iter().find(|other| other.component() != *disk && other.inode != inode) {
        return Err(copy_of(disk, &twin.component(), uuid));
    }
    let original = if is_own { None } else { elsewhere(&place.path(), (uuid, inode), go_on)? };
    if let Some(original) = original {
        return Err(Error::new(
            Kind::Exists,
            format!(
                "{disk} is a copy of {}, both with the UUID {uuid}, and only one of them can be used. Remove that one if this one \
                 takes its place. For a copy with a UUID and a data key of its own, clone that VM, as by `vmcryptfs clone {} NEW_FOLDER`, and adopt \
                 the clone's disk",
                original.shown(),
                quoted(&scan::folder_around(&original).unwrap_or_default())
            ),
        ));
    }
    let key_id = adopted.header().slots.first_key().clone();
    let known = owner.as_ref().filter(|_| is_own).and_then(|owner| owner.list().ok().flatten());
    let names = known.and_then(|list| Some(list.disks.get(&uuid)?.names.keys().cloned().collect()));
    let former_names = names.unwrap_or_default();
    let done = Adopted { uuid, former, former_names, key_id };
    if dry_run {
        return Ok(done);
    }
    let mut listed = owner.as_ref().map(|owner| owner.change(|_| true)).transpose()?.flatten();
    let paths: Vec<&Path> = same.iter().map(|found| found.path.as_path()).collect();
    if let Some(listed) = &mut listed {
        let next = listed.list().with_disk(adopted.header(), &paths);
        listed.announce(&next)?;
    }
    if !is_own {
        adopted.bind_to(home.header().uuid).context(|| disk.to_string())?;
    }
    if let Some(mut listed) = listed {
        let next = listed.list().with_disk(&adopted.durable_header()?, &paths);
        listed.make(next)?;
    }
    Ok(done)
}

/// Where another VM of the datastore has a file of this disk, if that can be seen. What lies deeper, or cannot be read, is not known.
///
/// # Errors
/// `Stopped` by `go_on`.
fn elsewhere(folder: &Path, (uuid, inode): (Uuid, Option<(u64, u64)>), go_on: &GoOn<'_>) -> Result<Option<PathBuf>> {
    let (Some(datastore), Some(own)) = (folder.parent(), folder.file_name()) else { return Ok(None) };
    let found = match folder::open_dir(datastore).and_then(|root| scan::scan_watched(&root, go_on)) {
        Ok(found) => found,
        Err(error) if error.kind() == Kind::Stopped => return Err(error),
        Err(_) => return Ok(None),
    };
    let others = found.into_iter().filter(|found| !found.path.starts_with(own) && found.inode != inode);
    let mut twins = others.filter(|found| found.is_disk(uuid));
    Ok(twins.next().map(|twin| datastore.join(twin.path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::to_the_end;
    use crate::storage::memory::Countdown;
    use crate::work::test_vm::TestVm;

    fn is_bound(vm: &TestVm) -> bool {
        let headers = vm.parts.iter().zip(vm.images()).map(|(part, image)| vm.open(part, &image).unwrap().0.header);
        let mut headers = headers.map(|header| header.claims().clone());
        let home = headers.next().unwrap();
        home.binds_disks && headers.all(|disk| disk.owner == Some(home.uuid))
    }

    #[test]
    fn an_upgrade_that_is_cut_off_anywhere_is_finished_by_the_next_one() {
        let before = TestVm::new(2);
        for stop in 0.. {
            let vm = before.with(before.images(), Countdown::end_after(stop));
            let done = upgrade(&vm, &to_the_end).is_ok();
            let crashed = vm.crash_images();
            for survivor in 0..crashed.iter().map(Vec::len).max().unwrap() {
                let images: Vec<_> =
                    crashed.iter().map(|images| images[survivor.min(images.len() - 1)].clone()).collect();
                for (part, image) in before.parts.iter().zip(&images) {
                    assert_eq!(before.open(part, image).unwrap().1.bytes(), part.dek.bytes(), "stopped at {stop}");
                }
                let next = before.with(images, Countdown::fault_after(i64::MAX));
                upgrade(&next, &to_the_end).unwrap();
                assert!(is_bound(&next), "stopped at {stop}");
                assert!(!upgrade(&next, &to_the_end).unwrap().changed);
            }
            if done {
                assert!(stop > 8 && !vm.calls.has_failed());
                break;
            }
        }
    }
}
