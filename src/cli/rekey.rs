//! `rekey`: a new key for a VM folder.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::progress::Shown;
use crate::cli::{place, table};
use crate::control::tasks;
use crate::control::work::Work;
use crate::error::{Context, Result};
use crate::key::KeyName;
use crate::sys::process;
use crate::vm::rekey::{Rekey, Rekeyed, RekeyedComponent};

/// What to rekey.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs rekey web01\n  vmcryptfs rekey web01 --provider kms2\n  \
    vmcryptfs rekey web01 --disk data.raw\n\n\
    The provider makes a new key, and the data keys of the home and of all disks are wrapped by it, snapshots included.\n\
    Data stay as they are, so it takes no longer for large disks, and guests may run. What was wrapped by the former key\n\
    is destroyed in all headers; other slots (`vmcryptfs key list`) stay. After an interruption, run it again.")]
pub(super) struct RekeyArgs {
    /// Folder of the VM
    #[arg(value_name = "VM_FOLDER")]
    folder: PathBuf,
    /// Only this disk, given by its path in the folder; may be repeated
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<PathBuf>,
    /// Provider of the new key [default: that of the present key]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RekeyArgs, config: &Path) -> Result<()> {
    // Every component stays open until all are done.
    process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    let task = Rekey { disks: args.disks.clone(), provider: args.provider.clone() };
    let mut shown = Shown::new()?;
    let rekeyed: Rekeyed = place::work(
        &args.folder,
        config,
        |folder| Work::Rekey { folder, task: task.clone() },
        |place, _, on_progress| tasks::rekey(place, &task, on_progress),
        &mut |progress| shown.advanced(progress),
    )?;
    drop(shown);
    print(args, &rekeyed);
    Ok(())
}

fn print(args: &RekeyArgs, rekeyed: &Rekeyed) {
    if args.json {
        println!("{}", serde_json::json!(rekeyed));
        return;
    }
    let row = |component: &RekeyedComponent| {
        let path = args.folder.join(&component.path).display().to_string();
        let former = component.former_key.as_ref().map_or_else(|| "-".to_owned(), KeyName::to_string);
        [path.trim_end_matches('/').to_owned(), component.kind.clone(), former]
    };
    table::print(["COMPONENT", "KIND", "FORMER KEY"], &rekeyed.components.iter().map(row).collect::<Vec<_>>());
    let done = if rekeyed.resumed { "Finished the rekey that was begun before. " } else { "" };
    println!("{done}New key: {}", rekeyed.key);
}
