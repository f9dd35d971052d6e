//! `rekey`: a new key for a VM folder, or with `--deep` for its data as well.

mod deep;
mod old_generations;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::progress::Shown;
use crate::cli::{out, place, size, table};
use crate::control::vm_task::VmTask;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::HOME_FILE;
use crate::key::KeyName;
use crate::operations::exposed;
use crate::operations::key_hosts::{KeyHosts, describe};
use crate::sys::process;
use crate::text::{Show, quoted};
use crate::vm::in_use::KeyHost;
use crate::work::ComponentResult;
use crate::work::rekey::{Rekey, Rekeyed, Rewrapped};

/// What to rekey.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs rekey web01\n  vmcryptfs rekey web01 --provider kms2\n  \
    vmcryptfs rekey web01/data.raw\n  \
    vmcryptfs rekey --deep web01 --disk data.raw --rate 100M\n  \
    vmcryptfs rekey --old-generations /vms\n\n\
    The provider makes a new key, and the data keys of the home and of all disks are wrapped by it, snapshots included. \
    Data is unchanged, so it takes no longer for large disks, and guests may run. What was wrapped by the former key \
    is destroyed in all headers; other slots (`vmcryptfs key list`) are kept. After an interruption, run it again.\n\n\
    With --deep every sector is re-encrypted under a new data key as well, in place: for when the data key itself may be \
    known to others. Disks may be in use during it; the home's files need the folder unmounted. At any moment everything \
    opens with the new key; Ctrl-C stops, and running it again resumes.")]
pub(super) struct RekeyArgs {
    /// A VM folder, with its disks, or one disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser_to_change())]
    pub(super) folder: PathBuf,
    /// Only this disk of the VM folder, given by its path in it; repeatable
    #[arg(long = "disk", value_name = "NAME")]
    disks: Vec<PathBuf>,
    /// Provider of the new key [default: that of the present key]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// COMPONENT is a datastore: rekey every VM below it that has a key of a former primary key of its provider
    #[arg(long, conflicts_with_all = ["disks", "provider"])]
    old_generations: bool,
    /// New data keys as well: every sector of the disks, and every file of the home, is re-encrypted
    #[arg(long)]
    deep: bool,
    /// Limit --deep to this many bytes per second, such as 100M
    #[arg(long, value_name = "BYTES", requires = "deep", value_parser = size::parse)]
    rate: Option<u64>,
    /// Print JSON; with --deep also a line of progress each second
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &RekeyArgs, config: &Path) -> Result<()> {
    place::refuse_read_only(&args.folder)?;
    if args.folder.file_name().is_some_and(|name| name == HOME_FILE) {
        return Err(Error::new(Kind::Invalid, "a home cannot be rekeyed on its own, expected its VM folder or disks"));
    }
    // Every component remains open until all are done.
    process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    if args.old_generations {
        return old_generations::run(args, config);
    }
    if args.deep { deep::run(args, config) } else { shallow(args, config) }
}

fn shallow(args: &RekeyArgs, config: &Path) -> Result<()> {
    let task = Rekey { disks: disks(args), provider: args.provider.clone() };
    let mut shown = Shown::new()?;
    let exposed_to = exposed_to(&args.folder, config);
    let task = VmTask::Rekey { folder: args.folder.clone(), task };
    let rekeyed: Rekeyed = task.run(config, &mut |progress| shown.advanced(progress))?;
    drop(shown);
    say_exposed(&args.folder, exposed_to.as_deref());
    print(args, &Report { rekeyed: &rekeyed, hosts: hosts_of(&rekeyed.key, config), exposed_to })
}

/// The hosts of this host's cluster that have a key, where that is known and the cluster shares it.
fn hosts_of(key: &KeyName, config: &Path) -> Option<Vec<KeyHost>> {
    let hosts = KeyHosts::of(config).inspect_err(|error| {
        eprintln!("Which hosts of the cluster have the new key is not known: {}", error.chain());
    });
    hosts.ok().flatten()?.with_one_of(std::iter::once(key))
}

/// The compromised hosts that could read the data keys, which stay as they are: noted on this host before the keys that tell are replaced.
fn exposed_to(vm: &Path, config: &Path) -> Option<String> {
    exposed::note(config, vm).unwrap_or_else(|error| {
        eprintln!("Whether a compromised host could read the data keys is not known: {}", error.chain());
        None
    })
}

fn say_exposed(vm: &Path, hosts: Option<&str>) {
    if let Some(hosts) = hosts {
        eprintln!(
            "{}: its data keys are as they were, and {hosts} could read them before being removed: \
             `vmcryptfs rekey --deep {}` makes others",
            vm.shown(),
            quoted(vm)
        );
    }
}

/// What a rekey did, and for whom. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    rekeyed: &'a Rekeyed,
    #[serde(skip_serializing_if = "Option::is_none")]
    hosts: Option<Vec<KeyHost>>,
    /// Names of compromised hosts that could read the data keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    exposed_to: Option<String>,
}

/// The disks that are listed, below the VM folder.
fn disks(args: &RekeyArgs) -> Vec<PathBuf> {
    args.disks.iter().map(|disk| place::below(&args.folder, disk)).collect()
}

fn print(args: &RekeyArgs, report: &Report<'_>) -> Result<()> {
    if args.json {
        out::json(report)?;
        return report.rekeyed.passed_over.check();
    }
    let rekeyed = report.rekeyed;
    let row = |component: &ComponentResult<Rewrapped>| {
        let former = component.done.former_key.as_ref().map_or_else(|| "-".to_owned(), KeyName::to_string);
        [place::shown(&args.folder, component.component.path()), component.kind.word().to_owned(), former]
    };
    table::print(["COMPONENT", "KIND", "FORMER KEY"], &rekeyed.components.iter().map(row).collect::<Vec<_>>());
    let done = if rekeyed.resumed { "Finished the interrupted rekey. " } else { "" };
    println!("{done}New key: {}", rekeyed.key);
    if let Some(hosts) = &report.hosts {
        println!("It opens on {}", describe(hosts));
    }
    rekeyed.passed_over.lines().for_each(|line| eprintln!("{}", place::advised(&args.folder, &line)));
    rekeyed.passed_over.check()
}
