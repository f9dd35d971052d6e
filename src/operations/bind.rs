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
use crate::work::listing::{Listed, Rebuild, make_list};

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
        upgraded.listed =
            if upgraded.has_list { None } else { Some(make_list(&vm, Rebuild::default(), &go_on)?.disks) };
        upgraded.changed |= upgraded.listed.is_some();
        trail.event().uuid(upgraded.uuid);
        Ok(upgraded)
    }
}

/// Rebuilds the list of a VM's disks from those in its folder.
pub struct AdoptAll<'a> {
    /// The VM folder.
    pub folder: &'a Path,
    /// How.
    pub how: Rebuild<'a>,
    /// Where keys come from.
    pub providers: Providers,
}

impl Operation for AdoptAll<'_> {
    const NAME: EventName = EventName::Adopt;
    type Outcome = Listed;

    fn object(&self) -> Object {
        Object::Folder(self.folder.to_path_buf())
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Listed> {
        let looking = Looking::new(on_progress);
        let vm = OfflineVm::open(self.folder, self.providers)?;
        let listed = make_list(&vm, self.how, &|| looking.tell())?;
        if self.how.dry_run {
            trail.in_parts(); // of which there are none
        }
        let disks = text::count(listed.disks, "disk", "disks");
        let changes = text::count(listed.changes.len(), "change", "changes");
        trail.event().reason(format!("{disks} as they lie there, {changes}"));
        Ok(listed)
    }
}

/// Takes a disk into the VM in whose folder it lies.
pub struct AdoptDisk<'a> {
    /// As it was named.
    pub disk: &'a Path,
    /// Where it lies.
    pub located: &'a Located,
    /// Whether it is only looked at.
    pub dry_run: bool,
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
        let adopt = |on_progress: OnProgress<'_>| {
            let looking = Looking::new(on_progress);
            bind::adopt(&vm, component, self.dry_run, &|| looking.tell())
        };
        if self.dry_run {
            trail.in_parts(); // of which there are none
            return adopt(on_progress);
        }
        let meaning = Meaning::Accepts(component.path());
        let adopted = keeping_manifest(folder, &vm.providers(), meaning, on_progress, adopt)?;
        let former = adopted.former.map_or_else(|| "of no VM".to_owned(), |former| format!("of the VM {former}"));
        trail.event().uuid(adopted.uuid).key(&adopted.key_id).reason(former);
        Ok(adopted)
    }
}
