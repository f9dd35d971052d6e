//! Work on keys, with its events: what verbs do here, and what mounts do for them.

use std::path::Path;

use crate::error::Result;
use crate::event::{Event, EventName};
use crate::key::KeyName;
use crate::progress::OnProgress;
use crate::text::Show;
use crate::vm::access::Workplace;
use crate::work::deep_rekey::{DeepRekey, DeepRekeyed};
use crate::work::erase::{Erase, Erased};
use crate::work::rekey::{Rekey, Rekeyed};
use crate::work::repair::{RepairHeader, Repaired};
use crate::work::restore::{RestoreHeader, Restored};
use crate::work::slots::{AddKey, RemoveKey, SlotsChanged};

/// Rekeys, with an event for each component.
///
/// # Errors
/// As [`Rekey::run`].
pub fn rekey(place: &dyn Workplace, task: &Rekey, on_progress: OnProgress<'_>) -> Result<Rekeyed> {
    let rekeyed = task.run(place, on_progress);
    told(&rekeyed, EventName::RekeyShallow, place, Path::new(""), |rekeyed, tell| {
        for component in &rekeyed.components {
            let former = component.former_key.as_ref().map(|key| format!("in place of {key}"));
            tell(&component.path, Some(component.uuid), Some(&rekeyed.key), former);
        }
    });
    rekeyed
}

/// Deep-rekeys, with an event that it is begun or gone on with, since that may last for hours, and one for each component
/// that it finished.
///
/// # Errors
/// As [`DeepRekey::run`].
pub fn deep_rekey(place: &dyn Workplace, task: &DeepRekey, on_progress: OnProgress<'_>) -> Result<DeepRekeyed> {
    Event::of(EventName::RekeyDeep).component(&place.path()).reason("begun, or gone on with").done();
    let rekeyed = task.run(place, on_progress);
    told(&rekeyed, EventName::RekeyDeep, place, Path::new(""), |rekeyed, tell| {
        for component in rekeyed.components.iter().filter(|component| component.done_now) {
            tell(&component.path, Some(component.uuid), Some(&rekeyed.key), Some("finished".to_owned()));
        }
    });
    rekeyed
}

/// Adds key slots, with an event for each.
///
/// # Errors
/// As [`AddKey::run`].
pub fn add_key(place: &dyn Workplace, task: &AddKey) -> Result<SlotsChanged> {
    let changed = task.run(place);
    tell_slots(&changed, EventName::KeyAdd, place, task.component.as_deref());
    changed
}

/// Removes key slots, with an event for each.
///
/// # Errors
/// As [`RemoveKey::run`].
pub fn remove_key(place: &dyn Workplace, task: &RemoveKey) -> Result<SlotsChanged> {
    let changed = task.run(place);
    tell_slots(&changed, EventName::KeyRemove, place, task.component.as_deref());
    changed
}

/// Restores a header, with an event.
///
/// # Errors
/// As [`RestoreHeader::run`].
pub fn restore_header(place: &dyn Workplace, task: &RestoreHeader) -> Result<Restored> {
    let restored = task.run(place);
    told(&restored, EventName::HeaderRestore, place, &task.component, |restored, tell| {
        let names: Vec<String> = restored.keys_back.iter().map(KeyName::to_string).collect();
        let back = (!names.is_empty()).then(|| format!("opens again by {}", names.join(", ")));
        let kept =
            restored.replaced.iter().map(|file| format!("the header that was there is saved in {}", file.shown()));
        let known: Vec<String> = back.into_iter().chain(kept).collect();
        tell(&task.component, Some(restored.uuid), None, (!known.is_empty()).then(|| known.join("; ")));
    });
    restored
}

/// Mends a header copy, with an event.
///
/// # Errors
/// As [`RepairHeader::run`].
pub fn repair_header(place: &dyn Workplace, task: &RepairHeader) -> Result<Repaired> {
    let repaired = task.run(place);
    told(&repaired, EventName::HeaderRepair, place, &task.component, |repaired, tell| {
        tell(&task.component, Some(repaired.uuid), None, repaired.offset.map(|offset| format!("the copy at {offset}")));
    });
    repaired
}

/// Erases, with an event for each component.
///
/// # Errors
/// As [`Erase::run`].
pub fn erase(place: &dyn Workplace, task: &Erase) -> Result<Erased> {
    let erased = task.run(place);
    let component = task.component.as_deref().unwrap_or(Path::new(""));
    told(&erased, EventName::Erase, place, component, |erased, tell| {
        for component in &erased.components {
            let copy = |copy: &crate::work::erase::ErasedCopy| {
                format!("at {}: sha256 {} is now {}", copy.offset, copy.sha256_before, copy.sha256_after)
            };
            let evidence = component.copies.iter().map(copy).collect::<Vec<_>>().join(", ");
            tell(&component.path, component.uuid, component.keys.first(), Some(evidence));
        }
    });
    erased
}

fn tell_slots(changed: &Result<SlotsChanged>, operation: EventName, place: &dyn Workplace, component: Option<&Path>) {
    told(changed, operation, place, component.unwrap_or(Path::new("")), |changed, tell| {
        for component in changed.components.iter().filter(|component| component.key.is_some()) {
            tell(&component.path, Some(component.uuid), component.key.as_ref(), None);
        }
    });
}

/// Records a component's success: its path below the VM folder, its UUID if it is known, the key, and what else is to be known.
type Tell<'a> = &'a dyn Fn(&Path, Option<uuid::Uuid>, Option<&KeyName>, Option<String>);

/// Records the failure, of the component that was meant, or whatever `each` tells.
fn told<T>(
    result: &Result<T>,
    operation: EventName,
    place: &dyn Workplace,
    meant: &Path,
    each: impl FnOnce(&T, Tell<'_>),
) {
    let event = |path: &Path| {
        let mut event = Event::of(operation);
        match path.as_os_str().is_empty() {
            true => event.component(&place.path()),
            false => event.disk(&place.path().join(path)),
        };
        event
    };
    match result {
        Err(error) => event(meant).failed(error),
        Ok(result) => each(result, &|path, uuid, key, reason| {
            let mut event = event(path);
            if let Some(uuid) = uuid {
                event.uuid(uuid);
            }
            if let Some(key) = key.and_then(|key| key.to_key_id().ok()) {
                event.key(&key);
            }
            if let Some(reason) = reason {
                event.reason(reason);
            }
            event.done();
        }),
    }
}
