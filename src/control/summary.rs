//! What of a mount cannot be used, in few words: each reason once, however many components it is the reason of.

use std::collections::BTreeMap;
use std::path::Path;

use crate::control::status::{ComponentState, ComponentStatus, UnusableStatus};
use crate::format::header::ComponentKind;
use crate::text::{self, Show};
use crate::vm::scan;

/// In the order in which they are said.
const STATES: [ComponentState; 4] =
    [ComponentState::Locked, ComponentState::Damaged, ComponentState::Unusable, ComponentState::Erased];

/// Components that cannot be used for one reason.
pub struct Group<'a> {
    /// What can be done with them.
    pub state: ComponentState,
    /// Why. What differs between several is left out, as is when they were erased: that is each one's own.
    pub reason: String,
    /// At least one.
    pub components: Vec<&'a ComponentStatus>,
}

/// The components that cannot be used, by their reasons, in the order of the first ones.
pub fn groups(components: &[ComponentStatus]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for state in STATES {
        for component in components.iter().filter(|component| component.state() == state) {
            let reason = common_reason(component);
            match groups.iter_mut().find(|group| group.state == state && group.reason == reason) {
                Some(group) => group.components.push(component),
                None => groups.push(Group { state, reason, components: vec![component] }),
            }
        }
    }
    for group in &mut groups {
        if let [only] = group.components[..]
            && group.state != ComponentState::Erased
        {
            group.reason = only.reason.clone().unwrap_or_default();
        }
    }
    groups
}

/// Each component has a key of its own, and was erased at a time of its own.
fn common_reason(component: &ComponentStatus) -> String {
    if component.state() == ComponentState::Erased {
        return "no key opens what was erased".to_owned();
    }
    without_key_ids(component, component.reason.as_deref().unwrap_or("unknown"))
}

fn without_key_ids(component: &ComponentStatus, said: &str) -> String {
    let said = said.to_owned();
    component.keys.iter().filter(|key| !key.key_id.is_empty()).fold(said, |said, key| said.replace(&key.key_id, "..."))
}

/// Why components were locked that are not any more: each reason once, with those that it was the reason of, and since when.
pub fn past_failures(components: &[ComponentStatus]) -> Vec<(String, Vec<(&ComponentStatus, &str)>)> {
    let mut failures: Vec<(String, Vec<(&ComponentStatus, &str)>)> = Vec::new();
    for component in components.iter().filter(|component| component.unlocked) {
        let Some(last) = &component.last_failure else { continue };
        let reason = without_key_ids(component, &last.reason);
        match failures.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, failed)) => failed.push((component, &last.since)),
            None => failures.push((reason, vec![(component, &last.since)])),
        }
    }
    failures
}

/// Puts paths into advice: those that the path of a component of the mount says, if it is about one.
pub type Advised<'a> = &'a dyn Fn(Option<&Path>, &str) -> String;

/// The path of a group's component, if it has one only.
pub fn only<'a>(components: &[&'a ComponentStatus]) -> Option<&'a Path> {
    if let [only] = components { Some(&only.path) } else { None }
}

/// One line on the components that no key opens now, and how many they are of all: for each state the first reason.
pub fn locked(components: &[ComponentStatus], advised: Advised<'_>) -> Option<String> {
    let groups = groups(components);
    let mut said = String::new();
    for state in STATES.into_iter().filter(|state| *state != ComponentState::Unusable) {
        let of_state: Vec<&Group<'_>> = groups.iter().filter(|group| group.state == state).collect();
        let Some(first) = of_state.first() else { continue };
        let number: usize = of_state.iter().map(|group| group.components.len()).sum();
        let others = number - first.components.len();
        let of_all = match said.is_empty() {
            true => format!(" of {}", text::count(components.len(), "component", "components")),
            false => String::new(),
        };
        let separator = if said.is_empty() { "" } else { "; " };
        let are = if number == 1 { "is" } else { "are" };
        let more = if others > 0 { format!("; {others} for other reasons") } else { String::new() };
        said += &format!(
            "{separator}{number}{of_all} {are} {}: {}{more}",
            state.word(),
            advised(only(&first.components), &first.reason)
        );
    }
    (!said.is_empty()).then_some(said)
}

/// One line on the disks that are not what their home's list says, and homes without a list: their keys do not help.
pub fn unusable(components: &[ComponentStatus], places: &[UnusableStatus], advised: Advised<'_>) -> Option<String> {
    let of_components = components.iter().filter(|component| component.state() == ComponentState::Unusable);
    let of_components = of_components.map(|one| (&one.path, one.reason.as_deref().unwrap_or_default()));
    let of_places = places.iter().filter(|place| !place.missing).map(|place| (&place.path, place.what.as_str()));
    let all: Vec<_> = of_components.chain(of_places).collect();
    let (path, why) = all.first()?;
    let name = if path.as_os_str().is_empty() { ".".to_owned() } else { path.shown().to_string() };
    Some(format!("not usable: {name}: {}{}", advised(Some(path), why), more(all.len())))
}

/// A line on each set of VM folders that are copies of one VM.
pub fn copies(components: &[ComponentStatus]) -> Vec<String> {
    let mut homes: BTreeMap<uuid::Uuid, Vec<&Path>> = BTreeMap::new();
    for home in components.iter().filter(|component| component.kind == ComponentKind::Home.word()) {
        if let Some(uuid) = home.uuid {
            homes.entry(uuid).or_default().push(&home.path);
        }
    }
    let copied = homes.into_iter().filter(|(_, folders)| folders.len() > 1);
    copied.map(|(uuid, folders)| scan::describe_copies(uuid, &folders)).collect()
}

/// One line on the components of which one header copy is damaged.
pub fn damaged_copies(components: &[ComponentStatus]) -> Option<String> {
    let mut damaged = components.iter().filter_map(|one| Some((one, one.damaged_copy.as_deref()?)));
    let (first, why) = damaged.next()?;
    Some(format!("{}: {why}{}", name(first), more(damaged.count() + 1)))
}

fn name(component: &ComponentStatus) -> String {
    if component.path.as_os_str().is_empty() { ".".to_owned() } else { component.path.shown().to_string() }
}

/// One line on the disks that a list has and that are nowhere.
pub fn missing(places: &[UnusableStatus], advised: Advised<'_>) -> Option<String> {
    let missing: Vec<_> = places.iter().filter(|place| place.missing).collect();
    let first = missing.first()?;
    Some(format!("missing: {}: {}{}", first.path.shown(), advised(Some(&first.path), &first.what), more(missing.len())))
}

fn more(all: usize) -> String {
    if all > 1 { format!("; and {} more", all - 1) } else { String::new() }
}
