//! What no door opens although its keys are in memory: disks of another VM, or of this one in another place than its home's list says,
//! and what lies in the place of a listed disk. It is found without opening any of it.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, HOME_FILE, Header};
use crate::format::members::MemberList;
use crate::key::Dek;
use crate::serve::{BackingId, ServedFolder};
use crate::store::header_area::RESTORE;
use crate::sys::file::{file_beneath, stat_at};
use crate::text::Show;
use crate::vm::owner::Owner;
use crate::vm::scan::FoundComponent;
use crate::vm::{disk, home};

/// Something that cannot be used although no key is missing.
#[derive(Debug)]
pub struct Unusable {
    /// Below the folder; a home's is its VM folder's.
    pub path: PathBuf,
    /// Of the component there, or of the disk that should be there.
    pub uuid: Uuid,
    /// What is there, and what was expected.
    pub why: Error,
    /// Whether nothing is there: the list has a disk that the folder has not.
    pub is_missing: bool,
}

impl ServedFolder {
    /// What of these components, which are all of the folder, cannot be used although it is unlocked, and what lies in the place of
    /// listed disks. Of VMs whose homes are locked nothing is known. What the memory of this host says is noted on the way.
    pub fn unusable(&self, components: &[FoundComponent]) -> Vec<Unusable> {
        let vms = components.chunk_by(|_, next| next.kind == ComponentKind::Disk);
        vms.filter_map(|vm| vm.split_first().filter(|(first, _)| first.kind == ComponentKind::Home))
            .flat_map(|(home, disks)| self.unusable_of_vm(home, disks))
            .collect()
    }

    fn unusable_of_vm(&self, home: &FoundComponent, disks: &[FoundComponent]) -> Vec<Unusable> {
        let Some((header, dek)) = self.verified(home) else { return Vec::new() };
        let listed = || -> Result<_> {
            let dir = self.dir(&home.path)?;
            let owner = self.owner(&dir, home, (&header, &dek))?;
            let list = owner.list()?;
            Ok((dir, owner, list))
        };
        let (dir, owner, list) = match listed() {
            Ok(listed) => listed,
            Err(error) if error.kind() == Kind::NotFound => return Vec::new(), // removed since it was found
            Err(why) => return vec![Unusable { path: home.path.clone(), uuid: header.uuid, why, is_missing: false }],
        };
        let mut found: Vec<Unusable> = disks.iter().filter_map(|disk| self.unusable_disk(disk, &owner)).collect();
        if let Some(list) = list {
            let places = ListedPlaces { dir: &dir, list: &list, disks, vm: &home.path };
            found.extend(places.unusable());
        }
        found
    }

    /// The owner of a VM's disks: that of a home in use, since it knows of names that are just changing.
    fn owner(&self, dir: &File, home: &FoundComponent, (header, dek): (&Header, &Dek)) -> Result<Owner> {
        let stat = stat_at(dir, HOME_FILE.as_ref()).context(|| format!("reading attributes of {HOME_FILE}"))?;
        let in_use = self.homes.get(BackingId::of_file(dir)?, (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec));
        let owner = match in_use {
            Some(home) => home.owner.clone(),
            None => Owner::of(dir, (header, dek), self.options.claims, self.keyring.memory())?,
        };
        if let Some(header) = home.unverified() {
            match owner.past_of_list().filter(|past| past.gone_back().is_some()) {
                Some(past) => self.keyring.note_list(header, Some(past)),
                None => self.keyring.forget_note_of_list(header.claims().uuid, header.place()),
            }
        }
        Ok(owner)
    }

    fn verified(&self, component: &FoundComponent) -> Option<(Header, Arc<Dek>)> {
        let header = component.unverified()?;
        let dek = self.keyring.known_dek(header)?;
        Some((header.clone().verify(&dek).ok()?, dek))
    }

