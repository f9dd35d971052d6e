//! `status`: what a mount holds, and what of it is unlocked.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{out, place, size, table};
use crate::control::{self, ComponentStatus, MountStatus, Request};
use crate::error::{Error, Kind, Result};
use crate::text::{self, Show};

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
    let is_nothing = status.components.is_empty() && status.in_the_clear.is_empty() && status.headless.is_empty();
    if is_nothing && !below.as_os_str().is_empty() {
        let message = format!("{} is not a VM folder or disk", args.path.shown());
        return Err(Error::new(Kind::NotFound, message));
    }
    print(args.json, &status)
}

pub(super) fn print(json: bool, status: &MountStatus) -> Result<()> {
    if json {
        return out::json(status);
    }
    let components = &status.components;
    let rows: Vec<[String; 6]> = components.iter().map(row).collect();
    table::print(["COMPONENT", "KIND", "STATE", "SIZE", "PROVIDER", "KEY ID"], &rows);
    for locked in components.iter().filter(|component| !component.unlocked) {
        println!("\n{} is locked: {}", name(locked), locked.reason.as_deref().unwrap_or("unknown"));
    }
    for unlocked in components.iter().filter(|component| component.unlocked) {
        if let Some(last) = &unlocked.last_failure {
            println!("\n{} was locked at {}: {}", name(unlocked), last.since, last.reason);
        }
    }
    for (component, holder) in components.iter().filter_map(|component| Some((component, component.held_by.as_ref()?)))
    {
        println!("\n{}: {}", name(component), holder.text);
    }
    for (component, why) in components.iter().filter_map(|component| Some((component, component.gone_back.as_ref()?))) {
        println!("\n{} has gone back: {why}", name(component));
    }
    for (component, why) in components.iter().filter_map(|component| Some((component, component.manifest.as_ref()?))) {
        println!("\n{}: {why}", name(component));
    }
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
            "\n{name}: encrypted files, but no home header here or above, so it does not show in the mount: \
             `vmcryptfs header restore` brings a saved one back"
        );
    }
    for clear in status.in_the_clear.iter().take(MAX_CLEAR) {
        println!("\n{}: {}", clear.path.shown(), clear.what);
    }
    if let Some(more) = status.in_the_clear.len().checked_sub(MAX_CLEAR).filter(|&more| more > 0) {
        println!(
            "\n{} in the clear: `vmcryptfs check --only-clear` of the backing folder lists all",
            text::count(more, "more file or folder is", "more files and folders are")
        );
    }
    Ok(())
}

fn row(component: &ComponentStatus) -> [String; 6] {
    let key = component.keys.first();
    [
        name(component),
        component.kind.clone(),
        if component.unlocked { "unlocked" } else { "locked" }.to_owned(),
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
