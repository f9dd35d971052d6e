//! Operations on the keys of a VM folder's components, in the process that can reach them: a verb's, or that of the mount that serves them.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::local;
use crate::control::vm_task::VmTask;
use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::gate::{self, Object, Operation, Principal, Trail};
use crate::key::KeyName;
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::text::Show;
use crate::vm::access::{Located, OfflineVm, VmAccess};
use crate::vm::component::Component;
use crate::work::ComponentResult;
use crate::work::deep_rekey::{DeepRekey, DeepRekeyed};
use crate::work::disk_names::{ChangeDiskNames, DiskNamesNow};
use crate::work::erase::{Erase, Erased, ErasedCopy};
use crate::work::rekey::{Rekey, Rekeyed, disks_of};
use crate::work::repair::{RepairHeader, Repaired};
use crate::work::restore::{RestoreHeader, Restored};
use crate::work::slots::{AddKey, RemoveKey, SlotsChanged};

impl VmTask {
    /// Does a task on what lies at its path: in the process of the mount that serves it, or else here. An error of `on_progress`
    /// stops it at its next safe point.
    ///
    /// # Errors
    /// Those of the task; `Io` when the mount's process ends before it has answered.
    pub fn run<O: DeserializeOwned>(self, config: &Path, on_progress: OnProgress<'_>) -> Result<O> {
        // Of one component the error need not say which; of several it does.
        let is_of_one = matches!(self, Self::RestoreHeader { .. } | Self::RepairHeader { .. } | Self::Erase { .. });
        let named = is_of_one.then(|| self.at().shown().to_string());
        let of = |error: Error| match named {
            Some(name) => Err(error).context(|| name),
            None => Err(error),
        };
        let outcome = match local::serving(self.at())? {
            Some(serving) => serving.ask(self.moved(serving.below.clone()), on_progress).or_else(of)?,
            None => {
                let may_lack_home = matches!(self, Self::RestoreHeader { .. }) && self.at().is_dir();
                let located = if may_lack_home { Located::home_of(self.at()) } else { Located::find(self.at()) }?;
                let vm = OfflineVm::open(&located.folder, Providers::load(config)?)?;
                self.perform(&vm, located.component, Principal::Process, on_progress).or_else(of)?
            }
        };
        serde_json::from_value(outcome)
            .map_err(|error| Error::with_source(Kind::Invalid, "a result of another version of vmcryptfs", error))
    }

    /// Does it to a component of a VM folder, or to all of them. The outcome is that of its operation.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn perform(
        self,
        vm: &dyn VmAccess,
        component: Component,
        principal: Principal,
        on_progress: OnProgress<'_>,
    ) -> Result<serde_json::Value> {
        let on = On { vm, principal, on_progress };
        match self {
            Self::Rekey { mut task, .. } => {
                task.disks = disks_of(component, &task.disks)?;
                on.perform(task, None)
            }
            Self::DeepRekey { mut task, .. } => {
                task.disks = disks_of(component, &task.disks)?;
                on.perform(task, None)
            }
            Self::AddKey { mut task, .. } => {
                task.component = task.component.map(|_| component);
                on.perform(task.clone(), task.component)
            }
            Self::RemoveKey { mut task, .. } => {
                task.component = task.component.map(|_| component);
                on.perform(task.clone(), task.component)
            }
            Self::Erase { mut task, .. } => {
                task.component = task.component.map(|_| component);
                on.perform(task.clone(), task.component)
            }
            Self::RestoreHeader { task, .. } => {
                on.perform(RestoreHeader { component: component.clone(), ..task }, Some(component))
            }
            Self::RepairHeader { .. } => on.perform(RepairHeader { component: component.clone() }, Some(component)),
            Self::DiskNames { task, .. } => on.perform(task, None),
        }
    }
}

/// Where a task is done, and for which user.
struct On<'a> {
    vm: &'a dyn VmAccess,
    principal: Principal,
    on_progress: OnProgress<'a>,
}

impl On<'_> {
    fn perform<T: Task>(self, task: T, component: Option<Component>) -> Result<serde_json::Value> {
        let task = OnVm { vm: self.vm, task, component: component.unwrap_or(Component::Home) };
        let outcome = gate::perform(task, self.principal, self.on_progress)?;
        serde_json::to_value(outcome)
            .map_err(|error| Error::with_source(Kind::Invalid, "a result without JSON form", error))
    }
}

/// Something to do to components of a VM folder.
trait Task: Sized {
    /// The name of the operation.
    const NAME: EventName;
    /// What comes of it.
    type Outcome: Serialize;

    /// Does it, and records what is known of it and of its parts.
    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, on_progress: OnProgress<'_>) -> Result<Self::Outcome>;
}

/// A task on the components of one VM folder.
struct OnVm<'a, T> {
    vm: &'a dyn VmAccess,
    task: T,
    /// What it is done to; the home where several are meant.
    component: Component,
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
    type Outcome = ComponentResult<Restored>;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let restored = Self::run(&self, vm)?;
        let names: Vec<String> = restored.done.keys_back.iter().map(KeyName::to_string).collect();
        let back = (!names.is_empty()).then(|| format!("opens again with {}", names.join(", ")));
        let kept =
            restored.done.replaced.iter().map(|file| format!("the header that was there is saved in {}", file.shown()));
        let known: Vec<String> = back.into_iter().chain(kept).collect();
        part(vm, trail, &restored, None, (!known.is_empty()).then(|| known.join("; ")));
        Ok(restored)
    }
}

impl Task for RepairHeader {
    const NAME: EventName = EventName::HeaderRepair;
    type Outcome = ComponentResult<Repaired>;

    fn run(self, vm: &dyn VmAccess, trail: &mut Trail, _: OnProgress<'_>) -> Result<Self::Outcome> {
        let repaired = Self::run(&self, vm)?;
        part(vm, trail, &repaired, None, repaired.done.offset.map(|offset| format!("the copy at {offset}")));
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
