//! Accepting that components are older than what this host has seen of them, as those of a backup are.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::event::EventName;
use crate::format::header::{ComponentKind, HOME_FILE, StoredState};
use crate::gate::{Object, Operation, Trail};
use crate::progress::{OnProgress, to_the_end};
use crate::provider::{FetchedKeks, Providers};
use crate::seen::{Memory, Point};
use crate::storage::FileStorage;
use crate::storage::claims::FileLocks;
use crate::store::disk::genuine_progress;
use crate::store::header_area::StoredHeader;
use crate::store::home_file::HomeKeys;
use crate::sys::file::file_beneath;
use crate::text::Show;
use crate::vm::access::{Located, claim_exclusive};
use crate::vm::component::Component;
use crate::vm::home_state::HomeState;
use crate::vm::manifest::HomeTree;
use crate::vm::owner::Owner;
use crate::vm::scan::{self, FoundComponent};
use crate::vm::{folder, keyring};

/// Takes what is there of a disk, or of a home and all disks of its VM folder, for the newest. An event for each component that
/// has gone back.
pub struct AcceptRollback<'a> {
    /// As it was named.
    pub path: &'a Path,
    /// Where keys come from.
    pub providers: &'a Providers,
}

/// A component that had gone back, or a home that was not as its manifest says.
pub struct Accepted {
    /// Which one of its VM folder.
    pub component: Component,
    /// Its UUID.
    pub uuid: Uuid,
    /// What was accepted, for people.
    pub what: String,
}

impl Operation for AcceptRollback<'_> {
    const NAME: EventName = EventName::AcceptRollback;
    type Outcome = Vec<Accepted>;

    fn object(&self) -> Object {
        Object::at(self.path.to_path_buf())
    }

    fn run(self, trail: &mut Trail, _: OnProgress<'_>) -> Result<Vec<Accepted>> {
        let (folder, component) = self.located()?;
        let dir = folder::open_dir(&folder)?;
        let meant = |found: &FoundComponent| match &component {
            Component::Home => !found.is_erased(),
            Component::Disk(path) => found.path == *path,
        };
        let mut found: Vec<FoundComponent> = scan::scan_vm(&dir, &to_the_end)?.into_iter().filter(meant).collect();
        scan::each_file_once(&mut found);
        if found.is_empty() {
            return Err(Error::new(Kind::NotFound, format!("{} is not an encrypted disk", self.path.shown())));
        }
        let home = home_header(&dir);
        let ids = found.iter().filter_map(FoundComponent::unverified).chain(home.iter().map(|home| &home.header));
        let keks = self.providers.fetch_all(ids.flat_map(|header| header.claims().slots.key_ids().cloned()));
        let memory = Memory::of(self.providers);
        let (owner, no_list) = home.as_ref().map_or((None, None), |home| owner(&dir, home, &keks, &memory));
        let mut accepted = Vec::new();
        trail.in_parts();
        for found in found {
            let component = found.component();
            let stored = match component {
                Component::Home => home_header(&dir),
                Component::Disk(_) => found.header,
            }
            .context(|| component.to_string())?;
            let open = || file_beneath(&dir, component.header_file()).context(|| "opening it".into());
            let there = point(&stored, &keks, open).context(|| component.to_string())?;
            let mut what = Vec::new();
            if let Some(gone_back) = memory.gone_back(&there) {
                memory.accept(&gone_back)?;
                what.push(gone_back.describe());
            }
            if let (Component::Disk(_), Some(owner)) = (&component, &owner)
                && let Some(gone_back) = owner.gone_back(&there).context(|| component.to_string())?
            {
                owner.accept(&stored.verify_least(&keyring::unlock(&stored.header, &keks)?)?)?;
                what.push(gone_back.describe());
            }
            if component == Component::Home {
                let list = owner.as_ref().map(Owner::accept_list).transpose().context(|| "its list of disks".into())?;
                what.extend(list.flatten().map(|gone_back| gone_back.describe()));
                what.extend(accept_manifest(&dir, &stored, &keks, &memory).context(|| "its manifest".into())?);
            }
            if what.is_empty() {
                continue;
            }
            let (uuid, what) = (there.uuid(), what.join("; "));
            trail.part(&Object::component(&folder, component.path()), |event| {
                event.uuid(uuid).reason(what.clone());
            });
            accepted.push(Accepted { component, uuid, what });
        }
        // What could be accepted is; what the list says of it was not looked at.
        no_list.map_or(Ok(accepted), |error| Err(error).context(|| "the home, which lists the VM's disks".into()))
    }
}

impl AcceptRollback<'_> {
    /// The VM folder and what is meant of it. A folder may be half encrypted: its home has a header, too.
    fn located(&self) -> Result<(PathBuf, Component)> {
        match Located::find(self.path) {
            Ok(Located { folder, component }) => Ok((folder, component)),
            Err(error) if error.kind() == Kind::Busy && self.path.is_dir() => {
                Ok((self.path.to_path_buf(), Component::Home))
            }
            Err(error) => Err(error),
        }
    }
}

/// Takes what is there of a home for what was left. A mount that has it in use closes its manifest later.
fn accept_manifest(
    dir: &File,
    stored: &StoredHeader,
    keks: &FetchedKeks,
    memory: &Arc<Memory>,
) -> Result<Option<String>> {
    let dek = keyring::unlock(&stored.header, keks)?;
    let header = stored.header.clone().verify(&dek)?;
    let keys = HomeKeys::of(&header, &dek)?;
    let tree = HomeTree { dir, header: &header, keys: &keys, memory, go_on: &to_the_end };
    let is_decrypting = header.state == Some(StoredState::Decrypting); // its manifest says of the rest what it is
    if !tree.is_kept() || (!is_decrypting && HomeState::Encrypted.refuse_unfinished(&header).is_err()) {
        return Ok(None);
    }
    let alone = claim_exclusive(dir, &Component::Home, &FileLocks, &to_the_end);
    tree.accept(alone.is_err())
}

/// The header of a home in whatever state.
fn home_header(dir: &File) -> Result<StoredHeader> {
    let name = HomeState::of(dir)?.header_file().unwrap_or(HOME_FILE);
    folder::read_header(dir, name)?.ok_or_else(|| Error::new(Kind::NotFound, format!("{name} is gone")))
}

/// What says of the disks of a home how far they are at least; or why it is not known, if the home has a list of its disks.
fn owner(dir: &File, home: &StoredHeader, keks: &FetchedKeks, memory: &Arc<Memory>) -> (Option<Owner>, Option<Error>) {
    let opened = keyring::unlock(&home.header, keks)
        .and_then(|dek| Owner::of(dir, (&home.header.clone().verify(&dek)?, &dek), &FileLocks, memory));
    match opened {
        Ok(owner) => (Some(owner), None),
        Err(error) => (None, Some(error).filter(|_| home.header.claims().lists_disks)),
    }
}

/// How far a component is, proven with its key.
fn point(stored: &StoredHeader, keks: &FetchedKeks, open: impl FnOnce() -> Result<File>) -> Result<Point> {
    let dek = keyring::unlock(&stored.header, keks)?;
    let header = stored.header.clone().verify(&dek)?;
    let cursor = match &header.transition {
        Some(transition) if header.shape.kind() == ComponentKind::Disk => {
            Some(genuine_progress(&FileStorage::new(open()?), &header, transition, &dek)?)
        }
        Some(_) | None => None,
    };
    Ok(Point::of(&stored.header, &dek)?.at(cursor))
}
