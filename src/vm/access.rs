//! Access to the components of a VM folder, for work on their keys: from a process of its own while nothing else uses them,
//! or within the process of the mount that serves them.
//!
//! Such work is written once, against [`VmAccess`]. [`OfflineVm`] is the access without a mount; `serve` has the other.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::OFlags;

use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{HOME_FILE, Header, UnverifiedHeader};
use crate::key::Dek;
use crate::progress::GoOn;
use crate::provider::Providers;
use crate::seen::{Floor, Memory, Point};
use crate::storage::claims::{Claim, Claims, FileLocks};
use crate::storage::{FileStorage, Storage};
use crate::store::disk::{Disk, LockedDisk, RekeyInPlace};
use crate::sys::file::{file_beneath, regular_beneath};
use crate::text::Show;
use crate::vm::component::Component;
use crate::vm::folder;
use crate::vm::home_state::HomeState;
use crate::vm::keyring::{self, FetchedKeks};
use crate::vm::owner::Owner;
use crate::vm::scan::{self, FoundComponent};

/// One VM folder, for work on its components' keys.
pub trait VmAccess: Sync {
    /// The VM folder's path on the backing side.
    fn path(&self) -> PathBuf;

    /// What people call the VM: its folder's name.
    fn vm_name(&self) -> String {
        self.path().file_name().unwrap_or(OsStr::new("vm")).shown().to_string()
    }

    /// Where KEKs come from.
    fn providers(&self) -> Arc<Providers>;

    /// Home and disks.
    ///
    /// # Errors
    /// `Io` when the folder cannot be read, and that of `go_on`, which is asked before each name.
    fn components(&self, go_on: &GoOn<'_>) -> Result<Vec<FoundComponent>>;

    /// The DEK that verifies this header, if it is in memory already.
    fn known_dek(&self, header: &UnverifiedHeader) -> Option<Arc<Dek>>;

    /// Claims a component: until the claim is dropped nothing else changes its header, and no other process or host uses it.
    ///
    /// # Errors
    /// `Busy` when it is in use elsewhere, `ReadOnly`, `NotFound`, or `Io`.
    fn claim(&self, component: &Component) -> Result<Box<dyn Claimed + '_>>;

    /// Claims a component that nothing may use, this mount included: of a home, none of its files, nor a mount that has its
    /// keys. Needs no key.
    ///
    /// # Errors
    /// As [`claim`](Self::claim), and that of `go_on`, which is asked before each name of a home.
    fn claim_exclusive(&self, component: &Component, go_on: &GoOn<'_>) -> Result<Box<dyn Claimed + '_>>;

    /// Refuses a disk of another VM, or one that the VM does not have at this path below it, by its verified header. The home that
    /// tells is unlocked by these KEKs, or else by its own.
    ///
    /// # Errors
    /// `Corrupt`, `ReadOnly` where the list of the VM's disks has gone back, or those of unlocking the home.
    fn refuse_foreign(&self, path: &Path, disk: &Header, keks: &FetchedKeks) -> Result<()>;

    /// The home that says which disks the VM has, unlocked by these KEKs or else by its own; `None` in a folder that is not encrypted.
    ///
    /// # Errors
    /// Those of unlocking the home, or of its list.
    fn home_of_disks(&self, keks: &FetchedKeks) -> Result<Option<Owner>>;

    /// What says how far the disk at this path is at least, once it was not [refused](Self::refuse_foreign).
    fn floor(&self, path: &Path) -> Option<Arc<dyn Floor>>;

    /// Records in the home's list of disks that this one, which was not [refused](Self::refuse_foreign), is never older than this
    /// header of it, which is durable.
    ///
    /// # Errors
    /// Those of the list.
    fn note_newer(&self, path: &Path, disk: &Header) -> Result<()>;

    /// Records in the home's list of disks that the one at this path may be as old as this header of it.
    ///
    /// # Errors
    /// Those of unlocking the home, or of the list.
    fn accept_older(&self, path: &Path, disk: &Header) -> Result<()>;

    /// Wipes the keys of the component that has this header from memory.
    fn forget(&self, header: &UnverifiedHeader);

    /// Claims a disk as [`claim`](Self::claim) does, and opens it for writing, by a DEK in memory or one of the KEKs.
    ///
    /// # Errors
    /// As [`claim`](Self::claim); `KeyUnavailable`, `KeyRejected` or `Corrupt` when it does not unlock; `ReadOnly` when it has gone back.
    fn open_disk(&self, path: &Path, keks: &FetchedKeks) -> Result<Box<dyn OpenDisk + '_>>;

    /// The folder, if no guest of this process uses it.
    fn folder_if_unused(&self) -> Option<&File>;

    /// What this host has seen of components.
    fn memory(&self) -> &Arc<Memory>;

    /// Keeps a DEK in memory, where DEKs are kept.
    fn remember_dek(&self, header: &UnverifiedHeader, dek: &Dek);
}

/// A disk that is claimed and open, perhaps to guests as well.
pub trait OpenDisk: Claimed {
    /// The DEK in its slots when it was opened.
    fn dek(&self) -> &Dek;

    /// What exchanges that.
    fn deep_rekey(&self) -> &dyn RekeyInPlace;
}

/// A disk that only this process has open.
pub struct OfflineDisk<'s, S> {
    disk: Box<dyn Disk<S> + 's>,
    dek: Dek,
}

impl<'s, S: Storage + 's> OfflineDisk<'s, S> {
    /// Opens a disk whose storage is claimed.
    ///
    /// # Errors
    /// As [`VmAccess::open_disk`].
    pub fn open(place: &dyn VmAccess, path: &Path, storage: S, keks: &FetchedKeks, engine: Engine) -> Result<Self> {
        let locked = LockedDisk::open(storage)?;
        let dek = keyring::unlock(&locked.stored().header, keks)?;
        place.refuse_foreign(path, locked.stored().header.claims(), keks)?; // verified by that DEK
        let there = Point::of(&locked.stored().header, &dek)?;
        let disk = locked.unlock(&dek, engine)?;
        place.memory().meet_above(there.at(disk.rekeyed_up_to()), place.floor(path)).allow_changes()?;
        disk.prepare_writes()?;
        Ok(Self { disk, dek })
    }
}

