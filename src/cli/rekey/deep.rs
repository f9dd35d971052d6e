//! `rekey --deep`: new data keys, and all data re-encrypted.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{RekeyArgs, disks};
use crate::cli::progress::Shown;
use crate::cli::{out, place, table};
use crate::control::vm_task::VmTask;
use crate::error::Result;
use crate::progress::Progress;
use crate::work::ComponentResult;
use crate::work::deep_rekey::{DeepRekey, DeepRekeyed, Reencrypted};

/// How often `--json` prints the progress.
const JSON_LINE: Duration = Duration::from_secs(1);

pub(super) fn run(args: &RekeyArgs, config: &Path) -> Result<()> {
    let task = DeepRekey { disks: disks(args), provider: args.provider.clone(), rate: args.rate };
    let mut shown = Shown::new()?;
    let mut last_line = Instant::now();
    let task = VmTask::DeepRekey { folder: args.folder.clone(), task };
    let rekeyed: DeepRekeyed = task.run(config, &mut |progress| {
        if args.json && last_line.elapsed() >= JSON_LINE {
            last_line = Instant::now();
            out::json(&ProgressLine { progress })?;
        }
        shown.advanced(progress)
    })?;
    drop(shown);
    print(args, &rekeyed)
}

/// A line of JSON during the work.
#[derive(Serialize)]
struct ProgressLine<'a> {
    progress: &'a Progress,
}

fn print(args: &RekeyArgs, rekeyed: &DeepRekeyed) -> Result<()> {
    if args.json {
        out::json(rekeyed)?;
        return rekeyed.passed_over.check();
    }
    let row = |component: &ComponentResult<Reencrypted>| {
        let done = if component.done.done_now { "re-encrypted" } else { "already done" };
        [place::shown(&args.folder, component.component.path()), component.kind.word().to_owned(), done.to_owned()]
    };
    table::print(["COMPONENT", "KIND", "DATA"], &rekeyed.components.iter().map(row).collect::<Vec<_>>());
    let done = if rekeyed.resumed { "Finished the interrupted deep rekey. " } else { "" };
    println!("{done}New key: {}", rekeyed.key);
    rekeyed.passed_over.lines().for_each(|line| eprintln!("{line}"));
    rekeyed.passed_over.check()
}
