//! Disks as files of a VM folder: recognising, opening and making them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::Mode;
use uuid::Uuid;

use crate::crypto::random;
use crate::crypto::xts::Engine;
use crate::error::{Context, Error, Result};
use crate::format::disk_kind::DiskShape;
use crate::format::header::{ComponentKind, Header, PREFIX_LEN, Shape, component_kind};
use crate::key::{Dek, Kek, KeyId};
use crate::sector::{self, SectorSize};
use crate::seen::Past;
use crate::storage::claims::Claim;
use crate::storage::{Access, BackingIo, FileStorage, Storage};
use crate::store::disk::{self as store, Disk, LockedDisk};
use crate::store::header_area;
use crate::sys::file::{readable, stat_at};
use crate::text::Show;
use crate::vm::draft::{Draft, taken};
use crate::vm::keyring::{self, Keyring};
use crate::vm::owner::Owner;

/// Whether a file is a disk: by its content, never by its name.
///
/// # Errors
/// `Io`.
pub fn is_disk(file: &File) -> Result<bool> {
    ComponentKind::Disk.copy_offsets().into_iter().try_fold(false, |found, offset| {
        let mut prefix = [0; PREFIX_LEN];
        let read = file.read_at(&mut prefix, offset).context(|| "reading the beginning of the file".into())?;
        Ok(found || (read == PREFIX_LEN && component_kind(&prefix) == Some(ComponentKind::Disk)))
    })
}

/// Claims a disk's backing file and unlocks it, and says what this host has seen of it. Others may write what is only read here,
/// unless a deep rekey is not finished. It lies at `paths` below the VM folder. Where there is no way past the page cache, its storage says why.
///
/// # Errors
/// `Busy` when another opener has it, `KeyUnavailable` when it is locked, `Corrupt` when it is damaged or of another VM, `ReadOnly`
/// for one that has gone back and is to be written.
pub fn open(
    mut storage: FileStorage,
    access: Access,
    (keyring, owner, paths): (&Keyring, &Owner, &[&Path]),
    engine: Engine,
    backing_io: BackingIo,
) -> Result<(Box<dyn Disk<FileStorage>>, Past)> {
    storage.claim(Claim::in_use(access, false))?;
    if backing_io == BackingIo::Direct {
        storage.bypass_cache();
    }
    let locked = LockedDisk::open(storage)?;
    let header = locked.stored().header.clone();
    let dek = keyring.dek(&header)?;
    owner.refuse_foreign(header.claims(), paths)?; // verified by that DEK
    let disk = locked.unlock(&dek, engine)?;
    let past = keyring.past_above(&header, &dek, disk.rekeyed_up_to(), owner.floor())?;
    if access == Access::Write {
        past.allow_changes()?;
        owner.allow_changes()?; // which disk belongs here is not sure
    }
    if disk.is_in_transition() {
        disk.storage().claim(Claim::in_use(access, true))?;
    }
    Ok((disk, past))
}

/// What a new disk will be.
#[derive(Clone, Debug)]
pub struct NewDisk {
    /// The home that it belongs to; `None` if that is not known.
    pub owner: Option<Uuid>,
    /// Unit of encryption.
    pub sector_size: SectorSize,
    /// Length in bytes; all of it a hole.
    pub plain_len: u64,
    /// For people.
    pub label: String,
    /// Permission bits of the backing file.
    pub mode: u32,
    /// Whether it must survive a crash from now on, or only from its first sync on.
    pub durable: bool,
}