impl<S: Storage> Claimed for OfflineDisk<'_, S> {
    fn storage(&self) -> &dyn Storage {
        self.disk.storage()
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync()
    }
}

impl<S: Storage> OpenDisk for OfflineDisk<'_, S> {
    fn dek(&self) -> &Dek {
        &self.dek
    }

    fn deep_rekey(&self) -> &dyn RekeyInPlace {
        self.disk.as_ref()
    }
}

/// A component that is claimed for as long as this lives.
pub trait Claimed: Send + Sync {
    /// Its backing file. To be synced only by [`sync`](Self::sync).
    fn storage(&self) -> &dyn Storage;

    /// Returns once all that was written is durable. Errors are also reported to the component's openers,
    /// since the kernel reports each only once.
    ///
    /// # Errors
    /// `Io`.
    fn sync(&self) -> Result<()>;

    /// Makes the next reads come from the medium, where that can be asked for.
    fn drop_cache(&self) {}
}

impl Claimed for FileStorage {
    fn storage(&self) -> &dyn Storage {
        self
    }

    fn sync(&self) -> Result<()> {
        Storage::sync(self)
    }

    fn drop_cache(&self) {
        // A file system that keeps its cache is read from that.
        let _ = rustix::fs::fadvise(self.file(), 0, None, rustix::fs::Advice::DontNeed);
    }
}

/// Where something that a person named lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    /// The VM folder; a disk that lies in none has its directory.
    pub folder: PathBuf,
    /// The component in it.
    pub component: Component,
}

