//! Disks bound to their VM: an older version made them without the name of their home, or they come from another VM.

use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::ComponentKind;
use crate::key::KeyId;
use crate::text::Show;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::vm::scan::{self, FoundComponent};
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
}

/// A disk that was taken in.
#[derive(Debug)]
pub struct Adopted {
    /// The disk's UUID.
    pub uuid: Uuid,
    /// The home that it named before.
    pub former: Option<Uuid>,
    /// The first of the disk's keys.
    pub key_id: KeyId,
}

/// Makes each disk of a VM name its home, and then the home say that each of them does. A crash leaves a VM that opens, and another
/// run finishes. A disk that has no key in common with its home may be another VM's: it is to be adopted first.
///
/// # Errors
/// `Denied` for such a disk, before anything is changed; `Corrupt` for a disk of another VM; `NotFound` without a home; or those of
/// [`UnlockedComponent::open`].
pub fn upgrade(place: &dyn VmAccess) -> Result<Upgraded> {
    let mut found = place.components()?;
    found.retain(|component| !component.is_erased());
    scan::each_file_once(&mut found);
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
                "{} has no key in common with its home, and may be of another VM: if it is this VM's, `vmcryptfs adopt` takes it in",
                strange.component
            ),
        ));
    }
    let uuid = home.header().uuid;
    for disk in &mut disks {
        disk.bind_to(uuid)?;
    }
    let bound: Vec<PathBuf> = disks.iter().map(|disk| disk.component.path().to_path_buf()).collect();
    let is_new = !home.header().binds_disks || home.header().state.is_none();
    if is_new {
        home.bind_disks()?;
    }
    Ok(Upgraded { uuid, changed: is_new || !bound.is_empty(), bound })
}

/// Makes a disk that is another VM's, or nobody's, one of the VM in whose folder it lies. Its keys stay.
///
/// # Errors
/// `Exists` when it is that already, `Invalid` for a home, or as [`upgrade`].
pub fn adopt(place: &dyn VmAccess, disk: &Component) -> Result<Adopted> {
    if *disk == Component::Home {
        return Err(Error::new(Kind::Invalid, format!("{} is not a disk", place.path().shown())));
    }
    let found = place.components()?;
    let keks =
        fetch_keks(place, found.iter().filter(|found| [Component::Home, disk.clone()].contains(&found.component())));
    let home = UnlockedComponent::open(place, &Component::Home, &keks)?.header().uuid;
    let mut adopted = UnlockedComponent::open_of_any_vm(place, disk, &keks)?;
    let (uuid, former) = (adopted.header().uuid, adopted.header().owner);
    if former == Some(home) {
        return Err(Error::new(Kind::Exists, format!("{disk} is one of this VM already")));
    }
    let of_vm = |other: &&FoundComponent| {
        other.component() != *disk && other.unverified().is_some_and(|header| header.claims().uuid == uuid)
    };
    if let Some(twin) = found.iter().find(of_vm) {
        return Err(Error::new(
            Kind::Exists,
            format!("{disk} is a copy of {}: both have the UUID {uuid}", twin.component()),
        ));
    }
    adopted.bind_to(home).context(|| disk.to_string())?;
    Ok(Adopted { uuid, former, key_id: adopted.header().slots.first_key().clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let done = upgrade(&vm).is_ok();
            let crashed = vm.crash_images();
            for survivor in 0..crashed.iter().map(Vec::len).max().unwrap() {
                let images: Vec<_> =
                    crashed.iter().map(|images| images[survivor.min(images.len() - 1)].clone()).collect();
                for (part, image) in before.parts.iter().zip(&images) {
                    assert_eq!(before.open(part, image).unwrap().1.bytes(), part.dek.bytes(), "stopped at {stop}");
                }
                let next = before.with(images, Countdown::fault_after(i64::MAX));
                upgrade(&next).unwrap();
                assert!(is_bound(&next), "stopped at {stop}");
                assert!(!upgrade(&next).unwrap().changed);
            }
            if done {
                assert!(stop > 8 && !vm.calls.has_failed());
                break;
            }
        }
    }
}
