//! Erasing components, and where else their keys are.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::control::vm_task::VmTask;
use crate::error::{Context, Error, Kind, Result};
use crate::event::reader::Reader;
use crate::event::{self, EventName, Record};
use crate::format::header::HOME_FILE;
use crate::gate::unwatched;
use crate::operations::convert::CloneVm;
use crate::operations::whole;
use crate::text::{self, Show, quoted};
use crate::vm::access::Located;
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::key_copies::KeyCopies;
use crate::vm::{folder, outer};
use crate::work::ComponentResult;
use crate::work::erase::{Erase, Erased, Overwritten};

/// At most this many files of one kind are named one by one.
const MAX_NAMED: usize = 20;

/// The report. Field names are part of the stable JSON output.
#[derive(Serialize)]
pub struct EraseReport {
    /// What was erased.
    #[serde(flatten)]
    pub erased: Erased,
    /// Where else a wrapped DEK may be.
    pub elsewhere: Vec<String>,
}

/// Erases a disk, or a VM folder with all that it holds. The operation is that of the process that serves the folder.
///
/// # Errors
/// Those of [`Erase::run`], or `Io`.
pub fn erase(at: &Path, config: &Path) -> Result<EraseReport> {
    let task = Erase { component: (!at.is_dir()).then_some(Component::Home) };
    let file_system = file_system(at);
    let keys_left = KeysLeft::before(at);
    let task = VmTask::Erase { at: at.to_path_buf(), task };
    let erased: Erased = task.run(config, &mut unwatched)?;
    let mut elsewhere = not_erased(&erased);
    elsewhere.extend(keys_left.places(&erased));
    if at.is_dir()
        && let Ok(Some((outer, _))) = outer::of(at)
    {
        elsewhere.push(format!("files written here through a mount of {}, sealed under its home's key", outer.shown()));
    }
    elsewhere.push(file_system);
    elsewhere.push(
        "snapshots, backups and replicas of the datastore, and blocks that a flash medium has retired".to_owned(),
    );
    Ok(EraseReport { erased, elsewhere })
}

/// Refuses a home between two states, and its header's file: to erase it would leave what is in the clear.
///
/// # Errors
/// `Busy`, or `Io`.
pub fn refuse_unfinished(component: &Path) -> Result<()> {
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
    // A state that is not in the header is believed only on request.
    let is_by_name = folder::read_home_of_any_state(&dir)?.is_some_and(|home| home.header.claims().state.is_none());
    Err(Error::new(
        Kind::Busy,
        format!(
            "{}: {why}. To erase it, `vmcryptfs encrypt{} {}` makes all of it ciphertext first; without the key, `shred -u {}` \
             destroys the header, and leaves readable what is in the clear",
            folder.shown(),
            if is_by_name { " --resume-by-name" } else { "" },
            quoted(folder),
            quoted(&folder.join(file))
        ),
    ))
}

/// What lies in the folder and erasing keys does not destroy: first of all, what is readable without any.
fn not_erased(erased: &Erased) -> Vec<String> {
    let shown = |paths: &[PathBuf], what: &str| {
        let mut lines: Vec<_> = paths.iter().take(MAX_NAMED).map(|path| format!("{}: {what}", path.shown())).collect();
        if paths.len() > MAX_NAMED {
            lines
                .push(format!("{} more of that kind: `vmcryptfs check VM_FOLDER` lists them", paths.len() - MAX_NAMED));
        }
        lines
    };
    let (no_sign, clear): (Vec<_>, Vec<_>) =
        erased.in_the_clear.iter().cloned().partition(|path| erased.no_sign.contains(path));
    let mut lines = shown(&clear, "in the clear, as it was");
    lines.extend(shown(&no_sign, "as it was: a disk in the clear, or one whose header was overwritten before"));
    lines.extend(shown(&erased.headers_left, "a header, with a wrapped key of its own"));
    lines.extend(erased.unreadable.iter().map(|reason| format!("what cannot be read: {reason}")));
    lines
}

/// Where else wrapped copies of the keys are that were erased here, as far as the datastore and the event log say.
struct KeysLeft {
    /// Of the component, or in which it lies.
    folder: PathBuf,
    /// The same as it was named.
    named: PathBuf,
    copies: KeyCopies,
}

impl KeysLeft {
    /// Looks at headers that are about to be erased.
    /// What is damaged is erased all the same, and then its keys are unknown.
    fn before(component: &Path) -> Self {
        let folder = Located::find(component).map_or_else(|_| component.to_path_buf(), |located| located.folder);
        let of_folder = if component.is_dir() { component } else { component.parent().unwrap_or(component) };
        let named = std::path::absolute(of_folder).unwrap_or_else(|_| of_folder.to_path_buf());
        Self { folder, named, copies: KeyCopies::of(component).unwrap_or_default() }
    }

    /// Whether an event is about a component that was erased: by its UUID, or where no copy of its header told that, by its place.
    fn is_about(&self, erased: &ComponentResult<Overwritten>, record: &Record) -> bool {
        if erased.uuid.is_some() {
            return erased.uuid == record.uuid;
        }
        let at = |folder: &Path| {
            let whole: PathBuf = folder.join(erased.component.path()).components().collect();
            record.component.as_deref() == Some(&*text::path::to_text(&whole))
        };
        at(&self.folder) || at(&self.named)
    }

    fn places(&self, erased: &Erased) -> Vec<String> {
        let datastore = self.folder.parent().unwrap_or(&self.folder);
        let mut places = match self.copies.within(datastore) {
            Ok(found) => found.iter().map(|(path, what)| format!("{}: {what}", datastore.join(path).shown())).collect(),
            Err(error) => vec![format!("what {} holds, which cannot be read: {}", datastore.shown(), error.chain())],
        };
        places.extend(self.recorded(erased));
        let unknown = erased.components.iter().filter(|component| component.uuid.is_none());
        places.extend(unknown.map(|component| {
            format!(
                "saved headers and copies of {}: its header was damaged, so only those are known that were made at this place",
                whole(&self.folder, component.component.path()).shown()
            )
        }));
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
            let ours = erased.components.iter().any(|component| self.is_about(component, &record));
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
