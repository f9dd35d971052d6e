//! `disk-names`: which new files of a VM become disks.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{out, place};
use crate::control::vm_task::VmTask;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::HOME_FILE;
use crate::gate::unwatched;
use crate::text::Show;
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::work::disk_names::{ChangeDiskNames, DiskNamesNow};

/// Arguments of `disk-names`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs disk-names web01\n  vmcryptfs disk-names web01 --add 'root.snap*' --add 'vm#'\n  \
    vmcryptfs disk-names web01 --set '*'\n\n\
    In a pattern, * is any text of at least one character and # a digit; letters match in either case. A file that exists \
    stays what it is: `vmcryptfs convert` makes it a disk. A mounted VM uses the new list at once."
)]
pub(super) struct DiskNamesArgs {
    /// VM folder
    #[arg(value_name = "VM_FOLDER", value_parser = place::parser_to_change())]
    pub(super) folder: PathBuf,
    /// Replace the list; repeatable
    #[arg(long, value_name = "PATTERN", conflicts_with = "usual")]
    set: Vec<String>,
    /// Add a pattern; repeatable
    #[arg(long, value_name = "PATTERN")]
    add: Vec<String>,
    /// Remove a pattern; repeatable
    #[arg(long, value_name = "PATTERN")]
    remove: Vec<String>,
    /// Go back to the usual list
    #[arg(long)]
    usual: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DiskNamesArgs, config: &Path) -> Result<()> {
    let changes = args.usual || [&args.set, &args.add, &args.remove].iter().any(|patterns| !patterns.is_empty());
    if changes {
        place::refuse_read_only(&args.folder)?;
    }
    let located = Located::find(&place::backing(args.folder.clone()))?;
    if located.component != Component::Home {
        let (file, folder) = (args.folder.shown(), located.folder.shown());
        let message = match located.folder.join(HOME_FILE).exists() {
            true => format!("{file} is a file, expected its VM folder, {folder}, which has the list"),
            false => format!("{file} is a file in no encrypted VM folder, expected a VM folder"),
        };
        return Err(Error::new(Kind::Invalid, message));
    }
    let set = (args.usual || !args.set.is_empty()).then(|| args.set.clone());
    let task = ChangeDiskNames { set, add: args.add.clone(), remove: args.remove.clone() };
    let task = VmTask::DiskNames { folder: located.folder, task };
    let now: DiskNamesNow = task.run(config, &mut unwatched).context(|| args.folder.shown().to_string())?;
    if args.json {
        return out::json(&now);
    }
    now.disk_names.iter().for_each(|pattern| println!("{pattern}"));
    Ok(())
}
