//! `upgrade` and `adopt`: disks bound to their VM.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::progress::perform_shown;
use crate::cli::{out, place};
use crate::control::local;
use crate::error::{Error, Kind, Result};
use crate::operations::bind::{AdoptAll, AdoptDisk, UpgradeVm};
use crate::provider::Providers;
use crate::text::{self, Show, quoted};
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::vm::{folder, members};
use crate::work::listing::{Change, Listed, Place, Rebuild};

/// Arguments of `upgrade`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs upgrade web01\n\n\
    Each disk gets the home's UUID into its header, under the disk's key, and the home a list of its \
    disks with their names; from then on another disk in a disk's place is an error. All keys are \
    needed; the folder is not mounted. Versions before this one no longer open the VM.")]
pub(super) struct UpgradeArgs {
    /// A VM folder that an older version made
    #[arg(value_name = "VM_FOLDER", value_parser = place::parser_to_change())]
    pub(super) folder: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `adopt`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  mv db01/data.raw web01/data.raw\n  vmcryptfs adopt web01/data.raw\n  vmcryptfs adopt web01 --dry-run\n\n\
    The keys of the disk and of the home are needed; the folder is not mounted. The disk keeps its keys: `rekey` gives it \
    others. It cannot be in two VMs: for a copy that is used beside the original, `clone` the original's VM, and adopt the \
    clone's disk. With a VM folder, all disks in it are the VM's from then on, by the names that they have."
)]
pub(super) struct AdoptArgs {
    /// A disk, or a VM folder for all disks in it
    #[arg(value_name = "VM_FOLDER[/DISK]", value_parser = place::parser_to_change())]
    pub(super) disk: PathBuf,
    /// Show which disks would come to the VM's list, leave it or get other names, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Of a VM folder: take this disk out of its list although something else lies in its place, which stays as it is; repeatable
    #[arg(long = "forget-disk", value_name = "NAME")]
    forget: Vec<PathBuf>,
}

pub(super) fn upgrade(args: &UpgradeArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.folder)?;
    let located = Located::find(&args.folder)?;
    if located.component != Component::Home {
        let (path, folder) = (args.folder.shown(), quoted(&located.folder));
        let message = format!("{path} is not a VM folder, all disks of which are bound: `vmcryptfs upgrade {folder}`");
        return Err(Error::new(Kind::Invalid, message));
    }
    folder::refuse_unfinished(&args.folder)?;
    place::refuse_mounted(&args.folder)?;
    local::refuse_if_served(&args.folder, "binding its disks")?;
    let upgrade = UpgradeVm { folder: &args.folder, providers: Providers::load(config)? };
    let upgraded = perform_shown(upgrade)?;
    if args.json {
        out::json(&upgraded)?;
        return upgraded.passed_over.check();
    }
    let listed = upgraded.listed.map_or_else(|| "as before".to_owned(), |listed| listed.to_string());
    match upgraded.changed {
        true => {
            let disks = text::count(upgraded.bound.len(), "disk", "disks");
            println!("{}: {disks} bound to it, {listed} in its list.", args.folder.shown());
        }
        false => println!("{}: its disks are bound to it already.", args.folder.shown()),
    }
    upgraded.bound.iter().for_each(|disk| println!("  {}", disk.shown()));
    upgraded.passed_over.lines().for_each(|line| eprintln!("{line}"));
    upgraded.passed_over.check()
}

pub(super) fn adopt(args: &AdoptArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.disk)?;
    let located = Located::find(&args.disk)?;
    place::refuse_mounted(&located.folder)?;
    local::refuse_if_served(&located.folder, "taking in a disk")?;
    if located.component == Component::Home {
        let forget: Vec<PathBuf> = args.forget.iter().map(|disk| place::below(&args.disk, disk)).collect();
        let how = Rebuild { dry_run: args.dry_run, forget: &forget };
        let adopt = AdoptAll { folder: &located.folder, how, providers: Providers::load(config)? };
        let listed = perform_shown(adopt)?;
        print_listed(args, &listed);
        return listed.obstacle.map_or(Ok(()), Err);
    }
    if !args.forget.is_empty() {
        let message = format!("{} is a disk: --forget-disk is for a VM folder", args.disk.shown());
        return Err(Error::new(Kind::Invalid, message));
    }
    let (disk, dry_run) = (&args.disk, args.dry_run);
    let adopt = AdoptDisk { disk, located: &located, dry_run, providers: Providers::load(config)? };
    let adopted = perform_shown(adopt)?;
    let names: Vec<String> = adopted.former_names.iter().map(|name| name.shown().to_string()).collect();
    let before = match (names.is_empty(), adopted.former) {
        (false, _) => format!("called {}", names.join(", ")),
        (true, Some(former)) => format!("one of the VM {former}"),
        (true, None) => "one of no VM".to_owned(),
    };
    match args.dry_run {
        true => println!("{} ({}) would be one of this VM, by this name; it is {before}.", disk.shown(), adopted.uuid),
        false => println!("{} ({}) is one of this VM now, by this name; it was {before}.", disk.shown(), adopted.uuid),
    }
    Ok(())
}

fn print_listed(args: &AdoptArgs, listed: &Listed) {
    if let Some(error) = &listed.unread {
        eprintln!(
            "The list before cannot be read, so that which disks leave it is not known: {}.",
            members::without_remedy(error)
        );
    }
    let would = if args.dry_run { "would " } else { "" };
    listed.changes.iter().for_each(|change| println!("  {}", described(change, would)));
    let folder = args.disk.shown();
    let disks = text::count(listed.disks, "disk", "disks");
    match args.dry_run {
        true => println!("{folder}: its list would have {disks}."),
        false => println!("{folder}: its list has {disks} now."),
    }
}

fn described(Change { uuid, from, to, place }: &Change, would: &str) -> String {
    let verb = |word: &str| format!("{would}{word}{}", if would.is_empty() { "s" } else { "" });
    let names = |names: &BTreeSet<PathBuf>| {
        let names: Vec<String> = names.iter().map(|name| name.shown().to_string()).collect();
        names.join(", ")
    };
    let (old, new) = (names(from), names(to));
    match (from.is_empty(), to.is_empty()) {
        (true, _) => format!("{new} ({uuid}) {} to the list", verb("come")),
        (_, true) => {
            let why = match place {
                Place::Empty => "it is not in the folder",
                Place::Erased => "it is erased",
                Place::Taken => "something else lies there, which stays as it is",
            };
            format!("{old} ({uuid}) {} the list: {why}", verb("leave"))
        }
        (false, false) => format!("{old} ({uuid}) {} {new}", verb("become")),
    }
}
