//! `rekey --deep`: new data keys, and all data encrypted anew.

use std::path::Path;
use std::time::{Duration, Instant};

use super::RekeyArgs;
use crate::cli::progress::Shown;
use crate::cli::{place, table};
use crate::control::tasks;
use crate::control::work::Work;
use crate::error::Result;
use crate::progress::Progress;
use crate::vm::deep_rekey::{DeepRekey, DeepRekeyed, DeepRekeyedComponent};

/// How often `--json` prints how far it is.
const JSON_LINE: Duration = Duration::from_secs(1);

pub(super) fn run(args: &RekeyArgs, config: &Path) -> Result<()> {
    let task = DeepRekey { disks: args.disks.clone(), provider: args.provider.clone(), rate: args.rate };
    let mut shown = Shown::new()?;
    let mut last_line = Instant::now();
    let rekeyed: DeepRekeyed = place::work(
        &args.folder,
        config,
        |folder| Work::DeepRekey { folder, task: task.clone() },
        |place, _, on_progress| tasks::deep_rekey(place, &task, on_progress),
        &mut |progress| {
            if args.json && last_line.elapsed() >= JSON_LINE {
                last_line = Instant::now();
                print_progress(progress);
            }
            shown.advanced(progress)
        },
    )?;
    drop(shown);
    print(args, &rekeyed);
    Ok(())
}

fn print_progress(progress: &Progress) {
    println!("{}", serde_json::json!({ "progress": progress }));
}

fn print(args: &RekeyArgs, rekeyed: &DeepRekeyed) {
    if args.json {
        println!("{}", serde_json::json!(rekeyed));
        return;
    }
    let row = |component: &DeepRekeyedComponent| {
        let path = args.folder.join(&component.path).display().to_string();
        let done = if component.done_now { "re-encrypted" } else { "was done before" };
        [path.trim_end_matches('/').to_owned(), component.kind.clone(), done.to_owned()]
    };
    table::print(["COMPONENT", "KIND", "DATA"], &rekeyed.components.iter().map(row).collect::<Vec<_>>());
    let done = if rekeyed.resumed { "Finished the deep rekey that was begun before. " } else { "" };
    println!("{done}New key: {}", rekeyed.key);
}
