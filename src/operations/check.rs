//! Whether what lies at a path is intact and genuine.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::names::DiskNames;
use crate::gate::{Object, Operation, Trail};
use crate::operations::whole;
use crate::progress::OnProgress;
use crate::provider::Providers;
use crate::sys::file::{file_beneath, regular_at};
use crate::text::{self, Show};
use crate::vm::check::{Check, Finding, State};
use crate::vm::inventory::{Entry, Inventory};
use crate::vm::{folder, scan};

/// At most this many components with a problem have events of their own: forged ones must not fill the log.
const MAX_PROBLEMS: usize = 256;

/// Checks what lies at a path. An event for each component.
pub struct CheckAll<'a> {
    /// A VM folder, a datastore, or a disk.
    pub path: &'a Path,
    /// What lies there.
    pub inventory: &'a Inventory,
    /// Whether all that can prove itself is read.
    pub data: bool,
    /// Where keys come from.
    pub providers: &'a Providers,
}

/// Opens a regular file or a folder. A link is followed only where the inventory did.
fn open(path: &Path, follows: bool) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let flags = if follows { flags } else { flags | OFlags::NOFOLLOW };
    match (rustix::fs::open(path, flags, Mode::empty()), path.parent(), path.file_name()) {
        (Ok(folder), ..) => Ok(folder.into()),
        (Err(Errno::NOTDIR | Errno::LOOP), Some(parent), Some(name)) if !follows => {
            let parent = rustix::fs::open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            file_beneath(parent, Path::new(name))
        }
        (Err(Errno::NOTDIR), ..) => regular_at(path),
        (Err(error), ..) => Err(error.into()),
    }
}

impl CheckAll<'_> {
    /// What a check of the VM folder around a file says of that file; `None` for anything else. Its home tells what should be there.
    fn in_its_folder(&self) -> Result<Option<Vec<Finding>>> {
        let path = std::path::absolute(self.path).context(|| format!("resolving {}", self.path.shown()))?;
        let folder = if path.is_dir() { None } else { scan::folder_around(&path) };
        let Some(folder) = folder else { return Ok(None) };
        let below = path.strip_prefix(&folder).unwrap_or(&path);
        let dir = folder::open_dir(&folder)?;
        let mut inventory = Inventory::take(&dir, &DiskNames::default())?;
        let uuid_of = |entry: &Entry| entry.headers().and_then(|(_, headers)| headers.uuid);
        let uuid = inventory.entries.iter().find(|entry| entry.path == below).and_then(uuid_of);
        let is_home = |entry: &Entry| entry.is_own_header() && entry.component_path().as_os_str().is_empty();
        inventory.entries.retain(|entry| {
            is_home(entry) || entry.path == below || uuid.is_some_and(|uuid| uuid_of(entry) == Some(uuid))
        });
        let open = |below: &Path| {
            let path = whole(&folder, below);
            open(&path, below.as_os_str().is_empty()).context(|| format!("opening {}", path.shown()))
        };
        let findings = Check { open: &open, data: self.data, one_file: true }.run(&inventory, self.providers);
        let of_file = findings.into_iter().filter(|finding| finding.path == below);
        let findings: Vec<Finding> =
            of_file.map(|finding| Finding { path: self.path.to_path_buf(), ..finding }).collect();
        // A link may be meant that leads to a component elsewhere.
        let is_told = findings.iter().any(|finding| finding.state != State::Clear) || !path.is_symlink();
        Ok((is_told && !findings.is_empty()).then_some(findings))
    }
}

impl Operation for CheckAll<'_> {
    const NAME: EventName = EventName::Check;
    type Outcome = Vec<Finding>;

    fn object(&self) -> Object {
        Object::at(self.path.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<Finding>> {
        let links = self.inventory.links();
        let open = |below: &Path| {
            let path = whole(self.path, below);
            open(&path, below.as_os_str().is_empty() || links.contains(below))
                .context(|| format!("opening {}", path.shown()))
        };
        let mut findings = match self.in_its_folder()? {
            Some(findings) => findings,
            None => Check { open: &open, data: self.data, one_file: false }.run(self.inventory, self.providers),
        };
        if findings.is_empty() {
            let result = "not a vmcryptfs component: no header is there".to_owned();
            let state = State::Problem(Kind::Invalid);
            findings.push(Finding { path: self.path.to_path_buf(), kind: "disk", uuid: None, state, result });
        }
        trail.in_parts();
        let mut problems = 0;
        for finding in findings.iter().filter(|finding| matches!(finding.kind, "home" | "disk")) {
            let component = Object::Folder(whole(self.path, &finding.path));
            match finding.state {
                State::Problem(kind) => {
                    problems += 1;
                    if problems <= MAX_PROBLEMS {
                        trail.failed_part(&component, &Error::new(kind, finding.result.clone()));
                    }
                }
                State::Good | State::Clear | State::Erased | State::NotLookedAt => trail.part(&component, |_| {}),
            }
        }
        if let Some(others @ 1..) = problems.checked_sub(MAX_PROBLEMS) {
            let others = text::count(others, "more component has a problem", "more components have a problem");
            let error = Error::new(Kind::Corrupt, format!("and {others}"));
            trail.failed_part(&self.object(), &error);
        }
        Ok(findings)
    }
}
