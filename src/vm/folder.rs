//! VM folders: a directory becomes one by the home header in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, Mode, OFlags};

use crate::crypto::random;
use crate::error::{Context, Error, Kind, Result};
use crate::format::header::{ComponentKind, DECRYPTING_FILE, ENCRYPTING_FILE, HOME_FILE, Header, Shape};
use crate::format::names::DiskNames;
use crate::key::Dek;
use crate::provider::{KeyProvider, NewKey};
use crate::storage::{Access, FileStorage};
use crate::store::header_area::{self, StoredHeader};
use crate::text::Show;
use crate::vm::disk::create_component;
use crate::vm::keyring;

/// Makes an encrypted VM folder, empty, with a KEK of its own. The directory may exist if nothing is in it.
///
/// # Errors
/// `Exists` when it is an encrypted VM folder already, `Denied` when it holds files that are not encrypted,
/// `KeyUnavailable` when the provider gives no key, or `Io`.
pub fn create(path: &Path, provider: &Arc<dyn KeyProvider>) -> Result<Header> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => refuse_unless_empty(path)?,
        Err(error) => return Err(Error::io(format!("creating {}", path.shown()), error)),
    }
    let name = path.file_name().unwrap_or(OsStr::new("vm"));
    make_home(&open_dir(path)?, name, provider).map(|(header, _)| header)
}

/// Makes an encrypted VM folder in a datastore and returns its home's header and DEK. Without a key from the provider there
/// is no folder either. Permissions of the owner that `mode` lacks come on top: the header is still to be made.
///
/// # Errors
/// `Exists`, `KeyUnavailable` when the provider gives no key, or `Io`.
pub fn create_at(datastore: &File, name: &OsStr, mode: u32, provider: &Arc<dyn KeyProvider>) -> Result<(Header, Dek)> {
    rustix::fs::mkdirat(datastore, name, Mode::from_raw_mode(mode & 0o7777 | 0o700))
        .map_err(io::Error::from)
        .context(|| format!("creating VM folder {}", name.shown()))?;
    open_at(datastore, name).and_then(|dir| make_home(&dir, name, provider)).inspect_err(|_| {
        // It is empty; if it cannot be removed, the error at hand still says more.
        let _ = rustix::fs::unlinkat(datastore, name, AtFlags::REMOVEDIR);
    })
}

fn make_home(dir: &File, name: &OsStr, provider: &Arc<dyn KeyProvider>) -> Result<(Header, Dek)> {
    let new = NewHome { file: HOME_FILE, vm_name: name, label: String::new(), disk_names: DiskNames::default() };
    new.make(dir, provider).map(|(_, header, dek)| (header, dek))
}

/// A home to be made.
pub(super) struct NewHome<'a> {
    /// The file that its header gets.
    pub(super) file: &'static str,
    /// What the provider calls the key after.
    pub(super) vm_name: &'a OsStr,
    /// For people.
    pub(super) label: String,
    /// Which new files become disks.
    pub(super) disk_names: DiskNames,
}

impl NewHome<'_> {
    /// Makes a home header under a KEK of its own.
    ///
    /// # Errors
    /// `Exists`, `KeyUnavailable` when the provider gives no key, or `Io`.
    pub(super) fn make(self, dir: &File, provider: &Arc<dyn KeyProvider>) -> Result<(File, Header, Dek)> {
        let uuid = random::uuid()?;
        let purpose = NewKey { vm_name: self.vm_name.shown().to_string(), vm_uuid: uuid };
        let (key_id, kek) = provider.create_key(&purpose)?;
        let dek = random::home_dek()?;
        let header = Header {
            sequence: 1,
            uuid,
            shape: Shape::Home,
            dek_generation: 0,
            label: self.label,
            disk_names: self.disk_names,
            slots: vec![keyring::slot_for(&key_id, kek.as_ref(), &dek)?],
            transition: None,
        };
        let file = write_home(dir, self.file, &header, &dek)?;
        Ok((file, header, dek))
    }
}

/// Makes a header file of a home, durably, under a name that must be free.
///
/// # Errors
/// `Exists`, or `Io`.
pub(super) fn write_home(dir: &File, name: &str, header: &Header, dek: &Dek) -> Result<File> {
    let fill = |storage: &FileStorage| header_area::create(storage, header, dek);
    create_component(dir, OsStr::new(name), 0o600, true, fill)
}

/// Removes a VM folder in which nothing but its header is left.
///
/// # Errors
/// `ENOTEMPTY` when there is more, or `Io`.
pub fn remove_empty(datastore: &File, name: &OsStr) -> Result<()> {
    let doing = || format!("removing VM folder {}", name.shown());
    let dir = open_at(datastore, name)?;
    for entry in Dir::read_from(&dir).map_err(io::Error::from).context(doing)? {
        let entry = entry.map_err(io::Error::from).context(doing)?;
        let entry = entry.file_name().to_bytes();
        if entry != b"." && entry != b".." && entry != HOME_FILE.as_bytes() {
            return Err(Error::io(doing(), io::Error::from_raw_os_error(libc::ENOTEMPTY)));
        }
    }
    rustix::fs::unlinkat(&dir, HOME_FILE, AtFlags::empty())
        .and_then(|()| rustix::fs::unlinkat(datastore, name, AtFlags::REMOVEDIR))
        .map_err(io::Error::from)
        .context(doing)
}