impl Located {
    /// The home of a VM folder, whether it is there or not.
    ///
    /// # Errors
    /// `NotFound`, or `Io`.
    pub fn home_of(folder: &Path) -> Result<Self> {
        let folder = std::fs::canonicalize(folder).context(|| format!("finding {}", folder.shown()))?;
        Ok(Self { folder, component: Component::Home })
    }

    /// Finds the VM folder that `path` is (then the home is meant), or lies in.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` for a directory that is not an encrypted VM folder, `Corrupt` for one that has lost its home header, `Busy` for one that is partly encrypted, or `Io`.
    pub fn find(path: &Path) -> Result<Self> {
        let path = std::fs::canonicalize(path).context(|| format!("finding {}", path.shown()))?;
        if path.is_dir() {
            if path.join(HOME_FILE).symlink_metadata().is_ok() {
                return Ok(Self { folder: path, component: Component::Home });
            }
            folder::refuse_unfinished(&path)?;
            scan::refuse_lost_home(&path)?;
            let message = match scan::vm_folders(&path) {
                Some(vms) => format!("{} is a datastore, expected one of its VM folders: {vms}", path.shown()),
                None => format!("{} is not an encrypted VM folder: it contains no {HOME_FILE}", path.shown()),
            };
            return Err(Error::new(Kind::Invalid, message));
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        let folder = path
            .ancestors()
            .skip(1)
            .find(|dir| dir.join(HOME_FILE).symlink_metadata().is_ok())
            .unwrap_or(parent)
            .to_path_buf();
        let component = Component::at(path.strip_prefix(&folder).unwrap_or(&path));
        Ok(Self { folder, component })
    }
}

/// A VM folder that no mount of this user serves.
pub struct OfflineVm {
    folder: File,
    path: PathBuf,
    providers: Arc<Providers>,
    /// The home that disks are compared with, once it was unlocked for that.
    owner: OnceLock<Owner>,
    memory: Arc<Memory>,
}

impl OfflineVm {
    /// Opens a VM folder.
    ///
    /// # Errors
    /// `Corrupt` for one with two headers, of which nobody can tell which one has what; `NotFound`, `Denied`, or `Io`.
    pub fn open(folder: &Path, providers: Providers) -> Result<Self> {
        let dir = folder::open_dir(folder)?;
        HomeState::of(&dir).context(|| folder.shown().to_string())?;
        let memory = Memory::of(&providers);
        Ok(Self {
            folder: dir,
            path: folder.to_path_buf(),
            providers: Arc::new(providers),
            owner: OnceLock::new(),
            memory,
        })
    }

    /// The home, unlocked by these KEKs or else by its own; `None` in a folder that is not encrypted.
    fn owner(&self, keks: &FetchedKeks) -> Result<Option<&Owner>> {
        if let Some(owner) = self.owner.get() {
            return Ok(Some(owner));
        }
        let Some(home) = folder::read_home(&self.folder)?.map(|stored| stored.header) else { return Ok(None) };
        let by_its_own = || self.providers.fetch_all(home.claims().slots.key_ids().cloned());
        let dek = keyring::unlock(&home, keks).or_else(|_| keyring::unlock(&home, &by_its_own()))?;
        let owner = Owner::of(&self.folder, (&home.verify(&dek)?, &dek), &FileLocks, &self.memory)?;
        Ok(Some(self.owner.get_or_init(|| owner)))
    }
}

impl VmAccess for OfflineVm {
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    fn providers(&self) -> Arc<Providers> {
        Arc::clone(&self.providers)
    }

    fn components(&self, go_on: &GoOn<'_>) -> Result<Vec<FoundComponent>> {
        scan::scan_vm(&self.folder, go_on)
    }

    fn known_dek(&self, _header: &UnverifiedHeader) -> Option<Arc<Dek>> {
        None
    }

    fn claim(&self, component: &Component) -> Result<Box<dyn Claimed + '_>> {
        Ok(Box::new(claim_backing(&self.folder, component, &FileLocks)?))
    }

