//! Operations on the keys of a VM folder's components, in the process that can reach them: a verb's, or that of the mount that serves them.

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

/// A task on the components of one VM folder.
pub(super) struct OnVm<'a, T> {
    pub(super) vm: &'a dyn VmAccess,
    pub(super) task: T,
}

impl<T> OnVm<'_, T> {
    fn object_at(&self, component: Option<&Component>) -> Object {
        Object::component(&self.vm.path(), component.unwrap_or(&Component::Home).path())
    }

    /// Records that a component is done: its UUID, the key, and what else is to be known.
    fn part<D>(&self, trail: &mut Trail, of: &ComponentResult<D>, key: Option<&KeyName>, reason: Option<String>) {
        trail.part(&self.object_at(Some(&of.component)), |event| {
            of.uuid.map(|uuid| event.uuid(uuid));
            key.and_then(|key| key.to_key_id().ok()).map(|key_id| event.key(&key_id));
            reason.map(|reason| event.reason(reason));
        });
    }

    fn slots(&self, trail: &mut Trail, changed: &SlotsChanged) {
        trail.in_parts();
        for component in changed.components.iter().filter(|component| component.done.key.is_some()) {
            self.part(trail, component, component.done.key.as_ref(), None);
        }
    }
}

/// An event for each component.
impl Operation for OnVm<'_, Rekey> {
    const NAME: EventName = EventName::RekeyShallow;
    type Outcome = Rekeyed;

    fn object(&self) -> Object {
        self.object_at(None)
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Rekeyed> {
        let rekeyed = self.task.run(self.vm, on_progress)?;
        for component in &rekeyed.components {
            let former = component.done.former_key.as_ref().map(|key| format!("in place of {key}"));
            self.part(trail, component, Some(&rekeyed.key), former);
        }
        Ok(rekeyed)
    }
}

/// An event when it is started or resumed, since it may last for hours, and one for each component that it finished.
impl Operation for OnVm<'_, DeepRekey> {
    const NAME: EventName = EventName::RekeyDeep;
    type Outcome = DeepRekeyed;

    fn object(&self) -> Object {
        self.object_at(None)
    }

    fn run(self, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<DeepRekeyed> {
        trail.part(&self.object(), |event| _ = event.reason("started or resumed"));
        let rekeyed = self.task.run(self.vm, on_progress)?;
        for component in rekeyed.components.iter().filter(|component| component.done.done_now) {
            let finished = Some("finished".to_owned());
            self.part(trail, component, Some(&rekeyed.key), finished);
        }
        Ok(rekeyed)
    }
}

/// An event for each slot.
impl Operation for OnVm<'_, AddKey> {
    const NAME: EventName = EventName::KeyAdd;
    type Outcome = SlotsChanged;

    fn object(&self) -> Object {
        self.object_at(self.task.component.as_ref())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<SlotsChanged> {
        let changed = self.task.run(self.vm)?;
        self.slots(trail, &changed);
        Ok(changed)
    }
}

/// An event for each slot.
impl Operation for OnVm<'_, RemoveKey> {
    const NAME: EventName = EventName::KeyRemove;
    type Outcome = SlotsChanged;

    fn object(&self) -> Object {
        self.object_at(self.task.component.as_ref())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<SlotsChanged> {
        let changed = self.task.run(self.vm)?;
        self.slots(trail, &changed);
        Ok(changed)
    }
}

impl Operation for OnVm<'_, RestoreHeader> {
    const NAME: EventName = EventName::HeaderRestore;
    type Outcome = Restored;

    fn object(&self) -> Object {
        self.object_at(Some(&self.task.component))
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Restored> {
        let restored = self.task.run(self.vm)?;
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

impl Operation for OnVm<'_, RepairHeader> {
    const NAME: EventName = EventName::HeaderRepair;
    type Outcome = Repaired;

    fn object(&self) -> Object {
        self.object_at(Some(&self.task.component))
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Repaired> {
        let repaired = self.task.run(self.vm)?;
        trail.event().uuid(repaired.uuid);
        if let Some(offset) = repaired.offset {
            trail.event().reason(format!("the copy at {offset}"));
        }
        Ok(repaired)
    }
}

/// An event for each component, with the evidence.
impl Operation for OnVm<'_, Erase> {
    const NAME: EventName = EventName::Erase;
    type Outcome = Erased;

    fn object(&self) -> Object {
        self.object_at(self.task.component.as_ref())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Erased> {
        let erased = self.task.run(self.vm)?;
        let shown = |copy: &ErasedCopy| {
            format!("at {}: sha256 {} is now {}", copy.offset, copy.sha256_before, copy.sha256_after)
        };
        for component in &erased.components {
            let evidence = component.done.copies.iter().map(shown).collect::<Vec<_>>().join(", ");
            self.part(trail, component, component.done.keys.first(), Some(evidence));
        }
        Ok(erased)
    }
}

/// Where nothing is changed, nothing is recorded.
impl Operation for OnVm<'_, ChangeDiskNames> {
    const NAME: EventName = EventName::DiskNames;
    type Outcome = DiskNamesNow;

    fn object(&self) -> Object {
        self.object_at(None)
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<DiskNamesNow> {
        let now = self.task.run(self.vm)?;
        if now.changed {
            trail.event().uuid(now.uuid).reason(now.disk_names.join(" "));
        } else {
            trail.in_parts(); // and there was none to do
        }
        Ok(now)
    }
}
