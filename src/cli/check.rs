//! `check`: are headers and home files intact, and, as far as keys are available, genuine; and is all of it encrypted.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::progress::perform;
use crate::cli::{out, place, table};
use crate::error::{Error, Kind, Result};
use crate::format::names::DiskNames;
use crate::operations::check::CheckAll;
use crate::progress::to_the_end;
use crate::provider::Providers;
use crate::text::{self, Show};
use crate::vm::check::{self, Finding, State};
use crate::vm::folder;
use crate::vm::in_use::LookedAt;
use crate::vm::inventory::{Inventory, What};
use crate::vm::scan;

/// What to check.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  vmcryptfs check web01\n  vmcryptfs check --data web01\n  vmcryptfs check --only-clear /vms\n\n\
    Looks at all folders below PATH. With the keys it proves headers, and that each home file is of its home; with --data it \
    reads all of the home files, links and extended attributes. Data of disks (XTS) has no integrity check.\n\n\
    Exit code 0: all intact and genuine; what is in the clear is named, and changes nothing, unless --only-clear asks for it: \
    then it is 7. 3: something is damaged or was changed. 4: no damage found, but a key was unavailable. \
    docs/CLI.md has the others."
)]
pub(super) struct CheckArgs {
    /// A VM folder, a datastore, or a disk
    #[arg(value_name = "PATH", value_parser = place::parser())]
    pub(super) path: PathBuf,
    /// Read everything that can prove itself
    #[arg(long)]
    data: bool,
    /// List only what is not encrypted; needs no key
    #[arg(long, conflicts_with = "data")]
    only_clear: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A finding. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct Shown {
    #[serde(with = "crate::text::path")]
    path: PathBuf,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<uuid::Uuid>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Kind>,
    result: String,
}

pub(super) fn run(args: &CheckArgs, config: &Path) -> Result<()> {
    if args.only_clear {
        return only_clear(&args.path, &disk_names(Some(config)), args.json);
    }
    let inventory = inventory_of(&args.path, &disk_names(Some(config)))?;
    let providers = Providers::load(config)?;
    let check = CheckAll { path: &args.path, inventory: &inventory, data: args.data, providers: &providers };
    let findings = perform(check)?;
    print(&args.path, &findings, args.json)?;
    verdict(&findings)
}

/// What lies at a path: a folder that holds something to look at, or one component.
///
/// # Errors
/// `Invalid` for a folder without VMs, `NotFound`, or `Io`.
pub(super) fn inventory_of(path: &Path, disk_names: &DiskNames) -> Result<Inventory> {
    let inventory = all_at(path, disk_names)?;
    refuse_home_file(path, &inventory)?;
    // What could not be looked at may be one: that is said then, by its name.
    match inventory.has_vms() || !path.is_dir() || inventory.unreadable().next().is_some() {
        true => Ok(inventory),
        false => {
            Err(Error::new(Kind::Invalid, format!("{} is not an encrypted VM folder and contains none", path.shown())))
        }
    }
}

/// A home file is nothing by itself: the key of its home opens it.
fn refuse_home_file(path: &Path, inventory: &Inventory) -> Result<()> {
    let is_one = !path.is_dir() && inventory.entries.iter().any(|entry| matches!(entry.what, What::Sealed));
    if !is_one {
        return Ok(());
    }
    let advice = match scan::folder_around(path) {
        Some(folder) => format!("name its VM folder, {}", folder.shown()),
        None => "name its VM folder; there is none around it, so it was moved, or `vmcryptfs header restore VM_FOLDER FILE --force` brings the home back".into(),
    };
    Err(Error::new(
        Kind::Invalid,
        format!("{} is a home file, which is nothing without its home: {advice}", path.shown()),
    ))
}

/// Which names are those of disks where no home says it: the usual ones without a configuration, or if that cannot be read.
pub(super) fn disk_names(config: Option<&Path>) -> DiskNames {
    let providers = config.and_then(|config| Providers::load(config).ok());
    providers.map(|providers| providers.disk_names().clone()).unwrap_or_default()
}

fn all_at(path: &Path, disk_names: &DiskNames) -> Result<Inventory> {
    match path.is_dir() {
        true => Inventory::take_with_links(&folder::open_dir(path)?, disk_names, &to_the_end),
        false => Inventory::of_file(path, disk_names),
    }
}

/// What is not encrypted, and nothing else.
///
/// # Errors
/// `Denied` when there is any, `NotFound` when there is neither that nor anything encrypted, or the kind of what could not be read.
pub(super) fn only_clear(path: &Path, disk_names: &DiskNames, json: bool) -> Result<()> {
    let inventory = &all_at(path, disk_names)?;
    let findings = check::clear(inventory);
    if json || !findings.is_empty() {
        print(path, &findings, json)?;
    }
    let clear = findings.iter().filter(|finding| finding.state == State::Clear).count();
    let looked_at = format!("looked at {}", LookedAt::of(inventory).describe());
    verdict(&findings)?;
    match clear {
        0 if !inventory.has_encrypted() => {
            Err(Error::new(Kind::NotFound, format!("nothing there is encrypted or in the clear; {looked_at}")))
        }
        0 => {
            if !json {
                println!("Everything is encrypted: {looked_at}.");
            }
            Ok(())
        }
        clear => {
            // What shows no sign may be either.
            let all = inventory.entries.iter().all(|entry| !entry.may_be_ciphertext());
            let (what, or) = (
                text::count(clear, "file or folder is", "files and folders are"),
                if all { "" } else { ", or may be" },
            );
            Err(Error::new(Kind::Denied, format!("{what} in the clear{or}; {looked_at}")))
        }
    }
}

fn print(path: &Path, findings: &[Finding], json: bool) -> Result<()> {
    let shown = |finding: &Finding| {
        let (state, problem) = match finding.state {
            State::Good => ("ok", None),
            State::Clear => ("clear", None),
            State::Erased => ("erased", None),
            State::NotLookedAt => ("not looked at", None),
            State::Problem(kind) => ("problem", Some(kind)),
        };
        let path = place::whole(path, &finding.path);
        let result = place::advised(&path, &finding.result);
        Shown { path, kind: finding.kind, uuid: finding.uuid, state, problem, result }
    };
    let shown: Vec<Shown> = findings.iter().map(shown).collect();
    if json {
        return out::json(&shown);
    }
    let row = |finding: &Shown| {
        let state = match finding.state {
            "ok" | "erased" | "not looked at" => finding.state.to_owned(),
            state => state.to_uppercase(),
        };
        [finding.path.shown().to_string(), finding.kind.to_owned(), state, finding.result.clone()]
    };
    table::print(["PATH", "KIND", "CHECK", "RESULT"], &shown.iter().map(row).collect::<Vec<_>>());
    Ok(())
}

/// One exit code for many components: damage says most, a missing key least.
fn verdict(findings: &[Finding]) -> Result<()> {
    let problem = |finding: &Finding| if let State::Problem(kind) = finding.state { Some(kind) } else { None };
    let problems: Vec<Kind> = findings.iter().filter_map(problem).collect();
    let kind = [Kind::Corrupt, Kind::KeyRejected]
        .into_iter()
        .find(|kind| problems.contains(kind))
        .or_else(|| problems.iter().copied().find(|&kind| kind != Kind::KeyUnavailable))
        .or_else(|| problems.first().copied());
    match kind {
        None => Ok(()),
        Some(kind) => {
            let checked =
                findings.iter().filter(|finding| !matches!(finding.state, State::Clear | State::NotLookedAt)).count();
            let checked = text::count(checked, "component", "components");
            let have = if problems.len() == 1 { "has" } else { "have" };
            Err(Error::new(kind, format!("{} of {checked} {have} a problem", problems.len())))
        }
    }
}
