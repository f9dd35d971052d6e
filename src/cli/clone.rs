//! `clone`: a VM folder copied under keys of its own.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::progress::perform_shown;
use crate::cli::{out, place, size};
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::key::{KeyName, ProviderName};
use crate::operations::convert::CloneVm;
use crate::provider::Providers;
use crate::sys::process;
use crate::text::{self, Show};
use crate::work::convert::CloneOptions;

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
    source: PathBuf,
    /// The new VM folder, which must not exist
    #[arg(value_name = "DST", value_parser = place::parser())]
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
    for note in &cloned.notes {
        eprintln!("Note: {}.", text::one_line(note));
    }
    let in_the_clear = match cloned.in_the_clear {
        0 => String::new(),
        number => {
            let what = text::count(number, "file or link of it is", "files and links of it are");
            format!(" {what} in the clear, or may be.")
        }
    };
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
