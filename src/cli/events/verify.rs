//! `events verify`: whether the event log is what was written to it.

use std::path::PathBuf;

use clap::Args;

use crate::cli::progress::perform;
use crate::cli::{out, place};
use crate::error::Result;
use crate::event;
use crate::event::verify::{Chain, Vouched, VouchedState};
use crate::operations::events::{VerifyEvents, found};
use crate::provider::Providers;
use crate::text::{self, Show};

/// Arguments of `events verify`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs events verify\n  vmcryptfs events verify --expect 5e88...1542\n  \
    vmcryptfs events verify --home /vms/web01\n\n\
    Each event has a number and the hash of the line before it. Exit code 3 says that lines are \
    missing, changed or put in. A log that was cut at its end, or written again as a whole, is found \
    only by a hash that was noted elsewhere: the last one that this verb printed, VMCRYPTFS_HASH of \
    the journal's copy, or what a home's manifest has sealed (--home). Lines of earlier versions have \
    no link.")]
pub(super) struct VerifyArgs {
    /// The log must have an event with this hash
    #[arg(long, value_name = "HASH")]
    expect: Option<String>,
    /// The log must have the events that the manifest of this VM's home vouches for
    #[arg(long, value_name = "VM_FOLDER", value_parser = place::parser())]
    home: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs, config: &dyn Fn() -> Result<PathBuf>) -> Result<()> {
    let providers = args.home.is_some().then(|| Providers::load(&config()?)).transpose()?;
    let home = args.home.as_deref().zip(providers.as_ref());
    let log = event::place(&event::settings()?)?;
    let verify = VerifyEvents { log: &log, expected: args.expect.as_deref(), home };
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
    for Vouched { sequence, .. } in chain.vouched.iter().filter(|vouched| vouched.state == VouchedState::There) {
        println!("  the home vouches for all up to event {sequence}");
    }
    for Vouched { sequence, .. } in chain.vouched.iter().filter(|vouched| vouched.state == VouchedState::RotatedAway) {
        println!("  the home vouches for event {sequence}, which has been rotated away: nothing is proven by that");
    }
    if chain.unlinked > 0 {
        let lines = text::count(chain.unlinked, "line has", "lines have");
        println!("  {lines} no link: an earlier version wrote it, or it was cut off");
    }
    chain.problems.iter().for_each(|problem| println!("  {problem}"));
}
