//! A VM folder's home: its header and keys, and its files.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use uuid::Uuid;

use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{COPY_LEN, ComponentKind, DEFAULT_DATA_OFFSET, Header};
use crate::format::home_file::{FileId, HEADER_LEN, decode_header, is_home_file as begins_home_file};
use crate::format::names::DiskNames;
use crate::seen::Past;
use crate::storage::claims::{Claim, Claims};
use crate::storage::{FileStorage, Storage};
use crate::store::home_file::{self, HomeFile, HomeKeys, Value};
use crate::text::Show;
use crate::vm::keyring::Keyring;
use crate::vm::manifest::Keeper;
use crate::vm::owner::Owner;
use crate::vm::{clear, folder};

/// An unlocked home, claimed for use: as long as this lives its DEK stays what it is.
pub struct Home {
    /// Its verified header.
    pub header: Header,
    /// What its files are sealed with.
    pub keys: HomeKeys,
    /// Whether anything of it may be changed, by what this host has seen of it.
    pub past: Past,
    /// What its disks are compared with.
    pub owner: Owner,
    /// What its manifest is opened by before a change, if it has one.
    pub keeper: Option<Keeper>,
    /// The header's file, which holds the claim.
    _claim: FileStorage,
}

impl Home {
    /// Claims and unlocks the home of a VM folder.
    ///
    /// # Errors
    /// `NotFound`, `Busy` while its DEK is exchanged, those of [`Keyring::dek`], or of reading the header.
    pub fn open(dir: &File, claims: &'static dyn Claims, keyring: &Keyring) -> Result<Self> {
        let (claim, stored) = folder::use_home(dir, claims)?
            .ok_or_else(|| Error::new(Kind::NotFound, "the VM folder's header is gone"))?;
        let dek = keyring.dek(&stored.header)?;
        let header = stored.header.clone().verify(&dek)?;
        let past = keyring.past(&stored.header, &dek, None)?;
        let owner = Owner::of(dir, (&header, &dek), claims, keyring.memory())?;
        keyring.note_list(&stored.header, owner.past_of_list());
        Ok(Self { keys: HomeKeys::of(&header, &dek)?, header, past, owner, keeper: None, _claim: claim })
    }

    /// Called before a change of the home's names, files or values.
    ///
    /// # Errors
    /// `ReadOnly` in a home that has gone back, or `Io` when its manifest cannot be opened.
    pub fn allow_changes(&self) -> Result<()> {
        self.past.allow_changes()?;
        self.owner.allow_changes()?;
        self.keeper.as_ref().map_or(Ok(()), |keeper| keeper.will_change(&self.header, &self.keys))
    }
}

/// Whether a file begins as a home file does, of whatever home.
///
/// # Errors
/// `Io`.
pub fn is_home_file(file: &File) -> Result<bool> {
    let mut prefix = [0; 8];
    let read = file.read_at(&mut prefix, 0).context(|| "reading its beginning".into())?;
    Ok(begins_home_file(&prefix[..read]))
}

/// Claims a home file's backing file and opens it; `name` gives its path below the mount.
///
/// # Errors
/// `Busy` when another opener has it, `Corrupt` for a file that this home did not write.
pub fn open(
    storage: FileStorage,
    claim: Claim,
    keys: &HomeKeys,
    disk_names: &DiskNames,
    name: impl FnOnce() -> String,
) -> Result<HomeFile<FileStorage>> {
    storage.claim(claim)?;
    let home_file = HomeFile::open(storage, keys)?;
    // Zeros in place of a header: lost in a crash, or what many a disk in the clear begins with, which a first write would
    // clear as a whole.
    if home_file.has_lost_header() && !is_begun_disk(&home_file)? && is_clear_disk(&home_file, disk_names, &name())? {
        return Err(Error::new(Kind::Corrupt, "a disk in the clear: it is not served through a mount"));
    }
    Ok(home_file)
}

/// Whether there is nothing in the file but what a crash may leave of a disk that was being made in it.
fn is_begun_disk(file: &HomeFile<FileStorage>) -> Result<bool> {
    let [first, second] = ComponentKind::Disk.copy_offsets().map(|offset| offset + COPY_LEN as u64);
    let storage = file.storage();
    let mut mark = [0; 512];
    storage.read_at(0, &mut mark)?;
    Ok(mark == [0; 512]
        && storage.len()? <= DEFAULT_DATA_OFFSET
        && storage.seek_data(first)?.is_none_or(|data| data >= second - COPY_LEN as u64)
        && storage.seek_data(second)?.is_none())
}

fn is_clear_disk(file: &HomeFile<FileStorage>, disk_names: &DiskNames, path: &str) -> Result<bool> {
    let name = Path::new(path).file_name().unwrap_or_default();
    Ok(clear::kind_of(file.storage().file(), name, disk_names)?.is_disk())
}

/// Makes an empty home file under a name that must be free. Its header comes with its first byte: an empty file is a valid
/// one, so no crash leaves half of one.
///
/// # Errors
/// `Exists`, or `Io`.
pub fn create(dir: &File, name: &OsStr, mode: u32) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(mode & 0o7777))
        .map(File::from)
        .context(|| format!("creating {}", name.shown()))
}

/// The id that an extended attribute of a home file is bound to; `None` before the file has one. Not verified: under a
/// forged id no value opens.
///
/// # Errors
/// `Corrupt` for a file that no home wrote, or `Io`.
pub fn file_id(file: &File) -> Result<Option<FileId>> {
    let mut header = [0; HEADER_LEN];
    let read = file.read_at(&mut header, 0).context(|| "reading the file's header".into())?;
    Ok(if read == 0 { None } else { decode_header(&header)?.map(|header| header.claimed_id()) })
}

/// What an extended attribute of a disk is bound to.
pub fn disk_id(uuid: Uuid) -> FileId {
    FileId(uuid.into_bytes())
}

/// Seals an extended attribute's value, bound to its name and to the file's id, if it has one.
///
/// # Errors
/// `E2BIG`, or those of [`Home::allow_changes`].
pub fn seal_xattr(home: &Home, file: Option<FileId>, name: &OsStr, value: &[u8]) -> Result<Vec<u8>> {
    home.allow_changes()?;
    home_file::seal_value(&home.keys, &Value::Xattr { file, name: name.as_bytes() }, value)
}

/// Opens what [`seal_xattr`] made.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn open_xattr(home: &Home, file: Option<FileId>, name: &OsStr, sealed: &[u8]) -> Result<Vec<u8>> {
    home_file::open_value(&home.keys, &Value::Xattr { file, name: name.as_bytes() }, sealed)
}

/// Seals a symbolic link's target.
///
/// # Errors
/// `ENAMETOOLONG`, or those of [`Home::allow_changes`].
pub fn seal_target(home: &Home, target: &Path) -> Result<String> {
    home.allow_changes()?;
    home_file::seal_target(&home.keys, target.as_os_str().as_bytes())
}

/// Opens what [`seal_target`] made.
///
/// # Errors
/// `Corrupt` for anything else.
pub fn open_target(home: &Home, stored: &[u8]) -> Result<OsString> {
    home_file::open_target(&home.keys, stored).map(OsString::from_vec)
}

/// Length of a symbolic link's target, by that of its stored form.
pub fn target_len(stored_len: u64) -> u64 {
    usize::try_from(stored_len).map_or(0, |len| home_file::target_len(len) as u64)
}
