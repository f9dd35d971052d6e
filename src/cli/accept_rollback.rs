//! `accept-rollback`: components may be older than what this host has seen of them.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::progress::perform;
use crate::cli::{out, place};
use crate::error::Result;
use crate::operations::accept_rollback::{AcceptRollback, Accepted};
use crate::provider::Providers;
use crate::text::Show;

/// What to accept.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs accept-rollback web01\n  vmcryptfs accept-rollback web01/root.raw\n\n\
    A host remembers the state of each component that it opened. One that is older, as after a backup \
    was restored, can only be read, and the verbs that change it refuse it. Find out first why it is \
    older: if it was not a backup, old headers bring back keys that `rekey` took away, and after \
    `rekey --deep` a data key that others may know.")]
pub(super) struct AcceptRollbackArgs {
    /// A VM folder, with its disks, or one disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    pub(super) component: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A component that was accepted. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct Shown {
    #[serde(with = "crate::text::path")]
    path: PathBuf,
    kind: &'static str,
    uuid: uuid::Uuid,
    result: String,
}

pub(super) fn run(args: &AcceptRollbackArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.component)?;
    let providers = Providers::load(config)?;
    let accept = AcceptRollback { path: &args.component, providers: &providers };
    let accepted = perform(accept)?;
    let shown = |accepted: &Accepted| Shown {
        path: place::whole(&args.component, accepted.component.path()),
        kind: accepted.component.kind().word(),
        uuid: accepted.uuid,
        result: accepted.what.clone(),
    };
    let shown: Vec<Shown> = accepted.iter().map(shown).collect();
    if args.json {
        return out::json(&shown);
    }
    for accepted in &shown {
        println!("Accepted {}: {}.", accepted.path.shown(), accepted.result);
    }
    if shown.is_empty() {
        println!("{} has not gone back: nothing was to be accepted.", args.component.shown());
    }
    Ok(())
}
