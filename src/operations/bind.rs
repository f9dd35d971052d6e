//! Disks that are bound to their VM.

use std::path::Path;

use crate::error::Result;
use crate::event::EventName;
use crate::gate::{Object, Operation, Trail};
use crate::operations::manifest::{Meaning, keeping_manifest};
use crate::progress::{Looking, OnProgress};
use crate::provider::Providers;
use crate::text;
use crate::vm::access::{Located, OfflineVm, VmAccess};
use crate::work::bind::{self, Adopted, Upgraded};

/// Binds all disks of a VM to it.
pub struct UpgradeVm<'a> {
    /// The VM folder.
    pub folder: &'a Path,
    /// Where keys come from.
    pub providers: Providers,
}

impl Operation for UpgradeVm<'_> {
    const NAME: EventName = EventName::Upgrade;
    type Outcome = Upgraded;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Upgraded> {
        let vm = OfflineVm::open(self.folder, self.providers)?;
        let looking = Looking::new(on_progress);
        let go_on = || looking.tell();
        let mut upgraded = bind::upgrade(&vm, &go_on)?;
        upgraded.listed = bind::make_list(&vm, false, &go_on)?;
        upgraded.changed |= upgraded.listed.is_some();
        trail.event().uuid(upgraded.uuid);
        Ok(upgraded)
    }
}

/// Rebuilds the list of a VM's disks from those in its folder.
pub struct AdoptAll<'a> {
    /// The VM folder.
    pub folder: &'a Path,
    /// Where keys come from.
    pub providers: Providers,
}

impl Operation for AdoptAll<'_> {
    const NAME: EventName = EventName::Adopt;
    type Outcome = usize;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<usize> {
        let looking = Looking::new(on_progress);
        let vm = OfflineVm::open(self.folder, self.providers)?;
        let listed = bind::make_list(&vm, true, &|| looking.tell())?.unwrap_or_default();
        trail.event().reason(format!("{} as they lie there", text::count(listed, "disk", "disks")));
        Ok(listed)
    }
}

/// Takes a disk into the VM in whose folder it lies.
pub struct AdoptDisk<'a> {
    /// As it was named.
    pub disk: &'a Path,
    /// Where it lies.
    pub located: &'a Located,
    /// Where keys come from.
    pub providers: Providers,
}

impl Operation for AdoptDisk<'_> {
    const NAME: EventName = EventName::Adopt;
    type Outcome = Adopted;

    fn object(&self) -> Object {
        Object::Disk(self.disk.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Adopted> {
        let Located { folder, component } = self.located;
        let vm = OfflineVm::open(folder, self.providers)?;
        let looking = Looking::new(on_progress);
        let adopt = || bind::adopt(&vm, component, &|| looking.tell());
        let adopted = keeping_manifest(folder, &vm.providers(), Meaning::Accepts(component.path()), adopt)?;
        let former = adopted.former.map_or_else(|| "of no VM".to_owned(), |former| format!("of the VM {former}"));
        trail.event().uuid(adopted.uuid).key(&adopted.key_id).reason(former);
        Ok(adopted)
    }
}
