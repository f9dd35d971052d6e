//! `rekey --old-generations`: every VM of a datastore that has a key of a former primary key gets another one.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{RekeyArgs, exposed_to, say_exposed};
use crate::cli::progress::Shown;
use crate::cli::{out, place};
use crate::control::vm_task::VmTask;
use crate::error::{Error, Kind, Result};
use crate::key::KeyName;
use crate::operations::old_generations::{Rotations, search};
use crate::progress::{Looking, Progress};
use crate::provider::Providers;
use crate::text::{self, Show, quoted};
use crate::work::PassedOver;
use crate::work::deep_rekey::{DeepRekey, DeepRekeyed};
use crate::work::rekey::{Rekey, Rekeyed};

/// What was done. Field names are part of the stable JSON output.
#[derive(Default, Serialize)]
struct Report {
    /// What has another key now.
    rekeyed: Vec<Replaced>,
    /// What has not, and why.
    failed: Vec<Failed>,
    /// What was rekeyed and has a former key in a further slot.
    remaining: Vec<String>,
    /// What was rekeyed and has data keys that a compromised host could read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exposed: Vec<String>,
    /// Why VMs have keys of a former primary key which cannot be replaced yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    awaited: Vec<String>,
}

#[derive(Serialize)]
struct Replaced {
    path: String,
    key: KeyName,
}

#[derive(Serialize)]
struct Failed {
    path: String,
    reason: String,
    #[serde(skip)]
    kind: Kind,
}

pub(super) fn run(args: &RekeyArgs, config: &Path) -> Result<()> {
    let datastore = &args.folder;
    if datastore.is_file() {
        let (disk, folder) = (datastore.shown(), datastore.parent().filter(|parent| !parent.as_os_str().is_empty()));
        let folder = quoted(folder.unwrap_or(Path::new(".")));
        let message = format!(
            "{disk} is a file, expected a datastore or VM folder: `vmcryptfs rekey --old-generations {folder}`"
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    place::refuse_mounted(datastore)?;
    let rotations = Rotations::of(config)?;
    let mut shown = Shown::new()?;
    let looked = |shown: &mut Shown| {
        let on_progress = &mut |progress: &Progress| shown.advanced(progress);
        let looking = Looking::new(on_progress);
        search(datastore, &Providers::load(config)?, &rotations, &|| looking.tell())
    };
    let old = looked(&mut shown)?;
    let mut report = Report { awaited: old.awaited.into_iter().collect(), ..Report::default() };
    for path in old.found {
        match rekey(args, &path, config, &mut shown) {
            Ok(done) => {
                report.failed.extend(done.passed_over.lines().map(|line| failed(&path, Kind::Corrupt, line)));
                let path = path.shown().to_string();
                report.exposed.extend(done.is_exposed.then(|| path.clone()));
                report.rekeyed.push(Replaced { path, key: done.key });
            }
            Err(error) if error.kind() == Kind::Stopped => return Err(error),
            Err(error) => report.failed.push(failed(&path, error.kind(), error.chain())),
        }
    }
    report.failed.extend(old.unreadable.into_iter().map(|(path, kind, reason)| failed(&path, kind, reason)));
    let after = looked(&mut shown)?.found;
    drop(shown);
    let after: Vec<String> = after.iter().map(|path| path.shown().to_string()).collect();
    report.remaining = after.into_iter().filter(|path| report.rekeyed.iter().any(|done| done.path == *path)).collect();
    print(args, &report)
}

fn failed(path: &Path, kind: Kind, reason: String) -> Failed {
    Failed { path: path.shown().to_string(), reason, kind }
}

/// What became of one VM.
struct Done {
    key: KeyName,
    passed_over: PassedOver,
    /// Whether a compromised host could read the data keys that the new key wraps.
    is_exposed: bool,
}

fn rekey(args: &RekeyArgs, path: &Path, config: &Path, shown: &mut Shown) -> Result<Done> {
    let folder: PathBuf = path.to_path_buf();
    if args.deep {
        let task = VmTask::DeepRekey { folder, task: DeepRekey { rate: args.rate, ..DeepRekey::default() } };
        let done: DeepRekeyed = task.run(config, &mut |progress| shown.advanced(progress))?;
        return Ok(Done { key: done.key, passed_over: done.passed_over, is_exposed: false });
    }
    let exposed_to = exposed_to(path, config);
    let task = VmTask::Rekey { folder, task: Rekey::default() };
    let done: Rekeyed = task.run(config, &mut |progress| shown.advanced(progress))?;
    say_exposed(path, exposed_to.as_deref());
    Ok(Done { key: done.key, passed_over: done.passed_over, is_exposed: exposed_to.is_some() })
}

fn print(args: &RekeyArgs, report: &Report) -> Result<()> {
    if args.json {
        out::json(report)?;
    } else {
        report.rekeyed.iter().for_each(|done| println!("{}: new key {}", done.path, done.key));
        println!("{} of a former primary key.", text::count(report.rekeyed.len(), "VM had a key", "VMs had keys"));
    }
    for failed in &report.failed {
        eprintln!("{}: {}", failed.path, failed.reason);
    }
    for path in &report.remaining {
        eprintln!(
            "{path}: a further slot has a former key: `vmcryptfs key list {word}` shows it, then `vmcryptfs key remove {word} \
             --provider NAME --key KEY_ID` and `vmcryptfs key add {word} --provider NAME` replace it",
            word = quoted(Path::new(path))
        );
    }
    if report.failed.is_empty() && !report.awaited.is_empty() {
        return Err(Error::new(Kind::Denied, report.awaited.join("; ")));
    }
    report.awaited.iter().for_each(|why| eprintln!("{why}"));
    match (report.failed.first(), report.remaining.len()) {
        (Some(first), _) => {
            let objects = text::count(report.failed.len(), "object", "objects");
            Err(Error::new(first.kind, format!("{objects} could not be rekeyed, and may need a former key")))
        }
        (None, 0) => Ok(()),
        (None, left) => {
            let objects = text::count(left, "object still has a former key", "objects still have former keys");
            Err(Error::new(Kind::Exists, format!("{objects} in a further slot")))
        }
    }
}