    fn claim_exclusive(&self, component: &Component, go_on: &GoOn<'_>) -> Result<Box<dyn Claimed + '_>> {
        claim_exclusive(&self.folder, component, &FileLocks, go_on)
    }

    fn refuse_foreign(&self, path: &Path, disk: &Header, keks: &FetchedKeks) -> Result<()> {
        let binds_disks = || {
            let home = folder::read_home(&self.folder);
            home.ok().flatten().is_none_or(|home| home.header.claims().binds_disks)
        };
        match self.owner(keks) {
            Ok(Some(owner)) => owner.refuse_foreign(disk, &[path]).and_then(|()| owner.allow_changes()),
            Ok(None) => Ok(()),
            // As before there were owners, where neither says anything of one.
            Err(error) if error.kind() == Kind::KeyUnavailable && disk.owner.is_none() && !binds_disks() => Ok(()),
            Err(error) => Err(error).context(|| "the home of the VM, which tells whether the disk is its own".into()),
        }
    }

    fn home_of_disks(&self, keks: &FetchedKeks) -> Result<Option<Owner>> {
        self.owner(keks).map(|owner| owner.cloned())
    }

    fn floor(&self, _path: &Path) -> Option<Arc<dyn Floor>> {
        self.owner.get()?.floor()
    }

    fn note_newer(&self, _path: &Path, disk: &Header) -> Result<()> {
        self.owner.get().map_or(Ok(()), |owner| owner.note_newer(disk))
    }

    fn accept_older(&self, _path: &Path, disk: &Header) -> Result<()> {
        self.owner(&FetchedKeks::new())?.map_or(Ok(()), |owner| owner.accept(disk))
    }

    fn forget(&self, _header: &UnverifiedHeader) {}

    fn open_disk(&self, path: &Path, keks: &FetchedKeks) -> Result<Box<dyn OpenDisk + '_>> {
        let storage = claim_backing(&self.folder, &Component::Disk(path.to_path_buf()), &FileLocks)?;
        Ok(Box::new(OfflineDisk::open(self, path, storage, keks, Engine::default())?))
    }

    fn folder_if_unused(&self) -> Option<&File> {
        Some(&self.folder)
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn remember_dek(&self, _header: &UnverifiedHeader, _dek: &Dek) {}
}

/// As [`VmAccess::claim_exclusive`], below an open VM folder.
///
/// # Errors
/// As [`VmAccess::claim`].
pub fn claim_exclusive(
    folder: &File,
    component: &Component,
    claims: &'static dyn Claims,
    go_on: &GoOn<'_>,
) -> Result<Box<dyn Claimed>> {
    let claimed = claim_backing(folder, component, claims)?;
    if *component == Component::Home {
        for file in scan::home_files(folder, go_on)? {
            if let Ok(open) = file_beneath(folder, &file)
                && !FileStorage::with_claims(open, claims).is_unclaimed()?
            {
                return Err(Error::new(Kind::Busy, format!("{} is open", file.shown())));
            }
        }
        claimed.claim(Claim::HomeExclusive)?;
    }
    Ok(Box::new(claimed))
}

/// Opens a component's backing file below its VM folder and claims it.
///
/// # Errors
/// As [`VmAccess::claim`].
pub fn claim_backing(folder: &File, component: &Component, claims: &'static dyn Claims) -> Result<FileStorage> {
    let path = component.header_file();
    let file = regular_beneath(folder, path, OFlags::RDWR).context(|| format!("opening {}", path.shown()))?;
    let storage = FileStorage::with_claims(file, claims);
    // A conversion may have replaced it between its opening and the claim.
    if !storage.claim_at(folder, path, Claim::Exclusive).context(|| path.shown().to_string())? {
        return Err(Error::new(Kind::Busy, format!("{} was replaced by another process", path.shown())));
    }
    Ok(storage)
}
