//! `convert`: a home file made a disk, or a disk made a home file.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::cli::progress::{perform, perform_shown};
use crate::cli::{out, place, plan};
use crate::control::local;
use crate::error::{Error, Kind, Result};
use crate::operations::convert::{ConvertFile, PlanFile};
use crate::provider::Providers;
use crate::text::Show;
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::work::convert::{ConvertedFile, FilePlan, StoredAs};

/// Arguments of `convert`.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs convert web01/root.snap1\n  vmcryptfs convert web01/notes.img --to home-file\n\n\
    What a file is was decided when it was made, mostly by its name (`vmcryptfs disk-names`). Either form is encrypted. The \
    VM is off and its folder is not mounted. The file is replaced only when its new form was written, synced, read back and \
    compared; after an interruption, run it again. Attributes and hard links within the folder stay."
)]
pub(super) struct ConvertArgs {
    /// A file of an encrypted VM folder
    #[arg(value_name = "VM_FOLDER/FILE", value_parser = place::parser_to_change())]
    pub(super) file: PathBuf,
    /// What it becomes
    #[arg(long, value_enum, default_value_t = To::Disk)]
    to: To,
    /// Show which space is needed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum To {
    /// A disk, with a data key of its own
    Disk,
    /// A file of the home, under the home's key
    HomeFile,
}

/// Field names are part of the stable JSON output.
#[derive(Serialize)]
struct Output {
    #[serde(with = "crate::text::path")]
    names: Vec<PathBuf>,
    stored_as: &'static str,
    uuid: uuid::Uuid,
    names_outside: u64,
}

/// Of a dry run. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct Rehearsed<'a> {
    #[serde(with = "crate::text::path")]
    names: &'a Vec<PathBuf>,
    stored_as: &'static str,
    space_needed: u64,
    space_free: u64,
    done: bool,
}

fn rehearse(args: &ConvertArgs, stored_as: &'static str, found: &FilePlan) -> Result<()> {
    if args.json {
        let (space_needed, space_free) = (found.space.needed, found.space.free);
        out::json(&Rehearsed { names: &found.names, stored_as, space_needed, space_free, done: false })?;
    } else {
        println!("{} would be a {stored_as}.", args.file.shown());
        plan::print_space(found.space);
    }
    found.check()
}

pub(super) fn run(args: &ConvertArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.file)?;
    let located = Located::find(&args.file)?;
    if located.component == Component::Home {
        return Err(Error::new(Kind::Invalid, format!("{} is not a file of a VM", args.file.shown())));
    }
    place::refuse_mounted(&located.folder)?;
    local::refuse_if_served(&located.folder, "converting a file")?;
    let (to, stored_as) = match args.to {
        To::Disk => (StoredAs::Disk, "disk"),
        To::HomeFile => (StoredAs::HomeFile, "home file"),
    };
    let providers = Providers::load(config)?;
    let convert = ConvertFile { file: &args.file, located: &located, to, providers: &providers };
    if args.dry_run {
        return rehearse(args, stored_as, &perform(PlanFile(convert))?);
    }
    let converted = perform_shown(convert)?;
    let ConvertedFile { names, uuid, names_outside, .. } = converted;
    if args.json {
        return out::json(&Output { names, stored_as, uuid, names_outside });
    }
    println!("{} is a {stored_as} now.", args.file.shown());
    if names_outside > 0 {
        println!("It has {names_outside} more hard links outside of this folder, which lead to what it was.");
    }
    Ok(())
}