fn refuse_unless_empty(path: &Path) -> Result<()> {
    let mut entries = fs::read_dir(path).context(|| format!("reading {}", path.shown()))?;
    if path.join(HOME_FILE).exists() {
        return Err(Error::new(Kind::Exists, format!("{} exists already, as an encrypted VM folder", path.shown())));
    }
    if entries.next().is_some() {
        return Err(Error::new(
            Kind::Denied,
            format!("{} holds files that are not encrypted; a new VM folder must be empty", path.shown()),
        ));
    }
    Ok(())
}

/// Opens a directory, to work below it.
///
/// # Errors
/// `NotFound`, `Denied`, or `Io` when it is no directory.
pub fn open_dir(path: &Path) -> Result<File> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map(File::from)
        .map_err(io::Error::from)
        .context(|| format!("opening folder {}", path.shown()))
}

/// Opens a directory in a directory; a symbolic link is none.
///
/// # Errors
/// As [`open_dir`].
pub fn open_at(dir: &File, name: &OsStr) -> Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map(File::from)
        .map_err(io::Error::from)
        .context(|| format!("opening folder {}", name.shown()))
}

/// How far a VM folder's home is encrypted. The name of its header says so (docs/FORMAT.md, section 1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HomeState {
    /// Not at all: there is no header.
    Clear,
    /// In part: an encryption was begun.
    Encrypting,
    /// As a whole: what a mount shows.
    Encrypted,
    /// In part: a decryption was begun.
    Decrypting,
}

impl HomeState {
    /// Name of the header file in this state.
    pub fn header_file(self) -> Option<&'static str> {
        match self {
            Self::Clear => None,
            Self::Encrypting => Some(ENCRYPTING_FILE),
            Self::Encrypted => Some(HOME_FILE),
            Self::Decrypting => Some(DECRYPTING_FILE),
        }
    }

    /// The state in which a home's header has this name.
    pub fn of_header_file(name: &OsStr) -> Option<Self> {
        let states = [Self::Encrypting, Self::Encrypted, Self::Decrypting];
        states.into_iter().find(|state| state.header_file().is_some_and(|file| name == file))
    }

    /// What to say of a home that is neither the one nor the other; `None` for the others.
    pub fn unfinished(self) -> Option<&'static str> {
        match self {
            Self::Clear | Self::Encrypted => None,
            Self::Encrypting => Some("its encryption is not finished: `vmcryptfs encrypt` goes on with it"),
            Self::Decrypting => Some("its decryption is not finished: `vmcryptfs decrypt` goes on with it"),
        }
    }
}

/// Says how far a directory's home is encrypted.
///
/// # Errors
/// `Corrupt` when two header files contradict each other, or `Io`.
pub fn home_state(dir: &File) -> Result<HomeState> {
    let mut found = HomeState::Clear;
    // In the order of their life: one that is renamed meanwhile is still seen.
    for state in [HomeState::Encrypting, HomeState::Encrypted, HomeState::Decrypting] {
        let Some(name) = state.header_file() else { continue };
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) if found != HomeState::Clear => {
                let message =
                    format!("two headers of one home, {name} and {}", found.header_file().unwrap_or_default());
                return Err(Error::new(Kind::Corrupt, message));
            }
            Ok(_) => found = state,
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(Error::io(format!("looking for {name}"), error.into())),
        }
    }
    Ok(found)
}

/// Reads the home header of a VM folder; `None` when the directory is not encrypted.
///
/// # Errors
/// As [`header_area::load`].
pub fn read_home(dir: &File) -> Result<Option<StoredHeader>> {
    read_header(dir, HOME_FILE)
}

/// Claims a VM folder's home for using its keys, and then reads its header. Until the file that is returned is closed, nobody
/// gives the home another DEK, on this host or another. `None` when the directory is not encrypted.
///
/// # Errors
/// `Busy` while someone does that, or those of [`header_area::load`].
pub fn use_home(dir: &File) -> Result<Option<(FileStorage, StoredHeader)>> {
    let Some(claim) = open_header(dir, HOME_FILE)? else { return Ok(None) };
    claim.claim_home(Access::Read)?;
    let stored = load_header(&claim, HOME_FILE)?;
    Ok(Some((claim, stored)))
}

/// Reads a home's header from a file of this name; `None` when there is none.
///
/// # Errors
/// As [`header_area::load`].
pub(super) fn read_header(dir: &File, name: &str) -> Result<Option<StoredHeader>> {
    open_header(dir, name)?.map(|storage| load_header(&storage, name)).transpose()
}

fn open_header(dir: &File, name: &str) -> Result<Option<FileStorage>> {
    // NONBLOCK keeps a fifo that was put in its place from stopping us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(file) => Ok(Some(FileStorage::new(File::from(file)))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(Error::io(format!("opening {name}"), error.into())),
    }
}

fn load_header(storage: &FileStorage, name: &str) -> Result<StoredHeader> {
    header_area::load(storage, ComponentKind::Home).context(|| format!("reading {name}"))
}
