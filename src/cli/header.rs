//! `header`: saving a component's header, and putting it back.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::cli::progress::perform;
use crate::cli::{out, place};
use crate::control::vm_task::VmTask;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE};
use crate::format::saved_header::{SAVED_LEN, SavedHeader};
use crate::gate::unwatched;
use crate::key::KeyName;
use crate::operations::header::BackUpHeader;
use crate::text::Show;
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::work::ComponentResult;
use crate::work::repair::{RepairHeader, Repaired};
use crate::work::restore::{RestoreHeader, Restored};

/// Verbs of `header`.
#[derive(Subcommand)]
pub(super) enum HeaderCommand {
    /// Save a component's header in a file
    Backup(BackupArgs),
    /// Put a saved header back
    Restore(RestoreArgs),
    /// Repair a damaged header copy from the other one
    Repair(RepairArgs),
}

/// Arguments of `header backup`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs header backup web01/root.raw root.header\n\n\
    The file holds the wrapped data key and no data. With it and one of its keys the disk can be read even after \
    `vmcryptfs rekey`, `key remove` and `erase`: keep it as well as the keys, and make a new one after each of those.")]
pub(super) struct BackupArgs {
    /// A VM folder (its home), or a disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser())]
    component: PathBuf,
    /// A new file
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Arguments of `header restore`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs header restore web01/root.raw root.header\n\n\
    Refused unless forced: the header of another component or of before a deep rekey, and keys that were taken away since. \
    With --force a header of other data that is there is saved beside FILE before it is replaced. Where both header copies \
    are destroyed the VM's list of disks tells whether a header belongs to the data; of a home, or without the list, nothing does, so \
    that is left to you, with --force. \
    Exit code 7 says that it was refused, and the line before why.")]
pub(super) struct RestoreArgs {
    /// A VM folder (its home), or a disk; it must not be in use
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    component: PathBuf,
    /// A file made by `vmcryptfs header backup`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Restore it even if removed keys return, or if it cannot be checked that it belongs here
    #[arg(long)]
    force: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `header repair`.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs header repair web01/root.raw\n\n\
    A component has two copies of its header, and opens by either. `vmcryptfs check` reports a damaged one. Where both are \
    damaged, `vmcryptfs header restore` puts a saved one back.")]
pub(super) struct RepairArgs {
    /// A VM folder (its home), or a disk; it must not be in use
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    component: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl HeaderCommand {
    /// What it was given.
    pub(super) fn component(&self) -> &Path {
        match self {
            Self::Backup(args) => &args.component,
            Self::Restore(args) => &args.component,
            Self::Repair(args) => &args.component,
        }
    }
}

pub(super) fn run(command: &HeaderCommand, config: &Path) -> Result<()> {
    match command {
        HeaderCommand::Backup(args) => backup(args),
        HeaderCommand::Restore(args) => restore(args, config),
        HeaderCommand::Repair(args) => repair(args, config),
    }
}

fn backup(args: &BackupArgs) -> Result<()> {
    if args.component.is_dir() {
        Located::find(&args.component)?; // is it a VM folder?
    }
    let back_up = BackUpHeader { component: &args.component, file: &args.file };
    let uuid = perform(back_up)?;
    println!("Saved the header of {} ({uuid}) in {}.", args.component.shown(), args.file.shown());
    Ok(())
}

fn restore(args: &RestoreArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.component)?;
    let reading = || format!("reading {}", args.file.shown());
    let mut saved = Vec::new();
    let file = File::open(&args.file).context(reading)?;
    file.take(SAVED_LEN as u64 + 1).read_to_end(&mut saved).context(reading)?;
    let kind = SavedHeader::decode(&saved).context(reading)?.header.claims().shape.kind();
    let named = if args.component.is_dir() { ComponentKind::Home } else { ComponentKind::Disk };
    if kind != named && args.component.file_name() != Some(HOME_FILE.as_ref()) {
        return Err(Error::new(
            Kind::Denied,
            format!(
                "{} holds the header of a {}, but {} is a {}",
                args.file.shown(),
                kind.word(),
                args.component.shown(),
                if named == ComponentKind::Home { "folder" } else { "file" }
            ),
        ));
    }
    let replaced = std::path::absolute(&args.file).context(|| format!("finding {}", args.file.shown()))?;
    let task = RestoreHeader { component: Component::Home, saved, force: args.force, replaced };
    let task = VmTask::RestoreHeader { at: args.component.clone(), task };
    let restored: ComponentResult<Restored> = task.run(config, &mut unwatched)?;
    print(args, &restored)
}

fn print(args: &RestoreArgs, of: &ComponentResult<Restored>) -> Result<()> {
    if args.json {
        return out::json(of);
    }
    let (component, uuid, restored) = (args.component.shown(), of.shown_uuid(), &of.done);
    match restored.changed {
        true => println!("Restored the header of {component} ({uuid})."),
        false => println!("The header of {component} ({uuid}) is the saved one already."),
    }
    let list = |keys: &[KeyName]| keys.iter().map(KeyName::to_string).collect::<Vec<_>>().join(", ");
    if !restored.keys_back.is_empty() {
        println!("Keys that open it again: {}", list(&restored.keys_back));
    }
    if !restored.keys_gone.is_empty() {
        println!("Keys that no longer open it: {}", list(&restored.keys_gone));
    }
    for file in &restored.replaced {
        println!("The header that was there is of other data; it is saved in {}.", file.shown());
    }
    if let Some(reason) = &restored.unverified {
        println!("Not verified, since its key is unavailable: {reason}");
    }
    if let Some(reason) = &restored.list_not_lowered {
        println!(
            "The VM's list of disks may still have a newer header ({reason}): `vmcryptfs accept-rollback {component}` accepts this one."
        );
    }
    Ok(())
}

fn repair(args: &RepairArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.component)?;
    let task = RepairHeader { component: Component::Home };
    let task = VmTask::RepairHeader { at: args.component.clone(), task };
    let of: ComponentResult<Repaired> = task.run(config, &mut unwatched)?;
    if args.json {
        return out::json(&of);
    }
    let (name, uuid, repaired) = (args.component.shown(), of.shown_uuid(), &of.done);
    match (&repaired.damage, repaired.offset) {
        (Some(damage), Some(offset)) => {
            println!(
                "The header copy at byte {offset} of {name} ({uuid}) is repaired from the other copy. It was damaged: {damage}."
            );
        }
        _ => println!("Both header copies of {name} ({uuid}) are intact already."),
    }
    if let Some(reason) = &repaired.unverified {
        println!("The other copy was not verified, since its key is unavailable: {reason}");
    }
    Ok(())
}