    fn unusable_disk(&self, disk: &FoundComponent, owner: &Owner) -> Option<Unusable> {
        let (header, dek) = self.verified(disk)?;
        // Whether it has gone back is said beside its state. A header that is damaged is found when it is opened.
        let _ = disk.unverified().map(|header| self.keyring.past_above(header, &dek, None, owner.floor()));
        let below = self.below_vm(&disk.path);
        let refused = owner
            .refuse_foreign(&header, &[&below])
            .and_then(|()| header.shape.disk().map_or(Ok(()), |shape| shape.refuse_wrong_len(disk.cipher_len)));
        let why = refused.err().filter(|_| self.is_still_there(disk))?;
        Some(Unusable { path: disk.path.clone(), uuid: header.uuid, why, is_missing: false })
    }

    /// Whether what was found is what lies there now: names and lengths change while a folder is in use.
    fn is_still_there(&self, disk: &FoundComponent) -> bool {
        let now = file_beneath(&self.root, &disk.path).and_then(|file| Ok(rustix::fs::fstat(file)?));
        now.is_ok_and(|now| {
            disk.inode == Some((now.st_dev, now.st_ino)) && u64::try_from(now.st_size) == Ok(disk.cipher_len)
        })
    }
}

/// The paths of a home's list, beside the disks that were found.
struct ListedPlaces<'a> {
    dir: &'a File,
    list: &'a MemberList,
    disks: &'a [FoundComponent],
    /// Below the folder.
    vm: &'a Path,
}

impl ListedPlaces<'_> {
    /// What lies at listed paths and is not a disk, and which disks are nowhere.
    fn unusable(&self) -> Vec<Unusable> {
        let found: HashSet<&Path> = self.disks.iter().map(|disk| disk.path.as_path()).collect();
        let uuids: HashSet<Uuid> =
            self.disks.iter().filter_map(|disk| Some(disk.unverified()?.claims().uuid)).collect();
        let mut unusable = Vec::new();
        for (&uuid, member) in &self.list.disks {
            let paths = || member.names.iter().map(|(name, is_settled)| (name, *is_settled, self.vm.join(name)));
            let mut is_somewhere = uuids.contains(&uuid);
            for (name, is_settled, path) in paths() {
                is_somewhere |= found.contains(path.as_path());
                if found.contains(path.as_path()) || !is_settled {
                    continue;
                }
                match self.refuse_there(uuid, name) {
                    Ok(is_there) => is_somewhere |= is_there,
                    Err(why) => {
                        is_somewhere = true;
                        unusable.push(Unusable { path, uuid, why, is_missing: false });
                    }
                }
            }
            let settled = paths().find(|(_, is_settled, _)| *is_settled);
            if let Some((_, _, path)) = settled.filter(|_| !is_somewhere) {
                let why = Error::new(
                    Kind::NotFound,
                    format!(
                        "the VM's list of disks has disk {uuid} here, but there is no file: put it back, or `vmcryptfs adopt \
                         VM_FOLDER` makes a list without it"
                    ),
                );
                unusable.push(Unusable { path, uuid, why, is_missing: true });
            }
        }
        unusable.sort_by(|one, other| one.path.cmp(&other.path)); // the list has them by their UUIDs
        unusable
    }

    /// Refuses what lies at the path of a disk and was not found to be one; whether anything does.
    fn refuse_there(&self, uuid: Uuid, name: &Path) -> Result<bool> {
        let file = match file_beneath(self.dir, name) {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
            Err(error) => return Err(Error::io(self.expected(uuid, name, "what lies there cannot be opened"), error)),
        };
        if disk::is_disk(&file)? {
            return Ok(true); // it has come since the folder was looked through
        }
        if home::is_home_file(&file)? {
            self.list.refuse_home_file(name)?;
        }
        let what = format!("the file there has no header: {RESTORE}");
        Err(Error::new(Kind::Corrupt, self.expected(uuid, name, &what)))
    }

    fn expected(&self, uuid: Uuid, name: &Path, what: &str) -> String {
        format!("the VM's list of disks has disk {uuid} at {}, but {what}", name.shown())
    }
}
