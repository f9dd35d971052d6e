//! `status`: what a mount holds, and what of it is unlocked.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{out, place, size, table};
use crate::control::mounts;
use crate::control::summary::{self, Advised, Group};
use crate::control::{self, ClearStatus, ComponentState, ComponentStatus, MountStatus, Request};
use crate::error::{Error, Kind, Result};
use crate::store::header_area::RESTORE_HOME;
use crate::text::{self, Show, quoted};
use crate::vm::scan;

/// At most this many files and folders in the clear are named one by one.
const MAX_CLEAR: usize = 10;

/// Arguments of `status`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs status /mnt\n  vmcryptfs status /mnt/web01\n  vmcryptfs status /vms/web01/root.raw"
)]
pub(super) struct StatusArgs {
    /// A mountpoint, or a datastore, VM folder or disk by its path in a mount or in the backing folder
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &StatusArgs) -> Result<()> {
    let (mountpoint, below) = place::mount_of(&args.path)?;
    let mut status = control::ask(&mountpoint, &Request::Status)?;
    status.components.retain(|component| component.path.starts_with(&below));
    status.in_the_clear.retain(|clear| clear.path.starts_with(&below));
    status.headless.retain(|folder| folder.starts_with(&below));
    status.unusable.retain(|place| place.path.starts_with(&below));
    let others = status.in_the_clear.len() + status.headless.len() + status.unusable.len();
    let is_nothing = status.components.is_empty() && others == 0;
    if is_nothing && !below.as_os_str().is_empty() {
        let message = format!(
            "{} is not a VM folder or disk of this mount: `vmcryptfs status {}` lists them",
            args.path.shown(),
            quoted(&mountpoint)
        );
        return Err(Error::new(Kind::NotFound, message));
    }
    print(args.json, &mountpoint, &status)
}

pub(super) fn print(json: bool, mountpoint: &Path, status: &MountStatus) -> Result<()> {
    if json {
        return out::json(status);
    }
    let components = &status.components;
    let source = mounts::find(mountpoint).map(|mounted| mounted.source).unwrap_or_default();
    // A mount that another mount namespace has shows no backing folder.
    let advised = |below: Option<&Path>, text: &str| {
        scan::advised(below.map(|below| source.join(below)).as_deref(), Some(mountpoint), text)
    };
    let rows: Vec<[String; 6]> = components.iter().map(row).collect();
    table::print(["COMPONENT", "KIND", "STATE", "SIZE", "PROVIDER", "KEY ID"], &rows);
    for group in summary::groups(components) {
        print_group(&group, &advised);
    }
    for place in &status.unusable {
        println!(
            "\n{} is {}: {}",
            path(&place.path),
            if place.missing { "missing" } else { "unusable" },
            advised(Some(&place.path), &place.what)
        );
    }
    for (reason, failed) in summary::past_failures(components) {
        match failed[..] {
            [(only, since)] => println!("\n{} was locked at {since}: {reason}", name(only)),
            _ => {
                println!("\n{} were locked: {reason}", text::count(failed.len(), "component", "components"));
                failed.iter().for_each(|(component, since)| println!("  {} at {since}", name(component)));
            }
        }
    }
    print_facts(components, &advised);
    summary::copies(components).iter().for_each(|copies| println!("\n{copies}"));
    for notice in &status.notices {
        let provider = notice.provider.as_ref().map(|provider| format!("key provider {provider}: "));
        println!("\n{} {}{}", notice.time, provider.unwrap_or_default(), notice.text);
    }
    for (component, under_way) in components.iter().filter_map(|component| Some((component, component.deep_rekey?))) {
        println!("\n{}: a deep rekey is under way, {}", name(component), under_way.describe());
    }
    for folder in &status.headless {
        let name = path(folder);
        println!(
            "\n{name}: encrypted files, but no home header here or above, so it does not show in the mount: {}",
            advised(Some(folder), RESTORE_HOME)
        );
    }
    // What lies in the place of a disk was said already, and is not judged by its name once more.
    let is_said = |clear: &&ClearStatus| status.unusable.iter().any(|place| place.path == clear.path);
    let in_the_clear: Vec<&ClearStatus> = status.in_the_clear.iter().filter(|clear| !is_said(clear)).collect();
    for clear in in_the_clear.iter().take(MAX_CLEAR) {
        println!("\n{}: {}", clear.path.shown(), advised(Some(&clear.path), &clear.what));
    }
    if let Some(more) = in_the_clear.len().checked_sub(MAX_CLEAR).filter(|&more| more > 0) {
        println!(
            "\n{} in the clear: `vmcryptfs check --only-clear {}` lists all",
            text::count(more, "more file or folder is", "more files and folders are"),
            quoted(&source)
        );
    }
    Ok(())
}

/// What else is known of each component, one fact after the other.
fn print_facts(components: &[ComponentStatus], advised: Advised<'_>) {
    let facts: [fn(&ComponentStatus) -> Option<String>; 4] = [
        |component| component.held_by.as_ref().map(|holder| format!(": {}", holder.text)),
        |component| component.damaged_copy.as_ref().map(|why| format!(": {why}")),
        |component| component.gone_back.as_ref().map(|why| format!(" has gone back: {why}")),
        |component| component.manifest.as_ref().map(|why| format!(": {why}")),
    ];
    for fact in facts {
        for (component, text) in components.iter().filter_map(|component| Some((component, fact(component)?))) {
            println!("\n{}{}", name(component), advised(Some(&component.path), &text));
        }
    }
}

/// A reason once, and each component that it is the reason of.
fn print_group(Group { state, reason, components }: &Group<'_>, advised: Advised<'_>) {
    let reason = advised(summary::only(components), reason);
    if let ([only], false) = (&components[..], *state == ComponentState::Erased) {
        println!("\n{} is {}: {reason}", name(only), state.word());
        return;
    }
    let number = text::count(components.len(), "component is", "components are");
    println!("\n{number} {}: {reason}", state.word());
    for component in components {
        let when = component.reason.as_deref().filter(|_| *state == ComponentState::Erased);
        println!("  {}{}", name(component), when.map_or_else(String::new, |when| format!(": {when}")));
    }
}

fn row(component: &ComponentStatus) -> [String; 6] {
    let key = component.keys.first();
    [
        name(component),
        component.kind.clone(),
        component.state().word().to_owned(),
        component.size.map_or_else(|| "-".to_owned(), size::show),
        key.map_or_else(|| "-".to_owned(), |key| key.provider.clone()),
        key.map_or_else(|| "-".to_owned(), |key| key.key_id.clone()),
    ]
}

fn name(component: &ComponentStatus) -> String {
    path(&component.path)
}

fn path(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => ".".to_owned(),
        false => path.shown().to_string(),
    }
}
