//! `key`: which keys open a component, and changing that.

mod in_use;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::progress::perform;
use crate::cli::{out, place, table};
use crate::control::vm_task::VmTask;
use crate::error::{Error, Kind, Result};
use crate::gate::unwatched;
use crate::operations::look::{ListKeys, ListedKeys, ListedSlot};
use crate::text::{self, Show};
use crate::vm::component::Component;
use crate::work::slots::{AddKey, RemoveKey, SlotsChanged};

/// Verbs of `key`.
#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// List the keys that open a component, and their states
    List(ListArgs),
    /// Add a key that can open a component, for escrow or recovery
    Add(AddArgs),
    /// Remove a key from a component
    Remove(RemoveArgs),
    /// Find the components that a key opens, and those that would be lost without it
    InUse(in_use::InUseArgs),
}

/// Arguments of `key list`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs key list web01\n\n\
    STATE is what the provider says now. A deactivated key unlocks, but wraps nothing new.")]
pub(super) struct ListArgs {
    /// A VM folder, with its disks, or a disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser())]
    component: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `key add`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs key add web01 --all --provider escrow\n  \
    vmcryptfs key add web01/root.raw --provider kms2\n\n\
    A component has one to four keys; any one of them opens it. One VM's components share the key that is added. \
    `vmcryptfs rekey` replaces the first one and leaves the others.")]
pub(super) struct AddArgs {
    /// A VM folder (its home), or a disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    component: PathBuf,
    /// Provider of the key [default: the default provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// A key that the provider has [default: the one that it gave for this VM, else a new one]
    #[arg(long, value_name = "KEY_ID")]
    key: Option<String>,
    /// The home and all disks of the VM folder
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `key remove`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs key remove web01 --all --provider escrow\n\n\
    The wrapped data key is destroyed in both header copies. The last key is kept, and so is any key whose removal \
    would leave no key that is available now.")]
pub(super) struct RemoveArgs {
    /// A VM folder (its home), or a disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    component: PathBuf,
    /// Provider of the key
    #[arg(long, value_name = "NAME")]
    provider: String,
    /// Its key id, if the component has several keys of this provider
    #[arg(long, value_name = "KEY_ID")]
    key: Option<String>,
    /// The home and all disks of the VM folder
    #[arg(long)]
    all: bool,
    /// Remove it even if no remaining key is available now
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl KeyCommand {
    /// What it was given, unless it looks at datastores.
    pub(super) fn component(&self) -> Option<&Path> {
        match self {
            Self::List(args) => Some(&args.component),
            Self::Add(args) => Some(&args.component),
            Self::Remove(args) => Some(&args.component),
            Self::InUse(_) => None,
        }
    }
}

pub(super) fn run(command: &KeyCommand, config: &Path) -> Result<()> {
    match command {
        KeyCommand::List(args) => list(args, config),
        KeyCommand::Add(args) => add(args, config),
        KeyCommand::Remove(args) => remove(args, config),
        KeyCommand::InUse(args) => args.run(config),
    }
}

fn list(args: &ListArgs, config: &Path) -> Result<()> {
    let ListedKeys { slots, erased } = perform(ListKeys { path: &args.component, config })?;
    erased.iter().for_each(|erased| eprintln!("{erased}"));
    print_slots(args, &slots)
}

fn print_slots(args: &ListArgs, slots: &[ListedSlot]) -> Result<()> {
    if args.json {
        return out::json(&slots);
    }
    let row = |slot: &ListedSlot| {
        [
            slot.path.shown().to_string(),
            slot.kind.to_owned(),
            slot.slot.to_string(),
            slot.provider.clone(),
            slot.state.clone().unwrap_or_else(|| "UNAVAILABLE".to_owned()),
            slot.key_id.clone(),
        ]
    };
    table::print(
        ["COMPONENT", "KIND", "SLOT", "PROVIDER", "STATE", "KEY ID"],
        &slots.iter().map(row).collect::<Vec<_>>(),
    );
    let problems: BTreeSet<&String> = slots.iter().filter_map(|slot| slot.problem.as_ref()).collect();
    for problem in problems {
        println!("\n{problem}");
    }
    Ok(())
}

/// `--all` contradicts a disk.
fn refuse_all_of_disk(component: &Path, all: bool) -> Result<()> {
    match all && component.is_file() {
        false => Ok(()),
        true => Err(Error::new(
            Kind::Invalid,
            format!("{} is a disk, expected its VM folder with --all", component.shown()),
        )),
    }
}

fn add(args: &AddArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.component)?;
    refuse_all_of_disk(&args.component, args.all)?;
    let task = AddKey {
        component: (!args.all).then_some(Component::Home),
        provider: args.provider.clone(),
        key_id: args.key.clone(),
    };
    let task = VmTask::AddKey { at: args.component.clone(), task };
    let changed: SlotsChanged = task.run(config, &mut unwatched)?;
    print_changed(&args.component, args.json, &changed, "added")
}

fn remove(args: &RemoveArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.component)?;
    refuse_all_of_disk(&args.component, args.all)?;
    let task = RemoveKey {
        component: (!args.all).then_some(Component::Home),
        provider: args.provider.clone(),
        key_id: args.key.clone(),
        force: args.force,
    };
    let task = VmTask::RemoveKey { at: args.component.clone(), task };
    let changed: SlotsChanged = task.run(config, &mut unwatched)?;
    print_changed(&args.component, args.json, &changed, "removed")
}

fn print_changed(path: &Path, json: bool, changed: &SlotsChanged, done: &str) -> Result<()> {
    if json {
        out::json(changed)?;
        return changed.passed_over.check();
    }
    let slots = |number| text::count(number, "key slot", "key slots");
    for component in &changed.components {
        let name = place::shown(path, component.component.path());
        match &component.done.key {
            Some(key) => println!("{name}: {done} {key}; it has {} now", slots(component.done.slots)),
            None => println!("{name}: nothing to do; it has {}", slots(component.done.slots)),
        }
    }
    changed.passed_over.lines().for_each(|line| eprintln!("{line}"));
    changed.passed_over.check()
}
