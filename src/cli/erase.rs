//! `erase`: crypto-erase, with report.

use std::io::{BufRead, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::{out, place, size};
use crate::control::vm_task::VmTask;
use crate::error::{Context, Error, Kind, Result};
use crate::event::reader::Reader;
use crate::event::{self, EventName};
use crate::format::header::HOME_FILE;
use crate::gate::unwatched;
use crate::key::KeyName;
use crate::operations::convert::CloneVm;
use crate::sys::process;
use crate::text::{Show, quoted};
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::key_copies::KeyCopies;
use crate::vm::{folder, outer};
use crate::work::ComponentResult;
use crate::work::erase::{Erase, Erased, Overwritten};

/// At most this many files of one kind are named one by one.
const MAX_NAMED: usize = 20;

/// Arguments of `erase`.
#[derive(Args)]
#[command(after_help = "Examples:\n  vmcryptfs erase web01/old.raw\n  vmcryptfs erase web01 --yes\n\n\
    Overwrites the whole header area, reads it back, and prints what was there and what is there now. The data remains in\n\
    place, unreadable. In a VM folder the home and all disks are erased; VM_FOLDER/vmcryptfs.home means only the home.\n\
    Nothing may be using them. Only a header backup can undo this: destroy those, too.")]
pub(super) struct EraseArgs {
    /// A VM folder or a disk
    #[arg(value_name = "COMPONENT", value_parser = place::parser())]
    component: PathBuf,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The report. Field names are part of the stable JSON output.
#[derive(Serialize)]
struct EraseReport {
    #[serde(flatten)]
    erased: Erased,
    /// Where else a wrapped DEK may be.
    elsewhere: Vec<String>,
}

pub(super) fn run(args: &EraseArgs, config: &Path) -> Result<()> {
    std::fs::symlink_metadata(&args.component).context(|| format!("finding {}", args.component.shown()))?;
    refuse_unfinished(&args.component)?;
    confirm(args)?;
    process::raise_file_limit().context(|| "raising the limit on open files".into())?;
    let task = Erase { component: (!args.component.is_dir()).then_some(Component::Home) };
    let file_system = file_system(&args.component);
    let keys_left = KeysLeft::before(&args.component);
    let task = VmTask::Erase { at: args.component.clone(), task };
    let erased: Erased = task.run(config, &mut unwatched)?;
    let mut elsewhere = not_erased(&erased);
    elsewhere.extend(keys_left.places(&erased));
    if args.component.is_dir()
        && let Ok(Some((outer, _))) = outer::of(&args.component)
    {
        elsewhere.push(format!("files written here through a mount of {}, sealed under its home's key", outer.shown()));
    }
    elsewhere.push(file_system);
    elsewhere.push(
        "snapshots, backups and replicas of the datastore, and blocks that a flash medium has retired".to_owned(),
    );
    let report = EraseReport { erased, elsewhere };
    if args.json {
        out::json(&report)?;
    } else {
        print(args, &report);
    }
    Ok(())
}

/// A home between two states, and its header's file: to erase it would leave what is in the clear.
fn refuse_unfinished(component: &Path) -> Result<()> {
    let is_header = component.file_name().is_some_and(|name| HomeState::of_header_file(name).is_some());
    let folder = match (component.is_dir(), component.parent()) {
        (true, _) => component,
        (false, Some(parent)) if is_header => {
            if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            }
        }
        (false, _) => return Ok(()),
    };
    let dir = folder::open_dir(folder)?;
    let Err(error) = folder::refuse_unfinished_at(&dir) else { return Ok(()) };
    let (Some(file), Kind::Busy) = (HomeState::of(&dir)?.header_file(), error.kind()) else {
        return Err(error).context(|| folder.shown().to_string());
    };
    let why = error.chain();
    Err(Error::new(
        Kind::Busy,
        format!(
            "{}: {why}. To erase it, `vmcryptfs encrypt {}` makes all of it ciphertext first; without the key, `shred -u {}` \
             destroys the header",
            folder.shown(),
            quoted(folder),
            quoted(&folder.join(file))
        ),
    ))
}

fn confirm(args: &EraseArgs) -> Result<()> {
    if args.yes {
        return Ok(());
    }
    let name = args.component.file_name().unwrap_or(args.component.as_os_str());
    if !std::io::stdin().is_terminal() {
        return Err(Error::new(
            Kind::Invalid,
            format!("refusing to destroy {} without confirmation: pass --yes (no terminal)", name.shown()),
        ));
    }
    let what = if args.component.is_dir() { "the VM and all its disks" } else { "it" };
    eprintln!("This destroys {what} permanently. To continue, type its name ({}):", name.shown());
    let mut typed = Vec::new();
    std::io::stdin().lock().read_until(b'\n', &mut typed).context(|| "reading the answer".into())?;
    // As it is, or as it was shown.
    let typed = typed.trim_ascii();
    if typed == name.as_bytes().trim_ascii() || typed == name.shown().to_string().as_bytes() {
        Ok(())
    } else {
        Err(Error::new(Kind::Invalid, "the name does not match: nothing was done"))
    }
}

/// What lies in the folder and erasing keys does not destroy: first of all, what is readable without any.
fn not_erased(erased: &Erased) -> Vec<String> {
    let shown = |paths: &[PathBuf], what: &str| {
        let mut lines: Vec<_> = paths.iter().take(MAX_NAMED).map(|path| format!("{}: {what}", path.shown())).collect();
        if paths.len() > MAX_NAMED {
            lines.push(format!("{} more of that kind: `vmcryptfs check` lists them", paths.len() - MAX_NAMED));
        }
        lines
    };
    let mut lines = shown(&erased.in_the_clear, "in the clear, as it was");
    lines.extend(shown(&erased.headers_left, "a header, with a wrapped key of its own"));
    lines.extend(erased.unreadable.iter().map(|reason| format!("what cannot be read: {reason}")));
    lines
}

/// Where else wrapped copies of the keys are that were erased here, as far as the datastore and the event log say.
struct KeysLeft {
    /// Of the component, or in which it lies.
    folder: PathBuf,
    copies: KeyCopies,
}

impl KeysLeft {
    /// Looks at headers that are about to be erased.
    /// What is damaged is erased all the same, and then its keys are unknown.
    fn before(component: &Path) -> Self {
        let folder = Located::find(component).map_or_else(|_| component.to_path_buf(), |located| located.folder);
        Self { folder, copies: KeyCopies::of(component).unwrap_or_default() }
    }

    fn places(&self, erased: &Erased) -> Vec<String> {
        let datastore = self.folder.parent().unwrap_or(&self.folder);
        let mut places = match self.copies.within(datastore) {
            Ok(found) => found.iter().map(|(path, what)| format!("{}: {what}", datastore.join(path).shown())).collect(),
            Err(error) => vec![format!("what {} holds, which cannot be read: {}", datastore.shown(), error.chain())],
        };
        places.extend(self.recorded(erased));
        places
    }

    /// Header backups and clones that the event log knows.
    fn recorded(&self, erased: &Erased) -> Vec<String> {
        let mut places = Vec::new();
        let cloned = CloneVm::reason(&self.folder, true);
        let reader = event::settings().and_then(|settings| Reader::open(&event::place(&settings)?));
        let Ok(mut reader) = reader else { return places };
        while let Ok(Some(line)) = reader.next_line() {
            let record = line.record;
            let ours =
                erased.components.iter().any(|component| component.uuid.is_some() && component.uuid == record.uuid);
            let reason = record.reason.as_deref().unwrap_or_default();
            if !record.succeeded() {
                continue;
            }
            if ours && record.operation == EventName::HeaderBackup.word() {
                places.push(format!("a header backup of {}: {reason}", record.time));
            } else if record.operation == EventName::Clone.word() && reason == cloned {
                let clone = record.component.unwrap_or_default();
                places.push(format!("a clone with the same keys of {}: {clone}", record.time));
            }
        }
        places
    }
}

/// What the backing file system does with blocks that are overwritten.
fn file_system(path: &Path) -> String {
    // Magic numbers of statfs(2).
    const COPY_ON_WRITE: [(i64, &str); 4] =
        [(0x9123_683e, "btrfs"), (0x2fc1_2fc1, "ZFS"), (0xca45_1a4e, "bcachefs"), (0xf2f5_2010, "F2FS")];
    let path = if path.is_dir() { path.join(HOME_FILE) } else { path.to_path_buf() };
    let kind = rustix::fs::statfs(&path).map(|stat| stat.f_type);
    match COPY_ON_WRITE.iter().find(|(magic, _)| Ok(*magic) == kind) {
        Some((_, name)) => format!(
            "{name}, which writes elsewhere instead of overwriting: the old header blocks remain until they are reused"
        ),
        None => "blocks that the file system shares with reflinked copies, or has in its journal".to_owned(),
    }
}

fn print(args: &EraseArgs, report: &EraseReport) {
    for component in &report.erased.components {
        print_component(args, component);
    }
    println!("Not erased, if they exist; handle them yourself:");
    for place in &report.elsewhere {
        println!("  {place}");
    }
    let recursively = if args.component.is_dir() { " -r" } else { "" };
    println!(
        "What was erased is unreadable now, and marked so. To remove it: rm{recursively} -- {}",
        quoted(&args.component)
    );
}

fn print_component(args: &EraseArgs, component: &ComponentResult<Overwritten>) {
    println!(
        "Erased {} ({}): {} overwritten",
        place::shown(&args.component, component.component.path()),
        component.shown_uuid(),
        size::show(component.done.overwritten)
    );
    for key in component.done.keys.iter().map(KeyName::to_string) {
        println!("  wrapped by {key}");
    }
    for copy in &component.done.copies {
        println!(
            "  header copy at {}:\n    sha256 before {}\n    sha256 now    {}",
            copy.offset, copy.sha256_before, copy.sha256_after
        );
    }
}
