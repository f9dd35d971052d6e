//! `erase`: crypto-erase, with report.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::cli::{confirm, out, place, size};
use crate::error::{Context, Result};
use crate::key::KeyName;
use crate::operations::erase::{EraseReport, erase, refuse_unfinished};
use crate::sys::process;
use crate::text::{Show, quoted};
use crate::work::ComponentResult;
use crate::work::erase::Overwritten;

/// Arguments of `erase`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs erase web01/old.raw\n  vmcryptfs erase web01 --yes\n\n\
    Overwrites the whole header area, reads it back, and prints what was there and what is there now. The data remains in \
    place, unreadable. In a VM folder the home and all disks are erased; VM_FOLDER/vmcryptfs.home means only the home. \
    Nothing may be using them. Only a header backup can undo this: destroy those, too.")]
pub(super) struct EraseArgs {
    /// A VM folder or a disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    pub(super) component: PathBuf,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EraseArgs, config: &Path) -> Result<()> {
    std::fs::symlink_metadata(&args.component).context(|| format!("finding {}", args.component.shown()))?;
    place::refuse_read_only(&args.component)?;
    refuse_unfinished(&args.component)?;
    confirm(args)?;
    process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    let report = erase(&args.component, config)?;
    if args.json {
        out::json(&report)?;
    } else {
        print(args, &report);
    }
    Ok(())
}

fn confirm(args: &EraseArgs) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    let name = args.component.file_name().unwrap_or(args.component.as_os_str());
    let what = if args.component.is_dir() { "the VM and all its disks" } else { "it" };
    let doing = format!("destroy {}", args.component.shown());
    confirm::by_name(name, &doing, &format!("This destroys {what} permanently."))
}

fn print(args: &EraseArgs, report: &EraseReport) {
    for component in &report.erased.components {
        print_component(args, component);
    }
    println!("Not erased, if they exist; handle them yourself:");
    for place in &report.elsewhere {
        println!("  {place}");
    }
    let recursively = if args.component.is_dir() { " -r" } else { "" };
    println!(
        "What was erased is unreadable now, and marked so. To remove it: rm{recursively} -- {}",
        quoted(&args.component)
    );
}

fn print_component(args: &EraseArgs, component: &ComponentResult<Overwritten>) {
    println!(
        "Erased {} ({}): {} overwritten",
        place::shown(&args.component, component.component.path()),
        component.shown_uuid(),
        size::show(component.done.overwritten)
    );
    for key in component.done.keys.iter().map(KeyName::to_string) {
        println!("  wrapped by {key}");
    }
    for copy in &component.done.copies {
        println!(
            "  header copy at {}:\n    sha256 before {}\n    sha256 now    {}",
            copy.offset, copy.sha256_before, copy.sha256_after
        );
    }
}
