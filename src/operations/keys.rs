//! Operations on the keys of a VM folder's components, in the process that can reach them: a verb's, or that of the mount that serves them.

use serde::Serialize;

use crate::error::Result;
use crate::event::EventName;
use crate::gate::{Object, Operation, Trail};
use crate::key::KeyName;
use crate::progress::OnProgress;
use crate::text::Show;
use crate::vm::access::VmAccess;
use crate::vm::component::Component;
use crate::work::ComponentResult;
use crate::work::deep_rekey::{DeepRekey, DeepRekeyed};
use crate::work::disk_names::{ChangeDiskNames, DiskNamesNow};
use crate::work::erase::{Erase, Erased, ErasedCopy};
use crate::work::rekey::{Rekey, Rekeyed};
use crate::work::repair::{RepairHeader, Repaired};
use crate::work::restore::{RestoreHeader, Restored};
use crate::work::slots::{AddKey, RemoveKey, SlotsChanged};

/// Something to do to components of a VM folder.
pub(super) trait Task: Sized {
    /// The name of the operation.
    const NAME: EventName;
    /// What comes of it.
    type Outcome: Serialize;

    /// Does it, and records what is known of it and of its parts.
    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Self::Outcome>;
}

/// A task on the components of one VM folder.
pub(super) struct OnVm<'a, T> {
    pub(super) vm: &'a dyn VmAccess,
    pub(super) task: T,
    /// What it is done to; the home where several are meant.
    pub(super) component: Component,
}

impl<T: Task> Operation for OnVm<'_, T> {
    const NAME: EventName = T::NAME;
    type Outcome = T::Outcome;

    fn object(&self) -> Object {
        object(self.vm, &self.component)
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<T::Outcome> {
        self.task.run(self.vm, trail, on_progress)
    }
}

fn object(vm: &dyn VmAccess, component: &Component) -> Object {
    Object::component(&vm.path(), component.path())
}

/// Records that a component is done: its UUID, the key, and what else is to be known.
fn part<D>(
    vm: &dyn VmAccess,
    trail: &mut Trail,
    of: &ComponentResult<D>,
    key: Option<&KeyName>,
    reason: Option<String>,
) {
    trail.part(&object(vm, &of.component), |event| {
        of.uuid.map(|uuid| event.uuid(uuid));
        key.and_then(|key| key.to_key_id().ok()).map(|key_id| event.key(&key_id));
        reason.map(|reason| event.reason(reason));
    });
}

/// An event for each component.
impl Task for Rekey {
    const NAME: EventName = EventName::RekeyShallow;
    type Outcome = Rekeyed;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Rekeyed> {
        let rekeyed = Self::run(&self, vm, on_progress)?;
        for component in &rekeyed.components {
            let former = component.done.former_key.as_ref().map(|key| format!("in place of {key}"));
            part(vm, trail, component, Some(&rekeyed.key), former);
        }
        Ok(rekeyed)
    }
}

/// An event when it is started or resumed, since it may last for hours, and one for each component that it finished.
impl Task for DeepRekey {
    const NAME: EventName = EventName::RekeyDeep;
    type Outcome = DeepRekeyed;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<DeepRekeyed> {
        trail.part(&object(vm, &Component::Home), |event| _ = event.reason("started or resumed"));
        let rekeyed = Self::run(&self, vm, on_progress)?;
        for component in rekeyed.components.iter().filter(|component| component.done.done_now) {
            part(vm, trail, component, Some(&rekeyed.key), Some("finished".to_owned()));
        }
        Ok(rekeyed)
    }
}

impl Task for AddKey {
    const NAME: EventName = EventName::KeyAdd;
    type Outcome = SlotsChanged;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<SlotsChanged> {
        Ok(each_slot(vm, trail, Self::run(&self, vm)?))
    }
}

impl Task for RemoveKey {
    const NAME: EventName = EventName::KeyRemove;
    type Outcome = SlotsChanged;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<SlotsChanged> {
        Ok(each_slot(vm, trail, Self::run(&self, vm)?))
    }
}

/// Records each slot that is another.
fn each_slot(vm: &dyn VmAccess, trail: &mut Trail, changed: SlotsChanged) -> SlotsChanged {
    trail.in_parts();
    for component in changed.components.iter().filter(|component| component.done.key.is_some()) {
        part(vm, trail, component, component.done.key.as_ref(), None);
    }
    changed
}

impl Task for RestoreHeader {
    const NAME: EventName = EventName::HeaderRestore;
    type Outcome = Restored;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<Restored> {
        let restored = Self::run(&self, vm)?;
        let names: Vec<String> = restored.keys_back.iter().map(KeyName::to_string).collect();
        let back = (!names.is_empty()).then(|| format!("opens again with {}", names.join(", ")));
        let kept =
            restored.replaced.iter().map(|file| format!("the header that was there is saved in {}", file.shown()));
        let known: Vec<String> = back.into_iter().chain(kept).collect();
        trail.event().uuid(restored.uuid);
        if !known.is_empty() {
            trail.event().reason(known.join("; "));
        }
        Ok(restored)
    }
}

impl Task for RepairHeader {
    const NAME: EventName = EventName::HeaderRepair;
    type Outcome = Repaired;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<Repaired> {
        let repaired = Self::run(&self, vm)?;
        trail.event().uuid(repaired.uuid);
        if let Some(offset) = repaired.offset {
            trail.event().reason(format!("the copy at {offset}"));
        }
        Ok(repaired)
    }
}

/// An event for each component, with the evidence.
impl Task for Erase {
    const NAME: EventName = EventName::Erase;
    type Outcome = Erased;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<Erased> {
        let erased = Self::run(&self, vm)?;
        let shown = |copy: &ErasedCopy| {
            format!("at {}: sha256 {} is now {}", copy.offset, copy.sha256_before, copy.sha256_after)
        };
        for component in &erased.components {
            let evidence = component.done.copies.iter().map(shown).collect::<Vec<_>>().join(", ");
            part(vm, trail, component, component.done.keys.first(), Some(evidence));
        }
        Ok(erased)
    }
}

/// Where nothing is changed, nothing is recorded.
impl Task for ChangeDiskNames {
    const NAME: EventName = EventName::DiskNames;
    type Outcome = DiskNamesNow;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<DiskNamesNow> {
        let now = Self::run(&self, vm)?;
        if now.changed {
            trail.event().uuid(now.uuid).reason(now.disk_names.join(" "));
        } else {
            trail.in_parts(); // and there was none to do
        }
        Ok(now)
    }
}
