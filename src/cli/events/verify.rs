//! `events verify`: whether the event log is what was written to it.

use clap::Args;

use crate::cli::out;
use crate::cli::progress::perform;
use crate::error::Result;
use crate::event;
use crate::event::verify::Chain;
use crate::operations::events::{VerifyEvents, found};
use crate::text::{self, Show};

/// Arguments of `events verify`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs events verify\n  vmcryptfs events verify --expect 5e88...1542\n\n\
    Each event has a number and the hash of the line before it. Exit code 3 says that lines are\n\
    missing, changed or put in. A log that was cut at its end, or written again as a whole, is found\n\
    only by a hash that was noted elsewhere: the last one that this verb printed, or VMCRYPTFS_HASH of\n\
    the journal's copy. Lines of earlier versions have no link.")]
pub(super) struct VerifyArgs {
    /// The log must have an event with this hash
    #[arg(long, value_name = "HASH")]
    expect: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> Result<()> {
    let log = event::place(&event::settings()?)?;
    let verify = VerifyEvents { log: &log, expected: args.expect.as_deref() };
    let chains = perform(verify)?;
    match args.json {
        true => out::json(&chains)?,
        false => chains.iter().for_each(print),
    }
    found(&chains)
}

fn print(chain: &Chain) {
    let file = chain.file.shown();
    match (&chain.first, &chain.last) {
        (Some(first), Some(last)) => println!(
            "{file}: {} linked, {} of {} to {} of {}, hash {}",
            text::count(chain.linked, "event is", "events are"),
            first.sequence,
            first.time,
            last.sequence,
            last.time,
            last.hash
        ),
        _ => println!("{file}: no event is linked"),
    }
    if chain.unlinked > 0 {
        let lines = text::count(chain.unlinked, "line has", "lines have");
        println!("  {lines} no link: an earlier version wrote it, or it was cut off");
    }
    chain.problems.iter().for_each(|problem| println!("  {problem}"));
}
