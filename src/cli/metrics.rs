//! `metrics`: what the processes of mounts have counted, as OpenMetrics text.

use std::path::PathBuf;
use std::thread;

use clap::Args;

use crate::cli::place;
use crate::control;
use crate::error::{Context, Result};
use crate::metrics;
use crate::text::Show;

/// Arguments of `metrics`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs metrics\n  vmcryptfs metrics /run/vms\n\n\
    Prints OpenMetrics text, which Prometheus reads: requests, bytes, errors, operations, unlocks and key fetches since the mount \
    began. `vmcryptfs mount FOLDER MOUNTPOINT --metrics unix:PATH` answers with the same text over HTTP. docs/CLI.md lists the metrics.")]
pub(super) struct MetricsArgs {
    /// A mountpoint, or the folder that is mounted [default: all mounts of this user]
    #[arg(value_name = "MOUNTPOINT")]
    mountpoint: Option<PathBuf>,
}

pub(super) fn run(args: &MetricsArgs) -> Result<()> {
    let mountpoints = match &args.mountpoint {
        Some(path) => vec![place::mount_of(path)?.0],
        None => control::own_mountpoints()?,
    };
    // At once: one that does not answer holds up none of the others.
    let answers: Vec<_> = thread::scope(|scope| {
        let ask = |mountpoint: PathBuf| scope.spawn(move || (control::metrics(&mountpoint), mountpoint));
        let asked: Vec<_> = mountpoints.into_iter().map(ask).collect();
        asked.into_iter().filter_map(|asked| asked.join().ok()).collect()
    });
    let (mut mounts, mut failure) = (Vec::new(), Ok(()));
    for (answer, mountpoint) in answers {
        match answer {
            Ok(families) => mounts.push((mountpoint, families)),
            Err(error) => failure = Err(error).context(|| format!("no metrics of {}", mountpoint.shown())),
        }
    }
    if !mounts.is_empty() || failure.is_ok() {
        print!("{}", metrics::text(mounts)?);
    }
    failure
}
