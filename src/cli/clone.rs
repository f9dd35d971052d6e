//! `clone`: a VM folder copied under keys of its own.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::progress::{perform, perform_shown};
use crate::cli::{out, place, plan, size};
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::key::{KeyName, ProviderName};
use crate::operations::convert::{CloneVm, PlanClone};
use crate::provider::Providers;
use crate::sys::process;
use crate::text::{self, Show};
use crate::work::convert::{CloneOptions, ClonePlan};

/// Arguments of `clone`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs clone web01 web02\n  vmcryptfs clone web01 web02 --provider kms2\n  \
    vmcryptfs clone web01 web02 --same-keys\n\n\
    Home and disks get new data keys under a new key of the provider, and are re-encrypted. With --same-keys the \
    ciphertext is copied, or shared where the file system can do that: quick, but the ciphertexts show where the two \
    differ, and the key of one opens the other. Nothing may write to the source. The clone has its name only \
    when it is whole; what an interruption leaves is removed by the next attempt.")]
pub(super) struct CloneArgs {
    /// An encrypted VM folder
    #[arg(value_name = "SRC", value_parser = place::parser())]
    pub(super) source: PathBuf,
    /// The new VM folder, which must not exist
    #[arg(value_name = "DST", value_parser = place::parser_to_change())]
    destination: PathBuf,
    /// Provider of the clone's key [default: that of the source's key]
    #[arg(long, value_name = "NAME", conflicts_with = "same_keys")]
    provider: Option<String>,
    /// Keep the source's keys
    #[arg(long)]
    same_keys: bool,
    /// Leave names of disk images and links that lead to files of the source
    #[arg(long)]
    keep_references: bool,
    /// Show what would be copied, and which space is needed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was cloned. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct CloneInfo<'a> {
    #[serde(with = "crate::text::path")]
    source: &'a Path,
    #[serde(with = "crate::text::path")]
    destination: &'a Path,
    uuid: uuid::Uuid,
    key: KeyName,
    same_keys: bool,
    disks: usize,
    bytes: u64,
    in_the_clear: usize,
    notes: &'a [String],
}

pub(super) fn run(args: &CloneArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.destination)?;
    if args.source.is_file() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{} is a disk: a VM folder is cloned as a whole", args.source.shown()),
        ));
    }
    // All disks are claimed until the clone is complete.
    process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    let providers = Providers::load(config)?;
    let provider = args.provider.as_deref().map(ProviderName::new).transpose()?;
    let options = CloneOptions {
        provider,
        keep_references: args.keep_references,
        same_keys: args.same_keys,
        engine: Engine::default(),
    };
    let clone = CloneVm { source: &args.source, destination: &args.destination, options, providers: &providers };
    if args.dry_run {
        return rehearse(args, &perform(PlanClone(clone))?);
    }
    let cloned = perform_shown(clone)?;
    if args.json {
        return out::json(&CloneInfo {
            source: &args.source,
            destination: &args.destination,
            uuid: cloned.uuid,
            key: KeyName::of(&cloned.key_id),
            same_keys: args.same_keys,
            disks: cloned.disks,
            bytes: cloned.bytes,
            in_the_clear: cloned.in_the_clear,
            notes: &cloned.notes,
        });
    }
    notes(&cloned.notes);
    let in_the_clear = in_the_clear(cloned.in_the_clear);
    println!(
        "Cloned {} to {} ({}): {}, {}, key from provider {}.{in_the_clear}",
        args.source.shown(),
        args.destination.shown(),
        cloned.uuid,
        text::count(cloned.disks, "disk", "disks"),
        size::show(cloned.bytes),
        cloned.key_id.provider()
    );
    Ok(())
}

/// Of a dry run. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct Rehearsed<'a> {
    #[serde(with = "crate::text::path")]
    source: &'a Path,
    #[serde(with = "crate::text::path")]
    destination: &'a Path,
    disks: usize,
    space_needed: u64,
    space_free: u64,
    in_the_clear: usize,
    notes: &'a [String],
    done: bool,
}

fn rehearse(args: &CloneArgs, found: &ClonePlan) -> Result<()> {
    if args.json {
        out::json(&Rehearsed {
            source: &args.source,
            destination: &args.destination,
            disks: found.disks,
            space_needed: found.space.needed,
            space_free: found.space.free,
            in_the_clear: found.in_the_clear,
            notes: &found.notes,
            done: false,
        })?;
    } else {
        notes(&found.notes);
        let (disks, in_the_clear) = (text::count(found.disks, "disk", "disks"), in_the_clear(found.in_the_clear));
        println!("{} would be a clone with {disks}.{in_the_clear}", args.destination.shown());
        plan::print_space(found.space);
    }
    found.check()
}

fn notes(notes: &[String]) {
    for note in notes {
        eprintln!("Note: {}.", text::one_line(note));
    }
}

fn in_the_clear(number: usize) -> String {
    if number == 0 {
        return String::new();
    }
    let what = text::count(number, "file or link of it is", "files and links of it are");
    format!(" {what} in the clear, or may be.")
}
