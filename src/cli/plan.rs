//! What a conversion of a VM folder will do, or did: for people, and as JSON.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::{out, size, table};
use crate::error::Result;
use crate::text::advice::Places;
use crate::text::{self, Show};
use crate::vm::home_state::HomeState;
use crate::work::convert::{Action, Plan, PlannedFile};
use crate::work::space::Space;

/// Field names are part of the stable JSON output.
#[derive(Serialize)]
struct PlanInfo<'a> {
    #[serde(with = "crate::text::path")]
    folder: &'a Path,
    home: &'static str,
    home_after: &'static str,
    files: Vec<FileInfo<'a>>,
    space_needed: u64,
    space_free: u64,
    notes: &'a [String],
    obstacles: Vec<&'a str>,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    remains: Option<&'a str>,
}

#[derive(Serialize)]
struct FileInfo<'a> {
    #[serde(with = "crate::text::path")]
    path: &'a PathBuf,
    kind: &'static str,
    detail: &'static str,
    size: u64,
    plain_size: u64,
    allocated: u64,
    action: &'static str,
}

impl<'a> FileInfo<'a> {
    fn of(verb: &'static str, file: &'a PlannedFile) -> Self {
        let PlannedFile { path, kind, detail, len, plain_len, allocated, .. } = file;
        Self {
            path,
            kind,
            detail,
            size: *len,
            plain_size: *plain_len,
            allocated: *allocated,
            action: action(verb, file),
        }
    }
}

/// Prints a plan before anything is done.
pub(super) fn print(json: bool, verb: &'static str, folder: &Path, plan: &Plan) -> Result<()> {
    if json {
        return print_json(verb, folder, plan, false, None);
    }
    let row = |file: &PlannedFile| {
        [
            file.path.shown().to_string(),
            file.kind.to_owned(),
            file.detail.to_owned(),
            size::show(file.plain_len),
            size::show(file.allocated),
            action(verb, file).to_owned(),
        ]
    };
    table::print(["PATH", "KIND", "WHAT", "SIZE", "SPACE", "ACTION"], &plan.files.iter().map(row).collect::<Vec<_>>());
    match plan.state == plan.ends {
        true => println!("The home is {}, and remains so.", word(plan.state)),
        false => println!("The home is {}, and will be {}.", word(plan.state), word(plan.ends)),
    }
    print_space(plan.space);
    notes(folder, plan);
    for obstacle in &plan.obstacles {
        eprintln!("Obstacle: {}.", text::one_line(&advised(folder, &obstacle.message)));
    }
    Ok(())
}

/// Prints which space a dry run has found to be needed.
pub(super) fn print_space(Space { needed, free }: Space) {
    let free = match free {
        u64::MAX => "the file system does not say how much is".to_owned(),
        bytes => size::show(bytes),
    };
    println!("Needs {} more space; {free} available, if no quota says otherwise.", size::show(needed));
}

/// Prints what was done, after it was; `remains` is what should be known of the plaintext.
pub(super) fn print_done(
    json: bool,
    verb: &'static str,
    folder: &Path,
    plan: &Plan,
    remains: Option<&str>,
) -> Result<()> {
    if json {
        return print_json(verb, folder, plan, true, remains);
    }
    notes(folder, plan);
    let count = |kind: &str| plan.converted().filter(|file| file.kind == kind).count();
    let (disks, others) = (count("disk"), count("file") + count("link"));
    let home = match plan.state == plan.ends {
        true => String::new(),
        false => format!("home ({}), ", text::count(others, "file", "files")),
    };
    let disks = text::count(disks, "disk", "disks");
    println!("{}: {home}{disks} {verb}ed. The home is {}.", folder.shown(), word(plan.ends));
    if let Some(remains) = remains {
        eprintln!("{remains}");
    }
    Ok(())
}

fn print_json(verb: &'static str, folder: &Path, plan: &Plan, done: bool, remains: Option<&str>) -> Result<()> {
    let info = PlanInfo {
        folder,
        home: word(plan.state),
        home_after: word(plan.ends),
        files: plan.files.iter().map(|file| FileInfo::of(verb, file)).collect(),
        space_needed: plan.space.needed,
        space_free: plan.space.free,
        notes: &plan.notes,
        obstacles: plan.obstacles.iter().map(|obstacle| obstacle.message.as_str()).collect(),
        done,
        remains,
    };
    out::json(&info)
}

fn notes(folder: &Path, plan: &Plan) {
    for note in &plan.notes {
        eprintln!("Note: {}.", advised(folder, note));
    }
}

/// What is said may be about any component.
fn advised(folder: &Path, said: &str) -> String {
    Places { vm_folder: Some(folder), ..Places::default() }.put_into(said)
}

fn action(verb: &'static str, file: &PlannedFile) -> &'static str {
    match file.action {
        Action::Convert => verb,
        Action::Keep => "keep",
    }
}

fn word(state: HomeState) -> &'static str {
    match state {
        HomeState::Clear => "clear",
        HomeState::Encrypting => "encrypting",
        HomeState::Encrypted => "encrypted",
        HomeState::Decrypting => "decrypting",
    }
}
