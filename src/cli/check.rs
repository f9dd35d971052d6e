//! `check`: are the headers whole, and, as far as the keys can be had, genuine.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::{out, table};
use crate::error::{Context, Error, Kind, Result};
use crate::event::{Event, Operation};
use crate::format::header::{ComponentKind, Header, Shape, UnverifiedHeader};
use crate::key::Dek;
use crate::provider::Providers;
use crate::storage::{FileStorage, Storage};
use crate::store::disk::genuine_progress;
use crate::store::header_area::{self, OtherCopy, StoredHeader};
use crate::text::Show;
use crate::vm::deep_rekey::UnderWay;
use crate::vm::{folder, keyring, scan};

/// What to check.
#[derive(Args)]
#[command(after_help = "Example:\n  vmcryptfs check web01\n\n\
    Exit code 0: all whole and genuine. 3: something is damaged or was changed. 4: whole as far as can be told,\n\
    but a key could not be had. docs/CLI.md has the others.")]
pub(super) struct CheckArgs {
    /// A VM folder, a datastore, or a disk
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is wrong with a component, if anything.
#[derive(Serialize)]
struct Finding {
    #[serde(with = "crate::text::path")]
    path: PathBuf,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Kind>,
    result: String,
}

pub(super) fn run(args: &CheckArgs, config: &Path) -> Result<()> {
    let components = components(&args.path)?;
    let providers = Providers::load(config)?;
    let headers = components.iter().filter_map(|(_, _, opened)| opened.as_ref().ok());
    let ids = headers.flat_map(|(_, stored)| stored.header.claims().slots.iter().map(|slot| slot.key_id.clone()));
    let keks = providers.fetch_all(ids);
    let unlock = |header: &UnverifiedHeader| {
        let dek = keyring::unlock(header, &keks)?;
        header.clone().verify(&dek).map(|header| (header, dek))
    };
    let findings: Vec<Finding> = components
        .into_iter()
        .map(|(path, kind, opened)| {
            let examined = opened.and_then(|opened| examine(&opened, unlock));
            Event::of(Operation::Check).component(&path).outcome(&examined);
            finding(path, kind, examined)
        })
        .collect();
    print(args, &findings)?;
    verdict(&findings)
}

type Opened = Result<(FileStorage, StoredHeader)>;

fn components(path: &Path) -> Result<Vec<(PathBuf, ComponentKind, Opened)>> {
    let open = |path: &Path, kind: ComponentKind| -> Opened {
        let file = std::fs::File::open(path).context(|| format!("opening {}", path.shown()))?;
        let storage = FileStorage::new(file);
        let stored = header_area::load(&storage, kind)?;
        Ok((storage, stored))
    };
    if !path.is_dir() {
        return Ok(vec![(path.to_path_buf(), ComponentKind::Disk, open(path, ComponentKind::Disk))]);
    }
    let found = scan::scan(&folder::open_dir(path)?)?;
    if found.is_empty() {
        return Err(Error::new(
            Kind::Invalid,
            format!("{} is no encrypted VM folder, nor does it hold any", path.shown()),
        ));
    }
    let opened = |component: scan::FoundComponent| {
        let shown = path.join(&component.path);
        let file = match component.kind {
            ComponentKind::Home => shown.join(crate::format::header::HOME_FILE),
            ComponentKind::Disk => shown.clone(),
        };
        let opened = component.header.and_then(|_| open(&file, component.kind));
        (shown, component.kind, opened)
    };
    Ok(found.into_iter().map(opened).collect())
}

/// What is to be known of a component that is whole and genuine.
fn examine(
    opened: &(FileStorage, StoredHeader),
    unlock: impl Fn(&UnverifiedHeader) -> Result<(Header, Dek)>,
) -> Result<String> {
    let (storage, stored) = opened;
    if let OtherCopy::Damaged(error) = &stored.other {
        return Err(Error::new(
            Kind::Corrupt,
            format!(
                "one of two header copies is damaged ({}); the other serves, and the next update repairs it",
                error.chain()
            ),
        ));
    }
    let (header, dek) = unlock(&stored.header)?;
    if let Shape::Disk { data_offset, .. } = header.shape {
        let len = storage.len()?;
        if len < data_offset {
            return Err(Error::new(
                Kind::Corrupt,
                format!("the file ends at byte {len}, but its data begin at {data_offset}: it was cut off"),
            ));
        }
    }
    let Some(transition) = &header.transition else { return Ok("whole and genuine".to_owned()) };
    match header.shape {
        Shape::Home => transition.old_dek(&dek).map(drop)?,
        Shape::Disk { .. } => genuine_progress(storage, &header, transition, &dek).map(drop)?,
    }
    let under_way = UnderWay::of(storage, &header)?.map_or_else(String::new, UnderWay::describe);
    Ok(format!("whole and genuine; a deep rekey is under way, {under_way}"))
}

fn finding(path: PathBuf, kind: ComponentKind, examined: Result<String>) -> Finding {
    let (problem, result) = match examined {
        Ok(result) => (None, result),
        Err(error) => (Some(error.kind()), error.chain()),
    };
    Finding { path, kind: kind.word(), problem, result }
}

fn print(args: &CheckArgs, findings: &[Finding]) -> Result<()> {
    if args.json {
        return out::json(&findings);
    }
    let row = |finding: &Finding| {
        [
            finding.path.shown().to_string(),
            finding.kind.to_owned(),
            if finding.problem.is_none() { "ok" } else { "PROBLEM" }.to_owned(),
            finding.result.clone(),
        ]
    };
    table::print(["PATH", "KIND", "CHECK", "RESULT"], &findings.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// One exit code for many components: damage says most, a missing key least.
fn verdict(findings: &[Finding]) -> Result<()> {
    let problems: Vec<Kind> = findings.iter().filter_map(|finding| finding.problem).collect();
    let kind = [Kind::Corrupt, Kind::KeyRejected]
        .into_iter()
        .find(|kind| problems.contains(kind))
        .or_else(|| problems.iter().copied().find(|&kind| kind != Kind::KeyUnavailable))
        .or_else(|| problems.first().copied());
    match kind {
        None => Ok(()),
        Some(kind) => {
            Err(Error::new(kind, format!("{} of {} components have a problem", problems.len(), findings.len())))
        }
    }
}