/// Makes a disk in a directory under a name that must be free, and returns its backing file with its DEK. A crash leaves
/// no disk or a whole one. Before it has that name `announce` is told of its header.
///
/// # Errors
/// Those of `announce`.
/// `Exists`, `KeyUnavailable` when the KEK may not wrap, `Unsupported` for one that is longer than one key may encrypt, or `Io`.
pub fn create(
    dir: &File,
    name: &OsStr,
    new: &NewDisk,
    (key_id, kek): (&KeyId, &dyn Kek),
    announce: impl FnOnce(&Header) -> Result<()>,
) -> Result<(File, Header, Dek)> {
    sector::refuse_too_long(new.plain_len)?;
    let (header, dek) = new_header(new.sector_size, new.label.clone(), new.owner, key_id, kek)?;
    let file = create_component(dir, name, new.mode, new.durable, |storage| {
        store::create(storage, &header, &dek)?;
        storage.set_len(DiskShape::new(new.sector_size).backing_len(new.plain_len))?;
        refuse_taken(dir, name)?; // before anything is announced
        announce(&header)
    })?;
    Ok((file, header, dek))
}

fn refuse_taken(dir: &File, name: &OsStr) -> Result<()> {
    let doing = || format!("creating {}", name.shown());
    match stat_at(dir, name) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(doing(), error)),
        Ok(_) => Err(taken(name)).context(doing),
    }
}

/// Makes a disk of length 0 in an empty backing file, and returns its DEK. A crash leaves an empty file, an empty disk, or what is
/// taken for a home file of zeros. Before that `announce` is told of its header.
///
/// # Errors
/// `KeyUnavailable` when the KEK may not wrap, or `Io`; then the file is empty as before.
pub fn create_in_place(
    storage: &FileStorage,
    owner: Uuid,
    (key_id, kek): (&KeyId, &dyn Kek),
    announce: impl FnOnce(&Header) -> Result<()>,
) -> Result<(Header, Dek)> {
    let (header, dek) = new_header(SectorSize::DEFAULT, String::new(), Some(owner), key_id, kek)?;
    announce(&header)?;
    if let Err(error) = store::create_in_place(storage, &header, &dek) {
        storage.set_len(0).context(|| format!("emptying a file again after: {}", error.chain()))?;
        return Err(error);
    }
    Ok((header, dek))
}

fn new_header(
    sector_size: SectorSize,
    label: String,
    owner: Option<Uuid>,
    key_id: &KeyId,
    kek: &dyn Kek,
) -> Result<(Header, Dek)> {
    let dek = random::disk_dek()?;
    let shape = Shape::Disk(DiskShape::new(sector_size));
    let header = Header::new(random::uuid()?, shape, label, keyring::slot_for(key_id, kek, &dek)?);
    Ok((Header { owner, ..header }, dek))
}

/// Makes a file complete under a temporary name, then gives it its own name without replacing anything.
pub(super) fn create_component(
    dir: &File,
    name: &OsStr,
    mode: u32,
    durable: bool,
    fill: impl FnOnce(&FileStorage) -> Result<()>,
) -> Result<File> {
    let doing = || format!("creating {}", name.shown());
    let draft = Draft::new(dir, "")?;
    let storage = FileStorage::new(draft.make_file(Mode::from_raw_mode(mode & 0o7777)).context(doing)?);
    fill(&storage)?;
    if durable {
        storage.sync()?;
    }
    draft.publish(name).context(doing)?;
    if durable {
        dir_sync(dir, storage.file()).context(doing)?;
    }
    Ok(storage.into_file())
}

/// Makes the name of a new file durable. The directory may be open for names only, and closed to readers.
fn dir_sync(dir: &File, file: &File) -> Result<()> {
    let synced = match readable(dir) {
        Ok(dir) => rustix::fs::fsync(dir),
        Err(_) => rustix::fs::syncfs(file),
    };
    synced.context(|| "syncing the directory".into())
}

/// Reads a disk's header from its open backing file, without a claim.
///
/// # Errors
/// As [`header_area::load`].
pub fn read_header(file: File) -> Result<(FileStorage, header_area::StoredHeader)> {
    let storage = FileStorage::new(file);
    let stored = header_area::load(&storage, ComponentKind::Disk)?;
    Ok((storage, stored))
}
